// The arena's lock. Most holders keep it for less than a microsecond, a collect for as long as it takes: so a thread
// that waits spins for a while and sleeps then.
//
// It is not fair at first, on purpose. Handing it over costs more than what it is held for, since the lines that its
// holder worked with move to another core; so who gives it back may take it again at once, and who waits looks at it
// less and less often. Two threads that do nothing but install get as much done as one (bench: T1, two threads). But
// who has slept, was woken and still came too late is next: a thread that collects slice after slice keeps nobody
// waiting for more than one.
#pragma once

#include <atomic>
#include <cstdint>

namespace jit_arena {

// Lockable, for std::lock_guard.
class Lock {
 public:
  Lock() = default;
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

  void lock() {
    if (!try_lock()) Wait();
  }
  bool try_lock() {
    uint32_t expected = 0;
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire, std::memory_order_relaxed);
  }
  void unlock() {
    if (state_.fetch_sub(kHeld, std::memory_order_release) != kHeld) Wake();
  }
  // Free again, in a forked child: whoever waited for it, or held it, is not there.
  void Reset() { state_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kHeld = 1;
  static constexpr uint32_t kAwaited = 2;   // by threads that sleep, or did when it was taken last
  static constexpr uint32_t kPromised = 4;  // to those that have waited long: nobody who has just come takes it

  void Wait();
  void Wake();

  std::atomic<uint32_t> state_{0};
};

}  // namespace jit_arena
