// An arena as one environment holds it: the arena, this thread's pin, and what JavaScript has bound to it.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "core/arena.h"
#include "node/environment.h"

namespace jit_arena::node {

// A JavaScript function that machine code can call. Lives until its arena ends, so that machine code that still holds
// its address finds a thunk that answers.
struct Callback {
  ArenaHandle* handle;
  uint64_t address = 0;
  Napi::FunctionReference function;  // TypeScript's wrapper: reads arguments from the mailbox, writes the result
  bool disposed = false;
};

// The JavaScript object with the arena's native functions owns the handle: its finalizer drops it, if the arena has
// been disposed of. An arena that has not is kept until the environment ends, since its addresses may be in use where
// the garbage collector does not look.
class ArenaHandle {
 public:
  ArenaHandle(Environment* environment, std::unique_ptr<Arena> arena)
      : environment(environment), arena(std::move(arena)), pin(this->arena->reclaimer().Attach()) {}

  bool pinned() const { return arena != nullptr && pin->depth != 0; }

  // Null after dispose; every function looks first.
  Environment* environment;
  std::unique_ptr<Arena> arena;
  PinSlot* pin;
  std::vector<std::unique_ptr<Callback>> callbacks;
  bool finalized = false;
};

// The object of native functions for a new arena, or undefined with the error remembered.
Napi::Value CreateArena(const Napi::CallbackInfo& info);

// node/calls.cc: bind(id, entry) → a function without arguments that calls the executor with what the mailbox says.
Napi::Value Bind(const Napi::CallbackInfo& info);
// node/callbacks.cc: callback(wrapper) → address; disposeCallback(address).
Napi::Value AddCallback(const Napi::CallbackInfo& info);
Napi::Value DisposeCallback(const Napi::CallbackInfo& info);

// node/exits.cc. Positions in the mailbox's numbers[] for run and its kin; ts/native.ts names the same ones.
enum RunNumber : int { kRunId = 0, kRunEntry = 1, kRunExit = 1, kRunHot = 2 };
napi_value Run(napi_env env, napi_callback_info info);
Napi::Value Link(const Napi::CallbackInfo& info);
Napi::Value Unlink(const Napi::CallbackInfo& info);
Napi::Value UnlinkAll(const Napi::CallbackInfo& info);
Napi::Value LinkOf(const Napi::CallbackInfo& info);
Napi::Value ChainDepth(const Napi::CallbackInfo& info);
Napi::Value Replace(const Napi::CallbackInfo& info);
Napi::Value Invalidate(const Napi::CallbackInfo& info);
Napi::Value SetHotStub(const Napi::CallbackInfo& info);
Napi::Value ExitTag(const Napi::CallbackInfo& info);

// Why an executor without an entry cannot be entered.
Status CannotEnter(Arena& arena, ExecutorId id);
// Null, or the error that a callback ran on a foreign thread during a call that has just returned.
napi_value TakeWrongThread(ArenaHandle& handle);

// The handle a bound function belongs to, or null with the error remembered and `*failed` set.
inline ArenaHandle* HandleOf(const Napi::CallbackInfo& info, Napi::Value* failed) {
  auto* handle = static_cast<ArenaHandle*>(info.Data());
  if (handle->arena != nullptr) return handle;
  *failed = handle->environment->Fail(Error{ErrorCode::kDisposed, "the arena has been disposed of"});
  return nullptr;
}

// 0, or the number of the error, which is remembered.
inline Napi::Value Done(const Napi::CallbackInfo& info, Environment* environment, Status status) {
  if (!status.ok()) return environment->Fail(std::move(status));
  return Napi::Number::New(info.Env(), 0);
}

// An id that TypeScript has checked to be one.
inline ExecutorId IdOf(const Napi::Value& value) {
  return static_cast<ExecutorId>(value.As<Napi::Number>().Int64Value());
}

}  // namespace jit_arena::node
