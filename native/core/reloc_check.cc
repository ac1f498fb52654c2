#include "core/reloc_check.h"

#include <algorithm>
#include <utility>

#include "base/room.h"
#include "core/placement.h"

namespace jit_arena {
namespace {

Words PlacesInWords(uint64_t lowest, uint64_t highest) {
  if (lowest == highest) return Format("%#llx", Wide(lowest));
  return Format("every place from %#llx to %#llx", Wide(lowest), Wide(highest));
}

bool Moves(const Executor& executor, Section section) {
  return section == Section::kState ? executor.StateMoves() : executor.movable;
}

// The lowest and the highest address that something can ever have.
struct Bounds {
  uint64_t lowest, highest;
};

// Where the byte of a section can be that is at `address` now: anywhere in the reservation where its span fits, if it
// moves.
Bounds PlacesOf(const CodeSpace& space, const Executor& executor, Section section, uint64_t address) {
  if (!Moves(executor, section)) return {address, address};
  SpanId span = section == Section::kState                      ? executor.state_span
                : section == Section::kData && executor.apart() ? executor.data_span
                                                                : executor.code_span;
  uint64_t in_span = address - space.AddressOf(span);
  uint64_t span_bytes = uint64_t{space[span].granules} * kGranuleBytes;
  return {space.base() + in_span, space.end() - span_bytes + in_span};
}

// A section of the executor that is checked.
struct Part {
  uint64_t at;    // its address
  Bounds places;  // of its beginning
  bool moves;
  Bounds PlacesOf(uint64_t address) const { return {places.lowest + (address - at), places.highest + (address - at)}; }
};

// What the checks of one executor have in common.
struct Checking {
  Checking(const CodeSpace& all_space, ExecutorTable& all_executors, References& all_references,
           FarSlots& all_far_slots, uint64_t stub, uint32_t checked, const std::vector<uint32_t>& frozen_with)
      : space(all_space),
        table(all_executors),
        references(all_references),
        far_slots(all_far_slots),
        executor(all_executors[checked]),
        done_stub(stub),
        index(checked),
        batch(frozen_with) {
    const Placement at = PlacementOf(space, executor);
    for (Section section : {Section::kCode, Section::kData, Section::kState}) {
      if (section == Section::kState && executor.state_span == 0) continue;
      uint64_t address = AddressIn(at, section);
      parts[static_cast<int>(section)] = {address, PlacesOf(space, executor, section, address),
                                          Moves(executor, section)};
    }
  }

  const CodeSpace& space;
  ExecutorTable& table;
  References& references;
  FarSlots& far_slots;
  const Executor& executor;
  uint64_t done_stub;
  uint32_t index;
  const std::vector<uint32_t>& batch;
  Part parts[kSections] = {};
};

// The kinds of own targets are sections, and so are the first anchors.
static_assert(static_cast<int>(TargetKind::kOwnState) == static_cast<int>(Section::kState));
static_assert(static_cast<int>(Anchor::kState) == static_cast<int>(Section::kState));

// Nearly all relocs are the address of a place in the executor itself, or the distance to one in the same span. Nothing
// is to be decided of them, and CheckShape has seen that the place exists. False: another one, or it does not fit.
bool CheckOwn(const Checking& checking, const RelocSpec& reloc, CheckedReloc& checked) {
  const arch::KindInfo& info = *arch::FindKind(reloc.kind);
  const arch::FieldInfo& field = arch::FieldOf(info.field);
  if (reloc.target_kind > TargetKind::kOwnState || reloc.section == Section::kState || info.through_slot ||
      field.rest_bits != 0)
    return false;
  const Part& to = checking.parts[static_cast<int>(reloc.target_kind)];
  uint64_t in_part = reloc.target + static_cast<uint64_t>(reloc.addend);
  uint64_t value = to.at + in_part;
  const bool address = field.bytes == 8 && !field.relative;
  if (!address) {
    if (!field.relative || reloc.target_kind == TargetKind::kOwnState || checking.executor.apart()) return false;
    value = arch::ValueOf(info.field, value, checking.parts[static_cast<int>(reloc.section)].at + reloc.offset);
    if (!arch::Check(info, value)) return false;
  }
  checked.info = &info;
  checked.value = value;
  checked.moves = address && to.moves;
  checked.normal = checked.moves ? in_part : value;
  checked.offset = reloc.offset;
  checked.section = reloc.section;
  return true;
}

// One reloc on its way through the four steps.
class RelocCase {
 public:
  // The result will be in `checked`.
  RelocCase(const Checking& checking, const RelocSpec& reloc, CheckedReloc& checked)
      : space_(checking.space),
        table_(checking.table),
        checking_(checking),
        executor_(checking.executor),
        reloc_(reloc),
        info_(*arch::FindKind(reloc.kind)),
        field_(arch::FieldOf(info_.field)),
        addend_(reloc.addend),
        checked_(checked) {}

