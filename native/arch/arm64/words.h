// arm64: code as a table of instructions, with the assembly beside it. An instruction is a little-endian word of 32
// bits (Arm ARM, B2.6.2), whatever the order of data is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "base/bits.h"

namespace jit_arena::arch::arm64 {

inline constexpr size_t kWordBytes = 4;
inline constexpr uint32_t kUdf = 0;  // udf #0: permanently undefined (C6.2.387)

template <size_t kCount>
void PutWords(uint8_t* out, const uint32_t (&words)[kCount]) {
  for (size_t i = 0; i < kCount; i++) StoreAs<uint32_t>(out + kWordBytes * i, words[i]);
}

}  // namespace jit_arena::arch::arm64
