// native/os against the real kernel: what each writer's memory can do and, in forked children that are expected to die,
// what it cannot; and what happens where the system refuses something, under real limits.
#include "os/memory.h"

#include <atomic>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

#include "base/bits.h"
#include "support/fake_memory.h"
#include "test.h"

#if defined(__linux__)
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/linux_memory.h"
#endif

using namespace jit_arena;
using namespace jit_arena::os;

namespace {

constexpr WriterKind kWriters[] = {WriterKind::kAlias, WriterKind::kProcmem, WriterKind::kFlip};
constexpr Access kAccesses[] = {Access::kCode, Access::kData, Access::kState};
constexpr int kPages = 4;  // of each access

size_t Pages(size_t count) { return count * PageBytes(); }

// Machine code of a function that returns `answer`.
std::string Function(uint32_t answer) {
#if defined(__x86_64__) || defined(_M_X64)
  uint8_t bytes[] = {0xB8, 0, 0, 0, 0, 0xC3};  // mov eax, answer; ret
  StoreAs(bytes + 1, answer);
#else
  uint8_t bytes[] = {0, 0, 0, 0, 0xC0, 0x03, 0x5F, 0xD6};  // mov w0, #answer; ret
  StoreAs(bytes, 0x52800000u | (answer << 5));
#endif
  return std::string(reinterpret_cast<char*>(bytes), sizeof bytes);
}

int Call(const uint8_t* code) {
  const uint8_t* volatile at = code;  // volatile: the compiler must not know where this goes
  return reinterpret_cast<int (*)()>(reinterpret_cast<uintptr_t>(at))();
}

// One piece of memory of each access, four pages long, with four pages of nothing after each.
struct Rig {
  explicit Rig(std::unique_ptr<Memory> opened) : memory(std::move(opened)) {
    Result<uint8_t*> reserved = memory->Reserve(Pages(8 * kPages));
    CHECK(reserved.ok());
    base = reserved.value();
    for (Access access : kAccesses) Commit(access);
  }
  ~Rig() {
    for (Access access : kAccesses) {
      if (view[Index(access)] != nullptr || committed[Index(access)]) Decommit(access);
    }
    memory->Unreserve(base, Pages(8 * kPages));
  }

  static int Index(Access access) { return static_cast<int>(access); }
  uint8_t* At(Access access) { return base + Pages(2 * kPages * static_cast<size_t>(Index(access))); }
  // The view of At(access) + offset, or null.
  uint8_t* View(Access access, size_t offset) {
    uint8_t* start = view[Index(access)];
    return start == nullptr ? nullptr : start + offset;
  }

  void Commit(Access access) {
    Result<uint8_t*> made = memory->Commit(access, At(access), Pages(kPages));
    CHECK(made.ok());
    committed[Index(access)] = made.ok();
    view[Index(access)] = made.ok() ? made.value() : nullptr;
  }
  void Decommit(Access access) {
    CHECK(memory->Decommit(access, At(access), Pages(kPages), &view[Index(access)]).ok());
    committed[Index(access)] = false;
    view[Index(access)] = nullptr;
  }

  void Put(Access access, size_t offset, const std::string& bytes) {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(bytes.data());
    if (uint8_t* to = View(access, offset)) {
      std::memcpy(to, from, bytes.size());
    } else {
      CHECK(memory->OpenWindow(access, At(access), Pages(kPages)).ok());
      memory->Write(access, At(access) + offset, from, bytes.size());
      memory->CloseWindow(access, At(access), Pages(kPages));
    }
    FlushInstructionCache(At(access) + offset, bytes.size());
  }
  // Makes every page resident.
  void Touch(Access access) {
    for (size_t page = 0; page < kPages; ++page) Put(access, Pages(page), Function(42));
  }
  Status Punch(Access access, size_t page, size_t pages) {
    Result<bool> punched = memory->Punch(access, At(access) + Pages(page), Pages(pages), View(access, Pages(page)));
    if (punched.ok()) CHECK(punched.value());
    return std::move(punched.status());
  }
  Status Restore(Access access, size_t page, size_t pages) {
    return memory->Restore(access, At(access) + Pages(page), Pages(pages), View(access, Pages(page)));
  }
  size_t WritableExecutable() {
    size_t in_range = 0, in_views = 0, found = 0;
    if (!CountWritableExecutable(base, Pages(8 * kPages), &in_range)) return 0;
    for (uint8_t* start : view) {
      if (start != nullptr && CountWritableExecutable(start, Pages(kPages), &found)) in_views += found;
    }
    return in_range + in_views;
  }

