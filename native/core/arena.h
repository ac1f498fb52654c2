// The façade: the order of calls, the lock, the figures. It decides when; the linker decides what bytes, the code
// space where.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/bits.h"
#include "base/room.h"
#include "core/checksum.h"
#include "core/code_space.h"
#include "core/collector.h"
#include "core/events.h"
#include "core/executor_table.h"
#include "core/linker.h"
#include "core/lock.h"
#include "core/reclaimer.h"
#include "core/retire.h"
#include "core/spec.h"
#include "core/thunks.h"

namespace jit_arena {

struct ArenaOptions {
  uint64_t max_bytes = 64 * kMiB;
  std::optional<os::WriterKind> writer{};       // none: the first that works
  bool apart = false;                           // data in read-only, non-executable slabs of its own
  uint64_t max_retired_bytes = 0;               // 0: a quarter of max_bytes
  uint32_t exit_threshold = 1024;               // crossings of a cold exit until it is hot, 1 to 4096
  double exit_growth = 2;                       // factor for each time it has been hot, 1 or more
  uint32_t max_chain_depth = Linker::kEndless;  // links that would pass it are refused
  bool huge_pages = false;                      // slabs of that size; see CodeSpace::BackByHugePages
  bool full_records = false;                    // keep every reloc, so that Verify can name a wrong field
  bool without_barrier = false;                 // for tests: as on a kernel that has no membarrier SYNC_CORE
  os::ForkMode fork = os::ForkMode::kDrop;      // what a forked child gets of the arena: docs/fork.md
  std::string name{};
};

struct ExecutorInfo {
  ExecutorState state;
  uint32_t sizes[kSections];
  bool movable;
  bool evictable;
  bool makes_progress;
  uint32_t exits;
  bool trace;            // follows the trace ABI
  uint32_t first_entry;  // offset in code of entry 0
  std::string name;      // a copy: another thread may free the executor
  uint64_t address;      // of the code; 0 while writable. Until any thread collects, unless pinned
};

struct FoundAddress {
  ExecutorId executor;
  Section section;
  uint32_t offset;
  bool retired;
};

// An exit that a run has taken.
struct ExitTaken {
  ExecutorId executor;  // 0: the trace was done
  uint32_t exit;
  bool hot;  // its count was used up: time to compile what follows
};

// Executors by code + data bytes.
inline constexpr size_t kSizeClasses = 28;  // from 64 bytes to more than an arena has
struct SizeClass {
  uint64_t up_to;      // bytes
  uint64_t count = 0;  // live
  uint64_t bytes = 0;
  uint64_t exits = 0;
  uint64_t loops = 0;            // of count: links lead from it back to it
  uint64_t died_cold = 0;        // evicted since the arena was made
  uint64_t died_cold_loops = 0;  // of died_cold
};

struct PauseStats {
  uint64_t count = 0;
  uint64_t total_nanos = 0;
  uint64_t max_nanos = 0;
};

struct ArenaStats {
  uint64_t executors = 0;        // writable and frozen
  uint64_t live_bytes = 0;       // code + data + state + exit records of frozen executors
  uint64_t span_bytes = 0;       // the same in whole granules, with the arena's own code
  uint64_t committed_bytes = 0;  // pages with memory behind them
  uint64_t lost_bytes = 0;       // beside committed_bytes: not used any more, but the system did not take it back yet
  uint64_t reserved_bytes = 0;
  uint64_t retired_bytes = 0;
  uint64_t metadata_bytes = 0;
  uint64_t slabs = 0;
  uint64_t huge_page_bytes = 0;          // of committed_bytes: with huge pages behind them
  uint64_t page_per_executor_bytes = 0;  // what a mapping of its own for each would take
  uint64_t moves = 0;
  uint64_t moved_bytes = 0;
  uint64_t relocs_rewritten = 0;
  uint64_t kept_relocs = 0;
  uint64_t kept_reloc_bytes = 0;  // of their packed records
  uint64_t external_links = 0;
  uint64_t evicted = 0;
  uint64_t pins = 0;  // loose ones
  PauseStats pauses;
  std::vector<SizeClass> size_classes;
};

struct SlabMap {
  Zone zone;
  uint64_t address;
  uint64_t bytes;
  uint64_t live_bytes;
  uint64_t retired_bytes;
  std::vector<uint32_t> live_bytes_per_page;
  std::vector<bool> backed;  // per page
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
  // Links from the last executor that makes progress, or that nothing links to; Linker::kEndless for a cycle without.
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
  // `bytes` bytes of the arena's own code, such as its exit stub; immovable, there until the arena ends.
  // `write(bytes, address)` fills them; the first `fixed_bytes` (0: all) never change, and Verify sees to that.
  template <class WriteBytes>
  Result<uint64_t> AddInternal(uint32_t bytes, const PinSlot* self, WriteBytes write, uint32_t fixed_bytes = 0);

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
  // A pin of no thread (LoosePin), which the caller keeps at its place until it ends it, on any thread.
  // ERR_ARENA_FORKED.
  Status Begin(LoosePin& pin, const PinSlot* self);
  void End(LoosePin& pin);
  arch::CallGate call_gate() const { return call_gate_; }
  bool in_own_process() const { return os::ForkGeneration() == fork_generation_; }

