// IFUNC: functions of which the object has several, and a resolver that says at run time which one is meant.
//
// Each becomes a stub, a jump through 8 bytes of state. Whoever refers to the symbol refers to the stub; the resolver
// runs when the object is installed, and what it gives is written into the state.
#pragma once

#include "object/object_file.h"

namespace jit_arena {

// Adds a section of stubs and one of their state, and the stubs' relocs; moves the symbols there. ObjectFile::ifuncs
// keeps where the resolvers are.
void AddIfuncStubs(ObjectFile* file);

}  // namespace jit_arena
