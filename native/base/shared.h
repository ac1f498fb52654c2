// A number of the books that is also read without the lock: in a signal handler, which can wait for nobody.
#pragma once

#include <atomic>
#include <cstdint>

namespace jit_arena {

// Written under the lock. Used like the plain number that it takes the place of. On x86-64 it costs no more.
template <class T>
class Shared {
 public:
  constexpr Shared(T value = {}) : value_(value) {}
  Shared(const Shared& other) : value_(other) {}
  Shared& operator=(const Shared& other) { return *this = static_cast<T>(other); }
  // Release, and acquire in the load: who has read a number sees what was written before it, the count of changes that
  // says not to trust it among that (core/span_table.h).
  Shared& operator=(T value) {
    value_.store(value, std::memory_order_release);
    return *this;
  }
  operator T() const { return value_.load(std::memory_order_acquire); }

 private:
  std::atomic<T> value_;
};

}  // namespace jit_arena