  std::unique_ptr<Memory> memory;
  uint8_t* base = nullptr;
  uint8_t* view[3] = {};
  bool committed[3] = {};
};

// Every way to get executable memory: the writers, and alias over what it falls back to.
struct Way {
  const char* name;
  Result<std::unique_ptr<Memory>> (*open)();
};
const Way kWays[] = {
    {"alias", [] { return OpenMemory(WriterKind::kAlias); }},
    {"procmem", [] { return OpenMemory(WriterKind::kProcmem); }},
    {"flip", [] { return OpenMemory(WriterKind::kFlip); }},
#if defined(__linux__)
    {"alias with a memfd", [] { return OpenAliasFrom(AliasSource::kMemfd, Trial::kThorough); }},
#endif
};

// Runs body(rig) for each way that works here.
template <class Body>
void WithEachWriter(Body body) {
  for (const Way& way : kWays) {
    Result<std::unique_ptr<Memory>> memory = way.open();
    if (!memory.ok()) {
      std::printf("  skipped: %s: %s\n", way.name, memory.status().error().message.c_str());
      continue;
    }
    int failed_before = test::failed_checks;
    {
      Rig rig(std::move(memory.value()));
      body(rig);
    }
    if (test::failed_checks != failed_before) std::printf("  (with %s)\n", way.name);
  }
}

}  // namespace

TEST(os_probe_says_what_works_or_why_not) {
  std::vector<ProbeResult> results = Probe();
  CHECK_EQ(results.size(), 3);
  int available = 0;
  for (const ProbeResult& result : results) {
    CHECK_EQ(result.available, result.reason.empty());
    CHECK_EQ(result.available, OpenMemory(result.writer).ok());
    if (result.available) ++available;
    if (!result.available) std::printf("  %s\n", result.reason.c_str());
  }
  CHECK(available != 0);
}

TEST(os_code_executes_and_can_be_rewritten) {
  WithEachWriter([](Rig& rig) {
    uint8_t* code = rig.At(Access::kCode);
    CHECK_EQ(code[Pages(kPages) - 1], 0);
    for (uint32_t answer : {42u, 7u, 255u}) {
      for (size_t offset : {size_t{0}, Pages(kPages) - 16, Pages(1) - 3}) {  // the last one crosses a page
        rig.Put(Access::kCode, offset & ~size_t{3}, Function(answer));
        CHECK_EQ(Call(code + (offset & ~size_t{3})), answer);
      }
    }
  });
}

TEST(os_data_and_state_hold_what_is_written) {
  WithEachWriter([](Rig& rig) {
    rig.Put(Access::kData, Pages(1) - 2, "constants");
    CHECK(std::memcmp(rig.At(Access::kData) + Pages(1) - 2, "constants", 9) == 0);
    CHECK_EQ(rig.view[2] == rig.At(Access::kState), true);
    rig.At(Access::kState)[100] = 9;
    CHECK_EQ(rig.At(Access::kState)[100], 9);
  });
}

TEST(os_windows_are_counted) {
  WithEachWriter([](Rig& rig) {
    if (rig.view[0] != nullptr) return;  // no windows with a view
    uint8_t* code = rig.At(Access::kCode);
    std::string one = Function(1), two = Function(2);
    CHECK(rig.memory->OpenWindow(Access::kCode, code, Pages(kPages)).ok());
    CHECK(rig.memory->OpenWindow(Access::kCode, code, Pages(kPages)).ok());
    CHECK(rig.memory->OpenWindow(Access::kData, rig.At(Access::kData), Pages(kPages)).ok());
    CHECK_EQ(rig.WritableExecutable(), 0);
    rig.memory->Write(Access::kCode, code, reinterpret_cast<const uint8_t*>(one.data()), one.size());
    rig.memory->CloseWindow(Access::kCode, code, Pages(kPages));
    rig.memory->Write(Access::kCode, code + 64, reinterpret_cast<const uint8_t*>(two.data()), two.size());
    rig.memory->CloseWindow(Access::kData, rig.At(Access::kData), Pages(kPages));
    rig.memory->CloseWindow(Access::kCode, code, Pages(kPages));
    FlushInstructionCache(code, 128);
    CHECK_EQ(Call(code), 1);
    CHECK_EQ(Call(code + 64), 2);
    CHECK_EQ(rig.WritableExecutable(), 0);
  });
}

TEST(os_restored_pages_are_zero_and_the_others_untouched) {
  WithEachWriter([](Rig& rig) {
    if (!rig.memory->CanPunch()) return;
    for (Access access : kAccesses) {
      rig.Touch(access);
      CHECK(rig.Punch(access, 1, 2).ok());
      CHECK(std::memcmp(rig.At(access), Function(42).data(), 6) == 0);
      CHECK(std::memcmp(rig.At(access) + Pages(3), Function(42).data(), 6) == 0);
      CHECK(rig.Restore(access, 1, 2).ok());
      size_t other = 0;
      for (size_t i = Pages(1); i < Pages(3); ++i) other += rig.At(access)[i] != 0;
      CHECK_EQ(other, 0);
      rig.Put(access, Pages(1), Function(3));
      CHECK(std::memcmp(rig.At(access) + Pages(1), Function(3).data(), 6) == 0);
    }
    CHECK_EQ(Call(rig.At(Access::kCode) + Pages(1)), 3);
    CHECK_EQ(Call(rig.At(Access::kCode) + Pages(3)), 42);
    CHECK_EQ(rig.WritableExecutable(), 0);
  });
}

TEST(os_committed_again_is_zero) {
  WithEachWriter([](Rig& rig) {
    for (Access access : kAccesses) {
      rig.Touch(access);
      if (rig.memory->CanPunch()) CHECK(rig.Punch(access, 1, 1).ok());
      rig.Decommit(access);
      rig.Commit(access);
      CHECK_EQ(rig.At(access)[0], 0);
      CHECK_EQ(rig.At(access)[Pages(1)], 0);
      rig.Touch(access);
    }
  });
}

