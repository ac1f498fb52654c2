// The façade: the order of calls, the lock, the figures. It decides when; the linker's parts decide what bytes, the
// code space where.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bits.h"
#include "core/code_space.h"
#include "core/collector.h"
#include "core/events.h"
#include "core/executor_table.h"
#include "core/frame_tables.h"
#include "core/internal_code.h"
#include "core/linker.h"
#include "core/lock.h"
#include "core/reclaimer.h"
#include "core/results.h"
#include "core/retire.h"
#include "core/spec.h"
#include "core/staged.h"
#include "core/thunks.h"

namespace jit_arena {

struct ArenaOptions {
  uint64_t max_bytes = 64 * kMiB;
  std::optional<os::WriterKind> writer{};      // none: the first that works
  bool apart = false;                          // data in read-only, non-executable slabs of its own
  uint64_t max_retired_bytes = 0;              // 0: a quarter of max_bytes
  uint32_t exit_threshold = 1024;              // crossings of a cold exit until it is hot, 1 to 4096
  double exit_growth = 2;                      // factor for each time it has been hot, 1 or more
  uint32_t max_chain_depth = Exits::kEndless;  // links that would pass it are refused
  bool huge_pages = false;                     // slabs of that size; see CodeSpace::BackByHugePages
  bool full_records = false;                   // keep every reloc, so that Verify can name a wrong field
  bool without_barrier = false;                // for tests: as on a kernel that has no membarrier SYNC_CORE
  os::ForkMode fork = os::ForkMode::kDrop;     // what a forked child gets of the arena: docs/fork.md
  std::string name{};
};

// All methods take the arena's lock and may be called by any thread, unless they say otherwise. `self` is the calling
// thread's pin, if it has one: a thread's own pin never stands in its own way. In a process that the arena does not
// belong to (a forked child, unless it got a copy), whatever returns a Status answers ERR_ARENA_FORKED, and nothing
// touches the memory.
class Arena {
 public:
  // `memory`: for tests; null takes the operating system's.
  static Result<std::unique_ptr<Arena>> Create(const ArenaOptions& options,
                                               std::unique_ptr<os::Memory> memory = nullptr);
  ~Arena();  // nobody may be pinned

  // Stages a writable executor; the bytes are copied. ERR_ARENA_SIZE, _ALIGNMENT, _BOUNDS, _RELOC_*.
  Result<ExecutorId> Allocate(const ExecutorSpec& spec);
  // Overwrites staged bytes; state also while frozen.
  Status Write(ExecutorId id, Section section, uint32_t offset, const uint8_t* bytes, uint32_t count);
  Status AddRelocs(ExecutorId id, const RelocSpec* relocs, uint32_t count);
  // Makes writable executors executable, all or none.
  Status Freeze(const ExecutorId* ids, uint32_t count, const PinSlot* self);
  // Allocate and Freeze in one, without a copy in between; `ids` receives `count` ids.
  Status Install(const ExecutorSpec* specs, uint32_t count, ExecutorId* ids, const PinSlot* self);
  // All or none. A target of a direct reference is freed only together with its sources: ERR_ARENA_REFERENCED.
  Status Free(const ExecutorId* ids, uint32_t count, const PinSlot* self);

  // Exits and links (docs/traces.md). Errors name the executor; ERR_ARENA_EXIT for an exit number out of range.

  // The exit jumps straight to an entry of the target. ERR_ARENA_NOT_FROZEN, _TRACE_ABI, _CHAIN_DEPTH.
  Status Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry);
  // Back to the exit stub; nothing when it is there.
  Status Unlink(ExecutorId source, uint32_t exit);
  // Every exit of the arena; loops that never leave do so at their next exit.
  Status UnlinkAll();
  // The target's id and entry number, or 0.
  struct LinkedTo {
    ExecutorId target;
    uint32_t entry;
  };
  Result<LinkedTo> LinkOf(ExecutorId source, uint32_t exit);
  // Links from the last executor that makes progress, or that nothing links to; Exits::kEndless for a cycle without.
  Result<uint32_t> ChainDepth(ExecutorId id);
  // Moves all inbound links, to the entries of the same numbers; leaves the old executor alive. All or none; nothing
  // when both are the same. ERR_ARENA_NOT_FROZEN, _TRACE_ABI, _BOUNDS, _CHAIN_DEPTH.
  Status Replace(ExecutorId old_id, ExecutorId new_id);
  // Free, for an executor whose assumptions no longer hold: traces test its valid byte, which Free clears as well.
  Status Invalidate(ExecutorId id, const PinSlot* self) { return Free(&id, 1, self); }
  // An immovable trace of the host's that hot exits jump to, with the exit record in the exit register; it is immortal
  // from then on. 0: hot exits return to the dispatcher again. ERR_ARENA_NOT_FROZEN, _TRACE_ABI, _MOVABLE.
  Status SetHotStub(ExecutorId id, const PinSlot* self);
  Result<uint32_t> ExitTag(ExecutorId id, uint32_t exit);
  // Whether `func` must refuse it: the trace ABI is not a C calling convention.
  bool IsTrace(ExecutorId id);

