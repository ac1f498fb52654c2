#include "core/lock.h"

#include <algorithm>

#include "arch/arch.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

// The first look comes soon. The last ones come as seldom as a hundred installs: only a thread that takes the lock over
// and over keeps another one waiting for so long.
constexpr uint64_t kFirstWaitNanos = 100;
constexpr uint64_t kLongestWaitNanos = 100'000;
// Then it sleeps: a collect is under way, or the holder does not run.
constexpr uint64_t kSpinNanos = 500'000;

}  // namespace

void Lock::Wait() {
  uint64_t now = os::NowNanos();
  const uint64_t end = now + kSpinNanos;
  for (uint64_t wait = kFirstWaitNanos; now < end; wait = std::min(10 * wait, kLongestWaitNanos)) {
    for (uint64_t next = now + wait; now < next; now = os::NowNanos()) arch::Pause();
    if (state_.load(std::memory_order_relaxed) == kFree && try_lock()) return;
  }
  // Who has slept cannot know whether others still do, and takes the lock as if.
  while (state_.exchange(kHeldAndAwaited, std::memory_order_acquire) != kFree) state_.wait(kHeldAndAwaited);
}

}  // namespace jit_arena
