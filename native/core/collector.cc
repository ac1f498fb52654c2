#include "core/collector.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/bits.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

constexpr uint64_t kBatchBytes = 4 * kMiB;
constexpr uint64_t kSliceBatchBytes = 16 * kKiB;

// What it takes to give back a slab's memory, about. A slice that has less time left leaves it to the next one, which
// begins with it.
constexpr uint64_t kGiveBackNanos = 75'000;

// How long what has to wait for other threads to leave makes those wait that want to enter.
constexpr uint64_t kMoveGateBoundNanos = 1'000'000;

// Whether the calling thread itself is executing in the arena.
bool IsInside(const PinSlot* self) { return self != nullptr && self->depth != 0; }

}  // namespace

SpanId Collector::ReserveCopy(SpanId span) {
  Zone zone = space_.SlabOf(span).zone();
  uint32_t bytes = space_[span].granules * kGranuleBytes;
  uint32_t align = planner_.AlignOf(span);
  Slab*& destination = destinations_[static_cast<int>(zone)];
  if (destination != nullptr)
    if (SpanId copy = space_.AllocateIn(*destination, span, align)) return copy;
  // Full: the next destination is one that stands ready, such as an emptied slab, whose pages are there already.
  planner_.SetBegun(zone, nullptr);
  destination = planner_.PickDestination(zone);
  // In order, only an empty one: a chain goes on at the beginning of a slab.
  if (laying_out_ && destination != nullptr && !destination->empty()) destination = nullptr;
  if (destination != nullptr)
    if (SpanId copy = space_.AllocateIn(*destination, span, align)) return copy;
  Result<Slab*> committed =
      space_.CommitSlab(zone, static_cast<uint32_t>(AlignUp(bytes, space_.slab_bytes()) / space_.slab_bytes()));
  destination = committed.ok() ? committed.value() : nullptr;
  if (destination != nullptr) return space_.AllocateIn(*destination, span, align);
  // In a full arena the holes of the other slabs have to do, until a victim is empty.
  const SpanNode& node = space_[span];
  Result<SpanId> hole = space_.Allocate(zone, bytes, align, node.Owner(), static_cast<Section>(node.Section()));
  if (hole.ok()) return hole.value();
  no_memory_ |= committed.status().out_of_memory() || hole.status().out_of_memory();
  return 0;
}

template <class Visit>
void Collector::ForEachLeft(Evacuation& evacuation, Visit visit) {
  SpanId span = space_[evacuation.slab.head()].next;
  while (span != 0 && space_[span].start < evacuation.next) span = space_[span].next;
  for (; span != 0; span = space_[span].next) {
    if (space_[span].State() == SpanState::kLive && !visit(span)) return;
    evacuation.next = space_[span].End();
  }
  evacuation.next = evacuation.slab.end();
}

bool Collector::CloseGate(ClosedGate& gate, const Progress& progress) {
  uint64_t bound = kMoveGateBoundNanos;
  if (uint64_t end = progress.deadline.end_nanos(); end != 0) {
    uint64_t now = os::NowNanos();
    bound = end > now ? std::min(bound, end - now) : 0;
  }
  if (!gate_refused_) gate_refused_ = !gate.Close(reclaimer_, progress.host.self, bound);
  return gate.closed();
}

// After copies have been given up: that may have emptied their slab, and ended it.
void Collector::ForgetDestinations() { std::fill(std::begin(destinations_), std::end(destinations_), nullptr); }

void Collector::DropBlocked() {
  // One that stays may be the source of another, which then cannot move either.
  for (bool changed = true; changed;) {
    changed = false;
    for (Move& move : batch_) {
      if (move.code_to == 0 || relocator_.CanMoveBesideOthers(move.executor)) continue;
      table_[move.executor].marked = 0;
      space_.Abandon(move.code_to);
      if (move.data_to != 0) space_.Abandon(move.data_to);
      move.code_to = 0;
      changed = true;
    }
  }
  std::erase_if(batch_, [](const Move& move) { return move.code_to == 0; });
  ForgetDestinations();
}

bool Collector::AddToBatch(uint32_t index) {
  Executor& executor = table_[index];
  Move move{index, executor.code_span, 0, executor.data_span, 0};
  move.code_to = ReserveCopy(move.code_from);
  if (move.code_to == 0) return false;
  if (move.data_from != 0) {
    move.data_to = ReserveCopy(move.data_from);
    if (move.data_to == 0) {
      space_.Abandon(move.code_to);
      ForgetDestinations();
      return false;
    }
  }
  executor.marked = 1;
  batch_.push_back(move);
  for (SpanId copy : {move.code_to, move.data_to})
    if (copy != 0) batch_bytes_ += uint64_t{space_[copy].granules} * kGranuleBytes;
  return true;
}

