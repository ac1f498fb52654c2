// What bytes code and data get: the relocator writes executors, copies them to other places, publishes the copies, and
// verifies that all is as it was written.
//
// Code is frozen by writing it in *normal form* (as if the executor and everything it refers to began at address 0),
// taking the checksum, and giving the fields their values, which the check has worked out both ways. Move and verify
// are one operation, Rebase: it shifts the fields that depend on addresses from one set of addresses to another. Code
// is moved by rebasing a copy from its old place to the new one; verified by rebasing a copy back to zero and comparing
// the checksum.
//
// The kept records of an executor say which fields those are, and so do its references to others. A move also rewrites
// what refers to the executor from elsewhere, where it stands: a field of another executor, the address in a far slot,
// an exit record.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "arch/kept_relocs.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/exits.h"
#include "core/far_slots.h"
#include "core/placement.h"
#include "core/problem.h"
#include "core/references.h"
#include "core/reloc_check.h"
#include "core/spec.h"

namespace jit_arena {

// Where something is before a move, and where it is after the move. In normal form everything is at 0.
struct Moved {
  uint64_t from = 0;
  uint64_t to = 0;
};

// The position of each executor in the batch. Every reference asks for one, so the table is small enough for the
// nearest cache.
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

// Under the arena's lock. Of the other parts it changes nothing; of an executor's record, what says where it is.
class Relocator {
 public:
  Relocator(CodeSpace& space, ExecutorTable& table, const References& references, const FarSlots& far_slots,
            const Exits& exits, const RelocCheck& reloc_check)
      : space_(space),
        table_(table),
        references_(references),
        far_slots_(far_slots),
        exits_(exits),
        reloc_check_(reloc_check) {}

  // A freeze, once every executor of it has passed RelocCheck::Check: Open for each, then Write for each.

  // Makes writable what Write will write.
  Status Open(WriteScope& scope, uint32_t index) const {
    return scope.MustOpen() ? OpenSpans(scope, index) : Status::Ok();
  }
  // Writes code, data and state to their spans. `check` is what RelocCheck::Check has returned. Cannot fail.
  void Write(WriteScope& scope, uint32_t index, const ExecutorSpec& spec, size_t check);

  // A move of code and data, of a batch whose executors are distinct and `marked`: OpenForMove, Copy, Publish.

  // Whether other threads may execute the fields outside the batch that refer to the executor, while a move rewrites
  // them. That takes one aligned store: a view, and a field within 8 aligned bytes.
  bool CanMoveBesideOthers(uint32_t index) const;
  // Makes writable what Copy and Publish will write. The last step that can fail.
  Status OpenForMove(WriteScope& scope, const std::vector<Move>& batch);
  // Writes the copies, against the final addresses of the whole batch. Nothing leads to them yet. Returns the number of
  // rewritten fields.
  uint64_t Copy(WriteScope& scope, const std::vector<Move>& batch);
  // Stores the new entries, and rewrites what refers to the batch from outside. Returns the number of rewritten fields.
  uint64_t Publish(WriteScope& scope, const std::vector<Move>& batch);

  // A move of state, exit records included, of a batch of distinct executors: OpenForStateMove, MoveState. No thread
  // may be pinned, since machine code changes state at any time and holds its addresses in registers. The code stays,
  // and its fields are rewritten where they stand.

  Status OpenForStateMove(WriteScope& scope, const std::vector<StateMove>& batch);
  // Cannot fail. Returns the number of rewritten fields.
  uint64_t MoveState(WriteScope& scope, const std::vector<StateMove>& batch);

  // Fields that a move of the executor rewrites, and that a move of its state rewrites.
  uint64_t CountRewrites(uint32_t index) const;
  uint64_t CountStateRewrites(uint32_t index) const;

  // Appends what does not hold of a frozen executor's bytes, exit records included.
  void Verify(uint32_t index, std::vector<Problem>* problems) const;

 private:
  Status OpenSpans(WriteScope& scope, uint32_t index) const;
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

  // Appends the fields that are not what the host's relocs say; needs full records.
  void FindWrongFields(uint32_t index, std::vector<Problem>* problems) const;

  CodeSpace& space_;
  ExecutorTable& table_;
  const References& references_;
  const FarSlots& far_slots_;
  const Exits& exits_;
  const RelocCheck& reloc_check_;
  BatchPositions positions_;  // of the batch at hand
};

template <class MovedOf, class Visit>
void Relocator::ForEachField(const Executor& executor, const Placement& from, const Placement& to, MovedOf moved,
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
  // Most executors refer to others through links and far slots only, and a move has better things to wait for than
  // those references.
  if (!executor.holds_addresses) return;
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound) {
    const Reference& reference = references_[id];
    if (reference.has_field()) found(reference.site, reference.field, reference.rest, moved(reference));
  }
}

template <class MovedOf>
uint64_t Relocator::Rebase(const Executor& executor, uint8_t* code, uint8_t* data, const Placement& from,
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

}  // namespace jit_arena