  os::WriterKind writer() const { return space_.writer(); }
  const std::string& name() const { return name_; }
  bool Contains(uint64_t address) const { return space_.Contains(address); }
  Status CheckProcess() const { return in_own_process() ? Status::Ok() : Forked(); }

 private:
  friend class ForkHandlers;

  // The copy of a spec that a writable executor is; what never changes is in its record and notes.
  struct Staged {
    explicit Staged(const ExecutorSpec& spec);
    std::vector<uint8_t> bytes[kSections];  // empty: the section is zero
    uint32_t sizes[kSections];
    uint32_t aligns[kSections];
    std::vector<RelocSpec> relocs;
    bool movable;
    uint32_t exit_count;
    int8_t evictable;
    ExecutorSpec Spec() const;
  };

  Arena(const ArenaOptions& options, std::unique_ptr<os::Memory> memory);

  // Forks (core/arena_fork.cc). From Register on, which is the end of Create, until Unregister this arena takes part in
  // the forks of the process.
  void Register();
  void Unregister();
  // Around fork(), in the thread that forks: BeforeFork takes the lock, one of the others gives it back.
  void BeforeFork();
  void AfterForkInParent();
  void AfterForkInChild();

  Status AddStubs(const ArenaOptions& options);
  Status Forked() const;
  static void TakeKind(Executor& executor, const ExecutorSpec& spec);
  // Find and FindSignalSafe: under the lock, or in ReadBesideChanges.
  std::optional<FoundAddress> Look(uint64_t address) const;
  // What a spec says of itself; without the lock.
  Status CheckSizes(const ExecutorSpec& spec) const;
  Status CheckShape(const ExecutorSpec& spec) const;  // of its relocs
  Result<uint32_t> AddExecutor(const ExecutorSpec& spec);
  Staged& StagedOf(ExecutorId id) { return staged_.find(IndexOf(id))->second; }  // of a writable executor
  Result<Executor*> FindExecutor(ExecutorId id);
  Status CheckBatch(const ExecutorSpec* specs);
  // Freezes the executors of batch_, whose records and specs (as many) have passed their checks; all or none.
  Status Publish(const ExecutorSpec* specs, const PinSlot* self);
  Status Place(uint32_t index, const ExecutorSpec& spec);
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
  Events events_;
  Collector collector_;
  std::unordered_map<uint32_t, Staged> staged_;
  struct Internal {
    SpanId span;
    uint32_t bytes;  // that never change; behind them may be a slot that does
    uint64_t checksum;
  };
  std::vector<Internal> internal_;
  arch::CallGate call_gate_ = nullptr;
  uint64_t exit_stub_ = 0;
  uint64_t hot_return_ = 0;
  uint32_t max_chain_depth_;
  bool gated_writes_;  // see CloseGateToWrite
  ArenaStats stats_;   // what is counted as it happens

  // Scratch of Publish, kept to save allocations.
  std::vector<uint32_t> batch_;
  std::vector<size_t> checks_;
};

template <class WriteBytes>
Result<uint64_t> Arena::AddInternal(uint32_t bytes, const PinSlot* self, WriteBytes write, uint32_t fixed_bytes) {
  std::lock_guard guard(lock_);
  if (fixed_bytes == 0) fixed_bytes = bytes;
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = MakeRoom(internal_, 1)) return failed;
  ClosedGate gate;
  if (Status busy = CloseGateToWrite(gate, self)) return busy;
  Result<SpanId> span = space_.Allocate(Zone::kFixedCode, bytes, kGranuleBytes, 0, Section::kCode);
  if (!span.ok()) return std::move(span.status());
  WriteScope scope(space_, "the arena's own code");
  if (Status failed = scope.Open(span.value())) {
    space_.Abandon(span.value());
    return failed;
  }
  uint64_t address = space_.AddressOf(span.value());
  write(scope.Fill(span.value(), 0, bytes), address);
  space_.SetState(span.value(), SpanState::kInternal);
  scope.Finish();
  internal_.push_back({span.value(), fixed_bytes, Checksum(0, reinterpret_cast<const uint8_t*>(address), fixed_bytes)});
  return address;
}

}  // namespace jit_arena