bool Collector::BatchIsFull(const Progress& progress) const {
  return batch_.size() + state_batch_.size() >= kBatchMoves || batch_bytes_ >= progress.max_bytes ||
         reclaimer_.retired_bytes() + batch_bytes_ >= progress.host.max_retired_bytes;
}

Status Collector::StageFramesOfBatch() {
  return OrOutOfMemory([&] {
    for (const Move& move : batch_) StageFrames(space_, table_, frames_, move.executor, move.code_to, move.data_to);
    frames_.Prepare();
  });
}

bool Collector::CommitBatch(Progress& progress) {
  // Check: who cannot be rewritten beside other threads moves without them, or stays.
  ClosedGate gate;
  bool blocked = std::any_of(batch_.begin(), batch_.end(),
                             [&](const Move& move) { return !relocator_.CanMoveBesideOthers(move.executor); });
  if (blocked && !CloseGate(gate, progress)) DropBlocked();
  bool open = true, copied = false;
  uint64_t rewritten = 0;
  if (!batch_.empty()) {
    WriteScope scope(space_, "move executors");
    open = events_.Prepare(EventKind::kMoved, static_cast<uint32_t>(batch_.size())).ok();
    no_memory_ |= !open;
    open = open && relocator_.OpenForMove(scope, batch_).ok();
    if (open) {
      copied = true;
      rewritten = relocator_.Copy(scope, batch_);
      // Before Publish: who is found at an address in a copy may have entered it (Arena::FindSignalSafe).
      for (const Move& move : batch_) {
        space_.SetState(move.code_to, SpanState::kLive);
        if (move.data_to != 0) space_.SetState(move.data_to, SpanState::kLive);
      }
      scope.Finish();
      TestPoint(TestPointId::kMoveCopied);
      // The last step that can fail.
      const bool staged = StageFramesOfBatch().ok();
      no_memory_ |= !staged;
      open = staged && (progress.host.synchronise() || CloseGate(gate, progress));
    }
    if (open) {
      // Commit.
      frames_.Commit();
      progress.result.relocs_rewritten += rewritten + relocator_.Publish(scope, batch_);
      TestPoint(TestPointId::kMovePublished);
    }
  }
  if (open && events_.Wants(EventKind::kMoved)) {
    for (const Move& move : batch_)
      events_.Tell(EventKind::kMoved,
                   {table_.IdOf(move.executor), space_.AddressOf(move.code_from), space_.AddressOf(move.code_to)});
    events_.Flush();
  }
  if (!open) frames_.Drop();
  for (const Move& move : batch_) {
    Executor& executor = table_[move.executor];
    executor.marked = 0;
    if (!open) {
      for (SpanId copy : {move.code_to, move.data_to})
        if (copy != 0) copied ? space_.Free(copy) : space_.Abandon(copy);
      continue;
    }
    Retire(space_, table_, reclaimer_, {{move.code_from, move.data_from, 0}, 0, 0});
    progress.result.moved++;
    progress.result.moved_bytes += uint64_t{executor.code_bytes} + executor.data_bytes;
  }
  reclaimer_.Stamp();
  TestPoint(TestPointId::kMoveRetired);
  batch_.clear();
  batch_bytes_ = 0;
  if (!open) ForgetDestinations();
  return open;
}

bool Collector::AddToStateBatch(uint32_t index) {
  Executor& executor = table_[index];
  SpanId copy = ReserveCopy(executor.state_span);
  if (copy == 0) return false;
  state_batch_.push_back({index, executor.state_span, copy});
  batch_bytes_ += uint64_t{space_[copy].granules} * kGranuleBytes;
  return true;
}

