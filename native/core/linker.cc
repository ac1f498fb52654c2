#include "core/linker.h"

#include <algorithm>

#include "base/bits.h"
#include "core/checksum.h"

namespace jit_arena {
namespace {

Error RelocError(ErrorCode code, ExecutorId id, const RelocSpec& reloc, std::string message) {
  Error error{code, std::move(message)};
  error.executor = id;
  error.section = reloc.section;
  error.offset = reloc.offset;
  const arch::KindInfo* info = arch::FindKind(reloc.kind);
  error.kind = info != nullptr ? info->name : Format("%u", reloc.kind);
  return error;
}

Section SectionOf(TargetKind kind) {
  return kind == TargetKind::kOwnCode   ? Section::kCode
         : kind == TargetKind::kOwnData ? Section::kData
                                        : Section::kState;
}

uint64_t AddressIn(const Placement& at, Section section) {
  return section == Section::kCode ? at.code : section == Section::kData ? at.data : at.state;
}

uint64_t AddressOfAnchor(const Placement& at, Anchor anchor) {
  switch (anchor) {
    case Anchor::kCode:
      return at.code;
    case Anchor::kData:
      return at.data;
    case Anchor::kState:
      return at.state;
    case Anchor::kFixed:
      break;
  }
  return 0;
}

unsigned long long Hex(uint64_t value) { return value; }

}  // namespace

Linker::Linker(CodeSpace& space, ExecutorTable& table, uint32_t max_references, bool full_records)
    : space_(space), table_(table), references_(max_references), links_(max_references), full_records_(full_records) {}

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
  SortRelocs(spec);
  const RelocSpec* previous = nullptr;
  uint32_t previous_end = 0;
  for (uint32_t position : order_) {
    const RelocSpec& reloc = spec.relocs[position];
    auto failed = [&](ErrorCode code, std::string message) {
      Error error = RelocError(code, id, reloc, std::move(message));
      error.index = position;
      return Status(std::move(error));
    };
    const arch::KindInfo* info = arch::FindKind(reloc.kind);
    if (info == nullptr)
      return failed(ErrorCode::kRelocKind, Format("reloc kind %u does not exist on %s", reloc.kind, arch::kCpuName));
    uint32_t size = spec.sizes[static_cast<int>(reloc.section)];
    if (reloc.offset > size || size - reloc.offset < info->field_bytes)
      return failed(ErrorCode::kRelocBounds,
                    Format("the %u bytes of %s at %s + %u do not lie within the section's %u bytes", info->field_bytes,
                           info->name, SectionName(reloc.section), reloc.offset, size));
    if (previous != nullptr && previous->section == reloc.section && reloc.offset < previous_end)
      return failed(ErrorCode::kRelocOverlap, Format("the reloc at %s + %u overlaps the one at %u",
                                                     SectionName(reloc.section), reloc.offset, previous->offset));
    if (reloc.target_kind <= TargetKind::kOwnState) {
      Section section = SectionOf(reloc.target_kind);
      uint32_t target_size = spec.sizes[static_cast<int>(section)];
      // One past the end is an address that compilers take; an absent section has none.
      if (reloc.target > target_size || target_size == 0)
        return failed(ErrorCode::kRelocTarget, Format("target offset %llu lies outside the executor's %u bytes of %s",
                                                      Hex(reloc.target), target_size, SectionName(section)));
    }
    previous = &reloc;
    previous_end = reloc.offset + info->field_bytes;
  }
  return Status::Ok();
}

// ---- Freeze

void Linker::BeginFreeze() { checked_.clear(); }

