// The arena's lock. Most holders keep it for less than a microsecond, a collect for as long as it takes: so a thread
// that waits spins for a while and sleeps then.
//
// It is not fair, on purpose. Handing it over costs more than what it is held for, since the lines that its holder
// worked with move to another core; so who gives it back may take it again at once, and who waits looks at it less and
// less often. Two threads that do nothing but install get as much done as one (bench: T1, two threads).
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
    uint32_t expected = kFree;
    return state_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire, std::memory_order_relaxed);
  }
  void unlock() {
    if (state_.exchange(kFree, std::memory_order_release) == kHeldAndAwaited) state_.notify_one();
  }
  // Free again, in a forked child: whoever held it is not there.
  void Reset() { state_.store(kFree, std::memory_order_relaxed); }

 private:
  enum : uint32_t { kFree, kHeld, kHeldAndAwaited };

  void Wait();

  std::atomic<uint32_t> state_{kFree};
};

}  // namespace jit_arena
