// What the library does when the system refuses a call: the Nth of each kind, for every N in the life of an arena, once
// and from then on, with each writer. Nothing ends the process; what is there goes on; a later try succeeds.
#include "capi_host.h"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "arena_life.h"
#include "os/linux_memory.h"

namespace {

using namespace capi_test;

enum Call {
  kMmap,
  kMunmap,
  kMprotect,
  kMremap,
  kMadvise,
  kRemove,
  kPwrite,
  kOpen,
  kFtruncate,
  kMembarrier,
  kMemfd,
  kRandom
};
constexpr const char* kNames[] = {"mmap",   "munmap", "mprotect",  "mremap",     "madvise",      "MADV_REMOVE",
                                  "pwrite", "open",   "ftruncate", "membarrier", "memfd_create", "getrandom"};
constexpr int kCalls = sizeof kNames / sizeof kNames[0];

// What is refused: the `left`th call of this kind from now on, and, if `forever`, all that follow. Only while hindered.
struct Fault {
  int call = -1;
  long left = 0;
  bool forever = false;
  int error = ENOMEM;
  long seen = 0;
  int as_well = -1;  // refused each time
};
Fault fault;

bool Refused(Call call) {
  if (hindered && fault.as_well == call) {
    errno = fault.error;
    return true;
  }
  if (!hindered || fault.call != call) return false;
  fault.seen++;
  if (fault.left == 0 || --fault.left != 0) return false;
  if (fault.forever) fault.left = 1;
  errno = fault.error;
  return true;
}

// Mappings of this library that are there.
int CountMappings() {
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  char line[512];
  int found = 0;
  while (maps != nullptr && std::fgets(line, sizeof line, maps) != nullptr)
    found += std::strstr(line, "jit-arena") != nullptr || std::strstr(line, "/dev/zero (deleted)") != nullptr;
  if (maps != nullptr) std::fclose(maps);
  return found;
}

// Whether a life without refusals makes the call; the others are second ways.
bool Uses(ja_writer writer, int call) {
  switch (call) {
    case kMprotect:
      return writer != JA_WRITER_PROCMEM;
    case kMremap:
    case kRemove:
    case kRandom:
      return writer == JA_WRITER_ALIAS;
    case kPwrite:
    case kOpen:  // others open /proc/self/maps when they are tried for the first time in the process
      return writer == JA_WRITER_PROCMEM;
    case kMembarrier:
      return writer != JA_WRITER_FLIP;
    default:
      return call != kFtruncate && call != kMemfd;
  }
}

// In a child, so that a crash is told from a failed check, and says in which life it was.
void Sweep(ja_writer writer, int call, bool forever, int error) {
  std::fflush(stdout);
  pid_t child = fork();
  if (child != 0) {
    int status = -1;
    waitpid(child, &status, 0);
    if (status != 0)
      test::Fail(__FILE__, __LINE__,
                 std::string("the child ended with ") + std::to_string(status) + " (" + kNames[call] + ", writer " +
                     std::to_string(writer) + (forever ? ", from then on)" : ", once)"));
    return;
  }
  alarm(240);
  test::failed_checks = 0;
  auto live = [&](long nth) {
    bool apart = nth % 2 == 1;
    fault = {call, nth, forever, error, 0, -1};
    Life(writer, apart, nth % 3 == 0 ? JA_FORK_COPY : JA_FORK_DROP,
         {JA_ERR_NO_MEMORY, JA_ERR_NO_EXEC, JA_ERR_WRITER_UNAVAILABLE, JA_ERR_FULL, JA_ERR_BUSY})
        .Live();
  };
  live(0);
  long total = fault.seen;
  if (Uses(writer, call)) CHECK(total > 0);
  for (long nth = 1; nth <= total + 2; nth += nth < 12 ? 1 : 1 + nth / 6) {
    int before = test::failed_checks;
    live(nth);
    if (test::failed_checks != before) {
      std::printf("  at %s number %ld of %ld%s, errno %d, writer %d\n", kNames[call], nth, total,
                  forever ? " and all that follow" : "", error, writer);
      break;
    }
    // Whoever reserves next tries again what could not be unmapped.
    ja_options options = ja_options_init();
    options.max_bytes = kMiB;
    for (int i = 0; i < 2; i++) {
      ja_arena* next = nullptr;
      CHECK_OK(ja_create(&options, &next));
      CHECK_OK(ja_dispose(next));
    }
    CHECK_EQ(CountMappings(), 0);
  }
  std::fflush(stdout);
  _exit(test::failed_checks == 0 ? 0 : 1);
}

void SweepAll(ja_writer writer) {
  for (int call = 0; call < kCalls; call++)
    for (bool forever : {false, true}) Sweep(writer, call, forever, call % 2 == 0 ? ENOMEM : EPERM);
}

}  // namespace

