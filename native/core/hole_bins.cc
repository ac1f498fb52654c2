#include "core/hole_bins.h"

#include <bit>

namespace jit_arena {

SpanId HoleBins::FirstFrom(uint32_t bin) const {
  uint32_t word = bin / 64;
  uint64_t bins = nonempty_[word] & (~uint64_t{0} << (bin % 64));
  if (bins == 0) {
    uint64_t later = words_ & (~uint64_t{0} << (word + 1));
    if (later == 0) return 0;
    word = static_cast<uint32_t>(std::countr_zero(later));
    bins = nonempty_[word];
  }
  return heads_[word * 64 + static_cast<uint32_t>(std::countr_zero(bins))];
}

SpanId HoleBins::Find(uint32_t granules) const {
  uint32_t bin = BinOf(granules);
  // Holes of the request's own bin may be a little too short; the first few are worth a look, since a hole that just
  // fits is the one that packs best.
  if (granules >= kExactBins) {
    int looks = 4;
    for (SpanId id = heads_[bin]; id != 0 && looks > 0; id = spans_[id].hole_next, looks--)
      if (spans_[id].hole_granules >= granules) return id;
    bin++;
  }
  return FirstFrom(bin);
}

SpanId HoleBins::FindLargest() const {
  if (words_ == 0) return 0;
  uint32_t word = 63 - static_cast<uint32_t>(std::countl_zero(words_));
  return heads_[word * 64 + 63 - static_cast<uint32_t>(std::countl_zero(nonempty_[word]))];
}

}  // namespace jit_arena
