// Thunks: each calls the handler with a context of its own, forever, whatever becomes of arenas, threads and processes.
#include "core/thunks.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/bits.h"
#include "core/arena.h"
#include "os/memory.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

// As the addon's handler does: the owner's thread goes beyond the context, others do not.
struct ThunksTestOwner {
  std::atomic<uint64_t> told{0};
};
constinit thread_local ThunksTestOwner* here = nullptr;

struct ThunksTestCallback {
  uint64_t answer;
};

void Handle(void* data, arch::CallFrame* frame) {
  const ThunkContext& context = *static_cast<ThunkContext*>(data);
  auto* owner = static_cast<ThunksTestOwner*>(context.owner.load(std::memory_order_acquire));
  frame->integer_result = 0;
  if (owner == nullptr) return;
  if (owner != here) {
    owner->told.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  frame->integer_result = static_cast<ThunksTestCallback*>(context.callback)->answer + frame->integers[0];
}

uint64_t Call(uint64_t address, uint64_t argument) {
  return reinterpret_cast<uint64_t (*)(uint64_t)>(address)(argument);
}

// Where an arena could be: around ordinary memory of this process.
struct Range {
  explicit Range(uint64_t bytes) : memory(std::move(os::OpenMemory(os::WriterKind::kProcmem).value())), size(bytes) {
    base = memory->Reserve(bytes).value();
  }
  ~Range() { memory->Unreserve(base, size); }
  uint64_t low() const { return reinterpret_cast<uint64_t>(base); }
  uint64_t high() const { return low() + size; }
  Thunk Make() const {
    Result<Thunk> made = MakeThunk(Handle, low(), high());
    CHECK(made.ok());
    return made.value();
  }

  std::unique_ptr<os::Memory> memory;
  uint8_t* base;
  uint64_t size;
};

bool Reaches(uint64_t from, uint64_t to) { return FitsIn<int32_t>(static_cast<int64_t>(to - from)); }

}  // namespace

TEST(thunk_calls_the_handler_with_its_own_context) {
  static ThunksTestOwner me;
  here = &me;
  Range range(kMiB);
  std::vector<ThunksTestCallback> callbacks(1000);
  std::vector<Thunk> thunks;
  for (uint64_t i = 0; i < callbacks.size(); i++) {
    thunks.push_back(range.Make());
    CHECK_EQ(Call(thunks.back().address, 5), 0);  // nobody's yet
    callbacks[i].answer = 100 * i;
    thunks.back().context->callback = &callbacks[i];
    thunks.back().context->owner.store(&me);
  }
  for (uint64_t i = 0; i < thunks.size(); i++) CHECK_EQ(Call(thunks[i].address, 7), 100 * i + 7);
  for (const Thunk& thunk : thunks) thunk.context->owner.store(nullptr);
  for (const Thunk& thunk : thunks) CHECK_EQ(Call(thunk.address, 7), 0);
}

TEST(thunk_addresses_are_never_given_out_twice) {
  Range range(kMiB);
  std::set<uint64_t> addresses;
  std::set<ThunkContext*> contexts;
  // More than a region has room for.
  constexpr size_t kMany = 150'000;
  for (size_t i = 0; i < kMany; i++) {
    Thunk thunk = range.Make();
    addresses.insert(thunk.address);
    contexts.insert(thunk.context);
    if (!thunk.in_reach || !Reaches(range.low(), thunk.address) || !Reaches(range.high(), thunk.address)) {
      CHECK(!"in reach");
      break;
    }
  }
  CHECK_EQ(addresses.size(), kMany);
  CHECK_EQ(contexts.size(), kMany);
}

TEST(thunk_is_in_reach_of_arenas_wherever_they_are) {
  std::vector<std::unique_ptr<Range>> ranges;  // one below the other, as a rule
  for (uint64_t mib : {3072, 64, 1024}) ranges.push_back(std::make_unique<Range>(mib * kMiB));
  for (int round = 0; round < 3; round++) {
    for (const auto& range : ranges) {
      Thunk thunk = range->Make();
      bool reached = Reaches(range->low(), thunk.address) && Reaches(range->high(), thunk.address);
      CHECK_EQ(thunk.in_reach, range->size <= 1024 * kMiB);
      CHECK(!thunk.in_reach || reached);
    }
  }
}

