// arm64: reloc kinds.
//
// A field of code is bits of an instruction, a little-endian word of 32 bits; a field of data is whole bytes. The other
// bits of an instruction stay. An address far away is made in two steps, of a page of 4 KiB and what is left in it,
// whatever the system's pages are. Both are fields of their own, and a move rewrites each from its old bits: the page
// needs the lowest 12 bits of the target besides, which are the field's rest.
//
// A field that counts in units of 2 to 16 bytes has no room for a value's lowest bits. They are zero for addresses, as
// Check sees to, but not in normal form, where a section of data that is aligned to less than the unit begins at 0: so
// they are a rest, too.
//
// S is the target's address, A the addend, P the site's address, G the address of an 8-byte slot that holds S + A, and
// Page(x) is x without its lowest 12 bits. Names, numbers and expressions: ELF for the Arm 64-bit Architecture
// (aaelf64), "Relocation types"; the instructions' fields: Arm ARM (DDI 0487), C4.1.
#include <array>

#include "arch/arch.h"
#include "base/bits.h"

namespace jit_arena::arch {

const char* const kCpuName = "arm64";

// BL and B span -2^27 .. 2^27 - 4, so any two instructions in 128 MiB reach each other.
const uint64_t kMaxArenaBytes = 128 * uint64_t{kMiB};

namespace arm64 {

enum Number : RelocKind {
  // S + A: any 64 bits
  // The address of anything, from anywhere; a literal or a constant.
  // errors: none
  kAbs64 = 257,

  // S + A - P: any 64 bits
  // Distances in data.
  // errors: none
  kPrel64 = 260,

  // S + A - P: signed 32 bits
  // Distances in data, such as jump tables. (The psABI allows up to 2^32 - 1 for readers that do not extend the sign.)
  // errors: ERR_ARENA_RELOC_RANGE out of ±2 GiB
  kPrel32 = 261,

  // S + A: 16 bits of it from bit 0, 16, 32 or 48 on, of MOVZ or MOVK
  // No move rewrites them, since what one holds depends on the lower bits that another holds: the target stays.
  // errors: ERR_ARENA_RELOC_RANGE when the target moves; without _NC when S + A has more bits than this one reaches
  kMovwUabsG0 = 263,
  kMovwUabsG0Nc = 264,
  kMovwUabsG1 = 265,
  kMovwUabsG1Nc = 266,
  kMovwUabsG2 = 267,
  kMovwUabsG2Nc = 268,
  kMovwUabsG3 = 269,

  // S + A - P: signed 21 bits, in words
  // LDR (literal).
  // errors: ERR_ARENA_RELOC_RANGE out of ±1 MiB, or when it is not a multiple of 4
  kLdPrelLo19 = 273,

  // S + A - P: signed 21 bits
  // ADR.
  // errors: ERR_ARENA_RELOC_RANGE out of ±1 MiB
  kAdrPrelLo21 = 274,

  // Page(S + A) - Page(P): signed 33 bits, in pages of 4 KiB
  // ADRP; with _NC the upper bits are left out unseen.
  // errors: ERR_ARENA_RELOC_RANGE out of ±4 GiB
  kAdrPrelPgHi21 = 275,
  kAdrPrelPgHi21Nc = 276,

  // S + A: its lowest 12 bits
  // ADD (immediate), behind an ADRP.
  // errors: none
  kAddAbsLo12Nc = 277,

  // S + A: its lowest 12 bits, in units of the access
  // LDR and STR (unsigned offset), behind an ADRP.
  // errors: ERR_ARENA_RELOC_RANGE when S + A is not a multiple of the unit
  kLdst8AbsLo12Nc = 278,
  kLdst16AbsLo12Nc = 284,
  kLdst32AbsLo12Nc = 285,
  kLdst64AbsLo12Nc = 286,
  kLdst128AbsLo12Nc = 299,

  // S + A - P: signed 16 bits, in words
  // TBZ and TBNZ.
  // errors: ERR_ARENA_RELOC_RANGE out of ±32 KiB: a veneer is seldom as near as that
  kTstbr14 = 279,

  // S + A - P: signed 21 bits, in words
  // B.cond, CBZ and CBNZ.
  // errors: ERR_ARENA_RELOC_RANGE out of ±1 MiB: a veneer is seldom as near as that
  kCondbr19 = 280,

