// An arena of the process, whoever made it: what its users in all threads have in common, and the tokens by which
// threads find it.
#pragma once

#include <node_api.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/arena.h"
#include "node/environment.h"

namespace jit_arena::node {

// A JavaScript function that machine code can call. The arena owns it, so that machine code which still holds its
// address finds a thunk that answers, also when the environment has ended.
struct Callback {
  // Null once the callback or its arena was disposed of there, or the environment has ended. Relaxed: only the
  // environment's own thread changes it and uses what it points to; others see in time that it is null.
  std::atomic<Environment*> environment{nullptr};
  std::shared_ptr<ScriptThread> thread;
  uint64_t address = 0;
  // TypeScript's wrapper: reads arguments from the mailbox, writes the result. For the environment's own thread;
  // deleted by it when it disposes of the callback or the arena, and by Node when it ends.
  napi_ref function = nullptr;
};

// Any thread may call any function. Its users hold shared pointers; tokens and the list of arenas do not.
class SharedArena {
 public:
  // `token`: TypeScript makes it, so that nobody can guess it.
  static std::shared_ptr<SharedArena> Make(std::unique_ptr<Arena> arena, std::string token);
  // Null when the last user is gone, or there never was such an arena in this process.
  static std::shared_ptr<SharedArena> Find(const std::string& token);
  // Before the process ends: takes every link out of every arena of the process, so that no loop of links keeps a
  // worker in machine code, and lets no other thread make new ones. Node waits for its workers when it exits.
  static void EndLoops();

  ~SharedArena();
  SharedArena(const SharedArena&) = delete;
  SharedArena& operator=(const SharedArena&) = delete;

  Arena& arena() { return *arena_; }
  const std::string& token() const { return token_; }

  // A thunk that calls `handler` with the Callback; `function` stays empty for the caller to set.
  Result<Callback*> AddCallback(Environment* environment, arch::CallbackHandler handler, const PinSlot* self);
  // Arena::Link, but for the end of the process.
  Status Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry);

 private:
  SharedArena(std::unique_ptr<Arena> arena, std::string token);

  std::unique_ptr<Arena> arena_;
  const std::string token_;
  std::mutex lock_;  // taken before the arena's own
  std::vector<std::unique_ptr<Callback>> callbacks_;
};

}  // namespace jit_arena::node
