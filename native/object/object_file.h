// A relocatable ELF64 object as plain values: sections, symbols and relocs, all of them checked.
//
// The bytes may come from anywhere: nothing outside them is read, no header is believed, and no sum wraps. What passes
// has sections within the bytes, relocs within their sections, symbols within their sections and kinds that an arena
// keeps. Whatever does not is ERR_ARENA_OBJECT with what is wrong and where; relocs of other kinds are
// ERR_ARENA_RELOC_KIND; thread-local storage, constructors, IFUNC, handlers of exceptions, sections of unknown types
// and objects without machine code (LTO) are ERR_ARENA_OBJECT_UNSUPPORTED.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"

namespace jit_arena {

// What a section becomes in an executor.
enum class ObjectRole : uint8_t {
  kIgnored,  // not loaded: symbols, debug information, .comment, .note, .eh_frame
  kCode,     // executable
  kData,     // read-only, or so once relocated (.data.rel.ro)
  kState,    // writable: .data, .bss, COMMON
};

struct ObjectSection {
  std::string_view name;
  ObjectRole role = ObjectRole::kIgnored;
  uint32_t size = 0;
  uint32_t align = 1;              // a power of two
  const uint8_t* bytes = nullptr;  // null: all zero (.bss)
  uint32_t first_reloc = 0;        // in ObjectFile::relocs
  uint32_t reloc_count = 0;
};

struct ObjectSymbol {
  enum class Place : uint8_t { kSection, kAbsolute, kUndefined };
  std::string_view name;  // of a section's own symbol: the section's
  Place place = Place::kUndefined;
  bool global = false;  // visible outside the object; weak ones too
  bool weak = false;
  bool is_function = false;
  bool is_section = false;
  uint32_t section = 0;  // for kSection
  uint64_t value = 0;    // offset in the section, up to its size; or the absolute value
  uint64_t size = 0;     // as the object says it: not checked
};

// How a reloc uses the GOT, which an arena does not have: a slot is a constant beside the code, and the base from which
// code counts is a place in that code (object_units.h). G is the slot's address, GOT the base.
enum class GotUse : uint8_t {
  kNone,
  kSlot,          // G + A - P
  kBase,          // GOT + A - P
  kFromBase,      // S + A - GOT
  kSlotFromBase,  // G + A - GOT
};

inline bool CountsFromBase(GotUse use) { return use != GotUse::kNone && use != GotUse::kSlot; }

struct ObjectReloc {
  uint32_t offset;       // the field lies within the section
  arch::RelocKind kind;  // one that an arena keeps
  GotUse got;
  uint8_t number;   // the kind's, as the object has it: another one where the arena keeps a kind in its place
  uint32_t symbol;  // in ObjectFile::symbols; not 0 unless absolute 0 or the base is meant
  int64_t addend;
};

// Views point into the bytes that were read, and last as long as they do.
struct ObjectFile {
  std::vector<ObjectSection> sections;  // as numbered in the object; COMMON is added at the end
  std::vector<ObjectSymbol> symbols;    // as numbered in the object; symbol 0 is always there
  std::vector<ObjectReloc> relocs;      // of loaded sections, grouped by section and sorted by offset
};

// The most that an object's code, data and state may take, each and together: no arena is larger.
inline constexpr uint64_t kMaxObjectBytes = uint64_t{1} << 31;

// What becomes of the kinds of the large and the medium code model that count from the base of a GOT.
enum class GotKinds : uint8_t {
  kReplaced,  // by kinds that an arena keeps, with a GotUse
  kRefused,
};

Result<ObjectFile> ReadObject(const uint8_t* bytes, size_t size, GotKinds got_kinds);

// What differs between CPUs: one file each.
extern const uint16_t kObjectMachine;  // e_machine

// The psABI's name of a reloc kind that arch::FindKind does not know, for messages; null when there is none.
const char* ObjectKindName(uint32_t kind);
bool IsThreadLocalKind(uint32_t kind);
// The kind that an arena keeps instead of one that uses a GOT; null when there is none.
struct GotKind {
  uint8_t number;  // the psABI's
  arch::RelocKind kind;
  GotUse use;
};
const GotKind* FindGotKind(uint32_t number);
inline constexpr uint32_t kObjectKindNone = 0;   // a reloc that changes nothing, on every CPU
extern const arch::RelocKind kObjectAbsolute64;  // an 8-byte address, such as a slot holds
extern const arch::RelocKind kObjectRelative32;  // what an instruction that uses a slot beside its code has

// How a field is used, told from the instruction around it. Never changes what is written: it decides only whether an
// address can escape (object_units.h), and what is not understood counts as if it could.
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

}  // namespace jit_arena
