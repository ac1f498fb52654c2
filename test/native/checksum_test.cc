// The checksum must see every flipped bit and every exchange, at every length.
#include "core/checksum.h"

#include <cstdint>
#include <set>
#include <vector>

#include "test.h"

using namespace jit_arena;

namespace {

// What an executor's record keeps.
uint32_t Sum(const std::vector<uint8_t>& bytes, uint64_t seed = 0) {
  return static_cast<uint32_t>(Checksum(seed, bytes.data(), bytes.size()));
}

std::vector<uint8_t> Bytes(size_t count, int pattern) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; i++)
    bytes[i] = pattern == 0 ? 0 : pattern == 1 ? 0xff : static_cast<uint8_t>((i * 0x9e3779b97f4a7c15) >> 56);
  return bytes;
}

}  // namespace

TEST(checksum_sees_every_flipped_bit) {
  for (int pattern = 0; pattern < 3; pattern++)
    for (size_t count = 1; count <= 160; count++) {
      std::vector<uint8_t> bytes = Bytes(count, pattern);
      uint32_t sum = Sum(bytes);
      for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        CHECK(Sum(bytes) != sum);
        bytes[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      }
    }
}

TEST(checksum_sees_every_exchange_of_words) {
  // Every exchange of two 8-byte words, within a step, between lanes and between steps.
  std::vector<uint8_t> bytes = Bytes(272, 2);
  uint32_t sum = Sum(bytes);
  for (size_t a = 0; a < bytes.size(); a += 8)
    for (size_t b = a + 8; b < bytes.size(); b += 8) {
      std::vector<uint8_t> exchanged = bytes;
      for (size_t i = 0; i < 8; i++) std::swap(exchanged[a + i], exchanged[b + i]);
      CHECK(Sum(exchanged) != sum);
    }
}

TEST(checksum_depends_on_length_and_seed) {
  std::set<uint32_t> sums;
  for (size_t count = 1; count <= 300; count++) sums.insert(Sum(Bytes(count, 0)));
  for (uint64_t seed = 1; seed <= 300; seed++) sums.insert(Sum(Bytes(40, 0), seed));
  CHECK_EQ(sums.size(), 600);
  CHECK_EQ(Checksum(77, nullptr, 0), 77);  // so that an executor without data needs no second sum
}
