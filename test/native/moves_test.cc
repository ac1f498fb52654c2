// What moves beside threads that execute, what waits for the gate, and moves of state.
#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/bits.h"
#include "core/collector.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr arch::RelocKind kAbs64 = 1, kPc32 = 2, kPlt32 = 4, kGotPcRel = 9;

// Another thread, which is pinned as long as this lives.
struct OtherThread {
  explicit OtherThread(ArenaRig& rig) : pinned(rig.arena->reclaimer(), *rig.arena->reclaimer().Attach()) {}
  Pinned pinned;
};

struct Subject {
  ExecutorId id;
  std::vector<uint8_t> state;
  uint64_t address = 0;
};

// Executors with state and two exits each, whose code and data name both; the last exit of each leads to the one
// before.
std::vector<Subject> InstallWithState(ArenaRig& rig, uint32_t count, bool movable = true, bool state_fixed = false) {
  std::vector<Subject> subjects;
  for (uint32_t i = 0; i < count; i++) {
    Program program = Program::Of(80, 24, 40 + i % 200, i);
    program.movable = movable;
    program.relocs = {{Section::kCode, kPc32, TargetKind::kOwnState, 4, 8, -4},
                      {Section::kCode, kAbs64, TargetKind::kOwnState, 11, 0, 0},
                      {Section::kCode, kPc32, TargetKind::kExit, 24, 1, -4},
                      {Section::kCode, kPc32, TargetKind::kValid, 32, 0, -5},
                      {Section::kCode, kPc32, TargetKind::kWarm, 40, 0, -5},
                      {Section::kData, kAbs64, TargetKind::kExit, 8, 0, 0}};
    if (i % 3 == 1 && movable)
      program.relocs.push_back(
          {Section::kCode, kPc32, TargetKind::kExecutor, 50, subjects.back().id, -4, Section::kState, 16});
    if (state_fixed) program.relocs.push_back({Section::kState, kAbs64, TargetKind::kOwnState, 0, 24, 0});
    ExecutorSpec spec = program.Spec();
    spec.exit_count = 2;
    spec.aligns[2] = 16u << i % 3;
    Subject subject{};
    CHECK(rig.arena->Install(&spec, 1, &subject.id, rig.self).ok());
    if (!subjects.empty()) CHECK(rig.arena->Link(subject.id, 1, subjects.back().id, 0).ok());
    subject.state = rig.Read(subject.id, Section::kState);
    subjects.push_back(std::move(subject));
  }
  return subjects;
}

// Frees nine tenths, in groups to which nobody outside refers.
void Thin(ArenaRig& rig, std::vector<Subject>& subjects) {
  std::vector<ExecutorId> dead;
  std::vector<Subject> left;
  for (size_t i = 0; i < subjects.size(); i++)
    if (i % 30 < 27)
      dead.push_back(subjects[i].id);
    else
      left.push_back(subjects[i]);
  rig.Free(dead);
  subjects = left;
}

uint64_t StateSlabs(ArenaRig& rig, Zone zone = Zone::kState) {
  uint64_t count = 0;
  for (const SlabMap& slab : rig.arena->Slabs()) count += slab.zone == zone;
  return count;
}

void CheckStates(ArenaRig& rig, const std::vector<Subject>& subjects) {
  for (const Subject& subject : subjects) CHECK(rig.Read(subject.id, Section::kState) == subject.state);
  rig.CheckInvariants();  // every field names the state where it is, every record and link is in order
}

void WithEachWriter(void (*body)(os::WriterKind writer, bool apart)) {
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      int failed_before = test::failed_checks;
      body(writer, apart);
      if (test::failed_checks != failed_before)
        std::printf("  (%s, %s)\n", os::WriterName(writer), apart ? "apart" : "together");
    }
  }
}

}  // namespace

TEST(state_moves_together_and_everything_follows) {
  WithEachWriter([](os::WriterKind writer, bool apart) {
    ArenaRig rig({.writer = writer, .apart = apart, .max_bytes = 32 * kSlabBytes});
    std::vector<Subject> subjects = InstallWithState(rig, 6000);
    uint64_t before = StateSlabs(rig);
    CHECK(before >= 4);
    Thin(rig, subjects);
    CompactionPlan plan = rig.arena->PlanCompaction();
    CollectResult result = rig.Collect();
    CHECK(result.done);
    CHECK(result.relocs_rewritten <= plan.relocs_rewritten);
    CHECK(StateSlabs(rig) <= before / 4 + 1);
    CHECK(!rig.arena->PlanCompaction().profitable);
    CheckStates(rig, subjects);
    // Links still lead where they led, and records can be used.
    for (size_t i = 1; i < subjects.size(); i++) {
      Result<Arena::LinkedTo> linked = rig.arena->LinkOf(subjects[i].id, 1);
      CHECK(linked.ok());
      if (i % 3 != 0) CHECK_EQ(linked.value().target, subjects[i - 1].id);
      CHECK(rig.arena->Link(subjects[i].id, 0, subjects[0].id, 0).ok());
    }
    rig.CheckInvariants();
  });
}

