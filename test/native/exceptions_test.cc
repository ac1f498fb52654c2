// Exceptions through frames of the arena: the unwinder knows every place that a thread can be in, and none that has
// been given back. test/79-exceptions.test.ts does the same with what compilers make.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/arena.h"
#include "test.h"

#include "support/frames.h"

using namespace jit_arena;

namespace {

int Throw(int n) { return n == 0 ? 0 : throw n; }

struct Rig {
  std::unique_ptr<Arena> arena;
  PinSlot* self;

  explicit Rig(os::WriterKind writer = os::WriterKind::kAlias, bool apart = false) {
    ArenaOptions options;
    options.max_bytes = 32 * kMiB;
    options.writer = writer;
    options.apart = apart;
    arena = std::move(Arena::Create(options).value());
    self = arena->reclaimer().Attach();
  }
  ~Rig() {
    if (arena != nullptr) CHECK_EQ(arena->CheckInvariants(), std::string());
  }

  ExecutorId Install(const ExecutorSpec& spec) {
    ExecutorId id = 0;
    CHECK(arena->Install(&spec, 1, &id, self).ok());
    return id;
  }
  // Throws its argument, unless it is 0.
  ExecutorId InstallThrower(bool movable = true, int (*function)(int) = Throw) {
    x64::Assembler code = CallWithFrame(function);
    ExecutorSpec spec = code.Spec();
    spec.movable = movable;
    spec.frames = FramesOfCall();
    return Install(spec);
  }
  ExecutorId InstallPlain(uint32_t bytes) {
    std::vector<uint8_t> code(bytes, 0x90);
    ExecutorSpec spec;
    spec.bytes[0] = code.data();
    spec.sizes[0] = bytes;
    return Install(spec);
  }
  void Free(ExecutorId id) { CHECK(arena->Free(&id, 1, self).ok()); }
  uint64_t AddressOf(ExecutorId id) { return arena->Describe(id).value().address; }
  // Until the executor has moved: what has been freed beside it makes that pay.
  void MakeMove(ExecutorId id) {
    const uint64_t before = AddressOf(id);
    for (int i = 0; i < 50 && AddressOf(id) == before; i++) {
      std::vector<ExecutorId> fillers;
      for (int n = 0; n < 30; n++) fillers.push_back(InstallPlain(20 * kKiB));
      CHECK(arena->Free(fillers.data(), static_cast<uint32_t>(fillers.size()), self).ok());
      arena->Collect({}, self);
    }
    CHECK(AddressOf(id) != before);
  }
};

// What happens to what somebody is inside of.
std::function<void()> inside;
int CallInside(int n) {
  inside();
  throw n;
}

}  // namespace

TEST(exceptions_pass_before_and_after_moves) {
  for (os::WriterKind writer : {os::WriterKind::kAlias, os::WriterKind::kProcmem, os::WriterKind::kFlip}) {
    for (bool apart : {false, true}) {
      Rig rig(writer, apart);
      ExecutorId movable = rig.InstallThrower(), fixed = rig.InstallThrower(false);
      uint64_t first = rig.AddressOf(movable);
      for (int round = 1; round <= 3; round++) {
        for (ExecutorId id : {movable, fixed}) CHECK(ThrownBy(rig.AddressOf(id), round) == round);
        rig.MakeMove(movable);
      }
      CHECK(rig.AddressOf(movable) != first);
      CHECK(!UnwinderKnows(first));
    }
  }
}

TEST(a_move_while_a_frame_is_open_leaves_the_old_frame_known) {
  Rig rig;
  ExecutorId id = rig.InstallThrower(true, CallInside);
  uint64_t first = rig.AddressOf(id);
  inside = [&] {
    rig.MakeMove(id);
    CHECK(UnwinderKnows(first));
    CHECK(UnwinderKnows(rig.AddressOf(id)));
  };
  rig.arena->reclaimer().Enter(*rig.self);
  CHECK(ThrownBy(rig.arena->EntryOf(id), 5) == 5);
  rig.arena->reclaimer().Leave(*rig.self);
  CHECK(rig.AddressOf(id) != first);
  rig.arena->Collect({}, rig.self);
  CHECK(!UnwinderKnows(first));
  // Freed in the middle of it.
  first = rig.AddressOf(id);
  inside = [&] { rig.Free(id); };
  rig.arena->reclaimer().Enter(*rig.self);
  CHECK(ThrownBy(rig.arena->EntryOf(id), 6) == 6);
  CHECK(UnwinderKnows(first));
  rig.arena->reclaimer().Leave(*rig.self);
  rig.arena->Collect({}, rig.self);
  CHECK(!UnwinderKnows(first));
}

