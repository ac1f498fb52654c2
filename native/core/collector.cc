#include "core/collector.h"

#include <algorithm>

#include "base/bits.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

// A barrier costs about as much as copying a few executors, so batches are large; in a slice they are bounded by bytes
// as well, so that the clock is looked at often enough.
constexpr uint32_t kBatchMoves = 256;
constexpr uint64_t kBatchBytes = 4 * kMiB;
constexpr uint64_t kSliceBatchBytes = 64 * kKiB;

bool IsMovable(Zone zone) { return zone == Zone::kCode || zone == Zone::kData; }

// Where the other half of an executor lies whose data lies apart.
Zone Beside(Zone zone) { return zone == Zone::kCode ? Zone::kData : Zone::kCode; }

// Copying a slab for less than a 32nd of its pages is not worth the time; free space stays below that share.
bool IsWorthwhile(uint64_t pages_freed, uint64_t pages_needed) {
  return pages_freed >= pages_needed + std::max<uint64_t>(1, pages_freed / 32);
}

}  // namespace

// A slab to fill up from its tail: dense in front of it, so that it is no victim itself. The roomiest slab is the only
// one worth a look, since a slab with a smaller hole is sooner full.
Slab* Collector::PickDestination(Zone zone) const {
  Slab* slab = space_.FindRoomiest(zone);
  if (slab == nullptr || slab->evacuating()) return nullptr;
  uint32_t in_front = slab->empty() ? 0 : space_[slab->tail()].End() - slab->first();
  bool dense = slab->live_granules() >= in_front - in_front / 8;
  bool roomy = slab->granules() - in_front >= slab->granules() / 8;
  return dense && roomy ? slab : nullptr;
}

uint64_t Collector::PagesFor(uint64_t granules) const {
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  return (granules + page_granules - 1) / page_granules;
}

uint32_t Collector::AlignOf(SpanId span) const {
  const Executor& executor = table_[space_[span].owner_index];
  return 1u << (span == executor.data_span ? executor.data_align_log2 : executor.align_log2);
}

SpanId Collector::SpanBeside(SpanId span) const {
  const Executor& executor = table_[space_[span].owner_index];
  return span == executor.data_span ? executor.code_span : executor.data_span;
}

void Collector::CountGranules(Victim* victim) const {
  victim->packed_granules = victim->beside_granules = 0;
  space_.SlabAt(victim->first)->ForEachSpan([&](SpanId span) {
    if (space_[span].State() != SpanState::kLive) return;
    uint32_t align_granules = std::max(1u, AlignOf(span) / kGranuleBytes);
    victim->packed_granules =
        static_cast<uint32_t>(AlignUp(victim->packed_granules, align_granules)) + space_[span].granules;
    SpanId beside = SpanBeside(span);
    if (beside != 0 && !space_.SlabOf(beside).chosen) victim->beside_granules += space_[beside].granules;
  });
}

std::vector<Collector::Victim> Collector::FindVictims(Slab* const* destinations) const {
  std::vector<Victim> victims;
  space_.ForEachSlab([&](Slab& slab) {
    slab.chosen = IsMovable(slab.zone()) && slab.live_granules() != 0 &&
                  destinations[static_cast<int>(slab.zone())] != &slab &&
                  IsWorthwhile(slab.backed_pages(), PagesFor(slab.live_granules()));
    if (slab.chosen) victims.push_back({slab.first(), slab.live_granules(), slab.zone(), slab.backed_pages(), 0, 0});
  });
  // That is what the bytes alone say. It may not pay for what alignment costs and for what must move along from slabs
  // that stay; and a slab that is given up stays.
  for (bool changed = true; changed;) {
    changed = false;
    for (Victim& victim : victims) {
      Slab& slab = *space_.SlabAt(victim.first);
      if (!slab.chosen) continue;
      CountGranules(&victim);
      slab.chosen =
          IsWorthwhile(victim.pages_freed, PagesFor(victim.packed_granules) + PagesFor(victim.beside_granules));
      changed = changed || !slab.chosen;
    }
  }
  std::erase_if(victims, [&](const Victim& victim) { return !space_.SlabAt(victim.first)->chosen; });
  std::sort(victims.begin(), victims.end(), [](const Victim& a, const Victim& b) {
    return a.live_granules != b.live_granules ? a.live_granules < b.live_granules : a.first < b.first;
  });
  return victims;
}

