// Who is told what happens to an arena's executors.
#include "core/arena.h"

namespace jit_arena {

Result<uint32_t> Arena::AddListener(std::unique_ptr<Listener> listener, uint32_t kinds) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  return events_.Add(std::move(listener), kinds);
}

void Arena::SetListenerKinds(uint32_t number, uint32_t kinds) {
  std::lock_guard guard(lock_);
  events_.SetKinds(number, kinds);
}

bool Arena::RemoveListener(uint32_t number) {
  std::unique_ptr<Listener> removed;  // ends after the lock is given back
  std::lock_guard guard(lock_);
  removed = events_.Remove(number);
  return removed != nullptr;
}

}  // namespace jit_arena