TEST(what_takes_the_place_of_a_frame_is_not_taken_for_it) {
  Rig rig;
  std::vector<ExecutorId> ids;
  for (int i = 0; i < 100; i++) ids.push_back(rig.InstallThrower());
  std::vector<uint64_t> freed;
  for (int i = 0; i < 100; i += 2) {
    freed.push_back(rig.AddressOf(ids[static_cast<size_t>(i)]));
    rig.Free(ids[static_cast<size_t>(i)]);
  }
  int reused = 0;
  for (int i = 0; i < 50; i++) {
    uint64_t at = rig.AddressOf(rig.InstallPlain(24));
    CHECK(!UnwinderKnows(at + 1));
    for (uint64_t address : freed) reused += address == at;
  }
  CHECK(reused > 0);
  for (size_t i = 1; i < 100; i += 2) CHECK(ThrownBy(rig.AddressOf(ids[i]), 3) == 3);
}

TEST(the_unwinder_is_told_of_slabs) {
  Rig rig;
  std::vector<ExecutorId> ids;
  for (int i = 0; i < 20'000; i++) ids.push_back(rig.InstallThrower());
  size_t slabs = 0;
  for (const SlabMap& slab : rig.arena->Slabs()) slabs += slab.live_bytes != 0;
  const FrameTables& frames = rig.arena->frames();
  CHECK_EQ(frames.tables(), 20'001u);  // with the call gate's
  if (os::UnwinderTakesOverlaps()) CHECK(frames.registrations() <= slabs);
  CHECK(ThrownBy(rig.AddressOf(ids[10'000]), 3) == 3);
  CHECK(rig.arena->Free(ids.data(), static_cast<uint32_t>(ids.size()), rig.self).ok());
  rig.arena->Collect({}, rig.self);
  CHECK_EQ(frames.tables(), 1u);
  CHECK_EQ(frames.registrations(), 1u);
}

TEST(threads_throw_while_their_frames_move) {
  Rig rig;
  std::vector<ExecutorId> ids;
  for (int i = 0; i < 20; i++) ids.push_back(rig.InstallThrower());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> thrown{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++)
    threads.emplace_back([&, t] {
      PinSlot* pin = rig.arena->reclaimer().Attach();
      for (int i = t + 1; !stop.load(std::memory_order_relaxed); i = i % 1000 + 1) {
        rig.arena->reclaimer().Enter(*pin);
        std::optional<int> value = ThrownBy(rig.arena->EntryOf(ids[static_cast<size_t>(i) % ids.size()]), i);
        rig.arena->reclaimer().Leave(*pin);
        wrong += value != i;
        thrown++;
      }
      rig.arena->reclaimer().Detach(pin);
    });
  for (int round = 0; round < 30 || thrown < 1000; round++) rig.MakeMove(ids[0]);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0u);
}

TEST(exceptions_pass_the_call_gate) {
  Rig rig;
  ExecutorId id = rig.InstallThrower();
  arch::CallFrame frame{};
  frame.integers[0] = 8;
  int caught = 0;
  try {
    rig.arena->call_gate()(reinterpret_cast<const void*>(rig.AddressOf(id)), &frame, arch::ReadFloatControl());
  } catch (int value) {
    caught = value;
  }
  CHECK_EQ(caught, 8);
}

// The unwinder of a child reads what it inherited; the arena is not there any more.
TEST(a_child_without_the_arena_throws) {
  Rig rig;
  rig.InstallThrower();
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    int caught = 0;
    try {
      Throw(3);
    } catch (int value) {
      caught = value;
    }
    rig.arena.reset();
    try {
      Throw(4);
    } catch (int value) {
      caught += value;
    }
    _exit(caught == 7 ? 0 : 1);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A table goes with the arena.
TEST(nothing_is_left_behind_an_arena) {
  uint64_t address = 0;
  {
    Rig rig;
    address = rig.AddressOf(rig.InstallThrower());
    CHECK(UnwinderKnows(address));
  }
  CHECK(!UnwinderKnows(address));
}
