// Compaction: what is moved and what is not, what it costs, and what stays the same.
#include "core/collector.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "base/bits.h"
#include "kinds.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kFar = 0x7000'0000'0000;  // out of every branch's reach

// Uses its own parts, something far away and, when there is one, another executor.
Program Busy(uint32_t seed, ExecutorId other = 0) {
  std::mt19937 random(seed);
  Program program =
      Program::Of(64 + random() % 800, 32 + random() % 200, random() % 3 == 0 ? 16 + random() % 64 : 0, seed);
  program.relocs = {
      {Section::kCode, kinds::kNear, TargetKind::kOwnData, 3, 0, -4},                 // PC32
      {Section::kCode, kinds::kAddress, TargetKind::kOwnCode, 8, 40, 0},              // 64
      {Section::kCode, kinds::kCall, TargetKind::kAddress, 20, kFar, -4},             // PLT32
      {Section::kCode, kinds::kThroughSlot, TargetKind::kAddress, 28, kFar + 8, -4},  // GOTPCREL
      {Section::kData, kinds::kAddress, TargetKind::kOwnData, 8, 16, 0},
  };
  if (!program.sections[2].empty())
    program.relocs.push_back({Section::kCode, kinds::kNear, TargetKind::kOwnState, 32, 0, -4});
  if (other != 0) program.relocs.push_back({Section::kCode, kinds::kCall, TargetKind::kExecutor, 40, other, -4});
  return program;
}

// Executors of random sizes, of which a share dies at random.
struct Population {
  Population(ArenaRig& rig, uint32_t count, uint32_t percent_dead, uint32_t seed) : rig(rig) {
    std::mt19937 random(seed);
    for (uint32_t i = 0; i < count; i++) {
      Program program = Busy(seed * 10000 + i);
      ids.push_back(rig.Install(program));
    }
    std::shuffle(ids.begin(), ids.end(), random);
    for (uint32_t i = 0; i < count * percent_dead / 100; i++) {
      rig.Free(ids.back());
      ids.pop_back();
    }
  }
  // Every byte of code and data that no reloc covers.
  std::vector<std::vector<uint8_t>> Bytes() {
    std::vector<std::vector<uint8_t>> all;
    for (ExecutorId id : ids) {
      std::vector<uint8_t> code = rig.Read(id, Section::kCode), data = rig.Read(id, Section::kData);
      std::fill(code.begin() + 3, code.begin() + 44, uint8_t{0});
      std::fill(data.begin() + 8, data.begin() + 16, uint8_t{0});
      code.insert(code.end(), data.begin(), data.end());
      std::vector<uint8_t> state = rig.Read(id, Section::kState);
      code.insert(code.end(), state.begin(), state.end());
      all.push_back(std::move(code));
    }
    return all;
  }

  ArenaRig& rig;
  std::vector<ExecutorId> ids;
};

void WithEachLayout(void (*body)(bool apart)) {
  for (bool apart : {false, true}) {
    int failed_before = test::failed_checks;
    body(apart);
    if (test::failed_checks != failed_before) std::printf("  (%s)\n", apart ? "apart" : "together");
  }
}

size_t Commits(FakeMemory& memory, const char* what = "commit") {
  size_t count = 0;
  for (const std::string& entry : memory.log()) count += entry.rfind(what, 0) == 0;
  return count;
}

}  // namespace

TEST(collector_has_nothing_to_do_in_an_empty_arena) {
  ArenaRig rig;
  CHECK(!rig.arena->PlanCompaction().profitable);
  CollectResult result = rig.Collect();
  CHECK(result.done);
  CHECK_EQ(result.moved, 0);
}

TEST(collector_moves_nothing_without_profit) {
  WithEachLayout([](bool apart) {
    ArenaRig rig({.apart = apart});
    Population population(rig, 1500, 0, 1);
    CompactionPlan plan = rig.arena->PlanCompaction();
    CHECK(!plan.profitable);
    CHECK_EQ(plan.moved, 0);
    uint64_t committed = rig.arena->Stats().committed_bytes;
    CollectResult result = rig.Collect();
    CHECK(result.done);
    CHECK_EQ(result.moved, 0);
    CHECK_EQ(rig.arena->Stats().committed_bytes, committed);
  });
}