  Status Check() {
    if (Status failed = FindTarget()) return failed;
    if (Status failed = CheckSite()) return failed;
    if (Status failed = FindWay()) return failed;
    return MakeRecord();
  }

  // Whether it belongs into the kept records, and what those say of it.
  bool keep() const { return keep_; }
  Anchor anchor() const { return anchor_; }
  uint32_t rest() const { return rest_; }

 private:
  // ---- Target

  Status FindTarget() {
    switch (reloc_.target_kind) {
      case TargetKind::kOwnCode:
      case TargetKind::kOwnData:
      case TargetKind::kOwnState:
        return TakeOwn(static_cast<Section>(reloc_.target_kind), reloc_.target);
      case TargetKind::kAddress:
        return TakeAddress();
      case TargetKind::kExecutor:
        if (table_.Find(reloc_.target) == nullptr)
          return Refuse(ErrorCode::kRelocTarget, Format("the target executor %llu is gone", Wide(reloc_.target)));
        return TakeExecutor(IndexOf(reloc_.target));
      case TargetKind::kBatchMember:
        if (reloc_.target >= checking_.batch.size())
          return Refuse(ErrorCode::kRelocTarget, Format("the list has no executor %llu", Wide(reloc_.target)));
        return TakeExecutor(checking_.batch[reloc_.target]);
      case TargetKind::kExit:
        return TakeOwn(Section::kState, executor_.RecordsOffset() + arch::kExitRecordBytes * reloc_.target);
      case TargetKind::kDone:
        symbol_ = checking_.done_stub;
        return Status::Ok();
      case TargetKind::kValid:
        return TakeOwn(Section::kState, executor_.ValidOffset());
      case TargetKind::kWarm:
        return TakeOwn(Section::kState, executor_.WarmOffset());
    }
    return Status::Ok();
  }

  Status TakeOwn(Section section, uint64_t offset) {
    symbol_ = PartOf(section).at + offset;
    anchor_ = static_cast<Anchor>(section);
    return Status::Ok();
  }
  const Part& PartOf(Section section) const { return checking_.parts[static_cast<int>(section)]; }
  const Part& AnchorPart() const { return PartOf(static_cast<Section>(anchor_)); }

  // Only the arena's own code may be named by address; what belongs to executors moves, or goes.
  Status TakeAddress() {
    symbol_ = reloc_.target;
    if (!space_.Contains(symbol_)) return Status::Ok();
    SpanId span = space_.FindSpan(symbol_);
    if (span != 0 && space_[span].State() == SpanState::kInternal) return Status::Ok();
    return Refuse(ErrorCode::kRelocTarget,
                  Format("the address %#llx lies among this arena's executors: name the executor as the target, "
                         "so that the reloc can follow it",
                         Wide(symbol_)));
  }

  Status TakeExecutor(uint32_t other) {
    const Executor& target = table_[other];
    const Section section = reloc_.target_section;
    uint32_t size = target.BytesOf(section);
    if (reloc_.target_offset > size || size == 0)
      return Refuse(ErrorCode::kRelocTarget,
                    Format("target offset %u lies outside the %u bytes of %s of executor %llu", reloc_.target_offset,
                           size, SectionName(section), Wide(table_.IdOf(other))));
    if (other == checking_.index) return TakeOwn(section, reloc_.target_offset);
    if (target.State() != ExecutorState::kFrozen && !target.marked)
      return Refuse(ErrorCode::kRelocTarget,
                    Format("the target executor %llu is still writable: freeze it before, or in the same freeze",
                           Wide(table_.IdOf(other))));
    other_ = other;
    symbol_ = SectionAddress(space_, target, section) + reloc_.target_offset;
    return Status::Ok();
  }

