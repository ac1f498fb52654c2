// The moving protocol in the orders that matter: a thread is held at a point of the core (base/test_point.h) while
// others go on, or looks around at one. Stress seldom meets these orders. Each test fails when the step that it is
// about is taken out (`npm run mutants`).
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "core/arena.h"
#include "support/x64.h"
#include "test.h"

#include "support/frames.h"

using namespace jit_arena;
using namespace std::chrono_literals;

namespace {

// ---- Threads that stop where they are told to

class Actor;
thread_local Actor* acting = nullptr;
// What the thread that passes a point does there; only while no actor runs beside it.
thread_local std::function<void(TestPointId)> at_points;

// A thread that does what it is told, and can be held at a point.
class Actor {
 public:
  // Runs `act`; stops at the first passing of `point`, and this returns when it has.
  Actor(TestPointId point, std::function<void()> act) : point_(point), armed_(true) { Start(std::move(act)); }
  // The same; stops where `act` calls Stop.
  explicit Actor(std::function<void()> act) { Start(std::move(act)); }
  ~Actor() {
    Release();
    thread_.join();
  }
  // By the actor: waits to be released.
  static void Stop() { acting->Hold(); }
  // Goes on, up to its next stop or its end; false when it is neither there within a moment: it waits for something.
  bool Release(std::chrono::milliseconds moment = 10s) {
    std::unique_lock guard(lock_);
    held_ = false;
    changed_.notify_all();
    return changed_.wait_for(guard, moment, [&] { return held_ || ended_; });
  }
  bool ended() {
    std::unique_lock guard(lock_);
    return ended_;
  }

  static void OnPoint(TestPointId id) {
    if (acting != nullptr && acting->armed_ && acting->point_ == id) {
      acting->armed_ = false;
      acting->Hold();
    }
    if (at_points) at_points(id);
  }

 private:
  void Start(std::function<void()> act) {
    test_point_handler = OnPoint;
    thread_ = std::thread([this, act = std::move(act)] {
      acting = this;
      act();
      std::lock_guard guard(lock_);
      ended_ = true;
      changed_.notify_all();
    });
    std::unique_lock guard(lock_);
    CHECK(changed_.wait_for(guard, 10s, [&] { return held_ || ended_; }));
  }
  void Hold() {
    std::unique_lock guard(lock_);
    held_ = true;
    changed_.notify_all();
    changed_.wait(guard, [&] { return !held_; });
  }

  TestPointId point_{};
  bool armed_ = false;
  std::mutex lock_;
  std::condition_variable changed_;
  bool held_ = false;
  bool ended_ = false;
  std::thread thread_;
};

// Calls `look(point)` at every point that this thread passes, as long as it lives.
struct AtPoints {
  explicit AtPoints(std::function<void(TestPointId)> look) {
    test_point_handler = Actor::OnPoint;
    at_points = std::move(look);
  }
  ~AtPoints() { at_points = nullptr; }
};

// ---- Executors

using Function = uint64_t (*)();

// Returns `number`, which lies in data, and raises the counter in state.
struct Number {
  x64::Assembler code = x64::Assembler().Load(x64::kRax, x64::OwnData(0)).LockedIncrement(x64::OwnState(0)).Ret();
  uint64_t data;
  explicit Number(uint64_t number) : data(number) {}
  ExecutorSpec Spec() const {
    ExecutorSpec spec = code.Spec();
    spec.bytes[1] = reinterpret_cast<const uint8_t*>(&data);
    spec.sizes[1] = sizeof data;
    spec.sizes[2] = 8;
    return spec;
  }
};

// Calls another executor by a rel32 that begins at `offset` of the code, which decides whether one store can change it.
x64::Assembler Caller(ExecutorId target, uint32_t offset) {
  return x64::Assembler().Nop(offset - 1).Jump(x64::Another(target));
}

struct Stage {
  std::unique_ptr<Arena> arena;
  PinSlot* pin;     // of the test's own thread
  PinSlot* others;  // of the actor

