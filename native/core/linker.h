// The parts that decide what bytes an executor has, and the little that takes several of them.
//
// The linker hands nothing on: a caller who wants something of a part asks the part, whose header is its manual. Each
// part may know those that stand before it here:
//
//   far_slots     a veneer and a GOT slot for each address that is out of reach
//   references    who refers to whom, both ways
//   exits         where the exits of executors go
//   reloc_check   whether relocs can be what they say, now and after every move
//   relocator     writes, copies, publishes and verifies
#pragma once

#include <cstdint>
#include <string>

#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/exits.h"
#include "core/far_slots.h"
#include "core/references.h"
#include "core/reloc_check.h"
#include "core/relocator.h"

namespace jit_arena {

// Under the arena's lock.
class Linker {
 public:
  // `max_references`: between executors, and from executors to far slots.
  Linker(CodeSpace& space, ExecutorTable& table, uint32_t max_references, bool full_records);

  FarSlots far_slots;
  References references;
  Exits exits;
  RelocCheck reloc_check;
  Relocator relocator;

  // The executor dies, or is not frozen after all: what it refers to, and what the check of its relocs has made, end.
  // Its inbound references are none, or come from executors that die with it. Far slots that nobody uses any more wait
  // for FarSlots::TakeUnused, to be retired with it.
  void Forget(uint32_t index) {
    reloc_check.ForgetFullRecord(index);
    const Executor& executor = table_[index];
    if ((executor.outbound | executor.inbound | executor.kept_bytes) != 0) ForgetReferences(index);
  }

  // First broken rule of the books of all parts, in words, or empty.
  std::string FindBrokenRule() const;
  size_t MetadataBytes() const;

 private:
  void ForgetReferences(uint32_t index);

  ExecutorTable& table_;
};

}  // namespace jit_arena
