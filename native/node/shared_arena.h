// An arena of the process, whoever made it: what its users in all threads have in common, and the tokens by which
// threads find it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "core/arena.h"

namespace jit_arena::node {

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

  // Arena::Link, but for the end of the process.
  Status Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry);

 private:
  SharedArena(std::unique_ptr<Arena> arena, std::string token);

  std::unique_ptr<Arena> arena_;
  const std::string token_;
  std::mutex lock_;  // taken before the arena's own
};

}  // namespace jit_arena::node