TEST(os_cores_time_and_symbols) {
  CHECK(IsPowerOfTwo(PageBytes()));
  uint64_t before = NowNanos();
  if (!SynchroniseCores()) std::printf("  this kernel cannot synchronise cores\n");
  CHECK(NowNanos() >= before);
  CHECK(FindSymbol("malloc") != nullptr);
  CHECK(FindSymbol("no_such_symbol_anywhere") == nullptr);
}

TEST(os_fake_memory_follows_its_script_and_notices_misuse) {
  FakeMemory memory({.script = "x..xe"});
  CHECK_EQ(memory.Reserve(65536).status().code() == ErrorCode::kNoMemory, true);
  uint8_t* base = memory.Reserve(65536).value();
  CHECK_EQ(reinterpret_cast<uintptr_t>(base), FakeMemory::kFakeBase);
  uint8_t* view = memory.Commit(Access::kCode, base, 8192).value();
  CHECK_EQ(reinterpret_cast<uintptr_t>(view), FakeMemory::kFakeBase + FakeMemory::kFakeViewDistance);
  CHECK(!memory.Punch(Access::kCode, base + 4096, 4096, view + 4096).ok());
  CHECK_EQ(memory.Commit(Access::kData, base + 8192, 4096).status().code() == ErrorCode::kNoExec, true);
  CHECK(memory.Punch(Access::kCode, base + 4096, 4096, view + 4096).ok());
  CHECK_EQ(memory.committed_bytes(), 4096);
  CHECK_EQ(memory.fallible_calls(), 6);
  CHECK_EQ(memory.log().back(), "punch code 0x1000+0x1000");
  CHECK_EQ(memory.violations(), "");

  CHECK(!memory.Commit(Access::kData, base + 4096, 8192).ok());
  CHECK(memory.violations().find("committed already") != std::string::npos);
  CHECK(!memory.Decommit(Access::kCode, base, 4096, &view).ok());
  CHECK(memory.violations().find("only part of what was committed") != std::string::npos);
  CHECK(!memory.Punch(Access::kCode, base + 12288, 4096, nullptr).ok());
  CHECK(memory.violations().find("not committed") != std::string::npos);
  CHECK(memory.Decommit(Access::kCode, base, 8192, &view).ok());
  memory.Unreserve(base, 65536);
  CHECK_EQ(memory.live_commits() + memory.live_reservations(), 0);

  FakeMemory real({.writer = WriterKind::kFlip, .real = true});
  uint8_t* bytes = real.Reserve(8192).value();
  CHECK(real.Commit(Access::kCode, bytes, 4096).value() == nullptr);
  CHECK(real.OpenWindow(Access::kCode, bytes, 4096).ok());
  real.Write(Access::kCode, bytes + 8, reinterpret_cast<const uint8_t*>("abc"), 3);
  real.CloseWindow(Access::kCode, bytes, 4096);
  CHECK_EQ(bytes[8], 'a');
  CHECK_EQ(bytes[11], 0);
  CHECK_EQ(real.violations(), "");
  real.Write(Access::kCode, bytes, reinterpret_cast<const uint8_t*>("abc"), 3);
  CHECK(real.violations().find("not inside an open window") != std::string::npos);
}

#if defined(__linux__)

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

// --- children -------------------------------------------------------------------------------------------------------

// Runs `body` in a forked child, where failed checks are printed as usual. The result is what waitpid says.
template <class Body>
int InChild(Body body) {
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    for (int signal_number : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGABRT}) signal(signal_number, SIG_DFL);
    rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    test::failed_checks = 0;
    body();
    std::fflush(stdout);
    _exit(test::failed_checks == 0 ? 0 : 1);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

bool DiedOf(int status, int signal_number) { return WIFSIGNALED(status) && WTERMSIG(status) == signal_number; }

// The same for a body that is expected to end well.
template <class Body>
void CheckInChild(Body body) {
  int status = InChild(body);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  test::Fail(__FILE__, __LINE__, Format("the child ended with status 0x%x", status));
}

// --- /proc ----------------------------------------------------------------------------------------------------------

struct Mapping {
  uintptr_t first, last;
  std::string perms;
};

// The mappings that share an address with [at, at + bytes).
std::vector<Mapping> Mappings(const void* at, size_t bytes) {
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/maps");
  std::string line;
  uintptr_t start = reinterpret_cast<uintptr_t>(at);
  while (std::getline(maps, line)) {
    unsigned long first, last;
    char perms[5];
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &first, &last, perms) != 3) continue;
    if (first < start + bytes && start < last) found.push_back({first, last, perms});
  }
  return found;
}

size_t ResidentPages(const void* at, size_t bytes) {
  std::vector<unsigned char> pages(bytes / PageBytes());
  CHECK_EQ(mincore(const_cast<void*>(at), bytes, pages.data()), 0);
  size_t resident = 0;
  for (unsigned char page : pages) resident += page & 1;
  return resident;
}

// The number that the next file to be opened will get.
int LowestDescriptor() {
  int descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC);
  close(descriptor);
  return descriptor;
}