bool Collector::CommitStateBatch(Progress& progress) {
  if (state_batch_.empty()) return true;
  const PinSlot* self = progress.host.self;
  // Machine code changes state at any time and holds its addresses in registers: nobody may be inside, the calling
  // thread included.
  ClosedGate gate;
  bool open = !IsInside(self) && CloseGate(gate, progress);
  {
    WriteScope scope(space_, "move state");
    open = open && relocator_.OpenForStateMove(scope, state_batch_).ok();
    if (open) {
      progress.result.relocs_rewritten += relocator_.MoveState(scope, state_batch_);
      scope.Finish();
      progress.host.synchronise();  // nobody is pinned: what enters later synchronises by itself
    }
  }
  for (const StateMove& move : state_batch_) {
    if (!open) {
      space_.Abandon(move.to);
      continue;
    }
    space_.SetState(move.to, SpanState::kLive);
    // At once: nobody can hold an address in it.
    space_.Free(move.from);
    progress.result.moved++;
    progress.result.moved_bytes += table_[move.executor].StateSpanBytes();
  }
  state_batch_.clear();
  batch_bytes_ = 0;
  if (!open) ForgetDestinations();
  return open;
}

void Collector::MoveBatch(Evacuation& evacuation, Progress& progress) {
  bool state = evacuation.slab.zone() == Zone::kState;
  ForEachLeft(evacuation, [&](SpanId span) {
    if (BatchIsFull(progress)) return false;
    uint32_t index = space_[span].Owner();
    evacuation.stopped = !(state ? AddToStateBatch(index) : AddToBatch(index));
    return !evacuation.stopped;
  });
  if (!(state ? CommitStateBatch(progress) : CommitBatch(progress))) evacuation.stopped = true;
}

bool Collector::Progress::IsUp(uint64_t retired_bytes) {
  // A slice moves one batch at least, or gives up on a victim, so that a host which calls until it is done gets there.
  if (deadline.IsUp() && (result.moved != 0 || gave_up)) result.done = false;
  if (retired_bytes >= host.max_retired_bytes) result.done = false;
  return !result.done;
}

void Collector::EvacuateVictims(Progress& progress) {
  bool slice = progress.deadline.end_nanos() != 0;
  for (Zone zone : kMovableZones) destinations_[static_cast<int>(zone)] = planner_.PickDestination(zone);
  for (Victim& victim : planner_.FindVictims(destinations_)) {
    // The moves out of earlier victims may have emptied this one, or made it a destination.
    Slab* slab = space_.SlabAt(victim.first);
    if (slab == nullptr || slab->zone() != victim.zone || slab == destinations_[static_cast<int>(victim.zone)])
      continue;
    // What is larger than a slab takes longer to copy than a slice may last.
    if (slice && slab->granules() * kGranuleBytes > space_.slab_bytes()) continue;
    // Nor does what an earlier slice gave up on come any further in this round.
    if (slice && slab->given_up == round_) continue;
    // Its state moves while nobody is inside, and somebody is.
    if (victim.zone == Zone::kState && (gate_refused_ || IsInside(progress.host.self))) continue;
    // One that a slice has begun with has even less to move now.
    if (victim.first != begun_victim_ && !planner_.IsVictim(&victim)) {
      slab->given_up = round_;
      progress.gave_up = true;
      if (progress.IsUp(reclaimer_.retired_bytes())) break;
      continue;
    }
    slab->SetEvacuating(true);
    Evacuation evacuation{*slab, slab->first(), false};
    while (evacuation.next != slab->end() && !evacuation.stopped && !progress.IsUp(reclaimer_.retired_bytes())) {
      MoveBatch(evacuation, progress);
      progress.host.reclaim();
    }
    slab->SetEvacuating(false);
    begun_victim_ = progress.result.done ? kNone : victim.first;
    if (progress.result.done && slab->live_granules() != 0 && !no_memory_) {
      slab->given_up = round_;
      progress.gave_up = true;
    }
    // State that cannot move now is in nobody's way.
    if (!progress.result.done || (evacuation.stopped && victim.zone != Zone::kState)) break;
  }
}

bool Collector::IsFollowedBy(SpanId span, SpanId next) const {
  if (space_[span].next != 0) return space_[span].next == next;
  // From the end of one slab to the beginning of another.
  const Slab& slab = space_.SlabOf(next);
  return space_[slab.head()].next == next && &slab != &space_.SlabOf(span);
}

void Collector::LayOutChains(Progress& progress) {
  std::vector<uint32_t> chains = exits_.FindChains();
  laying_out_ = true;
  LayOut(Zone::kCode, chains, progress);
  // Exit records are read on the way from one to the next.
  std::erase_if(chains, [&](uint32_t index) {
    return index != 0 && (table_[index].state_span == 0 || !table_[index].StateMoves());
  });
  if (progress.result.done) LayOut(Zone::kState, chains, progress);
  laying_out_ = false;
}

