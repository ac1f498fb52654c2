// Holes by size: lists segregated into bins, found through a bitmap of bitmaps.
//
// Two-level segregated fit after Masmano, Ripoll, Crespo and Real, "TLSF: a New Dynamic Memory Allocator for Real-Time
// Systems" (ECRTS 2004): sizes below 64 granules have a bin each, larger ones 16 bins per power of two, so that a
// fitting hole is found in a bounded number of steps however many there are, and is at most 1/16 too large.
#pragma once

#include <bit>
#include <cstdint>

#include "core/span_table.h"

namespace jit_arena {

class HoleBins {
 public:
  explicit HoleBins(SpanTable& spans) : spans_(spans) {}

  // `before` is the span that the hole follows; its hole_granules are > 0.
  void Insert(SpanId before);
  // With the same hole_granules as at Insert.
  void Remove(SpanId before);

  // The span before a hole of at least `granules`, or 0. The hole stays in its bin.
  SpanId Find(uint32_t granules) const;
  // The span before a hole of the largest bin, or 0.
  SpanId FindLargest() const;

  // For invariants: calls visit(before, bin) for every hole.
  template <class Visit>
  void ForEach(Visit visit) const {
    for (int bin = 0; bin < kBins; bin++)
      for (SpanId id = heads_[bin]; id != 0; id = spans_[id].hole_next) visit(id, bin);
  }
  // The bin that a hole of this length is in.
  static int BinOf(uint32_t granules) {
    if (granules < kExactBins) return static_cast<int>(granules);
    int log = std::bit_width(granules) - 1;  // >= 6
    int split = static_cast<int>(granules >> (log - kSplitBits)) & ((1 << kSplitBits) - 1);
    return kExactBins + ((log - 6) << kSplitBits) + split;
  }

 private:
  static constexpr int kExactBins = 64;
  static constexpr int kSplitBits = 4;  // 16 bins per power of two above
  static constexpr int kBins = kExactBins + ((27 - 6) << kSplitBits) + 1;
  static constexpr int kWords = (kBins + 63) / 64;

  int FirstBinFrom(int bin) const;  // the first bin at or above with a hole, or -1

  SpanTable& spans_;
  SpanId heads_[kBins] = {};
  uint64_t nonempty_[kWords] = {};  // a bit per bin
  uint64_t words_ = 0;              // a bit per word of nonempty_
};

}  // namespace jit_arena
