// x86-64: the reloc kinds that other linkers know, and how an instruction uses a field.
//
// A field that is relative to rip directly follows its ModRM byte (mod = 00, r/m = 101: no SIB byte, 32-bit
// displacement), and lea, the one instruction that takes an address from there, has the one opcode 8D directly before
// its ModRM byte. So the two bytes before the field tell lea from every load and store. A direct branch has E8, E9 or
// 0F 80..8F directly before its field; none of these is such a ModRM byte.
#include <algorithm>

#include "arch/object_relocs.h"
#include "base/bits.h"

namespace jit_arena {

const uint16_t kObjectMachine = 62;                // EM_X86_64
const uint32_t kObjectUnwindSection = 0x70000001;  // SHT_X86_64_UNWIND: clang's
const uint16_t kObjectLargeCommon = 0xFF02;        // SHN_X86_64_LCOMMON
const arch::RelocKind kObjectAbsolute64 = 1;

namespace {

constexpr struct {
  uint8_t kind;
  const char* name;
  bool thread_local_storage;
} kOtherX8664Kinds[] = {
    {3, "R_X86_64_GOT32", false},        {5, "R_X86_64_COPY", false},      {6, "R_X86_64_GLOB_DAT", false},
    {7, "R_X86_64_JUMP_SLOT", false},    {8, "R_X86_64_RELATIVE", false},  {12, "R_X86_64_16", false},
    {13, "R_X86_64_PC16", false},        {14, "R_X86_64_8", false},        {15, "R_X86_64_PC8", false},
    {16, "R_X86_64_DTPMOD64", true},     {17, "R_X86_64_DTPOFF64", true},  {18, "R_X86_64_TPOFF64", true},
    {19, "R_X86_64_TLSGD", true},        {20, "R_X86_64_TLSLD", true},     {21, "R_X86_64_DTPOFF32", true},
    {22, "R_X86_64_GOTTPOFF", true},     {23, "R_X86_64_TPOFF32", true},   {25, "R_X86_64_GOTOFF64", false},
    {26, "R_X86_64_GOTPC32", false},     {27, "R_X86_64_GOT64", false},    {28, "R_X86_64_GOTPCREL64", false},
    {29, "R_X86_64_GOTPC64", false},     {30, "R_X86_64_GOTPLT64", false}, {31, "R_X86_64_PLTOFF64", false},
    {32, "R_X86_64_SIZE32", false},      {33, "R_X86_64_SIZE64", false},   {34, "R_X86_64_GOTPC32_TLSDESC", true},
    {35, "R_X86_64_TLSDESC_CALL", true}, {36, "R_X86_64_TLSDESC", true},   {37, "R_X86_64_IRELATIVE", false},
};

constexpr arch::RelocKind kPlt32Number = 4;
constexpr arch::RelocKind kPc32Number = 2, kPc64Number = 24;

// The psABI has L, the address of a PLT entry, for PLTOFF64: here S itself. It has G for an offset in the GOT, and
// G + GOT for the slot's address.
constexpr GotKind kReadForOfX8664[] = {
    {25, kPc64Number, GotUse::kFromBase},      // GOTOFF64    S + A - GOT
    {26, kPc32Number, GotUse::kBase},          // GOTPC32     GOT + A - P
    {27, kPc64Number, GotUse::kSlotFromBase},  // GOT64       G + A
    {28, kPc64Number, GotUse::kSlot},          // GOTPCREL64  G + GOT + A - P
    {29, kPc64Number, GotUse::kBase},          // GOTPC64     GOT + A - P
    {30, kPc64Number, GotUse::kSlotFromBase},  // GOTPLT64    G + A
    {31, kPc64Number, GotUse::kFromBase},      // PLTOFF64    L + A - GOT
};

bool IsRipModRm(uint8_t byte) { return (byte & 0xC7) == 0x05; }

}  // namespace

const char* ObjectKindName(uint32_t kind) {
  for (const auto& other : kOtherX8664Kinds)
    if (other.kind == kind) return other.name;
  return nullptr;
}

bool IsThreadLocalKind(uint32_t kind) {
  for (const auto& other : kOtherX8664Kinds)
    if (other.kind == kind) return other.thread_local_storage;
  return false;
}

const GotKind* FindGotKind(uint32_t number) {
  for (const GotKind& kind : kReadForOfX8664)
    if (kind.number == number) return &kind;
  return nullptr;
}

arch::RelocKind KindOfSlotBeside(arch::RelocKind) { return kPc32Number; }

SiteUse UseOfCodeSite(arch::RelocKind kind, const uint8_t* section, uint32_t size, uint32_t offset) {
  if (kind == kPlt32Number) return SiteUse::kBranch;
  const arch::KindInfo& info = *arch::FindKind(kind);
  const arch::FieldInfo& field = arch::FieldOf(info.field);
  if (!field.relative || field.bytes != 4) return SiteUse::kAddress;
  if (section == nullptr || offset < 2 || offset > size) return SiteUse::kUnknown;
  uint8_t opcode = section[offset - 2];
  uint8_t modrm = section[offset - 1];
  if (info.through_slot) {
    // call and jmp through the slot: FF /2, FF /4.
    return opcode == 0xFF && (modrm == 0x15 || modrm == 0x25) ? SiteUse::kBranch : SiteUse::kAddress;
  }
  if (IsRipModRm(modrm)) return opcode == 0x8D ? SiteUse::kAddress : SiteUse::kAccess;
  if (modrm == 0xE8 || modrm == 0xE9 || (opcode == 0x0F && (modrm & 0xF0) == 0x80)) return SiteUse::kBranch;
  return SiteUse::kUnknown;
}

bool FindOwnAddress(const uint8_t* section, uint32_t size, uint32_t* site, uint32_t* target) {
  // REX.W 8D ModRM disp32: an address has 64 bits.
  for (uint64_t at = std::max<uint32_t>(*site, 3); at + 4 <= size; at++) {
    if ((section[at - 3] & 0xF8) != 0x48 || section[at - 2] != 0x8D || !IsRipModRm(section[at - 1])) continue;
    int64_t found = static_cast<int64_t>(at) + 4 + LoadAs<int32_t>(section + at);
    if (found < 0 || found > size) continue;
    *site = static_cast<uint32_t>(at);
    *target = static_cast<uint32_t>(found);
    return true;
  }
  return false;
}

}  // namespace jit_arena
