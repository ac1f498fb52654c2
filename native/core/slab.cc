#include "core/slab.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"

namespace jit_arena {

const char* ZoneName(Zone zone) {
  static const char* const kNames[kZones] = {"code", "fixed-code", "data", "fixed-data", "state", "fixed-state"};
  return kNames[static_cast<int>(zone)];
}

Slab::Slab(Zone zone, uint32_t first, uint32_t granules, uint32_t page_granules, SpanId head, SpanTable& spans,
           HoleBins& bins)
    : zone_(zone),
      page_shift_(static_cast<uint8_t>(std::countr_zero(page_granules))),
      first_(first),
      granules_(granules),
      head_(head),
      tail_(head),
      spans_(spans),
      bins_(bins),
      never_used_from_(first),
      backed_((granules / page_granules + 63) / 64) {}

void Slab::Begin(uint8_t* view) {
  view_ = view;
  SpanNode& node = spans_[head_];
  node.start = first_;
  node.SetState(SpanState::kHead);
  node.hole_granules = granules_;
  bins_.Insert(head_);
  SpanTable::Change change(spans_);
  spans_.Lengthen(granules_);
  spans_.Enter(head_, node, nullptr);
}

void Slab::Place(SpanId before, SpanId span, uint32_t granules, uint32_t align_granules) {
  SpanNode& left = spans_[before];
  if (binned_) bins_.Remove(before);
  uint32_t hole_start = left.End();
  uint32_t hole_end = hole_start + left.hole_granules;
  SpanNode& node = spans_[span];
  node.start = static_cast<uint32_t>(AlignUp(hole_start, align_granules));
  node.granules = granules;
  node.previous = before;
  node.next = left.next;
  SpanNode* right = node.next != 0 ? &spans_[node.next] : nullptr;
  left.next = span;
  if (right == nullptr) tail_ = span;
  {
    SpanTable::Change change(spans_);
    if (right != nullptr) right->previous = span;
    spans_.Enter(span, node, right);
  }
  left.hole_granules = node.start - hole_start;
  node.hole_granules = hole_end - node.End();
  if (binned_) {
    if (left.hole_granules != 0) bins_.Insert(before);  // larger alignments only
    bins_.Insert(span);
  }
  used_ += granules;
  span_count_++;
}

void Slab::Remove(SpanId span) {
  SpanNode& node = spans_[span];
  SpanNode& left = spans_[node.previous];
  if (IsRetired(node.State())) retired_ -= node.granules;
  used_ -= node.granules;
  span_count_--;
  if (binned_) {
    bins_.Remove(span);
    bins_.Remove(node.previous);
  }
  left.hole_granules += node.granules + node.hole_granules;
  left.next = node.next;
  const SpanId before = node.previous;
  {
    SpanTable::Change change(spans_);
    spans_.Leave(span, node, before, &left);
    if (node.next != 0) spans_[node.next].previous = before;
  }
  if (node.next == 0) tail_ = before;
  if (binned_) bins_.Insert(node.previous);
  shrunk = true;
}

void Slab::SetEvacuating(bool evacuating) {
  if (evacuating != binned_) return;
  for (SpanId id = head_; id != 0; id = spans_[id].next) {
    if (evacuating)
      bins_.Remove(id);
    else
      bins_.Insert(id);
  }
  binned_ = !evacuating;
}

uint32_t Slab::PagesToBack(uint32_t start, uint32_t granules) const {
  uint32_t count = 0;
  for (uint32_t page = PageOf(start); page <= PageOf(start + granules - 1); page++) count += !Bit(backed_, page);
  return count;
}

Slab::PageRun Slab::FindEmptyPages() const {
  auto is_punched = [&](uint32_t page) { return page - punch_first_ < punch_pages_; };
  PageRun best;
  for (SpanId id = head_; id != 0; id = spans_[id].next) {
    uint32_t from = spans_[id].End() - first_;
    uint32_t page = (from + (1u << page_shift_) - 1) >> page_shift_;
    uint32_t end = (from + spans_[id].hole_granules) >> page_shift_;
    // Pages at the hole's ends that have no memory need no punching; inside, a run is taken as it comes.
    while (page < end && !Bit(backed_, page) && !is_punched(page)) page++;
    while (page < end && !Bit(backed_, end - 1) && !is_punched(end - 1)) end--;
    if (page >= end || (punched() && punch_first_ - page >= end - page)) continue;
    PageRun run{page, end - page, 0};
    for (uint32_t at = page; at < end; at++) run.backed += Bit(backed_, at);
    if (run.backed > best.backed) best = run;
  }
  return best;
}

void Slab::MarkPunched(uint32_t first_page, uint32_t count) {
  for (uint32_t page = first_page; page < first_page + count; page++) {
    uint64_t bit = uint64_t{1} << (page % 64);
    backed_count_ -= (backed_[page / 64] & bit) != 0;
    backed_[page / 64] &= ~bit;
  }
  uint32_t end = first_page + count;
  if (punched()) {
    end = std::max(end, punch_first_ + punch_pages_);
    first_page = std::min(first_page, punch_first_);
  }
  punch_first_ = first_page;
  punch_pages_ = end - first_page;
  huge_ = false;
}

void Slab::MarkRestored() { punch_first_ = punch_pages_ = 0; }

void Slab::MarkHuge() {
  huge_ = true;
  for (uint32_t page = 0; page < pages(); page++) backed_[page / 64] |= uint64_t{1} << (page % 64);
  backed_count_ = pages();
}

const char* Slab::FindBrokenRule() const {
  uint32_t used = 0, retired = 0, count = 0, at = first_;
  for (SpanId id = head_; id != 0; id = spans_[id].next) {
    const SpanNode& node = spans_[id];
    if (node.start != at) return "a span does not begin where the hole before it ends";
    if ((id == head_) != (node.State() == SpanState::kHead)) return "a head among the spans";
    if (id != head_ && node.granules == 0) return "a span of no granules";
    if (node.next != 0 ? spans_[node.next].previous != id : tail_ != id) return "neighbours disagree";
    at = node.End() + node.hole_granules;
    used += node.granules;
    if (IsRetired(node.State())) retired += node.granules;
    count += id != head_;
    if (id != head_ && TouchesPunched(node.start, node.granules)) return "a span on punched pages";
    if (id != head_ && (spans_.Find(node.start) != id || spans_.Find(node.End() - 1) != id))
      return "a span is not found at its address";
  }
  if (at != end()) return "spans and holes do not fill the slab";
  if (used != used_ || retired != retired_ || count != span_count_) return "the slab's counts are wrong";
  uint32_t backed = 0;
  for (uint64_t word : backed_) backed += static_cast<uint32_t>(std::popcount(word));
  if (backed != backed_count_) return "the count of backed pages is wrong";
  return nullptr;
}

}  // namespace jit_arena
