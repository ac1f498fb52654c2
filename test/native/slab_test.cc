// Slabs, spans and hole bins: books about memory that does not exist. Every address here is made up.
#include "core/slab.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/bits.h"
#include "core/hole_bins.h"
#include "core/span_table.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint32_t kPageGranules = 256;
constexpr uint32_t kFirst = 4 * kPageGranules;  // the slab does not begin at the arena's start

struct Rig {
  explicit Rig(uint32_t pages = 8) {
    slab = std::make_unique<Slab>(Zone::kCode, kFirst, pages * kPageGranules, kPageGranules, spans.Add(), spans, bins);
    slab->Begin(nullptr);
  }

  // Behind `before`, which has a hole that is large enough.
  SpanId Place(SpanId before, uint32_t granules, uint32_t align = 1) {
    SpanId span = spans.Add();
    spans[span].SetState(SpanState::kLive);
    slab->Place(before, span, granules, align);
    return span;
  }
  // Behind everything.
  SpanId Append(uint32_t granules, uint32_t align = 1) { return Place(slab->tail(), granules, align); }
  void Remove(SpanId span) {
    slab->Remove(span);
    spans.Recycle(span);
  }
  void CheckRules() {
    const char* broken = slab->FindBrokenRule();
    CHECK_EQ(std::string(broken == nullptr ? "" : broken), "");
  }
  // The lengths of all holes in bins, sorted.
  std::vector<uint32_t> BinnedHoles() {
    std::vector<uint32_t> holes;
    bins.ForEach([&](SpanId before, uint32_t bin) {
      CHECK_EQ(HoleBins::BinOf(spans[before].hole_granules), bin);
      holes.push_back(spans[before].hole_granules);
    });
    std::sort(holes.begin(), holes.end());
    return holes;
  }

  SpanTable spans{1 << 20};
  HoleBins bins{spans};
  std::unique_ptr<Slab> slab;
};

using Holes = std::vector<uint32_t>;

}  // namespace

TEST(slab_begins_as_one_hole) {
  Rig rig;
  CHECK(rig.slab->empty());
  CHECK_EQ(rig.slab->first(), kFirst);
  CHECK_EQ(rig.slab->end(), kFirst + 8 * kPageGranules);
  CHECK_EQ(rig.slab->pages(), 8);
  CHECK_EQ(rig.slab->backed_pages(), 0);
  CHECK(rig.BinnedHoles() == Holes{8 * kPageGranules});
  CHECK_EQ(rig.bins.Find(1), rig.slab->head());
  CHECK_EQ(rig.bins.Find(8 * kPageGranules), rig.slab->head());
  CHECK_EQ(rig.bins.Find(8 * kPageGranules + 1), 0);
  rig.CheckRules();
}

TEST(slab_spans_follow_each_other) {
  Rig rig;
  SpanId a = rig.Append(3), b = rig.Append(5);
  CHECK_EQ(rig.spans[a].start, kFirst);
  CHECK_EQ(rig.spans[b].start, kFirst + 3);
  CHECK_EQ(rig.slab->used_granules(), 8);
  CHECK_EQ(rig.slab->span_count(), 2);
  CHECK_EQ(rig.slab->tail(), b);
  CHECK(rig.BinnedHoles() == Holes{8 * kPageGranules - 8});
  CHECK_EQ(rig.spans.Find(kFirst + 2), a);
  CHECK_EQ(rig.spans.Find(kFirst + 3), b);
  CHECK_EQ(rig.spans.Find(kFirst + 8), 0);
  rig.CheckRules();
}

TEST(slab_alignment_leaves_a_hole_that_can_be_used) {
  Rig rig;
  rig.Append(1);
  SpanId aligned = rig.Append(4, 64);
  CHECK_EQ(rig.spans[aligned].start, kFirst + 64);
  CHECK(rig.BinnedHoles() == (Holes{63, 8 * kPageGranules - 68}));
  SpanId before = rig.bins.Find(63);
  SpanId filler = rig.Place(before, 63);
  CHECK_EQ(rig.spans[filler].start, kFirst + 1);
  CHECK_EQ(rig.spans[filler].next, aligned);
  CHECK(rig.BinnedHoles() == Holes{8 * kPageGranules - 68});
  rig.CheckRules();
}

