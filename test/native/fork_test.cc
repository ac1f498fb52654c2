// Arenas and fork(): what a child gets of one, and that it can do its parent no harm, while threads of the parent
// execute, install and collect. Children answer with their exit status, and say on stderr what was wrong.
#if defined(__linux__)

#include "os/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/bits.h"
#include "core/arena.h"
#include "os/linux_memory.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

constexpr int kFewer =
#if JIT_ARENA_DEBUG
    10;  // every call is followed by all the checks
#else
    kSanitized ? 5 : 1;  // a fork copies the sanitizer's tables as well
#endif

// --- children -------------------------------------------------------------------------------------------------------

// What a child does inside fork() before this library's handler is called there: that is before it copies anything.
void (*in_window)() = nullptr;

void Window() {
  if (in_window != nullptr) in_window();
}

// Handlers in a child run in the order in which they were registered, and the library registers while it is loaded:
// this must come before.
__attribute__((constructor(101))) void RegisterWindow() { pthread_atfork(nullptr, nullptr, &Window); }

// In a child: says what is wrong and ends it.
#define EXPECT(condition) ((condition) ? static_cast<void>(0) : Wrong(#condition, __LINE__))
[[noreturn]] void Wrong(const char* what, int line) {
  dprintf(2, "  in the child: %s:%d: %s\n", __FILE__, line, what);
  _exit(1);
}

// The allocators of the sanitizers do not survive, in a child, a fork in the middle of another thread's malloc: there
// threads change nothing while this one forks. (They do execute.)
std::mutex fork_lock;
std::unique_lock<std::mutex> KeepFromForking() {
  return kSanitized ? std::unique_lock(fork_lock) : std::unique_lock<std::mutex>();
}

pid_t ForkSafely() {
  std::fflush(stdout);
  auto guard = KeepFromForking();
  return fork();
}

// Runs `body` in a forked child, which ends with 0 unless it says otherwise, and within a minute.
template <class Body>
pid_t Fork(Body body) {
  pid_t child = ForkSafely();
  if (child != 0) return child;
  alarm(60);
  body();
  _exit(0);
}

