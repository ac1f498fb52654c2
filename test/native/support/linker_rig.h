// The linker by itself, without an arena around it, so that tests reach its books and its steps.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/linker.h"
#include "support/arena_rig.h"
#include "support/fake_memory.h"

struct LinkerRig {
  LinkerRig();

  // An executor of `code_bytes` bytes that has its span and is not frozen yet.
  uint32_t Place(uint32_t code_bytes, bool movable);
  // Freezes what was placed, as one batch; a program for each.
  void Freeze(const std::vector<Program>& programs);
  uint64_t AddressOf(uint32_t index) const { return space.AddressOf(table[index].code_span); }

  jit_arena::CodeSpace space;
  jit_arena::ExecutorTable table{100};
  jit_arena::Linker linker{space, table, 100, true};
  std::vector<uint32_t> batch;
};
