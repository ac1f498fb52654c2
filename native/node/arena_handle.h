// An arena as one Arena object of JavaScript uses it. Several handles, of one environment or of many, may use one
// arena.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "core/arena.h"
#include "core/spec_copy.h"
#include "node/callbacks.h"
#include "node/environment.h"
#include "node/listeners.h"
#include "node/shared_arena.h"
#include "os/unwinder.h"

namespace jit_arena::node {

// The JavaScript object with the arena's native functions owns the handle: its finalizer drops it, if the arena has
// been disposed of. A handle that has not is kept until the environment ends, since the arena's addresses may be in use
// where the garbage collector does not look.
class ArenaHandle {
 public:
  ArenaHandle(Environment* environment, std::shared_ptr<SharedArena> shared);
  ~ArenaHandle() { End(); }
  ArenaHandle(const ArenaHandle&) = delete;
  ArenaHandle& operator=(const ArenaHandle&) = delete;

  uint32_t CountPins() const;
  // Whether this environment is inside the arena, through whichever handle.
  bool pinned() const { return arena != nullptr && pin->depth != 0; }
  // Ends this use: its callbacks answer 0, its pins end, and so does the arena if this was the last. Not while pinned.
  void End();
  // Only the callbacks.
  void EndCallbacks() { callbacks.clear(); }

  SharedArena* shared() const { return shared_.get(); }
  const std::shared_ptr<PinSlot>& slot() const { return slot_; }

  Environment* const environment;
  // Null after End; WithHandle, Call and Run look first.
  Arena* arena;
  PinSlot* pin;
  std::vector<std::unique_ptr<Callback>> callbacks;  // made through this handle, and not disposed of
  std::vector<std::unique_ptr<LoosePin>> pins;       // by number; null: released
  std::vector<std::vector<SpecCopy>> lists;          // of specs that will be installed together, the innermost last
  std::unique_ptr<Listening> listening;              // null: it does not

 private:
  std::shared_ptr<SharedArena> shared_;
  std::shared_ptr<PinSlot> slot_;
};

// The object of native functions for a new arena, or undefined with the error remembered.
Napi::Value CreateArena(const Napi::CallbackInfo& info);
// openArena(token) → the same for an arena that is there already.
Napi::Value OpenArena(const Napi::CallbackInfo& info);

// The arena's functions. TypeScript checks types and is the only caller. A Status becomes 0 or the number of an error
// that lastError() explains; a Result becomes its value or that number.

// node/calls.cc: call() calls what the mailbox's `entered` says, with the arguments in its call frame; undefined when
// the call was made. bind(id, entry): that it may be called so; numbers[0] receives the entry's offset.
napi_value Call(napi_env env, napi_callback_info info);
Status Bind(ArenaHandle& handle, const Napi::CallbackInfo& info);
// pinned(fn): calls it with the thread pinned.
Result<Napi::Value> CallPinned(ArenaHandle& handle, const Napi::CallbackInfo& info);
// node/pins.cc: pin() → its number in numbers[0]; unpin(number).
Status Pin(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Unpin(ArenaHandle& handle, const Napi::CallbackInfo& info);
// node/callbacks.cc: callback(wrapper) → address; disposeCallback(address).
Result<Napi::Value> AddCallback(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status DisposeCallback(ArenaHandle& handle, const Napi::CallbackInfo& info);

// node/exits.cc: run() runs what the mailbox's `entered` says with the context in its call frame; `left` is how it
// ended. Undefined when the run was made.
napi_value Run(napi_env env, napi_callback_info info);
Status EntryOffset(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Link(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Unlink(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status UnlinkAll(ArenaHandle& handle, const Napi::CallbackInfo& info);
Result<Napi::Value> LinkOf(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status ChainDepth(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Replace(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status Invalidate(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status SetHotStub(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status ExitTag(ArenaHandle& handle, const Napi::CallbackInfo& info);

Error DisposedError();
// The error that the machine code which has just returned called a callback on a wrong thread, if it has.
[[gnu::cold, gnu::noinline]] napi_value FailWrongThread(Environment& environment);
// Machine code has thrown, and not come back through the gate.
[[gnu::cold, gnu::noinline]] napi_value FailThrown(Environment& environment, Status thrown);

// Why call() or run() did not enter; out of line, so that those who do pay nothing for it.
[[gnu::cold, gnu::noinline]] napi_value FailToEnter(Environment& environment, Arena* arena, ExecutorId id);

// Calls machine code of the environment's, under the thread's pin; what it throws out of itself.
template <class Call>
Status CallMachineCode(Environment& environment, Call call) {
  InMachineCode inside(environment);
  return os::CatchExceptions(call);
}
// Behind the pin: null, or the number of the error that the call has.
inline napi_value AfterMachineCode(Environment& environment, Status thrown) {
  if (!thrown.ok()) return FailThrown(environment, std::move(thrown));
  if (environment.thread->wrong_thread.load(std::memory_order_relaxed)) return FailWrongThread(environment);
  return nullptr;
}

// call() and run(), which must cost little: enters what the mailbox's `entered` says, without the arena's lock.
// `through(environment, arena, entry)` does it while the thread is pinned. Returns undefined (a null napi_value costs
// nothing), or the number of an error.
template <class Through>
napi_value EnterMachineCode(napi_env env, Through through) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  Environment& environment = *static_cast<Environment*>(data);
  const auto& entered = environment.mailbox->entered;
  const uint32_t offset = entered.offset;
  // By way of a signed number, to which the conversion is one instruction.
  const auto id = static_cast<ExecutorId>(static_cast<int64_t>(entered.executor));
  ArenaHandle& handle = *environment.arenas[entered.arena];
  // A callback may not dispose of the arena, since this thread is pinned.
  Arena* const arena = handle.arena;
  if (arena == nullptr) return FailToEnter(environment, nullptr, id);

  uint64_t entry = 0;
  Status thrown;
  {
    Pinned pinned(arena->reclaimer(), *handle.pin);
    if (arena->in_own_process()) entry = arena->EntryOf(id);
    if (entry != 0) {
      thrown = CallMachineCode(environment,
                               [&] { through(environment, *arena, reinterpret_cast<const void*>(entry + offset)); });
    }
  }
  if (entry == 0) return FailToEnter(environment, arena, id);
  return AfterMachineCode(environment, std::move(thrown));
}

// An id that TypeScript has checked to be one.
inline ExecutorId IdOf(const Napi::Value& value) {
  return static_cast<ExecutorId>(value.As<Napi::Number>().Int64Value());
}
inline uint32_t Uint32Of(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

}  // namespace jit_arena::node
