// What listeners are told of: everything that happens, once, in order, in batches, and only what they asked for.
#include "core/events.h"

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "base/bits.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint32_t kAll = (1u << kEventKinds) - 1;

struct Told {
  EventKind kind;
  Event event;
};

// Notes what it is told, and how often it was told.
struct Log {
  std::vector<Told> told;
  uint32_t calls = 0;
  uint32_t prepared[kEventKinds] = {};
  bool refuses = false;
  std::function<void(const Told&)> look;  // while it is told

  std::vector<Event> Of(EventKind kind) const {
    std::vector<Event> events;
    for (const Told& one : told)
      if (one.kind == kind) events.push_back(one.event);
    return events;
  }
};

// As the faces catch it: ERR_ARENA_NO_MEMORY.
bool RunsOutOfMemory(ArenaRig& rig, const CollectOptions& options) {
  try {
    rig.arena->Collect(options, rig.self);
    return false;
  } catch (const std::bad_alloc&) {
    return true;
  }
}

class Logging : public Listener {
 public:
  explicit Logging(Log& log) : log_(log) {}
  Status Prepare(EventKind kind, uint32_t count) override {
    if (log_.refuses) return Error{ErrorCode::kNoMemory, "refused"};
    log_.prepared[static_cast<int>(kind)] += count;
    return Status::Ok();
  }
  void Tell(EventKind kind, const Event* events, uint32_t count) override {
    CHECK(count >= 1 && count <= Events::kMostEvents);
    log_.calls++;
    for (uint32_t i = 0; i < count; i++) {
      log_.told.push_back({kind, events[i]});
      if (log_.look) log_.look(log_.told.back());
    }
  }

 private:
  Log& log_;
};

uint32_t Listen(ArenaRig& rig, Log& log, uint32_t kinds = kAll) {
  Result<uint32_t> number = rig.arena->AddListener(std::make_unique<Logging>(log), kinds);
  CHECK(number.ok());
  return number.value();
}

}  // namespace

TEST(events_of_a_life_without_pins) {
  ArenaRig rig;
  Log log;
  Listen(rig, log);
  ExecutorId id = rig.Install(Program::Of(100, 40, 16));
  uint64_t address = rig.AddressOf(id);
  CHECK_EQ(log.told.size(), 1);
  CHECK(log.told[0].kind == EventKind::kPublished);
  CHECK(log.told[0].event.executor == id && log.told[0].event.from == 0 && log.told[0].event.to == address);
  rig.Free(id);
  CHECK_EQ(log.told.size(), 3);
  CHECK(log.told[1].kind == EventKind::kRetired && log.told[2].kind == EventKind::kReclaimed);
  for (int i : {1, 2}) CHECK(log.told[i].event.executor == id && log.told[i].event.from == address);

  // One that never was frozen retires, and has nothing to reclaim.
  Program program = Program::Of(32);
  ExecutorId writable = rig.arena->Allocate(program.Spec()).value();
  rig.Free(writable);
  CHECK_EQ(log.told.size(), 4);
  CHECK(log.told[3].kind == EventKind::kRetired && log.told[3].event.executor == writable);
  CHECK_EQ(log.told[3].event.from, 0);
}

TEST(events_wait_for_pins) {
  for (os::WriterKind writer : kAllWriters) {
    ArenaRig rig({.writer = writer});
    Log log;
    Listen(rig, log);
    ExecutorId id = rig.Install(Program::Of(100));
    uint64_t address = rig.AddressOf(id);
    PinSlot* other = rig.arena->reclaimer().Attach();
    {
      Pinned pinned(rig.arena->reclaimer(), *other);
      rig.Free(id);
      CHECK_EQ(log.Of(EventKind::kRetired).size(), 1);
      rig.Collect();
      CHECK(log.Of(EventKind::kReclaimed).empty());
    }
    rig.Collect();
    std::vector<Event> reclaimed = log.Of(EventKind::kReclaimed);
    CHECK_EQ(reclaimed.size(), 1);
    CHECK(reclaimed[0].executor == id && reclaimed[0].from == address);
    rig.arena->reclaimer().Detach(other);
  }
}