  bool SymbolMoves() const {
    if (other_ != 0) return table_[other_].movable;
    return anchor_ != Anchor::kFixed && AnchorPart().moves;
  }

  // ---- Site

  Status CheckSite() {
    symbol_moves_ = SymbolMoves();
    site_ = PartOf(reloc_.section).at + reloc_.offset;
    if (reloc_.section == Section::kState &&
        (field_.relative || info_.through_slot || (symbol_moves_ && anchor_ != Anchor::kState)))
      return Refuse(ErrorCode::kRelocSite,
                    "state may hold no address of something that can move, since the code may have copied or changed "
                    "it: use an absolute reloc to a fixed target, or make the target movable: false");
    bool same_span = !executor_.apart() || (anchor_ == Anchor::kCode) == (reloc_.section == Section::kCode);
    symbol_with_site_ = (anchor_ == Anchor::kCode || anchor_ == Anchor::kData) && same_span;
    if (field_.bytes == 8) return Status::Ok();  // which reaches from everywhere
    sites_ = {site_, site_};
    if (executor_.movable && !symbol_with_site_) sites_ = PartOf(reloc_.section).PlacesOf(site_);
    symbols_ = {symbol_, symbol_};
    if (symbol_moves_ && !symbol_with_site_)
      symbols_ = other_ != 0 ? PlacesOf(space_, table_[other_], reloc_.target_section, symbol_)
                             : AnchorPart().PlacesOf(symbol_);
    return Status::Ok();
  }

  // ---- Way

  Status FindWay() {
    bool out_of_reach = field_.relative && !info_.through_slot && !Reaches();
    uint64_t thunk_veneer = 0;
    if (out_of_reach && reloc_.target_kind == TargetKind::kAddress)
      thunk_veneer = checking_.far_slots.FindThunkVeneer(symbol_);
    if (thunk_veneer != 0) {
      symbol_ = thunk_veneer;
      symbols_ = {symbol_, symbol_};
      out_of_reach = !Reaches();
    }
    bool to_code =
        other_ != 0 ? reloc_.target_section == Section::kCode : anchor_ == Anchor::kFixed || anchor_ == Anchor::kCode;
    if (out_of_reach && !(info_.is_branch && to_code)) return RefuseOutOfReach();
    return out_of_reach || info_.through_slot ? GoThroughFarSlot() : Status::Ok();
  }

  bool Reaches() const {
    if (field_.bytes == 8) return true;
    uint64_t addend = static_cast<uint64_t>(addend_);
    uint64_t value = arch::ValueOf(info_.field, symbols_.lowest + addend, sites_.highest);
    if (!arch::Check(info_, value)) return false;
    if (symbol_with_site_) return true;
    return arch::Check(info_, arch::ValueOf(info_.field, symbols_.highest + addend, sites_.lowest));
  }

