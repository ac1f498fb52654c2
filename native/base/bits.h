// Units, rounding and unaligned access: the words every layer above shares.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace jit_arena {

inline constexpr size_t kKiB = 1024;
inline constexpr size_t kMiB = 1024 * kKiB;

// The smallest unit that the arena hands out.
inline constexpr uint32_t kGranuleBytes = 16;

// `alignment` is a power of two.
constexpr uint64_t AlignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

constexpr uint64_t AlignDown(uint64_t value, uint64_t alignment) { return value & ~(alignment - 1); }

constexpr bool IsPowerOfTwo(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

constexpr uint32_t GranulesFor(uint64_t bytes) {
  return static_cast<uint32_t>((bytes + kGranuleBytes - 1) / kGranuleBytes);
}

// Unaligned loads and stores; the compiler turns each into one instruction.
template <class T>
T LoadAs(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void StoreAs(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// The two halves of the 128-bit product, folded into one word: every bit of both factors is in every bit of it.
inline uint64_t MultiplyFold(uint64_t a, uint64_t b) {
  __extension__ using Wide128 = unsigned __int128;
  Wide128 product = Wide128{a} * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Brings the cache line of `address` closer, to be written, which takes it away from other cores; or to be read. Of no
// consequence otherwise; any address may be given.
inline void Prefetch(const void* address) { __builtin_prefetch(address, 1); }
inline void PrefetchToRead(const void* address) { __builtin_prefetch(address, 0); }

// True when `value` survives the round trip through the narrower type.
template <class Narrow>
constexpr bool FitsIn(int64_t value) {
  return value == static_cast<int64_t>(static_cast<Narrow>(value));
}

}  // namespace jit_arena
