// Jumps in code that a compiler made, found by their instructions; and the one that a loader adds.
#include <iterator>

#include "arch/arm64/words.h"
#include "arch/object_relocs.h"
#include "base/bits.h"

namespace jit_arena {
namespace {

using arch::arm64::kWordBytes;

constexpr uint32_t kSlotJump[] = {
    0x90000011,  // adrp x17, slot
    0xF9400231,  // ldr x17, [x17, #:lo12:slot]
    0xD61F0220,  // br x17
    arch::arm64::kUdf,
};

constexpr arch::RelocKind kPageOfSlot = 275, kLoadOfSlot = 286, kJumpAway = 282;

// Which instructions branch by a distance, and by which reloc's field (Arm ARM, C4.1.86).
struct Branch {
  uint32_t mask, value;
  arch::RelocKind kind;
};
constexpr Branch kBranches[] = {
    {0x7C000000, 0x14000000, kJumpAway},  // B, BL
    {0xFE000000, 0x54000000, 280},        // B.cond, BC.cond: R_AARCH64_CONDBR19
    {0x7E000000, 0x34000000, 280},        // CBZ, CBNZ
    {0x7E000000, 0x36000000, 279},        // TBZ, TBNZ: R_AARCH64_TSTBR14
};

}  // namespace

const uint32_t kSlotJumpBytes = sizeof kSlotJump;
const SlotJumpField kSlotJumpFields[] = {{0, kPageOfSlot, 0}, {4, kLoadOfSlot, 0}};
const uint32_t kSlotJumpFieldCount = std::size(kSlotJumpFields);

void WriteSlotJump(uint8_t* out) { arch::arm64::PutWords(out, kSlotJump); }

EndingJump FindEndingJump(const uint8_t* code, size_t size, arch::RelocKind kind, size_t site, int64_t addend) {
  constexpr uint32_t kJump = 0x14000000, kJumpMask = 0xFC000000;
  if (kind != kJumpAway || addend != 0 || size < kWordBytes || site != size - kWordBytes) return {};
  return (LoadAs<uint32_t>(code + site) & kJumpMask) == kJump ? EndingJump{kWordBytes, 0} : EndingJump{};
}

bool MayBranchTo(const uint8_t* code, size_t size, size_t offset) {
  for (size_t at = 0; at + kWordBytes <= size; at += kWordBytes)
    for (const Branch& branch : kBranches)
      if ((LoadAs<uint32_t>(code + at) & branch.mask) == branch.value &&
          at + arch::Read(*arch::FindKind(branch.kind), code + at) == offset)
        return true;
  return false;
}

}  // namespace jit_arena
