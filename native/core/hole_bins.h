// Holes by size: lists segregated into bins, found through a bitmap of bitmaps.
//
// Two-level segregated fit after Masmano, Ripoll, Crespo and Real, "TLSF: a New Dynamic Memory Allocator for Real-Time
// Systems" (ECRTS 2004): sizes below 64 granules have a bin each, larger ones 16 bins per power of two, so that a
// fitting hole is found in a bounded number of steps however many there are, and is at most 1/16 too large.
#pragma once

#include <bit>
#include <cstdint>

#include "base/bits.h"
#include "core/span_table.h"

namespace jit_arena {

class HoleBins {
 public:
  explicit HoleBins(SpanTable& spans) : spans_(spans) {}

  // `before` is the span that the hole follows. Does nothing for a hole of no granules.
  //
  // Neither branches on what no processor can foresee: whether there is a hole, and where in its list. Node 0, which is
  // no span's, is written instead where there is nothing to write, and bin 0 has no holes.
  void Insert(SpanId before) {
    SpanNode& node = spans_[before];
    uint32_t bin = BinOf(node.hole_granules);
    SpanId head = heads_[bin];
    node.hole_next = head;
    spans_[head].hole_previous = before;
    heads_[bin] = bin != 0 ? before : 0;
    nonempty_[bin / 64] |= uint64_t{bin != 0} << (bin % 64);
    words_ |= uint64_t{bin != 0} << (bin / 64);
  }
  // With the same hole_granules as at Insert.
  void Remove(SpanId before) {
    const SpanNode& node = spans_[before];
    uint32_t bin = BinOf(node.hole_granules);
    uint32_t hole = bin != 0;
    uint32_t all_if_hole = 0u - hole;
    // The next in the list is not looked at, only written; but it may be the one that is found next.
    SpanId next = node.hole_next & all_if_hole;
    SpanId* leading_here[] = {&spans_[node.hole_previous & all_if_hole].hole_next, &heads_[bin]};
    *leading_here[heads_[bin] == before] = next;
    spans_[next].hole_previous = node.hole_previous;
    uint32_t emptied = hole & (heads_[bin] == 0);
    nonempty_[bin / 64] &= ~(uint64_t{emptied} << (bin % 64));
    words_ &= ~(uint64_t{nonempty_[bin / 64] == 0} << (bin / 64));
  }

  // The span before a hole of at least `granules`, or 0. The hole stays in its bin.
  SpanId Find(uint32_t granules) const;
  // The span before a hole of the largest bin, or 0.
  SpanId FindLargest() const;

  // For invariants: calls visit(before, bin) for every hole.
  template <class Visit>
  void ForEach(Visit visit) const {
    for (uint32_t bin = 0; bin < kBins; bin++)
      for (SpanId id = heads_[bin]; id != 0; id = spans_[id].hole_next) visit(id, bin);
  }
  // The bin that a hole of this length is in.
  static uint32_t BinOf(uint32_t granules) {
    uint32_t log = static_cast<uint32_t>(std::bit_width(granules | kExactBins)) - 1;  // >= 6
    uint32_t split = (granules >> (log - kSplitBits)) & ((1u << kSplitBits) - 1);
    uint32_t large = kExactBins + ((log - 6) << kSplitBits) + split;
    return granules < kExactBins ? granules : large;
  }

 private:
  static constexpr uint32_t kExactBins = 64;
  static constexpr uint32_t kSplitBits = 4;  // 16 bins per power of two above
  static constexpr uint32_t kBins = kExactBins + ((27 - 6) << kSplitBits) + 1;
  static constexpr uint32_t kWords = (kBins + 63) / 64;
  static_assert(kWords < 64);

  SpanId FirstFrom(uint32_t bin) const;  // the first hole of the first bin at or above with one, or 0

  SpanTable& spans_;
  SpanId heads_[kBins] = {};
  uint64_t nonempty_[kWords] = {};  // a bit per bin
  uint64_t words_ = 0;              // a bit per word of nonempty_
};

}  // namespace jit_arena