size_t AddressSpaceBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t pages = 0;
  statm >> pages;
  return Pages(pages);
}

// --- what a system may forbid ---------------------------------------------------------------------------------------

void LimitAddressSpace(size_t bytes) {
  rlimit limit;
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = bytes;
  setrlimit(RLIMIT_AS, &limit);
}

bool ForbidWriteExecute() { return prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0) == 0; }

// From now on the system call fails with EPERM when `mask` is 0 or has a bit in common with the argument.
bool Forbid(int call, int argument, uint32_t mask) {
  auto at = [](size_t offset) { return static_cast<uint32_t>(offset); };
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at(offsetof(seccomp_data, nr))),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, static_cast<uint8_t>(mask == 0 ? 3 : 2)),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at(offsetof(seccomp_data, args) + 8 * static_cast<size_t>(argument))),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, mask, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
  };
  if (mask == 0) {
    filter[2] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    filter[3] = filter[4];
    filter[1].jf = 1;
  }
  sock_fprog program = {sizeof filter / sizeof *filter, filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool Contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::string ReasonFor(WriterKind writer) {
  for (const ProbeResult& result : Probe()) {
    if (result.writer == writer) return result.reason;
  }
  return "no such writer";
}

void CheckReason(WriterKind writer, const char* because) {
  std::string reason = ReasonFor(writer);
  if (!Contains(reason, because)) test::Fail(__FILE__, __LINE__, "the reason is: " + reason);
}

void CheckUnavailable(WriterKind writer, const char* because) {
  CheckReason(writer, because);
  CHECK(OpenMemory(writer).status().code() == ErrorCode::kWriterUnavailable);
}

void CheckWorks(WriterKind writer) { CHECK_EQ(ReasonFor(writer), ""); }

// User-mode emulators serve code that they have translated before it was rewritten from elsewhere, and have their own
// ideas about madvise and mincore: what depends on those is tried on real kernels only.
bool Emulated() { return Contains(ReasonFor(WriterKind::kProcmem), "is not what is executed"); }

bool Skipped(WriterKind writer) {
  if (OpenMemory(writer).ok() && !Emulated()) return false;
  std::printf("  skipped: no %s here\n", WriterName(writer));
  return true;
}

bool SkippedInEmulator() {
  if (!Emulated()) return false;
  std::printf("  skipped: not a real kernel\n");
  return true;
}

Rig OpenRig(WriterKind writer) { return Rig(std::move(OpenMemory(writer).value())); }

}  // namespace

// --- access ---------------------------------------------------------------------------------------------------------

TEST(os_linux_forbidden_accesses_trap) {
  struct {
    const char* what;
    void (*body)(Rig& rig);
    bool works_with_flip_only = false;
  } cases[] = {
      {"write to code", [](Rig& rig) { *static_cast<volatile uint8_t*>(rig.At(Access::kCode)) = 1; }},
      {"write to data", [](Rig& rig) { *static_cast<volatile uint8_t*>(rig.At(Access::kData)) = 1; }},
      {"execute data", [](Rig& rig) { Call(rig.At(Access::kData)); }},
      {"execute state", [](Rig& rig) { Call(rig.At(Access::kState)); }},
      {"execute the view of code", [](Rig& rig) { rig.view[0] == nullptr ? raise(SIGSEGV) : Call(rig.view[0]); }},
      {"write beyond a commit",
       [](Rig& rig) { *static_cast<volatile uint8_t*>(rig.At(Access::kState) + Pages(kPages)) = 1; }},
      {"read punched code",
       [](Rig& rig) {
         CHECK(rig.Punch(Access::kCode, 1, 2).ok());
         static_cast<void>(*static_cast<volatile uint8_t*>(rig.At(Access::kCode) + Pages(2)));
       }},
      {"execute punched code",
       [](Rig& rig) {
         CHECK(rig.Punch(Access::kCode, 1, 1).ok());
         Call(rig.At(Access::kCode) + Pages(1));
       }},
      {"read punched data",
       [](Rig& rig) {
         CHECK(rig.Punch(Access::kData, 0, 1).ok());
         static_cast<void>(*static_cast<volatile uint8_t*>(rig.At(Access::kData)));
       }},
      {"read punched state",
       [](Rig& rig) {
         CHECK(rig.Punch(Access::kState, 3, 1).ok());
         static_cast<void>(*static_cast<volatile uint8_t*>(rig.At(Access::kState) + Pages(3)));
       }},
      {"execute released code",
       [](Rig& rig) {
         rig.Decommit(Access::kCode);
         Call(rig.At(Access::kCode));
       }},
      {"write to a released view",
       [](Rig& rig) {
         uint8_t* view = rig.view[0] == nullptr ? rig.At(Access::kCode) : rig.view[0];
         rig.Decommit(Access::kCode);
         *static_cast<volatile uint8_t*>(view) = 1;
       }},
      {"execute in an open window of flip",
       [](Rig& rig) {
         if (rig.memory->writer() != WriterKind::kFlip) raise(SIGSEGV);
         CHECK(rig.memory->OpenWindow(Access::kCode, rig.At(Access::kCode), Pages(kPages)).ok());
         Call(rig.At(Access::kCode));
       }},
      {"write after a window of flip", [](Rig& rig) { *static_cast<volatile uint8_t*>(rig.At(Access::kCode)) = 1; }},
  };
  for (WriterKind writer : kWriters) {
    if (!OpenMemory(writer).ok()) continue;
    for (const auto& c : cases) {
      int status = InChild([&] {
        Rig rig = OpenRig(writer);
        for (Access access : kAccesses) rig.Touch(access);  // a function everywhere: if it may run, it returns
        c.body(rig);
      });
      if (!DiedOf(status, SIGSEGV)) {
        test::Fail(__FILE__, __LINE__, Format("%s: %s did not trap (status 0x%x)", WriterName(writer), c.what, status));
      }
    }
  }
}