int Wait(pid_t child) {
  int status = -1;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

template <class Body>
void InChild(Body body) {
  CHECK_EQ(Wait(Fork(body)), 0);
}

void SleepMillis(int millis) { poll(nullptr, 0, millis); }

// --- an arena that executes -----------------------------------------------------------------------------------------

int Twice(int value) { return 2 * value; }

// Returns its value + 310. Every way in which code depends on where it is takes part: relative and absolute references
// to its data, its state, a call out of the arena.
Program Adder(uint32_t value, uint32_t padding, int (*called)(int) = &Twice) {
  using namespace x64;
  Assembler code;
  code.Push(kRbx).Load32(kRbx, OwnData(0)).Move32(kRdi, 5).Call(Outside(called)).Add32(kRbx, kRax);
  code.MoveAddress(kRax, OwnData(4)).Put({0x03, 0x18});  // add ebx, [rax]
  code.Add32(kRbx, OwnState(0)).Move32(kRax, kRbx).Pop(kRbx).Ret().Fill(padding, 0xCC);
  Program program = Program::Of(code);
  program.sections[1].resize(8 + padding / 4);
  StoreAs<uint32_t>(program.sections[1].data(), value);
  StoreAs<uint32_t>(program.sections[1].data() + 4, 100);
  program.sections[2].resize(4);
  StoreAs<uint32_t>(program.sections[2].data(), 200);
  return program;
}
uint32_t ResultOf(uint32_t value) { return value + 310; }

uint32_t CallAt(Arena& arena, uint64_t entry) {
  arch::CallFrame frame{};
  arena.call_gate()(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
  return static_cast<uint32_t>(frame.integer_result);
}

struct Machine {
  struct Options {
    os::WriterKind writer = os::WriterKind::kAlias;
    os::ForkMode fork = os::ForkMode::kCopy;
    bool apart = false;
    bool memfd = false;
  };
  explicit Machine(Options given) {
    ArenaOptions options;
    options.writer = given.writer;
    options.fork = given.fork;
    options.apart = given.apart;
    options.max_bytes = 8 * kMiB;
    std::unique_ptr<os::Memory> memory;
    if (given.memfd) {
      Result<std::unique_ptr<os::Memory>> opened = os::OpenAliasFrom(os::AliasSource::kMemfd, os::Trial::kQuick);
      CHECK(opened.ok());
      if (!opened.ok()) return;
      memory = std::move(opened.value());
    }
    Result<std::unique_ptr<Arena>> made = Arena::Create(options, std::move(memory));
    if (!made.ok()) {
      std::printf("  skipped: %s: %s\n", os::WriterName(given.writer), made.status().error().message.c_str());
      return;
    }
    arena = std::move(made.value());
    self = arena->reclaimer().Attach();
  }

  Result<ExecutorId> TryInstall(uint32_t value, uint32_t padding, int (*called)(int) = &Twice) {
    Program program = Adder(value, padding, called);
    ExecutorSpec spec = program.Spec();
    std::string name = std::to_string(value);
    spec.name = name;  // so that a child knows what to expect of what it finds
    ExecutorId id = 0;
    Status failed = arena->Install(&spec, 1, &id, self);
    if (!failed.ok()) return failed;
    return id;
  }
  ExecutorId Install(uint32_t value, uint32_t padding = 100, int (*called)(int) = &Twice) {
    Result<ExecutorId> id = TryInstall(value, padding, called);
    CHECK(id.ok());
    return id.ok() ? id.value() : 0;
  }
  Status Free(ExecutorId id) { return arena->Free(&id, 1, self); }
  uint32_t Call(ExecutorId id) {
    Pinned pinned(arena->reclaimer(), *self);
    return CallAt(*arena, arena->EntryOf(id));
  }

  // The whole check of an arena in a child: it is all there, and everything can be done with it.
  void ExpectWorks() {
    EXPECT(arena->CheckProcess().ok());
    EXPECT(arena->CheckInvariants() == "");
    std::vector<ExecutorId> ids = ExpectRightCalls();
    // What the parent has retired under the pin of the thread that forked may have reached the limit.
    bool full = self->depth != 0;
    for (uint32_t i = 0; i < 40; i++) {
      Result<ExecutorId> id = TryInstall(7'000'000 + i, i * 37);
      EXPECT(id.ok() || (full && id.status().code() == ErrorCode::kRetiredLimit));
    }
    for (size_t i = 0; i < ids.size(); i++)
      if (i % 4 != 1) EXPECT(Free(ids[i]).ok());
    CollectResult collected = arena->Collect({}, self);
    EXPECT(collected.done || full);
    EXPECT(arena->CheckInvariants() == "");
    ExpectRightCalls();
    if (self->depth == 0) EXPECT(arena->Stats().retired_bytes == 0);
  }
  std::vector<ExecutorId> ExpectRightCalls() {
    std::vector<ExecutorId> ids = arena->Executors();
    EXPECT(!ids.empty());
    for (ExecutorId id : ids) {
      Result<ExecutorInfo> info = arena->Describe(id);
      EXPECT(info.ok());
      EXPECT(Call(id) == ResultOf(static_cast<uint32_t>(std::stoul(std::string(info.value().name)))));
    }
    return ids;
  }
  // What a child says that has none of it.
  void ExpectLost(const char* reason) {
    Status failed = arena->CheckProcess();
    EXPECT(failed.code() == ErrorCode::kForked);
    if (failed.error().message.find(reason) == std::string::npos) Wrong(failed.error().message.c_str(), __LINE__);
    EXPECT(TryInstall(1, 1).status().code() == ErrorCode::kForked);
    EXPECT(arena->Collect({}, self).moved == 0);
  }

  std::unique_ptr<Arena> arena;
  PinSlot* self = nullptr;
};

// The arena's owner goes on as if nothing had been.
void CheckUnharmed(Machine& machine) {
  CHECK_EQ(machine.arena->CheckInvariants(), "");
  for (ExecutorId id : machine.arena->Executors()) {
    std::string name(machine.arena->Describe(id).value().name);
    CHECK_EQ(machine.Call(id), ResultOf(static_cast<uint32_t>(std::stoul(name))));
  }
  ExecutorId id = machine.Install(4242);
  CHECK_EQ(machine.Call(id), ResultOf(4242));
  CHECK(machine.Free(id).ok());
}

// Another thread is pinned and gets no time: a flip waits for it up to a bound, and retired bytes have a limit.
bool IsForNow(const Status& failed) {
  return failed.code() == ErrorCode::kBusy || failed.code() == ErrorCode::kRetiredLimit;
}

// Threads of the parent: one executes, one installs, frees and collects, from construction to destruction.
class Bustle {
 public:
  explicit Bustle(Machine& machine) : machine_(machine), ids_(kSlots) {
    executing_ = std::thread([this] { Execute(); });
    changing_ = std::thread([this] { Change(); });
    while (moved_ == 0 || calls_ == 0) SleepMillis(1);
  }
  ~Bustle() {
    stop_ = true;
    executing_.join();
    changing_.join();
    CHECK_EQ(wrong_.load(), 0);
  }

 private:
  static constexpr uint32_t kSlots = 250;

  void Execute() {
    Reclaimer& reclaimer = machine_.arena->reclaimer();
    PinSlot* pin = reclaimer.Attach();
    for (uint32_t random = 1; !stop_;) {
      random = random * 1664525 + 1013904223;
      uint32_t slot = (random >> 8) % kSlots;
      uint64_t id = ids_[slot].load(std::memory_order_acquire);
      if (id == 0) continue;
      Pinned pinned(reclaimer, *pin);
      if (uint64_t entry = machine_.arena->EntryOf(id)) {
        wrong_ += CallAt(*machine_.arena, entry) != ResultOf(slot);
        calls_++;
      }
    }
    reclaimer.Detach(pin);
  }

  void Change() {
    std::mt19937 random(3);
    Arena& arena = *machine_.arena;
    PinSlot* pin = arena.reclaimer().Attach();
    bool again = false;
    for (uint32_t step = 1, slot = 0; !stop_; step += !again) {
      if (again) SleepMillis(1);
      auto guard = KeepFromForking();
      if (!again) slot = random() % kSlots;
      again = false;
      if (uint64_t id = ids_[slot].exchange(0)) {
        wrong_ += !arena.Free(&id, 1, pin).ok();
      } else {
        Program program = Adder(slot, random() % 3000);
        ExecutorSpec spec = program.Spec();
        std::string name = std::to_string(slot);
        spec.name = name;
        ExecutorId installed = 0;
        Status failed = arena.Install(&spec, 1, &installed, pin);
        again = IsForNow(failed);
        wrong_ += !failed.ok() && !again;
        ids_[slot].store(installed, std::memory_order_release);
      }
      if (step % 100 == 0 && !again) moved_ += arena.Collect({}, pin).moved;
    }
    arena.reclaimer().Detach(pin);
  }

  Machine& machine_;
  std::vector<std::atomic<uint64_t>> ids_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> wrong_{0}, calls_{0}, moved_{0};
  std::thread executing_, changing_;
};

template <class Body>
void WithEachWriter(os::ForkMode fork, Body body, bool apart = false) {
  for (os::WriterKind writer : kAllWriters) {
    Machine machine({.writer = writer, .fork = fork, .apart = apart});
    if (!machine.arena) continue;
    int failed_before = test::failed_checks;
    body(machine, writer);
    if (test::failed_checks != failed_before) std::printf("  (%s)\n", os::WriterName(writer));
  }
}

// Lines of /proc/self/maps in the arena's range with these permissions.
int CountMappings(uint64_t address, uint64_t bytes, const char* permissions) {
  FILE* maps = std::fopen("/proc/self/maps", "r");
  int count = 0;
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    unsigned long long first = 0, last = 0;
    char perms[5] = {};
    if (std::sscanf(line, "%llx-%llx %4s", &first, &last, perms) != 3) continue;
    count += first >= address && first < address + bytes && std::strcmp(perms, permissions) == 0;
  }
  std::fclose(maps);
  return count;
}

std::vector<int> DescriptorsOfMemory() {
  std::vector<int> found;
  for (int fd = 0; fd < 256; fd++) {
    char target[64] = {};
    std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (readlink(link.c_str(), target, sizeof target - 1) < 0) continue;
    std::string path(target);
    if (path.size() > 4 && path.compare(path.size() - 4, 4, "/mem") == 0) found.push_back(fd);
  }
  return found;
}

}  // namespace