  // A kind that reads a GOT slot uses the far slot's; a branch uses its veneer.
  Status GoThroughFarSlot() {
    bool own = anchor_ != Anchor::kFixed;
    if ((own && anchor_ != Anchor::kCode) || (other_ != 0 && reloc_.target_section != Section::kCode))
      return Refuse(ErrorCode::kRelocTarget,
                    Format("a GOT slot can hold an external address or one of code; refer to data and state of "
                           "executors with %s",
                           arch::kNearKind));
    // A veneer stands for the place that the branch goes to, a GOT slot for the symbol, or for S + A by some psABIs.
    const bool veneer = !info_.through_slot;
    FarAddress address{symbol_, other_ != 0 ? other_ : own ? checking_.index : 0};
    const bool holds_sum = veneer || info_.slot_holds_sum;
    if (holds_sum) address.target += static_cast<uint64_t>(addend_) + info_.branch_bias;
    if (address.owner != 0) address.target -= CodeAddress(space_, table_[address.owner]);
    // No veneer makes up for bits that a branch has no room for.
    if (veneer && (address.target & ((uint64_t{1} << field_.rest_bits) - 1)) != 0) return RefuseOutOfReach();
    Result<uint32_t> slot = AcquireFarSlot(address);
    if (!slot.ok()) return Refuse(slot.status().error().code, slot.status().error().message);
    symbol_ = veneer ? checking_.far_slots.VeneerAddress(slot.value()) : checking_.far_slots.GotAddress(slot.value());
    if (holds_sum) addend_ = -info_.branch_bias;
    other_ = 0;
    anchor_ = Anchor::kFixed;
    symbol_moves_ = false;
    symbol_with_site_ = false;
    // The far slot stays and the site may move, also where the symbol went along with the site.
    symbols_ = {symbol_, symbol_};
    if (executor_.movable) sites_ = PartOf(reloc_.section).PlacesOf(site_);
    return Reaches() ? Status::Ok() : RefuseOutOfReach();
  }

  // The far slot for an address, made when there is none yet; the executor refers to it.
  Result<uint32_t> AcquireFarSlot(const FarAddress& address) {
    FarSlots& far_slots = checking_.far_slots;
    References& references = checking_.references;
    uint32_t slot = far_slots.Find(address);
    if (slot != 0 && far_slots[slot].last_user == checking_.index) return slot;
    Status failed;
    if (slot == 0) {
      Result<uint32_t> made = far_slots.Make(address);
      if (!made.ok()) return made;
      slot = made.value();
      if (address.owner != 0) failed = references.Add(Reference::Of(ReferenceKind::kSlot, slot, address.owner));
    }
    if (failed.ok()) failed = references.Add(Reference::Of(ReferenceKind::kSlotUse, checking_.index, slot));
    if (!failed.ok()) {
      if (far_slots[slot].inbound == 0) references.DropFarSlot(slot);
      return failed;
    }
    far_slots[slot].last_user = checking_.index;
    return slot;
  }

  // ---- Record

  Status MakeRecord() {
    target_ = symbol_ + static_cast<uint64_t>(addend_);
    uint64_t value = ValueOf(target_, site_);
    // An absolute field narrower than an address holds nothing that moves, even where it happens to fit now.
    if (!field_.relative && field_.bytes != 8 && (!arch::Check(info_, value) || (symbol_moves_ && !field_.follows)))
      return Refuse(ErrorCode::kRelocRange,
                    Format("the value %#llx for %s at %s + %u does not fit the field", Wide(value), info_.name,
                           SectionName(reloc_.section), reloc_.offset));
    checked_.info = &info_;
    checked_.value = checked_.normal = value;
    checked_.offset = reloc_.offset;
    checked_.section = reloc_.section;
    checked_.moves = false;
    if (other_ != 0) return Refer();
    if (reloc_.section == Section::kState) return Status::Ok();
    // Nothing of an executor that stays changes, except towards state. Nor does a distance within a span; but a field
    // that needs a rest says more than that.
    bool keeps_distance = symbol_with_site_ && field_.rest_bits == 0;
    keep_ = field_.relative ? (symbol_moves_ || executor_.movable) && !keeps_distance : symbol_moves_;
    if (keep_) Normalise(anchor_ == Anchor::kFixed ? 0 : AnchorPart().at);
    return Status::Ok();
  }

  // A whole word is the same on every CPU.
  uint64_t ValueOf(uint64_t target, uint64_t site) const {
    if (field_.bytes != 8) return arch::ValueOf(info_.field, target, site);
    return field_.relative ? target - site : target;
  }

