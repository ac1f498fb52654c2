#include "core/lock.h"

#include <algorithm>
#include <thread>

#include "arch/arch.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

// The first look comes soon. The last ones come as seldom as a hundred installs: only a thread that takes the lock over
// and over keeps another one waiting for so long.
constexpr uint64_t kFirstWaitNanos = 100;
constexpr uint64_t kLongestWaitNanos = 100'000;
// Then it sleeps: a collect is under way, or the holder does not run.
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
  // Nobody sleeps while the lock is free: atomic::wait does not return when the state is again what it was.
  uint32_t slept = 0;  // kPromised from then on
  uint32_t yields = 0;
  for (;;) {
    uint32_t state = state_.load(std::memory_order_relaxed);
    if ((state & kHeld) == 0) {
      // To whom it is promised is awake and may need nothing but this processor.
      if (slept == 0 && (state & kPromised) != 0 && yields++ < kMostYields) {
        std::this_thread::yield();
        continue;
      }
      // Whoever comes here cannot know whether others sleep, and takes the lock as if. To whom it was promised they
      // promise it themselves anew.
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

// Whoever wakes says again that somebody waits, when it sleeps again and when it takes the lock; who was about to sleep
// sees that the state has changed.
void Lock::Wake() {
  state_.fetch_and(~kAwaited, std::memory_order_relaxed);
  state_.notify_one();
}

}  // namespace jit_arena
