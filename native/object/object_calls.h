// What an object wants to have called before anything else of it, and after: its constructors and destructors, in the
// order in which a linker and the C library would call them.
//
// Addresses stand in .init_array and .fini_array, in older objects in .ctors and .dtors. A number behind the name is a
// priority: lower ones come first, those without come last. .ctors.N has the priority 65535 - N, and is read backwards.
// Destructors are called in the opposite order.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "object/object_file.h"

namespace jit_arena {

// A function as a symbol of the object, and a distance from it.
struct ObjectCall {
  uint32_t symbol;
  int64_t addend;
};

struct ObjectCalls {
  std::vector<ObjectCall> constructors;
  std::vector<ObjectCall> destructors;
};

// Whether a section of this name has such addresses.
bool HasCalls(std::string_view name);

// ERR_ARENA_OBJECT for an entry that is no address.
Result<ObjectCalls> ReadCalls(const ObjectFile& file);

}  // namespace jit_arena