  explicit Stage(uint64_t max_retired_bytes = 0) {
    ArenaOptions options;
    options.max_bytes = 8 * kMiB;
    options.max_retired_bytes = max_retired_bytes;
    options.full_records = true;
    arena = std::move(Arena::Create(options).value());
    pin = arena->reclaimer().Attach();
    others = arena->reclaimer().Attach();
  }
  ~Stage() { CHECK_EQ(arena->CheckInvariants(), std::string()); }

  ExecutorId Install(const ExecutorSpec& spec) {
    ExecutorId id = 0;
    Status status = arena->Install(&spec, 1, &id, pin);
    CHECK_EQ(static_cast<int>(status.code()), 0);
    return id;
  }
  ExecutorId InstallNumber(uint64_t number) { return Install(Number(number).Spec()); }
  void Free(ExecutorId id) { CHECK(arena->Free(&id, 1, pin).ok()); }

  // Where the executor lies, whoever is pinned.
  uint64_t AddressOf(ExecutorId id) { return arena->Describe(id).value().address; }

  // One collect, with pages freed beside the executor (0: beside anything), so that moving it pays.
  CollectResult Compact(ExecutorId id = 0) {
    std::vector<uint8_t> bytes(20 * kKiB, 0x90);
    ExecutorSpec spec;
    spec.bytes[0] = bytes.data();
    spec.sizes[0] = spec.sizes[2] = static_cast<uint32_t>(bytes.size());
    // Holes in other slabs may fit better, as long as there are any.
    std::vector<ExecutorId> fillers;
    do {
      fillers.push_back(Install(spec));
    } while (id != 0 && SlabOf(AddressOf(fillers.back())) != SlabOf(AddressOf(id)));
    ExecutorId behind = InstallNumber(1);
    CHECK(arena->Free(fillers.data(), static_cast<uint32_t>(fillers.size()), pin).ok());
    CollectResult result = arena->Collect({}, pin);
    Free(behind);
    return result;
  }
  bool Moves(ExecutorId id) {
    uint64_t before = AddressOf(id);
    Compact(id);
    return AddressOf(id) != before;
  }
  uint64_t SlabOf(uint64_t address) {
    for (const SlabMap& slab : arena->Slabs())
      if (address - slab.address < slab.bytes) return slab.address;
    return 0;
  }
  // Whether memory at this address is an old copy that waits for pins.
  bool Waits(uint64_t address) {
    std::optional<FoundAddress> found = arena->Find(address);
    return found && found->retired;
  }
  uint64_t Call(PinSlot* slot, ExecutorId id) {
    Pinned pinned(arena->reclaimer(), *slot);
    return CallAt(arena->EntryOf(id));
  }
  static uint64_t CallAt(uint64_t entry) { return entry == 0 ? 0 : reinterpret_cast<Function>(entry)(); }
};

}  // namespace

// ---- Frames

TEST(an_exception_finds_the_frame_of_a_copy_that_has_just_been_published) {
  Stage stage;
  x64::Assembler code = CallWithFrame([](int n) -> int { throw n; });
  ExecutorSpec spec = code.Spec();
  spec.frames = FramesOfCall();
  ExecutorId id = stage.Install(spec);
  uint64_t before = stage.AddressOf(id), after = before;
  AtPoints look([&](TestPointId point) {
    if (point != TestPointId::kMovePublished || after != before) return;
    after = stage.arena->EntryOf(id);
    CHECK(ThrownBy(after, 5) == 5);
    // A thread that was inside goes on in the old copy.
    CHECK(ThrownBy(before, 6) == 6);
  });
  CHECK(stage.Moves(id));
  CHECK(after != before);
}

TEST(an_exception_finds_its_frame_while_the_list_of_its_slab_changes) {
  Stage stage;
  x64::Assembler code = CallWithFrame([](int n) -> int { throw n; });
  ExecutorSpec spec = code.Spec();
  spec.frames = FramesOfCall();
  const uint64_t at = stage.AddressOf(stage.Install(spec));
  int lists = 0;
  AtPoints look([&](TestPointId point) {
    if (point != TestPointId::kFramesListed) return;
    lists++;
    CHECK(ThrownBy(at, 5) == 5);
  });
  stage.Install(spec);
  CHECK_EQ(lists, 1);
}

