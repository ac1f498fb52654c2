// arm64: the relocs of compilers and linkers that an arena does not keep, by name, and what code does with a field.
//
// An instruction is told by its reloc. An address in two steps is taken by the second: an ADRP without an ADD for its
// page makes no address of the target, and with a load or a store behind it none leaves the two. A pair that reads a
// slot takes the address that is in it, since nothing says that a call follows.
//
// Numbers: ELF for the Arm 64-bit Architecture (aaelf64), "Relocation types"; of thread-local variables, those from 512
// to 573, and the dynamic ones.
#include <algorithm>

#include "arch/arm64/words.h"
#include "arch/object_relocs.h"
#include "base/bits.h"

namespace jit_arena {

const uint16_t kObjectMachine = 183;      // EM_AARCH64
const uint32_t kObjectUnwindSection = 0;  // .eh_frame is SHT_PROGBITS
const uint16_t kObjectLargeCommon = 0;
const arch::RelocKind kObjectAbsolute64 = 257;

namespace {

constexpr struct {
  uint16_t kind;
  const char* name;
} kOtherKinds[] = {
    {258, "R_AARCH64_ABS32"},
    {259, "R_AARCH64_ABS16"},
    {262, "R_AARCH64_PREL16"},
    {270, "R_AARCH64_MOVW_SABS_G0"},
    {271, "R_AARCH64_MOVW_SABS_G1"},
    {272, "R_AARCH64_MOVW_SABS_G2"},
    {287, "R_AARCH64_MOVW_PREL_G0"},
    {288, "R_AARCH64_MOVW_PREL_G0_NC"},
    {289, "R_AARCH64_MOVW_PREL_G1"},
    {290, "R_AARCH64_MOVW_PREL_G1_NC"},
    {291, "R_AARCH64_MOVW_PREL_G2"},
    {292, "R_AARCH64_MOVW_PREL_G2_NC"},
    {293, "R_AARCH64_MOVW_PREL_G3"},
    {307, "R_AARCH64_GOTREL64"},
    {308, "R_AARCH64_GOTREL32"},
    {309, "R_AARCH64_GOT_LD_PREL19"},
    {310, "R_AARCH64_LD64_GOTOFF_LO15"},
    {313, "R_AARCH64_LD64_GOTPAGE_LO15"},
    {314, "R_AARCH64_PLT32"},
    {315, "R_AARCH64_GOTPCREL32"},
    {512, "R_AARCH64_TLSGD_ADR_PREL21"},
    {513, "R_AARCH64_TLSGD_ADR_PAGE21"},
    {514, "R_AARCH64_TLSGD_ADD_LO12_NC"},
    {518, "R_AARCH64_TLSLD_ADR_PAGE21"},
    {541, "R_AARCH64_TLSIE_ADR_GOTTPREL_PAGE21"},
    {542, "R_AARCH64_TLSIE_LD64_GOTTPREL_LO12_NC"},
    {549, "R_AARCH64_TLSLE_ADD_TPREL_HI12"},
    {550, "R_AARCH64_TLSLE_ADD_TPREL_LO12"},
    {551, "R_AARCH64_TLSLE_ADD_TPREL_LO12_NC"},
    {562, "R_AARCH64_TLSDESC_ADR_PAGE21"},
    {563, "R_AARCH64_TLSDESC_LD64_LO12"},
    {564, "R_AARCH64_TLSDESC_ADD_LO12"},
    {569, "R_AARCH64_TLSDESC_CALL"},
    {1024, "R_AARCH64_COPY"},
    {1025, "R_AARCH64_GLOB_DAT"},
    {1026, "R_AARCH64_JUMP_SLOT"},
    {1027, "R_AARCH64_RELATIVE"},
    {1028, "R_AARCH64_TLS_DTPMOD64"},
    {1029, "R_AARCH64_TLS_DTPREL64"},
    {1030, "R_AARCH64_TLS_TPREL64"},
    {1031, "R_AARCH64_TLSDESC"},
    {1032, "R_AARCH64_IRELATIVE"},
};

constexpr arch::RelocKind kLdPrelLo19 = 273, kAdrPrelPgHi21 = 275, kAdrPrelPgHi21Nc = 276, kLdst8 = 278, kLdst16 = 284,
                          kLdst64 = 286, kLdst128 = 299, kAdrGotPage = 311;

}  // namespace

const char* ObjectKindName(uint32_t kind) {
  for (const auto& other : kOtherKinds)
    if (other.kind == kind) return other.name;
  return nullptr;
}

bool IsThreadLocalKind(uint32_t kind) { return (kind >= 512 && kind <= 573) || (kind >= 1028 && kind <= 1031); }

const GotKind* FindGotKind(uint32_t) { return nullptr; }

arch::RelocKind KindOfSlotBeside(arch::RelocKind through_slot) {
  return through_slot == kAdrGotPage ? kAdrPrelPgHi21 : kLdst64;
}

SiteUse UseOfCodeSite(arch::RelocKind kind, const uint8_t*, uint32_t, uint32_t) {
  if (arch::FindKind(kind)->is_branch) return SiteUse::kBranch;
  switch (kind) {
    case kLdPrelLo19:
    case kAdrPrelPgHi21:
    case kAdrPrelPgHi21Nc:
    case kAdrGotPage:
    case kLdst8:
    case kLdst128:
      return SiteUse::kAccess;
    default:
      return kind >= kLdst16 && kind <= kLdst64 ? SiteUse::kAccess : SiteUse::kAddress;
  }
}

bool FindOwnAddress(const uint8_t* section, uint32_t size, uint32_t* site, uint32_t* target) {
  // ADR: 0 immlo 10000 immhi Rd (Arm ARM, C6.2.12).
  const arch::KindInfo& of_adr = *arch::FindKind("R_AARCH64_ADR_PREL_LO21");
  constexpr uint32_t kAdr = 0x10000000, kAdrMask = 0x9F000000;
  for (uint64_t at = AlignUp(*site, arch::arm64::kWordBytes); at + arch::arm64::kWordBytes <= size;
       at += arch::arm64::kWordBytes) {
    if ((LoadAs<uint32_t>(section + at) & kAdrMask) != kAdr) continue;
    const int64_t found = static_cast<int64_t>(at + arch::Read(of_adr, section + at));
    if (found < 0 || found > size) continue;
    *site = static_cast<uint32_t>(at);
    *target = static_cast<uint32_t>(found);
    return true;
  }
  return false;
}

}  // namespace jit_arena
