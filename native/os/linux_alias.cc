// Linux, writer `alias`: shared memory with two views, one executable (or read-only), one writable.
//
//   anonymous  mmap(MAP_SHARED | MAP_ANONYMOUS) born with its access, then mremap(at, 0, bytes) makes a second mapping
//   of
//              the same pages, which mprotect turns into RW. Needs no file and no descriptor.
//   memfd      the same memory by name: one memfd mapped twice. For kernels, emulators and policies that refuse the
//              above: SELinux's execmem forbids anonymous executable memory and leaves memfds to a rule about files.
//
// The source is chosen once per Memory, by trying. Neighbouring mappings of shared memory are different files and never
// merge, so releasing a slab splits nothing and works at the mapping limit too.
//
// Punching goes in this order: mprotect(PROT_NONE) on the executable view, then MADV_REMOVE through the writable one.
// The first can fail (it splits a mapping) and has then changed nothing; the other way round a failure would leave
// pages of zeroes executable, and zeroes do not trap. MDWE forbids the way back, NONE to executable, so there nothing
// is punched.
//
// A writable view lies at an address of its own randomness, far from the executable one: who can write somewhere in the
// process, and knows where code is, still does not know where to write.
//
// A forked child (ForkMode::kCopy) inherits the executable view of memory that it shares with its parent, and never the
// writable one. Commit over that view makes memory of the child's own.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "base/bits.h"
#include "os/linux_memory.h"

namespace jit_arena::os {
namespace linux_alias {
namespace {

// Where views are: 2^46 bytes, so 34 random bits with pages of 4 KiB. Below are programs without PIE and the shadow
// memory of sanitizers, above are PIE programs, their heap, and what the kernel places by itself.
constexpr uint64_t kViewsBegin = 0x1001'0000'0000, kViewsBytes = uint64_t{1} << 46;
// No view is nearer to its executable memory.
constexpr uint64_t kViewDistance = uint64_t{1} << 33;

// A multiple of a page in the range of views, or 0 where the system gives no random numbers.
uint64_t RandomViewAddress() {
  uint64_t random;
  if (syscall(SYS_getrandom, &random, sizeof random, 0) != sizeof random) return 0;
  return AlignDown(kViewsBegin + random % kViewsBytes, PageBytes());
}

// Reserves a place for the view of executable memory at `at`, or null with errno. It is a hint and not MAP_FIXED, so
// that nothing is ever replaced; where the kernel does not take it (under an emulator, ThreadSanitizer), or there is no
// random number, the place is one of the kernel's choice.
uint8_t* ReserveView(const uint8_t* at, size_t bytes) {
  constexpr int kTries = 8;
  for (int tries = 0;; tries++) {
    uint64_t hint = RandomViewAddress();
    uint64_t distance = hint - reinterpret_cast<uint64_t>(at);
    bool near = hint != 0 && (distance + kViewDistance < 2 * kViewDistance);
    if (near && tries < kTries) continue;
    void* place =
        mmap(reinterpret_cast<void*>(hint), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) return nullptr;
    if (reinterpret_cast<uint64_t>(place) == hint || hint == 0 || tries >= kTries) return static_cast<uint8_t*>(place);
    if (munmap(place, bytes) != 0) return static_cast<uint8_t*>(place);
  }
}

class LinuxAlias final : public LinuxMemory {
 public:
  explicit LinuxAlias(AliasSource source) : source_(source) {}

  WriterKind writer() const override { return WriterKind::kAlias; }
  bool CanPunch() const override { return can_punch_; }

  Result<uint8_t*> Commit(Access access, uint8_t* at, size_t bytes) override {
    if (access == Access::kState) return LinuxMemory::Commit(access, at, bytes);
    if (Status forked = CheckOwner()) return forked;
    return source_ == AliasSource::kAnonymous ? CommitAnonymous(access, at, bytes) : CommitMemfd(access, at, bytes);
  }

  Status Decommit(Access access, uint8_t* at, size_t bytes, uint8_t** view) override {
    if (access == Access::kState) return LinuxMemory::Decommit(access, at, bytes, view);
    if (Forked()) return Status::Ok();
    if (*view != nullptr && munmap(*view, bytes) != 0)
      return linux_pages::Refused("giving back a slab's view", bytes, false, errno);
    *view = nullptr;
    return LinuxMemory::Decommit(access, at, bytes, view);
  }

  Result<bool> Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) override {
    if (access == Access::kState) return LinuxMemory::Punch(access, at, bytes, view);
    if (Status forked = CheckOwner()) return forked;
    if (access == Access::kCode && !can_punch_) {
      return Error{ErrorCode::kNoExec,
                   "punched code could not be made executable again here (MDWE or a seccomp filter)"};
    }
    if (mprotect(at, bytes, PROT_NONE) != 0) {
      return linux_pages::Refused("giving back pages inside a slab", bytes, false, errno);
    }
    if (madvise(view, bytes, MADV_REMOVE) == 0) return true;
    int error = errno;  // EINVAL for a process that has locked its memory
    if (mprotect(at, bytes, linux_pages::Protection(access)) != 0) {
      std::memset(view, 0, bytes);
      return false;
    }
    return linux_pages::Refused("giving back pages inside a slab (MADV_REMOVE)", bytes, false, error);
  }

