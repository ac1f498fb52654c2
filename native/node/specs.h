// Specs of executors as TypeScript encodes them, and the functions that take them.
#pragma once

#include "node/arena_handle.h"

namespace jit_arena::node {

// Positions in numbers[] of what the functions take that have to do with one executor. TypeScript asks the addon for
// them.
enum Number : int {
  kId = 0,  // in and out
  kCodeBytes = 1,
  kDataBytes = 2,
  kStateBytes = 3,
  kCodeAlign = 4,
  kDataAlign = 5,
  kStateAlign = 6,
  kMovable = 7,
  kEvictable = 9,  // 0, 1, or -1: as the executor's kind says
  kMakesProgress = 10,
  kExits = 11,
  kRelocs = 8,  // how many stand in the reloc buffer
};

// That the relocs which numbers[] counts are there: the counts come from lists of the caller's.
Status CheckRelocs(const Environment& environment);

// One spec: code, data, state (Uint8Array, or undefined: zero, of the size in numbers[]), name (string or undefined),
// entries, exitTags (Uint32Array or undefined); the rest is in numbers[] and the reloc buffer.
Status Allocate(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Install(ArenaHandle& handle, const Napi::CallbackInfo& info);

// A list of specs that are installed together: beginSpecs(), addSpec(as install) for each, installSpecs(ids), and
// endSpecs() whatever has happened. A getter of a spec may begin a list of its own meanwhile.
Status BeginSpecs(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status AddSpec(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status InstallSpecs(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status EndSpecs(ArenaHandle& handle, const Napi::CallbackInfo& info);

// installBatch(code, codeOffsets, data, dataOffsets, relocsOfEach, ids): offsets have one entry more than
// there are executors; relocsOfEach counts each executor's relocs, which stand in the reloc buffer one after the other.
Status InstallBatch(ArenaHandle& handle, const Napi::CallbackInfo& info);

}  // namespace jit_arena::node
