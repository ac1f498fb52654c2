// Linux: forks.
//
// The handshake is a pair of connected sockets per child. The child closes its end when it has copied, and the kernel
// closes it whatever the child dies of. To give a child up, the parent sends it a byte before it changes anything: a
// child that finds no byte when it has copied copied before that. Nor does it find one when the parent has exited or
// ended its arena meanwhile, which changes nothing. So no memory is shared for this, and no process id is needed (a
// handler in the parent has none).
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/room.h"
#include "os/fork.h"
#include "os/memory.h"

namespace jit_arena::os {
namespace linux_fork {
namespace {

constexpr int kWipeOnFork = 18;  // MADV_WIPEONFORK, Linux 4.14; a number, because some headers are older

// How long a parent waits for children, and how much longer for each byte that they copy: 250 MB/s, half of what was
// measured with five times as many busy threads as cores.
constexpr uint64_t kBoundNanos = 1'000'000'000;
constexpr uint64_t kBoundNanosPerByte = 4;

// All constant-initialised, so that other static initialisers may ask for the generation. Relaxed everywhere: the
// numbers publish nothing but themselves.

// The last generation that was begun: ordinary memory, which a child inherits.
constinit std::atomic<uint32_t> last_generation{1};
// This process's generation; 0 in a child that has not begun one. Where the kernel cannot wipe, the handler does.
constinit std::atomic<uint32_t> kept{1};

}  // namespace
}  // namespace linux_fork

constinit std::atomic<std::atomic<uint32_t>*> generation_word{&linux_fork::kept};

namespace linux_fork {
namespace {

// Threads of a child that did not run the handler may meet here: one of them wins, and a number that is lost does not
// matter. The count comes first, so that no descendant can be given this process's number.
uint32_t BeginIn(std::atomic<uint32_t>& word) {
  uint32_t next = last_generation.fetch_add(1, std::memory_order_relaxed) + 1;
  uint32_t begun = 0;
  return word.compare_exchange_strong(begun, next, std::memory_order_relaxed) ? next : begun;
}

bool WatchForks() {
  void* page = mmap(nullptr, PageBytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page != MAP_FAILED && madvise(page, PageBytes(), kWipeOnFork) == 0) {
    auto* wiped = new (page) std::atomic<uint32_t>(kept.load(std::memory_order_relaxed));
    generation_word.store(wiped, std::memory_order_relaxed);
  } else if (page != MAP_FAILED) {
    munmap(page, PageBytes());
  }
  return pthread_atfork(nullptr, nullptr, [] {
           kept.store(0, std::memory_order_relaxed);
           ForkGeneration();
         }) == 0;
}

// Once, before any other handler of this library and before there can be an arena.
bool EnsureForksWatched() {
  static const bool watched = WatchForks();
  return watched;
}
[[maybe_unused]] const bool forks_watched = EnsureForksWatched();

void Close(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

// Tells a child that its copy is too late. Not until then may anything change.
void GiveUp(int* fd) {
  // There is always room for one byte; EPIPE: the child has closed its end just now.
  while (send(*fd, "", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET) {
    if (errno != EINTR && errno != ENOBUFS && errno != ENOMEM) Die(__FILE__, __LINE__, "send to a forked child");
  }
  Close(fd);
}

}  // namespace
}  // namespace linux_fork

uint32_t BeginGeneration() { return linux_fork::BeginIn(*generation_word.load(std::memory_order_relaxed)); }

bool AtFork(void (*before)(), void (*in_parent)(), void (*in_child)()) {
  return linux_fork::EnsureForksWatched() && pthread_atfork(before, in_parent, in_child) == 0;
}

struct ForkHandshake::Children {
  // Drops those that copy no more; waits up to `millis` for one. False when the time is up, or the system refuses.
  bool DropFinished(int millis) {
    int ready = poll(copying.data(), copying.size(), millis);
    if (ready < 0 && errno == EINTR) return true;
    if (ready <= 0) return false;
    // A child sends nothing: its end is closed.
    for (pollfd& child : copying)
      if (child.revents != 0) linux_fork::Close(&child.fd);
    std::erase_if(copying, [](const pollfd& child) { return child.fd < 0; });
    return true;
  }

  std::vector<pollfd> copying;  // the parent's ends
  int parent_end = -1;          // of the fork that is under way
  int child_end = -1;
  uint64_t bound_nanos = 0;  // for all of them
};

ForkHandshake::ForkHandshake() : children_(std::make_unique<Children>()) {}

ForkHandshake::~ForkHandshake() {
  // Unmapping shared memory changes nothing for those who map it too: children may go on copying.
  for (pollfd& child : children_->copying) linux_fork::Close(&child.fd);
  linux_fork::Close(&children_->child_end);
  linux_fork::Close(&children_->parent_end);
}

void ForkHandshake::Begin(uint64_t bytes) {
  // A parent that only forks would collect descriptors.
  if (copying_) children_->DropFinished(0);
  if (!MakeRoom(children_->copying, 1).ok()) return;  // Finish will tell
  children_->bound_nanos =
      std::max(children_->bound_nanos, linux_fork::kBoundNanos + bytes * linux_fork::kBoundNanosPerByte);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return;  // Finish will tell
  children_->parent_end = ends[0];
  children_->child_end = ends[1];
}

void ForkHandshake::InParent() {
  // Only the child may hold the child's end, or its death would not close it.
  linux_fork::Close(&children_->child_end);
  if (children_->parent_end < 0) return;
  children_->copying.push_back({children_->parent_end, POLLIN, 0});
  children_->parent_end = -1;
  copying_ = true;
}

void ForkHandshake::InChild() {
  linux_fork::Close(&children_->parent_end);
  for (pollfd& sibling : children_->copying) linux_fork::Close(&sibling.fd);
  children_->copying.clear();
  children_->bound_nanos = 0;
  copying_ = false;
}

const char* ForkHandshake::Finish() {
  if (children_->child_end < 0) {
    return "no handshake could be begun when the process was forked (socketpair failed, see `ulimit -n`, or there was "
           "no memory)";
  }
  char byte;
  ssize_t received;
  do {
    received = recv(children_->child_end, &byte, 1, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  linux_fork::Close(&children_->child_end);
  if (received != 1) return nullptr;
  return "the parent process changed code before this one had copied all of it, since this one took too long";
}

void ForkHandshake::AwaitChildren() {
  std::vector<pollfd>& copying = children_->copying;
  uint64_t give_up = NowNanos() + children_->bound_nanos;
  for (bool some = true; some && !copying.empty();) {
    uint64_t now = NowNanos();
    // Rounded up, so that the last millisecond is not spent in a loop of calls.
    some = children_->DropFinished(now < give_up ? static_cast<int>((give_up - now) / 1'000'000 + 1) : 0);
  }
  for (pollfd& child : copying) linux_fork::GiveUp(&child.fd);
  copying.clear();
  children_->bound_nanos = 0;
  copying_ = false;
}

}  // namespace jit_arena::os