TEST(state_stays_while_anybody_is_pinned) {
  ArenaRig rig({.max_bytes = 32 * kSlabBytes});
  std::vector<Subject> subjects = InstallWithState(rig, 6000);
  uint64_t before = StateSlabs(rig);
  Thin(rig, subjects);
  {
    OtherThread other(rig);
    CHECK(rig.Collect().moved > 0);  // code
    CHECK_EQ(StateSlabs(rig), before);
    CheckStates(rig, subjects);
  }
  {
    Pinned pinned(rig.arena->reclaimer(), *rig.self);
    rig.Collect();
    CHECK_EQ(StateSlabs(rig), before);
  }
  rig.Collect();
  CHECK(StateSlabs(rig) < before);
  CheckStates(rig, subjects);
}

TEST(state_that_holds_its_own_addresses_or_whose_executor_is_immovable_stays) {
  for (bool movable : {false, true}) {
    ArenaRig rig({.max_bytes = 32 * kSlabBytes});
    std::vector<Subject> subjects = InstallWithState(rig, 3000, movable, movable);
    Thin(rig, subjects);
    CHECK_EQ(StateSlabs(rig), 0);
    uint64_t fixed = StateSlabs(rig, Zone::kFixedState);
    std::vector<std::vector<uint8_t>> data;
    for (const Subject& subject : subjects) data.push_back(rig.Read(subject.id, Section::kData));
    rig.Collect();
    CHECK_EQ(StateSlabs(rig, Zone::kFixedState), fixed);
    for (size_t i = 0; i < subjects.size(); i++) CHECK(rig.Read(subjects[i].id, Section::kData) == data[i]);
    CheckStates(rig, subjects);
  }
}

TEST(state_moves_in_slices) {
  ArenaRig rig({.max_bytes = 64 * kSlabBytes});
  std::vector<Subject> subjects = InstallWithState(rig, 12000);
  uint64_t before = StateSlabs(rig);
  Thin(rig, subjects);
  CollectOptions slice;
  slice.max_pause_nanos = 1;
  int slices = 0;
  while (!rig.Collect(slice).done && slices < 10000) slices++;
  CHECK(slices > 3);
  CHECK(StateSlabs(rig) < before / 4);
  CheckStates(rig, subjects);
}

// An immovable source with each of its sites in turn: only what one store can change is changed beside others.
TEST(what_one_store_cannot_change_stays_while_others_are_pinned) {
  struct Case {
    arch::RelocKind kind;
    Section section;
    uint32_t offset;
    bool moves;  // beside others, with the alias writer
  };
  const Case cases[] = {
      {kPlt32, Section::kCode, 8, true},   {kPlt32, Section::kCode, 12, true},   {kPlt32, Section::kCode, 13, false},
      {kPlt32, Section::kCode, 15, false}, {kPc32, Section::kCode, 20, true},    {kPc32, Section::kCode, 22, false},
      {kAbs64, Section::kCode, 24, true},  {kAbs64, Section::kCode, 26, false},  {kAbs64, Section::kData, 8, true},
      {kAbs64, Section::kData, 9, false},  {kGotPcRel, Section::kCode, 33, true}};  // through a slot, which is aligned
  for (os::WriterKind writer : {os::WriterKind::kAlias, os::WriterKind::kProcmem}) {
    for (const Case& c : cases) {
      ArenaRig rig({.writer = writer});
      std::vector<ExecutorId> filling;
      for (int i = 0; i < 100; i++) filling.push_back(rig.Install(Program::Of(1000)));
      ExecutorId target = rig.Install(Program::Of(64));
      for (int i = 0; i < 300; i++) filling.push_back(rig.Install(Program::Of(1000)));
      Program names = Program::Of(64, 32);
      names.movable = false;
      names.relocs = {{c.section, c.kind, TargetKind::kExecutor, c.offset, target, -4}};
      ExecutorId source = rig.Install(names);
      rig.Free(filling);
      uint64_t address = rig.AddressOf(target);
      {
        OtherThread other(rig);
        CollectResult result = rig.Collect();
        CHECK(result.done);  // calling again would not help
        bool moved = rig.AddressOf(target) != address;
        CHECK_EQ(moved, c.moves && writer == os::WriterKind::kAlias);
        rig.CheckInvariants();
      }
      rig.Collect();
      CHECK(rig.AddressOf(target) != address);
      CHECK(rig.AddressOf(source) != 0);
      rig.CheckInvariants();
    }
  }
}

// One that must wait keeps nobody else from moving.
TEST(a_blocked_executor_does_not_stop_the_rest) {
  ArenaRig rig;
  std::vector<ExecutorId> filling, left;
  ExecutorId target = rig.Install(Program::Of(64));
  for (int i = 0; i < 1200; i++) (i % 10 == 0 ? left : filling).push_back(rig.Install(Program::Of(500)));
  Program names = Program::Of(64);
  names.movable = false;
  names.relocs = {{Section::kCode, kPlt32, TargetKind::kExecutor, 13, target, -4}};
  rig.Install(names);
  rig.Free(filling);
  uint64_t address = rig.AddressOf(target);
  {
    OtherThread other(rig);
    CHECK(rig.Collect().moved >= 50);
    CHECK_EQ(rig.AddressOf(target), address);
  }
  rig.Collect();
  CHECK(rig.AddressOf(target) != address);
}

