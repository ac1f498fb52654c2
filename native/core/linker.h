// What bytes code and data get: every reloc, both ways.
//
// Freeze, move and verify are one operation, Rebase: it shifts the fields that depend on addresses from one set of
// addresses to another. Code is frozen by writing it in *normal form* (as if the executor and everything it refers to
// began at address 0), taking the checksum, and rebasing from zero to its place; moved by rebasing a copy from its
// old place to the new one; verified by rebasing a copy back to zero and comparing the checksum.
//
// References from one executor to another are kept both ways (*inbound*, *outbound*), so that a moved target's
// sources are found without a search, and a target cannot be freed under them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "arch/kept_relocs.h"
#include "core/chains.h"
#include "core/chunked_array.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/spec.h"

namespace jit_arena {

// Addresses of an executor's sections.
struct Placement {
  uint64_t code = 0;
  uint64_t data = 0;
  uint64_t state = 0;
};

inline uint64_t AddressIn(const Placement& at, Section section) {
  return section == Section::kCode ? at.code : section == Section::kData ? at.data : at.state;
}

inline uint64_t AddressOfAnchor(const Placement& at, Anchor anchor) {
  return anchor == Anchor::kFixed ? 0 : AddressIn(at, static_cast<Section>(anchor));
}

// Where something was before a move, and where it is behind it. In normal form everything is at 0.
struct Moved {
  uint64_t from = 0;
  uint64_t to = 0;
};

// Why one thing refers to another.
enum class ReferenceKind : uint8_t {
  kReloc,    // executor → executor: a field that a move of either rewrites
  kHold,     // executor → executor: a reloc that no move changes; it only keeps the target
  kLinkUse,  // executor → far slot
  kSlot,     // far slot → executor: the slot holds an address in the target
  kExit,     // executor → executor: an exit is linked
};

// One reference, in the lists of its source and of its target.
struct Reference {
  uint32_t source = 0;  // executor; for kSlot a far slot
  uint32_t target = 0;  // executor; for kLinkUse a far slot
  uint32_t site = 0;    // kReloc: as in KeptReloc; kExit: the exit's number
  uint32_t next_outbound = 0;
  uint32_t previous_outbound = 0;
  uint32_t next_inbound = 0;
  uint32_t previous_inbound = 0;
  union {
    uint32_t entry = 0;  // kExit: the number of the target's entry
    uint32_t rest;       // kReloc: as in KeptReloc
  };
  ReferenceKind kind = ReferenceKind::kReloc;
  arch::FieldClass field = 0;               // kReloc
  Section target_section = Section::kCode;  // kReloc: what the field moves with

  bool source_is_link() const { return kind == ReferenceKind::kSlot; }
  bool target_is_link() const { return kind == ReferenceKind::kLinkUse; }
  bool has_field() const { return kind == ReferenceKind::kReloc; }
};

// An exit record as machine code sees it (docs/traces.md).
struct ExitRecord {
  std::atomic<uint64_t> entry;  // where the exit goes: the exit stub, or a linked executor
  uint32_t executor;            // index
  uint16_t exit;
  // Counted down by the exit stub in one instruction that is not atomic: counts may be lost between threads.
  std::atomic<uint16_t> temperature;
};
static_assert(sizeof(ExitRecord) == arch::kExitRecordBytes);

// One difference between what memory holds and what it should hold.
struct Problem {
  ExecutorId executor = 0;
  Section section = Section::kCode;
  int64_t offset = -1;  // -1: somewhere in the section
  uint64_t expected = 0;
  uint64_t found = 0;
  std::string what;
};

// Position of an executor in the batch: a table small enough for the nearest cache, since every reference asks it.
class BatchPositions {
 public:
  static constexpr uint32_t kMost = 512;
  void Clear() { std::fill(std::begin(slots_), std::end(slots_), Slot{}); }
  void Add(uint32_t executor, uint32_t position) {
    uint32_t at = First(executor);
    while (slots_[at].executor != 0) at = Next(at);
    slots_[at] = {executor, position};
  }
  // `executor` has been added.
  uint32_t Find(uint32_t executor) const {
    uint32_t at = First(executor);
    while (slots_[at].executor != executor) at = Next(at);
    return slots_[at].position;
  }

 private:
  struct Slot {
    uint32_t executor = 0;
    uint32_t position = 0;
  };
  static constexpr uint32_t kSlots = 2 * kMost;
  static uint32_t First(uint32_t executor) { return executor * 0x9e3779b1u >> 22; }
  static uint32_t Next(uint32_t at) { return (at + 1) % kSlots; }
  Slot slots_[kSlots];
};

// An executor on its way to other spans. Code and data move together, also when they lie apart, so that code never
// has to be changed where it stands because its data moved.
struct Move {
  uint32_t executor;
  SpanId code_from, code_to;
  SpanId data_from, data_to;  // 0 unless apart
};

// State of an executor on its way to another span.
struct StateMove {
  uint32_t executor;
  SpanId from, to;
};

class Linker {
 public:
  // `max_references`: between executors, and from executors to far slots.
  Linker(CodeSpace& space, ExecutorTable& table, uint32_t max_references, bool full_records);

