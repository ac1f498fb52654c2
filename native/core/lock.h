// The arena's lock. Most holders keep it for less than a microsecond, but a collect keeps it for as long as it takes.
// So a waiting thread spins for a while and then sleeps.
//
// The lock is not fair at first, on purpose. Handing it to another core costs more than most holders' work, since the
// cache lines that they worked with move along. So a thread that gives the lock back may take it again at once, and a
// waiting thread looks at it less and less often. Two threads that do nothing but install get as much done as one
// (bench: T1, two threads). Yet no thread waits for ever: a thread that slept, was woken and found the lock taken again
// gets a promise, and is next. So a thread that collects slice after slice makes others wait for one slice at most.
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
  // Makes the lock free in a forked child, which has none of the threads that waited for it or held it.
  void Reset() { state_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kHeld = 1;
  static constexpr uint32_t kAwaited = 2;   // threads sleep, or slept when the lock was taken last
  static constexpr uint32_t kPromised = 4;  // to threads that have waited long: a thread that has just come stays away

  void Wait();
  void Wake();

  std::atomic<uint32_t> state_{0};
};

}  // namespace jit_arena
