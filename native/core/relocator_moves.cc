// Moves: new copies, and everything that refers to them.
#include <algorithm>
#include <cstring>

#include "base/bits.h"
#include "core/relocator.h"

namespace jit_arena {

Moved Relocator::MovedBy(const std::vector<Move>& batch, const Reference& reference) const {
  const Executor& target = table_[reference.target];
  Section section = reference.target_section;
  // A field does not depend on where a target is that stays, and to find out would load another line of memory.
  if (!target.marked || section == Section::kState) return {};
  const Move& move = batch[positions_.Find(reference.target)];
  if (section == Section::kData && move.data_to != 0)
    return {space_.AddressOf(move.data_from), space_.AddressOf(move.data_to)};
  uint32_t offset = section == Section::kData ? target.DataOffset() : 0;
  return {space_.AddressOf(move.code_from) + offset, space_.AddressOf(move.code_to) + offset};
}

SpanId Relocator::SpanOfSite(const Executor& executor, uint32_t site, uint32_t* offset) const {
  *offset = site;
  if (site < executor.code_bytes) return executor.code_span;
  *offset -= executor.code_bytes;
  if (executor.data_span != 0) return executor.data_span;
  *offset += executor.DataOffset();
  return executor.code_span;
}

bool Relocator::CanMoveBesideOthers(uint32_t index) const {
  for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
    const Reference& reference = references_[id];
    SpanId written = 0;
    uint32_t offset = arch::kFarSlotGotOffset;
    uint32_t bytes = 8;
    if (reference.kind == ReferenceKind::kSlot) {
      written = far_slots_[reference.source].span;
    } else if (reference.has_field() && reference.target_section != Section::kState &&
               !table_[reference.source].marked) {
      written = SpanOfSite(table_[reference.source], reference.site, &offset);
      bytes = arch::FieldOf(reference.field).bytes;
      if (!arch::FieldOf(reference.field).changes_beside_others) return false;
    }
    if (written != 0 && !space_.CanPatchAtomically(written, offset, bytes)) return false;
  }
  return true;
}

Status Relocator::OpenForMove(WriteScope& scope, const std::vector<Move>& batch) {
  JIT_ARENA_CHECK(batch.size() <= BatchPositions::kMost);
  positions_.Clear();
  for (uint32_t position = 0; position < batch.size(); position++) {
    const Move& move = batch[position];
    positions_.Add(move.executor, position);
    if (Status failed = scope.Open(move.code_to)) return failed;
    if (move.data_to != 0)
      if (Status failed = scope.Open(move.data_to)) return failed;
    for (uint32_t id = table_[move.executor].inbound; id != 0; id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      uint32_t offset;
      SpanId written = 0;
      if (reference.kind == ReferenceKind::kSlot) written = far_slots_[reference.source].span;
      if (reference.has_field() && !table_[reference.source].marked)
        written = SpanOfSite(table_[reference.source], reference.site, &offset);
      if (written == 0) continue;
      if (Status failed = scope.Open(written)) return failed;
    }
  }
  return Status::Ok();
}

// Loads what a copy reads: only the records say which of its bytes to patch.
void Relocator::PrefetchForCopy(const Move& move) const {
  constexpr uint32_t kLineBytes = 64;
  constexpr uint32_t kMostBytes = 1024;  // further on the processor sees the pattern
  PrefetchToRead(table_[move.executor].kept());
  for (SpanId span : {move.code_from, move.data_from}) {
    if (span == 0) continue;
    const uint8_t* from = space_.BytesOf(span);
    uint32_t bytes = std::min(space_[span].granules * kGranuleBytes, kMostBytes);
    for (uint32_t at = 0; at < bytes; at += kLineBytes) PrefetchToRead(from + at);
  }
}

uint64_t Relocator::Copy(WriteScope& scope, const std::vector<Move>& batch) {
  constexpr size_t kAhead = 2;
  uint64_t fields = 0;
  auto moved = [&](const Reference& reference) { return MovedBy(batch, reference); };
  for (size_t i = 0; i < batch.size(); i++) {
    if (i + kAhead < batch.size()) PrefetchForCopy(batch[i + kAhead]);
    const Move& move = batch[i];
    const Executor& executor = table_[move.executor];
    Placement from = PlacementOf(space_, executor);
    Placement to = from;
    to.code = space_.AddressOf(move.code_to);
    to.data = move.data_to != 0 ? space_.AddressOf(move.data_to) : to.code + executor.DataOffset();
    uint32_t bytes = space_[move.code_to].granules * kGranuleBytes;
    uint8_t* code = scope.Fill(move.code_to, 0, bytes);
    std::memcpy(code, space_.BytesOf(move.code_from), bytes);
    uint8_t* data = move.data_to == 0 ? code + executor.DataOffset() : nullptr;
    fields += Rebase(executor, code, data, from, to, moved);
    if (move.data_to == 0) continue;
    bytes = space_[move.data_to].granules * kGranuleBytes;
    data = scope.Fill(move.data_to, 0, bytes);
    std::memcpy(data, space_.BytesOf(move.data_from), bytes);
    fields += Rebase(executor, nullptr, data, from, to, moved);
  }
  return fields;
}