TEST(slab_freeing_joins_the_holes_on_both_sides) {
  // Which neighbours are free already: neither, the left one, the right one, both.
  for (int free_neighbours = 0; free_neighbours < 4; free_neighbours++) {
    Rig rig;
    SpanId first = rig.Append(10), left = rig.Append(2), middle = rig.Append(3), right = rig.Append(4);
    rig.Append(8 * kPageGranules - 19);
    CHECK_EQ(rig.BinnedHoles().size(), 0);
    if (free_neighbours & 1) rig.Remove(left);
    if (free_neighbours & 2) rig.Remove(right);
    rig.Remove(middle);
    uint32_t joined = 3u + (free_neighbours & 1 ? 2 : 0) + (free_neighbours & 2 ? 4 : 0);
    CHECK(rig.BinnedHoles() == Holes{joined});
    rig.CheckRules();
    CHECK_EQ(rig.spans.Find(rig.spans[first].End() + 2), 0);
  }
}

TEST(slab_is_one_hole_again_when_all_are_freed) {
  Rig rig;
  std::vector<SpanId> spans;
  for (uint32_t i = 1; i < 20; i++) spans.push_back(rig.Append(i));
  std::mt19937 random(1);
  std::shuffle(spans.begin(), spans.end(), random);
  for (SpanId span : spans) {
    rig.Remove(span);
    rig.CheckRules();
  }
  CHECK(rig.slab->empty());
  CHECK_EQ(rig.slab->tail(), rig.slab->head());
  CHECK(rig.BinnedHoles() == Holes{8 * kPageGranules});
}

TEST(slab_counts_retired_granules) {
  Rig rig;
  SpanId a = rig.Append(3), b = rig.Append(5);
  rig.slab->SetState(a, SpanState::kRetired);
  rig.slab->SetState(a, SpanState::kRetired);  // counted once
  CHECK_EQ(rig.slab->retired_granules(), 3);
  CHECK_EQ(rig.slab->live_granules(), 5);
  CHECK_EQ(rig.slab->used_granules(), 8);
  rig.CheckRules();
  rig.Remove(a);
  CHECK_EQ(rig.slab->retired_granules(), 0);
  CHECK_EQ(rig.slab->live_granules(), 5);
  rig.Remove(b);
  rig.CheckRules();
}

TEST(bins_are_exact_below_64_granules_and_a_sixteenth_wide_above) {
  uint32_t first_of_bin = 1;
  for (uint32_t granules = 2; granules < 1 << 18; granules++) {
    uint32_t step = HoleBins::BinOf(granules) - HoleBins::BinOf(granules - 1);
    CHECK(step == 0 || step == 1);
    if (step == 0) continue;
    CHECK(granules - first_of_bin <= std::max(1u, first_of_bin / 16));
    if (granules < 64) CHECK_EQ(granules - first_of_bin, 1);
    first_of_bin = granules;
  }
  for (int power = 6; power < 27; power++) {
    uint32_t whole = 1u << power;
    CHECK_EQ(HoleBins::BinOf(whole), HoleBins::BinOf(whole - 1) + 1);
    CHECK_EQ(HoleBins::BinOf(whole), HoleBins::BinOf(whole + whole / 16 - 1));
    CHECK_EQ(HoleBins::BinOf(whole) + 1, HoleBins::BinOf(whole + whole / 16));
  }
}

TEST(bins_find_the_best_fit_among_small_holes) {
  Rig rig;
  std::vector<SpanId> holes;
  for (uint32_t granules : {40, 7, 63, 12, 9, 33}) {
    holes.push_back(rig.Append(granules));
    rig.Append(1);
  }
  rig.Append(rig.slab->end() - rig.spans[rig.slab->tail()].End());
  for (SpanId hole : holes) rig.Remove(hole);
  const std::vector<std::pair<uint32_t, uint32_t>> wanted_and_found = {{1, 7},   {7, 7},   {8, 9},   {10, 12},
                                                                       {12, 12}, {13, 33}, {34, 40}, {41, 63}};
  for (auto [wanted, found] : wanted_and_found) {
    SpanId before = rig.bins.Find(wanted);
    CHECK_EQ(before == 0 ? 0 : rig.spans[before].hole_granules, found);
  }
  CHECK_EQ(rig.bins.Find(64), 0);
  CHECK_EQ(rig.spans[rig.bins.FindLargest()].hole_granules, 63);
}

