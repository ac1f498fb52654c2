// Linux: mappings, what the kernel says about them, and what to tell the caller when it refuses one.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <mutex>

#include "base/bits.h"
#include "os/linux_memory.h"

namespace jit_arena::os {
namespace linux_pages {
namespace {

// Newer than the headers of some systems that we build on.
constexpr int kPrSetVma = 0x53564d41;  // PR_SET_VMA, Linux 5.17; EINVAL without CONFIG_ANON_VMA_NAME
constexpr int kPrSetVmaAnonName = 0;   // PR_SET_VMA_ANON_NAME
constexpr int kPrGetMdwe = 66;         // PR_GET_MDWE, Linux 6.3
constexpr unsigned kMfdCloexec = 1, kMfdNoexecSeal = 8, kMfdExec = 16;

const char* VmaName(Access access) {
  switch (access) {
    case Access::kCode:
      return "jit-arena code";
    case Access::kData:
      return "jit-arena data";
    case Access::kState:
      return "jit-arena state";
  }
  return "jit-arena";
}

std::string ErrnoName(int error) {
  switch (error) {
    case EACCES:
      return "EACCES";
    case EAGAIN:
      return "EAGAIN";
    case EINVAL:
      return "EINVAL";
    case EIO:
      return "EIO";
    case EMFILE:
      return "EMFILE";
    case ENFILE:
      return "ENFILE";
    case ENOENT:
      return "ENOENT";
    case ENOMEM:
      return "ENOMEM";
    case ENOSYS:
      return "ENOSYS";
    case EPERM:
      return "EPERM";
  }
  return Format("errno %d", error);
}

// A file's first bytes as text; empty when it cannot be read.
std::string ReadSmallFile(const char* path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[64];
  ssize_t size = read(fd, text, sizeof text);
  close(fd);
  while (size > 0 && text[size - 1] == '\n') --size;
  return size > 0 ? std::string(text, static_cast<size_t>(size)) : std::string();
}

std::string LimitText(int resource) {
  rlimit limit;
  if (getrlimit(resource, &limit) != 0) return "unknown";
  if (limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return Format("%llu KiB", static_cast<unsigned long long>(limit.rlim_cur / kKiB));
}

bool WriteTo(int fd, const uint8_t* from, size_t bytes) {
  while (bytes != 0) {
    ssize_t written = write(fd, from, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    from += written;
    bytes -= static_cast<size_t>(written);
  }
  return true;
}

// Calls visit(first, last, perms) for each line of /proc/self/maps, perms being four letters such as "r-xp". Uses no
// heap, so that looking does not change what is seen. False when /proc cannot be read.
template <class Visit>
bool ForEachMapping(Visit visit) {
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buffer[4096];
  // The fields of "55d0a000-55d0b000 r-xp …" as a state machine: paths are of any length and are skipped.
  enum { kFirst, kLast, kPerms, kRest } field = kFirst;
  uintptr_t first = 0, last = 0;
  char perms[4];
  int perms_size = 0;
  ssize_t size;
  while ((size = read(fd, buffer, sizeof buffer)) > 0 || (size < 0 && errno == EINTR)) {
    for (ssize_t i = 0; i < size; ++i) {
      char c = buffer[i];
      if (c == '\n') {
        field = kFirst;
        first = last = 0;
        perms_size = 0;
      } else if (field == kFirst || field == kLast) {
        uintptr_t& number = field == kFirst ? first : last;
        if (c == '-' || c == ' ') {
          field = field == kFirst ? kLast : kPerms;
        } else {
          number = number * 16 + static_cast<uintptr_t>(c <= '9' ? c - '0' : c - 'a' + 10);
        }
      } else if (field == kPerms) {
        perms[perms_size++] = c;
        if (perms_size == 4) {
          field = kRest;
          visit(first, last, perms);
        }
      }
    }
  }
  close(fd);
  return size == 0;
}

// What limits memory here, with today's values: the reader cannot ask the process after it has died.
std::string MemoryAdvice() {
  size_t mappings = 0;
  bool counted = ForEachMapping([&](uintptr_t, uintptr_t, const char*) { ++mappings; });
  std::string most = ReadSmallFile("/proc/sys/vm/max_map_count");
  std::string text = "what can limit it: `ulimit -v` (" + LimitText(RLIMIT_AS) + "), `ulimit -d` (" +
                     LimitText(RLIMIT_DATA) + "), vm.max_map_count (";
  text += counted ? Format("%zu mappings of ", mappings) : "";
  text += (most.empty() ? "unknown" : most) + "), vm.overcommit_memory (";
  std::string overcommit = ReadSmallFile("/proc/sys/vm/overcommit_memory");
  return text + (overcommit.empty() ? "unknown" : overcommit) +
         "), the memory limit of a container or cgroup; a smaller arena needs less address space";
}

std::string ExecAdvice() {
  int mdwe = prctl(kPrGetMdwe, 0, 0, 0, 0);
  std::string selinux = ReadSmallFile("/sys/fs/selinux/enforce");
  std::string text = "what can forbid executable memory: SELinux's execmem (";
  text += selinux == "1" ? "enforcing" : selinux == "0" ? "permissive" : "not active";
  text += "), MDWE, which is systemd's MemoryDenyWriteExecute= (";
  text += mdwe < 0 ? "unknown" : (mdwe & 1) != 0 ? "on" : "off";
  return text + "), a seccomp filter of systemd or a container, PaX MPROTECT, a noexec mount";
}

std::string Advice(bool forbidden, int error) {
  if (forbidden) return "; " + ExecAdvice();
  if (error == EACCES || error == EPERM)
    return "; a security module or a seccomp filter of systemd or a container forbids it";
  if (error == EAGAIN)
    return "; the process has locked its memory (mlockall) and `ulimit -l` is " + LimitText(RLIMIT_MEMLOCK);
  return error == ENOMEM ? "; " + MemoryAdvice() : std::string();
}

}  // namespace

int Protection(Access access) {
  switch (access) {
    case Access::kCode:
      return PROT_READ | PROT_EXEC;
    case Access::kData:
      return PROT_READ;
    case Access::kState:
      return PROT_READ | PROT_WRITE;
  }
  return PROT_NONE;
}

int OpenMemfd(size_t bytes) {
  // Growing a file beyond `ulimit -f` is a SIGXFSZ and not an error.
  rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes) {
    errno = EFBIG;
    return -1;
  }
  // Which of these is allowed depends on vm.memfd_noexec and the kernel's age. The seal is about execve of the memfd,
  // not about mapping it.
  for (unsigned flags : {kMfdCloexec | kMfdExec, kMfdCloexec | kMfdNoexecSeal, kMfdCloexec}) {
    int fd = static_cast<int>(syscall(SYS_memfd_create, "jit-arena", flags));
    if (fd < 0) continue;
    if (ftruncate(fd, static_cast<off_t>(bytes)) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return -1;
}

bool Replace(Access access, uint8_t* at, const uint8_t* from, size_t bytes, ForkMode mode) {
  uint8_t* first = reinterpret_cast<uint8_t*>(AlignDown(reinterpret_cast<uintptr_t>(at), PageBytes()));
  size_t in_front = static_cast<size_t>(at - first);
  size_t whole = AlignUp(in_front + bytes, PageBytes());
  int fd = OpenMemfd(whole);
  if (fd < 0) return false;
  // Through the descriptor: a mapping to write through could be one that the kernel does not take away again.
  const uint8_t* behind = at + (from != nullptr ? bytes : 0);
  bool written = WriteTo(fd, first, static_cast<size_t>(at - first)) && (from == nullptr || WriteTo(fd, from, bytes)) &&
                 WriteTo(fd, behind, static_cast<size_t>(first + whole - behind));
  bool done = written && mmap(first, whole, Protection(access), MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED;
  // Without DONTFORK a child has a copy that nobody uses.
  if (done) static_cast<void>(Adopt(first, whole, VmaName(access), mode));
  int error = errno;
  close(fd);
  errno = error;
  return done;
}

void Unmap(void* at, size_t bytes) {
  // A few are enough: what is kept for good is kept because every munmap is refused.
  static constinit std::mutex lock;
  static constinit struct {
    void* at;
    size_t bytes;
  } kept[64] = {};
  static constinit uint32_t generation = 0;  // of the process that has what is kept: a child has none of it
  std::unique_lock guard(lock, std::try_to_lock);
  int error = errno;
  bool refused = at != nullptr && munmap(at, bytes) != 0;
  // In a forked child the lock may be another thread's for ever.
  if (guard.owns_lock()) {
    if (generation != ForkGeneration())
      for (auto& range : kept) range.at = nullptr;
    generation = ForkGeneration();
    for (auto& range : kept) {
      if (range.at != nullptr && munmap(range.at, range.bytes) == 0) range.at = nullptr;
      if (range.at != nullptr || !refused) continue;
      range = {at, bytes};
      refused = false;
    }
  }
  errno = error;
}

bool Adopt(const uint8_t* at, size_t bytes, const char* name, ForkMode mode) {
  void* start = const_cast<uint8_t*>(at);
  if (mode == ForkMode::kDrop && madvise(start, bytes, MADV_DONTFORK) != 0) return false;
  // For people who read /proc/PID/maps. Refused by kernels without the option and for memfds: nothing depends on it.
  int error = errno;
  prctl(kPrSetVma, kPrSetVmaAnonName, start, bytes, name);
  errno = error;
  return true;
}

bool MapNone(uint8_t* at, size_t bytes, ForkMode mode) {
  void* mapped = mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  // Without DONTFORK a child would inherit an empty inaccessible range, and the parent one mapping more.
  if (mapped != MAP_FAILED) static_cast<void>(Adopt(at, bytes, "jit-arena reserved", mode));
  return mapped != MAP_FAILED;
}

Status MapOver(Access access, uint8_t* at, size_t bytes, int flags, int fd, ForkMode mode) {
  const char* what = access == Access::kCode   ? "mapping code (read + execute)"
                     : access == Access::kData ? "mapping data (read)"
                                               : "mapping state (read + write)";
  void* mapped = mmap(at, bytes, Protection(access), flags | MAP_FIXED, fd, 0);
  int error = errno;
  if (mapped != MAP_FAILED && Adopt(at, bytes, VmaName(access), mode)) return Status::Ok();
  if (mapped != MAP_FAILED) error = errno;
  // Before Linux 6.12 a MAP_FIXED that fails late has unmapped the range already: then the next mmap of anybody could
  // land in the reservation. (When nothing was unmapped this changes nothing.)
  MapNone(at, bytes, mode);
  return Refused(what, bytes, access == Access::kCode, error);
}

Status Refused(const char* what, size_t bytes, bool executable, int error) {
  bool forbidden = executable && (error == EACCES || error == EPERM);
  Words message = Format("the kernel refused %s, %zu bytes", what, bytes);
  // Without memory for advice the message goes without.
  OrOutOfMemory([&] { message += ": " + ErrnoName(error) + Advice(forbidden, error); }).Ignore();
  return Error{forbidden ? ErrorCode::kNoExec : ErrorCode::kNoMemory, std::move(message)};
}

bool IsExecutable(const uint8_t* at) {
  uintptr_t address = reinterpret_cast<uintptr_t>(at);
  bool executable = false;
  bool readable = ForEachMapping([&](uintptr_t first, uintptr_t last, const char* perms) {
    if (first <= address && address < last) executable = perms[2] == 'x';
  });
  return executable || !readable;
}

}  // namespace linux_pages

bool CountWritableExecutable(const uint8_t* base, size_t bytes, size_t* found) {
  uintptr_t start = reinterpret_cast<uintptr_t>(base);
  *found = 0;
  return linux_pages::ForEachMapping([&](uintptr_t first, uintptr_t last, const char* perms) {
    // Not start + bytes, so that (nullptr, SIZE_MAX) means the whole process.
    bool inside = first < start ? start < last : first - start < bytes;
    if (inside && perms[1] == 'w' && perms[2] == 'x') ++*found;
  });
}

}  // namespace jit_arena::os