uint64_t Relocator::Publish(WriteScope& scope, const std::vector<Move>& batch) {
  uint64_t fields = 0;
  for (const Move& move : batch) {
    Executor& executor = table_[move.executor];
    executor.code_span = move.code_to;
    executor.data_span = move.data_to;
    // Release: a thread that loads the entry finds the bytes that Copy wrote.
    executor.entry.store(space_.AddressOf(move.code_to), std::memory_order_release);
  }
  for (const Move& move : batch) {
    uint32_t index = move.executor;
    for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      Moved target = MovedBy(batch, reference);
      uint64_t delta = target.to - target.from;
      if (reference.kind == ReferenceKind::kExit) {
        // Release: a thread that follows the exit finds the bytes.
        std::atomic<uint64_t>& entry = exits_.RecordOf(reference.source, reference.site).entry;
        entry.store(entry.load(std::memory_order_relaxed) + delta, std::memory_order_release);
      } else if (reference.kind == ReferenceKind::kSlot) {
        SpanId span = far_slots_[reference.source].span;
        uint64_t held =
            LoadAs<uint64_t>(reinterpret_cast<const uint8_t*>(far_slots_.GotAddress(reference.source))) + delta;
        scope.Patch(span, arch::kFarSlotGotOffset, reinterpret_cast<const uint8_t*>(&held), sizeof held);
      } else if (reference.has_field() && reference.target_section != Section::kState &&
                 !table_[reference.source].marked) {
        // Sources in the batch were fixed up as they were copied.
        PatchField(scope, table_[reference.source], reference.site, reference.field, reference.rest, target);
      } else {
        continue;
      }
      fields++;
    }
  }
  return fields;
}

void Relocator::PatchField(WriteScope& scope, const Executor& executor, uint32_t site, arch::FieldClass field,
                           uint32_t rest, const Moved& target) {
  uint32_t offset;
  SpanId span = SpanOfSite(executor, site, &offset);
  uint64_t at = space_.AddressOf(span) + offset;
  uint8_t bytes[8];
  const uint32_t count = arch::FieldOf(field).bytes;
  std::memcpy(bytes, reinterpret_cast<const uint8_t*>(at), count);
  arch::Shift(field, bytes, rest, {target.from, at}, {target.to, at});
  scope.Patch(span, offset, bytes, count);
}

// ---- State

template <class Visit>
void Relocator::ForEachStateField(uint32_t index, Visit visit) const {
  const Executor& executor = table_[index];
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc& kept) {
    if (kept.anchor == Anchor::kState) visit(index, kept.site, kept.field, kept.rest);
  });
  for (uint32_t id = executor.inbound; id != 0; id = references_[id].next_inbound) {
    const Reference& reference = references_[id];
    if (reference.has_field() && reference.target_section == Section::kState)
      visit(reference.source, reference.site, reference.field, reference.rest);
  }
}

Status Relocator::OpenForStateMove(WriteScope& scope, const std::vector<StateMove>& batch) {
  Status failed;
  for (const StateMove& move : batch)
    ForEachStateField(move.executor, [&](uint32_t source, uint32_t site, arch::FieldClass, uint32_t) {
      uint32_t offset;
      if (failed.ok()) failed = scope.Open(SpanOfSite(table_[source], site, &offset));
    });
  return failed;
}

uint64_t Relocator::MoveState(WriteScope& scope, const std::vector<StateMove>& batch) {
  uint64_t fields = 0;
  for (const StateMove& move : batch) {
    uint32_t bytes = space_[move.from].granules * kGranuleBytes;
    std::memcpy(scope.Fill(move.to, 0, bytes), reinterpret_cast<const uint8_t*>(space_.AddressOf(move.from)), bytes);
    Moved state{space_.AddressOf(move.from), space_.AddressOf(move.to)};
    ForEachStateField(move.executor, [&](uint32_t source, uint32_t site, arch::FieldClass field, uint32_t rest) {
      PatchField(scope, table_[source], site, field, rest, state);
      fields++;
    });
    table_[move.executor].state_span = move.to;
  }
  return fields;
}

uint64_t Relocator::CountStateRewrites(uint32_t index) const {
  uint64_t fields = 0;
  ForEachStateField(index, [&](uint32_t, uint32_t, arch::FieldClass, uint32_t) { fields++; });
  return fields;
}

uint64_t Relocator::CountRewrites(uint32_t index) const {
  const Executor& executor = table_[index];
  uint64_t fields = 0;
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { fields++; });
  if (executor.holds_addresses)
    for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound)
      fields += references_[id].has_field();
  for (uint32_t id = executor.inbound; id != 0; id = references_[id].next_inbound)
    fields += references_[id].has_field() || references_[id].kind == ReferenceKind::kSlot ||
              references_[id].kind == ReferenceKind::kExit;
  return fields;
}

}  // namespace jit_arena
