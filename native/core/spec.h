// What a host says of an executor before it has an address.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"

namespace jit_arena {

struct FrameTable;  // core/frame_tables.h

enum class TargetKind : uint8_t {
  kOwnCode,  // `target` is an offset in the executor's own section
  kOwnData,
  kOwnState,
  kAddress,      // `target` is an absolute address outside the arena's executors
  kExecutor,     // `target` is an id; the address is `target_offset` bytes into its `target_section`
  kBatchMember,  // the same, but `target` is a position in the list that is being installed
  kExit,         // `target` is an exit number; the address is that of its exit record
  kDone,         // the stub that ends a run
  kValid,        // the byte that is 1 until the executor is invalidated
  kWarm,         // the byte that a trace sets at its start, for cold eviction
};
inline constexpr int kTargetKinds = 10;

// A field that depends on addresses (docs/relocs.md). The field at `offset` is the site.
struct RelocSpec {
  Section section;
  [[gnu::packed]] arch::RelocKind kind;  // unaligned, so that a spec has 32 bytes
  TargetKind target_kind;
  uint32_t offset;  // bytes from the start of the section
  uint64_t target;
  int64_t addend;
  Section target_section = Section::kCode;  // of another executor
  uint32_t target_offset = 0;
};
static_assert(sizeof(RelocSpec) == 32);

// An error about one reloc of an executor.
inline Error RelocError(ErrorCode code, uint64_t executor, const RelocSpec& reloc, Words message) {
  Error error = ExecutorError(code, executor, std::move(message));
  error.section = reloc.section;
  error.offset = reloc.offset;
  const arch::KindInfo* info = arch::FindKind(reloc.kind);
  error.kind = info != nullptr ? Words(info->name) : Format("%u", reloc.kind);
  return error;
}

// Whether a field holds an address of the executor's own state span. (Of another's, it may: then it is taken for one.)
inline bool MovesWithState(const RelocSpec& reloc) {
  switch (reloc.target_kind) {
    case TargetKind::kOwnState:
    case TargetKind::kExit:
    case TargetKind::kValid:
    case TargetKind::kWarm:
      return true;
    case TargetKind::kExecutor:
    case TargetKind::kBatchMember:
      return reloc.target_section == Section::kState;
    default:
      return false;
  }
}

// Sizes and alignments by Section. Bytes may be null: the section is then zero.
struct ExecutorSpec {
  const uint8_t* bytes[kSections] = {};
  uint32_t sizes[kSections] = {};
  uint32_t zero_tails[kSections] = {};  // of the sizes: at the end of the section, zero, and not among the bytes
  uint32_t aligns[kSections] = {16, 8, 16};
  const RelocSpec* relocs = nullptr;
  uint32_t reloc_count = 0;
  uint32_t exit_count = 0;
  const uint32_t* exit_tags = nullptr;  // a number of the host's for each exit, or null
  bool movable = true;
  int8_t evictable = -1;  // 0 or 1; -1: as the executor's kind says (exits, or a warm or done reloc)
  bool makes_progress = false;
  std::string_view name{};
  const uint32_t* entries = nullptr;  // offsets in code
  uint32_t entry_count = 0;
  std::shared_ptr<const FrameTable> frames{};  // for the unwinder, or null; a host has asked os::FindUnwinder before
  // Held until nobody can be inside the executor any more; ends under the arena's lock.
  std::shared_ptr<const void> keeps{};
};

}  // namespace jit_arena
