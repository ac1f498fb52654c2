#include "object/stencils.h"

#include <algorithm>
#include <map>

#include "object/object_file.h"
#include "object/object_limits.h"

namespace jit_arena {
namespace {

// What a set may come to, which goes with its stencils times what they share. A compiler's has some thousands.
constexpr size_t kMaxUses = size_t{1} << 22;

StencilPart PartOf(const ObjectSection& section) {
  StencilPart part;
  part.section = SectionOfRole(section.role);
  part.align = section.align;
  part.size = section.size;
  size_t count = section.bytes != nullptr ? section.size : 0;
  while (count != 0 && section.bytes[count - 1] == 0) count--;
  part.bytes.assign(section.bytes, section.bytes + count);
  return part;
}

}  // namespace

Result<StencilSet> StencilSet::FromObject(const uint8_t* bytes, size_t size) {
  // A stencil is put together from parts, and which of them the base of a GOT would lie in, nobody says.
  Result<ObjectFile> read = ReadObject(bytes, size, ReadFor::kStencils);
  if (!read.ok()) return std::move(read.status());
  const ObjectFile& file = read.value();
  if (Status failed = CheckNeeds(file, 0)) return failed;

  StencilSet set;
  std::vector<uint32_t> part_of(file.sections.size(), kNone);
  for (uint32_t i = 0; i < file.sections.size(); i++) {
    if (file.sections[i].role == ObjectRole::kIgnored) continue;
    part_of[i] = static_cast<uint32_t>(set.parts_.size());
    set.parts_.push_back(PartOf(file.sections[i]));
  }
  std::map<std::string_view, uint32_t> hole_of_name, stencil_of_name;
  std::vector<uint32_t> hole_of(file.symbols.size(), kNone);
  for (uint32_t i = 1; i < file.symbols.size(); i++) {
    const ObjectSymbol& symbol = file.symbols[i];
    if (symbol.place == ObjectSymbol::Place::kUndefined) {
      auto [found, is_new] = hole_of_name.emplace(symbol.name, static_cast<uint32_t>(set.holes_.size()));
      if (is_new) set.holes_.emplace_back(symbol.name);
      hole_of[i] = found->second;
    }
    if (symbol.place != ObjectSymbol::Place::kSection || !symbol.global) continue;
    uint32_t body = part_of[symbol.section];
    if (body == kNone || set.parts_[body].section != Section::kCode) continue;
    if (symbol.value != 0)
      return Error{ErrorCode::kStencil, "the function '" + std::string(symbol.name) +
                                            "' does not begin its section: compile stencils with -ffunction-sections"};
    auto [found, is_new] = stencil_of_name.emplace(symbol.name, static_cast<uint32_t>(set.stencils_.size()));
    if (is_new) set.stencils_.emplace_back().name = symbol.name;
    set.stencils_[found->second].body = body;
  }
  for (uint32_t i = 0; i < file.sections.size(); i++) {
    if (part_of[i] == kNone) continue;
    const ObjectSection& section = file.sections[i];
    std::vector<StencilReloc>& relocs = set.parts_[part_of[i]].relocs;
    relocs.reserve(section.reloc_count);
    for (uint32_t n = section.first_reloc; n < section.first_reloc + section.reloc_count; n++) {
      const ObjectReloc& reloc = file.relocs[n];
      const ObjectSymbol& symbol = file.symbols[reloc.symbol];
      StencilReloc made{reloc.offset, reloc.kind, hole_of[reloc.symbol], kNone, 0, reloc.addend};
      if (symbol.place == ObjectSymbol::Place::kSection) {
        made.part = part_of[symbol.section];
        made.part_offset = static_cast<uint32_t>(symbol.value);
      } else if (made.hole == kNone) {
        made.addend = static_cast<int64_t>(symbol.value + static_cast<uint64_t>(reloc.addend));
      }
      relocs.push_back(made);
    }
  }
  if (Status failed = set.Complete()) return failed;
  return set;
}

// What each part refers to itself, and each of it once: many stencils may share a part with many relocs.
class StencilSet::Uses {
 public:
  struct OfPart {
    std::vector<uint32_t> parts, holes;
  };

  explicit Uses(const StencilSet& set) : of_(set.parts_.size()) {
    std::vector<bool> is_body(set.parts_.size());
    for (const Stencil& stencil : set.stencils_) is_body[stencil.body] = true;
    for (size_t i = 0; i < of_.size(); i++) {
      const StencilPart& part = set.parts_[i];
      for (const StencilReloc& reloc : part.relocs) {
        // Constants that refer to another stencil are its jump table, in a section that stencils share.
        bool is_foreign = part.section != Section::kCode && reloc.part != kNone && is_body[reloc.part];
        if (reloc.part != kNone && !is_foreign) of_[i].parts.push_back(reloc.part);
        if (reloc.hole != kNone) of_[i].holes.push_back(reloc.hole);
      }
      for (std::vector<uint32_t>* list : {&of_[i].parts, &of_[i].holes}) KeepFirsts(*list);
    }
  }

  // Null when the set comes to too much.
  const OfPart* Of(uint32_t part) {
    told_ += of_[part].parts.size() + of_[part].holes.size();
    return told_ <= kMaxUses ? &of_[part] : nullptr;
  }