Result<size_t> Linker::Check(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch) {
  size_t first = checked_.size();
  Placement at = PlacementOf(table_[index]);
  SortRelocs(spec);
  for (uint32_t position : order_) {
    Result<Checked> checked = CheckReloc(index, spec.relocs[position], at, batch);
    if (!checked.ok()) {
      checked.status().error().index = position;
      return std::move(checked.status());
    }
    checked_.push_back(checked.value());
  }
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

Result<Linker::Checked> Linker::CheckReloc(uint32_t index, const RelocSpec& reloc, const Placement& at,
                                           const std::vector<uint32_t>& batch) {
  const Executor& executor = table_[index];
  const arch::KindInfo& info = *arch::FindKind(reloc.kind);
  auto failed = [&](ErrorCode code, std::string message) {
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
                               Hex(symbol)));
      }
      break;
    case TargetKind::kExecutor:
      if (table_.Find(reloc.target) == nullptr)
        return failed(ErrorCode::kRelocTarget, Format("the target executor %llu is gone", Hex(reloc.target)));
      other = IndexOf(reloc.target);
      break;
    case TargetKind::kBatchMember:
      if (reloc.target >= batch.size())
        return failed(ErrorCode::kRelocTarget, Format("the list has no executor %llu", Hex(reloc.target)));
      other = batch[reloc.target];
      break;
  }
  if (other == index) {
    other = 0;
    symbol = at.code;
    anchor = Anchor::kCode;
  }
  if (other != 0) {
    if (table_[other].State() != ExecutorState::kFrozen && !table_[other].marked)
      return failed(ErrorCode::kRelocTarget,
                    Format("the target executor %llu is still writable: freeze it before, or in the same freeze",
                           Hex(table_.IdOf(other))));
    symbol = CodeAddress(other);
  }

  bool symbol_moves =
      other != 0 ? table_[other].movable : anchor == Anchor::kState || (anchor != Anchor::kFixed && executor.movable);
  uint64_t site = AddressIn(at, reloc.section) + reloc.offset;  // P of the psABI

  if (reloc.section == Section::kState &&
      (info.shape != arch::Shape::kAbsolute || (symbol_moves && anchor != Anchor::kState)))
    return failed(ErrorCode::kRelocSite,
                  "state may hold no address of something that can move, since the code may have copied or changed it: "
                  "use an absolute reloc to a fixed target, or make the target movable: false");

  // Out of reach, a branch goes through the veneer of an external link; a GOT kind always uses its slot.
  bool relative = info.shape != arch::Shape::kAbsolute;
  bool use_slot = info.shape == arch::Shape::kGot;
  bool use_veneer = false;
  if (info.shape == arch::Shape::kRelative && anchor == Anchor::kFixed && other == 0) {
    // The target stays and the site moves: it must be reached from wherever the executor can be.
    uint64_t lowest = executor.movable ? space_.base() : site;
    uint64_t highest = executor.movable ? space_.end() : site;
    bool reached =
        arch::Check(info, symbol + reloc.addend - lowest) && arch::Check(info, symbol + reloc.addend - highest);
    if (!reached && !info.is_branch)
      return failed(ErrorCode::kRelocRange,
                    Format("%s cannot reach %#llx from every place in the arena (%#llx to %#llx): use "
                           "R_X86_64_GOTPCREL for data, R_X86_64_PLT32 for a branch, or R_X86_64_64",
                           info.name, Hex(symbol), Hex(space_.base()), Hex(space_.end())));
    use_veneer = !reached;
  }
  if (use_slot || use_veneer) {
    bool own = anchor != Anchor::kFixed;
    if (own && (anchor != Anchor::kCode || reloc.target_kind == TargetKind::kOwnState))
      return failed(ErrorCode::kRelocTarget,
                    "a GOT slot can hold an external address or one of code; refer to own data "
                    "and state with R_X86_64_PC32");
    uint32_t owner = other != 0 ? other : own ? index : 0;
    // A veneer stands for the place that the branch goes to, a slot for the symbol.
    if (use_veneer) symbol += static_cast<uint64_t>(reloc.addend) + info.branch_bias;
    Result<uint32_t> link = AcquireLink(index, owner, owner != 0 ? symbol - CodeAddress(owner) : symbol);
    if (!link.ok()) {
      Error& error = link.status().error();
      return failed(error.code, error.message);
    }
    symbol = use_slot ? SlotAddress(link.value()) : space_.AddressOf(links_[link.value()].span);
    if (use_veneer) addend = -info.branch_bias;
    other = 0;
    anchor = Anchor::kFixed;
    symbol_moves = false;
  }

  uint64_t value = symbol + static_cast<uint64_t>(addend) - (relative ? site : 0);
  bool value_fits = arch::Check(info, value);
  // An absolute field narrower than an address holds nothing that moves, even where it happens to fit now.
  if (!value_fits || (!relative && symbol_moves && info.field_bytes < 8))
    return failed(ErrorCode::kRelocRange, Format("the value %#llx for %s at %s + %u does not fit the field", Hex(value),
                                                 info.name, SectionName(reloc.section), reloc.offset));

  Checked checked{&info, value, reloc.offset, reloc.section, anchor, false};
  uint32_t sites_before = reloc.section == Section::kData ? executor.code_bytes : 0;
  if (other != 0) {
    Reference reference;
    reference.source = index;
    reference.target = other;
    reference.site = sites_before + reloc.offset;
    reference.relative = relative;
    reference.field_bytes = reloc.section == Section::kState ? 0 : info.field_bytes;
    if (Status status = AddReference(reference)) return failed(status.error().code, status.error().message);
    if (reference.field_bytes != 0)
      checked.value = value - CodeAddress(other) + (relative ? AddressIn(at, reloc.section) : 0);
    return checked;
  }
  if (reloc.section == Section::kState) return checked;
  // Two parts of one span keep their distance, and nothing of an executor that stays changes, except towards state.
  bool same_span = !executor.apart || (anchor == Anchor::kCode) == (reloc.section == Section::kCode);
  bool symbol_with_site = (anchor == Anchor::kCode || anchor == Anchor::kData) && same_span;
  bool changes = relative ? (symbol_moves || executor.movable) && !symbol_with_site : symbol_moves;
  if (changes) {
    checked.keep = true;
    checked.value = value - AddressOfAnchor(at, anchor) + (relative ? AddressIn(at, reloc.section) : 0);
  }
  return checked;
}