TEST(collector_keeps_every_byte_but_the_relocs) {
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      ArenaRig rig({.writer = writer, .apart = apart});
      Population population(rig, 1500, 80, 2);
      auto before = population.Bytes();
      CollectResult result = rig.Collect();
      CHECK(result.done);
      CHECK(result.moved > 100);
      CHECK(population.Bytes() == before);
      rig.CheckInvariants();  // the relocs: every field still says its target
    }
  }
}

TEST(collector_does_what_its_plan_says) {
  WithEachLayout([](bool apart) {
    for (uint32_t percent_dead : {30u, 60u, 90u}) {
      ArenaRig rig({.apart = apart});
      Population population(rig, 2000, percent_dead, percent_dead);
      CompactionPlan plan = rig.arena->PlanCompaction();
      CHECK(plan.profitable);
      CHECK(plan.pages_freed > plan.pages_needed);
      uint64_t committed = rig.arena->Stats().committed_bytes;
      CollectResult result = rig.Collect();
      CHECK_EQ(result.moved, plan.moved);
      CHECK_EQ(result.moved_bytes, plan.moved_bytes);
      CHECK_EQ(result.relocs_rewritten, plan.relocs_rewritten);
      CHECK(result.pages_freed >= plan.pages_freed - plan.pages_needed);
      CHECK_EQ(rig.arena->Stats().committed_bytes + result.pages_freed * os::PageBytes(), committed);
      ArenaStats stats = rig.arena->Stats();
      CHECK_EQ(stats.moves, result.moved);
      CHECK_EQ(stats.moved_bytes, result.moved_bytes);
      CHECK_EQ(stats.relocs_rewritten, result.relocs_rewritten);
      CHECK_EQ(stats.pauses.count, 1);
      CHECK_EQ(result.retired_bytes, 0);
    }
  });
}

TEST(collector_leaves_little_behind) {
  WithEachLayout([](bool apart) {
    for (uint32_t seed = 1; seed <= 4; seed++) {
      ArenaRig rig({.apart = apart});
      Population population(rig, 2500, 90, seed);
      rig.Collect();
      // A zone may have a last page that is not full, and its share of what is not worth a move. (State does not move.)
      std::map<Zone, std::pair<uint64_t, uint64_t>> live_and_committed;
      for (const SlabMap& slab : rig.arena->Slabs()) {
        live_and_committed[slab.zone].first += slab.live_bytes;
        for (bool backed : slab.backed) live_and_committed[slab.zone].second += backed ? os::PageBytes() : 0;
      }
      for (Zone zone : {Zone::kCode, Zone::kData}) {
        auto [live, committed] = live_and_committed[zone];
        CHECK(committed <= live + live / 32 + os::PageBytes());
      }
    }
  });
}

TEST(collector_converges) {
  WithEachLayout([](bool apart) {
    for (uint32_t seed = 1; seed <= 6; seed++) {
      ArenaRig rig({.apart = apart});
      Population population(rig, 400 * seed, 25 + 12 * seed, seed);
      CHECK(rig.arena->PlanCompaction().profitable);
      rig.Collect();
      CompactionPlan again = rig.arena->PlanCompaction();
      CHECK(!again.profitable);
      CHECK_EQ(rig.Collect().moved, 0);
    }
  });
}

TEST(collector_fills_emptied_slabs_before_it_commits_new_ones) {
  ArenaRig rig;
  Population population(rig, 3000, 75, 3);  // about six slabs
  uint64_t slabs = rig.arena->Stats().slabs;
  CHECK(slabs >= 6);
  rig.memory->ClearLog();
  rig.Collect();
  CHECK(Commits(*rig.memory, "commit code") <= 1);
  CHECK(rig.arena->Stats().slabs < slabs);
  CHECK(Commits(*rig.memory, "decommit") >= 2);
}