 private:
  // Each once, in the order in which they first came.
  void KeepFirsts(std::vector<uint32_t>& list) {
    if (list.size() < 2) return;
    uint32_t most = *std::max_element(list.begin(), list.end());
    if (seen_.size() <= most) seen_.resize(size_t{most} + 1);
    auto end = std::remove_if(list.begin(), list.end(), [&](uint32_t i) {
      bool again = seen_[i];
      seen_[i] = true;
      return again;
    });
    list.erase(end, list.end());
    for (uint32_t i : list) seen_[i] = false;
    list.shrink_to_fit();
  }

  std::vector<OfPart> of_;
  std::vector<bool> seen_;
  size_t told_ = 0;
};

Status StencilSet::Complete() {
  std::vector<bool> is_private = FindPrivateParts();
  Uses uses(*this);
  std::vector<bool> part_seen(parts_.size()), hole_seen(holes_.size());
  for (Stencil& stencil : stencils_) {
    std::vector<uint32_t> used = {stencil.body};
    part_seen[stencil.body] = true;
    // A list that grows while it is walked.
    for (size_t i = 0; i < used.size(); i++) {
      const Uses::OfPart* of_part = uses.Of(used[i]);
      if (of_part == nullptr)
        return Error{ErrorCode::kStencil,
                     Format("the stencils have more than %zu holes and parts, what they share counted for each: split "
                            "the set",
                            kMaxUses)};
      for (uint32_t part : of_part->parts)
        if (!part_seen[part]) {
          part_seen[part] = true;
          used.push_back(part);
        }
      for (uint32_t hole : of_part->holes)
        if (!hole_seen[hole]) {
          hole_seen[hole] = true;
          stencil.holes.push_back(hole);
        }
    }
    for (uint32_t part : used) {
      part_seen[part] = false;
      if (part != stencil.body) (is_private[part] ? stencil.own : stencil.shared).push_back(part);
    }
    for (uint32_t hole : stencil.holes) hole_seen[hole] = false;
    std::sort(stencil.holes.begin(), stencil.holes.end(),
              [&](uint32_t a, uint32_t b) { return holes_[a] < holes_[b]; });
  }
  FindEndingJumps();
  return Status::Ok();
}

// Parts that differ from one emit to the next: bodies, what has a hole, and what refers to such a part.
std::vector<bool> StencilSet::FindPrivateParts() const {
  std::vector<std::vector<uint32_t>> users(parts_.size());
  std::vector<bool> found(parts_.size());
  std::vector<uint32_t> waiting;
  auto find = [&](uint32_t part) {
    if (!found[part]) waiting.push_back(part);
    found[part] = true;
  };
  for (const Stencil& stencil : stencils_) find(stencil.body);
  for (uint32_t i = 0; i < parts_.size(); i++) {
    for (const StencilReloc& reloc : parts_[i].relocs) {
      if (reloc.hole != kNone) find(i);
      if (reloc.part == kNone) continue;
      std::vector<uint32_t>& list = users[reloc.part];
      if (list.empty() || list.back() != i) list.push_back(i);
    }
  }
  while (!waiting.empty()) {
    uint32_t part = waiting.back();
    waiting.pop_back();
    for (uint32_t user : users[part]) find(user);
  }
  return found;
}

uint32_t StencilSet::HoleNamed(std::string_view name) const {
  auto found = std::find(holes_.begin(), holes_.end(), name);
  return found != holes_.end() ? static_cast<uint32_t>(found - holes_.begin()) : kNone;
}

// The jump to CONTINUE that a body ends with: without it the body runs into what follows. None where anything might
// jump between its two instructions.
void StencilSet::FindEndingJumps() {
  uint32_t next = HoleNamed(kContinueHole);
  if (next == kNone) return;
  std::vector<EndingJump> jumps(parts_.size());
  for (const Stencil& stencil : stencils_) {
    const StencilPart& body = parts_[stencil.body];
    // The field may be the end of a zero tail, the instruction before it may not.
    if (body.relocs.empty() || body.relocs.back().hole != next || body.size - body.bytes.size() > 4) continue;
    std::vector<uint8_t> code = body.bytes;
    code.resize(body.size);
    const StencilReloc& last = body.relocs.back();
    EndingJump jump = FindEndingJump(code.data(), code.size(), last.kind, last.offset, last.addend);
    if (jump.second != 0 && MayBranchTo(code.data(), code.size(), jump.second)) jump = {};
    jumps[stencil.body] = jump;
  }
  for (const StencilPart& part : parts_) {
    for (const StencilReloc& reloc : part.relocs) {
      if (reloc.part == kNone || jumps[reloc.part].second == 0) continue;
      // A distance in data counts from a place that the reloc does not tell; one in code from the end of its field.
      bool is_told = part.section == Section::kCode || !arch::FieldOf(arch::FindKind(reloc.kind)->field).relative;
      int64_t place = static_cast<int64_t>(uint64_t{reloc.part_offset} + static_cast<uint64_t>(reloc.addend));
      int64_t second = static_cast<int64_t>(jumps[reloc.part].second);
      if (!is_told || place == second || place == second - 4) jumps[reloc.part] = {};
    }
  }
  for (Stencil& stencil : stencils_) stencil.jump_bytes = static_cast<uint32_t>(jumps[stencil.body].bytes);
}

}  // namespace jit_arena