// Told of moves while both copies can be read; the old copies are reclaimed as nobody's. Links are the arena's own:
// their end is not told.
TEST(events_of_moves_are_exact) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    Log log;
    std::map<ExecutorId, uint64_t> where;
    std::multiset<uint64_t> copies;
    uint32_t wrong = 0;
    log.look = [&](const Told& told) {
      const Event& event = told.event;
      if (told.kind == EventKind::kPublished) where[event.executor] = event.to;
      if (told.kind == EventKind::kMoved) {
        wrong += where[event.executor] != event.from || event.from == event.to;
        wrong += std::memcmp(reinterpret_cast<void*>(event.from), reinterpret_cast<void*>(event.to), 64) != 0;
        where[event.executor] = event.to;
        copies.insert(event.from);
      }
      if (told.kind == EventKind::kRetired) wrong += where[event.executor] != event.from;
      if (told.kind == EventKind::kReclaimed && event.executor == 0) {
        wrong += copies.count(event.from) != 1;
        copies.erase(event.from);
      } else if (told.kind == EventKind::kReclaimed) {
        wrong += where[event.executor] != event.from;
        where.erase(event.executor);
      }
    };
    Listen(rig, log);
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 40; i++) {
      Program program = Program::Of(64 + 16 * i, 32, 8, i);
      program.relocs = {{Section::kData, 1, TargetKind::kAddress, 0, uint64_t{0x1234'5678'9AB0} + i, 0}};
      ids.push_back(rig.Install(program));
    }
    rig.MakeMove(ids);
    for (ExecutorId id : ids) CHECK_EQ(rig.AddressOf(id), where[id]);
    uint64_t moves = rig.arena->Stats().moves;
    CHECK_EQ(wrong, 0);
    CHECK(log.Of(EventKind::kMoved).size() >= 40);
    // State moves are counted as moves, and nobody is told of them.
    CHECK(log.Of(EventKind::kMoved).size() <= moves);
    CHECK(log.calls < log.told.size());
    rig.Free(ids);
    rig.Collect();
    CHECK_EQ(wrong, 0);
    CHECK(copies.empty());
    CHECK_EQ(where.size(), rig.arena->Stats().executors);
  }
}

TEST(events_come_in_batches_in_order_to_everyone) {
  ArenaRig rig;
  Log first, second, other;
  Listen(rig, first);
  uint32_t number = Listen(rig, second, EventBit(EventKind::kPublished) | EventBit(EventKind::kRetired));
  Listen(rig, other, EventBit(EventKind::kMoved));
  uint32_t order = 0, first_at = 0, second_at = 0;
  first.look = [&](const Told&) { first_at = ++order; };
  second.look = [&](const Told&) { second_at = ++order; };
  std::vector<Program> programs(2 * Events::kMostEvents + 3, Program::Of(32));
  std::vector<ExecutorId> ids = rig.Install(programs);
  CHECK_EQ(first.calls, 3);
  CHECK_EQ(second.calls, 3);
  CHECK(first_at < second_at);
  for (size_t i = 0; i < ids.size(); i++)
    CHECK(first.told[i].event.executor == ids[i] && second.told[i].event.executor == ids[i]);
  CHECK(other.told.empty());

  CHECK(rig.arena->RemoveListener(number));
  CHECK(!rig.arena->RemoveListener(number));
  size_t before = second.told.size();
  rig.Free(ids);
  CHECK_EQ(second.told.size(), before);
  CHECK_EQ(first.Of(EventKind::kRetired).size(), ids.size());
  // Retired before reclaimed, batch by batch and not one by one.
  CHECK_EQ(first.calls, 3 + 3 + 3);
}

