// The checksum that says whether code and data still are what was frozen.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bits.h"

namespace jit_arena {

// Four independent multiply-xor lanes over 64-bit words (the shape of FNV, widened so that the multiplications
// overlap): about 8 bytes a cycle, and any changed bit changes the result. Against accidents, not against attackers.
inline uint64_t Checksum(uint64_t seed, const uint8_t* bytes, size_t count) {
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, odd
  uint64_t lanes[4] = {seed ^ count, seed + 1, seed + 2, seed + 3};
  size_t at = 0;
  for (; at + 32 <= count; at += 32)
    for (int lane = 0; lane < 4; lane++) lanes[lane] = (lanes[lane] ^ LoadAs<uint64_t>(bytes + at + 8 * lane)) * kPrime;
  for (int lane = 0; at < count; lane = (lane + 1) % 4) {
    size_t left = count - at < 8 ? count - at : 8;
    uint64_t word = 0;
    std::memcpy(&word, bytes + at, left);
    lanes[lane] = (lanes[lane] ^ word) * kPrime;
    at += left;
  }
  uint64_t sum = lanes[0];
  for (int lane = 1; lane < 4; lane++) sum = (sum ^ (sum >> 29) ^ lanes[lane]) * kPrime;
  return sum ^ (sum >> 32);
}

}  // namespace jit_arena