Status Linker::Open(WriteScope& scope, uint32_t index) const {
  const Executor& executor = table_[index];
  if (Status failed = scope.Open(executor.code_span)) return failed;
  if (executor.data_span != 0)
    if (Status failed = scope.Open(executor.data_span)) return failed;
  return Status::Ok();
}

void Linker::Write(WriteScope& scope, uint32_t index, const ExecutorSpec& spec, size_t check) {
  Executor& executor = table_[index];
  kept_writer_.Clear();
  const Checked* next = checked_.data() + check;
  const Checked* end = next + spec.reloc_count;
  // Copies one section's bytes and inserts its fields, in normal form where a move may change them.
  auto write = [&](Section section, uint8_t* to, uint32_t sites_before, bool known_zero) {
    const uint8_t* bytes = spec.bytes[static_cast<int>(section)];
    uint32_t count = spec.sizes[static_cast<int>(section)];
    if (bytes != nullptr)
      std::memcpy(to, bytes, count);
    else if (!known_zero)
      std::memset(to, 0, count);
    for (; next < end && next->section == section; next++) {
      arch::Apply(*next->info, to + next->offset, next->value);
      if (next->keep)
        kept_writer_.Add({sites_before + next->offset, next->info->field_bytes,
                          next->info->shape != arch::Shape::kAbsolute, next->anchor});
    }
  };
  auto poison = [](uint8_t* from, uint8_t* to) {
    std::memset(from, arch::kPoisonByte, static_cast<size_t>(to - from));
  };
  Placement at = PlacementOf(executor);
  auto address_of = [&](uint32_t other) { return CodeAddress(other); };

  Span span = space_.Describe(executor.code_span);
  bool code_zero = span.view != nullptr && space_.KnownZero(executor.code_span);
  uint8_t* code = scope.Fill(executor.code_span, 0, span.bytes);
  write(Section::kCode, code, 0, code_zero);
  uint64_t sum = Checksum(0, code, executor.code_bytes);
  uint8_t* data = nullptr;
  if (executor.data_span == 0) {
    data = code + executor.DataOffset();
    poison(code + executor.code_bytes, data);
    write(Section::kData, data, executor.code_bytes, code_zero);
    poison(data + executor.data_bytes, code + span.bytes);
    sum = Checksum(sum, data, executor.data_bytes);
    table_.SetKept(executor, kept_writer_.packed());
    Rebase(executor, code, data, Placement{}, at, address_of);
  } else {
    // The fields of code must be in place before the next Fill; their records are complete by then.
    poison(code + executor.code_bytes, code + span.bytes);
    table_.SetKept(executor, kept_writer_.packed());
    Rebase(executor, code, nullptr, Placement{}, at, address_of);
    Span data_span = space_.Describe(executor.data_span);
    bool data_zero = data_span.view != nullptr && space_.KnownZero(executor.data_span);
    data = scope.Fill(executor.data_span, 0, data_span.bytes);
    write(Section::kData, data, executor.code_bytes, data_zero);
    std::memset(data + executor.data_bytes, 0, data_span.bytes - executor.data_bytes);
    sum = Checksum(sum, data, executor.data_bytes);
    table_.SetKept(executor, kept_writer_.packed());
    Rebase(executor, nullptr, data, Placement{}, at, address_of);
  }
  executor.checksum = static_cast<uint32_t>(sum);
  kept_count_ += kept_writer_.count();

  if (executor.state_span != 0) {
    bool state_zero = space_.KnownZero(executor.state_span);
    uint8_t* state = scope.Fill(executor.state_span, 0, executor.state_bytes);
    write(Section::kState, state, 0, state_zero);
  }
}