TEST(bins_find_what_is_large_enough_or_nothing) {
  // One hole of every size in turn, and requests around it.
  SpanTable spans(1 << 12);
  HoleBins bins(spans);
  SpanId hole = spans.Add();
  for (uint32_t granules = 1; granules < 1 << 15; granules += 1 + granules / 37) {
    spans[hole].hole_granules = granules;
    bins.Insert(hole);
    CHECK_EQ(bins.Find(granules), hole);  // exactly fitting is found, although it lies inside its bin
    CHECK_EQ(bins.Find(granules + 1), 0);
    CHECK_EQ(bins.Find(1), hole);
    CHECK_EQ(bins.FindLargest(), hole);
    bins.Remove(hole);
    CHECK_EQ(bins.Find(1), 0);
    CHECK_EQ(bins.FindLargest(), 0);
  }
}

TEST(bins_take_a_hole_of_the_next_bin_rather_than_a_long_search) {
  // Many holes of one bin are too short by a little; the one of the next bin is found at once.
  SpanTable spans(1 << 12);
  HoleBins bins(spans);
  for (int i = 0; i < 100; i++) {
    SpanId hole = spans.Add();
    spans[hole].hole_granules = 1024;
    bins.Insert(hole);
  }
  SpanId larger = spans.Add();
  spans[larger].hole_granules = 5000;
  bins.Insert(larger);
  CHECK_EQ(bins.Find(1025), larger);
  CHECK_EQ(spans[bins.Find(1000)].hole_granules, 1024);
  CHECK_EQ(bins.FindLargest(), larger);
}

TEST(slab_never_used_granules_are_known_to_be_zero) {
  Rig rig;
  CHECK(rig.slab->KnownZero(kFirst, 8 * kPageGranules));
  rig.slab->MarkBacked(kFirst, 10);
  CHECK(!rig.slab->KnownZero(kFirst, 10));
  CHECK(!rig.slab->KnownZero(kFirst + 9, 1));
  CHECK(rig.slab->KnownZero(kFirst + 10, 100));  // the rest of the same page
  CHECK(rig.slab->KnownZero(kFirst + 10, 8 * kPageGranules - 10));
  CHECK(!rig.slab->KnownZero(kFirst + 9, 2));
  rig.slab->MarkBacked(kFirst + 3 * kPageGranules, 1);
  CHECK(rig.slab->KnownZero(kFirst + kPageGranules, kPageGranules));  // a page that was skipped
  CHECK(!rig.slab->KnownZero(kFirst + 3 * kPageGranules, 1));
}

TEST(slab_backs_pages_as_they_are_used) {
  Rig rig;
  CHECK_EQ(rig.slab->PagesToBack(kFirst, 1), 1);
  CHECK_EQ(rig.slab->PagesToBack(kFirst + kPageGranules - 1, 2), 2);
  rig.slab->MarkBacked(kFirst + kPageGranules - 1, 2);
  CHECK_EQ(rig.slab->backed_pages(), 2);
  CHECK_EQ(rig.slab->PagesToBack(kFirst, 8 * kPageGranules), 6);
  rig.slab->MarkBacked(kFirst, 2 * kPageGranules);  // again: counted once
  CHECK_EQ(rig.slab->backed_pages(), 2);
  CHECK(rig.slab->PageBacked(0) && rig.slab->PageBacked(1) && !rig.slab->PageBacked(2));
  rig.CheckRules();
}

