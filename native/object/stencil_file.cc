// A stencil set as a file: "JAST", a version, numbers as LEB128 and signed ones zigzag, and a checksum of all that in
// the last four bytes.
//
//   holes:    count, then names
//   parts:    count, then of each section, log2 of the alignment, size, bytes without the zero tail, count of relocs,
//   and
//             of each distance from the one before, kind, target (0: a value; odd: a hole; even: a part, and then a
//             place in it), addend
//   stencils: count, then of each name and body
//
// A name or a run of bytes is its length, and then what it is.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bits.h"
#include "object/object_file.h"
#include "object/stencils.h"

namespace jit_arena {
namespace {

constexpr uint8_t kMagic[] = {'J', 'A', 'S', 'T'};
constexpr uint8_t kVersion = 1;
constexpr size_t kHeaderBytes = sizeof kMagic + 1;
constexpr size_t kSumBytes = 4;

// FNV-1a.
uint32_t SumOf(const uint8_t* bytes, size_t count) {
  uint32_t sum = 0x811C9DC5;
  for (size_t i = 0; i < count; i++) sum = (sum ^ bytes[i]) * 0x01000193;
  return sum;
}

class FileWriter {
 public:
  FileWriter() : out_(kMagic, kMagic + sizeof kMagic) { out_.push_back(kVersion); }

  void Number(uint64_t value) {
    for (; value > 0x7F; value >>= 7) out_.push_back(static_cast<uint8_t>(value | 0x80));
    out_.push_back(static_cast<uint8_t>(value));
  }
  void Signed(int64_t value) { Number((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63)); }
  template <class Bytes>
  void Run(const Bytes& bytes) {
    Number(bytes.size());
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  std::vector<uint8_t> Finish() {
    uint32_t sum = SumOf(out_.data(), out_.size());
    for (int shift = 0; shift < 32; shift += 8) out_.push_back(static_cast<uint8_t>(sum >> shift));
    return std::move(out_);
  }

 private:
  std::vector<uint8_t> out_;
};

// Reads what may be anything. After the first thing that is wrong everything reads as 0, so that every loop ends.
class FileReader {
 public:
  FileReader(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size), end_(size) {}

  Status Begin() {
    if (size_ < kHeaderBytes + kSumBytes || std::memcmp(bytes_, kMagic, sizeof kMagic) != 0)
      return Error{ErrorCode::kStencil, "the bytes are no stencil file"};
    if (bytes_[sizeof kMagic] != kVersion)
      return Error{ErrorCode::kStencil,
                   Format("the stencil file has version %u, and not %u", bytes_[sizeof kMagic], kVersion)};
    end_ = size_ - kSumBytes;
    if (LoadAs<uint32_t>(bytes_ + end_) != SumOf(bytes_, end_))
      return Error{ErrorCode::kStencil, "the stencil file is damaged: its checksum is wrong"};
    at_ = kHeaderBytes;
    return Status::Ok();
  }
  Status Finish() {
    if (failed_.ok() && at_ != end_) Damaged(Format("%zu bytes are left over", end_ - at_));
    return std::move(failed_);
  }
  bool ok() const { return failed_.ok(); }

