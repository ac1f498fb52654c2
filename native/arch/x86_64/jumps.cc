// Jumps in code that a compiler made, found by their bytes; and the one that a loader adds.
#include <cstring>
#include <iterator>

#include "arch/object_relocs.h"
#include "base/bits.h"

namespace jit_arena {
namespace {

// jmp rel32: E9, then the field.
constexpr uint8_t kJump = 0xE9;
// movabs $address, reg: REX.W B8+reg, then the field; jmp *reg: FF E0+reg. r8 … r15 have a prefix before each of the
// two.
constexpr uint8_t kLoad = 0xB8, kLoadPrefix = 0x48, kLoadExtendedPrefix = 0x49;
constexpr uint8_t kJumpToRegister[] = {0xFF, 0xE0};
constexpr uint8_t kExtendedPrefix = 0x41;

bool IsShortBranch(uint8_t opcode) {
  return opcode == 0xEB || (opcode & 0xF0) == 0x70 || (opcode & 0xFC) == 0xE0;  // jmp, jcc, loop and jrcxz
}

// jmp *rel32(%rip): FF 25, then the field.
constexpr uint8_t kSlotJump[] = {0xFF, 0x25, 0, 0, 0, 0, 0xCC, 0xCC};

}  // namespace

const uint32_t kSlotJumpBytes = sizeof kSlotJump;
const SlotJumpField kSlotJumpFields[] = {{2, 2, -4}};  // R_X86_64_PC32
const uint32_t kSlotJumpFieldCount = std::size(kSlotJumpFields);

void WriteSlotJump(uint8_t* out) { std::memcpy(out, kSlotJump, sizeof kSlotJump); }

EndingJump FindEndingJump(const uint8_t* code, size_t size, arch::RelocKind kind, size_t site, int64_t addend) {
  const arch::KindInfo& info = *arch::FindKind(kind);
  const arch::FieldInfo& field = arch::FieldOf(info.field);
  if (info.through_slot) return {};
  if (field.relative && field.bytes == 4)
    return size >= 5 && site == size - 4 && addend == -4 && code[size - 5] == kJump ? EndingJump{5, 0} : EndingJump{};
  if (field.relative || field.bytes != 8 || addend != 0 || size < 12 || site < 2) return {};
  unsigned reg = unsigned{code[size - 1]} - kJumpToRegister[1];
  if (reg > 7 || code[size - 2] != kJumpToRegister[0]) return {};
  bool extended = site + 11 == size;
  if (extended ? code[size - 3] != kExtendedPrefix : site + 10 != size) return {};
  if (code[site - 2] != (extended ? kLoadExtendedPrefix : kLoadPrefix) || code[site - 1] != kLoad + reg) return {};
  return {size - site + 2, extended ? size - 3 : size - 2};
}

bool MayBranchTo(const uint8_t* code, size_t size, size_t offset) {
  for (size_t i = 0; i + 2 <= size; i++) {
    if (IsShortBranch(code[i]) && i + 2 + static_cast<size_t>(static_cast<int8_t>(code[i + 1])) == offset) return true;
    bool is_long = code[i] == 0xE8 || code[i] == kJump || ((code[i] & 0xF0) == 0x80 && i != 0 && code[i - 1] == 0x0F);
    if (is_long && i + 5 <= size && i + 5 + static_cast<size_t>(int64_t{LoadAs<int32_t>(code + i + 1)}) == offset)
      return true;
  }
  return false;
}

}  // namespace jit_arena