// In the place of libc's.
extern "C" {
void* mmap(void* at, size_t bytes, int access, int flags, int fd, off_t offset) noexcept {
  if (Refused(kMmap)) return MAP_FAILED;
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, access, flags, fd, offset));
}
void* mmap64(void* at, size_t bytes, int access, int flags, int fd, off64_t offset) noexcept {
  return mmap(at, bytes, access, flags, fd, offset);
}
int munmap(void* at, size_t bytes) noexcept {
  return Refused(kMunmap) ? -1 : static_cast<int>(syscall(SYS_munmap, at, bytes));
}
int mprotect(void* at, size_t bytes, int access) noexcept {
  return Refused(kMprotect) ? -1 : static_cast<int>(syscall(SYS_mprotect, at, bytes, access));
}
void* mremap(void* at, size_t bytes, size_t new_bytes, int flags, ...) noexcept {
  va_list more;
  va_start(more, flags);
  void* to = va_arg(more, void*);
  va_end(more);
  if (Refused(kMremap)) return MAP_FAILED;
  return reinterpret_cast<void*>(syscall(SYS_mremap, at, bytes, new_bytes, flags, to));
}
int madvise(void* at, size_t bytes, int advice) noexcept {
  return Refused(advice == MADV_REMOVE ? kRemove : kMadvise)
             ? -1
             : static_cast<int>(syscall(SYS_madvise, at, bytes, advice));
}
ssize_t pwrite(int fd, const void* from, size_t bytes, off_t at) {
  return Refused(kPwrite) ? -1 : syscall(SYS_pwrite64, fd, from, bytes, at);
}
int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  int mode = va_arg(more, int);
  va_end(more);
  return Refused(kOpen) ? -1 : static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int ftruncate(int fd, off_t bytes) noexcept {
  return Refused(kFtruncate) ? -1 : static_cast<int>(syscall(SYS_ftruncate, fd, bytes));
}
// What the library calls by number: those that some of the C libraries have no function for.
long syscall(long number, ...) noexcept {
  va_list more;
  va_start(more, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(more, long);
  va_end(more);
  if ((number == SYS_membarrier && Refused(kMembarrier)) || (number == SYS_memfd_create && Refused(kMemfd)) ||
      (number == SYS_getrandom && Refused(kRandom)))
    return -1;
  long result;
  register long r10 asm("r10") = arguments[3];
  register long r8 asm("r8") = arguments[4];
  register long r9 asm("r9") = arguments[5];
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(arguments[0]), "S"(arguments[1]), "d"(arguments[2]), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  if (result > -4096 && result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}
}

// Pages whose memory the system keeps have no access all the same, however often giving them back is tried.
TEST(punched_pages_that_are_kept_cannot_be_executed) {
  ja_options options = ja_options_init();
  options.writer = JA_WRITER_ALIAS;
  Host host(options);
  std::vector<ja_executor> ids;
  for (int i = 0; i < 20; i++) ids.push_back(host.Install(Returns(79)));  // 2 987 bytes each, in one slab
  uint64_t freed = host.Address(ids[10]);
  auto access = [&] {
    std::FILE* maps = std::fopen("/proc/self/maps", "r");
    char line[512], found[5] = "";
    unsigned long long first, last;
    char perms[5];
    while (maps != nullptr && std::fgets(line, sizeof line, maps) != nullptr)
      if (std::sscanf(line, "%llx-%llx %4s", &first, &last, perms) == 3 && first <= freed && freed < last)
        std::memcpy(found, perms, sizeof found);
    if (maps != nullptr) std::fclose(maps);
    return std::string(found);
  };
  auto lost = [&] {
    ja_stats_result stats = ja_stats_result_init();
    CHECK_OK(ja_stats(host.arena, &stats));
    return stats.lost_bytes;
  };
  ja_executor stays = host.Install(Returns(80));
  for (size_t i = 1; i < ids.size(); i++) CHECK_OK(ja_free(host.arena, &ids[i], 1));
  ja_collect_options collect = ja_collect_options_init();
  collect.compact = JA_NO;
  // The access is taken; then neither are the pages, nor is it given back.
  fault = {kMprotect, 2, true, EPERM, 0, kRemove};
  hindered = true;
  host.Collect(collect);
  hindered = false;
  CHECK_EQ(access(), "---s");
  CHECK(lost() > 0);
  fault = {-1, 0, false, EINVAL, 0, kRemove};
  hindered = true;
  host.Collect(collect);
  hindered = false;
  CHECK_EQ(access(), "---s");
  CHECK(lost() > 0);
  host.Collect(collect);
  CHECK_EQ(access(), "---s");
  CHECK_EQ(lost(), 0u);
  CHECK_OK(ja_free(host.arena, &stays, 1));
}

// What the parent could not unmap is not the child's, and something of the child's may lie there.
TEST(what_could_not_be_unmapped_is_left_alone_by_children) {
  constexpr size_t kBytes = 16 * 4096;
  void* at = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_EQ(madvise(at, kBytes, MADV_DONTFORK), 0);
  fault = {kMunmap, 1, true, ENOMEM, 0, -1};
  hindered = true;
  jit_arena::os::linux_pages::Unmap(at, kBytes);
  hindered = false;
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    void* mine = mmap(at, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    *static_cast<volatile int*>(mine) = 42;
    jit_arena::os::linux_pages::Unmap(nullptr, 0);
    _exit(*static_cast<volatile int*>(mine) == 42 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK_EQ(status, 0);
  jit_arena::os::linux_pages::Unmap(nullptr, 0);
  CHECK(mmap(at, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at);
  munmap(at, kBytes);
}

// Poison is written slab by slab, not executor by executor, where each window costs system calls.
TEST(a_free_of_many_opens_few_windows) {
  ja_options options = ja_options_init();
  options.writer = JA_WRITER_FLIP;
  Host host(options);
  std::vector<ja_executor> ids;
  for (uint32_t i = 0; i < 200; i++) ids.push_back(host.Install(Returns(i)));
  const uint64_t address = host.Address(ids[100]);
  fault = {kMprotect, 0, false, 0, 0, -1};
  hindered = true;
  CHECK_OK(ja_free(host.arena, ids.data(), 199));
  hindered = false;
  CHECK(fault.seen > 0 && fault.seen < 100);
  CHECK_EQ(*reinterpret_cast<const uint8_t*>(address), 0xCCu);
  CHECK_EQ(CallOf(host.thread, ids[199]), 199u);
  CHECK_EQ(host.Problems(), 0u);
}

// Where the second way to write is refused, too, an install says so, what is there goes on, and a later install works.
TEST(a_writer_that_has_stopped_working_says_so) {
  for (ja_writer writer : {JA_WRITER_PROCMEM, JA_WRITER_FLIP}) {
    ja_options options = ja_options_init();
    options.writer = writer;
    Host host(options);
    ja_executor before = host.Install(Returns(7));
    ja_executor freed = host.Install(Returns(8));
    fault = {writer == JA_WRITER_PROCMEM ? kPwrite : kMprotect, 1, true, EPERM, 0, kMemfd};
    hindered = true;
    for (int i = 0; i < 3; i++) {
      Code code = Returns(9);
      ja_executor id = 0;
      CHECK_STATUS(ja_install(host.arena, code.Spec(), 1, &id), JA_ERR_WRITER_UNAVAILABLE);
      CHECK(std::strstr(ja_last_error()->message, "has stopped working") != nullptr);
    }
    CHECK_OK(ja_free(host.arena, &freed, 1));
    host.Collect();
    CHECK_EQ(CallOf(host.thread, before), 7u);
    CHECK_EQ(host.Problems(), 0u);
    hindered = false;
    CHECK_EQ(CallOf(host.thread, host.Install(Returns(9))), 9u);
  }
}

TEST(system_calls_may_be_refused_alias) { SweepAll(JA_WRITER_ALIAS); }
TEST(system_calls_may_be_refused_procmem) { SweepAll(JA_WRITER_PROCMEM); }
TEST(system_calls_may_be_refused_flip) { SweepAll(JA_WRITER_FLIP); }
#else
// The sanitizers put themselves in the place of these functions.
TEST(system_calls_are_refused_in_builds_without_sanitizers) {}
#endif
