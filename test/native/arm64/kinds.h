// arm64: reloc kinds for tests that ask only what a field is for.
#pragma once

#include "arch/arch.h"

namespace kinds {

inline constexpr jit_arena::arch::RelocKind kAddress = 257;      // ABS64
inline constexpr jit_arena::arch::RelocKind kNear = 261;         // PREL32
inline constexpr jit_arena::arch::RelocKind kCall = 283;         // CALL26
inline constexpr jit_arena::arch::RelocKind kThroughSlot = 311;  // ADR_GOT_PAGE

}  // namespace kinds
