// What a relocatable object becomes: units, one executor each.
//
// Which sections go together
// - Code: sections of the same function (.text.f, .text.unlikely.f, .text.hot.f) are one unit, and so are .text,
//   .text.unlikely, .text.hot, .text.startup and .text.exit of an object without -ffunction-sections.
// - A constant that holds a distance (a relative reloc), as jump tables do, is one unit with what it measures to.
// - Other data and state belong to the unit that uses them first, in the order of the sections in the object, directly
//   or through data of its own; the other users refer to them across executors. What nobody uses belongs to the first.
// - Code that counts from the base of a GOT, as the large code model does, is one unit, and the base is the first byte
//   of that unit's code.
// - A function is one unit with the table of its handlers of exceptions.
// An object without code gets one unit whose code is a trap.
//
// What may move
// An address that was taken can be kept where no collector rewrites it: in a variable, on the stack of a caller, in
// foreign memory. A unit is not movable when the object takes the address of its code, data or state: with a reloc that
// is no branch to code, with lea or a slot, as a constant or in a variable. Loads, stores and branches take none, nor
// do the tables of exception handlers: the unwinder forgets what it read in them when the call is over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/frame_tables.h"
#include "core/spec.h"
#include "object/object_file.h"

namespace jit_arena {

// A reloc in the words of core/spec.h. Its own and other units' sections are named by kOwnCode … kOwnState, and by
// kBatchMember for the order in which the units stand. Unless `asked` is kNoIndex, the host is asked for asked[asked],
// and what it gives sets target_kind, target and the target's section and offset; where it gives nothing, a reloc to a
// weak definition keeps what it has.
struct UnitReloc {
  RelocSpec spec;
  uint32_t asked = kNoIndex;
  bool takes_address = false;  // more than a branch, a load or a store at the target
};

struct ObjectUnit {
  std::string_view name;                  // of its first function, or of its first section
  std::vector<uint8_t> bytes[kSections];  // the rest of a section, up to its size, is zero
  uint32_t sizes[kSections] = {};
  uint32_t aligns[kSections] = {16, 8, 16};
  std::vector<UnitReloc> relocs;  // by section and offset
  std::vector<uint32_t> entries;  // offsets in code of global functions; one of 0 when there is none
  // What the unwinder is told, or nothing. The table gets the addresses that are asked for once they are known.
  struct AskedOfFrames {
    uint32_t at;  // in the table: 8 bytes
    uint32_t asked;
    int64_t addend;
  };
  FrameTable frames;
  std::vector<AskedOfFrames> frames_ask;
  bool movable = true;  // unless a reason says otherwise
};

// A global symbol that the object defines.
struct ObjectExport {
  std::string_view name;
  uint32_t unit;
  Section section;
  uint32_t offset;
  uint64_t size;              // as the object says it
  uint32_t entry = kNoIndex;  // in the unit's entries: a function
  bool weak = false;
};

// A symbol that somebody else may have to provide: one that is undefined, or a weak definition, of which another object
// may have the one instance.
struct AskedSymbol {
  std::string_view name;
  bool weak = false;     // undefined and weak: 0 when nobody has it
  bool defined = false;  // a weak definition: the object's own when nobody else has it
};

// A function that is to be called before anything else of the object, or after.
struct CalledEntry {
  uint32_t unit;
  uint32_t entry;  // in the unit's entries
};

// 8 bytes of state, which are written when the object is installed.
struct StatePlace {
  uint32_t unit;
  uint32_t offset;
};

// A function of which a resolver tells the address (object_ifuncs.h).
struct IfuncPlace {
  std::string_view name;
  CalledEntry resolver;
  StatePlace slot;
};

struct ImmovableReason {
  uint32_t unit;     // that is not movable
  std::string text;  // what takes an address of it, where
};

// Names are views of the bytes that the object was read from.
struct ObjectUnits {
  std::vector<ObjectUnit> units;
  std::vector<ObjectExport> exports;  // in the order of the object's symbols; names are distinct
  std::vector<AskedSymbol> asked;     // that relocs of the units refer to; names are distinct
  std::vector<ImmovableReason> reasons;
  std::vector<CalledEntry> constructors;  // in the order in which they are to be called
  std::vector<CalledEntry> destructors;
  std::optional<StatePlace> dso_handle;  // of an object that has these, or registers calls of its own: install_exits.h
  std::vector<IfuncPlace> ifuncs;
  bool needs_unwinder = false;  // the object throws or handles exceptions
  // The name of a type that is compared by the address of its name (one of an anonymous namespace, by gcc), or empty.
  // In two copies of the object it would be two types.
  std::string_view compared_by_address;
};

// ERR_ARENA_OBJECT for what a compiler never makes: a symbol defined twice, a constructor that is no function, or a
// unit larger than any arena; and for an object that needs too much memory (object_limits.h).
Result<ObjectUnits> MakeUnits(const ObjectFile& file);

}  // namespace jit_arena
