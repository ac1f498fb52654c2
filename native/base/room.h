// Memory that a change will need, taken before the change begins.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/status.h"

namespace jit_arena {

// After this, `more` elements can be appended to the vector without taking memory. Grows as push_back does, so that
// many calls cost no more than many push_backs. ERR_ARENA_NO_MEMORY; the vector is as before then.
template <class Vector>
Status MakeRoom(Vector& vector, size_t more) noexcept {
  if (vector.capacity() - vector.size() >= more) return Status::Ok();
  return OrOutOfMemory([&] { vector.reserve(std::max(vector.size() + more, 2 * vector.capacity())); });
}

}  // namespace jit_arena
