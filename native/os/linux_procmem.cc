// Linux, writer `procmem`: private memory that is never mapped writable by anyone. The kernel writes it on our behalf,
// through /proc/self/mem, as it does for a debugger that sets a breakpoint.
//
// The descriptor is opened once per process and Memory: whether it may be opened depends on the process being dumpable,
// which can change later. It goes on meaning the memory of the process that opened it, also in a forked child: there it
// is closed at once, and with ForkMode::kCopy opened anew.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "os/linux_memory.h"

namespace jit_arena::os {
namespace linux_procmem {
namespace {

// True when all bytes were written; errno otherwise.
bool WriteAll(int fd, uint8_t* at, const uint8_t* from, size_t bytes) {
  while (bytes != 0) {
    ssize_t written = pwrite(fd, from, bytes, static_cast<off_t>(reinterpret_cast<uintptr_t>(at)));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += written;
    from += written;
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

int OpenMem() { return open("/proc/self/mem", O_RDWR | O_CLOEXEC); }

Error CannotOpen(int error) {
  const char* reason = "";
  switch (error) {
    case EACCES:
    case EPERM:
      reason =
          "EACCES: the process is not dumpable (it is setuid, has dropped privileges or called "
          "prctl(PR_SET_DUMPABLE)), or a "
          "security module forbids it";
      break;
    case ENOENT:
      reason = "ENOENT: /proc is not mounted";
      break;
    case EROFS:
      reason = "EROFS: /proc is mounted read-only";
      break;
    case EMFILE:
    case ENFILE:
      reason = "no file descriptor is left (`ulimit -n`)";
      break;
  }
  return Error{ErrorCode::kNoMemory, *reason != '\0'
                                         ? Format("/proc/self/mem cannot be opened for writing; %s", reason)
                                         : Format("/proc/self/mem cannot be opened for writing; errno %d", error)};
}

class LinuxProcmem final : public LinuxMemory {
 public:
  ~LinuxProcmem() override { Close(); }

  WriterKind writer() const override { return WriterKind::kProcmem; }

  Status OpenWindow(Access, uint8_t*, size_t) override {
    if (Status forked = CheckOwner()) return forked;
    // A host may have closed every descriptor, and its own file may have the number now.
    if (!IsOpen()) Open().Ignore();  // the second way needs none
    if (Status failed = TryWriting()) return Stopped(failed.error().message);
    return Status::Ok();
  }

  void Write(Access access, uint8_t* at, const uint8_t* from, size_t bytes) override {
    if (Forked()) Die(__FILE__, __LINE__, "a forked child writes into its parent's code");
    if (WriteAll(fd_, at, from, bytes)) return;
    if (!linux_pages::Replace(access, at, from, bytes, fork_mode()))
      Die(__FILE__, __LINE__, "pwrite to /proc/self/mem, and mmap of new pages in their place");
  }
  void CloseWindow(Access, uint8_t*, size_t) override {}

  Status EnterChild() override;

  Status Open() {
    fd_ = OpenMem();
    if (fd_ < 0) return CannotOpen(errno);
    if (fstat(fd_, &identity_) == 0) return Status::Ok();
    Error error = CannotOpen(errno);
    close(std::exchange(fd_, -1));
    return error;
  }

  Status Start() {
    if (Status failed = Open()) return failed;
    if (Status failed = MakeScratch()) return failed;
    return TryWriting(false);
  }

 private:
  // Whether the descriptor still is the one that was opened.
  bool IsOpen() const {
    struct stat now;
    return fd_ >= 0 && fstat(fd_, &now) == 0 && now.st_dev == identity_.st_dev && now.st_ino == identity_.st_ino;
  }
  void Close() {
    if (IsOpen()) close(fd_);
    fd_ = -1;
  }

  // Writes a byte of scratch code, since Write may not fail: in the second way where the first is refused.
  Status TryWriting(bool second_way = true) {
    const uint8_t byte = 1;
    if (WriteAll(fd_, scratch(), &byte, 1)) return Status::Ok();
    int error = errno;
    if (second_way && linux_pages::Replace(Access::kCode, scratch(), &byte, 1, fork_mode())) return Status::Ok();
    return Error{
        ErrorCode::kNoMemory,
        Format("writing to read-only memory through /proc/self/mem failed (errno %d); the kernel was started "
               "with proc_mem.force_override=never or ptrace, or a security module or a seccomp filter forbids it",
               error)};
  }

  int fd_ = -1;  // where it could not be opened
  struct stat identity_ = {};
};

Status LinuxProcmem::EnterChild() {
  Close();
  if (fork_mode() == ForkMode::kCopy)
    if (Status failed = Open()) return failed;
  return LinuxMemory::EnterChild();
}

}  // namespace
}  // namespace linux_procmem

Result<std::unique_ptr<Memory>> OpenProcmem(Trial trial) {
  auto memory = std::make_unique<linux_procmem::LinuxProcmem>();
  if (Status failed = memory->Start()) return failed;
  if (Status failed = TryMemory(*memory, trial, linux_pages::IsExecutable)) return failed;
  return std::unique_ptr<Memory>(std::move(memory));
}

}  // namespace jit_arena::os