TEST(os_linux_no_mapping_is_ever_writable_and_executable) {
  WithEachWriter([](Rig& rig) {
    std::atomic<bool> stop{false};
    std::atomic<size_t> looks{0}, found{0};
    std::thread observer([&] {
      while (!stop.load()) {
        size_t count = 0;
        CHECK(CountWritableExecutable(nullptr, SIZE_MAX, &count));
        found += count;
        ++looks;
      }
    });
    for (int i = 0; i < 2000 || looks.load() < 200; ++i) {
      rig.Decommit(Access::kCode);
      rig.Commit(Access::kCode);
      rig.Put(Access::kCode, 0, Function(1));
      if (rig.memory->CanPunch()) {
        CHECK(rig.Punch(Access::kCode, 2, 1).ok());
        CHECK(rig.Restore(Access::kCode, 2, 1).ok());
      }
    }
    stop.store(true);
    observer.join();
    CHECK_EQ(found.load(), 0);
  });
}

TEST(os_linux_count_writable_executable_counts) {
  void* mapped = mmap(nullptr, Pages(3), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint8_t* pages = static_cast<uint8_t*>(mapped);
  if (mprotect(pages + Pages(1), Pages(1), PROT_READ | PROT_WRITE | PROT_EXEC) != 0) {
    std::printf("  skipped: nothing can be writable and executable here\n");
    munmap(mapped, Pages(3));
    return;
  }
  size_t found = 9;
  CHECK(CountWritableExecutable(pages, Pages(3), &found));
  CHECK_EQ(found, 1);
  CHECK(CountWritableExecutable(pages + Pages(1) + 8, 8, &found));
  CHECK_EQ(found, 1);
  CHECK(CountWritableExecutable(pages, Pages(1), &found));
  CHECK_EQ(found, 0);
  CHECK(CountWritableExecutable(pages + Pages(2), Pages(1), &found));
  CHECK_EQ(found, 0);
  CHECK(CountWritableExecutable(nullptr, SIZE_MAX, &found));
  CHECK_EQ(found, 1);
  munmap(mapped, Pages(3));
}

// --- pages and mappings ---------------------------------------------------------------------------------------------

TEST(os_linux_punch_and_decommit_give_pages_back) {
  if (SkippedInEmulator()) return;
  WithEachWriter([](Rig& rig) {
    for (Access access : kAccesses) {
      rig.Touch(access);
      uint8_t* pages = rig.View(access, 0) == nullptr ? rig.At(access) : rig.View(access, 0);
      CHECK_EQ(ResidentPages(pages, Pages(kPages)), 4);
      if (rig.memory->CanPunch()) {
        CHECK(rig.Punch(access, 1, 2).ok());
        CHECK_EQ(ResidentPages(pages, Pages(kPages)), 2);
        CHECK(rig.Restore(access, 1, 2).ok());
        CHECK_EQ(ResidentPages(pages, Pages(kPages)), 2);
      }
      rig.Decommit(access);
      CHECK_EQ(ResidentPages(rig.At(access), Pages(kPages)), 0);
      rig.Commit(access);
    }
  });
}

TEST(os_linux_a_slab_costs_two_mappings_at_most) {
  for (WriterKind writer : kWriters) {
    Result<std::unique_ptr<Memory>> opened = OpenMemory(writer);
    if (!opened.ok()) continue;
    Memory& memory = *opened.value();
    constexpr size_t kSlabs = 8;
    size_t reserved = Pages(4 * (kSlabs + 2)), slab_bytes = Pages(4);
    uint8_t* base = memory.Reserve(reserved).value();
    CHECK_EQ(Mappings(base, reserved).size(), 1);
    uint8_t* views[kSlabs];
    auto slab = [&](size_t i) { return base + (i + 1) * slab_bytes; };
    for (size_t i = 0; i < kSlabs; ++i) views[i] = memory.Commit(Access::kCode, slab(i), slab_bytes).value();
    size_t most = writer == WriterKind::kAlias ? kSlabs + 2 : 3;  // private ones merge
    CHECK_EQ(Mappings(base, reserved).size(), most);
    for (uint8_t* view : views) {
      if (view != nullptr) CHECK_EQ(Mappings(view, slab_bytes).size(), 1);
    }
    if (memory.CanPunch()) {
      uint8_t* view = views[3] == nullptr ? nullptr : views[3] + Pages(1);
      CHECK(memory.Punch(Access::kCode, slab(3) + Pages(1), Pages(2), view).ok());
      CHECK_EQ(Mappings(base, reserved).size(), most + 2);
      CHECK(memory.Restore(Access::kCode, slab(3) + Pages(1), Pages(2), view).ok());
      CHECK_EQ(Mappings(base, reserved).size(), most);
    }
    for (size_t i = 0; i < kSlabs; ++i) memory.Decommit(Access::kCode, slab(i), slab_bytes, &views[i]).Ignore();
    CHECK_EQ(Mappings(base, reserved).size(), 1);  // the hole that each left belongs to the reservation again
    memory.Unreserve(base, reserved);
  }
}

// --- refusals -------------------------------------------------------------------------------------------------------

TEST(os_linux_reserve_beyond_ulimit_v) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    std::unique_ptr<Memory> memory = std::move(OpenMemory(WriterKind::kAlias).value());
    LimitAddressSpace(AddressSpaceBytes() + 8 * kMiB);
    Result<uint8_t*> reserved = memory->Reserve(64 * kMiB);
    CHECK(reserved.status().code() == ErrorCode::kNoMemory);
    const std::string& message = reserved.status().error().message;
    CHECK(Contains(message, "`ulimit -v` (") && !Contains(message, "`ulimit -v` (unlimited"));
    CHECK(Contains(message, "vm.max_map_count (") && Contains(message, "container"));
    CHECK(memory->Reserve(1 * kMiB).ok());
  });
}