  // Checks what can be known without addresses: kinds, sites within their sections and not overlapping.
  Status CheckShape(const ExecutorSpec& spec, ExecutorId id) const;

  // A freeze is BeginFreeze; Check for each executor; then Open and Write for each, or Forget for each.

  void BeginFreeze();
  // Checks every reloc against the final addresses; keeps what Write needs, and makes the references, the external
  // links and the kept records. `index` has its spans, and so have the executors of `batch`, which freeze with it
  // (`marked` is set). Returns the number of the check, for Write.
  Result<size_t> Check(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch);
  // Makes writable what Write will write.
  Status Open(WriteScope& scope, uint32_t index) const {
    return scope.MustOpen() ? OpenSpans(scope, index) : Status::Ok();
  }
  // Writes code, data and state to their spans. Cannot fail.
  void Write(WriteScope& scope, uint32_t index, const ExecutorSpec& spec, size_t check);

  // The executor dies: its references end. Its inbound references are none, or come from executors that die with it.
  // Far slots that nobody uses any more wait for TakeUnusedLinks, to be retired with it.
  void Forget(uint32_t index) {
    if (full_records_) records_.erase(index);
    const Executor& executor = table_[index];
    if ((executor.outbound | executor.inbound | executor.kept_bytes) != 0) ForgetReferences(index);
  }
  // Calls take(span) for each far slot that Forget has left; the span is the caller's from then on.
  template <class Take>
  void TakeUnusedLinks(Take take) {
    while (unused_link_ != 0) {
      uint32_t link = unused_link_;
      unused_link_ = links_[link].inbound;
      take(links_[link].span);
      FreeLink(link);
    }
  }
  // The first executor that refers to `index` and is not `marked`, or 0.
  uint32_t FindUnmarkedSource(uint32_t index) const;

  // Exits and links. `exit` is below the executor's exit count, and both executors are frozen.

  // For branches and `lea` to a callback's thunk that is out of reach: the arena's own veneer to it.
  void SetVeneer(uint64_t thunk, uint64_t veneer) { veneers_[thunk] = veneer; }

  // Where cold exits and done jumps go, and how often an exit is taken before it is hot for the first time (1 to 4096).
  void SetStubs(uint64_t exit_stub, uint64_t done_stub, uint32_t exit_threshold, double exit_growth);
  // One aligned store; no code is written. Replaces an earlier link. ERR_ARENA_NO_MEMORY.
  Status Link(uint32_t source, uint32_t exit, uint32_t target, uint32_t entry);
  // Back to the exit stub, with the temperature of a new exit.
  void Unlink(uint32_t source, uint32_t exit);
  void UnlinkAll();
  // Every exit that is linked to an executor goes back to the stub.
  void UnlinkInbound(uint32_t target);
  // Calls visit(source, exit, entry) for every exit linked to an executor; visit may relink it.
  template <class Visit>
  void ForEachLinkTo(uint32_t target, Visit visit) const;
  struct LinkedTo {
    uint32_t target;  // 0: not linked
    uint32_t entry;
  };
  LinkedTo FindLink(uint32_t source, uint32_t exit) const;
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
  // A hot exit was reported: the next time takes longer.
  void Backoff(ExitRecord& record) const;

  ExitRecord& RecordOf(uint32_t index, uint32_t exit) const;
  // The executor's flags, or null.
  std::atomic<uint8_t>* ValidByte(uint32_t index) const;
  std::atomic<uint8_t>* WarmByte(uint32_t index) const;

  // Moves, for a batch whose executors are distinct and `marked`: Copy writes new copies, fixed up against the final
  // addresses of the whole batch; Publish switches entries and rewrites references from outside the batch. Returns
  // rewritten fields. Between the two no failure is possible.

  // Whether what refers to the executor from outside the batch can be rewritten while other threads execute it: only
  // with one aligned store, which needs a view and a field within 8 aligned bytes.
  bool CanMoveBesideOthers(uint32_t index) const;
  Status OpenForMove(WriteScope& scope, const std::vector<Move>& batch);
  uint64_t Copy(WriteScope& scope, const std::vector<Move>& batch);
  uint64_t Publish(WriteScope& scope, const std::vector<Move>& batch);
  // Moves of state, exit records included, for a batch of distinct executors: nobody may be pinned, since machine code
  // changes state at any time and holds its addresses in registers. The code stays and its fields are rewritten where
  // they stand. Returns rewritten fields; cannot fail once it is open.
  Status OpenForStateMove(WriteScope& scope, const std::vector<StateMove>& batch);
  uint64_t MoveState(WriteScope& scope, const std::vector<StateMove>& batch);
  // Fields that a move of this executor rewrites; of its state.
  uint64_t CountRewrites(uint32_t index) const;
  uint64_t CountStateRewrites(uint32_t index) const;

