// The checksum that says whether code and data still are what was frozen.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bits.h"

namespace jit_arena {

// Four independent lanes, each folding 16 bytes a step by one full multiplication (the shape of wyhash), so that the
// multiplications overlap: about 12 bytes a cycle. A changed bit stays unseen with a chance of about 2^-64, whatever
// the other bytes are, unless they were chosen to that end: against accidents, not against attackers. Of no bytes it is
// the seed.
inline uint64_t Checksum(uint64_t seed, const uint8_t* bytes, size_t count) {
  if (count == 0) return seed;
  // Random, and on purpose no well-known constant: a word equal to kKey would blank out its neighbour.
  constexpr uint64_t kKey = 0xa3b1d96e4c5f8727;
  auto fold = [](uint64_t lane, uint64_t first, uint64_t second) { return MultiplyFold(first ^ kKey, second ^ lane); };
  auto step = [&](uint64_t lane, const uint8_t* from) {
    return fold(lane, LoadAs<uint64_t>(from), LoadAs<uint64_t>(from + 8));
  };
  uint64_t a = seed ^ 0x5d0b6c92f1e3a84b, b = seed ^ 0xc86f13a7295be4d1, c = seed ^ 0x1f94e7d35a60b8cf,
           d = seed ^ 0x72ad48c60e9b35f3;
  const uint8_t* end = bytes + count;
  auto step_all = [&](const uint8_t* from) {
    a = step(a, from);
    b = step(b, from + 16);
    c = step(c, from + 32);
    d = step(d, from + 48);
  };
  // A tail counts together with bytes before it, which are in already: one exit that cannot be foreseen, not three.
  if (count >= 64) {
    for (; end - bytes > 64; bytes += 64) step_all(bytes);
    step_all(end - 64);
  } else {
    for (; end - bytes > 16; bytes += 16) a = step(a, bytes);
    if (count >= 16) {
      b = step(b, end - 16);
    } else {
      uint64_t words[2] = {};
      std::memcpy(words, bytes, count);
      b = fold(b, words[0], words[1]);
    }
  }
  return fold(fold(a, b, c), d, count);
}

// What the checksum adds for the field at `site`, whose value in normal form has bits beyond it (arch::Beyond): the
// field would look the same after it had wrapped. Sums of these count in any order, as the fields come.
inline uint64_t ChecksumBeyond(uint32_t site, uint64_t beyond) {
  return MultiplyFold(beyond ^ 0x9b1f6e27d48c53a1, site ^ 0xe4c2075d91a83b6f);
}

}  // namespace jit_arena