// ---- Pins and entries

TEST(a_pin_that_is_late_finds_the_new_entry_and_keeps_it) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t first = stage.AddressOf(id), second = 0, found = 0, result = 0;
  // The epoch is loaded; the pin cannot be seen while the executor moves, and its old copy is reclaimed.
  Actor reader(TestPointId::kEnterHasEpoch, [&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    found = stage.arena->EntryOf(id);
    Actor::Stop();
    result = Stage::CallAt(found);
  });
  CHECK(stage.Moves(id));
  second = stage.AddressOf(id);
  CHECK(!stage.Waits(first));
  reader.Release();
  CHECK_EQ(found, second);
  // Its epoch is older than its pin: what it has found is kept all the same.
  CHECK(stage.Moves(id));
  stage.Compact();
  CHECK(stage.Waits(second));
  reader.Release();
  CHECK(reader.ended());
  CHECK_EQ(result, 7u);
  stage.Compact();
  CHECK(!stage.Waits(second));
}

TEST(an_entry_that_was_loaded_before_a_move_works_until_the_pin_ends) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t first = stage.AddressOf(id), result = 0;
  Actor reader(TestPointId::kEntryLoaded, [&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    uint64_t entry = stage.arena->EntryOf(id);
    result = Stage::CallAt(entry);
  });
  // The pin and the stamp of what moves now have the same epoch.
  CHECK(stage.Moves(id));
  CHECK(stage.Moves(id));
  CHECK(stage.Waits(first));
  CHECK_EQ(stage.Call(stage.pin, id), 7u);
  reader.Release();
  CHECK_EQ(result, 7u);
  stage.Compact();
  CHECK_EQ(stage.arena->Stats().retired_bytes, 0u);
}

TEST(a_pin_without_an_entry_finds_the_new_one) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t result = 0, found = 0;
  Actor reader(TestPointId::kEnterHasPin, [&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    found = stage.arena->EntryOf(id);
    result = Stage::CallAt(found);
  });
  CHECK(stage.Moves(id));
  reader.Release();
  CHECK_EQ(found, stage.AddressOf(id));
  CHECK_EQ(result, 7u);
}

TEST(nested_pins_keep_what_the_outer_one_found) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t first = stage.AddressOf(id), result = 0;
  Actor reader([&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    uint64_t entry = stage.arena->EntryOf(id);
    stage.Call(stage.others, id);
    Actor::Stop();
    result = Stage::CallAt(entry);
  });
  CHECK(stage.Moves(id));
  stage.Compact();
  CHECK(stage.Waits(first));
  reader.Release();
  CHECK_EQ(result, 7u);
}

// ---- The steps of a move

TEST(a_move_is_seen_when_it_is_published_and_not_before) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t before = stage.AddressOf(id), copied = 0, synchronised = 0, published = 0, retired = 0;
  bool copying = false;
  {
    AtPoints look([&](TestPointId point) {
      uint64_t* entry = point == TestPointId::kMoveCopied      ? &copied
                        : point == TestPointId::kSynchronised  ? &synchronised
                        : point == TestPointId::kMovePublished ? &published
                        : point == TestPointId::kMoveRetired   ? &retired
                                                               : nullptr;
      if (point == TestPointId::kMoveCopied) copying = true;
      if (point == TestPointId::kMovePublished) copying = false;
      // Freeze and moves of state synchronise as well; the latter behind the closed gate.
      if (entry == nullptr || (point == TestPointId::kSynchronised && !copying)) return;
      Pinned pinned(stage.arena->reclaimer(), *stage.others);
      *entry = stage.arena->EntryOf(id);
      CHECK_EQ(Stage::CallAt(*entry), 7u);
    });
    CHECK(stage.Moves(id));
  }
  uint64_t after = stage.AddressOf(id);
  CHECK_EQ(copied, before);
  CHECK_EQ(synchronised, before);  // all cores will fetch the new bytes before the first of them is led to them
  CHECK_EQ(published, after);
  CHECK_EQ(retired, after);  // a pin that is younger than the stamp finds nothing of what has it
}