void Collector::LayOut(Zone zone, const std::vector<uint32_t>& chains, Progress& progress) {
  bool state = zone == Zone::kState;
  auto span_of = [&](uint32_t index) { return state ? table_[index].state_span : table_[index].code_span; };
  std::fill(std::begin(destinations_), std::end(destinations_), nullptr);
  bool stopped = false;
  for (size_t begin = 0, end; begin < chains.size() && !stopped; begin = end + 1) {
    end = begin;
    while (chains[end] != 0) end++;
    if (end - begin < 2) continue;
    // What lies in order already stays, when the rest can be laid behind it.
    size_t next = begin + 1;
    while (next < end && IsFollowedBy(span_of(chains[next - 1]), span_of(chains[next]))) next++;
    if (next == end) continue;
    Slab& last = space_.SlabOf(span_of(chains[next - 1]));
    if (last.tail() == span_of(chains[next - 1]) && next - begin >= 2)
      destinations_[static_cast<int>(zone)] = &last;
    else
      next = begin;
    for (; next < end && !stopped; next++) {
      bool empty = state ? state_batch_.empty() : batch_.empty();
      stopped = (empty && progress.IsUp(reclaimer_.retired_bytes())) ||
                !(state ? AddToStateBatch(chains[next]) : AddToBatch(chains[next]));
      if (stopped || BatchIsFull(progress)) {
        stopped = !(state ? CommitStateBatch(progress) : CommitBatch(progress)) || stopped;
        progress.host.reclaim();
      }
    }
  }
  if (state)
    CommitStateBatch(progress);
  else
    CommitBatch(progress);
  progress.host.reclaim();
}

CollectResult Collector::Collect(const CollectOptions& options, const Host& host) {
  uint64_t begin = os::NowNanos();
  uint64_t committed = space_.CommittedBytes() + space_.LostBytes();
  bool slice = options.max_pause_nanos != 0;
  // What follows the last batch takes its time, too, and so does the system.
  uint64_t end = slice ? begin + options.max_pause_nanos - options.max_pause_nanos / 8 : 0;
  Progress progress{host, Deadline(end), slice ? kSliceBatchBytes : kBatchBytes};
  CollectResult& result = progress.result;
  batch_.reserve(kBatchMoves);
  state_batch_.reserve(kBatchMoves);
  // One pass a round, which may take many calls: in the next one all would be cold that has not run since this one.
  if (options.evict_cold && !evicted_) {
    result.evicted = host.evict();
    evicted_ = true;
  }
  host.reclaim();
  gate_refused_ = no_memory_ = false;
  if (!slice) round_++;
  bool trimmed = slice && trimming_;
  if (trimmed)
    space_.Trim(end, &result.done);
  else if (slice)
    space_.DecommitEmptied(begin + options.max_pause_nanos / 2);
  trimming_ = trimmed && !result.done;
  // Only the plans of the two take memory: no batch is under way when there is none.
  Status planned = OrOutOfMemory([&] {
    if (options.compact && options.follow_links && result.done) LayOutChains(progress);
    if (options.compact && result.done) EvacuateVictims(progress);
  });
  // Without memory for a batch the moving has stopped.
  const bool no_memory = no_memory_ || !planned.ok();
  if (no_memory) result.done = false;
  for (int zone = 0; zone < kZones; zone++) planner_.SetBegun(static_cast<Zone>(zone), destinations_[zone]);
  // A slice that had to stop leaves the rest to the next. One that has come to every slab and moved nothing since has
  // finished: what the system does not take back would have it begin again, for ever.
  if (!slice || (result.done && !(trimmed && result.moved == 0))) {
    if (slice && os::NowNanos() + kGiveBackNanos >= end)
      result.done = false;
    else
      space_.Trim(end, &result.done);
    trimming_ = !result.done;
  }
  if (!slice) space_.BackByHugePages();
  if (result.done) {
    round_++;
    evicted_ = false;
  }
  for (int zone = 0; zone < kZones; zone++) {
    if (result.done) planner_.SetBegun(static_cast<Zone>(zone), nullptr);
    destinations_[zone] = nullptr;
  }
  uint64_t committed_now = space_.CommittedBytes() + space_.LostBytes();
  result.pages_freed = committed > committed_now ? (committed - committed_now) / space_.page_bytes() : 0;
  result.retired_bytes = reclaimer_.retired_bytes();
  result.pause_nanos = os::NowNanos() - begin;
  if (no_memory && result.moved == 0 && result.evicted.empty()) throw std::bad_alloc();
  return std::move(result);
}

}  // namespace jit_arena
