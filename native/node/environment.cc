#include "node/environment.h"

#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

// Without a destructor, which could come after the library was unloaded.
struct CurrentThread {
  ScriptThread* thread;
  uint32_t environments;
};
constinit thread_local CurrentThread current{};

}  // namespace

ScriptThread* ScriptThread::Current() { return current.thread; }

Environment::Environment(napi_env env) : env(env) {
  if (current.environments++ == 0) current.thread = new ScriptThread;
  thread = current.thread;
}

Environment::~Environment() {
  // Machine code is still on the stack when process.exit() was called from a callback on the main thread: then the
  // process is ending, and the arena stays as it is. Workers unwind before they end.
  for (auto& handle : arenas) {
    if (handle == nullptr || !handle->pinned()) continue;
    handle->EndCallbacks();
    handle.release();
  }
  if (--current.environments == 0) current.thread = nullptr;
}

Napi::Value Environment::Fail(Status failed) {
  last_error = std::move(failed);
  return Napi::Number::New(env, static_cast<int>(last_error.code()));
}

std::shared_ptr<PinSlot> Environment::PinOf(const std::shared_ptr<SharedArena>& shared) const {
  for (const auto& handle : arenas)
    if (handle != nullptr && handle->shared() == shared.get()) return handle->slot();
  Reclaimer& reclaimer = shared->arena().reclaimer();
  PinSlot* attached = reclaimer.Attach();
  if (attached == nullptr) throw std::bad_alloc();
  return {attached, [shared](PinSlot* slot) { shared->arena().reclaimer().Detach(slot); }};
}

}  // namespace jit_arena::node
