// The process's unwinder of exceptions, and what it is told of code that is in no library.
//
// A table has the form of a linker's .eh_frame, with absolute addresses and a 0 at its end. The unwinder reads it from
// Register until Deregister returns, on any thread that throws.
#pragma once

#include <cstddef>
#include <memory>

#include "base/status.h"

namespace jit_arena::os {

// Tables that are registered together.
struct UnwinderList {
  explicit UnwinderList(size_t most) : tables(new const void*[most + 1]()) {}

  std::unique_ptr<const void*[]> tables;  // ends with null
  void* room[16];                         // the unwinder's, as long as the list is registered: gcc 14 takes 8
};

// Whether there is an unwinder that can be told. The other functions may be called once this was true.
bool FindUnwinder();
// Whether a new list may be registered for addresses of which the old one tells, before that is deregistered: libgcc up
// to gcc 12. Where this is false, a list has one table.
bool UnwinderTakesOverlaps();
// Neither takes memory, and neither fails.
void Register(UnwinderList& list);
void Deregister(UnwinderList& list);

// Inside a handler: ERR_ARENA_EXCEPTION with the exception's type, and its words when it is a std::exception.
Status StatusOfException() noexcept;

// Inside a handler: what arrives there is the end of the thread, and has to go on.
bool HandlesEndOfThread() noexcept;

// Calls machine code, and is StatusOfException where that throws out of itself. The end of a thread, by pthread_exit or
// pthread_cancel, passes.
template <class Call>
Status CatchExceptions(Call call) {
  try {
    call();
  } catch (...) {
    if (HandlesEndOfThread()) throw;
    return StatusOfException();
  }
  return Status::Ok();
}

}  // namespace jit_arena::os