TEST(who_enters_while_a_move_is_copied_keeps_the_old_copy) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t before = stage.AddressOf(id), found = 0;
  {
    AtPoints look([&](TestPointId point) {
      if (point != TestPointId::kMoveCopied || found != 0) return;
      stage.arena->reclaimer().Enter(*stage.others);
      found = stage.arena->EntryOf(id);
    });
    CHECK(stage.Moves(id));
  }
  CHECK_EQ(found, before);
  stage.Compact();
  CHECK(stage.Waits(before));
  CHECK_EQ(Stage::CallAt(found), 7u);
  stage.arena->reclaimer().Leave(*stage.others);
  stage.Compact();
  CHECK(!stage.Waits(before));
}

TEST(who_enters_after_a_move_keeps_nothing) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t before = stage.AddressOf(id);
  {
    AtPoints look([&](TestPointId point) {
      if (point == TestPointId::kMoveRetired && stage.others->depth == 0) stage.arena->reclaimer().Enter(*stage.others);
    });
    CHECK(stage.Moves(id));
  }
  CHECK(!stage.Waits(before));
  stage.arena->reclaimer().Leave(*stage.others);
}

TEST(an_unaligned_branch_keeps_its_target_while_others_execute) {
  for (bool unaligned : {false, true}) {
    Stage stage;
    ExecutorId target = stage.InstallNumber(7);
    // The caller does not move, so that its branch must be changed where it stands.
    ExecutorSpec spec;
    x64::Assembler branch = Caller(target, unaligned ? 6 : 1);
    spec = branch.Spec();
    spec.movable = false;
    ExecutorId caller = stage.Install(spec);
    {
      Pinned pinned(stage.arena->reclaimer(), *stage.others);
      CHECK_EQ(stage.Moves(target), !unaligned);
      CHECK_EQ(stage.Call(stage.pin, caller), 7u);
    }
    CHECK(stage.Moves(target));
    CHECK_EQ(stage.Call(stage.pin, caller), 7u);
  }
}

// Copies that are given up can leave their slab empty, and the zone may have a spare already.
TEST(a_batch_that_is_given_up_leaves_the_next_a_place_to_go) {
  Stage stage;
  std::vector<uint8_t> bytes(16 * kKiB, 0x90);
  ExecutorSpec part;
  part.bytes[0] = bytes.data();
  part.sizes[0] = static_cast<uint32_t>(bytes.size());
  // Four full slabs.
  std::vector<std::vector<ExecutorId>> slabs;
  for (uint64_t slab = 0;;) {
    ExecutorId id = stage.Install(part);
    if (uint64_t here = stage.SlabOf(stage.AddressOf(id)); here != slab) {
      slab = here;
      slabs.emplace_back();
    }
    slabs.back().push_back(id);
    if (slabs.size() <= 4) continue;
    stage.Free(id);
    break;
  }
  auto thin_out = [&](std::vector<ExecutorId>& parts, size_t dead) {
    for (size_t i = 0; i < dead; i++) {
      stage.Free(parts[i]);  // every second: the holes are small
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(i));
    }
  };
  // The second slab is the first to be evacuated; of the next two, every executor has to stay beside others.
  thin_out(slabs[1], 5);
  for (size_t blocked : {2, 3}) {
    thin_out(slabs[blocked], 4);
    for (ExecutorId id : slabs[blocked]) {
      x64::Assembler branch = Caller(id, 6);
      ExecutorSpec caller = branch.Spec();
      caller.movable = false;
      stage.Install(caller);
    }
  }
  PinSlot* old_pin = stage.arena->reclaimer().Attach();
  stage.arena->reclaimer().Enter(*old_pin);
  CHECK(stage.arena->Free(slabs[0].data(), static_cast<uint32_t>(slabs[0].size()), stage.pin).ok());
  {
    // When the second slab has moved, the first is reclaimed: a spare. A younger pin keeps the gate from closing.
    AtPoints look([&](TestPointId point) {
      if (point != TestPointId::kMoveRetired || stage.others->depth != 0) return;
      stage.arena->reclaimer().Leave(*old_pin);
      stage.arena->reclaimer().Enter(*stage.others);
    });
    CHECK_EQ(stage.arena->Collect({}, stage.pin).moved, slabs[1].size());
  }
  stage.arena->reclaimer().Leave(*stage.others);
  CHECK(stage.arena->Collect({}, stage.pin).moved > 0);
}

