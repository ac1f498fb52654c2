#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/spec.h"

namespace jit_arena::node {

// A copy of a spec: what it points to is the caller's, who may change it before the list is complete.
struct KeptSpec {
  explicit KeptSpec(const ExecutorSpec& given)
      : spec(given),
        name(given.name),
        relocs(given.relocs, given.relocs + given.reloc_count),
        entries(given.entries, given.entries + given.entry_count) {
    for (int section = 0; section < kSections; section++)
      if (given.bytes[section] != nullptr)
        bytes[section].assign(given.bytes[section], given.bytes[section] + given.sizes[section]);
    if (given.exit_tags != nullptr) exit_tags.assign(given.exit_tags, given.exit_tags + given.exit_count);
  }
  // It points into this, which may have moved since.
  ExecutorSpec Spec() const {
    ExecutorSpec pointing = spec;
    for (int section = 0; section < kSections; section++)
      pointing.bytes[section] = spec.bytes[section] != nullptr ? bytes[section].data() : nullptr;
    pointing.name = name;
    pointing.relocs = relocs.data();
    pointing.entries = entries.data();
    pointing.exit_tags = spec.exit_tags != nullptr ? exit_tags.data() : nullptr;
    return pointing;
  }

  ExecutorSpec spec;
  std::string name;
  std::vector<uint8_t> bytes[kSections];
  std::vector<RelocSpec> relocs;
  std::vector<uint32_t> entries;
  std::vector<uint32_t> exit_tags;
};

}  // namespace jit_arena::node
