// Linux, writer `procmem`: private memory that is never mapped writable by anyone. The kernel writes it on our behalf,
// through /proc/self/mem, as it does for a debugger that sets a breakpoint.
//
// The descriptor is opened once per process and Memory: whether it may be opened depends on the process being dumpable,
// which can change later. It goes on meaning the memory of the process that opened it, also in a forked child: there it
// is closed at once, and with ForkMode::kCopy opened anew.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

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

class LinuxProcmem final : public LinuxMemory {
 public:
  explicit LinuxProcmem(int fd) : fd_(fd) {}
  ~LinuxProcmem() override {
    if (fd_ >= 0) close(fd_);
  }

  WriterKind writer() const override { return WriterKind::kProcmem; }

  Status OpenWindow(Access, uint8_t*, size_t) override { return CheckOwner(); }
  void Write(uint8_t* at, const uint8_t* from, size_t bytes) override {
    if (Forked()) Die(__FILE__, __LINE__, "a forked child writes into its parent's code");
    if (!WriteAll(fd_, at, from, bytes)) Die(__FILE__, __LINE__, "pwrite to /proc/self/mem");
  }
  void CloseWindow(Access, uint8_t*, size_t) override {}

  Status EnterChild() override;

  // Writes a byte of scratch code, since Write may not fail.
  Status TryWriting() {
    size_t page = PageBytes();
    Result<uint8_t*> reserved = Reserve(page);
    if (!reserved.ok()) return std::move(reserved.status());
    uint8_t* base = reserved.value();
    Result<uint8_t*> committed = Commit(Access::kCode, base, page);
    Status failed;
    if (!committed.ok()) {
      failed = std::move(committed.status());
    } else {
      const uint8_t byte = 1;
      if (!WriteAll(fd_, base, &byte, 1)) {
        failed =
            Error{ErrorCode::kNoMemory,
                  Format("writing to read-only memory through /proc/self/mem failed (errno %d); the kernel was started "
                         "with proc_mem.force_override=never or ptrace, or a security module forbids it",
                         errno)};
      }
      Decommit(Access::kCode, base, page, nullptr);
    }
    Unreserve(base, page);
    return failed;
  }

 private:
  int fd_;  // -1 where it could not be opened again
};

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

Status LinuxProcmem::EnterChild() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  if (fork_mode() == ForkMode::kCopy && (fd_ = OpenMem()) < 0) return CannotOpen(errno);
  return LinuxMemory::EnterChild();
}

}  // namespace
}  // namespace linux_procmem

Result<std::unique_ptr<Memory>> OpenProcmem(Trial trial) {
  int fd = linux_procmem::OpenMem();
  if (fd < 0) return linux_procmem::CannotOpen(errno);
  auto memory = std::make_unique<linux_procmem::LinuxProcmem>(fd);
  if (Status failed = memory->TryWriting()) return failed;
  if (Status failed = TryMemory(*memory, trial, linux_pages::IsExecutable)) return failed;
  return std::unique_ptr<Memory>(std::move(memory));
}

}  // namespace jit_arena::os
