// Compaction: which slabs to evacuate, and moving what lives in them.
//
// Plan: slabs with the fewest live bytes first, and only where more pages are freed than needed. Check: everything
// that can fail (spans, write windows) is done before the first byte. Commit: copy, publish, retire the old copies.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/linker.h"
#include "core/reclaimer.h"

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

struct CollectOptions {
  bool compact = true;
  bool evict_cold = false;
  uint64_t max_pause_nanos = 0;  // 0: no limit; otherwise one slice of about this length
};

struct CollectResult {
  bool done = true;  // false: call again; time ran out, or retired bytes are at their limit
  uint64_t moved = 0;
  uint64_t moved_bytes = 0;
  uint64_t relocs_rewritten = 0;
  uint64_t pages_freed = 0;    // pages that have no memory any more
  uint64_t retired_bytes = 0;  // waiting for pins when the call returned
  uint64_t pause_nanos = 0;
  std::vector<ExecutorId> evicted;  // cold executors that died
};

// Told of each executor whose code a move has taken elsewhere, once the batch is published and while the old copy still
// stands. Under the arena's lock.
using MoveObserver = std::function<void(ExecutorId id, uint64_t from, uint64_t to)>;

class Collector {
 public:
  Collector(CodeSpace& space, ExecutorTable& table, Linker& linker, Reclaimer& reclaimer)
      : space_(space), table_(table), linker_(linker), reclaimer_(reclaimer) {}

  CompactionPlan Plan() const;
  void SetMoveObserver(MoveObserver observer) { observer_ = std::move(observer); }

  // `reclaim` frees what is due; it is called after each batch. `synchronise` makes new bytes visible to every core
  // that executes in the arena. Moving stops where retired bytes would pass `max_retired_bytes`.
  CollectResult Collect(const CollectOptions& options, uint64_t max_retired_bytes, const std::function<void()>& reclaim,
                        const std::function<void()>& synchronise);

 private:
  struct Victim {
    uint32_t first;  // granule: the slab may be gone by the time it is its turn
    uint32_t live_granules;
    Zone zone;
    uint32_t pages_freed;
    uint32_t packed_granules;  // what lives in it, packed with its alignments
    uint32_t beside_granules;  // apart: what moves along with it from slabs that stay
  };
  // The slabs worth evacuating now, the emptiest first, and none of `destinations` (by zone). They are marked `chosen`.
  std::vector<Victim> FindVictims(Slab* const* destinations) const;
  void CountGranules(Victim* victim) const;
  uint64_t PagesFor(uint64_t granules) const;
  // As at the span's Allocate.
  uint32_t AlignOf(SpanId span) const;
  // Data of an executor's code, or the other way round; 0 unless they lie apart.
  SpanId SpanBeside(SpanId span) const;
  // Moves up to `max_moves` executors and `max_bytes` bytes out of the slab; false when no room could be had.
  bool MoveBatch(Slab& victim, uint32_t max_moves, uint64_t max_bytes, const std::function<void()>& synchronise,
                 CollectResult* result);
  SpanId ReserveCopy(SpanId span);
  Slab* PickDestination(Zone zone) const;

  CodeSpace& space_;
  ExecutorTable& table_;
  Linker& linker_;
  Reclaimer& reclaimer_;
  Slab* destinations_[kZones] = {};  // during Collect
  std::vector<Move> batch_;          // scratch
  MoveObserver observer_;            // may be empty
};

}  // namespace jit_arena