  // Appends what does not hold of a frozen executor's bytes.
  void Verify(uint32_t index, std::vector<Problem>* problems) const;
  // Appends far slots whose slot does not hold its target.
  void VerifyLinks(std::vector<Problem>* problems) const;
  // First broken rule of the references, in words, or empty.
  std::string FindBrokenRule() const;

  Placement PlacementOf(const Executor& executor) const;
  uint64_t far_slots() const { return link_of_.size(); }
  uint64_t far_slot_bytes() const { return link_of_.size() * arch::kFarSlotBytes; }
  uint64_t kept_relocs() const { return kept_count_; }
  size_t MetadataBytes() const;

 private:
  // A far slot: the slot's target, and who uses it.
  struct FarSlot {
    SpanId span = 0;
    uint32_t inbound = 0;
    uint32_t outbound = 0;   // when the target is an executor
    uint64_t target = 0;     // key
    uint32_t owner = 0;      // key: executor whose code `target` is an offset into; 0: target is an address
    uint32_t last_user = 0;  // so that one executor's many relocs make one reference
  };
  struct LinkKey {
    uint64_t target;
    uint32_t owner;
    bool operator==(const LinkKey& other) const { return target == other.target && owner == other.owner; }
  };
  struct LinkKeyHash {
    size_t operator()(const LinkKey& key) const {
      return static_cast<size_t>((key.target ^ (uint64_t{key.owner} << 40)) * 0x9e3779b97f4a7c15);
    }
  };
  // A reloc that has passed its check: what Write inserts.
  struct Checked {
    const arch::KindInfo* info;
    uint64_t value;   // final, or in normal form when a move may change it
    uint32_t rest;    // as in KeptReloc
    uint32_t offset;  // in its section
    Section section;
    Anchor anchor;  // what the target moves with
    bool keep;      // belongs into the kept records
    bool normal;    // `value` is in normal form
  };
  // The lowest and the highest address that something can ever have.
  struct Bounds {
    uint64_t lowest, highest;
  };

  // Makes the executor's kept records, from what CheckReloc said of its relocs.
  Status Keep(uint32_t index, const Checked* checked, size_t count);
  Result<Checked> CheckReloc(uint32_t index, const RelocSpec& reloc, const Placement& at,
                             const std::vector<uint32_t>& batch);
  // Where the byte of a section can be that is at `address` now: anywhere in the reservation where its span fits, if it
  // moves.
  Bounds PlacesOf(const Executor& executor, Section section, uint64_t address) const;
  Words OutOfReach(const arch::KindInfo& info, int64_t addend, const Bounds& symbols, const Bounds& sites) const;
  // The far slot for an address or an executor's code, made when there is none yet; `user` refers to it.
  Result<uint32_t> AcquireLink(uint32_t user, uint32_t owner, uint64_t target);
  Status AddReference(const Reference& reference);
  Status OpenSpans(WriteScope& scope, uint32_t index) const;
  void ForgetReferences(uint32_t index);
  // A link that nobody uses joins the unused ones.
  void ReleaseLink(uint32_t link);
  void FreeLink(uint32_t link) {
    links_[link] = FarSlot{};
    links_[link].inbound = std::exchange(free_link_, link);
  }
  // Makes a link that is in no map yet.
  Result<uint32_t> MakeLink(uint32_t owner, uint64_t target);
  void RemoveInbound(uint32_t reference);