template <class TargetDelta>
uint64_t Linker::Rebase(const Executor& executor, uint8_t* code, uint8_t* data, const Placement& from,
                        const Placement& to, TargetDelta target_delta) const {
  uint64_t fields = 0;
  auto shift = [&](uint32_t site, uint8_t field_bytes, bool relative, uint64_t target_moved) {
    bool in_code = site < executor.code_bytes;
    uint8_t* field = in_code ? code : data;
    if (field == nullptr) return;
    field += in_code ? site : site - executor.code_bytes;
    uint64_t site_moved = in_code ? to.code - from.code : to.data - from.data;
    arch::Shift(field_bytes, field, target_moved - (relative ? site_moved : 0));
    fields++;
  };
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc& kept) {
    shift(kept.site, kept.field_bytes, kept.relative,
          AddressOfAnchor(to, kept.anchor) - AddressOfAnchor(from, kept.anchor));
  });
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound) {
    const Reference& reference = references_[id];
    if (reference.field_bytes != 0)
      shift(reference.site, reference.field_bytes, reference.relative, target_delta(reference.target));
  }
  return fields;
}

Placement Linker::PlacementOf(const Executor& executor) const {
  Placement at;
  if (executor.code_span != 0) at.code = space_.AddressOf(executor.code_span);
  at.data = executor.data_span != 0 ? space_.AddressOf(executor.data_span) : at.code + executor.DataOffset();
  if (executor.state_span != 0) at.state = space_.AddressOf(executor.state_span);
  return at;
}

// ---- References

Status Linker::AddReference(const Reference& reference) {
  uint32_t id = free_reference_;
  if (id != 0)
    free_reference_ = references_[id].next_outbound;
  else if (id = references_.Add(); id == 0)
    return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Reference& added = references_[id] = reference;
  uint32_t& outbound = added.source_is_link ? links_[added.source].outbound : table_[added.source].outbound;
  uint32_t& inbound = added.target_is_link ? links_[added.target].inbound : table_[added.target].inbound;
  added.next_outbound = outbound;
  added.next_inbound = inbound;
  added.previous_inbound = 0;
  if (inbound != 0) references_[inbound].previous_inbound = id;
  outbound = inbound = id;
  return Status::Ok();
}

void Linker::RemoveInbound(uint32_t id) {
  Reference& reference = references_[id];
  uint32_t& inbound = reference.target_is_link ? links_[reference.target].inbound : table_[reference.target].inbound;
  if (reference.next_inbound != 0) references_[reference.next_inbound].previous_inbound = reference.previous_inbound;
  if (reference.previous_inbound != 0)
    references_[reference.previous_inbound].next_inbound = reference.next_inbound;
  else
    inbound = reference.next_inbound;
  reference = Reference{};
  reference.next_outbound = free_reference_;
  free_reference_ = id;
}