TEST(slab_offers_the_largest_run_of_empty_backed_pages) {
  Rig rig(16);
  // Pages 1 to 15 are one hole, of which 2..4 and 7..12 have memory.
  rig.Append(1);
  CHECK_EQ(rig.slab->FindEmptyPages().count, 0);  // nothing has memory yet
  rig.slab->MarkBacked(kFirst + 2 * kPageGranules, 3 * kPageGranules);
  rig.slab->MarkBacked(kFirst + 7 * kPageGranules, 6 * kPageGranules);
  // From the first to the last page with memory: one run.
  Slab::PageRun run = rig.slab->FindEmptyPages();
  CHECK_EQ(run.first, 2);
  CHECK_EQ(run.count, 11);
  CHECK_EQ(run.backed, 9);
  rig.slab->MarkPunched(2, 11);
  CHECK_EQ(rig.slab->backed_pages(), 0);
  CHECK(rig.slab->punched());
  CHECK(!rig.slab->TouchesPunched(kFirst, 2 * kPageGranules));
  CHECK(rig.slab->TouchesPunched(kFirst, 2 * kPageGranules + 1));
  CHECK(rig.slab->TouchesPunched(kFirst + 12 * kPageGranules, 1));
  CHECK(!rig.slab->TouchesPunched(kFirst + 13 * kPageGranules, 100));
  rig.CheckRules();
}

TEST(slab_punched_pages_grow_and_stay_one_run) {
  Rig rig(16);
  rig.Append(1);
  rig.slab->MarkBacked(kFirst, 16 * kPageGranules);
  rig.slab->MarkPunched(6, 3);
  Slab::PageRun run = rig.slab->FindEmptyPages();
  CHECK_EQ(run.first, 1);
  CHECK_EQ(run.count, 15);
  CHECK_EQ(run.backed, 12);
  rig.slab->MarkPunched(1, 5);
  rig.slab->MarkPunched(9, 7);
  CHECK_EQ(rig.slab->punch_first(), 1);
  CHECK_EQ(rig.slab->punch_pages(), 15);
  CHECK_EQ(rig.slab->backed_pages(), 1);
  CHECK_EQ(rig.slab->FindEmptyPages().backed, 0);
  rig.CheckRules();
}

// A second run would split the mappings once more.
TEST(slab_offers_nothing_beside_punched_pages_in_another_hole) {
  Rig rig(16);
  SpanId first = rig.Append(4 * kPageGranules);
  rig.Append(1);
  rig.slab->MarkBacked(kFirst, 16 * kPageGranules);
  rig.slab->MarkPunched(10, 6);
  rig.Remove(first);
  CHECK(rig.slab->shrunk);
  Slab::PageRun run = rig.slab->FindEmptyPages();
  CHECK_EQ(run.first, 5);  // in the hole of the punched ones
  CHECK_EQ(run.backed, 5);
  rig.slab->MarkPunched(5, 5);
  CHECK_EQ(rig.slab->FindEmptyPages().backed, 0);
}

TEST(slab_a_page_shared_with_a_span_is_not_empty) {
  Rig rig;
  rig.Append(1);
  SpanId hole = rig.Append(3 * kPageGranules);  // granules 1 .. 3 pages + 1
  SpanId last = rig.Append(1);
  rig.slab->MarkBacked(kFirst, 8 * kPageGranules);
  rig.Append(rig.slab->end() - rig.spans[last].End());
  rig.Remove(hole);
  CHECK_EQ(rig.slab->FindEmptyPages().count, 2);
  CHECK_EQ(rig.slab->FindEmptyPages().first, 1);
}

TEST(slab_restored_pages_are_zero_again) {
  Rig rig;
  rig.slab->MarkBacked(kFirst, 6 * kPageGranules);
  rig.slab->MarkPunched(2, 3);
  CHECK_EQ(rig.slab->backed_pages(), 3);
  rig.slab->MarkRestored();
  CHECK(!rig.slab->punched());
  CHECK(!rig.slab->TouchesPunched(kFirst + 2 * kPageGranules, 1));
  CHECK(rig.slab->KnownZero(kFirst + 2 * kPageGranules, 3 * kPageGranules));
  CHECK(!rig.slab->KnownZero(kFirst + 1 * kPageGranules, 2 * kPageGranules));
  CHECK_EQ(rig.slab->PagesToBack(kFirst, 8 * kPageGranules), 5);
  rig.CheckRules();
}