// --- drop -----------------------------------------------------------------------------------------------------------

TEST(fork_drop_a_child_that_tries_cannot_harm_its_parent) {
  WithEachWriter(os::ForkMode::kDrop, [](Machine& machine, os::WriterKind writer) {
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 200; i++) ids.push_back(machine.Install(i, 500));
    ExecutorId id = ids[0];
    uint64_t code = machine.arena->EntryOf(id);
    std::vector<int> descriptors = DescriptorsOfMemory();
    CHECK_EQ(descriptors.size(), writer == os::WriterKind::kProcmem ? 1 : 0);
    InChild([&] {
      uint8_t* page = reinterpret_cast<uint8_t*>(AlignDown(code, 4096));
      uint8_t byte = 0xCC;
      // Nothing is there that could be made writable, or through which the parent's memory could be written.
      // (A sanitizer's runtime may have mapped memory of its own there.)
      EXPECT(kSanitized || (mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0 && errno == ENOMEM));
      for (int fd : descriptors) EXPECT(pwrite(fd, &byte, 1, static_cast<off_t>(code)) < 0 && errno == EBADF);
      machine.ExpectLost("was not inherited");
      EXPECT(machine.Free(id).code() == ErrorCode::kForked);
      EXPECT(machine.arena->Freeze(&id, 1, machine.self).code() == ErrorCode::kForked);
      // What the child maps there is the child's.
      void* own = mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      EXPECT(own == page);
      std::memset(own, 0xCC, 4096);
      machine.arena.reset();
      EXPECT(page[0] == 0xCC);
    });
    CheckUnharmed(machine);
  });
}