TEST(collector_slices_come_to_the_same_end) {
  WithEachLayout([](bool apart) {
    ArenaRig whole({.apart = apart}), sliced({.apart = apart});
    Population in_whole(whole, 2500, 70, 4), in_sliced(sliced, 2500, 70, 4);
    CollectResult once = whole.Collect();
    uint64_t moved = 0;
    int slices = 0, idle = 0;
    for (; slices < 2000; slices++) {
      CollectResult slice = sliced.Collect({.max_pause_nanos = 1});
      moved += slice.moved;
      if (slice.done) break;
      // Each slice gets on, however short it is meant to be; the last ones only give back what is empty.
      idle += slice.moved == 0;
      sliced.CheckInvariants();
    }
    CHECK(slices > 2 && slices < 2000);
    CHECK(idle < 30);
    CHECK(!sliced.arena->PlanCompaction().profitable);
    ArenaStats a = whole.arena->Stats(), b = sliced.arena->Stats();
    CHECK(b.slabs <= a.slabs + 2);  // at most one per zone that is not full yet
    CHECK(b.committed_bytes <= a.committed_bytes + a.committed_bytes / 32);
    CHECK(moved <= once.moved + once.moved / 4);
    CHECK(in_sliced.Bytes() == in_whole.Bytes());
  });
}

// What the system does not take back, here since it would cost too many mappings, is no reason to go on for ever.
TEST(collector_slices_end_where_pages_cannot_be_given_back) {
  ArenaRig rig({.max_bytes = 64 * kSlabBytes});
  std::vector<ExecutorId> fillers;
  for (uint32_t i = 0; i < 24; i++) {
    rig.Install(Program::Of(2048, 0, 0, i));
    fillers.push_back(rig.Install(Program::Of(kSlabBytes - 4096, 0, 0, i)));
    rig.Install(Program::Of(2048, 0, 0, i));
  }
  for (ExecutorId id : fillers) rig.Free(id);
  CHECK(rig.arena->Stats().slabs >= 24);
  for (bool compact : {false, true}) {
    int slices = 0;
    while (slices < 1000 && !rig.Collect({.compact = compact, .max_pause_nanos = 1}).done) slices++;
    CHECK(slices < 1000);
  }
}

// Where nothing can move, slices end in time all the same: each gives up on some victims, and the last says so.
TEST(collector_slices_give_up_on_what_cannot_move) {
  ArenaRig rig({.max_bytes = 64 * kSlabBytes});
  PinSlot* other = rig.arena->reclaimer().Attach();
  std::vector<ExecutorId> targets, dying;
  for (uint32_t i = 0; i < 3000; i++) targets.push_back(rig.Install(Program::Of(1000, 0, 0, i)));
  for (uint32_t i = 0; i < 3000; i++) {
    Program program = Program::Of(64, 0, 0, i);
    program.relocs = {
        {Section::kCode, kinds::kNear, TargetKind::kExecutor, 5, targets[i], -4}};  // a rel32 that crosses 8 bytes
    ExecutorId source = rig.Install(program);
    if (i % 4 != 0) dying.insert(dying.end(), {source, targets[i]});
  }
  rig.Free(dying);
  int slices = 0, idle = 0;
  uint64_t moved = 0;
  {
    Pinned pinned(rig.arena->reclaimer(), *other);
    rig.Collect({.compact = false});
    for (bool done = false; !done && slices < 1000; slices++) {
      CollectResult slice = rig.Collect({.max_pause_nanos = 1});
      done = slice.done;
      moved += slice.moved;
      idle += slice.moved == 0;
    }
    CHECK(slices < 1000);
    CHECK(idle > 3);  // not all victims in one slice
  }
  rig.arena->reclaimer().Detach(other);
  uint64_t before = moved;
  for (bool done = false; !done && slices < 2000; slices++) {
    CollectResult slice = rig.Collect({.max_pause_nanos = 1});
    done = slice.done;
    moved += slice.moved;
  }
  CHECK(moved > before);  // in another round, with nobody inside
  CHECK(!rig.arena->PlanCompaction().profitable);
}

// Nor does a slice look at all that turns out not to be worth moving: here each page has one tiny executor, whose
// alignment needs it.
TEST(collector_slices_look_at_few_victims_that_are_none) {
  ArenaRig rig({.max_bytes = 64 * kSlabBytes});
  constexpr int kSlabs = 12;
  uint32_t page = static_cast<uint32_t>(os::PageBytes());
  for (uint32_t i = 0; i < kSlabs * (kSlabBytes / page); i++) {
    Program program = Program::Of(16, 0, 0, i);
    program.aligns[0] = page;
    rig.Install(program);
  }
  CHECK(!rig.arena->PlanCompaction().profitable);
  int slices = 1;
  uint64_t moved = 0;
  for (bool done = false; !done && slices < 1000; slices++) {
    CollectResult slice = rig.Collect({.max_pause_nanos = 1});
    done = slice.done;
    moved += slice.moved;
  }
  CHECK(slices >= kSlabs && slices < 1000);
  CHECK_EQ(moved, 0);
  CHECK_EQ(rig.Collect().moved, 0);
}