TEST(state_stays_while_anybody_is_inside) {
  Stage stage;
  Number number(7);
  number.code = x64::Assembler().LoadAddress(x64::kRax, x64::OwnState(0)).Ret();
  ExecutorId id = stage.Install(number.Spec());
  uint64_t state = stage.Call(stage.pin, id);
  {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    for (int i = 0; i < 4; i++) stage.Compact();
    CHECK_EQ(stage.Call(stage.pin, id), state);
  }
  for (int i = 0; i < 4 && stage.Call(stage.pin, id) == state; i++) stage.Compact();
  CHECK(stage.Call(stage.pin, id) != state);
}

// ---- Freeze and free

TEST(a_freeze_is_seen_when_all_cores_can_execute_it) {
  Stage stage;
  ExecutorId dead = stage.InstallNumber(6);
  uint64_t address = stage.AddressOf(dead);
  stage.Free(dead);
  stage.Call(stage.others, dead);  // has seen all code until now
  uint64_t code_epoch = stage.others->code_epoch;
  ExecutorId id = stage.arena->Allocate(Number(7).Spec()).value();
  uint64_t code_epoch_then = 0;
  int looked = 0;
  {
    AtPoints look([&](TestPointId point) {
      if (point != TestPointId::kFreezeWritten && point != TestPointId::kSynchronised) return;
      {
        Pinned pinned(stage.arena->reclaimer(), *stage.others);
        CHECK_EQ(stage.arena->EntryOf(dead), 0u);
        CHECK_EQ(stage.arena->EntryOf(id), 0u);
        code_epoch_then = stage.others->code_epoch;
      }
      looked++;
    });
    CHECK(stage.arena->Freeze(&id, 1, stage.pin).ok());
  }
  CHECK_EQ(looked, 2);
  // Whoever enters before the entry is there synchronises its own core, or is one of those that the barrier reaches.
  CHECK(code_epoch_then > code_epoch);
  CHECK_EQ(stage.AddressOf(id), address);  // the memory has been something else
  CHECK_EQ(stage.Call(stage.others, id), 7u);
  CHECK_EQ(stage.Call(stage.others, dead), 0u);
}

TEST(a_move_raises_the_code_epoch_before_it_is_published) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  stage.Call(stage.others, id);
  uint64_t code_epoch = stage.others->code_epoch, before_move = 0, published = 0;
  {
    AtPoints look([&](TestPointId point) {
      if (point != TestPointId::kMoveCopied && point != TestPointId::kMovePublished) return;
      Pinned pinned(stage.arena->reclaimer(), *stage.others);
      (point == TestPointId::kMoveCopied ? before_move : published) = stage.others->code_epoch;
    });
    CHECK(stage.Moves(id));
  }
  CHECK(before_move >= code_epoch);
  CHECK(published > before_move);
}

TEST(a_free_takes_the_entry_away_first) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  bool looked = false;
  {
    AtPoints look([&](TestPointId point) {
      if (point != TestPointId::kFreeUnpublished) return;
      {
        Pinned pinned(stage.arena->reclaimer(), *stage.others);
        CHECK_EQ(stage.arena->EntryOf(id), 0u);
      }
      looked = true;
    });
    stage.Free(id);
  }
  CHECK(looked);
}

