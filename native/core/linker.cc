#include "core/linker.h"

#include <algorithm>

#include "base/bits.h"
#include "base/room.h"
#include "core/checksum.h"

namespace jit_arena {
namespace {

Error RelocError(ErrorCode code, ExecutorId id, const RelocSpec& reloc, Words message) {
  Error error{code, std::move(message)};
  error.executor = id;
  error.section = reloc.section;
  error.offset = reloc.offset;
  const arch::KindInfo* info = arch::FindKind(reloc.kind);
  error.kind = info != nullptr ? Words(info->name) : Format("%u", reloc.kind);
  return error;
}

Words PlacesInWords(uint64_t lowest, uint64_t highest) {
  if (lowest == highest) return Format("%#llx", Wide(lowest));
  return Format("every place from %#llx to %#llx", Wide(lowest), Wide(highest));
}

Section SectionOf(TargetKind kind) {
  return kind == TargetKind::kOwnCode   ? Section::kCode
         : kind == TargetKind::kOwnData ? Section::kData
                                        : Section::kState;
}

}  // namespace

Linker::Linker(CodeSpace& space, ExecutorTable& table, uint32_t max_references, bool full_records)
    : space_(space),
      table_(table),
      far_slots(space, table, max_references),
      references(table, far_slots, max_references),
      exits(space, table, references),
      full_records_(full_records) {}

// ---- Checks without addresses

// Fills order_ with the positions of the relocs in the order of their sites. Hosts give them sorted as a rule.
void Linker::SortRelocs(const ExecutorSpec& spec) const {
  auto key = [&](uint32_t i) { return (static_cast<uint64_t>(spec.relocs[i].section) << 32) | spec.relocs[i].offset; };
  order_.resize(spec.reloc_count);
  bool sorted = true;
  for (uint32_t i = 0; i < spec.reloc_count; i++) {
    order_[i] = i;
    sorted = sorted && (i == 0 || key(i - 1) <= key(i));
  }
  if (!sorted) std::stable_sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
}

Status Linker::CheckShape(const ExecutorSpec& spec, ExecutorId id) const {
  if (spec.reloc_count > kMaxRelocs)
    return ExecutorError(ErrorCode::kSize, id,
                         Format("%u relocs; an executor has at most %u", spec.reloc_count, kMaxRelocs));
  SortRelocs(spec);
  const RelocSpec* previous = nullptr;
  uint32_t previous_end = 0;
  for (uint32_t position : order_) {
    const RelocSpec& reloc = spec.relocs[position];
    auto failed_at = [&](uint32_t at, ErrorCode code, Words message) {
      Error error = RelocError(code, id, spec.relocs[at], std::move(message));
      error.index = at;
      return Status(std::move(error));
    };
    auto failed = [&](ErrorCode code, Words message) { return failed_at(position, code, std::move(message)); };
    const arch::KindInfo* info = arch::FindKind(reloc.kind);
    if (info == nullptr)
      return failed(ErrorCode::kRelocKind, Format("reloc kind %u does not exist on %s", reloc.kind, arch::kCpuName));
    uint32_t size = spec.sizes[static_cast<int>(reloc.section)];
    uint32_t site_bytes = arch::FieldOf(info->field).bytes;
    if (reloc.offset > size || size - reloc.offset < site_bytes)
      return failed(ErrorCode::kRelocBounds,
                    Format("the %u bytes of %s at %s + %u do not lie within the section's %u bytes", site_bytes,
                           info->name, SectionName(reloc.section), reloc.offset, size));
    if (previous != nullptr && previous->section == reloc.section && reloc.offset < previous_end) {
      // At fault is the one that was given later.
      uint32_t other = static_cast<uint32_t>(previous - spec.relocs);
      uint32_t later = std::max(position, other);
      return failed_at(later, ErrorCode::kRelocOverlap,
                       Format("the reloc at %s + %u overlaps the one at %u", SectionName(reloc.section),
                              spec.relocs[later].offset, spec.relocs[std::min(position, other)].offset));
    }
    if (reloc.target_kind <= TargetKind::kOwnState) {
      Section section = SectionOf(reloc.target_kind);
      uint32_t target_size = spec.sizes[static_cast<int>(section)];
      // One past the end is an address that compilers take; an absent section has none.
      if (reloc.target > target_size || target_size == 0)
        return failed(ErrorCode::kRelocTarget, Format("target offset %llu lies outside the executor's %u bytes of %s",
                                                      Wide(reloc.target), target_size, SectionName(section)));
    }
    if (reloc.target_kind == TargetKind::kExit && reloc.target >= spec.exit_count)
      return failed(ErrorCode::kRelocTarget,
                    Format("the executor has %u exits and no exit %llu", spec.exit_count, Wide(reloc.target)));
    previous = &reloc;
    previous_end = reloc.offset + site_bytes;
  }
  return Status::Ok();
}

// ---- Freeze

void Linker::BeginFreeze() { checked_.clear(); }

Result<size_t> Linker::Check(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch) {
  size_t first = checked_.size();
  if (spec.reloc_count == 0) return first;
  Placement at = PlacementOf(space_, table_[index]);
  SortRelocs(spec);
  if (Status failed = MakeRoom(checked_, spec.reloc_count)) return failed;
  for (uint32_t position : order_) {
    Result<Checked> checked = CheckReloc(index, spec.relocs[position], at, batch);
    if (!checked.ok()) {
      checked.status().SetIndex(position);
      return std::move(checked.status());
    }
    checked_.push_back(checked.value());
  }
  if (Status failed = Keep(index, &checked_[first], spec.reloc_count)) return failed;
  if (full_records_) {
    std::vector<RelocSpec>& record = records_[index];
    record.assign(spec.relocs, spec.relocs + spec.reloc_count);
    for (RelocSpec& reloc : record) {
      if (reloc.target_kind != TargetKind::kBatchMember) continue;
      reloc.target_kind = TargetKind::kExecutor;
      reloc.target = table_.IdOf(batch[reloc.target]);
    }
  }
  return first;
}

Status Linker::Keep(uint32_t index, const Checked* checked, size_t count) {
  Executor& executor = table_[index];
  kept_writer_.Clear();
  for (const Checked* next = checked; next < checked + count; next++) {
    if (!next->keep) continue;
    uint32_t sites_before = next->section == Section::kData ? uint32_t{executor.code_bytes} : 0;
    kept_writer_.Add({sites_before + next->offset, next->info->field, next->anchor, next->rest});
  }
  if (Status failed = table_.SetKept(executor, kept_writer_.packed())) return failed;
  kept_count_ += kept_writer_.count();
  return Status::Ok();
}

Linker::Bounds Linker::PlacesOf(const Executor& executor, Section section, uint64_t address) const {
  bool moves = section == Section::kState ? executor.StateMoves() : executor.movable;
  if (!moves) return {address, address};
  SpanId span = section == Section::kState                      ? executor.state_span
                : section == Section::kData && executor.apart() ? executor.data_span
                                                                : executor.code_span;
  uint64_t in_span = address - space_.AddressOf(span);
  uint64_t span_bytes = uint64_t{space_[span].granules} * kGranuleBytes;
  return {space_.base() + in_span, space_.end() - span_bytes + in_span};
}

Words Linker::OutOfReach(const arch::KindInfo& info, int64_t addend, const Bounds& symbols, const Bounds& sites) const {
  return Format(
      "%s with addend %lld cannot reach its target at %s from its site at %s, and a move may lead to any of "
      "them: use %s",
      info.name, static_cast<long long>(addend), PlacesInWords(symbols.lowest, symbols.highest).c_str(),
      PlacesInWords(sites.lowest, sites.highest).c_str(), arch::kFarKinds);
}

Result<uint32_t> Linker::AcquireFarSlot(uint32_t user, const FarAddress& address) {
  uint32_t slot = far_slots.Find(address);
  if (slot != 0 && far_slots[slot].last_user == user) return slot;
  Status failed;
  if (slot == 0) {
    Result<uint32_t> made = far_slots.Make(address);
    if (!made.ok()) return made;
    slot = made.value();
    if (address.owner != 0) failed = references.Add(Reference::Of(ReferenceKind::kSlot, slot, address.owner));
  }
  if (failed.ok()) failed = references.Add(Reference::Of(ReferenceKind::kSlotUse, user, slot));
  if (!failed.ok()) {
    if (far_slots[slot].inbound == 0) references.DropFarSlot(slot);
    return failed;
  }
  far_slots[slot].last_user = user;
  return slot;
}

Result<Linker::Checked> Linker::CheckReloc(uint32_t index, const RelocSpec& reloc, const Placement& at,
                                           const std::vector<uint32_t>& batch) {
  const Executor& executor = table_[index];
  const arch::KindInfo& info = *arch::FindKind(reloc.kind);
  const arch::FieldInfo& field = arch::FieldOf(info.field);
  auto failed = [&](ErrorCode code, Words message) {
    return RelocError(code, table_.IdOf(index), reloc, std::move(message));
  };

  // The target: its address now, and what it moves with.
  uint64_t symbol = 0;  // S of the psABI
  int64_t addend = reloc.addend;
  Anchor anchor = Anchor::kFixed;
  uint32_t other = 0;  // the other executor
  switch (reloc.target_kind) {
    case TargetKind::kOwnCode:
      symbol = at.code + reloc.target;
      anchor = Anchor::kCode;
      break;
    case TargetKind::kOwnData:
      symbol = at.data + reloc.target;
      anchor = Anchor::kData;
      break;
    case TargetKind::kOwnState:
      symbol = at.state + reloc.target;
      anchor = Anchor::kState;
      break;
    case TargetKind::kAddress:
      symbol = reloc.target;
      if (space_.Contains(symbol)) {
        // Only the arena's own code may be named by address; what belongs to executors moves, or goes.
        SpanId span = space_.FindSpan(symbol);
        if (span == 0 || space_[span].State() != SpanState::kInternal)
          return failed(ErrorCode::kRelocTarget,
                        Format("the address %#llx lies among this arena's executors: name the executor as the target, "
                               "so that the reloc can follow it",
                               Wide(symbol)));
      }
      break;
    case TargetKind::kExecutor:
      if (table_.Find(reloc.target) == nullptr)
        return failed(ErrorCode::kRelocTarget, Format("the target executor %llu is gone", Wide(reloc.target)));
      other = IndexOf(reloc.target);
      break;
    case TargetKind::kBatchMember:
      if (reloc.target >= batch.size())
        return failed(ErrorCode::kRelocTarget, Format("the list has no executor %llu", Wide(reloc.target)));
      other = batch[reloc.target];
      break;
    case TargetKind::kExit:
      symbol = at.state + executor.RecordsOffset() + arch::kExitRecordBytes * reloc.target;
      anchor = Anchor::kState;
      break;
    case TargetKind::kDone:
      symbol = exits.done_stub();
      break;
    case TargetKind::kValid:
      symbol = at.state + executor.ValidOffset();
      anchor = Anchor::kState;
      break;
    case TargetKind::kWarm:
      symbol = at.state + executor.WarmOffset();
      anchor = Anchor::kState;
      break;
  }
  if (other != 0) {
    const Executor& target = table_[other];
    uint32_t size = target.BytesOf(reloc.target_section);
    if (reloc.target_offset > size || size == 0)
      return failed(ErrorCode::kRelocTarget,
                    Format("target offset %u lies outside the %u bytes of %s of executor %llu", reloc.target_offset,
                           size, SectionName(reloc.target_section), Wide(table_.IdOf(other))));
  }
  if (other == index) {
    other = 0;
    symbol = AddressIn(at, reloc.target_section) + reloc.target_offset;
    anchor = static_cast<Anchor>(reloc.target_section);
  }
  if (other != 0) {
    if (table_[other].State() != ExecutorState::kFrozen && !table_[other].marked)
      return failed(ErrorCode::kRelocTarget,
                    Format("the target executor %llu is still writable: freeze it before, or in the same freeze",
                           Wide(table_.IdOf(other))));
    symbol = SectionAddress(space_, table_[other], reloc.target_section) + reloc.target_offset;
  }

  bool symbol_moves = other != 0                 ? table_[other].movable
                      : anchor == Anchor::kState ? executor.StateMoves()
                                                 : anchor != Anchor::kFixed && executor.movable;
  uint64_t site = AddressIn(at, reloc.section) + reloc.offset;  // P of the psABI

  if (reloc.section == Section::kState &&
      (field.relative || info.through_slot || (symbol_moves && anchor != Anchor::kState)))
    return failed(ErrorCode::kRelocSite,
                  "state may hold no address of something that can move, since the code may have copied or changed it: "
                  "use an absolute reloc to a fixed target, or make the target movable: false");

  // Everywhere that the two ends of a relative field can ever be: a move must not change whether the value fits. Two
  // parts of one span keep their distance.
  bool same_span = !executor.apart() || (anchor == Anchor::kCode) == (reloc.section == Section::kCode);
  bool symbol_with_site = (anchor == Anchor::kCode || anchor == Anchor::kData) && same_span;
  Bounds places{site, site};
  if (executor.movable && !symbol_with_site) places = PlacesOf(executor, reloc.section, site);
  auto reaches = [&](const Bounds& symbols, int64_t from_symbol) {
    uint64_t added = static_cast<uint64_t>(from_symbol);
    return arch::Check(info, arch::ValueOf(info.field, symbols.lowest + added, places.highest)) &&
           arch::Check(info, arch::ValueOf(info.field, symbols.highest + added, places.lowest));
  };
  Bounds symbols{symbol, symbol};
  if (symbol_moves && !symbol_with_site)
    symbols = other != 0 ? PlacesOf(table_[other], reloc.target_section, symbol)
                         : PlacesOf(executor, static_cast<Section>(anchor), symbol);

  // Out of reach, a branch goes through the veneer of a far slot; a GOT kind always uses its slot.
  bool use_slot = info.through_slot;
  bool use_veneer = false;
  bool out_of_reach = field.relative && !use_slot && !reaches(symbols, addend);
  // A callback's thunk that is out of reach has a veneer that is not, also for `lea`.
  uint64_t thunk_veneer =
      out_of_reach && reloc.target_kind == TargetKind::kAddress ? far_slots.FindThunkVeneer(symbol) : 0;
  if (thunk_veneer != 0) {
    symbol = thunk_veneer;
    symbols = {symbol, symbol};
    out_of_reach = !reaches(symbols, addend);
  }
  if (out_of_reach) {
    bool to_code =
        other != 0 ? reloc.target_section == Section::kCode : anchor == Anchor::kFixed || anchor == Anchor::kCode;
    use_veneer = info.is_branch && to_code;
    if (!use_veneer) return failed(ErrorCode::kRelocRange, OutOfReach(info, addend, symbols, places));
  }
  if (use_slot || use_veneer) {
    bool own = anchor != Anchor::kFixed;
    if ((own && anchor != Anchor::kCode) || (other != 0 && reloc.target_section != Section::kCode))
      return failed(ErrorCode::kRelocTarget,
                    Format("a GOT slot can hold an external address or one of code; refer to data and state of "
                           "executors with %s",
                           arch::kNearKind));
    uint32_t owner = other != 0 ? other : own ? index : 0;
    // A veneer stands for the place that the branch goes to, a slot for the symbol.
    if (use_veneer) symbol += static_cast<uint64_t>(reloc.addend) + info.branch_bias;
    if (owner != 0) symbol -= CodeAddress(space_, table_[owner]);
    Result<uint32_t> slot = AcquireFarSlot(index, {symbol, owner});
    if (!slot.ok()) {
      const Error& error = slot.status().error();
      return failed(error.code, error.message);
    }
    symbol = use_slot ? far_slots.GotAddress(slot.value()) : far_slots.VeneerAddress(slot.value());
    if (use_veneer) addend = -info.branch_bias;
    other = 0;
    anchor = Anchor::kFixed;
    symbol_moves = false;
    symbol_with_site = false;
    // The far slot stays and the site may move, also where the symbol went along with it.
    symbols = {symbol, symbol};
    if (executor.movable) places = PlacesOf(executor, reloc.section, site);
    if (!reaches(symbols, addend)) return failed(ErrorCode::kRelocRange, OutOfReach(info, addend, symbols, places));
  }

  uint64_t target = symbol + static_cast<uint64_t>(addend);
  uint64_t value = arch::ValueOf(info.field, target, site);
  // An absolute field narrower than an address holds nothing that moves, even where it happens to fit now.
  if (!field.relative && (!arch::Check(info, value) || (symbol_moves && !field.follows)))
    return failed(ErrorCode::kRelocRange, Format("the value %#llx for %s at %s + %u does not fit the field",
                                                 Wide(value), info.name, SectionName(reloc.section), reloc.offset));

  Checked checked{&info, value, 0, reloc.offset, reloc.section, anchor, false, false};
  // A field that moves rewrite: in normal form the site is as far from 0 as from its section, the target as far as from
  // `base`, which it moves with.
  auto normalise = [&](uint64_t base) {
    checked.normal = true;
    checked.value = arch::ValueOf(info.field, target - base, reloc.offset);
    checked.rest = static_cast<uint32_t>((target - base) & ((uint64_t{1} << field.rest_bits) - 1));
  };
  uint32_t sites_before = reloc.section == Section::kData ? uint32_t{executor.code_bytes} : 0;
  if (other != 0) {
    Reference reference;
    reference.source = index;
    reference.target = other;
    reference.site = sites_before + reloc.offset;
    reference.kind = reloc.section == Section::kState ? ReferenceKind::kHold : ReferenceKind::kReloc;
    reference.field = info.field;
    reference.target_section = reloc.target_section;
    if (reference.has_field()) normalise(SectionAddress(space_, table_[other], reloc.target_section));
    reference.rest = checked.rest;
    if (Status status = references.Add(reference)) return failed(status.error().code, status.error().message);
    return checked;
  }
  if (reloc.section == Section::kState) return checked;
  // Nothing of an executor that stays changes, except towards state. Nor does a distance within a span; but a field
  // that needs a rest says more than that.
  bool keeps_distance = symbol_with_site && field.rest_bits == 0;
  bool changes = field.relative ? (symbol_moves || executor.movable) && !keeps_distance : symbol_moves;
  if (changes) {
    checked.keep = true;
    normalise(AddressOfAnchor(at, anchor));
  }
  return checked;
}

Status Linker::OpenSpans(WriteScope& scope, uint32_t index) const {
  const Executor& executor = table_[index];
  if (Status failed = scope.Open(executor.code_span)) return failed;
  if (executor.data_span != 0)
    if (Status failed = scope.Open(executor.data_span)) return failed;
  return Status::Ok();
}

void Linker::ForgetReferences(uint32_t index) {
  Executor& executor = table_[index];
  // A thread that is still in the executor leaves it at its next exit.
  references.RemoveOutbound(index, [&](uint32_t exit) { exits.MakeCold(exits.RecordOf(index, exit)); });
  exits.UnlinkInbound(index);
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept_count_--; });
  table_.DropKept(executor);
}

