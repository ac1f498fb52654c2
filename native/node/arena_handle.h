// An arena as one Arena object of JavaScript uses it. Several handles, of one environment or of many, may use one
// arena.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "core/arena.h"
#include "node/environment.h"
#include "node/shared_arena.h"

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

  // Whether this environment is inside the arena, through whichever handle.
  bool pinned() const { return arena != nullptr && pin->depth != 0; }
  // Ends this use: its callbacks answer 0, and the arena ends if this was the last. Not while pinned.
  void End();
  // Only the callbacks.
  void EndCallbacks();

  SharedArena* shared() const { return shared_.get(); }
  const std::shared_ptr<PinSlot>& slot() const { return slot_; }

  Environment* const environment;
  // Null after End; WithHandle, Call and Run look first.
  Arena* arena;
  PinSlot* pin;
  std::vector<Callback*> callbacks;  // made through this handle, and not disposed of

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

// node/calls.cc: bind(id, entry) → a function without arguments that calls the executor with what the mailbox says.
Result<Napi::Value> Bind(ArenaHandle& handle, const Napi::CallbackInfo& info);
// pinned(fn): calls it with the thread pinned.
Result<Napi::Value> Pinned(ArenaHandle& handle, const Napi::CallbackInfo& info);
// node/callbacks.cc: callback(wrapper) → address; disposeCallback(address).
Result<Napi::Value> AddCallback(ArenaHandle& handle, const Napi::CallbackInfo& info);
Status DisposeCallback(ArenaHandle& handle, const Napi::CallbackInfo& info);

// node/exits.cc. Positions in the mailbox's numbers[] for run and its kin; ts/native.ts names the same ones.
enum RunNumber : int { kRunId = 0, kRunEntry = 1, kRunExit = 1, kRunHot = 2 };
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

// Why an executor without an entry cannot be entered.
Status CannotEnter(Arena& arena, ExecutorId id);
Error DisposedError();
// Null, or the error that the machine code which has just returned called a callback on a wrong thread.
napi_value TakeWrongThread(Environment& environment);

// An id that TypeScript has checked to be one.
inline ExecutorId IdOf(const Napi::Value& value) {
  return static_cast<ExecutorId>(value.As<Napi::Number>().Int64Value());
}
inline uint32_t Uint32Of(const Napi::Value& value) { return value.As<Napi::Number>().Uint32Value(); }

}  // namespace jit_arena::node