  // S + A - P: signed 28 bits, in words
  // B and BL.
  // errors: ERR_ARENA_RELOC_RANGE when it is not a multiple of 4; a veneer is always in reach
  kJump26 = 282,
  kCall26 = 283,

  // Page(G) - Page(P): signed 33 bits, in pages of 4 KiB
  // ADRP of a slot.
  // errors: none, since a slot is always in reach
  kAdrGotPage = 311,

  // G: its lowest 12 bits, in units of 8 bytes
  // LDR of a slot, behind an ADRP.
  // errors: none
  kLd64GotLo12Nc = 312,
};

// The commonest that has no rest is the first.
enum Field : FieldClass {
  kAdd12,
  kPage21,
  kBranch26,
  kWord64,
  kAccess16,
  kAccess32,
  kAccess64,
  kAccess128,
  kDistance32,
  kDistance64,
  kBranch19,
  kBranch14,
  kAddress21,
  kPage21Nc,
  // These follow nothing.
  kMove0,
  kMove0Nc,
  kMove1,
  kMove1Nc,
  kMove2,
  kMove2Nc,
  kMove3,
};

constexpr KindInfo kKinds[] = {
    // number, name, field, slot, branch
    {kAbs64, "R_AARCH64_ABS64", kWord64, false, false},
    {kPrel64, "R_AARCH64_PREL64", kDistance64, false, false},
    {kPrel32, "R_AARCH64_PREL32", kDistance32, false, false},
    {kMovwUabsG0, "R_AARCH64_MOVW_UABS_G0", kMove0, false, false},
    {kMovwUabsG0Nc, "R_AARCH64_MOVW_UABS_G0_NC", kMove0Nc, false, false},
    {kMovwUabsG1, "R_AARCH64_MOVW_UABS_G1", kMove1, false, false},
    {kMovwUabsG1Nc, "R_AARCH64_MOVW_UABS_G1_NC", kMove1Nc, false, false},
    {kMovwUabsG2, "R_AARCH64_MOVW_UABS_G2", kMove2, false, false},
    {kMovwUabsG2Nc, "R_AARCH64_MOVW_UABS_G2_NC", kMove2Nc, false, false},
    {kMovwUabsG3, "R_AARCH64_MOVW_UABS_G3", kMove3, false, false},
    {kLdPrelLo19, "R_AARCH64_LD_PREL_LO19", kBranch19, false, false},
    {kAdrPrelLo21, "R_AARCH64_ADR_PREL_LO21", kAddress21, false, false},
    {kAdrPrelPgHi21, "R_AARCH64_ADR_PREL_PG_HI21", kPage21, false, false},
    {kAdrPrelPgHi21Nc, "R_AARCH64_ADR_PREL_PG_HI21_NC", kPage21Nc, false, false},
    {kAddAbsLo12Nc, "R_AARCH64_ADD_ABS_LO12_NC", kAdd12, false, false},
    {kLdst8AbsLo12Nc, "R_AARCH64_LDST8_ABS_LO12_NC", kAdd12, false, false},
    {kTstbr14, "R_AARCH64_TSTBR14", kBranch14, false, true},
    {kCondbr19, "R_AARCH64_CONDBR19", kBranch19, false, true},
    {kJump26, "R_AARCH64_JUMP26", kBranch26, false, true},
    {kCall26, "R_AARCH64_CALL26", kBranch26, false, true},
    {kLdst16AbsLo12Nc, "R_AARCH64_LDST16_ABS_LO12_NC", kAccess16, false, false},
    {kLdst32AbsLo12Nc, "R_AARCH64_LDST32_ABS_LO12_NC", kAccess32, false, false},
    {kLdst64AbsLo12Nc, "R_AARCH64_LDST64_ABS_LO12_NC", kAccess64, false, false},
    {kLdst128AbsLo12Nc, "R_AARCH64_LDST128_ABS_LO12_NC", kAccess128, false, false},
    {kAdrGotPage, "R_AARCH64_ADR_GOT_PAGE", kPage21, true, false, 0, true},
    {kLd64GotLo12Nc, "R_AARCH64_LD64_GOT_LO12_NC", kAccess64, true, false, 0, true},
};

constexpr size_t kNumbers = 512;
constexpr auto kByNumber = [] {
  std::array<const KindInfo*, kNumbers> table{};
  for (const KindInfo& info : kKinds) table[info.kind] = &info;
  return table;
}();

constexpr int kPageBits = 12;
constexpr uint64_t PageOf(uint64_t address) { return address >> kPageBits << kPageBits; }

uint64_t MaskOf(int bits) { return (uint64_t{1} << bits) - 1; }

uint64_t SignExtend(uint64_t value, int bits) {
  return static_cast<uint64_t>(static_cast<int64_t>(value << (64 - bits)) >> (64 - bits));
}

// The value's bits from `low` on, as many as `bits`, lie in the instruction from `at` on; those of ADR and ADRP but for
// the two lowest, which lie from bit 29 on.
struct Place {
  uint8_t low, bits, at;
  bool is_signed;
  bool in_pieces;
  bool checked;  // against overflow
};
constexpr Place kPlaces[] = {
    {0, 12, 10, false, false, false},  // kAdd12
    {12, 21, 5, true, true, true},     // kPage21
    {2, 26, 0, true, false, true},     // kBranch26
    {},                                // kWord64
    {1, 12, 10, false, false, false},  // kAccess16
    {2, 12, 10, false, false, false},  // kAccess32
    {3, 12, 10, false, false, false},  // kAccess64
    {4, 12, 10, false, false, false},  // kAccess128
    {0, 32, 0, true, false, true},     // kDistance32
    {},                                // kDistance64
    {2, 19, 5, true, false, true},     // kBranch19
    {2, 14, 5, true, false, true},     // kBranch14
    {0, 21, 5, true, true, true},      // kAddress21
    {12, 21, 5, true, true, false},    // kPage21Nc
    {0, 16, 5, false, false, true},    // kMove0
    {0, 16, 5, false, false, false},   // kMove0Nc
    {16, 16, 5, false, false, true},   // kMove1
    {16, 16, 5, false, false, false},  // kMove1Nc
    {32, 16, 5, false, false, true},   // kMove2
    {32, 16, 5, false, false, false},  // kMove2Nc
    {48, 16, 5, false, false, false},  // kMove3
};

constexpr int kLowPieceBits = 2, kLowPieceAt = 29;

// What a field of an instruction can say of a value.
uint64_t Sayable(const Place& place, uint64_t value) {
  const int end = place.low + place.bits;
  value = value >> place.low << place.low;
  return place.is_signed ? SignExtend(value, end) : end == 64 ? value : value & MaskOf(end);
}

void Insert(FieldClass field, uint8_t* site, uint64_t value) {
  if (FieldOf(field).bytes == 8) return StoreAs<uint64_t>(site, value);
  const Place& place = kPlaces[field];
  uint64_t bits = value >> place.low & MaskOf(place.bits), kept = LoadAs<uint32_t>(site);
  if (place.in_pieces) {
    kept &= ~(MaskOf(kLowPieceBits) << kLowPieceAt | MaskOf(place.bits - kLowPieceBits) << place.at);
    bits = (bits & MaskOf(kLowPieceBits)) << kLowPieceAt | bits >> kLowPieceBits << place.at;
  } else {
    kept &= ~(MaskOf(place.bits) << place.at);
    bits <<= place.at;
  }
  StoreAs<uint32_t>(site, static_cast<uint32_t>(kept | bits));
}

uint64_t Extract(FieldClass field, const uint8_t* site) {
  if (FieldOf(field).bytes == 8) return LoadAs<uint64_t>(site);
  const Place& place = kPlaces[field];
  const uint64_t word = LoadAs<uint32_t>(site);
  uint64_t bits = word >> place.at;
  if (place.in_pieces) bits = bits << kLowPieceBits | (word >> kLowPieceAt & MaskOf(kLowPieceBits));
  return Sayable(place, (bits & MaskOf(place.bits)) << place.low);
}

bool IsPage(FieldClass field) { return field == kPage21 || field == kPage21Nc; }

}  // namespace arm64

// Of code, only B and BL may change while another core executes them (Arm ARM, B2.2.5). Of data, aligned words of 8
// bytes may; that shorter ones are aligned is not known.
const FieldInfo kFields[] = {
    // bytes, relative, follows, rest, beside others
    {4, false, true, 0, false},                // kAdd12
    {4, true, true, arm64::kPageBits, false},  // kPage21
    {4, true, true, 2, true},                  // kBranch26
    {8, false, true, 0, true},                 // kWord64
    {4, false, true, 1, false},                // kAccess16
    {4, false, true, 2, false},                // kAccess32
    {4, false, true, 3, false},                // kAccess64
    {4, false, true, 4, false},                // kAccess128
    {4, true, true, 0, false},                 // kDistance32
    {8, true, true, 0, true},                  // kDistance64
    {4, true, true, 2, false},                 // kBranch19
    {4, true, true, 2, false},                 // kBranch14
    {4, true, true, 0, false},                 // kAddress21
    {4, true, true, arm64::kPageBits, false},  // kPage21Nc
    {4, false, false, 0, false},               // kMove0
    {4, false, false, 0, false},               // kMove0Nc
    {4, false, false, 0, false},               // kMove1
    {4, false, false, 0, false},               // kMove1Nc
    {4, false, false, 0, false},               // kMove2
    {4, false, false, 0, false},               // kMove2Nc
    {4, false, false, 0, false},               // kMove3
};
static_assert(std::size(kFields) == std::size(arm64::kPlaces));
const int kFieldClassBits = 4;

const char* const kFarKinds =
    "R_AARCH64_ADR_GOT_PAGE and R_AARCH64_LD64_GOT_LO12_NC for data, R_AARCH64_CALL26 or R_AARCH64_JUMP26 for a "
    "branch, "
    "or R_AARCH64_ABS64";
const char* const kNearKind = "R_AARCH64_ADR_PREL_PG_HI21 and R_AARCH64_ADD_ABS_LO12_NC";

const KindInfo* FindKind(RelocKind kind) { return kind < arm64::kNumbers ? arm64::kByNumber[kind] : nullptr; }

const KindInfo* Kinds(size_t* count) {
  *count = std::size(arm64::kKinds);
  return arm64::kKinds;
}

uint64_t ValueOf(FieldClass field, uint64_t target, uint64_t site) {
  const arm64::Place& place = arm64::kPlaces[field];
  if (arm64::IsPage(field)) {
    const uint64_t value = arm64::PageOf(target) - arm64::PageOf(site);
    return place.checked ? value : arm64::Sayable(place, value);
  }
  if (kFields[field].relative) return target - site;
  if (kFields[field].bytes == 8) return target;
  // Of a constant in parts, this part, and what is above it for Check; the lowest bits of an access are for Check, too.
  if (kFields[field].follows) return target & arm64::MaskOf(arm64::kPageBits);
  return place.checked ? target >> place.low << place.low : target & (arm64::MaskOf(16) << place.low);
}

bool Check(const KindInfo& kind, uint64_t value) {
  if (kFields[kind.field].bytes == 8) return true;
  const arm64::Place& place = arm64::kPlaces[kind.field];
  return arm64::Sayable(place, value) == value;
}

void Apply(const KindInfo& kind, uint8_t* site, uint64_t value) { arm64::Insert(kind.field, site, value); }

uint64_t Read(const KindInfo& kind, const uint8_t* site) {
  const uint64_t value = arm64::Extract(kind.field, site);
  const arm64::Place& place = arm64::kPlaces[kind.field];
  return kFields[kind.field].bytes == 8 ? value : value >> place.low << place.low;
}

uint64_t Beyond(FieldClass field, uint64_t value) {
  if (kFields[field].bytes == 8 || !kFields[field].relative) return 0;
  const arm64::Place& place = arm64::kPlaces[field];
  return value >> (place.low + place.bits - 1) >> 1;
}

uint64_t Shift(FieldClass field, uint8_t* site, uint32_t rest, const Ends& from, const Ends& to) {
  uint64_t value = arm64::Extract(field, site);
  const uint64_t target_moved = to.target - from.target;
  if (arm64::IsPage(field)) {
    const uint64_t in_page = (from.target + rest) & arm64::MaskOf(arm64::kPageBits);
    value = ValueOf(field, value + arm64::PageOf(from.site) + in_page + target_moved, to.site);
  } else {
    // The bits that the field leaves out, from where the ends were.
    const uint64_t lowest = from.target + rest - (kFields[field].relative ? from.site : 0);
    value |= lowest & arm64::MaskOf(kFields[field].rest_bits);
    value += target_moved - (kFields[field].relative ? to.site - from.site : 0);
    if (kFields[field].bytes == 4 && !kFields[field].relative) value &= arm64::MaskOf(arm64::kPageBits);
  }
  arm64::Insert(field, site, value);
  return Beyond(field, value);
}

}  // namespace jit_arena::arch
