// What Verify finds.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "core/executor_table.h"

namespace jit_arena {

// One difference between what memory holds and what it should hold.
struct Problem {
  ExecutorId executor = 0;  // 0: the arena's own code
  Section section = Section::kCode;
  int64_t offset = -1;  // -1: somewhere in the section
  uint64_t expected = 0;
  uint64_t found = 0;
  std::string what;
};

}  // namespace jit_arena
