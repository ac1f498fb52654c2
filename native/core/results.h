// What an arena says of itself, as its methods return it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/executor_table.h"
#include "core/slab.h"

namespace jit_arena {

struct ExecutorInfo {
  ExecutorState state;
  uint32_t sizes[kSections];
  bool movable;
  bool evictable;
  bool makes_progress;
  uint32_t exits;
  bool trace;            // follows the trace ABI
  uint32_t first_entry;  // offset in code of entry 0
  std::string name;      // a copy: another thread may free the executor
  uint64_t address;      // of the code; 0 while writable. Until any thread collects, unless pinned
};

struct FoundAddress {
  ExecutorId executor;
  Section section;
  uint32_t offset;
  bool retired;
};

// An exit that a run has taken.
struct ExitTaken {
  ExecutorId executor;  // 0: the trace was done
  uint32_t exit;
  bool hot;  // its count was used up: time to compile what follows
};

// Executors by code + data bytes.
inline constexpr size_t kSizeClasses = 28;  // from 64 bytes to more than an arena has
struct SizeClass {
  uint64_t up_to;      // bytes
  uint64_t count = 0;  // live
  uint64_t bytes = 0;
  uint64_t exits = 0;
  uint64_t loops = 0;            // of count: links lead from it back to it
  uint64_t died_cold = 0;        // evicted since the arena was made
  uint64_t died_cold_loops = 0;  // of died_cold
};

struct PauseStats {
  uint64_t count = 0;
  uint64_t total_nanos = 0;
  uint64_t max_nanos = 0;
};

struct ArenaStats {
  uint64_t executors = 0;        // writable and frozen
  uint64_t live_bytes = 0;       // code + data + state + exit records of frozen executors
  uint64_t span_bytes = 0;       // the same in whole granules, with the arena's own code
  uint64_t committed_bytes = 0;  // pages with memory behind them
  uint64_t lost_bytes = 0;       // beside committed_bytes: not used any more, but the system did not take it back yet
  uint64_t reserved_bytes = 0;
  uint64_t retired_bytes = 0;
  uint64_t metadata_bytes = 0;  // without what executors keep (ExecutorSpec::keeps), whose size nobody here knows
  uint64_t slabs = 0;
  uint64_t huge_page_bytes = 0;          // of committed_bytes: with huge pages behind them
  uint64_t page_per_executor_bytes = 0;  // what a mapping of its own for each would take
  uint64_t moves = 0;
  uint64_t moved_bytes = 0;
  uint64_t relocs_rewritten = 0;
  uint64_t kept_relocs = 0;
  uint64_t kept_reloc_bytes = 0;  // of their packed records
  uint64_t far_slots = 0;
  uint64_t evicted = 0;
  uint64_t pins = 0;  // loose ones
  PauseStats pauses;
  std::vector<SizeClass> size_classes;
};

struct SlabMap {
  Zone zone;
  uint64_t address;
  uint64_t bytes;
  uint64_t live_bytes;
  uint64_t retired_bytes;
  std::vector<uint32_t> live_bytes_per_page;
  std::vector<bool> backed;  // per page
};

}  // namespace jit_arena
