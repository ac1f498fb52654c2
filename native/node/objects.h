// Relocatable objects for TypeScript; what can fail returns an error's number, as all native functions do.
#pragma once

#include <napi.h>

#include "node/arena_handle.h"

namespace jit_arena::node {

// readObject(bytes) → a handle, which the functions below take first.
Napi::Value ReadLoadedObject(const Napi::CallbackInfo& info);
// countsOfObject(object) → how many symbols, asked and reasons there are.
Napi::Value CountsOfObject(const Napi::CallbackInfo& info);
// askedOfObject(object, i) → { name, weak, defined }.
Napi::Value AskedOfObject(const Napi::CallbackInfo& info);
// answerForObject(object, i, address: bigint), or (object, i, id: number, section, offset).
Napi::Value AnswerForObject(const Napi::CallbackInfo& info);
// resolveObject(object): once, behind the answers.
Napi::Value ResolveObject(const Napi::CallbackInfo& info);
// symbolOfObject(object, i) → an ObjectSymbol.
Napi::Value SymbolOfObject(const Napi::CallbackInfo& info);
// reasonOfObject(object, i) → text.
Napi::Value ReasonOfObject(const Napi::CallbackInfo& info);
// findInObject(object, name) → { executor, section, offset, entry? }.
Napi::Value FindInObject(const Napi::CallbackInfo& info);

// Of the arena: installObject(object, movable, name, constructors) → ids; movable and name may be undefined.
Result<Napi::Value> InstallObject(ArenaHandle& handle, const Napi::CallbackInfo& info);
// runResolver(object, ids, i): calls it, and keeps its result.
Result<Napi::Value> RunResolver(ArenaHandle& handle, const Napi::CallbackInfo& info);
// runConstructor(object, ids, i): calls it.
Result<Napi::Value> RunConstructor(ArenaHandle& handle, const Napi::CallbackInfo& info);
// runAtEnd(object, ids) → true when there was one more function to call, and it was called.
Result<Napi::Value> RunAtEnd(ArenaHandle& handle, const Napi::CallbackInfo& info);
// freeObject(object, ids).
Status FreeObject(ArenaHandle& handle, const Napi::CallbackInfo& info);

}  // namespace jit_arena::node