TEST(thunk_out_of_reach_is_called_through_a_veneer_of_the_arena) {
  static ThunksTestOwner me;
  here = &me;
  ThunksTestCallback callback{30};
  for (bool large : {false, true}) {
    for (os::WriterKind writer : kAllWriters) {
      ArenaOptions options;
      options.max_bytes = large ? arch::kMaxArenaBytes : kMiB;
      options.writer = writer;
      Result<std::unique_ptr<Arena>> made = Arena::Create(options);
      if (!made.ok()) continue;
      Arena& arena = *made.value();
      PinSlot* self = arena.reclaimer().Attach();
      Thunk thunk = arena.AddThunk(Handle, self).value();
      CHECK_EQ(thunk.in_reach, !large);
      thunk.context->callback = &callback;
      thunk.context->owner.store(&me);
      auto install = [&](const x64::Assembler& code) {
        ExecutorSpec spec = code.Spec();
        ExecutorId id = 0;
        Status failed = arena.Install(&spec, 1, &id, self);
        CHECK_EQ(failed ? failed.error().message : "", "");
        return arena.EntryOf(id);
      };
      const x64::To to = x64::Outside(thunk.address);
      const uint64_t jump = install(x64::Assembler().Jump(to));
      const uint64_t lea = install(x64::Assembler().LoadAddress(x64::kRax, to).Ret());
      const uint64_t load = install(x64::Assembler().Load(x64::kRax, to, x64::kRexGotPcRelX).Ret());
      CHECK_EQ(Call(jump, 4), 34);
      CHECK_EQ(Call(Call(lea, 0), 5), 35);
      CHECK_EQ(Call(load, 0), thunk.address);
      if (!large) CHECK_EQ(Call(lea, 0), thunk.address);
      CHECK_EQ(arena.CheckInvariants(), "");
      arena.reclaimer().Detach(self);
      made.value().reset();
      CHECK_EQ(Call(thunk.address, 1), 31);  // longer than the arena
    }
  }
}

TEST(thunk_answers_0_to_other_threads_while_owners_come_and_go) {
  Range range(kMiB);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> newest{range.Make().address};
  std::atomic<uint64_t> calls{0};
  std::vector<std::thread> others;
  for (int i = 0; i < 3; i++)
    others.emplace_back([&] {
      std::vector<uint64_t> known;
      while (!stop.load(std::memory_order_relaxed)) {
        known.push_back(newest.load(std::memory_order_relaxed));
        if (known.size() > 50) known.erase(known.begin());
        for (uint64_t address : known)
          if (Call(address, 9) != 0) CHECK(!"another thread's callback");
        calls.fetch_add(1, std::memory_order_relaxed);
      }
    });
  static ThunksTestOwner me;
  here = &me;
  std::deque<std::pair<Thunk, std::unique_ptr<ThunksTestCallback>>> alive;
  for (uint64_t i = 0; i < 1000 || calls.load() < 3000 || me.told.load() == 0; i++) {
    Thunk thunk = range.Make();
    alive.emplace_back(thunk, new ThunksTestCallback{i});
    thunk.context->callback = alive.back().second.get();
    thunk.context->owner.store(&me, std::memory_order_release);
    newest.store(thunk.address, std::memory_order_relaxed);
    for (int call = 0; call < 10; call++) CHECK_EQ(Call(thunk.address, 1), i + 1);
    if (alive.size() < 20) continue;
    thunk = alive.front().first;
    thunk.context->owner.store(nullptr, std::memory_order_release);
    alive.pop_front();
    CHECK_EQ(Call(thunk.address, 1), 0);
  }
  for (const auto& [thunk, callback] : alive) thunk.context->owner.store(nullptr, std::memory_order_release);
  stop.store(true);
  for (std::thread& other : others) other.join();
}

#if defined(__linux__) && !defined(__SANITIZE_THREAD__)
// Not under the thread sanitizer, whose children of several threads may not start threads of their own.
TEST(thunk_outlives_a_fork_and_a_child_makes_its_own_whatever_threads_were_doing) {
  Range range(kMiB);
  static ThunksTestOwner me;
  here = &me;
  ThunksTestCallback callback{60};
  Thunk thunk = range.Make();
  thunk.context->callback = &callback;
  thunk.context->owner.store(&me);
  std::atomic<bool> stop{false};
  // The address sanitizer's allocator does not survive, in a child, a fork in the middle of another thread's malloc.
  std::mutex fork_lock;
  auto keep_from_forking = [&] {
#if defined(__SANITIZE_ADDRESS__)
    return std::unique_lock(fork_lock);
#else
    return std::unique_lock(fork_lock, std::defer_lock);
#endif
  };
  std::thread maker([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      auto guard = keep_from_forking();
      MakeThunk(Handle, range.low(), range.high()).ok();
    }
  });
  for (int i = 0; i < 50; i++) {
    std::fflush(stdout);
    auto guard = keep_from_forking();
    pid_t child = fork();
    if (child != 0 && guard.owns_lock()) guard.unlock();
    if (child == 0) {
      alarm(20);
      if (Call(thunk.address, 1) != 61) _exit(1);
      for (int made = 0; made < 500; made++) {
        Result<Thunk> own = MakeThunk(Handle, range.low(), range.high());
        if (!own.ok()) _exit(2);
        if (Call(own.value().address, 1) != 0) _exit(3);
        own.value().context->callback = &callback;
        own.value().context->owner.store(&me);
        if (Call(own.value().address, 2) != 62) _exit(4);
      }
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    CHECK_EQ(Call(thunk.address, 3), 63);
    CHECK_EQ(Call(range.Make().address, 3), 0);
  }
  stop.store(true);
  maker.join();
}
#endif

TEST(thunk_memory_is_never_writable_and_executable) {
  Range range(kMiB);
  Thunk thunk = range.Make();
  size_t found = 1;
  const auto* page = reinterpret_cast<const uint8_t*>(AlignDown(thunk.address, os::PageBytes()));
  if (os::CountWritableExecutable(page, os::PageBytes(), &found)) CHECK_EQ(found, 0);
}