TEST(fork_drop_whatever_returns_a_status_says_so) {
  WithEachWriter(os::ForkMode::kDrop, [](Machine& machine, os::WriterKind) {
    ExecutorId id = machine.Install(1), retired = machine.Install(2);
    Program staged = Adder(3, 10), trace;
    trace.sections[0] = std::vector<uint8_t>(16, 0xCC);
    ExecutorSpec trace_spec = trace.Spec();
    trace_spec.exit_count = 2;
    ExecutorId writable = machine.arena->Allocate(staged.Spec()).value();
    ExecutorId source = 0;
    CHECK(machine.arena->Install(&trace_spec, 1, &source, machine.self).ok());
    {
      Pinned pinned(machine.arena->reclaimer(), *machine.self);
      CHECK(machine.Free(retired).ok());  // and not reclaimed
      InChild([&] {
        Arena& arena = *machine.arena;
        auto forked = [](const Status& status) { return status.code() == ErrorCode::kForked; };
        ExecutorSpec spec = staged.Spec();
        ExecutorId other = 0;
        uint8_t byte = 0;
        RelocSpec reloc{Section::kCode, 1, TargetKind::kAddress, 0, 0, 0};
        EXPECT(forked(arena.Allocate(spec).status()));
        EXPECT(forked(arena.Write(writable, Section::kCode, 0, &byte, 1)));
        EXPECT(forked(arena.Write(id, Section::kState, 0, &byte, 1)));
        EXPECT(forked(arena.AddRelocs(writable, &reloc, 1)));
        EXPECT(forked(arena.Freeze(&writable, 1, machine.self)));
        EXPECT(forked(arena.Install(&spec, 1, &other, machine.self)));
        EXPECT(forked(arena.Free(&id, 1, machine.self)));
        EXPECT(forked(arena.Invalidate(id, machine.self)));
        EXPECT(forked(arena.Link(source, 0, source, 0)));
        EXPECT(forked(arena.Unlink(source, 0)));
        EXPECT(forked(arena.UnlinkAll()));
        EXPECT(forked(arena.LinkOf(source, 0).status()));
        EXPECT(forked(arena.ChainDepth(source).status()));
        EXPECT(forked(arena.Replace(source, source)));
        EXPECT(forked(arena.SetHotStub(source, machine.self)));
        EXPECT(forked(arena.SetHotStub(0, machine.self)));
        EXPECT(forked(arena.ExitTag(source, 0).status()));
        EXPECT(forked(arena.ExitTag(retired, 0).status()));
        EXPECT(forked(arena.Read(id, Section::kCode, 0, &byte, 1)));
        EXPECT(forked(arena.Describe(id).status()));
        EXPECT(forked(arena.EntryOffset(id, 0).status()));
        EXPECT(forked(arena.AddThunk(nullptr, machine.self).status()));
        // What returns none does nothing.
        EXPECT(arena.Collect({}, machine.self).moved == 0);
        EXPECT(arena.Verify().empty());
        EXPECT(arena.CheckInvariants().empty());
        EXPECT(!arena.Find(arena.EntryOf(id)));
        arena.PlanCompaction();
        arena.Stats();
        arena.Slabs();
      });
    }
    CHECK_EQ(machine.arena->CheckInvariants(), "");
  });
}

// The lock may be held by another thread when the process is forked.
TEST(fork_drop_a_child_finds_no_lock_taken) {
  WithEachWriter(os::ForkMode::kDrop, [](Machine& machine, os::WriterKind) {
    {
      Bustle bustle(machine);
      for (int i = 0; i < 100 / kFewer; i++) {
        InChild([&] {
          machine.ExpectLost("was not inherited");
          EXPECT(machine.arena->reclaimer().Attach() != nullptr);
          if (i % 3 == 0) InChild([&] { machine.ExpectLost("was not inherited"); });
          machine.arena.reset();
        });
      }
    }
    CheckUnharmed(machine);
  });
}

// --- copy -----------------------------------------------------------------------------------------------------------

TEST(fork_copy_the_child_has_it_all_while_the_parent_goes_on) {
  struct Case {
    Machine::Options options;
    int forks;
  };
  for (const Case& one :
       {Case{{.writer = os::WriterKind::kAlias}, 100}, Case{{.writer = os::WriterKind::kProcmem}, 100},
        Case{{.writer = os::WriterKind::kFlip}, 100}, Case{{.writer = os::WriterKind::kAlias, .apart = true}, 30},
        Case{{.writer = os::WriterKind::kAlias, .memfd = true}, 30}}) {
    Machine machine(one.options);
    if (!machine.arena) continue;
    int failed_before = test::failed_checks;
    {
      Bustle bustle(machine);
      for (int i = 0; i < one.forks / kFewer && test::failed_checks == failed_before; i++) {
        pid_t child = Fork([&] {
          // Let the parent move everything that this process has not copied.
          if (i % 4 == 0) SleepMillis(10);
          machine.ExpectWorks();
        });
        // Some of them at the same time as the next.
        if (i % 5 != 0) CHECK_EQ(Wait(child), 0);
      }
      for (int status = 0; waitpid(-1, &status, 0) > 0;) CHECK_EQ(status, 0);
    }
    CheckUnharmed(machine);
    if (test::failed_checks != failed_before)
      std::printf("  (%s%s%s)\n", os::WriterName(one.options.writer), one.options.apart ? ", apart" : "",
                  one.options.memfd ? ", memfd" : "");
  }
}

