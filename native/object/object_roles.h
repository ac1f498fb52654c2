// What a section of an object is for, told from its header and its name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "object/object_file.h"

namespace jit_arena {

// Section types and flags: gABI figures 4-9 and 4-11.
enum : uint32_t {
  kElfNull = 0,
  kElfProgBits = 1,
  kElfSymTab = 2,
  kElfStrTab = 3,
  kElfRela = 4,
  kElfNote = 7,
  kElfNoBits = 8,
  kElfRel = 9,
  kElfInitArray = 14,
  kElfFiniArray = 15,
  kElfPreinitArray = 16,
  kElfGroup = 17,
  kElfSymTabIndexes = 18,
  kElfGnuAttributes = 0x6FFFFFF5,
  kElfLlvmFirst = 0x6FFF4C00,  // metadata, none of it loaded: SHT_LLVM_ODRTAB …
  kElfLlvmLast = 0x6FFF4C0F,
};
enum : uint64_t {
  kElfWrite = 1,
  kElfAlloc = 2,
  kElfExecute = 4,
  kElfThreadLocal = 0x400,
  kElfCompressed = 0x800,
};

struct SectionHeader {
  uint32_t name;
  uint32_t type;
  uint64_t flags;
  uint64_t offset;
  uint64_t size;
  uint32_t link;
  uint32_t info;
  uint64_t align;
  uint64_t entry_size;
};

// For messages: `section 5 '.text'`. Names in hostile objects are long and not always text.
std::string NamedSection(uint32_t index, std::string_view name);

// ERR_ARENA_OBJECT_UNSUPPORTED for what an arena does not have.
Result<ObjectRole> RoleOf(const SectionHeader& header, uint32_t index, std::string_view name, ReadFor read_for);

inline bool StartsWith(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

}  // namespace jit_arena
