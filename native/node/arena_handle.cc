#include "node/arena_handle.h"

namespace jit_arena::node {

ArenaHandle::ArenaHandle(Environment* environment, std::shared_ptr<SharedArena> shared)
    : environment(environment),
      arena(&shared->arena()),
      shared_(std::move(shared)),
      slot_(environment->PinOf(shared_)) {
  pin = slot_.get();
}

void ArenaHandle::End() {
  if (arena == nullptr) return;
  JIT_ARENA_CHECK(!pinned());
  EndCallbacks();
  arena = nullptr;
  pin = nullptr;
  slot_.reset();
  shared_.reset();
}

Error DisposedError() { return {ErrorCode::kDisposed, "the arena has been disposed of"}; }

}  // namespace jit_arena::node