TEST(fork_copy_children_fork_too) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind) {
    for (uint32_t i = 0; i < 300; i++) machine.Install(i, 400);
    {
      Bustle bustle(machine);
      for (int i = 0; i < 20 / kFewer + 1; i++) {
        InChild([&] {
          pid_t grandchild = Fork([&] {
            InChild([&] { machine.ExpectWorks(); });
            machine.ExpectWorks();
          });
          machine.ExpectWorks();
          EXPECT(Wait(grandchild) == 0);
          machine.ExpectRightCalls();
        });
      }
    }
    CheckUnharmed(machine);
  });
}

// --- in the middle of a call

namespace {

Machine* forking_machine = nullptr;
pid_t forked_child = -1;

// What machine code calls: forks, and goes on in both processes.
int ForkNow(int value) {
  forked_child = ForkSafely();
  if (forked_child == 0) {
    // Under the pin of the call that is on the stack: its code is moved away, or freed, and stays all the same.
    forking_machine->ExpectWorks();
    EXPECT(forking_machine->arena->Stats().retired_bytes != 0);
  }
  return 2 * value;
}

}  // namespace

TEST(fork_copy_a_call_that_forks_returns_in_both) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind) {
    forking_machine = &machine;
    for (uint32_t i = 0; i < 300; i++) machine.Install(i, 400);
    {
      Bustle bustle(machine);
      for (int i = 0; i < 20 / kFewer + 1; i++) {
        // Its name is that of an ordinary executor with the same result. The check would have it fork again.
        Program program = Adder(900, 300, &ForkNow);
        ExecutorSpec spec = program.Spec();
        ExecutorId id = 0;
        Status failed = machine.arena->Install(&spec, 1, &id, machine.self);
        for (; IsForNow(failed); failed = machine.arena->Install(&spec, 1, &id, machine.self)) SleepMillis(1);
        CHECK(failed.ok());
        machine.arena->reclaimer().Enter(*machine.self);
        uint64_t entry = machine.arena->EntryOf(id);
        CHECK(machine.Free(id).ok());  // retired: only this pin keeps it
        uint32_t result = CallAt(*machine.arena, entry);
        if (forked_child == 0) {
          EXPECT(result == ResultOf(900));
          EXPECT(CallAt(*machine.arena, machine.arena->EntryOf(machine.arena->Executors()[0])) != 0);
          machine.arena->reclaimer().Leave(*machine.self);
          machine.ExpectWorks();  // and now what was retired is gone
          _exit(0);
        }
        machine.arena->reclaimer().Leave(*machine.self);
        CHECK_EQ(result, ResultOf(900));
        CHECK_EQ(Wait(forked_child), 0);
      }
    }
    CheckUnharmed(machine);
  });
}

TEST(fork_copy_pins_of_other_threads_end_in_the_child) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind writer) {
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 300; i++) ids.push_back(machine.Install(i, 400));
    std::atomic<int> step{0};
    std::thread other([&] {
      PinSlot* pin = machine.arena->reclaimer().Attach();
      {
        Pinned pinned(machine.arena->reclaimer(), *pin);
        step = 1;
        while (step != 2) SleepMillis(1);
      }
      machine.arena->reclaimer().Detach(pin);
    });
    while (step != 1) SleepMillis(1);
    CHECK(machine.arena->Free(ids.data(), 200, machine.self).ok());
    CHECK(machine.arena->Stats().retired_bytes != 0);
    InChild([&] {
      EXPECT(!machine.arena->reclaimer().AnyPinned());
      PinSlot* slot = machine.arena->reclaimer().Attach();  // the other thread's
      EXPECT(slot != machine.self && slot->depth == 0);
      machine.ExpectWorks();
    });
    CHECK(machine.arena->Stats().retired_bytes != 0);
    step = 2;
    other.join();
    if (writer != os::WriterKind::kFlip) CHECK(machine.arena->Collect({}, machine.self).done);
    CheckUnharmed(machine);
    CHECK_EQ(machine.arena->Stats().retired_bytes, 0);
  });
}

