// What the library does when the system refuses a call: the Nth of each kind, for every N in the life of an arena, once
// and from then on, with each writer. Nothing ends the process; what is there goes on; a later try succeeds.
#include "base/bits.h"
#include "capi_host.h"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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

// What is refused: the `left`th call of this kind from now on, and, if `forever`, all that follow. Only on the thread
// that says so: what malloc and the other threads do is not the library's.
struct Fault {
  int call = -1;
  long left = 0;
  bool forever = false;
  int error = ENOMEM;
  long seen = 0;
  int as_well = -1;  // refused each time
};
Fault fault;
thread_local bool counts = false;

bool Refused(Call call) {
  if (counts && fault.as_well == call) {
    errno = fault.error;
    return true;
  }
  if (!counts || fault.call != call) return false;
  fault.seen++;
  if (fault.left == 0 || --fault.left != 0) return false;
  if (fault.forever) fault.left = 1;
  errno = fault.error;
  return true;
}

// The code of an executor that returns `number`, of a size that depends on it.
Code Returns(uint32_t number) {
  Code code;
  code.Put({0xB8, 0, 0, 0, 0, 0xC3});
  std::memcpy(code.bytes.data() + 1, &number, 4);
  code.bytes.resize(64 + number * 37 % 3000, 0xCC);
  return code;
}

// What an executor returns on this thread; ~0 when it has no entry.
uint32_t CallOf(ja_thread* thread, ja_executor id) {
  uint64_t address = 0;
  CHECK_OK(ja_enter(thread));
  ja_status status = ja_entry(thread, id, &address);
  uint32_t number = status == JA_OK ? reinterpret_cast<uint32_t (*)()>(address)() : ~0u;
  CHECK_OK(ja_leave(thread));
  return number;
}

// One life of an arena. Whatever it is refused, what it has is right.
class Life {
 public:
  Life(ja_writer writer, bool apart, ja_fork fork) {
    options_ = ja_options_init();
    options_.writer = writer;
    options_.layout = apart ? JA_LAYOUT_APART : JA_LAYOUT_TOGETHER;
    options_.fork = fork;
    options_.max_bytes = 3 * kMiB;
  }

