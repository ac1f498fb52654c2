// An arena for tests, over a FakeMemory whose addresses are real, and programs to put into it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"
#include "support/fake_memory.h"
#include "support/x64.h"

// An executor's sections and relocs, with their bytes.
struct Program {
  std::vector<uint8_t> sections[jit_arena::kSections];
  std::vector<jit_arena::RelocSpec> relocs;
  uint32_t aligns[jit_arena::kSections] = {16, 8, 16};
  bool movable = true;

  jit_arena::ExecutorSpec Spec() const;
  static Program Of(const x64::Assembler& code);
  // Bytes that nothing relocates: `seed` says which.
  static Program Of(uint32_t code_bytes, uint32_t data_bytes = 0, uint32_t state_bytes = 0, uint32_t seed = 1);
};

struct ArenaRig {
  struct Options {
    jit_arena::os::WriterKind writer = jit_arena::os::WriterKind::kAlias;
    bool apart = false;
    uint64_t max_bytes = 16 * jit_arena::kSlabBytes;
    uint64_t max_retired_bytes = 0;
    bool can_punch = true;
  };
  ArenaRig() : ArenaRig(Options{}) {}
  explicit ArenaRig(const Options& options);
  ~ArenaRig();  // checks the invariants once more

  // Checks that it succeeds.
  jit_arena::ExecutorId Install(const Program& program);
  std::vector<jit_arena::ExecutorId> Install(const std::vector<Program>& programs);
  void Free(jit_arena::ExecutorId id);
  void Free(const std::vector<jit_arena::ExecutorId>& ids);
  jit_arena::CollectResult Collect(jit_arena::CollectOptions options = {}) { return arena->Collect(options, self); }
  void CheckInvariants();

  uint64_t AddressOf(jit_arena::ExecutorId id);
  std::vector<uint8_t> Read(jit_arena::ExecutorId id, jit_arena::Section section);

  // Makes every movable executor that is named move at least once: fills slabs, frees the filling and collects.
  void MakeMove(const std::vector<jit_arena::ExecutorId>& ids);

  FakeMemory* memory;
  std::unique_ptr<jit_arena::Arena> arena;
  jit_arena::PinSlot* self;

 private:
  uint32_t make_moves_ = 0;
};

inline constexpr jit_arena::os::WriterKind kAllWriters[] = {
    jit_arena::os::WriterKind::kAlias, jit_arena::os::WriterKind::kProcmem, jit_arena::os::WriterKind::kFlip};
