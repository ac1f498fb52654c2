// The "tiny" workload of TARGETS: log-normal sizes, code median 400 B and p99 8 KB, data median 100 B and p99 1 KB.
#pragma once

#include <cstdint>
#include <vector>

#include "bench.h"
#include "peer.h"

namespace bench {

class TinyWorkload {
 public:
  explicit TinyWorkload(uint64_t seed);

  // Sizes and bytes of one executor, by number; they repeat after kShapes. The bytes come out of a pool that fits into
  // the second-level cache, as a compiler's output has just been written.
  Bytes operator[](uint64_t number) const {
    const Shape& shape = shapes_[number % kShapes];
    return {pool_.data() + shape.code_at, shape.code_bytes, pool_.data() + shape.data_at, shape.data_bytes};
  }
  static constexpr uint32_t kShapes = 1 << 16;

 private:
  struct Shape {
    uint32_t code_at, code_bytes, data_at, data_bytes;
  };
  std::vector<Shape> shapes_;
  std::vector<uint8_t> pool_;
};

}  // namespace bench
