// An arena of the process, whoever made it: what its users in all threads have in common, and the tokens by which
// threads find it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/arena.h"

namespace jit_arena::node {

class Listening;

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

  // Those who are to be woken when another handle has done what they listen to; until they are removed.
  void AddListening(Listening* listening);
  void RemoveListening(Listening* listening);
  // Behind a call that may have done something, of the handle that listens with `own` (or null).
  void WakeOthers(const Listening* own);

  // Arena::Link, but for the end of the process.
  Status Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry);

 private:
  SharedArena(std::unique_ptr<Arena> arena, std::string token);

  std::unique_ptr<Arena> arena_;
  const std::string token_;
  std::mutex lock_;  // taken before the arena's own
  std::mutex listening_lock_;
  std::vector<Listening*> listening_;
  std::atomic<bool> anybody_listens_{false};  // relaxed: who begins to listen just now need not be told
};

}  // namespace jit_arena::node