TEST(what_is_freed_while_nobody_is_pinned_is_free_at_once) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t address = stage.AddressOf(id);
  stage.Free(id);
  CHECK_EQ(stage.arena->Stats().retired_bytes, 0u);
  CHECK_EQ(stage.AddressOf(stage.InstallNumber(8)), address);
}

TEST(who_enters_between_the_entry_and_the_memory_keeps_the_memory) {
  // Finds no entry, but the free cannot know: it waits.
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t address = stage.AddressOf(id);
  {
    AtPoints enter([&](TestPointId point) {
      if (point == TestPointId::kFreeUnpublished) stage.arena->reclaimer().Enter(*stage.others);
    });
    stage.Free(id);
  }
  CHECK_EQ(stage.arena->EntryOf(id), 0u);
  CHECK(stage.Waits(address));
  stage.arena->reclaimer().Leave(*stage.others);
  stage.Compact();
  CHECK(!stage.Waits(address));
}

TEST(who_has_the_entry_of_what_is_freed_executes_it_to_the_end) {
  Stage stage;
  ExecutorId id = stage.InstallNumber(7);
  uint64_t result = 0, entry = 0, address = stage.AddressOf(id);
  Actor reader([&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    entry = stage.arena->EntryOf(id);
    Actor::Stop();
    result = Stage::CallAt(entry);
  });
  stage.Free(id);
  ExecutorId other = stage.InstallNumber(8);
  CHECK(stage.AddressOf(other) != address);
  CHECK(stage.Waits(address));
  reader.Release();
  CHECK_EQ(entry, address);
  CHECK_EQ(result, 7u);
  stage.Compact();
  CHECK(!stage.Waits(address));
}

TEST(a_stale_id_finds_nothing_when_its_index_is_used_again_at_that_moment) {
  Stage stage;
  PinSlot* old_pin = stage.arena->reclaimer().Attach();
  ExecutorId id = stage.InstallNumber(7);
  stage.arena->reclaimer().Enter(*old_pin);
  stage.Free(id);  // the index waits for the old pin
  uint64_t found = 1;
  Actor reader(TestPointId::kEntryLoaded, [&] {
    Pinned pinned(stage.arena->reclaimer(), *stage.others);
    found = stage.arena->EntryOf(id);
  });
  // Between the reader's two loads.
  stage.arena->reclaimer().Leave(*old_pin);
  stage.arena->Collect({}, stage.pin);
  ExecutorId other = stage.InstallNumber(8);
  CHECK_EQ(IndexOf(other), IndexOf(id));
  CHECK(other != id);
  reader.Release();
  CHECK_EQ(found, 0u);
  CHECK_EQ(stage.Call(stage.pin, other), 8u);
}

// ---- The gate

TEST(who_has_no_pin_yet_waits_at_a_closed_gate) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach();
  std::atomic<bool> inside{false};
  Actor reader(TestPointId::kEnterHasEpoch, [&] {
    Pinned pinned(reclaimer, *other);
    inside = true;
  });
  CHECK(reclaimer.CloseGate(own, 0));
  CHECK(!reader.Release(50ms));
  CHECK(!inside);
  reclaimer.OpenGate();
  CHECK(reader.Release());
  CHECK(inside);
}

TEST(who_has_a_pin_is_waited_for_and_takes_it_back_at_a_closed_gate) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach();
  std::atomic<bool> inside{false};
  Actor reader(TestPointId::kEnterHasPin, [&] {
    Pinned pinned(reclaimer, *other);
    inside = true;
  });
  bool alone = reclaimer.CloseGate(own, 20'000'000);
  CHECK(!alone);  // it may be inside, for all that can be seen
  if (alone) reclaimer.OpenGate();
  std::thread release([&] {
    std::this_thread::sleep_for(20ms);
    reader.Release(0ms);
  });
  bool closed = reclaimer.CloseGate(own, 10'000'000'000);
  release.join();
  CHECK(closed);
  std::this_thread::sleep_for(20ms);
  CHECK(!inside);
  reclaimer.OpenGate();
  CHECK(reader.Release());
  CHECK(inside);
}

