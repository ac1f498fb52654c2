// A CPU that there is not, so that what only other CPUs have is tested on this one: instructions are words of 32 bits,
// a branch reaches ±128 MiB, and an address is made in two steps, of a page and what is left of it, as on AArch64.
#pragma once

#include "arch/arch.h"

namespace fake_cpu {

// Names in words, since there is no psABI.
enum Number : jit_arena::arch::RelocKind {
  kAddress = 1,   // S + A, 8 bytes
  kBranch = 2,    // S + A - P, 28 bits in two pieces: value bits 0..11 at bit 20, bits 12..27 at bit 4
  kPage = 3,      // Page(S + A) - Page(P), bits 12..32 in two pieces: value bits 12..13 at bit 29, bits 14..32 at bit 5
  kInPage = 4,    // S + A, its lowest 12 bits, at bit 10
  kSlotPage = 5,  // kPage of G
  kSlotInPage = 6  // kInPage of G
};

}  // namespace fake_cpu