TEST(fork_copy_state_is_the_childs_own) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind) {
    ExecutorId id = machine.Install(5);
    auto set = [&](uint32_t value) {
      uint8_t bytes[4];
      StoreAs(bytes, value);
      return machine.arena->Write(id, Section::kState, 0, bytes, 4).ok();
    };
    CHECK(set(1000));
    pid_t child = Fork([&] {
      SleepMillis(20);
      EXPECT(machine.Call(id) == 5 + 110 + 1000);
      EXPECT(set(3000));
      EXPECT(machine.Call(id) == 5 + 110 + 3000);
    });
    CHECK(set(2000));
    CHECK_EQ(machine.Call(id), 5 + 110 + 2000);
    CHECK_EQ(Wait(child), 0);
    CHECK_EQ(machine.Call(id), 5 + 110 + 2000);
  });
}

TEST(fork_copy_access_is_that_of_the_parent) {
  auto check = [](Machine& machine, os::WriterKind writer) {
    // Few survivors that cannot move: empty pages between them are punched.
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 600; i++) {
      Program program = Adder(i, 1500);
      program.movable = false;
      ExecutorSpec spec = program.Spec();
      std::string name = std::to_string(i);
      spec.name = name;
      ids.push_back(0);
      CHECK(machine.arena->Install(&spec, 1, &ids.back(), machine.self).ok());
    }
    for (uint32_t i = 0; i < 600; i++)
      if (i % 100 != 50) CHECK(machine.Free(ids[i]).ok());
    machine.arena->Collect({}, machine.self);
    uint64_t from = ~uint64_t{0}, to = 0;
    bool punched = false;
    for (const SlabMap& slab : machine.arena->Slabs()) {
      from = std::min(from, slab.address);
      to = std::max(to, slab.address + slab.bytes);
      if (slab.zone != Zone::kFixedCode) continue;
      bool gap = false;
      for (size_t page = 1; page < slab.backed.size(); page++) {
        gap = gap || (slab.backed[page - 1] && !slab.backed[page]);
        punched = punched || (gap && slab.backed[page]);
      }
    }
    CHECK(punched);
    const char* none = writer == os::WriterKind::kAlias ? "---s" : "---p";
    int before = CountMappings(from, to - from, none);
    CHECK(before > 0);
    uint64_t committed = machine.arena->Stats().committed_bytes;
    InChild([&] {
      EXPECT(CountMappings(from, to - from, none) == before);
      size_t found = 0;
      EXPECT(os::CountWritableExecutable(nullptr, SIZE_MAX, &found) && found == 0);
      EXPECT(machine.arena->Stats().committed_bytes == committed);
      machine.ExpectWorks();
      // Punched pages can be used again.
      for (uint32_t i = 0; i < 300; i++) EXPECT(machine.TryInstall(i, 1500).ok());
      machine.ExpectRightCalls();
    });
    CheckUnharmed(machine);
  };
  for (bool apart : {false, true}) WithEachWriter(os::ForkMode::kCopy, check, apart);
}

// --- the handshake --------------------------------------------------------------------------------------------------

TEST(fork_handshake_a_parent_waits_until_its_children_have_copied) {
  struct Shared {
    std::atomic<int> copied{0};
  };
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto* shared = new (page) Shared;
  os::ForkHandshake handshake;
  std::vector<pid_t> children;
  for (int i = 0; i < 3; i++) {
    handshake.Begin(0);
    children.push_back(Fork([&] {
      handshake.InChild();
      SleepMillis(50 * i);
      shared->copied++;
      EXPECT(handshake.Finish() == nullptr);
      handshake.Await();  // for nobody
    }));
    handshake.InParent();
  }
  handshake.Await();
  CHECK_EQ(shared->copied.load(), 3);
  for (pid_t child : children) CHECK_EQ(Wait(child), 0);
  munmap(page, 4096);
}

TEST(fork_handshake_a_child_that_takes_too_long_is_told) {
  os::ForkHandshake handshake;
  handshake.Begin(0);
  pid_t slow = Fork([&] {
    handshake.InChild();
    raise(SIGSTOP);
    EXPECT(handshake.Finish() != nullptr);
  });
  handshake.InParent();
  handshake.Begin(0);
  pid_t quick = Fork([&] {
    handshake.InChild();
    EXPECT(handshake.Finish() == nullptr);
  });
  handshake.InParent();
  uint64_t begin = os::NowNanos();
  handshake.Await();
  CHECK(os::NowNanos() - begin >= 900'000'000);
  begin = os::NowNanos();
  handshake.Await();  // not again
  CHECK(os::NowNanos() - begin < 900'000'000);
  kill(slow, SIGCONT);
  CHECK_EQ(Wait(slow), 0);
  CHECK_EQ(Wait(quick), 0);
}

TEST(fork_handshake_keeps_no_descriptors) {
  os::ForkHandshake handshake;
  auto lowest = [] {
    int fd = dup(0);
    close(fd);
    return fd;
  };
  int before = lowest();
  for (int i = 0; i < 50; i++) {
    handshake.Begin(0);
    pid_t child = Fork([&] {
      handshake.InChild();
      EXPECT(lowest() <= before + 1);  // its own end, and none of its siblings'
      EXPECT(handshake.Finish() == nullptr);
      EXPECT(lowest() == before);
    });
    handshake.InParent();
    CHECK_EQ(Wait(child), 0);
  }
  CHECK(lowest() <= before + 1);
  handshake.Await();
  CHECK_EQ(lowest(), before);
}

