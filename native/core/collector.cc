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

std::vector<Collector::Victim> Collector::FindVictims() const {
  std::vector<Victim> victims;
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  space_.ForEachSlab([&](const Slab& slab) {
    if (!IsMovable(slab.zone()) || slab.live_granules() == 0 || destinations_[static_cast<int>(slab.zone())] == &slab)
      return;
    uint32_t freed = slab.backed_pages();
    uint32_t needed = (slab.live_granules() + page_granules - 1) / page_granules;
    // Copying a slab for less than a 32nd of its pages is not worth the time; free space stays below that share.
    if (freed < needed + std::max(1u, freed / 32)) return;
    victims.push_back({slab.first(), slab.live_granules(), slab.zone(), freed, needed});
  });
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
  for (const Victim& victim : FindVictims()) {
    const Slab* slab = space_.SlabAt(victim.first);
    if (destinations[static_cast<int>(victim.zone)] == slab) continue;
    plan.slabs_freed++;
    plan.pages_freed += victim.pages_freed;
    granules[static_cast<int>(victim.zone)] += victim.live_granules;
    slab->ForEachSpan([&](SpanId span) {
      const SpanNode& node = space_[span];
      if (node.State() != SpanState::kLive) return;
      const Executor& executor = table_[node.owner_index];
      plan.moved++;
      plan.moved_bytes += executor.code_bytes + executor.data_bytes;
      plan.relocs_rewritten += linker_.CountRewrites(node.owner_index);
    });
  }
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  for (int zone = 0; zone < kZones; zone++) {
    uint64_t needed = (granules[zone] + page_granules - 1) / page_granules;
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

SpanId Collector::ReserveCopy(SpanId span, uint32_t align) {
  Zone zone = space_.SlabOf(span).zone();
  Slab*& destination = destinations_[static_cast<int>(zone)];
  if (destination != nullptr)
    if (SpanId copy = space_.AllocateIn(*destination, span, align)) return copy;
  // Full: the next destination is an emptied slab, whose pages are there already, or else a new one.
  Slab* next = space_.FindRoomiest(zone);
  if (next == nullptr || !next->empty() || next->granules() < space_[span].granules) {
    Result<Slab*> committed = space_.CommitSlab(
        zone, static_cast<uint32_t>(AlignUp(uint64_t{space_[span].granules} * kGranuleBytes, space_.slab_bytes()) /
                                    space_.slab_bytes()));
    if (!committed.ok()) return 0;
    next = committed.value();
  }
  destination = next;
  return space_.AllocateIn(*destination, span, align);
}

bool Collector::MoveBatch(Slab& victim, uint32_t max_moves, uint64_t max_bytes,
                          const std::function<void()>& synchronise, CollectResult* result) {
  batch_.clear();
  uint64_t bytes = 0;
  bool room = true;
  // Plan: a destination for each.
  for (SpanId span = space_[victim.head()].next; span != 0 && batch_.size() < max_moves && bytes < max_bytes;
       span = space_[span].next) {
    if (space_[span].State() != SpanState::kLive) continue;
    uint32_t index = space_[span].owner_index;
    const Executor& executor = table_[index];
    Move move{index, executor.code_span, 0, executor.data_span, 0};
    move.code_to = ReserveCopy(move.code_from, 1u << executor.align_log2);
    if (move.code_to != 0 && move.data_from != 0) {
      move.data_to = ReserveCopy(move.data_from, 1u << executor.data_align_log2);
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
    for (const Victim& victim : FindVictims()) {
      // The moves out of earlier victims may have emptied this one, or made it a destination.
      Slab* slab = space_.SlabAt(victim.first);
      if (slab == nullptr || slab->zone() != victim.zone || slab == destinations_[static_cast<int>(victim.zone)])
        continue;
      slab->SetEvacuating(true);
      bool stopped = false;
      while (slab->live_granules() != 0 && !stopped) {
        if (time_is_up() || reclaimer_.retired_bytes() >= max_retired_bytes) {
          result.done = false;
          stopped = true;
        } else {
          stopped = !MoveBatch(*slab, kBatchMoves, max_bytes, synchronise, &result);
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
