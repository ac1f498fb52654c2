// Around fork(): every arena of the process takes part, so that a child finds no lock taken and no books half written.
//
// An arena with ForkMode::kDrop is dead in the child: what it returns a Status from says ERR_ARENA_FORKED. One with
// kCopy goes on there, with memory of the child's own. docs/fork.md has the protocol.
#include <algorithm>
#include <new>

#include "core/arena.h"
#include "os/fork.h"

namespace jit_arena {

// The arenas of this process, and what is called around its forks.
class ForkHandlers {
 public:
  // Held by a thread that forks from before() until after, so that forks of several threads come one after the other.
  std::mutex lock;
  std::vector<Arena*> arenas;

  static void Before() {
    ForkHandlers& handlers = Get();
    handlers.lock.lock();
    for (Arena* arena : handlers.arenas) arena->BeforeFork();
  }
  static void InParent() {
    ForkHandlers& handlers = Get();
    for (Arena* arena : handlers.arenas) arena->AfterForkInParent();
    handlers.lock.unlock();
  }
  static void InChild() {
    ForkHandlers& handlers = Get();
    for (Arena* arena : handlers.arenas) arena->AfterForkInChild();
    handlers.lock.unlock();
  }

  // Lives as long as the process: a thread may fork while another has begun to exit.
  static ForkHandlers& Get() {
    static ForkHandlers* const handlers = new ForkHandlers;
    return *handlers;
  }
};

namespace {

// While the library is loaded: see os::AtFork.
[[maybe_unused]] const bool fork_handlers_registered =
    os::AtFork(&ForkHandlers::Before, &ForkHandlers::InParent, &ForkHandlers::InChild);

}  // namespace

void Arena::Register() {
  ForkHandlers& handlers = ForkHandlers::Get();
  std::lock_guard guard(handlers.lock);
  handlers.arenas.push_back(this);
}

void Arena::Unregister() {
  ForkHandlers& handlers = ForkHandlers::Get();
  std::lock_guard guard(handlers.lock);
  std::erase(handlers.arenas, this);
}

void Arena::BeforeFork() {
  // What belongs to another process has nothing to protect, and after a fork without handlers its lock may be taken for
  // good.
  forking_ = in_own_process();
  if (!forking_) return;
  lock_.lock();
  reclaimer_.BeforeFork();
  if (fork_ == os::ForkMode::kCopy) space_.BeforeFork();
}

void Arena::AfterForkInParent() {
  if (!forking_) return;
  if (fork_ == os::ForkMode::kCopy) space_.AfterForkInParent();
  reclaimer_.AfterFork(false);
  lock_.unlock();
}

void Arena::AfterForkInChild() {
  if (!forking_) {
    // A thread of the parent may have been in the middle of an ERR_ARENA_FORKED. Nothing depends on the lock any more.
    lock_.Reset();
    return;
  }
  reclaimer_.AfterFork(true);
  if (fork_ == os::ForkMode::kDrop) {
    space_.memory().EnterChild().Ignore();  // nothing of the arena is used here
  } else if (Status failed = space_.AfterForkInChild()) {
    lost_ = std::move(failed);
  } else {
    fork_generation_ = os::ForkGeneration();
    events_.Tell(EventKind::kForkedChild, {});
    events_.Flush();
  }
  // Not unlock: it may be promised to a thread of the parent's.
  lock_.Reset();
}

Status Arena::Forked() const {
  const char* why = fork_ == os::ForkMode::kDrop ? "the arena's memory was not inherited (fork: 'drop')"
                    : lost_.ok() ? "it got no copy, because it was made without fork(), whose handlers make it"
                                 : "it got no copy: ";
  return Error{ErrorCode::kForked, Format("this process is a fork of the one that made the arena; %s%s. Make an arena "
                                          "of its own in the child",
                                          why, lost_.ok() ? "" : lost_.error().message.c_str())};
}

}  // namespace jit_arena