CompactionPlan Collector::Plan() const {
  CompactionPlan plan;
  uint64_t granules[kZones] = {};
  Slab* destinations[kZones] = {};
  for (Zone zone : {Zone::kCode, Zone::kData}) destinations[static_cast<int>(zone)] = PickDestination(zone);
  for (const Victim& victim : FindVictims(destinations)) {
    plan.slabs_freed++;
    plan.pages_freed += victim.pages_freed;
    granules[static_cast<int>(victim.zone)] += victim.packed_granules;
    granules[static_cast<int>(Beside(victim.zone))] += victim.beside_granules;
    space_.SlabAt(victim.first)->ForEachSpan([&](SpanId span) {
      const SpanNode& node = space_[span];
      if (node.State() != SpanState::kLive) return;
      const Executor& executor = table_[node.owner_index];
      // An executor that lies apart counts with its code, where that lies in a victim too.
      if (span == executor.data_span && space_.SlabOf(executor.code_span).chosen) return;
      plan.moved++;
      plan.moved_bytes += executor.code_bytes + executor.data_bytes;
      plan.relocs_rewritten += linker_.CountRewrites(node.owner_index);
    });
  }
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  for (int zone = 0; zone < kZones; zone++) {
    uint64_t needed = PagesFor(granules[zone]);
    // What stands ready behind the destination's last span costs no page.
    if (destinations[zone] != nullptr && needed != 0) {
      const Slab& slab = *destinations[zone];
      uint32_t from = space_[slab.tail()].End();
      uint32_t room = std::min<uint32_t>(slab.end() - from, static_cast<uint32_t>(granules[zone]));
      if (room != 0)
        needed -= std::min<uint64_t>(
            needed, room / page_granules - std::min(room / page_granules, slab.PagesToBack(from, room)));
    }
    plan.pages_needed += needed;
  }
  plan.profitable = plan.pages_freed > plan.pages_needed;
  return plan;
}

SpanId Collector::ReserveCopy(SpanId span) {
  Zone zone = space_.SlabOf(span).zone();
  uint32_t bytes = space_[span].granules * kGranuleBytes;
  uint32_t align = AlignOf(span);
  Slab*& destination = destinations_[static_cast<int>(zone)];
  if (destination != nullptr)
    if (SpanId copy = space_.AllocateIn(*destination, span, align)) return copy;
  // Full: the next destination is one that stands ready, such as an emptied slab, whose pages are there already.
  destination = PickDestination(zone);
  if (destination != nullptr)
    if (SpanId copy = space_.AllocateIn(*destination, span, align)) return copy;
  Result<Slab*> committed =
      space_.CommitSlab(zone, static_cast<uint32_t>(AlignUp(bytes, space_.slab_bytes()) / space_.slab_bytes()));
  destination = committed.ok() ? committed.value() : nullptr;
  if (destination != nullptr) return space_.AllocateIn(*destination, span, align);
  // In a full arena the holes of the other slabs have to do, until a victim is empty.
  const SpanNode& node = space_[span];
  Result<SpanId> hole = space_.Allocate(zone, bytes, align, node.owner_index, static_cast<Section>(node.section));
  return hole.ok() ? hole.value() : 0;
}