Result<uint32_t> Linker::AcquireLink(uint32_t user, uint32_t owner, uint64_t target) {
  uint32_t link = 0;
  auto found = link_of_.find(LinkKey{target, owner});
  if (found != link_of_.end()) {
    link = found->second;
    if (links_[link].last_user == user) return link;
  } else {
    link = free_link_;
    if (link != 0)
      free_link_ = links_[link].inbound;
    else if (link = links_.Add(); link == 0)
      return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
    links_[link] = ExternalLink{};
    auto give_up = [&](Status failed) {
      links_[link].inbound = free_link_;
      free_link_ = link;
      return failed;
    };
    Result<SpanId> span = space_.Allocate(Zone::kFixedCode, arch::kExternalLinkBytes, 16, 0, Section::kCode);
    if (!span.ok()) return give_up(std::move(span.status()));
    {
      // Nobody knows of the link yet: its bytes may be written before the freeze is certain.
      WriteScope scope(space_, "external link");
      if (Status failed = scope.Open(span.value())) {
        space_.Abandon(span.value());
        return give_up(std::move(failed));
      }
      arch::WriteExternalLink(scope.Fill(span.value(), 0, arch::kExternalLinkBytes),
                              owner != 0 ? CodeAddress(owner) + target : target);
    }
    space_.SetState(span.value(), SpanState::kInternal);
    links_[link].span = span.value();
    links_[link].target = target;
    links_[link].owner = owner;
    link_of_[LinkKey{target, owner}] = link;
    if (owner != 0) {
      Reference reference;
      reference.source = link;
      reference.source_is_link = true;
      reference.target = owner;
      reference.site = arch::kExternalLinkSlotOffset;
      reference.field_bytes = 8;
      if (Status failed = AddReference(reference)) {
        std::vector<SpanId> unused;
        ReleaseLink(link, &unused);
        space_.Abandon(span.value());
        return failed;
      }
    }
  }
  Reference use;
  use.source = user;
  use.target = link;
  use.target_is_link = true;
  if (Status failed = AddReference(use)) {
    if (links_[link].inbound == 0) {
      std::vector<SpanId> spans;
      ReleaseLink(link, &spans);
      space_.Free(spans[0]);
    }
    return failed;
  }
  links_[link].last_user = user;
  return link;
}

void Linker::ReleaseLink(uint32_t link, std::vector<SpanId>* spans) {
  ExternalLink& released = links_[link];
  if (released.outbound != 0) RemoveInbound(released.outbound);
  link_of_.erase(LinkKey{released.target, released.owner});
  spans->push_back(released.span);
  released = ExternalLink{};
  released.inbound = free_link_;
  free_link_ = link;
}

void Linker::Forget(uint32_t index, std::vector<SpanId>* links) {
  Executor& executor = table_[index];
  for (uint32_t id = executor.outbound; id != 0;) {
    Reference reference = references_[id];
    RemoveInbound(id);
    if (reference.target_is_link) {
      ExternalLink& link = links_[reference.target];
      if (link.last_user == index) link.last_user = 0;
      if (link.inbound == 0) ReleaseLink(reference.target, links);
    }
    id = reference.next_outbound;
  }
  executor.outbound = 0;
  uint32_t kept = 0;
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept++; });
  kept_count_ -= kept;
  table_.SetKept(executor, {});
  if (full_records_) records_.erase(index);
}

uint32_t Linker::FindUnmarkedSource(uint32_t index) const {
  for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
    const Reference& reference = references_[id];
    if (!reference.source_is_link) {
      if (!table_[reference.source].marked) return reference.source;
      continue;
    }
    for (uint32_t use = links_[reference.source].inbound; use != 0; use = references_[use].next_inbound)
      if (!table_[references_[use].source].marked) return references_[use].source;
  }
  return 0;
}

// ---- Moves

uint64_t Linker::MoveDelta(uint32_t index) const {
  auto found = moving_.find(index);
  if (found == moving_.end()) return 0;
  return space_.AddressOf(found->second->code_to) - space_.AddressOf(found->second->code_from);
}

Status Linker::OpenForMove(WriteScope& scope, const std::vector<Move>& batch) {
  moving_.clear();
  for (const Move& move : batch) {
    if (Status failed = scope.Open(move.code_to)) return failed;
    if (move.data_to != 0)
      if (Status failed = scope.Open(move.data_to)) return failed;
    const Executor& executor = table_[move.executor];
    if (executor.inbound != 0 || executor.outbound != 0) moving_[move.executor] = &move;
  }
  for (const auto& [index, move] : moving_) {
    for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      SpanId written = reference.source_is_link                               ? links_[reference.source].span
                       : reference.site < table_[reference.source].code_bytes ? table_[reference.source].code_span
                       : table_[reference.source].data_span != 0              ? table_[reference.source].data_span
                                                                              : table_[reference.source].code_span;
      if (reference.field_bytes == 0) continue;
      if (Status failed = scope.Open(written)) return failed;
    }
  }
  return Status::Ok();
}

