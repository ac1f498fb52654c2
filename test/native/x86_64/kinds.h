// x86-64: reloc kinds for tests that ask only what a field is for.
#pragma once

#include "arch/arch.h"

namespace kinds {

inline constexpr jit_arena::arch::RelocKind kAddress = 1;      // S + A, 8 bytes
inline constexpr jit_arena::arch::RelocKind kNear = 2;         // S + A - P, 4 bytes, at any site
inline constexpr jit_arena::arch::RelocKind kCall = 4;         // a branch, of 4 bytes
inline constexpr jit_arena::arch::RelocKind kThroughSlot = 9;  // of 4 bytes

}  // namespace kinds
