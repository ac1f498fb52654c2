// What the unwinder has to know of an object's code: how a frame of each function is left, and where exceptions are
// handled. DWARF 4, 6.4.1; LSB 5.0, 10.6 (.eh_frame and its encodings of pointers).
//
// The object's own table counts from where it lies, and the unwinder reads it as long as it is registered, also in a
// forked child that has no arena. So the table is written anew with absolute addresses, as constants of the object: the
// arena fills them in, and an install copies what it finds there to memory of its own. What an instruction for a frame
// says is copied as it is. The addresses in the copy stay what they were: the code does not move.
//
// The unwinder looks for an address in the one table whose lowest address is next below it (gcc 12), or in the one that
// it keeps for a whole range (gcc 13). So the code of a table is one executor, and a table names no address beyond it.
#pragma once

#include "base/status.h"
#include "object/object_file.h"

namespace jit_arena {

// Sections of the role kUnwind become one section of data, ObjectFile::unwind, with a 0 at its end. ERR_ARENA_OBJECT
// for what is no such table; ERR_ARENA_OBJECT_UNSUPPORTED for encodings that no compiler uses.
Status AddUnwindTable(ObjectFile* file);

}  // namespace jit_arena