TEST(collector_leaves_old_copies_alone_until_the_pin_ends) {
  ArenaRig rig;
  Population population(rig, 1500, 80, 5);
  struct Old {
    uint64_t address;
    std::vector<uint8_t> code;
  };
  std::map<ExecutorId, Old> old;
  for (ExecutorId id : population.ids) old[id] = {rig.AddressOf(id), rig.Read(id, Section::kCode)};
  uint64_t committed = rig.arena->Stats().committed_bytes;

  {
    Pinned pinned(rig.arena->reclaimer(), *rig.self);
    CollectResult result = rig.Collect();
    CHECK(result.done);
    CHECK(result.moved > 100);
    CHECK(result.retired_bytes > 0);
    CHECK_EQ(rig.arena->Stats().retired_bytes, result.retired_bytes);
    CHECK(rig.arena->Stats().committed_bytes >= committed);
    // New code must not be placed over what may still be executing.
    for (int i = 0; i < 50; i++) rig.Install(Program::Of(500));
    rig.CheckInvariants();
    uint64_t moved = 0;
    for (const auto& [id, before] : old) {
      CHECK(std::memcmp(reinterpret_cast<const void*>(before.address), before.code.data(), before.code.size()) == 0);
      if (rig.AddressOf(id) == before.address) continue;
      moved++;
      std::optional<FoundAddress> found = rig.arena->Find(before.address);
      CHECK(found && found->executor == id && found->retired && found->offset == 0);
      CHECK(rig.arena->Find(rig.AddressOf(id)) && !rig.arena->Find(rig.AddressOf(id))->retired);
    }
    CHECK_EQ(moved, result.moved);
  }

  rig.Collect();
  CHECK_EQ(rig.arena->Stats().retired_bytes, 0);
  CHECK(rig.arena->Stats().committed_bytes < committed);
  for (const auto& [id, before] : old) {
    std::optional<FoundAddress> found = rig.arena->Find(before.address);
    CHECK(!found || !found->retired);
  }
}

TEST(collector_stops_at_the_limit_of_retired_bytes) {
  constexpr uint64_t kLimit = 64 * kKiB;
  ArenaRig rig({.max_retired_bytes = kLimit});
  Population population(rig, 2000, 50, 6);
  ExecutorId writable = 0;
  {
    Pinned pinned(rig.arena->reclaimer(), *rig.self);
    CollectResult result = rig.Collect();
    CHECK(!result.done);
    CHECK(result.retired_bytes >= kLimit);
    CHECK(result.retired_bytes <= kLimit + 4 * kKiB);  // at most one executor more
    CollectResult again = rig.Collect();
    CHECK(!again.done);
    CHECK_EQ(again.moved, 0);
    // Freezing says so, and freeing never fails.
    Program program = Program::Of(100);
    ExecutorSpec spec = program.Spec();
    ExecutorId id = 0;
    CHECK(rig.arena->Install(&spec, 1, &id, rig.self).code() == ErrorCode::kRetiredLimit);
    Result<ExecutorId> allocated = rig.arena->Allocate(spec);
    CHECK(allocated.ok());
    writable = allocated.value();
    CHECK(rig.arena->Freeze(&writable, 1, rig.self).code() == ErrorCode::kRetiredLimit);
    for (int i = 0; i < 100; i++) {
      rig.Free(population.ids.back());
      population.ids.pop_back();
    }
    CHECK(rig.arena->Stats().retired_bytes > result.retired_bytes);
    rig.CheckInvariants();
  }
  CHECK(rig.arena->Freeze(&writable, 1, rig.self).ok());
  CHECK_EQ(rig.arena->Stats().retired_bytes, 0);
  CHECK(rig.Collect().done);
}