TEST(slab_under_evacuation_offers_no_hole) {
  Rig rig;
  SpanId a = rig.Append(10), b = rig.Append(20);
  rig.Append(30);
  rig.Remove(b);
  CHECK_EQ(rig.BinnedHoles().size(), 2);
  rig.slab->SetEvacuating(true);
  rig.slab->SetEvacuating(true);  // said twice, done once
  CHECK(rig.slab->evacuating());
  CHECK_EQ(rig.BinnedHoles().size(), 0);
  rig.Remove(a);  // holes change meanwhile
  rig.CheckRules();
  CHECK_EQ(rig.BinnedHoles().size(), 0);
  rig.slab->SetEvacuating(false);
  rig.slab->SetEvacuating(false);
  CHECK(rig.BinnedHoles() == (Holes{30, 8 * kPageGranules - 60}));
  rig.CheckRules();
}

// Proves that FindBrokenRule can fail: each line breaks one number of the books.
TEST(slab_notices_broken_books) {
  auto broken = [](void (*damage)(Rig&, SpanId a, SpanId b)) {
    Rig rig;
    SpanId a = rig.Append(10);
    SpanId b = rig.Append(20, 64);
    rig.slab->SetState(b, SpanState::kRetired);
    rig.slab->MarkBacked(kFirst, 300);
    rig.CheckRules();
    damage(rig, a, b);
    return rig.slab->FindBrokenRule() != nullptr;
  };
  CHECK(!broken([](Rig&, SpanId, SpanId) {}));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].start = rig.spans[a].start + 1; }));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].granules = rig.spans[a].granules - 1; }));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].granules = 0; }));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].hole_granules++; }));
  CHECK(broken([](Rig& rig, SpanId, SpanId b) { rig.spans[b].hole_granules--; }));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].next = 0; }));
  CHECK(broken([](Rig& rig, SpanId, SpanId b) { rig.spans[b].previous = rig.slab->head(); }));
  CHECK(broken([](Rig& rig, SpanId a, SpanId) { rig.spans[a].SetState(SpanState::kHead); }));
  CHECK(broken([](Rig& rig, SpanId, SpanId b) { rig.spans[b].SetState(SpanState::kLive); }));
  CHECK(broken([](Rig& rig, SpanId, SpanId) { rig.slab->MarkPunched(0, 1); }));
}

namespace {

// What a slab should say, kept as plainly as possible: a byte and an owner per granule.
struct Model {
  struct Granule {
    SpanId owner = 0;
    bool retired = false;
    bool dirty = false;  // may hold something else than zero
  };
  explicit Model(uint32_t granules) : granules(granules), backed(granules / kPageGranules) {}

  Holes HoleLengths() const {
    Holes holes;
    uint32_t run = 0;
    for (uint32_t i = 0; i <= granules.size(); i++) {
      if (i < granules.size() && granules[i].owner == 0) {
        run++;
      } else if (run != 0) {
        holes.push_back(run);
        run = 0;
      }
    }
    std::sort(holes.begin(), holes.end());
    return holes;
  }

