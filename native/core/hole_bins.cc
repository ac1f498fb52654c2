#include "core/hole_bins.h"

#include <bit>

#include "base/bits.h"

namespace jit_arena {

void HoleBins::Insert(SpanId before) {
  SpanNode& node = spans_[before];
  int bin = BinOf(node.hole_granules);
  SpanId& head = heads_[bin];
  node.hole_next = head;
  if (head != 0) spans_[head].hole_previous = before;
  head = before;
  nonempty_[bin / 64] |= uint64_t{1} << (bin % 64);
  words_ |= uint64_t{1} << (bin / 64);
}

void HoleBins::Remove(SpanId before) {
  SpanNode& node = spans_[before];
  int bin = BinOf(node.hole_granules);
  SpanId& head = heads_[bin];
  if (head != before) {
    spans_[node.hole_previous].hole_next = node.hole_next;
    if (node.hole_next != 0) spans_[node.hole_next].hole_previous = node.hole_previous;
    return;
  }
  // The new first hole's node, which is in no cache as a rule, need not be written: what stands before the first is
  // never looked at. But it is the next to be found.
  head = node.hole_next;
  if (head != 0) {
    Prefetch(&spans_[head]);
    return;
  }
  nonempty_[bin / 64] &= ~(uint64_t{1} << (bin % 64));
  if (nonempty_[bin / 64] == 0) words_ &= ~(uint64_t{1} << (bin / 64));
}

int HoleBins::FirstBinFrom(int bin) const {
  int word = bin / 64;
  uint64_t here = nonempty_[word] & (~uint64_t{0} << (bin % 64));
  if (here != 0) return word * 64 + std::countr_zero(here);
  uint64_t later = word + 1 < 64 ? words_ & (~uint64_t{0} << (word + 1)) : 0;
  if (later == 0) return -1;
  word = std::countr_zero(later);
  return word * 64 + std::countr_zero(nonempty_[word]);
}

SpanId HoleBins::Find(uint32_t granules) const {
  int bin = BinOf(granules);
  // Holes of the request's own bin may be a little too short; the first few are worth a look, since a hole that just
  // fits is the one that packs best.
  if (granules >= kExactBins) {
    int looks = 4;
    for (SpanId id = heads_[bin]; id != 0 && looks > 0; id = spans_[id].hole_next, looks--)
      if (spans_[id].hole_granules >= granules) return id;
    bin++;
  }
  int found = FirstBinFrom(bin);
  return found < 0 ? 0 : heads_[found];
}

SpanId HoleBins::FindLargest() const {
  if (words_ == 0) return 0;
  int word = 63 - std::countl_zero(words_);
  return heads_[word * 64 + 63 - std::countl_zero(nonempty_[word])];
}

}  // namespace jit_arena