bool Collector::MoveBatch(Slab& victim, uint32_t max_moves, uint64_t max_bytes,
                          const std::function<void()>& synchronise, CollectResult* result) {
  batch_.clear();
  uint64_t bytes = 0;
  uint64_t span_bytes = 0;
  bool room = true;
  // Plan: a destination for each.
  for (SpanId span = space_[victim.head()].next; span != 0 && batch_.size() < max_moves && span_bytes < max_bytes;
       span = space_[span].next) {
    if (space_[span].State() != SpanState::kLive) continue;
    uint32_t index = space_[span].owner_index;
    const Executor& executor = table_[index];
    Move move{index, executor.code_span, 0, executor.data_span, 0};
    move.code_to = ReserveCopy(move.code_from);
    if (move.code_to != 0 && move.data_from != 0) {
      move.data_to = ReserveCopy(move.data_from);
      if (move.data_to == 0) {
        space_.Abandon(move.code_to);
        move.code_to = 0;
      }
    }
    if (move.code_to == 0) {
      room = false;
      break;
    }
    batch_.push_back(move);
    bytes += executor.code_bytes + executor.data_bytes;
    for (SpanId copy : {move.code_to, move.data_to})
      if (copy != 0) span_bytes += uint64_t{space_[copy].granules} * kGranuleBytes;
  }
  if (batch_.empty()) return room;

  {
    WriteScope scope(space_, "move executors");
    // Check: the last step that can fail.
    if (!linker_.OpenForMove(scope, batch_).ok()) {
      for (const Move& move : batch_) {
        space_.Abandon(move.code_to);
        if (move.data_to != 0) space_.Abandon(move.data_to);
      }
      return false;
    }
    // Commit.
    result->relocs_rewritten += linker_.Copy(scope, batch_);
    for (const Move& move : batch_) {
      space_.SetState(move.code_to, SpanState::kLive);
      if (move.data_to != 0) space_.SetState(move.data_to, SpanState::kLive);
    }
    scope.Finish();
    synchronise();
    result->relocs_rewritten += linker_.Publish(scope, batch_);
  }
  for (const Move& move : batch_) {
    if (observer_)
      observer_(table_.IdOf(move.executor), space_.AddressOf(move.code_from), space_.AddressOf(move.code_to));
    uint64_t retired = 0;
    for (SpanId span : {move.code_from, move.data_from}) {
      if (span == 0) continue;
      space_.SetState(span, SpanState::kRetired);
      retired += space_[span].granules * uint64_t{kGranuleBytes};
    }
    reclaimer_.Retire({{move.code_from, move.data_from, 0}, 0, 0}, retired);
  }
  result->moved += batch_.size();
  result->moved_bytes += bytes;
  return room;
}

CollectResult Collector::Collect(const CollectOptions& options, uint64_t max_retired_bytes,
                                 const std::function<void()>& reclaim, const std::function<void()>& synchronise) {
  CollectResult result;
  uint64_t begin = os::NowNanos();
  uint64_t committed = space_.CommittedBytes();
  auto time_is_up = [&] { return options.max_pause_nanos != 0 && os::NowNanos() - begin >= options.max_pause_nanos; };
  reclaim();
  if (options.compact) {
    for (Zone zone : {Zone::kCode, Zone::kData}) destinations_[static_cast<int>(zone)] = PickDestination(zone);
    uint64_t max_bytes = options.max_pause_nanos != 0 ? kSliceBatchBytes : kBatchBytes;
    for (const Victim& victim : FindVictims(destinations_)) {
      // The moves out of earlier victims may have emptied this one, or made it a destination.
      Slab* slab = space_.SlabAt(victim.first);
      if (slab == nullptr || slab->zone() != victim.zone || slab == destinations_[static_cast<int>(victim.zone)])
        continue;
      slab->SetEvacuating(true);
      bool stopped = false;
      while (slab->live_granules() != 0 && !stopped) {
        // A slice moves one batch at least, so that a host which calls until it is done gets there.
        uint64_t retired = reclaimer_.retired_bytes();
        if ((result.moved != 0 && time_is_up()) || retired >= max_retired_bytes) {
          result.done = false;
          stopped = true;
        } else {
          stopped =
              !MoveBatch(*slab, kBatchMoves, std::min(max_bytes, max_retired_bytes - retired), synchronise, &result);
          reclaim();
        }
      }
      slab->SetEvacuating(false);
      if (stopped) break;
    }
    std::fill(std::begin(destinations_), std::end(destinations_), nullptr);
  }
  space_.Trim();
  uint64_t committed_now = space_.CommittedBytes();
  result.pages_freed = committed > committed_now ? (committed - committed_now) / space_.page_bytes() : 0;
  result.retired_bytes = reclaimer_.retired_bytes();
  result.pause_nanos = os::NowNanos() - begin;
  return result;
}

}  // namespace jit_arena