// Giving pages back is a change like any other: a child that copies must not find zeroes, which do not trap, for
// poison.
TEST(fork_copy_empty_pages_are_not_given_back_under_a_child_that_copies) {
  Result<std::unique_ptr<os::Memory>> memory = os::OpenMemory(os::WriterKind::kAlias);
  if (!memory.ok() || !memory.value()->CanPunch()) {
    std::printf("  skipped: no alias that can be punched\n");
    return;
  }
  memory.value()->SetForkMode(os::ForkMode::kCopy);
  CodeSpace space(std::move(memory.value()), kMiB);
  CHECK(space.Reserve(kMiB).ok());
  SpanId spans[3];
  for (SpanId& span : spans) {
    span = space.Allocate(Zone::kCode, 10 * 4096, 16, 1, Section::kCode).value();
    WriteScope scope(space, "test");
    CHECK(scope.Open(span).ok());
    std::memset(scope.Fill(span, 0, 10 * 4096), 0x90, 10 * 4096);
    space.SetState(span, SpanState::kLive);
  }
  uint64_t hole = AlignUp(space.AddressOf(spans[1]), 4096);
  space.Free(spans[1]);
  space.BeforeFork();
  pid_t child = Fork([&] {
    SleepMillis(100);
    EXPECT(space.AfterForkInChild().ok());
    for (uint64_t at = hole; at < hole + 8 * 4096; at++)
      EXPECT(*reinterpret_cast<const uint8_t*>(at) == arch::kPoisonByte);
    EXPECT(*reinterpret_cast<const uint8_t*>(space.AddressOf(spans[2])) == 0x90);
    EXPECT(space.Trim() != 0);
  });
  space.AfterForkInParent();
  CHECK(space.Trim() != 0);
  CHECK_EQ(Wait(child), 0);
}

namespace {

Arena* window_arena = nullptr;
uint64_t spare_bytes = 0;

// Leaves this process no more address space than that.
void LimitMemory() {
  char text[64] = {};
  int fd = open("/proc/self/statm", O_RDONLY);
  EXPECT(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
  close(fd);
  rlimit limit;
  limit.rlim_cur = limit.rlim_max = std::strtoull(text, nullptr, 10) * os::PageBytes() + spare_bytes;
  EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
}

// That the window is one: the arena is not yet the child's.
void ExpectInWindow() { EXPECT(!window_arena->in_own_process()); }

}  // namespace

TEST(fork_copy_children_that_die_before_they_have_copied_delay_nobody) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind) {
    window_arena = machine.arena.get();
    uint64_t begin = os::NowNanos();
    constexpr int kChildren = 40 / kFewer + 12;
    {
      Bustle bustle(machine);
      for (int i = 0; i < kChildren; i++) {
        in_window = i % 2 == 0 ? [] {
          ExpectInWindow();
          kill(getpid(), SIGKILL);
        } : [] {
          ExpectInWindow();
          _exit(0);
        };
        pid_t child = Fork([] {});
        in_window = nullptr;
        // One that is well, at the same time.
        pid_t well = Fork([&] { machine.ExpectWorks(); });
        CHECK_EQ(Wait(child), i % 2 == 0 ? SIGKILL : 0);
        CHECK_EQ(Wait(well), 0);
      }
    }
    // Were they waited for, it would be a second each.
    CHECK(os::NowNanos() - begin < uint64_t{kChildren} * 500'000'000);
    CheckUnharmed(machine);
  });
}

TEST(fork_copy_a_child_that_never_answers_is_given_up) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind writer) {
    window_arena = machine.arena.get();
    for (uint32_t i = 0; i < 100; i++) machine.Install(i, 400);
    std::vector<pid_t> stopped;
    in_window = [] {
      ExpectInWindow();
      raise(SIGSTOP);
    };
    bool alias = writer == os::WriterKind::kAlias;
    for (int i = 0; i < 3; i++) {
      stopped.push_back(Fork([&] {
        // Private memory was copied by the kernel, when the process was forked.
        if (alias)
          machine.ExpectLost("before this one had copied all of it");
        else
          machine.ExpectWorks();
        in_window = nullptr;
        // Once dead, dead for its children too; and the child can have an arena of its own.
        InChild([&] {
          if (alias) machine.ExpectLost("before this one had copied all of it");
        });
        Machine own({.writer = os::WriterKind::kAlias});
        EXPECT(own.Call(own.Install(3)) == ResultOf(3));
        InChild([&] { own.ExpectWorks(); });
        machine.arena.reset();
      }));
    }
    in_window = nullptr;
    uint64_t begin = os::NowNanos();
    {
      Bustle bustle(machine);  // the parent goes on
    }
    // One second for all three.
    if (alias) CHECK(os::NowNanos() - begin >= 900'000'000);
    CheckUnharmed(machine);
    for (pid_t child : stopped) {
      kill(child, SIGCONT);
      CHECK_EQ(Wait(child), 0);
    }
    CheckUnharmed(machine);
  });
}