  uint64_t Damaged(const std::string& what) {
    if (failed_.ok())
      failed_ = Error{ErrorCode::kStencil, Format("the stencil file is damaged at byte %zu: %s", at_, what.c_str())};
    return 0;
  }
  uint64_t Number() {
    if (!ok()) return 0;
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      if (at_ >= end_ || shift > 63) return Damaged("a number does not end");
      uint8_t byte = bytes_[at_++];
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  int64_t Signed() {
    uint64_t zigzag = Number();
    return static_cast<int64_t>((zigzag >> 1) ^ (0 - (zigzag & 1)));
  }
  uint32_t Below(uint64_t below, const char* what) {
    uint64_t value = Number();
    if (value >= below) value = Damaged(Format("%s is %llu, and not below %llu", what, Wide(value), Wide(below)));
    return static_cast<uint32_t>(value);
  }
  // Every item takes a byte at least, so a lying count is found before memory is taken for it.
  uint32_t Count(const char* what = "a count") { return Below(end_ - at_ + 1, what); }
  template <class Bytes>
  Bytes Run() {
    uint32_t count = Count("a length");
    const uint8_t* from = bytes_ + at_;
    at_ += count;
    return Bytes(from, from + count);
  }

 private:
  const uint8_t* bytes_;
  size_t size_;
  size_t end_;
  size_t at_ = 0;
  Status failed_;
};

void WritePart(FileWriter& file, const StencilPart& part, const std::vector<uint32_t>& part_numbers,
               const std::vector<uint32_t>& hole_numbers) {
  file.Number(static_cast<uint64_t>(part.section));
  file.Number(static_cast<uint64_t>(std::countr_zero(part.align)));
  file.Number(part.size);
  file.Run(part.bytes);
  file.Number(part.relocs.size());
  uint32_t before = 0;
  for (const StencilReloc& reloc : part.relocs) {
    file.Number(reloc.offset - before);
    before = reloc.offset;
    file.Number(reloc.kind);
    file.Number(reloc.hole != kNone   ? 2 * uint64_t{hole_numbers[reloc.hole]} + 1
                : reloc.part != kNone ? 2 * uint64_t{part_numbers[reloc.part]} + 2
                                      : 0);
    if (reloc.part != kNone) file.Number(reloc.part_offset);
    file.Signed(reloc.addend);
  }
}

void ReadReloc(FileReader& file, uint32_t part_size, size_t holes, uint32_t parts, StencilReloc* reloc) {
  uint64_t offset = uint64_t{reloc->offset} + file.Below(kMaxObjectBytes, "a distance");
  const arch::KindInfo* info = arch::FindKind(static_cast<arch::RelocKind>(file.Below(UINT16_MAX + 1, "a kind")));
  if (info == nullptr) {
    file.Damaged("a reloc kind that does not exist");
    return;
  }
  if (offset + arch::FieldOf(info->field).bytes > part_size)
    file.Damaged(Format("a reloc at %llu of a section of %u bytes", Wide(offset), part_size));
  *reloc = {static_cast<uint32_t>(offset), info->kind};
  uint32_t target = file.Below(2 * std::max<uint64_t>(holes, parts) + 2, "a target");
  if (target % 2 == 1) {
    reloc->hole = target / 2;
    if (reloc->hole >= holes) file.Damaged("a hole that does not exist");
  } else if (target != 0) {
    reloc->part = target / 2 - 1;
    if (reloc->part >= parts) file.Damaged("a part that does not exist");
    reloc->part_offset = file.Below(kMaxObjectBytes, "a place");
  }
  reloc->addend = file.Signed();
}

StencilPart ReadPart(FileReader& file, size_t holes, uint32_t parts) {
  StencilPart part;
  part.section = static_cast<Section>(file.Below(kSections, "a section"));
  part.align = uint32_t{1} << file.Below(25, "an alignment");
  part.size = file.Below(kMaxObjectBytes, "a size");
  part.bytes = file.Run<std::vector<uint8_t>>();
  if (part.bytes.size() > part.size)
    file.Damaged(Format("%zu bytes for a section of %u", part.bytes.size(), part.size));
  StencilReloc reloc{0, 0};
  for (uint32_t left = file.Count(); left > 0 && file.ok(); left--) {
    ReadReloc(file, part.size, holes, parts, &reloc);
    part.relocs.push_back(reloc);
  }
  return part;
}

}  // namespace

std::vector<uint8_t> StencilSet::Save() const {
  // Only what a stencil uses.
  std::vector<bool> used(parts_.size());
  for (const Stencil& stencil : stencils_) {
    used[stencil.body] = true;
    for (uint32_t part : stencil.shared) used[part] = true;
    for (uint32_t part : stencil.own) used[part] = true;
  }
  std::vector<uint32_t> kept, part_numbers(parts_.size(), kNone), kept_holes, hole_numbers(holes_.size(), kNone);
  for (uint32_t i = 0; i < parts_.size(); i++) {
    if (!used[i]) continue;
    part_numbers[i] = static_cast<uint32_t>(kept.size());
    kept.push_back(i);
    for (const StencilReloc& reloc : parts_[i].relocs) {
      if (reloc.hole == kNone || hole_numbers[reloc.hole] != kNone) continue;
      hole_numbers[reloc.hole] = static_cast<uint32_t>(kept_holes.size());
      kept_holes.push_back(reloc.hole);
    }
  }
  FileWriter file;
  file.Number(kept_holes.size());
  for (uint32_t hole : kept_holes) file.Run(holes_[hole]);
  file.Number(kept.size());
  for (uint32_t part : kept) WritePart(file, parts_[part], part_numbers, hole_numbers);
  file.Number(stencils_.size());
  for (const Stencil& stencil : stencils_) {
    file.Run(stencil.name);
    file.Number(part_numbers[stencil.body]);
  }
  return file.Finish();
}

Result<StencilSet> StencilSet::Load(const uint8_t* bytes, size_t size) {
  FileReader file(bytes, size);
  if (Status failed = file.Begin()) return failed;
  StencilSet set;
  for (uint32_t left = file.Count(); left > 0 && file.ok(); left--) set.holes_.push_back(file.Run<std::string>());
  uint32_t part_count = file.Count();
  uint64_t total = 0;
  for (uint32_t i = 0; i < part_count && file.ok(); i++) {
    set.parts_.push_back(ReadPart(file, set.holes_.size(), part_count));
    total += set.parts_.back().size;
    if (total > kMaxObjectBytes) file.Damaged("the sections are larger than any arena");
  }
  for (const StencilPart& part : set.parts_)
    for (const StencilReloc& reloc : part.relocs)
      if (file.ok() && reloc.part != kNone && reloc.part_offset > set.parts_[reloc.part].size)
        file.Damaged(Format("place %u of a section of %u bytes", reloc.part_offset, set.parts_[reloc.part].size));
  for (uint32_t left = file.Count(); left > 0 && file.ok(); left--) {
    Stencil& stencil = set.stencils_.emplace_back();
    stencil.name = file.Run<std::string>();
    stencil.body = file.Below(set.parts_.size(), "a body");
    if (file.ok() && set.parts_[stencil.body].section != Section::kCode)
      file.Damaged("the body of '" + stencil.name.substr(0, 80) + "' is no code");
  }
  if (Status failed = file.Finish()) return failed;
  if (Status failed = set.Complete()) return failed;
  return set;
}

}  // namespace jit_arena
