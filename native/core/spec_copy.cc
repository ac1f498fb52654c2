#include "core/spec_copy.h"

#include <algorithm>
#include <cstring>

namespace jit_arena {

SpecCopy::SpecCopy(const ExecutorSpec& given)
    : spec_(given),
      name_(given.name),
      relocs_(given.relocs, given.relocs + given.reloc_count),
      entries_(given.entries, given.entries + given.entry_count) {
  if (given.exit_tags != nullptr) exit_tags_.assign(given.exit_tags, given.exit_tags + given.exit_count);
  for (int section = 0; section < kSections; section++) {
    spec_.bytes[section] = nullptr;
    spec_.zero_tails[section] = 0;
    if (given.bytes[section] == nullptr) continue;
    const uint32_t given_bytes = given.sizes[section] - given.zero_tails[section];
    bytes_[section].assign(given.bytes[section], given.bytes[section] + given_bytes);
    bytes_[section].resize(given.sizes[section]);
  }
  spec_.name = {};
  spec_.relocs = nullptr;
  spec_.entries = nullptr;
  spec_.exit_tags = nullptr;
}

ExecutorSpec SpecCopy::Spec() const {
  ExecutorSpec spec = spec_;
  for (int section = 0; section < kSections; section++)
    if (!bytes_[section].empty()) spec.bytes[section] = bytes_[section].data();
  spec.name = name_;
  spec.relocs = relocs_.data();
  spec.reloc_count = static_cast<uint32_t>(relocs_.size());
  spec.entries = entries_.data();
  if (!exit_tags_.empty()) spec.exit_tags = exit_tags_.data();
  return spec;
}

void SpecCopy::Read(Section section, uint32_t offset, uint8_t* bytes, uint32_t count) const {
  const std::vector<uint8_t>& from = bytes_[static_cast<int>(section)];
  if (from.empty())
    std::fill_n(bytes, count, uint8_t{0});
  else
    std::copy_n(from.data() + offset, count, bytes);
}

void SpecCopy::Write(Section section, uint32_t offset, const uint8_t* bytes, uint32_t count) {
  std::vector<uint8_t>& to = bytes_[static_cast<int>(section)];
  if (to.empty()) to.resize(spec_.sizes[static_cast<int>(section)]);
  std::memcpy(to.data() + offset, bytes, count);
}

size_t SpecCopy::MemoryBytes() const {
  size_t bytes = sizeof *this + relocs_.capacity() * sizeof(RelocSpec) +
                 (entries_.capacity() + exit_tags_.capacity()) * sizeof(uint32_t) + name_.capacity();
  for (const std::vector<uint8_t>& section : bytes_) bytes += section.capacity();
  return bytes;
}

}  // namespace jit_arena
