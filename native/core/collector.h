// Compaction: moving what lives in the slabs that the planner chooses, batch by batch, in slices of time.
//
// A batch is checked and then committed. Check: everything that can fail (spans, write windows) is done before the
// first byte. Commit: copy, publish, retire the old copies.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/code_space.h"
#include "core/deadline.h"
#include "core/events.h"
#include "core/executor_table.h"
#include "core/exits.h"
#include "core/frame_tables.h"
#include "core/planner.h"
#include "core/reclaimer.h"
#include "core/relocator.h"
#include "core/retire.h"

namespace jit_arena {

struct CollectOptions {
  bool compact = true;
  bool evict_cold = false;
  bool follow_links = false;     // lay each trace in front of the one that it leads to, whether or not that frees pages
  uint64_t max_pause_nanos = 0;  // 0: no limit; otherwise one slice of about this length
};

struct CollectResult {
  bool done = true;  // false: call again; time or memory ran out, or retired bytes are at their limit
  uint64_t moved = 0;
  uint64_t moved_bytes = 0;
  uint64_t relocs_rewritten = 0;
  uint64_t pages_freed = 0;    // pages that have no memory any more
  uint64_t retired_bytes = 0;  // waiting for pins when the call returned
  uint64_t pause_nanos = 0;
  std::vector<ExecutorId> evicted;  // cold executors that died
};

class Collector {
 public:
  Collector(CodeSpace& space, ExecutorTable& table, Relocator& relocator, const Exits& exits, Reclaimer& reclaimer,
            FrameTables& frames, Events& events)
      : space_(space),
        table_(table),
        relocator_(relocator),
        exits_(exits),
        reclaimer_(reclaimer),
        frames_(frames),
        events_(events),
        planner_(space, table, relocator) {}

  CompactionPlan Plan() const { return planner_.Plan(); }

  // What collecting needs of the arena that it works for.
  struct Host {
    const PinSlot* self;                             // the calling thread's pin, or null
    uint64_t max_retired_bytes;                      // moving stops where retired bytes would pass it
    std::function<std::vector<ExecutorId>()> evict;  // ends cold executors, when the options say so
    std::function<void()> reclaim;                   // frees what is due; called after each batch
    std::function<bool()> synchronise;  // makes new bytes visible to every core that executes in the arena;
                                        // false when refused: others have to be kept out
  };
  // Throws std::bad_alloc when there was no memory to begin with: nothing has moved and nobody was evicted then.
  CollectResult Collect(const CollectOptions& options, const Host& host);

 private:
  // A slice of time and what has come of it so far.
  struct Progress {
    const Host& host;
    Deadline deadline;
    uint64_t max_bytes;  // of a batch
    CollectResult result{};
    bool gave_up = false;  // on a victim: it stays as it is for the rest of the round

    // True when no further batch may begin: result.done is false then.
    bool IsUp(uint64_t retired_bytes);
  };
  // One slab on its way to being empty.
  struct Evacuation {
    Slab& slab;
    uint32_t next;  // granule from which on nobody has been looked at
    bool stopped;   // no room could be had, or what is left has to wait for other threads
  };
  void EvacuateVictims(Progress& progress);
  // Moves one batch of executors (their code and data, or their state) out of a slab.
  void MoveBatch(Evacuation& evacuation, Progress& progress);
  // Moves executors that lead to one another into slabs of their own, each in front of its successor. Those that lie so
  // already stay, so that slices come to an end, and a second time moves nothing.
  void LayOutChains(Progress& progress);
  void LayOut(Zone zone, const std::vector<uint32_t>& chains, Progress& progress);
  bool IsFollowedBy(SpanId span, SpanId next) const;
  // Calls visit(span) for live spans from evacuation.next on, which follows, until visit returns false.
  template <class Visit>
  void ForEachLeft(Evacuation& evacuation, Visit visit);
  // Adds an executor to batch_, with spans reserved for its copy; false when no room could be had.
  bool AddToBatch(uint32_t index);
  bool BatchIsFull(const Progress& progress) const;
  // What the unwinder will know of the copies. ERR_ARENA_NO_MEMORY.
  Status StageFramesOfBatch();
  // Moves batch_ and ends it; false when memory could not be written.
  bool CommitBatch(Progress& progress);
  // The same for the state of executors, which moves by itself; CommitStateBatch is also false when somebody is inside.
  bool AddToStateBatch(uint32_t index);
  bool CommitStateBatch(Progress& progress);
  // Takes those out of batch_ that cannot move while others execute.
  void DropBlocked();
  void ForgetDestinations();
  bool CloseGate(ClosedGate& gate, const Progress& progress);
  SpanId ReserveCopy(SpanId span);

  // A barrier costs about as much as copying a few executors, so batches are large; in a slice they are bounded by
  // bytes as well, so that the clock is looked at often enough.
  static constexpr uint32_t kBatchMoves = 256;

  CodeSpace& space_;
  ExecutorTable& table_;
  Relocator& relocator_;
  const Exits& exits_;
  Reclaimer& reclaimer_;
  FrameTables& frames_;
  Events& events_;
  Planner planner_;
  Slab* destinations_[kZones] = {};  // during Collect
  static constexpr uint32_t kNone = ~0u;
  uint32_t begun_victim_ = kNone;  // slab (first granule) in the middle of which the last slice stopped
  bool trimming_ = false;          // the last slice was done but for this: what gives pages back needs no move
  bool laying_out_ = false;        // chains: see ReserveCopy
  uint32_t round_ = 1;             // of slices: from one that found everything done to the next
  bool evicted_ = false;           // in this round
  bool no_memory_ = false;         // during Collect: for a batch, of the system or of a listener
  bool gate_refused_ = false;      // during Collect: a thread stayed, and nobody is made to wait again
  std::vector<Move> batch_;        // scratch
  uint64_t batch_bytes_ = 0;       // of its spans, or of those of state_batch_
  std::vector<StateMove> state_batch_;
};

}  // namespace jit_arena
