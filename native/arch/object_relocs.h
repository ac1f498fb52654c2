// What a CPU's relocatable ELF files have beyond the kinds that an arena keeps: the machine's numbers, kinds that use a
// GOT, how an instruction uses a field, and with which jump code ends. The .cc files in the CPU's folder implement it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arch/arch.h"

namespace jit_arena {

// How a reloc uses the GOT, which an arena does not have: a slot is a constant beside the code, and the base from which
// code counts is a place in that code (object/object_units.h). G is the slot's address, GOT the base.
enum class GotUse : uint8_t {
  kNone,
  kSlot,          // G + A - P
  kBase,          // GOT + A - P
  kFromBase,      // S + A - GOT
  kSlotFromBase,  // G + A - GOT
};

inline bool CountsFromBase(GotUse use) { return use != GotUse::kNone && use != GotUse::kSlot; }

extern const uint16_t kObjectMachine;        // e_machine
extern const uint32_t kObjectUnwindSection;  // the type that the psABI has for .eh_frame alone; 0: it has none
extern const uint16_t kObjectLargeCommon;    // st_shndx of a common symbol of the large code model; 0: there is none

// The psABI's name of a reloc kind that arch::FindKind does not know, for messages; null when there is none.
const char* ObjectKindName(uint32_t kind);
bool IsThreadLocalKind(uint32_t kind);
// The kind that an arena keeps instead of one that uses a GOT; null when there is none.
struct GotKind {
  uint16_t number;  // the psABI's
  arch::RelocKind kind;
  GotUse use;
};
const GotKind* FindGotKind(uint32_t number);
inline constexpr uint32_t kObjectKindNone = 0;   // a reloc that changes nothing, on every CPU
extern const arch::RelocKind kObjectAbsolute64;  // an 8-byte address, such as a slot holds
// What an instruction has for a slot beside its code instead of a kind that goes through a slot of the arena's.
arch::RelocKind KindOfSlotBeside(arch::RelocKind through_slot);

// How a field is used, told from the instruction around it. Never changes what is written: it decides only whether an
// address can escape (object/object_units.h), and what is not understood counts as if it could.
enum class SiteUse : uint8_t {
  kBranch,   // call or jump to the target, or through the slot that holds it
  kAccess,   // loads or stores at the target
  kAddress,  // takes the target's address
  kUnknown,  // none of these for sure
};
SiteUse UseOfCodeSite(arch::RelocKind kind, const uint8_t* section, uint32_t size, uint32_t offset);

// Assemblers leave no reloc where an instruction takes the address of something in its own section. The first such
// instruction with its field at `*site` or later: sets the field's offset and the target's. What only looks like one is
// found too. False when there is none.
bool FindOwnAddress(const uint8_t* section, uint32_t size, uint32_t* site, uint32_t* target);

// A jump to the address that 8 bytes elsewhere hold. Its fields are for their address.
inline constexpr uint32_t kSlotBytes = 8;
extern const uint32_t kSlotJumpBytes;  // a power of two, with padding
struct SlotJumpField {
  uint32_t at;
  arch::RelocKind kind;
  int64_t addend;
};
extern const SlotJumpField kSlotJumpFields[];
extern const uint32_t kSlotJumpFieldCount;
void WriteSlotJump(uint8_t* out);

// The jump to the address in a field with which code ends; what a compiler makes of a call in tail position.
struct EndingJump {
  size_t bytes = 0;   // that it takes; 0: the code does not end with one
  size_t second = 0;  // where its second instruction begins; 0: it has one
};
// The field is the last of the code, of this kind and with this addend, at `site`.
EndingJump FindEndingJump(const uint8_t* code, size_t size, arch::RelocKind kind, size_t site, int64_t addend);
// True when any bytes of the code, read as a branch, go to `offset`.
bool MayBranchTo(const uint8_t* code, size_t size, size_t offset);

}  // namespace jit_arena