  std::vector<Granule> granules;
  std::vector<bool> backed;
};

void RunAgainstModel(uint32_t seed, int steps) {
  std::mt19937 random(seed);
  auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  Rig rig(16);
  Slab& slab = *rig.slab;
  Model model(slab.granules());
  std::vector<SpanId> live;
  int failed_before = test::failed_checks;
  for (int step = 0; step < steps && test::failed_checks == failed_before; step++) {
    uint32_t action = below(100);
    if (action < 50 && !slab.evacuating()) {
      uint32_t granules = below(4) == 0 ? 1 + below(700) : 1 + below(70);
      uint32_t align = 1u << (below(3) == 0 ? below(9) : 0);
      SpanId before = rig.bins.Find(granules + align - 1);
      Holes holes = model.HoleLengths();
      if (before == 0) {
        // Nothing was said to fit: at most holes of the request's own bin, if it is a wide one, may have been left out.
        uint32_t wanted = granules + align - 1;
        for (uint32_t hole : holes)
          CHECK(hole < wanted || (wanted >= 64 && HoleBins::BinOf(hole) == HoleBins::BinOf(wanted)));
      } else {
        SpanId span = rig.Place(before, granules, align);
        uint32_t start = rig.spans[span].start;
        CHECK_EQ(start % align, 0);
        for (uint32_t i = start; i < start + granules; i++) {
          CHECK_EQ(model.granules[i - kFirst].owner, 0);
          model.granules[i - kFirst] = {span, false, model.granules[i - kFirst].dirty};
        }
        // Where the place was punched it would be restored first.
        if (slab.TouchesPunched(start, granules)) slab.MarkRestored();
        live.push_back(span);
        if (below(8) != 0) {  // some are abandoned without being written
          slab.MarkBacked(start, granules);
          for (uint32_t i = start - kFirst; i < start - kFirst + granules; i++) {
            model.granules[i].dirty = true;
            model.backed[i / kPageGranules] = true;
          }
        }
      }
    } else if (action < 85 && !live.empty()) {
      uint32_t at = below(static_cast<uint32_t>(live.size()));
      for (auto& granule : model.granules)
        if (granule.owner == live[at]) granule = {0, false, granule.dirty};
      rig.Remove(live[at]);
      live[at] = live.back();
      live.pop_back();
    } else if (action < 90 && !live.empty()) {
      SpanId span = live[below(static_cast<uint32_t>(live.size()))];
      slab.SetState(span, SpanState::kRetired);
      for (auto& granule : model.granules)
        if (granule.owner == span) granule.retired = true;
    } else if (action < 93) {
      slab.SetEvacuating(!slab.evacuating());
    } else if (!slab.punched()) {
      auto [first, count, backed] = slab.FindEmptyPages();
      // No run of pages without an owner in the model gives more memory back.
      uint32_t most = 0;
      for (uint32_t from = 0; from < slab.pages(); from++) {
        for (uint32_t to = from; to < slab.pages(); to++) {
          bool empty = true;
          for (uint32_t i = from * kPageGranules; i < (to + 1) * kPageGranules; i++)
            empty = empty && model.granules[i].owner == 0;
          if (!empty) break;
          most = std::max(most, static_cast<uint32_t>(
                                    std::count(model.backed.begin() + from, model.backed.begin() + to + 1, true)));
        }
      }
      CHECK_EQ(backed, most);
      if (count != 0) {
        slab.MarkPunched(first, count);
        for (uint32_t page = first; page < first + count; page++) {
          model.backed[page] = false;
          for (uint32_t i = 0; i < kPageGranules; i++) model.granules[page * kPageGranules + i].dirty = false;
        }
      }
    }

    rig.CheckRules();
    Holes holes = model.HoleLengths();
    CHECK(rig.BinnedHoles() == (slab.evacuating() ? Holes{} : holes));
    uint32_t used = 0, retired = 0, backed = 0;
    for (const auto& granule : model.granules) {
      used += granule.owner != 0;
      retired += granule.retired;
    }
    for (uint32_t page = 0; page < slab.pages(); page++) {
      backed += model.backed[page];
      CHECK_EQ(slab.PageBacked(page), model.backed[page] ? true : false);
    }
    CHECK_EQ(slab.used_granules(), used);
    CHECK_EQ(slab.retired_granules(), retired);
    CHECK_EQ(slab.backed_pages(), backed);
    CHECK_EQ(slab.span_count(), live.size());
    uint32_t largest = holes.empty() || slab.evacuating() ? 0 : holes.back();
    SpanId largest_found = rig.bins.FindLargest();
    CHECK_EQ(HoleBins::BinOf(largest_found == 0 ? 0 : rig.spans[largest_found].hole_granules),
             HoleBins::BinOf(largest));
    for (int i = 0; i < 20; i++) {
      uint32_t at = below(slab.granules()), count = 1 + below(std::min(300u, slab.granules() - at));
      CHECK_EQ(rig.spans.Find(kFirst + at), model.granules[at].owner);
      bool dirty = false;
      for (uint32_t k = at; k < at + count; k++) dirty = dirty || model.granules[k].dirty;
      if (dirty) CHECK(!slab.KnownZero(kFirst + at, count));
    }
    if (test::failed_checks != failed_before) std::printf("  seed %u, step %d\n", seed, step);
  }
}

}  // namespace

TEST(slab_agrees_with_a_model_of_one_byte_per_granule) {
  for (uint32_t seed = 1; seed <= 10; seed++) RunAgainstModel(seed, 2000);
}
