// What the unwinder has to know of an object's code: how a frame of each function is left, and where exceptions are
// handled. DWARF 4, 6.4.1; LSB 5.0, 10.6 (.eh_frame and its encodings of pointers).
//
// The object's own table counts from where it lies. It is written anew with absolute addresses of 8 bytes, which relocs
// describe: core/frame_tables.h makes a table of it for each place of the code. Instructions for a frame are copied as
// they are.
//
// Compilers refer to the personality routine through a pointer in a variable (DW.ref.…). The new table has the
// routine's own address, since the variable may move.
//
// Some unwinders find a table by the run of addresses from its lowest to its highest (gcc 13). So each unit with code
// has a table of its own, which names no address beyond that code: the entries are kept apart until there are units.
#pragma once

#include "base/status.h"
#include "object/object_file.h"

namespace jit_arena {

// Makes ObjectFile::frames of the sections of the role kUnwind. ERR_ARENA_OBJECT for what is no such table;
// ERR_ARENA_OBJECT_UNSUPPORTED for encodings that no compiler uses. An object that neither throws nor handles
// exceptions does without a table that cannot be read.
Status AddUnwindTable(ObjectFile* file);

}  // namespace jit_arena
