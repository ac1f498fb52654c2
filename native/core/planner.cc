#include "core/planner.h"

#include <algorithm>

#include "base/bits.h"

namespace jit_arena {
namespace {

bool IsMovable(Zone zone) {
  return std::find(std::begin(kMovableZones), std::end(kMovableZones), zone) != std::end(kMovableZones);
}

// Where the other half of an executor lies whose data lies apart.
Zone Beside(Zone zone) { return zone == Zone::kCode ? Zone::kData : Zone::kCode; }

// Copying a slab for less than a 32nd of its pages is not worth the time; free space stays below that share.
bool IsWorthwhile(uint64_t pages_freed, uint64_t pages_needed) {
  return pages_freed >= pages_needed + std::max<uint64_t>(1, pages_freed / 32);
}

}  // namespace

// A slab to fill up from its tail: dense in front of it, so that it is no victim itself. The roomiest slab is the only
// one worth a look, since a slab with a smaller hole is sooner full.
Slab* Planner::PickDestination(Zone zone) const {
  uint32_t begun = begun_[static_cast<int>(zone)];
  // What the last slice was filling, also when little room is left: else the next slice would take an emptied slab, and
  // this one, which has pages behind its end, would be evacuated.
  Slab* slab = begun != kNone ? space_.SlabAt(begun) : nullptr;
  if (slab != nullptr && slab->zone() == zone && IsDestination(*slab, 0)) return slab;
  slab = space_.FindRoomiest(zone);
  return slab != nullptr && IsDestination(*slab, slab->granules() / 8) ? slab : nullptr;
}

bool Planner::IsDestination(const Slab& slab, uint32_t room) const {
  if (slab.evacuating()) return false;
  uint32_t in_front = slab.empty() ? 0 : space_[slab.tail()].End() - slab.first();
  return slab.live_granules() >= in_front - in_front / 8 && slab.granules() - in_front >= room;
}

uint64_t Planner::PagesFor(uint64_t granules) const {
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  return (granules + page_granules - 1) / page_granules;
}

uint32_t Planner::AlignOf(SpanId span) const {
  const Executor& executor = table_[space_[span].Owner()];
  return 1u << (span == executor.data_span    ? executor.data_align_log2()
                : span == executor.state_span ? executor.state_align_log2
                                              : executor.align_log2);
}

SpanId Planner::SpanBeside(SpanId span) const {
  const Executor& executor = table_[space_[span].Owner()];
  if (span == executor.state_span) return 0;
  return span == executor.data_span ? executor.code_span : executor.data_span;
}

std::vector<Victim> Planner::FindVictims(Slab* const* destinations) const {
  std::vector<Victim> victims;
  space_.ForEachSlab([&](Slab& slab) {
    slab.chosen = IsMovable(slab.zone()) && slab.live_granules() != 0 &&
                  destinations[static_cast<int>(slab.zone())] != &slab &&
                  IsWorthwhile(slab.backed_pages(), PagesFor(slab.live_granules()));
    if (slab.chosen) victims.push_back({slab.first(), slab.live_granules(), slab.zone(), slab.backed_pages(), 0, 0});
  });
  std::sort(victims.begin(), victims.end(), [](const Victim& a, const Victim& b) {
    return a.live_granules != b.live_granules ? a.live_granules < b.live_granules : a.first < b.first;
  });
  return victims;
}

bool Planner::IsVictim(Victim* victim) const {
  victim->packed_granules = victim->beside_granules = 0;
  Slab& slab = *space_.SlabAt(victim->first);
  slab.ForEachSpan([&](SpanId span) {
    if (space_[span].State() != SpanState::kLive) return;
    uint32_t align_granules = std::max(1u, AlignOf(span) / kGranuleBytes);
    victim->packed_granules =
        static_cast<uint32_t>(AlignUp(victim->packed_granules, align_granules)) + space_[span].granules;
    SpanId beside = SpanBeside(span);
    if (beside != 0 && !space_.SlabOf(beside).chosen) victim->beside_granules += space_[beside].granules;
  });
  slab.chosen =
      IsWorthwhile(victim->pages_freed, PagesFor(victim->packed_granules) + PagesFor(victim->beside_granules));
  return slab.chosen;
}

CompactionPlan Planner::Plan() const {
  CompactionPlan plan;
  Slab* destinations[kZones] = {};
  for (Zone zone : kMovableZones) destinations[static_cast<int>(zone)] = PickDestination(zone);
  // A slab that is refused leaves others with more that must move along: all are asked before any is counted.
  std::vector<Victim> victims = FindVictims(destinations);
  std::erase_if(victims, [&](Victim& victim) { return !IsVictim(&victim); });
  uint64_t granules[kZones] = {};
  for (const Victim& victim : victims) {
    plan.slabs_freed++;
    plan.pages_freed += victim.pages_freed;
    granules[static_cast<int>(victim.zone)] += victim.packed_granules;
    granules[static_cast<int>(Beside(victim.zone))] += victim.beside_granules;
    CountMoves(*space_.SlabAt(victim.first), &plan);
  }
  for (int zone = 0; zone < kZones; zone++) plan.pages_needed += PagesNeeded(granules[zone], destinations[zone]);
  plan.profitable = plan.pages_freed > plan.pages_needed;
  return plan;
}

void Planner::CountMoves(const Slab& victim, CompactionPlan* plan) const {
  victim.ForEachSpan([&](SpanId span) {
    const SpanNode& node = space_[span];
    if (node.State() != SpanState::kLive) return;
    const Executor& executor = table_[node.Owner()];
    if (span == executor.state_span) {
      plan->moved++;
      plan->moved_bytes += executor.StateSpanBytes();
      plan->relocs_rewritten += relocator_.CountStateRewrites(node.Owner());
      return;
    }
    // An executor that lies apart counts with its code, where that lies in a victim too.
    if (span == executor.data_span && space_.SlabOf(executor.code_span).chosen) return;
    plan->moved++;
    plan->moved_bytes += executor.code_bytes + executor.data_bytes;
    plan->relocs_rewritten += relocator_.CountRewrites(node.Owner());
  });
}

uint64_t Planner::PagesNeeded(uint64_t granules, const Slab* destination) const {
  uint64_t needed = PagesFor(granules);
  if (destination == nullptr || needed == 0) return needed;
  // What stands ready behind the destination's last span costs no page.
  uint32_t from = space_[destination->tail()].End();
  uint32_t room = std::min<uint32_t>(destination->end() - from, static_cast<uint32_t>(granules));
  if (room == 0) return needed;
  uint32_t pages = room / (space_.page_bytes() / kGranuleBytes);
  return needed - std::min<uint64_t>(needed, pages - std::min(pages, destination->PagesToBack(from, room)));
}

}  // namespace jit_arena
