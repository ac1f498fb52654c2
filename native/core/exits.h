// Exits and links (docs/traces.md): where each exit of an executor goes, and how often it went there cold.
//
// An executor's exit records stand behind its state, one for each exit, and machine code jumps through them. A new exit
// is *cold*: its record has the address of the exit stub, which counts the temperature down. A *linked* exit has the
// address of another executor's entry instead, and there is a reference from one to the other (core/references.h).
//
// A link is one aligned store into the record; no code is written. So linking, unlinking and the moves of a target need
// no write scope, and a thread that is executing notices at its next exit.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"
#include "core/chains.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/problem.h"
#include "core/references.h"

namespace jit_arena {

// An exit record as machine code sees it (docs/traces.md).
struct ExitRecord {
  std::atomic<uint64_t> entry;  // where the exit goes: the exit stub, or a linked executor
  uint32_t executor;            // index
  uint16_t exit;
  // Counted down by the exit stub in one instruction that is not atomic: counts may be lost between threads.
  std::atomic<uint16_t> temperature;
};
static_assert(sizeof(ExitRecord) == arch::kExitRecordBytes);

// Under the arena's lock, but for Backoff. The executors are frozen unless a line says otherwise, and an exit's number
// is below its executor's exit count.
class Exits {
 public:
  Exits(const CodeSpace& space, const ExecutorTable& table, References& references)
      : space_(space), table_(table), references_(references) {}

  // Where cold exits and done jumps go, and how often an exit is taken before it is hot for the first time (1 to 4096).
  // Once, before any executor is frozen.
  void SetStubs(uint64_t exit_stub, uint64_t done_stub, uint32_t exit_threshold, double exit_growth);
  uint64_t done_stub() const { return done_stub_; }

  // Fills what stands behind the state of an executor that is being frozen: flags and records. `state` is where its
  // span is written.
  void Initialise(uint32_t index, uint8_t* state) const;
  ExitRecord& RecordOf(uint32_t index, uint32_t exit) const;
  // The executor's flags, or null.
  std::atomic<uint8_t>* ValidByte(uint32_t index) const;
  std::atomic<uint8_t>* WarmByte(uint32_t index) const;

  // Makes `exit` go to an entry that the target has. Replaces an earlier link. ERR_ARENA_NO_MEMORY.
  Status Link(uint32_t source, uint32_t exit, uint32_t target, uint32_t entry);
  // Back to the exit stub, with the temperature of a new exit.
  void Unlink(uint32_t source, uint32_t exit);
  void UnlinkAll();
  // Every exit that is linked to an executor goes back to the stub.
  void UnlinkInbound(uint32_t target);
  // The record alone, of an exit whose reference is gone.
  void MakeCold(ExitRecord& record) const;
  // A hot exit was reported: the next time takes longer. Any thread that is pinned.
  void Backoff(ExitRecord& record) const;

  struct LinkedTo {
    uint32_t target;  // 0: not linked
    uint32_t entry;
  };
  LinkedTo FindLink(uint32_t source, uint32_t exit) const;
  // Calls visit(source, exit, entry) for every exit linked to an executor; visit may relink it.
  template <class Visit>
  void ForEachLinkTo(uint32_t target, Visit visit) const;

  // What links make of executors (core/chains.h).

  // By index: whether links lead from an executor back to it. Looks at every link.
  std::vector<bool> FindLoops() const;
  // The movable executors that lead to one another, in chains: each is followed by the one to which its first exit was
  // linked (the one that was hot first), or to which it branches directly. 0 ends a chain; a chain has two at least.
  std::vector<uint32_t> FindChains() const;
  // Links from the last executor that makes progress, or that nothing links to; kEndless for a cycle without progress.
  static constexpr uint32_t kEndless = chains::kEndless;
  uint32_t ChainDepth(uint32_t index) const;
  // The depth of the deepest executor that a link from `source` to `target` would add to; 0 when it adds to none.
  uint32_t DepthOfLink(uint32_t source, uint32_t target) const;

  // Appends the exit records that do not hold what they should.
  void Verify(uint32_t index, std::vector<Problem>* problems) const;

 private:
  // What core/chains.h asks.
  struct Graph;

  // The movable executor to which `index` leads most often, as far as is known; 0 when there is none.
  uint32_t FindSuccessor(uint32_t index) const;

  const CodeSpace& space_;
  const ExecutorTable& table_;
  References& references_;
  uint64_t exit_stub_ = 0;
  uint64_t done_stub_ = 0;
  uint32_t exit_threshold_ = 1;
  double exit_growth_ = 2;
};

template <class Visit>
void Exits::ForEachLinkTo(uint32_t target, Visit visit) const {
  for (uint32_t id = table_[target].inbound; id != 0;) {
    const Reference reference = references_[id];
    id = reference.next_inbound;
    if (reference.kind == ReferenceKind::kExit) visit(reference.source, reference.site, reference.entry);
  }
}

}  // namespace jit_arena