// A thread that keeps coming back lets the gate close between two of its pins.
TEST(what_waits_moves_between_two_pins) {
  ArenaRig rig({.max_bytes = 32 * kSlabBytes});
  std::vector<Subject> subjects = InstallWithState(rig, 6000);
  uint64_t before = StateSlabs(rig);
  Thin(rig, subjects);
  std::atomic<bool> stop{false};
  std::thread thread([&] {
    PinSlot* slot = rig.arena->reclaimer().Attach();
    while (!stop) {
      Pinned pinned(rig.arena->reclaimer(), *slot);
      for (int i = 0; i < 100; i++) std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    rig.arena->reclaimer().Detach(slot);
  });
  for (int i = 0; i < 1000 && StateSlabs(rig) > before / 4 + 1; i++) rig.Collect();
  CHECK(StateSlabs(rig) <= before / 4 + 1);
  stop = true;
  thread.join();
  CheckStates(rig, subjects);
}

// How many of the executors lie in front of their successor, with nothing between.
static size_t CountInOrder(ArenaRig& rig, const std::vector<ExecutorId>& chain) {
  size_t count = 0;
  for (size_t i = 1; i < chain.size(); i++) {
    uint64_t end = rig.AddressOf(chain[i - 1]) + rig.Read(chain[i - 1], Section::kCode).size();
    count += rig.AddressOf(chain[i]) == AlignUp(end, 16);
  }
  return count;
}

TEST(links_decide_the_order_when_asked_to) {
  for (bool branches : {false, true}) {
    for (uint64_t pause : {0, 1}) {
      ArenaRig rig({.max_bytes = 32 * kSlabBytes});
      std::mt19937 random(3);
      std::vector<ExecutorId> chain;
      for (uint32_t i = 0; i < 4000; i++) {
        Program program = Program::Of(100 + random() % 200, 0, 0, i);
        if (branches && i != 0)
          program.relocs = {{Section::kCode, kPlt32, TargetKind::kExecutor, 32, chain.back(), -4}};
        ExecutorSpec spec = program.Spec();
        spec.exit_count = 2;
        ExecutorId id = 0;
        CHECK(rig.arena->Install(&spec, 1, &id, rig.self).ok());
        chain.push_back(id);
        rig.Install(Program::Of(120));  // something that nobody leads to
      }
      if (branches)
        std::reverse(chain.begin(), chain.end());  // each branches to the one before it
      else
        std::shuffle(chain.begin(), chain.end(), random);
      // The exit that is linked first leads on; the other one somewhere.
      for (size_t i = 1; i < chain.size() && !branches; i++) {
        CHECK(rig.arena->Link(chain[i - 1], i % 2, chain[i], 0).ok());
        CHECK(rig.arena->Link(chain[i - 1], 1 - i % 2, chain[random() % chain.size()], 0).ok());
      }
      CHECK(CountInOrder(rig, chain) < chain.size() / 10);
      CollectOptions options;
      options.follow_links = true;
      options.max_pause_nanos = pause;
      uint64_t moved = 0;
      int slices = 0;
      for (bool done = false; !done && slices < 10000; slices++) {
        CollectResult result = rig.Collect(options);
        moved += result.moved;
        done = result.done;
      }
      CHECK(pause == 0 ? slices == 1 : slices > 5);
      CHECK(CountInOrder(rig, chain) > chain.size() - 20);  // but at the ends of slabs
      CHECK(moved < 3 * 8000);                              // code, state, and what is evacuated behind them
      CHECK_EQ(rig.Collect(options).moved, 0);
      rig.CheckInvariants();
    }
  }
}

TEST(without_a_barrier_code_is_written_with_the_gate_closed) {
  ArenaOptions options;
  options.without_barrier = true;
  Result<std::unique_ptr<Arena>> made = Arena::Create(options);
  CHECK(made.ok());
  Arena& arena = *made.value();
  PinSlot *self = arena.reclaimer().Attach(), *other = arena.reclaimer().Attach();
  Program program = Program::Of(64);
  ExecutorSpec spec = program.Spec();
  ExecutorId id = 0;
  {
    Pinned pinned(arena.reclaimer(), *other);
    CHECK(arena.Install(&spec, 1, &id, self).code() == ErrorCode::kBusy);
    CHECK(!arena.Collect({}, self).done);
    CHECK_EQ(arena.CheckInvariants(), "");
  }
  CHECK(arena.Install(&spec, 1, &id, self).ok());
  {
    Pinned pinned(arena.reclaimer(), *self);
    CHECK(arena.Install(&spec, 1, &id, self).ok());  // one's own pin does not matter
  }
  CHECK(arena.Collect({}, self).done);
}