uint64_t Linker::Copy(WriteScope& scope, const std::vector<Move>& batch) {
  uint64_t fields = 0;
  auto delta = [&](uint32_t other) { return moving_.empty() ? 0 : MoveDelta(other); };
  for (const Move& move : batch) {
    const Executor& executor = table_[move.executor];
    Placement from = PlacementOf(executor);
    Placement to = from;
    to.code = space_.AddressOf(move.code_to);
    to.data = move.data_to != 0 ? space_.AddressOf(move.data_to) : to.code + executor.DataOffset();
    uint32_t bytes = space_[move.code_to].granules * kGranuleBytes;
    uint8_t* code = scope.Fill(move.code_to, 0, bytes);
    std::memcpy(code, reinterpret_cast<const uint8_t*>(from.code), bytes);
    uint8_t* data = move.data_to == 0 ? code + executor.DataOffset() : nullptr;
    fields += Rebase(executor, code, data, from, to, delta);
    if (move.data_to == 0) continue;
    bytes = space_[move.data_to].granules * kGranuleBytes;
    data = scope.Fill(move.data_to, 0, bytes);
    std::memcpy(data, reinterpret_cast<const uint8_t*>(from.data), bytes);
    fields += Rebase(executor, nullptr, data, from, to, delta);
  }
  return fields;
}

uint64_t Linker::Publish(WriteScope& scope, const std::vector<Move>& batch) {
  uint64_t fields = 0;
  for (const Move& move : batch) {
    Executor& executor = table_[move.executor];
    executor.code_span = move.code_to;
    executor.data_span = move.data_to;
    // Release: a thread that loads the entry finds the bytes that Copy wrote.
    executor.entry.store(space_.AddressOf(move.code_to), std::memory_order_release);
  }
  for (const auto& [index, move] : moving_) {
    for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      // Sources in the batch were fixed up as they were copied.
      if (reference.field_bytes == 0 || (!reference.source_is_link && moving_.count(reference.source) != 0)) continue;
      SpanId span;
      uint32_t offset = reference.site;
      if (reference.source_is_link) {
        span = links_[reference.source].span;
      } else {
        const Executor& source = table_[reference.source];
        bool in_code = reference.site < source.code_bytes;
        span = in_code || source.data_span == 0 ? source.code_span : source.data_span;
        if (!in_code) offset += (source.data_span == 0 ? source.DataOffset() : 0) - source.code_bytes;
      }
      uint8_t field[8];
      std::memcpy(field, reinterpret_cast<const uint8_t*>(space_.AddressOf(span) + offset), reference.field_bytes);
      arch::Shift(reference.field_bytes, field, MoveDelta(index));
      scope.Patch(span, offset, field, reference.field_bytes);
      fields++;
    }
  }
  moving_.clear();
  return fields;
}

uint64_t Linker::CountRewrites(uint32_t index) const {
  const Executor& executor = table_[index];
  uint64_t fields = 0;
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { fields++; });
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound)
    fields += references_[id].field_bytes != 0;
  for (uint32_t id = executor.inbound; id != 0; id = references_[id].next_inbound)
    fields += references_[id].field_bytes != 0;
  return fields;
}

// ---- Verification

