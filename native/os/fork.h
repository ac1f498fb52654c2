// Forks: which process this is, what runs around fork(), and how a parent and its child agree on when the parent may
// change memory that the child is still copying. docs/fork.md tells the whole of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/status.h"

namespace jit_arena::os {

// What a forked child gets of an arena.
enum class ForkMode : uint8_t {
  kDrop,  // nothing: the arena is dead there
  kCopy,  // a copy of its own, at the same addresses
};

// Tells a process from its ancestors: an arena made under another number belongs to one of them. Two loads, no system
// call. The kernel wipes the number in a child (MADV_WIPEONFORK), so that a fork that runs no handlers (_Fork, clone
// without CLONE_VM) is noticed too; before Linux 4.14 only fork() is. vfork and posix_spawn share the memory of their
// parent until they exec, and its number.
// Inline, since every call into machine code asks; the two names are for it alone.
extern constinit std::atomic<std::atomic<uint32_t>*> generation_word;  // where the number is; 0: not yet begun
uint32_t BeginGeneration();
inline uint32_t ForkGeneration() {
  const uint32_t generation = generation_word.load(std::memory_order_relaxed)->load(std::memory_order_relaxed);
  return generation != 0 ? generation : BeginGeneration();
}

// Has `before` called in every thread that calls fork(), before it does, and one of the others after it, in the same
// thread. ForkGeneration() has changed when `in_child` is called. Never undone. Called while the library is loaded:
// handlers that are registered later, which a user of the library may have, then run before `before` and after the
// others, and may hold locks under which that user calls the library.
bool AtFork(void (*before)(), void (*in_parent)(), void (*in_child)());

// A child of fork() copies its parent's shared memory, and the parent changes none of it until the child has finished,
// has died, or has taken too long. One object per Memory whose memory is shared; under the owner's lock.
class ForkHandshake {
 public:
  ForkHandshake();
  ~ForkHandshake();

  // Around fork(): Begin; then InParent in the parent; in the child InChild, the copying, and Finish.
  // `bytes`: what the child will have to copy, which says how long the parent would wait.
  void Begin(uint64_t bytes);
  void InParent();
  void InChild();
  // The child copies no more. Null when all that it has copied is as it was at the fork; otherwise why not, in words:
  // the parent has gone on without this child, or no handshake could be begun.
  const char* Finish();

  // Before shared memory changes: waits for the children that are still copying, in all for a second and one more for
  // each 256 MiB. A child that takes longer is given up: its Finish will say so.
  void Await() {
    if (copying_) AwaitChildren();
  }

 private:
  struct Children;
  void AwaitChildren();

  std::unique_ptr<Children> children_;
  bool copying_ = false;  // there are children to wait for
};

}  // namespace jit_arena::os