TEST(os_linux_a_commit_that_fails_changes_nothing) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    std::unique_ptr<Memory> memory = std::move(OpenMemory(WriterKind::kAlias).value());
    uint8_t* base = memory->Reserve(16 * kMiB).value();
    LimitAddressSpace(AddressSpaceBytes() + 2 * kMiB);  // enough for the memory's own mapping, not for the view
    CHECK(memory->Commit(Access::kCode, base + 4 * kMiB, 8 * kMiB).status().code() == ErrorCode::kNoMemory);
    std::vector<Mapping> mappings = Mappings(base, 16 * kMiB);
    CHECK_EQ(mappings.size(), 1);
    CHECK_EQ(mappings[0].perms, "---p");
    LimitAddressSpace(RLIM_INFINITY);
    Result<uint8_t*> view = memory->Commit(Access::kCode, base + 4 * kMiB, 8 * kMiB);
    CHECK(view.ok());
  });
}

TEST(os_linux_forbidden_executable_memory_is_no_exec) {
  if (SkippedInEmulator()) return;
  for (WriterKind writer : kWriters) {
    if (!OpenMemory(writer).ok()) continue;
    CheckInChild([&] {
      std::unique_ptr<Memory> memory = std::move(OpenMemory(writer).value());
      uint8_t* base = memory->Reserve(Pages(8)).value();
      if (!Forbid(SYS_mmap, 2, PROT_EXEC)) return;
      Result<uint8_t*> committed = memory->Commit(Access::kCode, base, Pages(4));
      CHECK(committed.status().code() == ErrorCode::kNoExec);
      CHECK(Contains(committed.status().error().message, "SELinux"));
      CHECK_EQ(Mappings(base, Pages(8)).size(), 1);
      CHECK(memory->Commit(Access::kState, base, Pages(4)).ok());
      CheckUnavailable(writer, "seccomp");  // with what an alias says about a memfd as well
    });
  }
}

TEST(os_linux_mdwe_forbids_flip_only) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    if (!ForbidWriteExecute()) {
      std::printf("  skipped: this kernel has no MDWE\n");
      return;
    }
    CheckWorks(WriterKind::kAlias);
    CheckWorks(WriterKind::kProcmem);
    CheckUnavailable(WriterKind::kFlip, "MemoryDenyWriteExecute= (on)");

    Rig alias = OpenRig(WriterKind::kAlias);
    CHECK(!alias.memory->CanPunch());
    alias.Touch(Access::kCode);
    CHECK(alias.Punch(Access::kCode, 1, 1).code() == ErrorCode::kNoExec);
    CHECK_EQ(Call(alias.At(Access::kCode) + Pages(1)), 42);
    alias.Decommit(Access::kCode);
    alias.Commit(Access::kCode);
    alias.Touch(Access::kCode);
    CHECK_EQ(Call(alias.At(Access::kCode)), 42);

    Rig procmem = OpenRig(WriterKind::kProcmem);
    CHECK(procmem.memory->CanPunch());
    procmem.Touch(Access::kCode);
    CHECK(procmem.Punch(Access::kCode, 1, 1).ok());
    CHECK(procmem.Restore(Access::kCode, 1, 1).ok());
    procmem.Touch(Access::kCode);
    CHECK_EQ(Call(procmem.At(Access::kCode) + Pages(1)), 42);
  });
}

// What systemd's MemoryDenyWriteExecute= was before MDWE.
TEST(os_linux_seccomp_filter_on_mprotect_forbids_flip_only) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    if (!Forbid(SYS_mprotect, 2, PROT_EXEC)) return;
    CheckWorks(WriterKind::kAlias);
    CHECK(!OpenMemory(WriterKind::kAlias).value()->CanPunch());
    CheckWorks(WriterKind::kProcmem);
    CheckUnavailable(WriterKind::kFlip, "EPERM");
  });
}

