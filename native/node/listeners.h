// What happens to executors, on its way from the core to JavaScript.
//
// The core tells under the arena's lock, on whichever thread has called; the ids are noted then. JavaScript fetches
// them on its own thread: behind the call that did it when that was made through the same handle, else when its loop is
// woken.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/arena.h"

namespace jit_arena::node {

class ArenaHandle;

// As TypeScript numbers them (ts/listeners.ts).
inline constexpr EventKind kNotedKinds[] = {EventKind::kMoved, EventKind::kEvicted, EventKind::kRetired};
inline constexpr int kNoted = 3;

// Ids that nobody has fetched yet, by kind. Any thread.
class NotedIds {
 public:
  Status Prepare(int kind, uint32_t count);
  void Note(int kind, const Event* events, uint32_t count);  // there is room
  std::vector<ExecutorId> Take(int kind);
  bool empty();

 private:
  std::mutex lock_;  // taken inside the arena's, and nothing is taken inside it
  std::vector<ExecutorId> ids_[kNoted];
};

// That a handle listens. Made and ended on its thread.
class Listening {
 public:
  // `kinds`: bits of kNotedKinds. `wake` is called on the handle's thread when another has done something.
  static Result<std::unique_ptr<Listening>> Begin(ArenaHandle& handle, uint32_t kinds, const Napi::Function& wake);
  ~Listening();
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

  void SetKinds(uint32_t kinds);
  NotedIds& noted() { return *noted_; }
  // For other threads, while SharedArena has it in its list.
  void Wake();

 private:
  explicit Listening(ArenaHandle& handle) : handle_(handle) {}
  // Other threads wake it no more; called when its environment ends, if not before.
  static void EndWaking(void* listening);

  ArenaHandle& handle_;
  std::shared_ptr<NotedIds> noted_ = std::make_shared<NotedIds>();
  uint32_t number_ = 0;                      // of the core's listener; 0: not added
  napi_threadsafe_function wake_ = nullptr;  // null once its environment ends, which ends it
};

// Behind a call that may have done something: whoever else listens in the process hears of it.
Status WakeOthers(ArenaHandle& handle, Status done);

// listen(kinds, wake): to these from now on, instead of what it listened to; 0: to nothing. `wake` counts the first
// time.
Status Listen(ArenaHandle& handle, const Napi::CallbackInfo& info);
// noted(kind) → the ids that have been noted since the last time, or undefined.
Result<Napi::Value> Noted(ArenaHandle& handle, const Napi::CallbackInfo& info);

}  // namespace jit_arena::node
