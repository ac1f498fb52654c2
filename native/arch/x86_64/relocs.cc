// x86-64: reloc kinds.
//
// Every field is little-endian, whole bytes, at any alignment, and holds nothing but the value; so clearing it and
// inserting is one store. A rel32 counts from the end of the instruction, which the record does not know: the addend
// carries the distance (-4 when the field is the last thing in the instruction).
//
// Only a rel32 and whole words can follow what moves: an arena lies above 2^32. All of them say a sum, so that a move
// adds two distances and needs no more than the old bytes.
//
// S is the target's address, A the addend, P the site's address, G the address of an 8-byte slot that holds S (the
// psABI writes G + GOT for it). Sums are modulo 2^64; the result type says which 64-bit values the field can stand for.
// Names, numbers and expressions: System V psABI for AMD64, version 1.0, §4.4.1, table 4.9.
#include <array>

#include "arch/arch.h"
#include "base/bits.h"

namespace jit_arena::arch {

const char* const kCpuName = "x64";

// rel32 spans -2^31 .. 2^31 - 1 from the end of an instruction, so any two addresses in 2 GiB reach each other.
const uint64_t kMaxArenaBytes = 2048 * uint64_t{kMiB};

namespace x86_64 {

enum Number : RelocKind {
  // S + A: any 64 bits
  // The address of anything, from anywhere; what jump tables and `movabs` use.
  // errors: none
  k64 = 1,

  // S + A - P: signed 32 bits
  // A use of data or code near by; not a branch for us, because compilers use it for `lea` and loads as well.
  // errors: ERR_ARENA_RELOC_RANGE out of ±2 GiB; PLT32 (calls) and GOTPCREL (addresses) have no such limit
  kPc32 = 2,

  // S + A - P: signed 32 bits (the psABI's L + A - P; L, the veneer, stands for S only when S is out of reach)
  // `call` and `jmp`, nothing else. Its target is S + A + 4, and that is the address a veneer has to be made for.
  // errors: none for a branch, since a veneer is always in reach
  kPlt32 = 4,

  // G + A - P: signed 32 bits
  // Loads the address of S: the instruction reads the slot.
  // errors: none, since a slot is always in reach
  kGotPcRel = 9,

  // S + A: unsigned 32 bits
  // The CPU zero-extends the field (`mov r32, imm32`).
  // errors: ERR_ARENA_RELOC_RANGE for an address from 2^32 up; an arena lies higher, so this is for fixed addresses
  k32 = 10,

  // S + A: signed 32 bits
  // The CPU sign-extends the field (disp32 without a base, `mov r64, imm32`).
  // errors: ERR_ARENA_RELOC_RANGE unless S + A is in the lowest or the highest 2 GiB
  k32S = 11,

  // S + A - P: any 64 bits
  // Distances in data, such as jump tables of the large code model.
  // errors: none
  kPc64 = 24,

  // G + A - P: signed 32 bits
  // GOTPCREL in an instruction that a linker may relax (`call *foo@GOTPCREL(%rip)`). We never do: relaxing changes the
  // opcode, and applying the record a second time would then write a distance where the slot's distance is due.
  // errors: none, since a slot is always in reach
  kGotPcRelX = 41,

  // G + A - P: signed 32 bits
  // The same with a REX prefix (`mov foo@GOTPCREL(%rip), %rax`); never relaxed either.
  // errors: none, since a slot is always in reach
  kRexGotPcRelX = 42,
};

enum Field : FieldClass { kRel32, kRel64, kAbs64, kUnsigned32, kSigned32 };

constexpr KindInfo kKinds[] = {
    // number, name, field, slot, branch, bias
    {k64, "R_X86_64_64", kAbs64, false, false},
    {kPc32, "R_X86_64_PC32", kRel32, false, false},
    {kPlt32, "R_X86_64_PLT32", kRel32, false, true, 4},
    {kGotPcRel, "R_X86_64_GOTPCREL", kRel32, true, false},
    {k32, "R_X86_64_32", kUnsigned32, false, false},
    {k32S, "R_X86_64_32S", kSigned32, false, false},
    {kPc64, "R_X86_64_PC64", kRel64, false, false},
    {kGotPcRelX, "R_X86_64_GOTPCRELX", kRel32, true, false},
    {kRexGotPcRelX, "R_X86_64_REX_GOTPCRELX", kRel32, true, false},
};

// Freeze looks up each reloc, so finding one needs no search.
constexpr auto kByNumber = [] {
  std::array<const KindInfo*, 256> table{};
  for (const KindInfo& info : kKinds) table[info.kind] = &info;
  return table;
}();

}  // namespace x86_64

const FieldInfo kFields[] = {
    // bytes, relative, follows, rest
    {4, true, true, 0},    // kRel32
    {8, true, true, 0},    // kRel64
    {8, false, true, 0},   // kAbs64
    {4, false, false, 0},  // kUnsigned32
    {4, false, false, 0},  // kSigned32
};
const int kFieldClassBits = 2;

const char* const kFarKinds = "R_X86_64_GOTPCREL for data, R_X86_64_PLT32 for a branch, or R_X86_64_64";
const char* const kNearKind = "R_X86_64_PC32";

const KindInfo* FindKind(RelocKind kind) { return kind < x86_64::kByNumber.size() ? x86_64::kByNumber[kind] : nullptr; }

const KindInfo* Kinds(size_t* count) {
  *count = std::size(x86_64::kKinds);
  return x86_64::kKinds;
}

uint64_t ValueOf(FieldClass field, uint64_t target, uint64_t site) {
  return kFields[field].relative ? target - site : target;
}

bool Check(const KindInfo& kind, uint64_t value) {
  if (kFields[kind.field].bytes == 8) return true;
  if (kind.field == x86_64::kUnsigned32) return value <= UINT32_MAX;
  return FitsIn<int32_t>(static_cast<int64_t>(value));
}

void Apply(const KindInfo& kind, uint8_t* site, uint64_t value) {
  if (kFields[kind.field].bytes == 8) {
    StoreAs<uint64_t>(site, value);
  } else {
    StoreAs<uint32_t>(site, static_cast<uint32_t>(value));
  }
}

uint64_t Read(const KindInfo& kind, const uint8_t* site) {
  if (kFields[kind.field].bytes == 8) return LoadAs<uint64_t>(site);
  if (kind.field == x86_64::kUnsigned32) return LoadAs<uint32_t>(site);
  return static_cast<uint64_t>(int64_t{LoadAs<int32_t>(site)});
}

uint64_t Beyond(FieldClass field, uint64_t value) {
  return kFields[field].bytes == 8 ? 0 : value & ~uint64_t{UINT32_MAX};
}

uint64_t Shift(FieldClass field, uint8_t* site, uint32_t, const Ends& from, const Ends& to) {
  uint64_t delta = to.target - from.target;
  if (field != x86_64::kAbs64) delta -= to.site - from.site;
  if (field != x86_64::kRel32) {
    StoreAs<uint64_t>(site, LoadAs<uint64_t>(site) + delta);
    return 0;
  }
  uint64_t value = static_cast<uint64_t>(int64_t{LoadAs<int32_t>(site)}) + delta;
  StoreAs<uint32_t>(site, static_cast<uint32_t>(value));
  return Beyond(x86_64::kRel32, value);
}

}  // namespace jit_arena::arch