TEST(collector_leaves_immovable_executors_where_they_are) {
  WithEachLayout([](bool apart) {
    ArenaRig rig({.apart = apart});
    std::vector<ExecutorId> fixed;
    std::vector<ExecutorId> movable;
    for (uint32_t i = 0; i < 600; i++) {
      Program program = Busy(i);
      program.movable = i % 4 != 0;
      (program.movable ? movable : fixed).push_back(rig.Install(program));
    }
    std::vector<uint64_t> addresses;
    for (ExecutorId id : fixed) addresses.push_back(rig.AddressOf(id));
    for (size_t i = 0; i < movable.size(); i++)
      if (i % 8 != 0) rig.Free(movable[i]);
    CHECK(rig.Collect().moved > 0);
    for (size_t i = 0; i < fixed.size(); i++) CHECK_EQ(rig.AddressOf(fixed[i]), addresses[i]);
    // They are in nobody's way: the rest is as dense as without them.
    CHECK(!rig.arena->PlanCompaction().profitable);
  });
}

TEST(collector_moves_large_executors) {
  WithEachLayout([](bool apart) {
    ArenaRig rig({.apart = apart});
    Program program = Busy(1);
    program.sections[0].resize(kSlabBytes + 20000, 0x90);
    ExecutorId large = rig.Install(program);
    uint64_t before = rig.AddressOf(large);
    // What shares the large executor's slabs dies.
    std::vector<ExecutorId> beside;
    for (int i = 0; i < 11; i++) beside.push_back(rig.Install(Program::Of(20000)));
    ExecutorId last = rig.Install(Program::Of(2000));  // stays, so that the slab has no room at its end
    rig.Free(beside);
    CHECK(rig.AddressOf(last) - before < 2 * kSlabBytes);
    CompactionPlan plan = rig.arena->PlanCompaction();
    CHECK_EQ(plan.moved, 2);
    CollectResult result = rig.Collect();
    CHECK_EQ(result.moved, 2);
    CHECK(rig.AddressOf(large) != before);
    std::vector<uint8_t> code = rig.Read(large, Section::kCode);
    CHECK(std::equal(code.begin() + 44, code.end(), program.sections[0].begin() + 44));
    CHECK(!rig.arena->PlanCompaction().profitable);
  });
}

TEST(collector_keeps_alignments) {
  WithEachLayout([](bool apart) {
    ArenaRig rig({.apart = apart});
    struct Aligned {
      ExecutorId id;
      uint32_t code, data;
    };
    std::vector<Aligned> all;
    std::vector<uint64_t> before;
    for (uint32_t i = 0; i < 60; i++) {
      Program program = Busy(i);
      program.aligns[0] = 1u << (i % 13);
      program.aligns[1] = 1u << (i / 5 % 13);
      // Where the data lies, the code says in its 64-bit own-data field.
      program.relocs[1] = {Section::kCode, kinds::kAddress, TargetKind::kOwnData, 8, 0, 0};
      all.push_back({rig.Install(program), program.aligns[0], program.aligns[1]});
      before.push_back(rig.AddressOf(all.back().id));
    }
    auto check = [&] {
      for (const Aligned& aligned : all) {
        CHECK_EQ(rig.AddressOf(aligned.id) % aligned.code, 0);
        uint64_t data = LoadAs<uint64_t>(rig.Read(aligned.id, Section::kCode).data() + 8);
        CHECK_EQ(data % aligned.data, 0);
        std::optional<FoundAddress> found = rig.arena->Find(data);
        CHECK(found && found->executor == aligned.id && found->section == Section::kData && found->offset == 0);
      }
    };
    check();
    std::vector<ExecutorId> ids;
    for (const Aligned& aligned : all) ids.push_back(aligned.id);
    rig.MakeMove(ids);
    check();
  });
}

// A slab of executors that each need a page of their own has nothing to gain, however few bytes are live.
TEST(collector_counts_what_alignment_costs) {
  WithEachLayout([](bool apart) {
    ArenaRig rig({.apart = apart});
    std::vector<ExecutorId> ids;
    for (int i = 0; i < 100; i++) {
      Program program = Program::Of(64, apart ? 64 : 0);
      program.aligns[0] = program.aligns[1] = static_cast<uint32_t>(os::PageBytes());
      ids.push_back(rig.Install(program));
    }
    CHECK(!rig.arena->PlanCompaction().profitable);
    CHECK_EQ(rig.Collect().moved, 0);
    for (size_t i = 0; i < ids.size(); i++)
      if (i % 3 != 0) rig.Free(ids[i]);
    CHECK(rig.arena->PlanCompaction().profitable);
    CHECK(rig.Collect().moved != 0);
    CHECK(!rig.arena->PlanCompaction().profitable);
    CHECK_EQ(rig.Collect().moved, 0);
  });
}

