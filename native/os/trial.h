// Trying a writer: the same for every OS, so that "works here" means one thing everywhere.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "os/memory.h"

namespace jit_arena::os {

enum class Trial : uint8_t {
  kQuick,     // what one arena needs: a few dozen system calls
  kThorough,  // looks at the process's mappings too, which takes milliseconds where there are thousands of them
};

// Uses `memory` the way an arena does, on a few scratch pages: writes a function, executes it, rewrites it, executes
// it again, punches and restores; a thorough trial makes sure that nothing is mapped writable and executable. Returns
// the first thing that does not work.
//
// `executable` says whether the page at an address really is (a kernel may drop the permission in silence, and a jump
// there would be the end of the process); null where the OS cannot tell. Asked by a thorough trial only.
Status TryMemory(Memory& memory, Trial trial, bool (*executable)(const uint8_t* at));

// What each OS implements in the place of OpenMemory: a Memory that has passed TryMemory, or the reason why there is
// none. Write and CloseWindow may not fail, so an OS where they can be refused tries those by itself before. OpenMemory
// asks for a thorough trial of each writer once per process.
Result<std::unique_ptr<Memory>> OpenWriter(WriterKind kind, Trial trial);

}  // namespace jit_arena::os