void Linker::Verify(uint32_t index, std::vector<Problem>* problems) const {
  const Executor& executor = table_[index];
  Placement at = PlacementOf(executor);
  if (executor.entry.load(std::memory_order_relaxed) != at.code)
    problems->push_back({table_.IdOf(index), Section::kCode, 0, at.code, executor.entry.load(std::memory_order_relaxed),
                         "the entry is not the address of the code"});
  std::vector<uint8_t> bytes(uint64_t{executor.code_bytes} + executor.data_bytes);
  uint8_t* code = bytes.data();
  uint8_t* data = code + executor.code_bytes;
  std::memcpy(code, reinterpret_cast<const uint8_t*>(at.code), executor.code_bytes);
  if (executor.data_bytes != 0) std::memcpy(data, reinterpret_cast<const uint8_t*>(at.data), executor.data_bytes);
  Rebase(executor, code, data, at, Placement{}, [&](uint32_t other) { return -CodeAddress(other); });
  uint64_t sum = Checksum(Checksum(0, code, executor.code_bytes), data, executor.data_bytes);
  if (static_cast<uint32_t>(sum) == executor.checksum) return;

  // Something differs. With full records the field can be named.
  size_t before = problems->size();
  auto records = records_.find(index);
  if (records != records_.end()) {
    for (const RelocSpec& reloc : records->second) {
      if (reloc.section == Section::kState) continue;
      const arch::KindInfo& info = *arch::FindKind(reloc.kind);
      uint64_t symbol = reloc.target;
      if (reloc.target_kind <= TargetKind::kOwnState) symbol += AddressIn(at, SectionOf(reloc.target_kind));
      if (reloc.target_kind == TargetKind::kExecutor) symbol = CodeAddress(IndexOf(reloc.target));
      if (info.shape == arch::Shape::kGot) continue;  // the slot is checked by VerifyLinks
      uint64_t site = AddressIn(at, reloc.section) + reloc.offset;
      uint64_t expected =
          symbol + static_cast<uint64_t>(reloc.addend) - (info.shape == arch::Shape::kAbsolute ? 0 : site);
      if (info.is_branch && !arch::Check(info, expected)) continue;  // through a veneer
      uint64_t found = arch::Read(info, reinterpret_cast<const uint8_t*>(site));
      if (found != expected)
        problems->push_back({table_.IdOf(index), reloc.section, reloc.offset, expected, found, info.name});
    }
  }
  if (problems->size() == before)
    problems->push_back({table_.IdOf(index), Section::kCode, -1, executor.checksum, static_cast<uint32_t>(sum),
                         "the checksum of code and data"});
}

void Linker::VerifyLinks(std::vector<Problem>* problems) const {
  for (const auto& [key, link] : link_of_) {
    uint64_t expected = key.owner != 0 ? CodeAddress(key.owner) + key.target : key.target;
    uint64_t found = LoadAs<uint64_t>(reinterpret_cast<const uint8_t*>(SlotAddress(link)));
    if (found != expected)
      problems->push_back({key.owner != 0 ? table_.IdOf(key.owner) : 0, Section::kCode, -1, expected, found,
                           "the slot of an external link"});
  }
}

std::string Linker::FindBrokenRule() const {
  std::string broken;
  uint64_t kept = 0, outbound = 0, inbound = 0;
  auto walk_inbound = [&](uint32_t first, uint32_t target, bool is_link) {
    uint32_t previous = 0;
    for (uint32_t id = first; id != 0; previous = id, id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      inbound++;
      if (reference.target != target || reference.target_is_link != is_link || reference.previous_inbound != previous)
        broken = "an inbound list is not the list of its target";
    }
  };
  auto walk_outbound = [&](uint32_t first, uint32_t source, bool is_link) {
    for (uint32_t id = first; id != 0; id = references_[id].next_outbound) {
      const Reference& reference = references_[id];
      outbound++;
      if (reference.source != source || reference.source_is_link != is_link)
        broken = "an outbound list is not the list of its source";
      if (!reference.target_is_link && table_[reference.target].State() != ExecutorState::kFrozen)
        broken = "a reference to an executor that is not frozen";
    }
  };
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.State() != ExecutorState::kFrozen) {
      if (executor.inbound != 0 || executor.outbound != 0) broken = "references of an executor that is not frozen";
      continue;
    }
    ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept++; });
    walk_outbound(executor.outbound, index, false);
    walk_inbound(executor.inbound, index, false);
  }
  for (const auto& [key, link] : link_of_) {
    walk_outbound(links_[link].outbound, link, true);
    walk_inbound(links_[link].inbound, link, true);
    if (links_[link].inbound == 0) broken = "an external link that nobody uses";
  }
  if (inbound != outbound) broken = "inbound and outbound references differ in number";
  if (kept != kept_count_) broken = "the count of kept relocs is wrong";
  return broken;
}

size_t Linker::MetadataBytes() const {
  size_t records = 0;
  for (const auto& [index, relocs] : records_) records += relocs.capacity() * sizeof(RelocSpec);
  return sizeof *this + references_.MetadataBytes() + links_.MetadataBytes() + records +
         link_of_.size() * (sizeof(LinkKey) + 3 * sizeof(void*));
}

}  // namespace jit_arena