// An arena without a free slab: there is nowhere to copy to but the holes of other slabs.
TEST(collector_makes_room_in_a_full_arena) {
  ArenaRig rig({.max_bytes = 6 * kSlabBytes});
  std::vector<ExecutorId> ids;
  Program program = Program::Of(1500);
  for (ExecutorSpec spec = program.Spec();;) {
    ExecutorId id = 0;
    Status failed = rig.arena->Install(&spec, 1, &id, rig.self);
    if (!failed.ok()) {
      CHECK(failed.code() == ErrorCode::kFull);
      break;
    }
    ids.push_back(id);
  }
  std::mt19937 random(1);
  std::shuffle(ids.begin(), ids.end(), random);
  for (size_t i = 0; i < ids.size() / 2; i++) rig.Free(ids[i]);
  Program large = Program::Of(200 * kKiB);
  ExecutorSpec spec = large.Spec();
  ExecutorId id = 0;
  CHECK(rig.arena->Install(&spec, 1, &id, rig.self).code() == ErrorCode::kFull);
  CHECK(rig.arena->PlanCompaction().profitable);
  CHECK(rig.Collect().moved > 0);
  rig.CheckInvariants();
  CHECK(rig.arena->Install(&spec, 1, &id, rig.self).ok());
}

TEST(collector_does_with_what_it_has_where_no_slab_can_be_had) {
  ArenaRig rig;
  Population population(rig, 1500, 85, 7);
  auto before = population.Bytes();
  ArenaStats stats = rig.arena->Stats();
  rig.memory->SetScript(std::string(1000, 'x'));
  rig.Collect();
  rig.memory->SetScript("");
  rig.CheckInvariants();
  CHECK(population.Bytes() == before);
  CHECK_EQ(rig.arena->Stats().live_bytes, stats.live_bytes);
  CHECK(rig.Collect().done);  // and when it can, it goes on
  CHECK(!rig.arena->PlanCompaction().profitable);
}

TEST(collector_only_trims_when_told_not_to_compact) {
  ArenaRig rig;
  Population population(rig, 1500, 90, 8);
  std::vector<uint64_t> before;
  for (ExecutorId id : population.ids) before.push_back(rig.AddressOf(id));
  CollectResult result = rig.Collect({.compact = false});
  CHECK_EQ(result.moved, 0);
  for (size_t i = 0; i < before.size(); i++) CHECK_EQ(rig.AddressOf(population.ids[i]), before[i]);
}

// Executors that call each other move together or apart, and every call still goes where it went.
TEST(collector_follows_references_between_executors) {
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      ArenaRig rig({.writer = writer, .apart = apart});
      std::mt19937 random(9);
      struct Caller {
        ExecutorId id, target;
      };
      std::vector<Caller> callers;
      std::vector<ExecutorId> dead;
      for (uint32_t i = 0; i < 1200; i++) {
        ExecutorId target = callers.empty() ? 0 : callers[random() % callers.size()].id;
        bool dies = random() % 4 != 0;
        ExecutorId id = rig.Install(Busy(i, target));
        if (dies)
          dead.push_back(id);
        else
          callers.push_back({id, target});
      }
      rig.Free(dead);  // nobody refers to them
      uint64_t planned = rig.arena->PlanCompaction().relocs_rewritten;
      CollectResult result = rig.Collect();
      CHECK(result.moved > 100);
      CHECK(result.relocs_rewritten <= planned);
      for (const Caller& caller : callers) {
        if (caller.target == 0) continue;
        uint64_t field = arch::Read(*arch::FindKind(kinds::kCall), rig.Read(caller.id, Section::kCode).data() + 40);
        CHECK_EQ(rig.AddressOf(caller.id) + 40 + field + 4, rig.AddressOf(caller.target));
      }
    }
  }
}
