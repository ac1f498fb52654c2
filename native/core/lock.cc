#include "core/lock.h"

#include <algorithm>
#include <thread>

#include "arch/arch.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

// The first look comes soon. The last looks are as far apart as a hundred installs take: a wait is only that long when
// another thread takes the lock over and over.
constexpr uint64_t kFirstWaitNanos = 100;
constexpr uint64_t kLongestWaitNanos = 100'000;
// Then the thread sleeps: a collect is under way, or the holder does not run.
constexpr uint64_t kSpinNanos = 1'000'000;
constexpr uint32_t kMostYields = 100;

}  // namespace

void Lock::Wait() {
  uint64_t now = os::NowNanos();
  const uint64_t end = now + kSpinNanos;
  for (uint64_t wait = kFirstWaitNanos; now < end; wait = std::min(10 * wait, kLongestWaitNanos)) {
    for (uint64_t next = now + wait; now < next; now = os::NowNanos()) arch::Pause();
    uint32_t state = state_.load(std::memory_order_relaxed);
    if ((state & (kHeld | kPromised)) == 0 &&
        state_.compare_exchange_strong(state, state | kHeld, std::memory_order_acquire, std::memory_order_relaxed))
      return;
  }
  // A thread may only sleep while the lock is held: atomic::wait does not return when the state is again what it was.
  uint32_t slept = 0;  // kPromised from then on
  uint32_t yields = 0;
  for (;;) {
    uint32_t state = state_.load(std::memory_order_relaxed);
    if ((state & kHeld) == 0) {
      // The lock is promised to a thread that is awake, and which may need nothing but this processor.
      if (slept == 0 && (state & kPromised) != 0 && yields++ < kMostYields) {
        std::this_thread::yield();
        continue;
      }
      // This thread cannot know whether others sleep, so it takes the lock as if they did. A thread that had a promise
      // renews it by itself.
      if (state_.compare_exchange_weak(state, kHeld | kAwaited, std::memory_order_acquire, std::memory_order_relaxed))
        return;
      continue;
    }
    uint32_t waiting = state | kAwaited | slept;
    if (waiting != state && !state_.compare_exchange_weak(state, waiting, std::memory_order_relaxed)) continue;
    state_.wait(waiting, std::memory_order_relaxed);
    slept = kPromised;
  }
}

// The flag may be cleared although more threads sleep: the woken thread sets it again, when it takes the lock or goes
// back to sleep. A thread that is about to sleep sees that the state has changed.
void Lock::Wake() {
  state_.fetch_and(~kAwaited, std::memory_order_relaxed);
  state_.notify_one();
}

}  // namespace jit_arena