// MDWE that begins after the arena was made.
TEST(os_linux_what_cannot_be_restored_stays_punched) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    Rig rig = OpenRig(WriterKind::kAlias);
    rig.Touch(Access::kCode);
    CHECK(rig.Punch(Access::kCode, 1, 1).ok());
    if (!ForbidWriteExecute()) return;
    CHECK(rig.Restore(Access::kCode, 1, 1).code() == ErrorCode::kNoExec);
    std::vector<Mapping> mappings = Mappings(rig.At(Access::kCode) + Pages(1), Pages(1));
    CHECK_EQ(mappings.size(), 1);
    CHECK_EQ(mappings[0].perms, "---s");
    CHECK_EQ(Call(rig.At(Access::kCode)), 42);
  });
}

// Locked memory cannot be punched through a shared mapping: the failure after the first step is undone.
TEST(os_linux_a_punch_that_fails_changes_nothing) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    Rig rig = OpenRig(WriterKind::kAlias);
    rig.Touch(Access::kCode);
    if (syscall(SYS_mlock, rig.view[0], Pages(kPages)) != 0) {  // sanitizers make mlock do nothing
      std::printf("  skipped: memory cannot be locked\n");
      return;
    }
    CHECK(!rig.Punch(Access::kCode, 1, 1).ok());
    CHECK_EQ(Mappings(rig.At(Access::kCode), Pages(kPages)).size(), 1);
    for (size_t page = 0; page < kPages; ++page) CHECK_EQ(Call(rig.At(Access::kCode) + Pages(page)), 42);
  });
}

TEST(os_linux_alias_uses_a_memfd_where_mremap_fails) {
  if (Skipped(WriterKind::kAlias)) return;
  CheckInChild([] {
    if (!Forbid(SYS_mremap, 0, 0)) return;
    int descriptor = LowestDescriptor();
    CheckWorks(WriterKind::kAlias);
    Rig rig = OpenRig(WriterKind::kAlias);
    CHECK(rig.memory->CanPunch());
    rig.Touch(Access::kCode);
    CHECK(rig.Punch(Access::kCode, 1, 2).ok());
    CHECK_EQ(ResidentPages(rig.view[0], Pages(kPages)), 2);
    CHECK(rig.Restore(Access::kCode, 1, 2).ok());
    rig.Touch(Access::kCode);
    CHECK_EQ(Call(rig.At(Access::kCode) + Pages(2)), 42);
    CHECK_EQ(rig.WritableExecutable(), 0);
    CHECK_EQ(LowestDescriptor(), descriptor);  // none stays behind
  });
  CheckInChild([] {
    rlimit small = {4096, 4096};
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK(!OpenAliasFrom(AliasSource::kMemfd, Trial::kThorough).ok());  // and no SIGXFSZ
    CheckWorks(WriterKind::kAlias);
  });
}

TEST(os_linux_a_process_that_is_not_dumpable_has_no_procmem) {
  CheckInChild([] {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) {
      std::printf("  skipped: cannot stop being root\n");
      return;
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    CheckWorks(WriterKind::kFlip);
    CheckUnavailable(WriterKind::kProcmem, "not dumpable");
  });
}

TEST(os_linux_memory_that_is_not_really_executable_is_not_executed) {
  WithEachWriter([](Rig& rig) {
    CHECK(TryMemory(*rig.memory, Trial::kThorough, [](const uint8_t*) { return false; }).code() == ErrorCode::kNoExec);
  });
  CHECK(linux_pages::IsExecutable(reinterpret_cast<const uint8_t*>(&TryMemory)));
  CHECK(!linux_pages::IsExecutable(reinterpret_cast<const uint8_t*>(&kWays)));
}

TEST(os_linux_read_implies_exec_is_noticed) {
  if (SkippedInEmulator()) return;
  CheckInChild([] {
    if (personality(READ_IMPLIES_EXEC) == -1) return;
    for (WriterKind writer : kWriters) CheckReason(writer, "READ_IMPLIES_EXEC");
  });
}

