// A relocatable ELF64 object as plain values: sections, symbols and relocs, all of them checked.
//
// The bytes may come from anywhere: nothing outside them is read, no header is believed, and no sum wraps. What passes
// has sections within the bytes, relocs within their sections, symbols within their sections and kinds that an arena
// keeps. Whatever does not is ERR_ARENA_OBJECT with what is wrong and where; relocs of other kinds are
// ERR_ARENA_RELOC_KIND; thread-local storage, sections of unknown types and objects without machine code (LTO) are
// ERR_ARENA_OBJECT_UNSUPPORTED.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arch/arch.h"
#include "arch/object_relocs.h"
#include "base/status.h"

namespace jit_arena {

// What a section becomes in an executor.
enum class ObjectRole : uint8_t {
  kIgnored,  // not loaded: symbols, debug information, .comment, .note, .eh_frame
  kUnwind,   // not loaded as it is: .eh_frame (object_unwind.h)
  kCalls,    // not loaded: addresses of constructors and destructors (object_calls.h)
  kCode,     // executable
  kData,     // read-only, or so once relocated (.data.rel.ro)
  kState,    // writable: .data, .bss, COMMON
};

inline bool IsLoaded(ObjectRole role) { return role >= ObjectRole::kCode; }

inline Section SectionOfRole(ObjectRole role) {
  return role == ObjectRole::kCode ? Section::kCode : role == ObjectRole::kData ? Section::kData : Section::kState;
}

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
  bool is_ifunc = false;  // the place is its resolver's, until there are stubs (object_ifuncs.h)
  uint32_t section = 0;   // for kSection
  uint64_t value = 0;     // offset in the section, up to its size; or the absolute value
  uint64_t size = 0;      // as the object says it: not checked
};

struct ObjectReloc {
  uint32_t offset;       // the field lies within the section
  arch::RelocKind kind;  // one that an arena keeps
  GotUse got;
  uint16_t number;  // the kind's, as the object has it: another one where the arena keeps a kind in its place
  uint32_t symbol;  // in ObjectFile::symbols; not 0 unless absolute 0 or the base is meant
  int64_t addend;
};

inline constexpr uint32_t kNoIndex = ~uint32_t{0};

// Views point into the bytes that were read, and last as long as they do.
struct ObjectFile {
  std::vector<ObjectSection> sections;  // as numbered in the object; COMMON and the like are added at the end
  std::vector<ObjectSymbol> symbols;    // as numbered in the object; symbol 0 is always there
  std::vector<ObjectReloc> relocs;      // of sections that are not ignored, grouped by section and sorted by offset
  struct Ifunc {
    std::string_view name;
    uint32_t section;  // of the resolver
    uint64_t value;
  };
  std::vector<Ifunc> ifuncs;
  uint32_t ifunc_slots = kNoIndex;  // the section of their state
  // The unwinder's table: object_unwind.h.
  struct Frames {
    // Of a function, or what functions have in common.
    struct Entry {
      uint32_t at;  // in bytes
      uint32_t size;
      uint32_t common;       // of a function: its entry; kNoIndex for what is common
      uint32_t section;      // of the function's code
      uint32_t first_reloc;  // in relocs
      uint32_t reloc_count;
    };
    std::vector<uint8_t> bytes;
    std::vector<ObjectReloc> relocs;  // absolute addresses of 8 bytes; the offsets are in bytes
    std::vector<Entry> entries;       // what is common before the first function that has it
    bool needed = false;              // the object throws or handles exceptions
  };
  Frames frames;
  std::vector<std::vector<uint8_t>> made_bytes;  // of sections that are not in the object
  uint32_t dso_handle = kNoIndex;  // the section of 8 bytes that an object with something to call at its end has
};

// The section itself, or one of the -ffunction-sections kind: ".data" and ".data.x", not ".database".
inline bool IsOrIsUnder(std::string_view name, std::string_view parent) {
  return name.substr(0, parent.size()) == parent && (name.size() == parent.size() || name[parent.size()] == '.');
}

// A section of tables that say where exceptions are handled.
inline bool HoldsHandlers(std::string_view section_name) { return IsOrIsUnder(section_name, ".gcc_except_table"); }

// The first reloc of a section whose field begins in the range, or null.
inline const ObjectReloc* FindReloc(const ObjectFile& file, uint32_t section, uint64_t from, uint64_t end) {
  const ObjectReloc* first = file.relocs.data() + file.sections[section].first_reloc;
  const ObjectReloc* last = first + file.sections[section].reloc_count;
  const ObjectReloc* found = std::lower_bound(
      first, last, from, [](const ObjectReloc& reloc, uint64_t offset) { return reloc.offset < offset; });
  return found != last && found->offset < end ? found : nullptr;
}

// The reloc of a pointer: of 8 bytes at this place that hold an address; or null.
inline const ObjectReloc* FindPointer(const ObjectFile& file, uint32_t section, uint64_t offset) {
  const ObjectReloc* found = FindReloc(file, section, offset, offset + 1);
  bool is_pointer = found != nullptr && found->kind == kObjectAbsolute64 && found->got == GotUse::kNone;
  return is_pointer ? found : nullptr;
}

// The most that an object's code, data and state may take, each and together: no arena is larger.
inline constexpr uint64_t kMaxObjectBytes = uint64_t{1} << 31;

// What is to be made of the object.
enum class ReadFor : uint8_t {
  kExecutors,
  // The kinds that count from the base of a GOT are refused, since nobody says which part it lies in, and so are
  // constructors and IFUNC.
  kStencils,
};

Result<ObjectFile> ReadObject(const uint8_t* bytes, size_t size, ReadFor read_for);

}  // namespace jit_arena
