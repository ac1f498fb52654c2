// Planning: which slabs are worth evacuating, and which one takes what leaves them. Moves nothing and takes no memory
// of the system's; the collector moves.
//
// A slab is judged by itself: a victim gives back at least a page, and at least a 32nd of its pages, more than what
// lives in it takes elsewhere. Victims come the emptiest first, since each page they give back costs the least copying.
// The destination is a slab that is dense up to its last span, so that it is no victim soon.
//
// Every method: under the arena's lock.
#pragma once

#include <cstdint>
#include <vector>

#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/relocator.h"

namespace jit_arena {

struct CompactionPlan {
  bool profitable = false;
  uint64_t slabs_freed = 0;
  uint64_t pages_freed = 0;
  uint64_t pages_needed = 0;
  uint64_t moved = 0;        // executors
  uint64_t moved_bytes = 0;  // of code and data
  uint64_t relocs_rewritten = 0;
};

// The zones of executors that may move.
inline constexpr Zone kMovableZones[] = {Zone::kCode, Zone::kData, Zone::kState};

// A slab that may be worth evacuating.
struct Victim {
  uint32_t first;  // granule: the slab may be gone by the time it is its turn
  uint32_t live_granules;
  Zone zone;
  uint32_t pages_freed;
  uint32_t packed_granules;  // what lives in it, packed with its alignments
  uint32_t beside_granules;  // apart: what moves along with it from slabs that stay
};

class Planner {
 public:
  Planner(CodeSpace& space, const ExecutorTable& table, const Relocator& relocator)
      : space_(space), table_(table), relocator_(relocator) {}

  CompactionPlan Plan() const;

  // The slabs that may be worth evacuating, the emptiest first, and none of `destinations` (by zone). They are marked
  // `chosen`. Looks at no span, since every slice does it.
  std::vector<Victim> FindVictims(Slab* const* destinations) const;
  // Whether it is, with what alignment costs and what must move along; else it is not `chosen` any more.
  bool IsVictim(Victim* victim) const;

  // The slab to fill next, or null: a new one has to be committed.
  Slab* PickDestination(Zone zone) const;
  // The slab that a slice has begun to fill, which the next slice goes on with; null: none.
  void SetBegun(Zone zone, const Slab* slab) {
    begun_[static_cast<int>(zone)] = slab != nullptr ? slab->first() : kNone;
  }

  // As at the span's Allocate.
  uint32_t AlignOf(SpanId span) const;

 private:
  static constexpr uint32_t kNone = ~0u;

  bool IsDestination(const Slab& slab, uint32_t room) const;
  uint64_t PagesFor(uint64_t granules) const;
  // Data of an executor's code, or the other way round; 0 unless they lie apart.
  SpanId SpanBeside(SpanId span) const;
  void CountMoves(const Slab& victim, CompactionPlan* plan) const;
  // That `granules` granules take, where the destination (null: none) is filled first.
  uint64_t PagesNeeded(uint64_t granules, const Slab* destination) const;

  CodeSpace& space_;
  const ExecutorTable& table_;
  const Relocator& relocator_;
  uint32_t begun_[kZones] = {kNone, kNone, kNone, kNone, kNone, kNone};  // slabs, by their first granule
};

}  // namespace jit_arena