  // What the call gate returned from a run, still under its pin: the exit record, or 0. Sets the count of a hot exit
  // again, for longer. Without the lock.
  ExitTaken ResolveExit(uint64_t returned) const;

  Status Read(ExecutorId id, Section section, uint32_t offset, uint8_t* bytes, uint32_t count);
  Result<ExecutorInfo> Describe(ExecutorId id);
  // Offset in code of entry n.
  Result<uint32_t> EntryOffset(ExecutorId id, uint32_t entry);
  std::vector<ExecutorId> Executors();
  std::optional<FoundAddress> Find(uint64_t address);
  // Find for a signal handler: no lock, no allocation, a bounded number of steps. False when the books were being
  // changed all the time; nothing is known then. In the arena's own process.
  bool FindSignalSafe(uint64_t address, std::optional<FoundAddress>* found) const;

  CompactionPlan PlanCompaction();
  CollectResult Collect(const CollectOptions& options, const PinSlot* self);
  // Who is told what happens to executors, and what he may do then: core/events.h. The number is for the other two,
  // which ignore one that is not there. After RemoveListener he is not being told any more. ERR_ARENA_NO_MEMORY,
  // _FORKED.
  Result<uint32_t> AddListener(std::unique_ptr<Listener> listener, uint32_t kinds);
  void SetListenerKinds(uint32_t number, uint32_t kinds);
  bool RemoveListener(uint32_t number);  // false when there is none
  ArenaStats Stats();
  std::vector<SlabMap> Slabs();
  // What differs from what was frozen, in every frozen executor.
  std::vector<Problem> Verify();
  // The first broken rule of the arena's own books (spans, owners, references, figures, mappings), or empty.
  std::string FindBrokenRule();
  // The invariants (ARCHITECTURE.md lists them) as one function, Verify and FindBrokenRule: the first broken one in
  // words, or empty.
  std::string CheckInvariants();

  // A thunk (core/thunks.h) that the arena's code reaches with a branch or `lea`; it outlives the arena.
  Result<Thunk> AddThunk(arch::CallbackHandler handler, const PinSlot* self);

  // Executing, without the lock. Under a pin: the address at which the executor may be entered until the pin ends, or
  // 0 when the id is stale or not frozen.
  uint64_t EntryOf(ExecutorId id) const {
    uint32_t index = IndexOf(id);
    if (index == 0 || index >= table_.size()) return 0;
    const Executor& executor = table_[index];
    // Entry first. An entry stored by a later user of the index was stored after its generation, so the generation that
    // is loaded then is not this id's. The other way round, the index could change hands between the two loads.
    uint64_t entry = executor.entry.load(std::memory_order_acquire);
    TestPoint(TestPointId::kEntryLoaded);
    return executor.Generation(std::memory_order_acquire) == GenerationOf(id) ? entry : 0;
  }
  // IsTrace, for an id whose EntryOf was not 0 under the pin that still holds.
  bool IsPinnedTrace(ExecutorId id) const { return table_[IndexOf(id)].IsTrace(); }
  Reclaimer& reclaimer() { return reclaimer_; }
  const FrameTables& frames() const { return frames_; }  // for tests
  // A pin of no thread (LoosePin), which the caller keeps at its place until it ends it, on any thread.
  // ERR_ARENA_FORKED.
  Status Begin(LoosePin& pin, const PinSlot* self);
  void End(LoosePin& pin);
  arch::CallGate call_gate() const { return own_code_.call_gate(); }
  bool in_own_process() const { return os::ForkGeneration() == fork_generation_; }

  os::WriterKind writer() const { return space_.writer(); }
  const std::string& name() const { return name_; }
  bool Contains(uint64_t address) const { return space_.Contains(address); }
  Status CheckProcess() const { return in_own_process() ? Status::Ok() : Forked(); }