TEST(events_change_kinds) {
  ArenaRig rig;
  Log log;
  uint32_t number = Listen(rig, log, EventBit(EventKind::kPublished));
  rig.arena->SetListenerKinds(number, EventBit(EventKind::kRetired));
  rig.Free(rig.Install(Program::Of(32)));
  CHECK_EQ(log.told.size(), 1);
  CHECK(log.told[0].kind == EventKind::kRetired);
  rig.arena->SetListenerKinds(number + 1, kAll);  // of nobody
}

// Who has no memory for what he would be told refuses it, and nothing has changed.
TEST(events_are_prepared_before_anything_changes) {
  ArenaRig rig;
  Log log;
  std::vector<ExecutorId> ids;
  for (int i = 0; i < 100; i++) ids.push_back(rig.Install(Program::Of(20000)));
  Listen(rig, log);
  log.refuses = true;
  Program program = Program::Of(32);
  ExecutorSpec spec = program.Spec();
  ExecutorId id = 0;
  uint64_t live = rig.arena->Stats().live_bytes, executors = rig.arena->Stats().executors;
  CHECK(rig.arena->Install(&spec, 1, &id, rig.self).code() == ErrorCode::kNoMemory);
  CHECK(rig.arena->Free(ids.data(), 1, rig.self).code() == ErrorCode::kNoMemory);
  CHECK(rig.arena->Stats().live_bytes == live && rig.arena->Stats().executors == executors);
  rig.CheckInvariants();

  log.refuses = false;
  for (size_t i = 0; i < ids.size(); i += 2) rig.Free(ids[i]);
  log.refuses = true;
  size_t told = log.told.size();
  CHECK(RunsOutOfMemory(rig, {}));
  CHECK_EQ(log.Of(EventKind::kMoved).size(), 0);
  CHECK_EQ(rig.arena->Stats().moves, 0u);
  rig.CheckInvariants();
  // A slice has to be called again, which is what its caller does anyway.
  CHECK(RunsOutOfMemory(rig, {.max_pause_nanos = 1'000'000'000}));
  log.refuses = false;
  CHECK(rig.Collect().moved > 0);
  CHECK(log.told.size() > told);
  for (EventKind kind : {EventKind::kMoved, EventKind::kRetired})
    CHECK(log.prepared[static_cast<int>(kind)] >= log.Of(kind).size());
}

TEST(events_of_cold_executors) {
  ArenaRig rig;
  Log log;
  Listen(rig, log);
  std::vector<ExecutorId> ids;
  for (uint32_t i = 0; i < 3; i++) {
    Program program = Program::Of(32, 16, 0, i);
    program.relocs = {{Section::kData, 1, TargetKind::kWarm, 0, 0, 0}};
    ids.push_back(rig.Install(program));
  }
  auto warm = [&](ExecutorId id) {
    *reinterpret_cast<uint8_t*>(LoadAs<uint64_t>(rig.Read(id, Section::kData).data())) = 1;
  };
  rig.Collect({.evict_cold = true});  // none is cold that is new
  CHECK(log.Of(EventKind::kEvicted).empty());
  warm(ids[1]);
  log.refuses = true;
  CHECK(RunsOutOfMemory(rig, {.evict_cold = true}));
  CHECK_EQ(rig.arena->Stats().executors, 3u);
  rig.CheckInvariants();
  log.refuses = false;
  CHECK_EQ(rig.Collect({.evict_cold = true}).evicted.size(), 2);
  std::vector<Event> evicted = log.Of(EventKind::kEvicted), retired = log.Of(EventKind::kRetired);
  CHECK_EQ(evicted.size(), 2);
  CHECK_EQ(retired.size(), 2);
  for (int i : {0, 1}) {
    CHECK(evicted[i].executor == ids[2 * i] && retired[i].executor == ids[2 * i]);
    CHECK(evicted[i].from != 0 && evicted[i].from == retired[i].from);
  }
}