  // Calls visit(site, field, rest, from, to) for each field that depends on addresses, with its ends when the executor
  // is at `from` and when it is at `to`. `moved(reference)` says the same of what a reference's target moves with.
  template <class MovedOf, class Visit>
  void ForEachField(const Executor& executor, const Placement& from, const Placement& to, MovedOf moved,
                    Visit visit) const;
  // Shifts the fields that lie in code (at `code`) and in data (at `data`), where not null, from the addresses `from`
  // to the addresses `to`. Returns the number of fields.
  template <class MovedOf>
  uint64_t Rebase(const Executor& executor, uint8_t* code, uint8_t* data, const Placement& from, const Placement& to,
                  MovedOf moved) const;
  void PrefetchForCopy(const Move& move) const;
  // Where the batch at hand moves what a reference's target moves with.
  Moved MovedBy(const std::vector<Move>& batch, const Reference& reference) const;
  // The span and the offset in it of a field of an executor.
  SpanId SpanOfSite(const Executor& executor, uint32_t site, uint32_t* offset) const;
  // Rewrites a field where it stands, for a target that moved.
  void PatchField(WriteScope& scope, const Executor& executor, uint32_t site, arch::FieldClass field, uint32_t rest,
                  const Moved& target);
  // Calls visit(source, site, field, rest) for each field that a move of the executor's state rewrites.
  template <class Visit>
  void ForEachStateField(uint32_t index, Visit visit) const;
  void InitialiseExits(uint32_t index, uint8_t* state);
  void MakeCold(ExitRecord& record) const;
  // What core/chains.h asks.
  struct LinkGraph;
  // The movable executor to which `index` leads most often, as far as is known; 0 when there is none.
  uint32_t FindSuccessor(uint32_t index) const;
  void VerifyExits(uint32_t index, std::vector<Problem>* problems) const;
  uint16_t FirstTemperature() const;
  uint32_t FindExitReference(uint32_t source, uint32_t exit) const;
  void RemoveReference(uint32_t reference);
  uint64_t SectionAddress(uint32_t index, Section section) const;
  uint64_t CodeAddress(uint32_t index) const { return space_.AddressOf(table_[index].code_span); }
  uint64_t EntryAddress(uint32_t index, uint32_t entry) const {
    return CodeAddress(index) + *table_.EntryOffset(index, entry);
  }
  uint64_t SlotAddress(uint32_t link) const { return space_.AddressOf(links_[link].span) + arch::kFarSlotGotOffset; }
  void SortRelocs(const ExecutorSpec& spec) const;

  CodeSpace& space_;
  ExecutorTable& table_;
  ChunkedArray<Reference> references_;
  uint32_t free_reference_ = 0;
  ChunkedArray<FarSlot> links_;
  uint32_t free_link_ = 0;    // chains through `inbound`
  uint32_t unused_link_ = 0;  // those that wait for TakeUnusedLinks
  std::unordered_map<LinkKey, uint32_t, LinkKeyHash> link_of_;
  uint64_t kept_count_ = 0;
  std::unordered_map<uint64_t, uint64_t> veneers_;  // to thunks

  uint64_t exit_stub_ = 0;
  uint64_t done_stub_ = 0;
  uint32_t exit_threshold_ = 1;
  double exit_growth_ = 2;

  bool full_records_;  // debug: every reloc is kept as the host gave it
  std::unordered_map<uint32_t, std::vector<RelocSpec>> records_;

  // Scratch of one operation, kept to save allocations.
  mutable std::vector<uint32_t> order_;  // relocs by site
  std::vector<Checked> checked_;
  KeptRelocWriter kept_writer_;
  BatchPositions positions_;
};

template <class MovedOf, class Visit>
void Linker::ForEachField(const Executor& executor, const Placement& from, const Placement& to, MovedOf moved,
                          Visit visit) const {
  auto found = [&](uint32_t site, arch::FieldClass field, uint32_t rest, const Moved& target) {
    bool in_code = site < executor.code_bytes;
    uint32_t offset = in_code ? site : site - executor.code_bytes;
    visit(site, field, rest, arch::Ends{target.from, (in_code ? from.code : from.data) + offset},
          arch::Ends{target.to, (in_code ? to.code : to.data) + offset});
  };
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc& kept) {
    found(kept.site, kept.field, kept.rest, {AddressOfAnchor(from, kept.anchor), AddressOfAnchor(to, kept.anchor)});
  });
  // Most have links and far slots only, and a move has better things to wait for than their references.
  if (!executor.holds_addresses) return;
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound) {
    const Reference& reference = references_[id];
    if (reference.has_field()) found(reference.site, reference.field, reference.rest, moved(reference));
  }
}

template <class MovedOf>
uint64_t Linker::Rebase(const Executor& executor, uint8_t* code, uint8_t* data, const Placement& from,
                        const Placement& to, MovedOf moved) const {
  uint64_t fields = 0;
  ForEachField(executor, from, to, moved,
               [&](uint32_t site, arch::FieldClass field, uint32_t rest, const arch::Ends& old_ends,
                   const arch::Ends& new_ends) {
                 bool in_code = site < executor.code_bytes;
                 uint8_t* section = in_code ? code : data;
                 if (section == nullptr) return;
                 uint32_t offset = in_code ? site : site - executor.code_bytes;
                 arch::Shift(field, section + offset, rest, old_ends, new_ends);
                 fields++;
               });
  return fields;
}

template <class Visit>
void Linker::ForEachLinkTo(uint32_t target, Visit visit) const {
  for (uint32_t id = table_[target].inbound; id != 0;) {
    const Reference reference = references_[id];
    id = reference.next_inbound;
    if (reference.kind == ReferenceKind::kExit) visit(reference.source, reference.site, reference.entry);
  }
}

}  // namespace jit_arena
