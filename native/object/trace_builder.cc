#include "object/trace_builder.h"

#include <algorithm>

#include "base/bits.h"
#include "object/object_file.h"

namespace jit_arena {
namespace {

// A part that a trace has once, in TraceBuilder::place_of_.
constexpr uint64_t kOnce = 0;
uint64_t OfEmit(uint32_t emit) { return uint64_t{emit} + 1; }

}  // namespace

void TraceBuilder::Emit(const StencilSet& set, uint32_t stencil) {
  const Stencil& emitted = set.stencils()[stencil];
  emits_.push_back({&set, &emitted, std::vector<HoleFilling>(emitted.holes.size())});
}

Result<BuiltTrace> TraceBuilder::Build(const HostBytes& data, const HostBytes& state) {
  trace_ = {};
  placed_.clear();
  place_of_.clear();
  std::fill(std::begin(filled_), std::end(filled_), 0);
  trace_.sizes[1] = data.size;
  trace_.sizes[2] = state.size;
  if (data.bytes != nullptr) filled_[1] = data.size;
  if (state.bytes != nullptr) filled_[2] = state.size;
  if (Status failed = Place()) return failed;
  Copy(data, state);
  for (const PlacedPart& placed : placed_)
    if (Status failed = FillPart(placed)) return failed;
  return std::move(trace_);
}

const HoleFilling& TraceBuilder::FillingOf(const Emitted& emitted, uint32_t hole) const {
  const std::vector<uint32_t>& holes = emitted.stencil->holes;
  return emitted.fillings[static_cast<size_t>(std::find(holes.begin(), holes.end(), hole) - holes.begin())];
}

// Whether the jump that ends the body would go to the byte behind it.
bool TraceBuilder::ContinuesAtOnce(uint32_t emit) const {
  const Emitted& emitted = emits_[emit];
  if (emit + 1 == emits_.size() || emitted.stencil->jump_bytes == 0) return false;
  uint32_t hole = emitted.set->parts()[emitted.stencil->body].relocs.back().hole;
  return FillingOf(emitted, hole).kind == HoleFilling::Kind::kNext;
}

Status TraceBuilder::PlacePart(const StencilPart& part, uint32_t emit, uint32_t size, bool aligned) {
  int in = static_cast<int>(part.section);
  uint64_t offset = aligned ? AlignUp(trace_.sizes[in], part.align) : trace_.sizes[in];
  if (offset + size > kMaxObjectBytes) return Error{ErrorCode::kSize, "the trace is larger than any arena"};
  placed_.push_back({&part, emit, static_cast<uint32_t>(offset), size});
  trace_.sizes[in] = static_cast<uint32_t>(offset + size);
  if (!aligned) return Status::Ok();
  trace_.aligns[in] = std::max(trace_.aligns[in], part.align);
  if (part.section != Section::kCode) trace_.zero_bytes += part.size - part.bytes.size();
  uint64_t end = part.bytes.size();
  // A hole may be filled with a number, which then is a byte of the part and no reloc.
  for (const StencilReloc& reloc : part.relocs)
    if (reloc.part == kNone) end = std::max<uint64_t>(end, uint64_t{reloc.offset} + 8);
  if (end != 0) filled_[in] = offset + end;
  return Status::Ok();
}

Status TraceBuilder::Place() {
  struct Waiting {
    const StencilPart* part;
    uint32_t emit;
    uint32_t* place;
  };
  std::vector<Waiting> waiting;
  for (uint32_t i = 0; i < emits_.size(); i++) {
    const Emitted& emitted = emits_[i];
    const std::vector<StencilPart>& parts = emitted.set->parts();
    const StencilPart& body = parts[emitted.stencil->body];
    uint32_t elided = ContinuesAtOnce(i) ? emitted.stencil->jump_bytes : 0;
    if (Status failed = PlacePart(body, i, body.size - elided, false)) return failed;
    trace_.elided_bytes += elided;
    trace_.bodies.push_back(placed_.back().offset);
    place_of_[{OfEmit(i), &body}] = placed_.back().offset;
    for (uint32_t own : emitted.stencil->own) waiting.push_back({&parts[own], i, &place_of_[{OfEmit(i), &parts[own]}]});
    for (uint32_t shared : emitted.stencil->shared) {
      auto [found, is_new] = place_of_.try_emplace({kOnce, &parts[shared]}, 0);
      if (is_new) waiting.push_back({&parts[shared], i, &found->second});
    }
  }
  for (bool zero : {false, true}) {
    for (const Waiting& next : waiting) {
      if (next.part->bytes.empty() != zero) continue;
      if (Status failed = PlacePart(*next.part, next.emit, next.part->size, true)) return failed;
      *next.place = placed_.back().offset;
    }
  }
  return Status::Ok();
}

void TraceBuilder::Copy(const HostBytes& data, const HostBytes& state) {
  filled_[0] = trace_.sizes[0];
  for (int in = 0; in < kSections; in++)
    if (filled_[in] != 0) trace_.bytes[in].resize(trace_.sizes[in], in == 0 ? arch::kPoisonByte : 0);
  if (data.bytes != nullptr) std::copy(data.bytes, data.bytes + data.size, trace_.bytes[1].begin());
  if (state.bytes != nullptr) std::copy(state.bytes, state.bytes + state.size, trace_.bytes[2].begin());
  for (const PlacedPart& placed : placed_) {
    const StencilPart& part = *placed.part;
    std::vector<uint8_t>& to = trace_.bytes[static_cast<int>(part.section)];
    if (to.empty()) continue;
    auto from = to.begin() + placed.offset;
    auto end = std::copy_n(part.bytes.begin(), std::min<size_t>(placed.size, part.bytes.size()), from);
    std::fill(end, from + placed.size, uint8_t{0});
  }
}

Status TraceBuilder::FillPart(const PlacedPart& placed) {
  for (const StencilReloc& reloc : placed.part->relocs) {
    if (reloc.offset >= placed.size) continue;
    RelocSpec spec{placed.part->section,         reloc.kind, TargetKind::kAddress,
                   placed.offset + reloc.offset, 0,          reloc.addend};
    if (reloc.part == kNone) {
      Status failed = reloc.hole == kNone ? PutNumber(0, "a constant", spec) : FillHole(placed, reloc, spec);
      if (!failed.ok()) return failed;
      continue;
    }
    const StencilPart& target = emits_[placed.emit].set->parts()[reloc.part];
    auto found = place_of_.find({kOnce, &target});
    if (found == place_of_.end()) found = place_of_.find({OfEmit(placed.emit), &target});
    // Another stencil's jump table, in constants that the two share, stays as it is.
    if (found == place_of_.end()) continue;
    spec.target_kind = static_cast<TargetKind>(target.section);
    spec.target = uint64_t{found->second} + reloc.part_offset;
    trace_.relocs.push_back({spec});
  }
  return Status::Ok();
}
static_assert(static_cast<int>(TargetKind::kOwnCode) == static_cast<int>(Section::kCode) &&
              static_cast<int>(TargetKind::kOwnState) == static_cast<int>(Section::kState));

Status TraceBuilder::FillHole(const PlacedPart& placed, const StencilReloc& reloc, RelocSpec spec) {
  const Emitted& emitted = emits_[placed.emit];
  const HoleFilling& filling = FillingOf(emitted, reloc.hole);
  std::string what =
      "the hole '" + emitted.set->holes()[reloc.hole] + "' of the stencil '" + emitted.stencil->name + "'";
  if (filling.kind == HoleFilling::Kind::kNumber) return PutNumber(filling.value, what, spec);
  if (filling.kind == HoleFilling::Kind::kTarget) {
    trace_.relocs.push_back({spec, filling.value});
    return Status::Ok();
  }
  uint64_t emit = filling.kind == HoleFilling::Kind::kNext ? uint64_t{placed.emit} + 1 : filling.value;
  if (emit >= trace_.bodies.size())
    return Error{ErrorCode::kStencil, what + " has nothing to continue with: it is the last"};
  spec.target_kind = TargetKind::kOwnCode;
  spec.target = trace_.bodies[emit];
  trace_.relocs.push_back({spec});
  return Status::Ok();
}

// Stores a number into an absolute field; a relative one counts to it as to an address.
Status TraceBuilder::PutNumber(uint64_t number, const std::string& what, const RelocSpec& spec) {
  const arch::KindInfo& info = *arch::FindKind(spec.kind);
  if (info.through_slot)
    return Error{ErrorCode::kStencil,
                 what + " is loaded from a slot (" + info.name + ") and cannot be a number: compile with -fno-pic"};
  if (arch::FieldOf(info.field).relative) {
    trace_.relocs.push_back({spec});
    trace_.relocs.back().spec.target = number;
    return Status::Ok();
  }
  uint64_t value = number + static_cast<uint64_t>(spec.addend);
  if (!arch::Check(info, value)) {
    Error error{ErrorCode::kRelocRange,
                what + ": " + std::to_string(static_cast<int64_t>(number)) + " does not fit " + info.name};
    error.kind = info.name;
    return error;
  }
  arch::Apply(info, trace_.bytes[static_cast<int>(spec.section)].data() + spec.offset, value);
  return Status::Ok();
}

}  // namespace jit_arena
