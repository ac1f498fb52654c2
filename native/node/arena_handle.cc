#include "node/arena_handle.h"

#include <algorithm>

namespace jit_arena::node {

ArenaHandle::ArenaHandle(Environment* environment, std::shared_ptr<SharedArena> shared)
    : environment(environment),
      arena(&shared->arena()),
      shared_(std::move(shared)),
      slot_(environment->PinOf(shared_)) {
  pin = slot_.get();
}

uint32_t ArenaHandle::CountPins() const {
  return static_cast<uint32_t>(pins.size() - static_cast<size_t>(std::count(pins.begin(), pins.end(), nullptr)));
}

void ArenaHandle::End() {
  if (arena == nullptr) return;
  JIT_ARENA_CHECK(!pinned());
  EndCallbacks();
  listening.reset();
  for (auto& kept : pins)
    if (kept != nullptr) arena->End(*kept);
  pins.clear();
  arena = nullptr;
  pin = nullptr;
  slot_.reset();
  shared_.reset();
}

Error DisposedError() { return {ErrorCode::kDisposed, "the arena has been disposed of"}; }

}  // namespace jit_arena::node
