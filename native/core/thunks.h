// Thunks: addresses at which machine code, and whoever else has them, calls a handler.
//
// An address of C code may be kept for as long as the process lives: a library's threads call it while arenas and
// environments end, and while the process exits. So thunks belong to the process and not to an arena. They and their
// contexts are never freed, and no address is given out twice, since it would lead an old caller to a new callback.
// Each costs 16 bytes of code and a context.
#pragma once

#include <atomic>
#include <cstdint>

#include "arch/arch.h"
#include "base/status.h"

namespace jit_arena {

// What a thunk hands to its handler.
struct ThunkContext {
  // Who may use `callback`; null when nobody does any more. Release when it is set, so that who finds it finds what it
  // points to; acquire in the handler.
  std::atomic<void*> owner{nullptr};
  void* callback = nullptr;  // the owner's alone
};

struct Thunk {
  uint64_t address;
  ThunkContext* context;  // with a null owner
  bool in_reach;          // of every branch and `lea` between the addresses that MakeThunk was given
};

// A thunk that calls `handler(context, frame)`, on whichever thread it is called; every call of this function names the
// same handler. In reach of all between `low` and `high` where there is address space for that. Any thread; a forked
// child has the thunks of its parent, too, and makes new ones apart from them. ERR_ARENA_NO_MEMORY; ERR_ARENA_NO_EXEC,
// ERR_ARENA_WRITER_UNAVAILABLE where no writer works.
Result<Thunk> MakeThunk(arch::CallbackHandler handler, uint64_t low, uint64_t high);

}  // namespace jit_arena
