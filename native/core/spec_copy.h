// A copy of a spec and of all that it points to. Arenas keep one of each writable executor, and hosts put lists
// together of them, while the memory that a spec points to is its host's, who may change it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/spec.h"

namespace jit_arena {

class SpecCopy {
 public:
  explicit SpecCopy(const ExecutorSpec& given);

  // Points into this copy: good until the copy moves, changes or ends.
  ExecutorSpec Spec() const;

  // Bytes that lie within the section.
  void Read(Section section, uint32_t offset, uint8_t* bytes, uint32_t count) const;
  void Write(Section section, uint32_t offset, const uint8_t* bytes, uint32_t count);

  size_t reloc_count() const { return relocs_.size(); }
  void AddRelocs(const RelocSpec* relocs, uint32_t count) { relocs_.insert(relocs_.end(), relocs, relocs + count); }
  void KeepRelocs(size_t count) { relocs_.resize(count); }  // the first ones

  size_t MemoryBytes() const;

 private:
  ExecutorSpec spec_;  // what points to the host's memory points nowhere
  std::string name_;
  std::vector<uint8_t> bytes_[kSections];  // of the whole section; empty: the section is zero
  std::vector<RelocSpec> relocs_;
  std::vector<uint32_t> entries_;
  std::vector<uint32_t> exit_tags_;
};

}  // namespace jit_arena
