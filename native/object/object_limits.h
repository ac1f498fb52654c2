// How much memory an object may need, told from its tables before anything is made of them.
//
// A compiler's object needs a few times its own bytes. One that somebody made by hand may need any number of times as
// much: names may overlap in a string table, and alignments cost nothing in the file. Such an object is
// ERR_ARENA_OBJECT where it passes what no compiler comes near; so is one that would need more than kMaxObjectNeeds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "object/object_file.h"

namespace jit_arena {

// For loading one object, in bytes.
inline constexpr uint64_t kMaxObjectNeeds = uint64_t{1} << 30;

// What the names of global and undefined symbols may add up to: so many times the object's bytes. They are distinct, so
// that a string table can share no more than their ends; and a symbol's record has 24 bytes, so that names of up to 96
// on average pass whatever they share. No name of a local symbol is kept.
inline constexpr uint64_t kMaxNameTimes = 4;
inline uint64_t MaxNameBytes(uint64_t object_bytes) { return kMaxNameTimes * object_bytes; }

// What the alignments of the sections with bytes may add up to: 64 times the object, which no section aligned to a
// page or less can reach (its header alone has 64 bytes), at least 1 MiB for objects of a few sections.
inline uint64_t MaxPadding(uint64_t object_bytes) {
  return std::min((uint64_t{1} << 20) + 64 * object_bytes, uint64_t{1} << 26);
}

// ERR_ARENA_OBJECT when the object's units with so many reasons (ImmovableReason), and what a host keeps of them, would
// need more than kMaxObjectNeeds.
Status CheckNeeds(const ObjectFile& file, size_t reasons);

}  // namespace jit_arena
