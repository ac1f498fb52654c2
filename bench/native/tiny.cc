#include "tiny.h"

#include <cmath>

namespace bench {
namespace {

constexpr double kP99Deviations = 2.3263;  // of the normal distribution
constexpr uint32_t kMaxCodeBytes = 64 * 1024;
constexpr uint32_t kMaxDataBytes = 16 * 1024;
constexpr uint32_t kStarts = 64 * 1024;  // where in the pool bytes may begin

uint32_t LogNormal(Random* random, double median, double p99, uint32_t max) {
  double deviation = std::log(p99 / median) / kP99Deviations;
  double bytes = median * std::exp(deviation * random->Normal());
  return static_cast<uint32_t>(std::min<double>(std::max(bytes, 1.0), max));
}

}  // namespace

TinyWorkload::TinyWorkload(uint64_t seed) : shapes_(kShapes), pool_(kStarts + kMaxCodeBytes) {
  Random random(seed, 1);
  for (uint8_t& byte : pool_) byte = static_cast<uint8_t>(random.U64());
  for (Shape& shape : shapes_) {
    shape.code_bytes = LogNormal(&random, 400, 8192, kMaxCodeBytes);
    shape.data_bytes = LogNormal(&random, 100, 1024, kMaxDataBytes);
    shape.code_at = random.Below(kStarts);
    shape.data_at = random.Below(kStarts);
  }
}

}  // namespace bench
