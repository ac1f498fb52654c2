// What a linker would define for an object.
#pragma once

#include "base/status.h"
#include "object/object_file.h"

namespace jit_arena {

// A linker defines __start_NAME and __stop_NAME, where something refers to them, as the ends of the section NAME.
// Only names that are C identifiers come into it: others cannot be part of such a symbol's name in C.
// `sections`: those that are in the object. ERR_ARENA_OBJECT_UNSUPPORTED where two have the name.
Status DefineSectionEnds(ObjectFile* file, uint32_t sections);

// Of C++: what tells one shared object from another, here one install (install_exits.h).
void DefineDsoHandle(ObjectFile* file);

}  // namespace jit_arena
