// The types that handlers of exceptions catch.
//
// A table of handlers (.gcc_except_table) names a type by a distance to a pointer, and compilers keep that pointer in a
// variable (DW.ref._ZTI…, .L_ZTI….DW.stub): a linker of libraries wants it there. In an arena a variable may hold no
// address of what moves, and the types that an object defines move with its code. Nothing but the tables uses the
// pointers. So they become slots, which are constants beside the code.
#pragma once

#include "object/object_file.h"

namespace jit_arena {

// Once relocs are read. A pointer that something else refers to as well stays as it is.
void KeepTypesInSlots(ObjectFile* file);

}  // namespace jit_arena