// As a daemon's parent does.
TEST(fork_copy_a_parent_may_exit_or_end_its_arena_at_once) {
  WithEachWriter(os::ForkMode::kCopy, [](Machine& machine, os::WriterKind) {
    window_arena = machine.arena.get();
    for (uint32_t i = 0; i < 100; i++) machine.Install(i, 400);
    for (bool exits : {true, false}) {
      int ends[2];
      CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
      pid_t middle = Fork([&] {
        in_window = [] {
          ExpectInWindow();
          SleepMillis(60);
        };
        pid_t child = Fork([&] {
          machine.ExpectWorks();
          EXPECT(write(ends[1], "w", 1) == 1);
        });
        if (exits) _exit(0);
        machine.arena.reset();
        EXPECT(Wait(child) == 0);
      });
      CHECK_EQ(Wait(middle), 0);
      close(ends[1]);
      char answer = 0;
      CHECK_EQ(read(ends[0], &answer, 1), 1);
      CHECK_EQ(answer, 'w');
      close(ends[0]);
    }
    CheckUnharmed(machine);
  });
}

// --- what stands in the way of a copy -------------------------------------------------------------------------------

TEST(fork_copy_says_why_there_is_none) {
  // No descriptor for the handshake.
  Machine alias({.writer = os::WriterKind::kAlias});
  if (alias.arena) {
    alias.Install(1);
    rlimit limit, none;
    getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    pid_t child = Fork([&] { alias.ExpectLost("no handshake could be begun"); });
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_EQ(Wait(child), 0);
    // No memory for the copy.
    window_arena = alias.arena.get();
    if (!kSanitized) {
      // For a slab's second view; or not even to copy through.
      for (uint64_t spare : {300 * kKiB, 0 * kKiB}) {
        spare_bytes = spare;
        in_window = [] {
          ExpectInWindow();
          LimitMemory();
        };
        InChild([&] { alias.ExpectLost("it got no copy: "); });
      }
      in_window = nullptr;
    }
    CheckUnharmed(alias);
  }
  // A child that may not open its own memory.
  Machine procmem({.writer = os::WriterKind::kProcmem});
  if (procmem.arena && geteuid() == 0) {
    procmem.Install(1);
    window_arena = procmem.arena.get();
    in_window = [] {
      ExpectInWindow();
      EXPECT(setgid(65534) == 0 && setuid(65534) == 0);
    };
    InChild([&] { procmem.ExpectLost("/proc/self/mem cannot be opened"); });
    in_window = nullptr;
    CheckUnharmed(procmem);
  }
}

// A fork that runs no handlers: the kernel alone tells the child that it is one.
TEST(fork_without_handlers_is_noticed) {
  for (os::ForkMode mode : {os::ForkMode::kDrop, os::ForkMode::kCopy}) {
    WithEachWriter(mode, [&](Machine& machine, os::WriterKind) {
      machine.Install(1);
      uint32_t generation = os::ForkGeneration();
      std::fflush(stdout);
      pid_t child = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
      if (child == 0) {
        EXPECT(os::ForkGeneration() != generation);
        machine.ExpectLost(mode == os::ForkMode::kDrop ? "was not inherited" : "without fork()");
        machine.arena.reset();
        _exit(0);
      }
      CHECK_EQ(Wait(child), 0);
      CHECK_EQ(os::ForkGeneration(), generation);
      CheckUnharmed(machine);
    });
  }
}

TEST(fork_a_process_that_is_only_started_changes_nothing) {
  for (os::ForkMode mode : {os::ForkMode::kDrop, os::ForkMode::kCopy}) {
    WithEachWriter(mode, [](Machine& machine, os::WriterKind) {
      uint32_t generation = os::ForkGeneration();
      {
        Bustle bustle(machine);
        for (int i = 0; i < 10; i++) {
          char name[] = "true";
          char* arguments[] = {name, nullptr};
          char* environment[] = {nullptr};
          pid_t child = 0;
          CHECK_EQ(posix_spawn(&child, "/bin/true", nullptr, nullptr, arguments, environment), 0);
          CHECK_EQ(Wait(child), 0);
          child = vfork();
          if (child == 0) _exit(0);
          CHECK_EQ(Wait(child), 0);
        }
      }
      CHECK_EQ(os::ForkGeneration(), generation);
      CheckUnharmed(machine);
    });
  }
}

#endif  // __linux__