// At vm.max_map_count nothing can be split: punching fails, releasing works or at least does no harm.
TEST(os_linux_at_the_mapping_limit) {
  if (SkippedInEmulator()) return;
  if (kSanitized) {
    std::printf("  skipped: sanitizers need mappings of their own\n");
    return;
  }
  size_t limit = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  if (limit > 1 << 17) {
    std::printf("  skipped: vm.max_map_count is %zu\n", limit);
    return;
  }
  for (WriterKind writer : kWriters) {
    if (!OpenMemory(writer).ok()) continue;
    CheckInChild([&] {
      std::unique_ptr<Memory> memory = std::move(OpenMemory(writer).value());
      size_t slab = Pages(4);
      uint8_t* base = memory->Reserve(8 * slab).value();
      uint8_t* at[] = {base + slab, base + 2 * slab, base + 3 * slab};
      uint8_t* views[3];
      for (int i = 0; i < 3; ++i) {
        views[i] = memory->Commit(Access::kCode, at[i], slab).value();
        std::string code = Function(42);
        if (views[i] != nullptr) {
          std::memcpy(views[i], code.data(), code.size());
        } else {
          CHECK(memory->OpenWindow(Access::kCode, at[i], slab).ok());
          memory->Write(Access::kCode, at[i], reinterpret_cast<const uint8_t*>(code.data()), code.size());
          memory->CloseWindow(Access::kCode, at[i], slab);
        }
      }
      uint8_t* state = base + 5 * slab;
      CHECK(memory->Commit(Access::kState, state, 2 * slab).ok());
      state[0] = 1;

      size_t filler_bytes = Pages(2 * limit);
      void* mapped = mmap(nullptr, filler_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      CHECK(mapped != MAP_FAILED);
      uint8_t* filler = static_cast<uint8_t*>(mapped);
      for (size_t i = 1; i < 2 * limit; i += 2) {
        if (mprotect(filler + Pages(i), Pages(1), PROT_READ) != 0) break;
      }

      CHECK(memory->Punch(Access::kCode, at[1], Pages(1), views[1]).status().code() == ErrorCode::kNoMemory);
      CHECK(memory->Punch(Access::kState, state + Pages(1), Pages(1), state + Pages(1)).status().code() ==
            ErrorCode::kNoMemory);
      CHECK_EQ(Call(at[1]), 42);
      // Private neighbours are one mapping, and none can be cut out of it: it stays, and is tried again.
      bool merged = views[1] == nullptr;
      CHECK_EQ(memory->Decommit(Access::kCode, at[1], slab, &views[1]).code() == ErrorCode::kNoMemory, merged);
      if (merged) CHECK_EQ(Call(at[1]), 42);
      CHECK_EQ(Call(at[0]), 42);
      CHECK_EQ(Call(at[2]), 42);

      munmap(filler, filler_bytes);
      if (merged) CHECK(memory->Decommit(Access::kCode, at[1], slab, &views[1]).ok());
      Result<uint8_t*> again = memory->Commit(Access::kCode, at[1], slab);
      CHECK(again.ok());
      CHECK_EQ(at[1][0], 0);
      CHECK_EQ(state[0], 1);
      CHECK(memory->Decommit(Access::kCode, at[1], slab, &again.value()).ok());
      uint8_t* itself = state;
      CHECK(memory->Decommit(Access::kState, state, 2 * slab, &itself).ok());
      CHECK(memory->Decommit(Access::kCode, at[0], slab, &views[0]).ok());
      CHECK(memory->Decommit(Access::kCode, at[2], slab, &views[2]).ok());
      CHECK_EQ(Mappings(base, 8 * slab).size(), 1);
      memory->Unreserve(base, 8 * slab);
    });
  }
}

// --- fork -----------------------------------------------------------------------------------------------------------

TEST(os_linux_a_child_has_none_of_the_memory) {
  if (SkippedInEmulator()) return;
  WithEachWriter([](Rig& rig) {
    for (Access access : kAccesses) rig.Touch(access);
    uint32_t generation = ForkGeneration();
    CheckInChild([&] {
      CHECK_EQ(ForkGeneration(), generation + 1);
      CHECK_EQ(Mappings(rig.base, Pages(8 * kPages)).size(), 0);
      for (uint8_t* view : rig.view) {
        if (view != nullptr) CHECK_EQ(Mappings(view, Pages(kPages)).size(), 0);
      }
      // What the child maps there is the child's.
      void* own =
          mmap(rig.base, Pages(8 * kPages), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      CHECK(own == rig.base);
      CHECK(rig.memory->Reserve(Pages(1)).status().code() == ErrorCode::kForked);
      CHECK(rig.memory->Commit(Access::kCode, rig.base, Pages(1)).status().code() == ErrorCode::kForked);
      CHECK(rig.Punch(Access::kCode, 1, 1).code() == ErrorCode::kForked);
      for (Access access : kAccesses) rig.Decommit(access);
      rig.memory->Unreserve(rig.base, Pages(8 * kPages));
      CHECK_EQ(Mappings(rig.base, Pages(8 * kPages)).size(), 1);
      CHECK(SynchroniseCores() || !SynchroniseCores());
      CHECK(Probe()[0].available);  // an arena of its own
      CheckInChild([&] { CHECK_EQ(ForkGeneration(), generation + 2); });
    });
    CHECK_EQ(ForkGeneration(), generation);
    CHECK_EQ(Call(rig.At(Access::kCode)), 42);
  });
}

TEST(os_linux_a_child_cannot_write_into_its_parent) {
  if (Skipped(WriterKind::kProcmem)) return;
  Rig rig = OpenRig(WriterKind::kProcmem);
  rig.Touch(Access::kCode);
  std::string other = Function(9);
  int status = InChild([&] {
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(quiet, 2);
    rig.memory->Write(Access::kCode, rig.At(Access::kCode), reinterpret_cast<const uint8_t*>(other.data()),
                      other.size());
  });
  CHECK(DiedOf(status, SIGABRT));
  CHECK_EQ(Call(rig.At(Access::kCode)), 42);
}

TEST(os_linux_cores_are_synchronised_from_many_threads_and_after_fork) {
  bool works = SynchroniseCores();
  if (!works) return;
  CheckInChild([] {  // a process in which nobody has registered yet
    std::atomic<int> failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 100; ++j) failed += SynchroniseCores() ? 0 : 1;
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(failed.load(), 0);
  });
}

#endif  // __linux__