void Linker::Write(WriteScope& scope, uint32_t index, const ExecutorSpec& spec, size_t check) {
  Executor& executor = table_[index];
  uint64_t beyond = 0;  // the fields: of every field's normal form, what lies beyond the field
  const Checked* next = checked_.data() + check;
  const Checked* end = next + spec.reloc_count;
  // Copies one section's bytes and inserts its fields, in normal form where a move may change them.
  auto write = [&](Section section, uint8_t* to, uint32_t sites_before, bool known_zero) {
    const uint8_t* bytes = spec.bytes[static_cast<int>(section)];
    uint32_t size = spec.sizes[static_cast<int>(section)];
    uint32_t filled = bytes != nullptr ? size - spec.zero_tails[static_cast<int>(section)] : 0;
    // A zero tail is there already. Most data of stencils is nothing else.
    while (known_zero && filled != 0 && bytes[filled - 1] == 0) filled--;
    if (filled != 0) std::memcpy(to, bytes, filled);
    if (!known_zero && filled != size) std::memset(to + filled, 0, size - filled);
    for (; next < end && next->section == section; next++) {
      arch::Apply(*next->info, to + next->offset, next->value);
      arch::FieldClass field = next->info->field;
      uint32_t site = sites_before + next->offset;
      if (next->normal) beyond += ChecksumBeyond(site, arch::Beyond(field, next->value));
    }
  };
  // From normal form to the place, where not null.
  auto rebase = [&](uint8_t* code, uint8_t* data) {
    if (executor.kept_bytes == 0 && !executor.holds_addresses) return;
    Rebase(executor, code, data, Placement{}, PlacementOf(space_, executor), [&](const Reference& reference) {
      return Moved{0, SectionAddress(space_, table_[reference.target], reference.target_section)};
    });
  };
  auto pad = [](uint8_t byte, uint8_t* from, uint8_t* to) {
    while (from < to) *from++ = byte;  // a granule at most, as a rule
  };

  uint32_t bytes = space_[executor.code_span].granules * kGranuleBytes;
  bool known_zero = space_.KnownZero(executor.code_span);
  uint8_t* code = scope.Fill(executor.code_span, 0, bytes);
  write(Section::kCode, code, 0, known_zero);
  uint64_t sum;
  if (executor.data_span == 0) {
    uint8_t* data = code + executor.DataOffset();
    pad(arch::kPoisonByte, code + executor.code_bytes, data);
    if (executor.data_bytes != 0) write(Section::kData, data, executor.code_bytes, known_zero);
    pad(arch::kPoisonByte, data + executor.data_bytes, code + bytes);
    sum = Checksum(0, code, bytes);
    rebase(code, data);
  } else {
    // The fields of code must be in place before the next Fill.
    pad(arch::kPoisonByte, code + executor.code_bytes, code + bytes);
    sum = Checksum(0, code, bytes);
    rebase(code, nullptr);
    bytes = space_[executor.data_span].granules * kGranuleBytes;
    known_zero = space_.KnownZero(executor.data_span);
    uint8_t* data = scope.Fill(executor.data_span, 0, bytes);
    write(Section::kData, data, executor.code_bytes, known_zero);
    pad(0, data + executor.data_bytes, data + bytes);
    sum = Checksum(sum, data, bytes);
    rebase(nullptr, data);
  }
  executor.checksum = static_cast<uint32_t>(sum + beyond);

  if (executor.state_span != 0) {
    known_zero = space_.KnownZero(executor.state_span);
    uint8_t* state = scope.Fill(executor.state_span, 0, executor.StateSpanBytes());
    write(Section::kState, state, 0, known_zero);
    exits.Initialise(index, state);
  }
}

}  // namespace jit_arena
