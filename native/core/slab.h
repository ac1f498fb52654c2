// A slab: a run of pages with one access state, carved into granules.
//
// A slab only keeps books. It knows which granules belong to which span, which pages have memory behind them and
// which granules are still zero; it never reads or writes the memory, so it is tested on addresses that do not exist.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/hole_bins.h"
#include "core/span_table.h"

namespace jit_arena {

// What a slab is for. Executors that never move have slabs of their own, so that they cannot keep a slab from being
// evacuated.
enum class Zone : uint8_t { kCode, kFixedCode, kData, kFixedData, kState, kFixedState };
inline constexpr int kZones = 6;
const char* ZoneName(Zone zone);

class Slab {
 public:
  // `first` and `granules` are page-aligned; `head` is a fresh span node. The slab is empty and unbacked.
  Slab(Zone zone, uint32_t first, uint32_t granules, uint32_t page_granules, SpanId head, SpanTable& spans,
       HoleBins& bins);
  // Its memory is there: puts its hole into the bins. `view` is the writer's view of the first granule, or null.
  void Begin(uint8_t* view);

  Zone zone() const { return zone_; }
  uint32_t first() const { return first_; }
  uint32_t granules() const { return granules_; }
  uint32_t end() const { return first_ + granules_; }
  uint8_t* view() const { return view_; }
  // In a forked child, whose memory is its own; null once the system has taken it back.
  void SetView(uint8_t* view) { view_ = view; }
  SpanId head() const { return head_; }
  SpanId tail() const { return tail_; }  // the last span by address; the head of an empty slab
  uint32_t pages() const { return granules_ >> page_shift_; }

  // Puts a new span (a fresh node) into the hole after `before`, at the first granule that is a multiple of
  // `align_granules`. The hole is large enough.
  void Place(SpanId before, SpanId span, uint32_t granules, uint32_t align_granules);
  // Frees the span's granules, joining the holes around them. The node may be recycled afterwards.
  void Remove(SpanId span);
  // A live span becomes retired, a reserved one live.
  void SetState(SpanId span, SpanState state) { SetState(spans_[span], state); }
  void SetState(SpanNode& node, SpanState state) {
    if (IsRetired(state) && !IsRetired(node.State())) retired_ += node.granules;
    node.SetState(state);
  }

  uint32_t used_granules() const { return used_; }  // in spans of any state
  uint32_t retired_granules() const { return retired_; }
  uint32_t live_granules() const { return used_ - retired_; }
  uint32_t span_count() const { return span_count_; }
  bool empty() const { return span_count_ == 0; }

  // While a slab is being evacuated its holes are in no bin, so that nothing new is placed there.
  bool evacuating() const { return !binned_; }
  void SetEvacuating(bool evacuating);

  // Memory behind pages. A page is backed from its first use until it is punched or the slab is decommitted.
  bool PageBacked(uint32_t page) const { return Bit(backed_, page); }
  uint32_t backed_pages() const { return backed_count_; }
  // Pages that the span would newly back.
  uint32_t PagesToBack(uint32_t start, uint32_t granules) const;
  // The bytes are written, or may be touched by the code that they belong to, from now on.
  void MarkBacked(uint32_t start, uint32_t granules) {
    if (start + granules > never_used_from_) never_used_from_ = start + granules;
    if (backed_count_ == pages()) return;  // as most slabs are
    uint32_t last = PageOf(start + granules - 1);
    for (uint32_t page = PageOf(start); page <= last; page++) {
      uint64_t bit = uint64_t{1} << (page % 64);
      backed_count_ += !(backed_[page / 64] & bit);
      backed_[page / 64] |= bit;
    }
  }
  // True when every byte of the granules is certain to read as zero.
  bool KnownZero(uint32_t start, uint32_t granules) const {
    if (start >= never_used_from_) return true;
    if (backed_count_ == pages()) return false;
    uint32_t last = PageOf(start + granules - 1);
    for (uint32_t page = PageOf(start); page <= last; page++)
      if (Bit(backed_, page)) return false;
    return true;
  }

  // Punched pages have no memory and no access; they lie in holes. At most one run of pages per slab, since each
  // splits mappings.
  bool punched() const { return punch_pages_ != 0; }
  uint32_t punch_first() const { return punch_first_; }
  uint32_t punch_pages() const { return punch_pages_; }
  bool TouchesPunched(uint32_t start, uint32_t granules) const {
    if (!punched()) return false;
    uint32_t from = first_ + (punch_first_ << page_shift_);
    return start < from + (punch_pages_ << page_shift_) && from < start + granules;
  }
  // The run of pages in one hole whose punching gives most memory back. Where pages are punched already, only a run
  // that makes theirs longer is one.
  struct PageRun {
    uint32_t first = 0;
    uint32_t count = 0;
    uint32_t backed = 0;  // of count
  };
  PageRun FindEmptyPages() const;
  // Of a slab with punched pages: they become one run with these, which adjoin or contain them.
  void MarkPunched(uint32_t first_page, uint32_t count);
  void MarkRestored();

  // A huge page is behind it, and so is memory behind every page, read as before.
  bool huge() const { return huge_; }
  void MarkHuge();

  // Set when spans left without being poisoned, because the slab was expected to go; whoever keeps it poisons it.
  bool needs_poison = false;
  // Of the punched pages those whose memory the system has kept, though they have no access.
  uint32_t kept_pages = 0;
  // Set when spans left, so that there may be empty pages; whoever has looked clears it.
  bool shrunk = false;
  // The collector's round in which it could not empty the slab, as it was then; 0: none.
  uint32_t given_up = 0;
  std::unique_ptr<Slab> next_lost;  // of those whose memory the system did not take back (CodeSpace)
  // Scratch of one look for slabs to evacuate.
  bool chosen = false;

  // Calls visit(id) for each span in address order; visit may not change the slab.
  template <class Visit>
  void ForEachSpan(Visit visit) const {
    for (SpanId id = spans_[head_].next; id != 0; id = spans_[id].next) visit(id);
  }
  // First broken rule of this slab's books in words, or null; see Arena::CheckInvariants.
  const char* FindBrokenRule() const;

  size_t MetadataBytes() const { return sizeof *this + backed_.capacity() * sizeof(uint64_t); }

 private:
  static bool Bit(const std::vector<uint64_t>& bits, uint32_t at) { return bits[at / 64] >> (at % 64) & 1; }
  uint32_t PageOf(uint32_t granule) const { return (granule - first_) >> page_shift_; }

  Zone zone_;
  bool binned_ = true;
  bool huge_ = false;
  uint8_t page_shift_;  // log2 of a page's granules
  uint32_t first_;
  uint32_t granules_;
  SpanId head_;
  SpanId tail_;
  uint32_t used_ = 0;
  uint32_t retired_ = 0;
  uint32_t span_count_ = 0;
  uint8_t* view_ = nullptr;
  SpanTable& spans_;
  HoleBins& bins_;

  uint32_t never_used_from_;  // granules from here to the end have not been used since the commit
  std::vector<uint64_t> backed_;
  uint32_t backed_count_ = 0;
  uint32_t punch_first_ = 0;
  uint32_t punch_pages_ = 0;
};

}  // namespace jit_arena
