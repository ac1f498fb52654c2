// Where executors are: the addresses of their sections and entries, from the books of spans and executors. An executor
// that has these addresses has its spans: it is frozen, or about to be.
#pragma once

#include <cstdint>

#include "arch/kept_relocs.h"
#include "core/code_space.h"
#include "core/executor_table.h"

namespace jit_arena {

// Addresses of an executor's sections.
struct Placement {
  uint64_t code = 0;
  uint64_t data = 0;
  uint64_t state = 0;
};

inline uint64_t AddressIn(const Placement& at, Section section) {
  return section == Section::kCode ? at.code : section == Section::kData ? at.data : at.state;
}

inline uint64_t AddressOfAnchor(const Placement& at, Anchor anchor) {
  return anchor == Anchor::kFixed ? 0 : AddressIn(at, static_cast<Section>(anchor));
}

// An address of a section that the executor does not have means nothing.
inline Placement PlacementOf(const CodeSpace& space, const Executor& executor) {
  Placement at;
  if (executor.code_span != 0) at.code = space.AddressOf(executor.code_span);
  at.data = executor.data_span != 0 ? space.AddressOf(executor.data_span) : at.code + executor.DataOffset();
  if (executor.state_span != 0) at.state = space.AddressOf(executor.state_span);
  return at;
}

inline uint64_t CodeAddress(const CodeSpace& space, const Executor& executor) {
  return space.AddressOf(executor.code_span);
}

inline uint64_t SectionAddress(const CodeSpace& space, const Executor& executor, Section section) {
  return section == Section::kCode ? CodeAddress(space, executor) : AddressIn(PlacementOf(space, executor), section);
}

// The executor has an entry of this number.
inline uint64_t EntryAddress(const CodeSpace& space, const ExecutorTable& table, uint32_t index, uint32_t entry) {
  return CodeAddress(space, table[index]) + *table.EntryOffset(index, entry);
}

}  // namespace jit_arena