  void Live() {
    Expect(ja_create(&options_, &arena_), "create");
    if (arena_ == nullptr) {
      Unhindered([&] { CHECK_OK(ja_create(&options_, &arena_)); });
      if (arena_ == nullptr) return;
    }
    Unhindered([&] { CHECK_OK(ja_attach(arena_, &thread_)); });
    for (uint32_t i = 0; i < 6; i++) InstallOne(i);
    InstallMany();
    for (uint32_t i = 0; i < 250; i++) InstallOne(100 + i);
    Check();
    Link();
    FreeMost();
    Check();
    Collect(0);
    Check();
    for (uint32_t i = 0; i < 150; i++) InstallOne(400 + i);
    FreeMost();
    Unhindered([&] { StartRunning(); });
    for (int slices = 0; slices < 30 && !Collect(100'000); slices++) {
    }
    Collect(0);
    InstallOne(700);
    Unhindered([&] { StopRunning(); });
    Check();
    if (options_.fork == JA_FORK_COPY) Fork();
    Free(0, ids_.size());
    Collect(0);
    Unhindered([&] { TryAgain(); });
    CHECK_OK(ja_detach(thread_));
    Expect(ja_dispose(arena_), "dispose", JA_OK);
  }

 private:
  template <class Body>
  void Unhindered(Body body) {
    counts = false;
    body();
    counts = true;
  }

  // Only what the system's refusal can mean.
  void Expect(ja_status status, const char* what, int or_else = -1) {
    Unhindered([&] {
      bool expected = status == JA_OK || (or_else != JA_OK && (status == JA_ERR_NO_MEMORY || status == JA_ERR_NO_EXEC ||
                                                               status == JA_ERR_WRITER_UNAVAILABLE ||
                                                               status == JA_ERR_FULL || status == JA_ERR_BUSY));
      if (!expected) test::Fail(__FILE__, __LINE__, std::string(what) + ": " + Name(status));
      if (status != JA_OK) CHECK(std::string(ja_last_error()->message).size() > 20);
    });
  }

  void InstallOne(uint32_t number) {
    Code code = Returns(number);
    if (number % 3 == 0) code.spec.state.size = 40;
    if (number % 4 == 0) code.spec.data.size = 24;
    if (number % 11 == 0) code.spec.movable = JA_NO;
    ja_executor id = 0;
    ja_status status = ja_install(arena_, code.Spec(), 1, &id);
    Expect(status, "install");
    if (status == JA_OK) Add(id, number);
  }

  void InstallMany() {
    std::vector<Code> codes;
    std::vector<ja_spec> specs;
    for (uint32_t i = 0; i < 20; i++) codes.push_back(Returns(20 + i));
    // A direct use of another, and one of something far away, through an external link.
    codes[3].relocs.push_back({JA_CODE, 20, JA_R_X86_64_PC32, JA_TARGET_BATCH_MEMBER, 7, -4, JA_CODE, 0});
    codes[5].relocs.push_back({JA_CODE, 20, JA_R_X86_64_GOTPCREL, JA_TARGET_ADDRESS, 0x1234'5678'9000, -4, JA_CODE, 0});
    for (Code& code : codes) specs.push_back(*code.Spec());
    std::vector<ja_executor> ids(specs.size());
    ja_status status = ja_install(arena_, specs.data(), specs.size(), ids.data());
    Expect(status, "install of many");
    if (status != JA_OK) return;
    many_at_ = ids_.size();
    many_ = ids.size();
    for (uint32_t i = 0; i < 20; i++) Add(ids[i], 20 + i);
  }

  void Link() {
    Code trace = Trace(2);
    ja_executor ids[2] = {};
    for (ja_executor& id : ids) Expect(ja_install(arena_, trace.Spec(), 1, &id), "install of a trace");
    if (ids[0] == 0 || ids[1] == 0) {
      for (ja_executor id : ids)
        if (id != 0) Expect(ja_free(arena_, &id, 1), "free of a trace", JA_OK);
      return;
    }
    Expect(ja_link(arena_, ids[0], 0, ids[1], 0), "link", JA_OK);
    uint64_t context[3] = {0, 1, 0};
    ja_taken taken;
    Expect(ja_run(thread_, ids[0], 0, context, &taken), "run", JA_OK);
    CHECK_EQ(context[0], 2u);
    Expect(ja_free(arena_, ids, 2), "free of traces", JA_OK);
  }

  void Add(ja_executor id, uint32_t number) {
    ids_.push_back(id);
    numbers_.push_back(number);
  }

  // A free never fails.
  void Free(size_t first, size_t count) {
    if (count == 0) return;
    Expect(ja_free(arena_, ids_.data() + first, count), "free", JA_OK);
    ids_.erase(ids_.begin() + static_cast<ptrdiff_t>(first), ids_.begin() + static_cast<ptrdiff_t>(first + count));
    numbers_.erase(numbers_.begin() + static_cast<ptrdiff_t>(first),
                   numbers_.begin() + static_cast<ptrdiff_t>(first + count));
  }

  void FreeMost() {
    // Those that refer to each other go together.
    Free(many_at_, std::exchange(many_, 0));
    for (size_t at = 0; at + 4 < ids_.size(); at++) Free(at, 4);
  }

  bool Collect(uint64_t pause_nanos) {
    ja_collect_options options = ja_collect_options_init();
    options.max_pause_nanos = pause_nanos;
    ja_collect_result result = ja_collect_result_init();
    Expect(ja_collect(arena_, &options, &result), "collect", JA_OK);
    return result.done != 0;
  }

  // The invariants, every function, and what the figures say.
  void Check() {
    Unhindered([&] {
      size_t problems = 99;
      CHECK_OK(ja_verify(
          arena_, [](void*, const ja_problem* problem) { std::printf("  %s\n", problem->what); }, nullptr, &problems));
      CHECK_EQ(problems, 0u);
      for (size_t i = 0; i < ids_.size(); i++) CHECK_EQ(CallOf(thread_, ids_[i]), numbers_[i]);
      CHECK_EQ(Stats().executors, ids_.size());
    });
  }

  ja_stats_result Stats() {
    ja_stats_result stats = ja_stats_result_init();
    CHECK_OK(ja_stats(arena_, &stats));
    return stats;
  }

  void StartRunning() {
    stop_ = false;
    running_ = std::thread([this, ids = ids_, numbers = numbers_] {
      ja_thread* thread = nullptr;
      CHECK_OK(ja_attach(arena_, &thread));
      while (!stop_.load(std::memory_order_relaxed))
        for (size_t i = 0; i < ids.size(); i++) wrong_ += CallOf(thread, ids[i]) != numbers[i];
      CHECK_OK(ja_detach(thread));
    });
  }

  void StopRunning() {
    stop_ = true;
    running_.join();
    CHECK_EQ(wrong_, 0);
  }

  // The child has all of it, or is told that it has nothing.
  void Fork() {
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      int failed = test::failed_checks;
      ja_executor id = 0;
      Code code = Returns(900);
      ja_status status = ja_install(arena_, code.Spec(), 1, &id);
      counts = false;
      if (status == JA_OK) Add(id, 900);
      if (ja_verify(arena_, nullptr, nullptr, nullptr) != JA_ERR_FORKED) Check();
      _exit(test::failed_checks == failed ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
  }

  // What was refused is tried again, and succeeds: nothing is lost any more.
  void TryAgain() {
    Collect(0);
    counts = false;
    CHECK_EQ(Stats().lost_bytes, 0u);
    CHECK(Stats().committed_bytes <= 2 * kMiB);
    for (uint32_t i = 0; i < 200; i++) {
      Code code = Returns(1000 + i);
      ja_executor id = 0;
      CHECK_OK(ja_install(arena_, code.Spec(), 1, &id));
      Add(id, 1000 + i);
    }
    Check();
    counts = false;
    CHECK_OK(ja_free(arena_, ids_.data(), ids_.size()));
    ids_.clear();
    numbers_.clear();
    Collect(0);
    CHECK_EQ(Stats().lost_bytes, 0u);
  }

  ja_options options_;
  ja_arena* arena_ = nullptr;
  ja_thread* thread_ = nullptr;
  std::vector<ja_executor> ids_;
  std::vector<uint32_t> numbers_;
  size_t many_at_ = 0, many_ = 0;  // those of InstallMany
  std::thread running_;
  std::atomic<bool> stop_{false};
  std::atomic<int> wrong_{0};
};

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
    counts = true;
    Life(writer, apart, nth % 3 == 0 ? JA_FORK_COPY : JA_FORK_DROP).Live();
    counts = false;
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
  counts = true;
  host.Collect(collect);
  counts = false;
  CHECK_EQ(access(), "---s");
  CHECK(lost() > 0);
  fault = {-1, 0, false, EINVAL, 0, kRemove};
  counts = true;
  host.Collect(collect);
  counts = false;
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
  counts = true;
  jit_arena::os::linux_pages::Unmap(at, kBytes);
  counts = false;
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

// Where the second way to write is refused, too, an install says so, what is there goes on, and a later install works.
TEST(a_writer_that_has_stopped_working_says_so) {
  for (ja_writer writer : {JA_WRITER_PROCMEM, JA_WRITER_FLIP}) {
    ja_options options = ja_options_init();
    options.writer = writer;
    Host host(options);
    ja_executor before = host.Install(Returns(7));
    ja_executor freed = host.Install(Returns(8));
    fault = {writer == JA_WRITER_PROCMEM ? kPwrite : kMprotect, 1, true, EPERM, 0, kMemfd};
    counts = true;
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
    counts = false;
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