  bool PunchAgain(Access access, uint8_t*, size_t bytes, uint8_t* view) override {
    return access == Access::kState || madvise(view, bytes, MADV_REMOVE) == 0;
  }

  Status Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) override {
    if (access == Access::kState) return LinuxMemory::Restore(access, at, bytes, view);
    if (Status forked = CheckOwner()) return forked;
    if (mprotect(at, bytes, linux_pages::Protection(access)) == 0) return Status::Ok();
    return linux_pages::Refused("giving punched pages their access again", bytes, access == Access::kCode, errno);
  }

  bool shared() const override { return true; }

  Status OpenWindow(Access, uint8_t*, size_t) override { Die(__FILE__, __LINE__, "a write window with a view"); }
  void Write(Access, uint8_t*, const uint8_t*, size_t) override { Die(__FILE__, __LINE__, "Write with a view"); }
  void CloseWindow(Access, uint8_t*, size_t) override { Die(__FILE__, __LINE__, "a write window with a view"); }

  // Decides CanPunch by punching. Nothing is executed.
  void TryPunching() {
    size_t page = PageBytes();
    Result<uint8_t*> reserved = Reserve(2 * page);
    if (!reserved.ok()) return;
    uint8_t* base = reserved.value();
    if (Result<uint8_t*> view = Commit(Access::kCode, base, 2 * page); view.ok()) {
      // Not through Punch, which may rely on the answer: it dies where the way back is refused after a failure.
      view.value()[page] = 1;
      can_punch_ = mprotect(base + page, page, PROT_NONE) == 0 &&
                   mprotect(base + page, page, linux_pages::Protection(Access::kCode)) == 0 &&
                   madvise(view.value() + page, page, MADV_REMOVE) == 0 &&
                   *static_cast<volatile uint8_t*>(base + page) == 0;  // an emulator may say so, and do nothing
      DecommitForGood(Access::kCode, base, 2 * page, view.value());
    }
    Unreserve(base, 2 * page);
  }

 private:
  Result<uint8_t*> CommitAnonymous(Access access, uint8_t* at, size_t bytes) {
    if (Status failed = linux_pages::MapOver(access, at, bytes, MAP_SHARED | MAP_ANONYMOUS, -1, fork_mode())) {
      return failed;
    }
    uint8_t* view = ReserveView(at, bytes);
    if (view == nullptr || mremap(at, 0, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, view) == MAP_FAILED)
      return Undo(at, view, bytes, "a second view of the slab (mremap)");
    if (mprotect(view, bytes, PROT_READ | PROT_WRITE) != 0) {
      return Undo(at, view, bytes, "making the second view of the slab writable (mprotect)");
    }
    return FinishView(at, view, bytes);
  }

  Result<uint8_t*> CommitMemfd(Access access, uint8_t* at, size_t bytes) {
    int fd = linux_pages::OpenMemfd(bytes);
    if (fd < 0) return linux_pages::Refused("a memfd", bytes, false, errno);
    if (Status failed = linux_pages::MapOver(access, at, bytes, MAP_SHARED, fd, fork_mode())) {
      close(fd);
      return failed;
    }
    uint8_t* view = ReserveView(at, bytes);
    bool mapped =
        view != nullptr && mmap(view, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED;
    int error = errno;
    close(fd);
    errno = error;
    if (!mapped) return Undo(at, view, bytes, "a second view of the slab (memfd)");
    return FinishView(at, view, bytes);
  }

  Result<uint8_t*> FinishView(uint8_t* at, uint8_t* view, size_t bytes) {
    if (!linux_pages::Adopt(view, bytes, "jit-arena view", ForkMode::kDrop)) {
      return Undo(at, view, bytes, "keeping a view out of forked children");
    }
    return view;
  }

  // With errno as the failed call left it. A call that fails late may have unmapped the view's place, and what is
  // unmapped here could be somebody else's by now, if the same random address was drawn twice within microseconds.
  Status Undo(uint8_t* at, void* view, size_t bytes, const char* what) {
    Status failed = linux_pages::Refused(what, bytes, false, errno);
    if (view != nullptr) linux_pages::Unmap(view, bytes);
    linux_pages::MapNone(at, bytes, fork_mode());
    return failed;
  }

  const AliasSource source_;
  bool can_punch_ = false;
};

}  // namespace
}  // namespace linux_alias

Result<std::unique_ptr<Memory>> OpenAliasFrom(AliasSource source, Trial trial) {
  auto memory = std::make_unique<linux_alias::LinuxAlias>(source);
  memory->TryPunching();
  if (Status failed = TryMemory(*memory, trial, linux_pages::IsExecutable)) return failed;
  return std::unique_ptr<Memory>(std::move(memory));
}

Result<std::unique_ptr<Memory>> OpenAlias(Trial trial) {
  Result<std::unique_ptr<Memory>> anonymous = OpenAliasFrom(AliasSource::kAnonymous, trial);
  if (anonymous.ok()) return anonymous;
  Result<std::unique_ptr<Memory>> memfd = OpenAliasFrom(AliasSource::kMemfd, trial);
  if (memfd.ok()) return memfd;
  Error error = anonymous.status().error();
  error.message += ". With a memfd instead: " + memfd.status().error().message;
  return error;
}

}  // namespace jit_arena::os