// ---- Threads that stay

namespace {

// A trace that calls Pause and then takes exit 0.
void Pause() { Actor::Stop(); }

x64::Assembler PausingTrace() {
  x64::Assembler code;
  code.exits = 1;
  return code.CallKeepingContext(x64::Outside(&Pause)).LeaveThrough(0);
}

ExitTaken Run(Stage& stage, PinSlot* slot, ExecutorId id) {
  arch::CallFrame frame{};
  Pinned pinned(stage.arena->reclaimer(), *slot);
  stage.arena->call_gate()(reinterpret_cast<const void*>(stage.arena->EntryOf(id)), &frame, arch::ReadFloatControl());
  ExitTaken taken = stage.arena->ResolveExit(frame.integer_result);
  return taken;
}

}  // namespace

TEST(a_trace_that_dies_while_it_runs_leaves_by_its_own_record) {
  Stage stage;
  ExecutorId id = stage.Install(PausingTrace().Spec()), target = stage.Install(PausingTrace().Spec());
  CHECK(stage.arena->Link(id, 0, target, 0).ok());
  ExitTaken taken{};
  Actor runner([&] { taken = Run(stage, stage.others, id); });
  // Both die, and others take whatever of theirs is free.
  CHECK(stage.arena->Invalidate(target, stage.pin).ok());
  stage.Free(id);
  std::vector<ExecutorId> others;
  for (int i = 0; i < 64; i++) others.push_back(stage.Install(PausingTrace().Spec()));
  stage.Compact();
  CHECK(runner.Release());
  CHECK(runner.ended());  // the exit was not linked any more
  CHECK_EQ(taken.executor, id);
  CHECK_EQ(taken.exit, 0u);
}

TEST(a_thread_that_stays_keeps_its_copy_and_everything_else_goes_on) {
  constexpr uint64_t kLimit = kMiB;
  Stage stage(kLimit);
  ExecutorId id = stage.Install(PausingTrace().Spec()), other = stage.InstallNumber(7);
  uint64_t first = stage.AddressOf(id);
  ExitTaken taken{};
  Actor runner([&] { taken = Run(stage, stage.others, id); });
  // The others move, the one that executes as well; what it left stays, and so does all that was freed since.
  CHECK(stage.Moves(id));
  CHECK(stage.Moves(other));
  CHECK(stage.Waits(first));
  CHECK_EQ(stage.Call(stage.pin, other), 7u);
  uint64_t before = stage.arena->Stats().retired_bytes;
  ExecutorId freed = stage.InstallNumber(8);
  stage.Free(freed);
  CHECK(stage.arena->Stats().retired_bytes > before);
  // Until the limit. What is freed then is not refused.
  std::vector<uint8_t> bytes(128 * kKiB, 0x90);
  ExecutorSpec filler;
  filler.bytes[0] = bytes.data();
  filler.sizes[0] = static_cast<uint32_t>(bytes.size());
  Status failed;
  for (int i = 0; i < 100 && failed.ok(); i++) {
    ExecutorId filling = 0;
    failed = stage.arena->Install(&filler, 1, &filling, stage.pin);
    if (failed.ok()) stage.Free(filling);
  }
  CHECK_EQ(static_cast<int>(failed.code()), static_cast<int>(ErrorCode::kRetiredLimit));
  uint64_t retired = stage.arena->Stats().retired_bytes;
  CHECK(retired >= kLimit);
  CHECK(retired < kLimit + bytes.size());
  CHECK_EQ(stage.arena->Collect({}, stage.pin).moved, 0u);
  CHECK_EQ(stage.arena->Stats().retired_bytes, retired);
  CHECK_EQ(stage.Call(stage.pin, other), 7u);
  stage.Free(other);
  // It leaves at last.
  runner.Release();
  CHECK_EQ(taken.executor, id);
  CHECK(stage.arena->Collect({}, stage.pin).done);
  CHECK_EQ(stage.arena->Stats().retired_bytes, 0u);
  stage.InstallNumber(9);
}