  // A reference to the other executor.
  Status Refer() {
    Reference reference;
    reference.source = checking_.index;
    reference.target = other_;
    reference.site = (reloc_.section == Section::kData ? uint32_t{executor_.code_bytes} : 0) + reloc_.offset;
    // What cannot follow has passed MakeRecord, so that the target stays.
    const bool changes = reloc_.section != Section::kState && field_.follows;
    reference.kind = changes ? ReferenceKind::kReloc : ReferenceKind::kHold;
    reference.field = info_.field;
    reference.target_section = reloc_.target_section;
    if (reference.has_field()) Normalise(SectionAddress(space_, table_[other_], reloc_.target_section));
    reference.rest = rest_;
    if (Status failed = checking_.references.Add(reference)) return Refuse(failed.error().code, failed.error().message);
    return Status::Ok();
  }

  // For a field that moves rewrite: in normal form the site is as far from 0 as from its section, the target as far as
  // from `base`, which it moves with.
  void Normalise(uint64_t base) {
    checked_.moves = true;
    checked_.normal = ValueOf(target_ - base, reloc_.offset);
    rest_ = static_cast<uint32_t>((target_ - base) & ((uint64_t{1} << field_.rest_bits) - 1));
  }

  // ---- Refusals

  Status Refuse(ErrorCode code, Words message) const {
    return RelocError(code, table_.IdOf(checking_.index), reloc_, std::move(message));
  }

  Status RefuseOutOfReach() const {
    return Refuse(
        ErrorCode::kRelocRange,
        Format("%s with addend %lld cannot reach its target at %s from its site at %s, and a move may lead to "
               "any of them: use %s",
               info_.name, static_cast<long long>(addend_), PlacesInWords(symbols_.lowest, symbols_.highest).c_str(),
               PlacesInWords(sites_.lowest, sites_.highest).c_str(), arch::kFarKinds));
  }

  const CodeSpace& space_;
  ExecutorTable& table_;
  const Checking& checking_;
  const Executor& executor_;
  const RelocSpec& reloc_;
  const arch::KindInfo& info_;
  const arch::FieldInfo& field_;

  uint64_t symbol_ = 0;  // S of the psABI
  int64_t addend_;
  CheckedReloc& checked_;
  Anchor anchor_ = Anchor::kFixed;  // the part of the executor itself that the symbol moves with
  uint32_t other_ = 0;              // another executor, which the symbol moves with
  bool symbol_moves_ = false;
  uint64_t site_ = 0;              // P of the psABI
  bool symbol_with_site_ = false;  // both lie in one span, and keep their distance
  Bounds symbols_{}, sites_{};     // where they can ever be
  uint64_t target_ = 0;            // S + A
  bool keep_ = false;
  uint32_t rest_ = 0;
};

}  // namespace

Result<size_t> RelocCheck::Check(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch) {
  size_t first = checked_.size();
  if (spec.reloc_count == 0) return first;
  Executor& executor = table_[index];
  const Checking checking(space_, table_, references_, far_slots_, exits_.done_stub(), index, batch);
  const SortedRelocs sorted(spec, order_);
  if (Status failed = MakeRoom(checked_, spec.reloc_count)) return failed;
  kept_writer_.Begin(spec.reloc_count);
  for (uint32_t i = 0; i < spec.reloc_count; i++) {
    const RelocSpec& reloc_spec = sorted[i];
    // Written where it stays: a copy would wait for the stores to its parts.
    CheckedReloc& checked = checked_.emplace_back();
    auto keep = [&](Anchor anchor, uint32_t rest) {
      uint32_t sites_before = checked.section == Section::kData ? uint32_t{executor.code_bytes} : 0;
      kept_writer_.Add({sites_before + checked.offset, checked.info->field, anchor, rest});
    };
    if (CheckOwn(checking, reloc_spec, checked)) {
      if (checked.moves) keep(static_cast<Anchor>(reloc_spec.target_kind), 0);
      continue;
    }
    RelocCase reloc(checking, reloc_spec, checked);
    if (Status failed = reloc.Check()) {
      failed.SetIndex(sorted.PositionOf(i));
      return failed;
    }
    if (reloc.keep()) keep(reloc.anchor(), reloc.rest());
  }
  kept_writer_.End();
  if (Status failed = table_.SetKept(executor, kept_writer_.packed())) return failed;
  kept_count_ += kept_writer_.count();
  if (full_records_) KeepFullRecord(index, spec, batch);
  return first;
}

}  // namespace jit_arena