 private:
  friend class ForkHandlers;

  Arena(const ArenaOptions& options, std::unique_ptr<os::Memory> memory);

  // Forks (core/arena_fork.cc). From Register on, which is the end of Create, until Unregister this arena takes part in
  // the forks of the process.
  void Register();
  void Unregister();
  // Around fork(), in the thread that forks: BeforeFork takes the lock, one of the others gives it back.
  void BeforeFork();
  void AfterForkInParent();
  void AfterForkInChild();

  Status Forked() const;
  static void TakeKind(Executor& executor, const ExecutorSpec& spec);
  // Find and FindSignalSafe: under the lock, or in ReadBesideChanges.
  std::optional<FoundAddress> Look(uint64_t address) const;
  // What a spec says of itself; without the lock.
  Status CheckSizes(const ExecutorSpec& spec) const;
  Status CheckShape(const ExecutorSpec& spec) const;  // of its relocs
  Result<uint32_t> AddExecutor(const ExecutorSpec& spec);
  // Undoes AddExecutor: nobody has got the id.
  void DropExecutor(uint32_t index);
  Result<Executor*> FindExecutor(ExecutorId id);
  // Names the position of the executor in the caller's list, where there is a list.
  static Status AtPosition(Status failed, uint32_t position, uint32_t count) {
    if (count > 1) failed.SetIndex(position);
    return failed;
  }
  Status CheckBatch(const ExecutorSpec* specs);
  // Freezes the executors of batch_, whose records and specs (as many) have passed their checks; all or none.
  Status Publish(const ExecutorSpec* specs, const PinSlot* self);
  Status Place(uint32_t index, const ExecutorSpec& spec);
  void StageFramesOfBatch();
  void Unplace(uint32_t index, bool written);
  // The frozen executor with this id; with an exit of this number.
  Result<uint32_t> FindFrozen(ExecutorId id);
  Result<uint32_t> FindExit(ExecutorId id, uint32_t exit);
  Result<uint32_t> EntryOffsetOf(uint32_t index, uint32_t entry) const;
  Status CheckTrace(uint32_t index) const;
  Status CheckChain(uint32_t source, uint32_t target) const;
  Status Retire(const ExecutorId* ids, uint32_t count);
  // To what nothing leads any more: frees it now, or retires it.
  void LetGo(const Retired& retired, bool at_once);
  // One pass of the clock: cold executors die, warm ones are looked at again the next time.
  std::vector<ExecutorId> EvictCold();
  // The class that counts executors of this size, made when there is none yet.
  static SizeClass& SizeClassOf(ArenaStats& stats, const Executor& executor);
  void Reclaim(const PinSlot* self);
  Status ReclaimForFreeze(const PinSlot* self);
  // False where others are pinned and the system refuses the barrier: then they have to be kept out.
  bool Synchronise(const PinSlot* self);
  // Keeps other threads out where code cannot be written beside them: while the flip writer takes execution away from
  // slabs, where no barrier would show them what was written, and where what they execute or read is changed
  // (`in_place`) by a writer without a view, whose bytes may arrive one by one. ERR_ARENA_BUSY.
  Status CloseGateToWrite(ClosedGate& gate, const PinSlot* self, bool in_place = false) {
    bool needed = gated_writes_ || (in_place && writer() != os::WriterKind::kAlias);
    return needed ? CloseGate(gate, self) : Status::Ok();
  }
  Status CloseGate(ClosedGate& gate, const PinSlot* self);
  void AfterCall();

  Lock lock_;
  uint32_t fork_generation_;  // of the process that the arena belongs to
  os::ForkMode fork_;
  bool forking_ = false;  // the arena belongs to the process that is just being forked
  Status lost_;           // in a child that should have got a copy: why it has none
  std::string name_;
  bool apart_;
  uint64_t max_retired_bytes_;
  CodeSpace space_;
  ExecutorTable table_;
  Linker linker_;
  Reclaimer reclaimer_;
  FrameTables frames_;
  Events events_;
  Collector collector_;
  Staged staged_;
  InternalCode own_code_;
  uint32_t max_chain_depth_;
  bool gated_writes_;  // see CloseGateToWrite
  ArenaStats stats_;   // what is counted as it happens

  // Scratch of Publish, kept to save allocations.
  std::vector<uint32_t> batch_;
  std::vector<size_t> checks_;
};

}  // namespace jit_arena
