// Which sections of an object go together in a unit; object_units.h has the rules.
#pragma once

#include <cstdint>
#include <vector>

#include "object/object_file.h"

namespace jit_arena {

struct SectionGroups {
  std::vector<uint32_t> unit_of;  // by section; kNoIndex for what is not loaded
  uint32_t units = 0;
};

SectionGroups GroupSections(const ObjectFile& file);

// Empty sections, such as .text where every function has its own, make no unit.
inline bool IsCodeOfUnit(const ObjectSection& section) {
  return section.role == ObjectRole::kCode && section.size != 0;
}

// From the field to the symbol itself.
bool IsDistance(const ObjectReloc& reloc);

}  // namespace jit_arena
