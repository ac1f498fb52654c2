#include "core/code_space.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "arch/arch.h"
#include "base/bits.h"
#include "base/room.h"
#include "core/deadline.h"

namespace jit_arena {

CodeSpace::CodeSpace(std::unique_ptr<os::Memory> memory, uint64_t max_bytes, uint32_t slab_bytes)
    : backing_(std::move(memory), slab_bytes),
      writer_(backing_.has_memory() ? backing_.memory().writer() : os::WriterKind::kAlias),
      slab_bytes_(slab_bytes),
      unit_granules_(slab_bytes / kGranuleBytes),
      unit_shift_(std::countr_zero(unit_granules_)),
      spans_(static_cast<uint32_t>((max_bytes + slab_bytes) / kGranuleBytes) + 1) {
  JIT_ARENA_CHECK(IsPowerOfTwo(unit_granules_));
  bins_.reserve(kZones);
  for (int zone = 0; zone < kZones; zone++) bins_.emplace_back(spans_);
}

CodeSpace::~CodeSpace() {
  if (!backing_.reserved()) return;
  for (auto& slab : slabs_)
    if (slab) DecommitSlab(slab.get());
}

Status CodeSpace::Reserve(uint64_t bytes, uint64_t wish) {
  if (Status failed = backing_.Reserve(bytes, wish)) return failed;
  units_.resize(backing_.bytes() / slab_bytes_);
  // Room for all that there can be: neither the beginning of a slab nor its end has to ask for it.
  slabs_.reserve(units_.size());
  free_slab_slots_.reserve(units_.size());
  return Status::Ok();
}

Span CodeSpace::Describe(SpanId span) const {
  const SpanNode& node = spans_[span];
  const Slab& slab = SlabOf(span);
  uint8_t* view = slab.view();
  if (view != nullptr) view += uint64_t{node.start - slab.first()} * kGranuleBytes;
  return {Address(node.start), view, node.granules * kGranuleBytes};
}

Result<SpanId> CodeSpace::Allocate(Zone zone, uint32_t bytes, uint32_t align, uint32_t owner, Section section) {
  uint32_t granules = GranulesFor(bytes);
  uint32_t align_granules = std::max(1u, align / kGranuleBytes);
  HoleBins& bins = bins_[static_cast<int>(zone)];
  SpanId span = spans_.Add();
  if (span == 0) return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  // Room for any misalignment of the hole; at most one page is lost to it, and only to the next search.
  SpanId before = bins.Find(granules + align_granules - 1);
  if (before == 0) {
    Result<Slab*> slab = CommitSlab(zone, (granules + unit_granules_ - 1) / unit_granules_);
    if (!slab.ok()) {
      spans_.Recycle(span);
      return std::move(slab.status());
    }
    before = slab.value()->head();
  }
  Slab& slab = SlabOf(before);
  uint32_t start = static_cast<uint32_t>(AlignUp(spans_[before].End(), align_granules));
  if (slab.TouchesPunched(start, granules)) {
    if (Status failed = backing_.Restore(slab)) {
      spans_.Recycle(span);
      return failed;
    }
  }
  SpanNode& node = spans_[span];
  node.SetUse(owner, static_cast<uint32_t>(section), SpanState::kReserved);
  slab.Place(before, span, granules, align_granules);
  if (spare_[static_cast<int>(zone)] == &slab) spare_[static_cast<int>(zone)] = nullptr;
  return span;
}

SpanId CodeSpace::AllocateIn(Slab& slab, SpanId like, uint32_t align) {
  uint32_t align_granules = std::max(1u, align / kGranuleBytes);
  SpanId before = slab.tail();
  uint32_t start = static_cast<uint32_t>(AlignUp(spans_[before].End(), align_granules));
  if (start + spans_[like].granules > slab.end()) return 0;
  if (slab.TouchesPunched(start, spans_[like].granules) && !backing_.Restore(slab).ok()) return 0;
  SpanId span = spans_.Add();
  if (span == 0) return 0;
  SpanNode& node = spans_[span];
  node.SetUse(spans_[like].Owner(), spans_[like].Section(), SpanState::kReserved);
  slab.Place(before, span, spans_[like].granules, align_granules);
  int zone = static_cast<int>(slab.zone());
  if (spare_[zone] == &slab) spare_[zone] = nullptr;
  return span;
}

Slab* CodeSpace::FindRoomiest(Zone zone) const {
  SpanId before = bins_[static_cast<int>(zone)].FindLargest();
  return before == 0 ? nullptr : &SlabOf(before);
}

Result<Slab*> CodeSpace::CommitSlab(Zone zone, uint32_t slabs) {
  // First fit over the units: at most one entry per 256 KiB, and only where a system call follows anyway.
  uint32_t run = 0, unit = 0;
  auto find = [&] {
    run = unit = 0;
    while (unit < units_.size() && run < slabs) run = IsFree(unit++) ? run + 1 : 0;
    return run == slabs;
  };
  if (!find() && backing_.AnyLost()) {
    backing_.RetryLost();
    find();
  }
  if (run < slabs) {
    return Error{ErrorCode::kFull,
                 Format("the arena is full: %llu of %llu bytes are committed and no free run of %llu bytes is left; "
                        "free executors, collect(), or make the arena with a larger maxBytes",
                        static_cast<unsigned long long>(CommittedBytes()), static_cast<unsigned long long>(bytes()),
                        static_cast<unsigned long long>(uint64_t{slabs} * slab_bytes_))};
  }
  uint32_t first_unit = unit - slabs;
  uint32_t first = first_unit * unit_granules_;
  SpanId head = spans_.Add();
  if (head == 0) return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  auto made = OrOutOfMemory([&]() -> Result<std::unique_ptr<Slab>> {
    return std::make_unique<Slab>(zone, first, slabs * unit_granules_, page_bytes() / kGranuleBytes, head, spans_,
                                  bins_[static_cast<int>(zone)]);
  });
  if (!made.ok()) {
    spans_.Recycle(head);
    return std::move(made.status());
  }
  Result<uint8_t*> view = backing_.Commit(zone, first, slabs * unit_granules_);
  if (!view.ok()) {
    spans_.Recycle(head);
    return std::move(view.status());
  }
  std::unique_ptr<Slab> slab = std::move(made.value());
  slab->Begin(view.value());
  Slab* result = slab.get();
  for (uint32_t i = 0; i < slabs; i++) units_[first_unit + i] = result;
  if (free_slab_slots_.empty()) {
    slabs_.push_back(std::move(slab));
  } else {
    slabs_[free_slab_slots_.back()] = std::move(slab);
    free_slab_slots_.pop_back();
  }
  slab_count_++;
  return result;
}

void CodeSpace::DecommitSlab(Slab* slab) {
  for (uint32_t unit = slab->first() / unit_granules_; unit < slab->end() / unit_granules_; unit++)
    units_[unit] = nullptr;
  // An empty slab's only hole leaves its bin. (In the destructor slabs may still hold spans, and bins no longer
  // matter.)
  slab->SetEvacuating(true);
  {
    SpanTable::Change change(spans_);
    spans_.Leave(slab->head(), spans_[slab->head()], 0, nullptr);
  }
  spans_.Recycle(slab->head());
  int zone = static_cast<int>(slab->zone());
  if (spare_[zone] == slab) spare_[zone] = nullptr;
  slab_count_--;
  for (uint32_t slot = 0; slot < slabs_.size(); slot++) {
    if (slabs_[slot].get() != slab) continue;
    std::unique_ptr<Slab> owned = std::move(slabs_[slot]);
    free_slab_slots_.push_back(slot);
    backing_.GiveBack(std::move(owned));
    return;
  }
}

uint64_t CodeSpace::LostBytes() const {
  uint64_t pages = backing_.LostPages();
  ForEachSlab([&](const Slab& slab) { pages += slab.kept_pages; });
  return pages * page_bytes();
}

bool CodeSpace::Poison(const SpanNode& node) {
  WriteScope scope(*this, "poison");
  uint64_t at = Address(node.start);
  uint32_t bytes = node.granules * kGranuleBytes;
  if (!scope.OpenAt(at, bytes).ok()) return false;
  std::memset(scope.FillAt(at, bytes), arch::kPoisonByte, bytes);
  return true;
}

void CodeSpace::Free(SpanId span) {
  const SpanNode& node = spans_[span];
  Slab& slab = SlabOf(node);
  if (AccessOf(slab.zone()) == os::Access::kCode) {
    // A slab under evacuation is about to go or to be filled again: poison what is left of it once, in Trim. What the
    // system does not let us write now waits for Trim as well, since a free cannot fail.
    if (slab.evacuating() || holds_poison_ || !Poison(node)) slab.needs_poison = true;
  }
  slab.given_up = 0;  // it has less to move now
  Release(slab, span);
}

void CodeSpace::PoisonHeld() {
  if (!std::exchange(holds_poison_, false)) return;
  for (auto& slab : slabs_)
    if (slab && slab->needs_poison && !slab->evacuating()) slab->needs_poison = !PoisonHoles(*slab);
}

void CodeSpace::Abandon(SpanId span) { Release(SlabOf(span), span); }

void CodeSpace::Release(Slab& slab, SpanId span) {
  slab.Remove(span);
  spans_.Recycle(span);
  if (slab.empty()) OnEmpty(&slab);
}

void CodeSpace::OnEmpty(Slab* slab) {
  Slab*& spare = spare_[static_cast<int>(slab->zone())];
  if (slab->evacuating() || spare == slab) return;  // the collector decides
  if (spare == nullptr)
    spare = slab;
  else
    DecommitSlab(slab);
}

void CodeSpace::DecommitEmptied(uint64_t end_nanos) {
  Deadline deadline(end_nanos);
  bool began = false;
  for (auto& slab : slabs_) {
    if (!slab || !slab->empty() || FindRoomiest(slab->zone()) == slab.get()) continue;
    if (deadline.IsUp() && began) return;
    began = true;
    DecommitSlab(slab.get());
  }
}

uint32_t CodeSpace::Trim(uint64_t end_nanos, bool* done) {
  backing_.RetryLost();
  uint32_t pages = 0;
  uint32_t punched = 0;
  for (auto& slab : slabs_) punched += slab && slab->punched();
  // A round that had to stop goes on behind the slab that it came to last: one slab per call at least, also where the
  // system refuses, so that slices come to an end.
  size_t first = end_nanos != 0 ? std::exchange(trim_next_, 0) : 0;
  Deadline deadline(end_nanos);
  bool began = false;
  for (size_t i = first; i < slabs_.size(); i++) {
    Slab* slab = slabs_[i].get();
    if (slab == nullptr || !(slab->shrunk || slab->needs_poison || slab->kept_pages != 0 || slab->empty())) continue;
    if (deadline.IsUp() && began) {
      trim_next_ = i;
      if (done != nullptr) *done = false;
      break;
    }
    began = true;
    if (slab->empty()) {
      pages += slab->backed_pages();
      punched -= slab->punched();
      DecommitSlab(slab);
      continue;
    }
    if (slab->needs_poison) slab->needs_poison = !PoisonHoles(*slab);
    bool was_punched = slab->punched();
    // A hole of pages costs up to two mappings. A run of four pages or more in every second slab keeps the process
    // below three mappings per slab.
    slab->shrunk = !backing_.PunchEmptyPages(*slab, 2 * punched <= slab_count_, &pages);
    punched += slab->punched() - was_punched;
  }
  return pages;
}

void CodeSpace::BackByHugePages() {
  if (slab_bytes_ != os::HugePageBytes()) return;
  for (auto& slab : slabs_) {
    if (!slab || slab->huge() || slab->punched() || AccessOf(slab->zone()) == os::Access::kState) continue;
    if (slab->pages() - slab->backed_pages() > slab->pages() / 16) continue;
    if (!backing_.BackByHugePages(*slab)) return;
  }
}

uint64_t CodeSpace::HugePageBytes() const {
  uint64_t granules = 0;
  ForEachSlab([&](const Slab& slab) { granules += slab.huge() ? slab.granules() : 0; });
  return granules * kGranuleBytes;
}

bool CodeSpace::PoisonHoles(Slab& slab) {
  WriteScope scope(*this, "poison what moved spans left");
  bool all = true;
  auto poison = [&](SpanId before) {
    // Only pages that have memory, one at a time: a hole may reach into memory that was never used.
    uint64_t from = uint64_t{spans_[before].End() - slab.first()} * kGranuleBytes;
    uint64_t to = from + uint64_t{spans_[before].hole_granules} * kGranuleBytes;
    while (from < to) {
      uint64_t end = std::min(to, AlignDown(from, page_bytes()) + page_bytes());
      if (slab.PageBacked(static_cast<uint32_t>(from / page_bytes()))) {
        uint64_t at = Address(slab.first()) + from;
        uint32_t bytes = static_cast<uint32_t>(end - from);
        if (scope.OpenAt(at, bytes).ok())
          std::memset(scope.FillAt(at, bytes), arch::kPoisonByte, bytes);
        else
          all = false;
      }
      from = end;
    }
  };
  poison(slab.head());
  slab.ForEachSpan(poison);
  return all;
}

uint64_t CodeSpace::CommittedBytes() const {
  uint64_t pages = 0;
  ForEachSlab([&](const Slab& slab) { pages += slab.backed_pages(); });
  return pages * page_bytes();
}

size_t CodeSpace::MetadataBytes() const {
  size_t bytes = sizeof *this + spans_.MetadataBytes() + units_.capacity() * sizeof(Slab*) +
                 slabs_.capacity() * sizeof(slabs_[0]) + bins_.capacity() * sizeof(HoleBins) + staging_.capacity();
  ForEachSlab([&](const Slab& slab) { bytes += slab.MetadataBytes(); });
  return bytes;
}

std::string CodeSpace::FindBrokenRule() const {
  std::string broken;
  uint32_t holes = 0, binned = 0, count = 0;
  ForEachSlab([&](const Slab& slab) {
    count++;
    if (const char* rule = slab.FindBrokenRule(); rule != nullptr && broken.empty())
      broken = Format("slab at %llx: %s", static_cast<unsigned long long>(Address(slab.first())), rule);
    if (slab.evacuating()) {
      if (broken.empty()) broken = "a slab is left under evacuation";
      return;
    }
    holes += spans_[slab.head()].hole_granules != 0;
    slab.ForEachSpan([&](SpanId id) { holes += spans_[id].hole_granules != 0; });
  });
  for (const HoleBins& bins : bins_) {
    SpanId last = 0;
    uint32_t last_bin = 0;  // which has no holes
    bins.ForEach([&](SpanId before, uint32_t bin) {
      binned++;
      if (bin == last_bin && spans_[before].hole_previous != last && broken.empty()) broken = "a bin's list is torn";
      last = before;
      last_bin = bin;
      if (HoleBins::BinOf(spans_[before].hole_granules) != bin && broken.empty()) broken = "a hole is in the wrong bin";
    });
  }
  if (broken.empty() && holes != binned) broken = "a hole is in no bin";
  if (broken.empty() && count != slab_count_) broken = "the count of slabs is wrong";
  return broken;
}

void WriteScope::CloseWindows() {
  for (const Window& window : opened_)
    space_.memory().CloseWindow(window.access, reinterpret_cast<uint8_t*>(window.at), window.bytes);
}

Status WriteScope::OpenWindow(const Slab& slab, uint64_t at, uint32_t bytes) {
  if (space_.writer() == os::WriterKind::kProcmem && space_.staging_.size() < bytes)
    if (Status failed = OrOutOfMemory([&] { space_.staging_.resize(bytes); })) return failed;
  // The slab up to its punched pages or from behind them: a window over what is punched would give it access.
  uint64_t begin = space_.Address(slab.first());
  uint64_t end = space_.Address(slab.end());
  if (slab.punched()) {
    uint64_t punched = begin + uint64_t{slab.punch_first()} * space_.page_bytes();
    if (at < punched)
      end = punched;
    else
      begin = punched + uint64_t{slab.punch_pages()} * space_.page_bytes();
  }
  for (const Window& window : opened_)
    if (window.at == begin) return Status::Ok();
  os::Access access = AccessOf(slab.zone());
  if (Status failed = MakeRoom(opened_, 1)) return failed;
  Status opened = space_.memory().OpenWindow(access, reinterpret_cast<uint8_t*>(begin), end - begin);
  if (opened.ok()) opened_.push_back({begin, end - begin, access});
  return opened;
}

uint8_t* WriteScope::FillWithoutView() {
  if (space_.writer() == os::WriterKind::kFlip) return reinterpret_cast<uint8_t*>(filled_at_);
  JIT_ARENA_CHECK(filled_bytes_ <= space_.staging_.size());  // Open has seen to it
  staged_ = true;
  return space_.staging_.data();
}

void WriteScope::WriteStaged() {
  space_.memory().Write(filled_access_, reinterpret_cast<uint8_t*>(filled_at_), space_.staging_.data(), filled_bytes_);
  staged_ = false;
}

void WriteScope::Patch(SpanId span, uint32_t offset, const uint8_t* bytes, uint32_t count) {
  uint64_t at = space_.AddressOf(span) + offset;
  Slab& slab = space_.SlabOf(span);
  if (slab.view() == nullptr) {
    std::memcpy(FillAt(at, count), bytes, count);
    return;
  }
  Flush();
  uint8_t* to = slab.view() + (at - space_.Address(slab.first()));
  uint64_t word_at = AlignDown(at, 8);
  if (at + count <= word_at + 8) {
    // One aligned store, so that a core which executes the site sees the old field or the new one.
    uint8_t* word_to = to - (at - word_at);
    uint64_t word;
    std::memcpy(&word, word_to, sizeof word);
    std::memcpy(reinterpret_cast<uint8_t*>(&word) + (at - word_at), bytes, count);
    reinterpret_cast<std::atomic<uint64_t>*>(word_to)->store(word, std::memory_order_release);
  } else {
    std::memcpy(to, bytes, count);
  }
  os::FlushInstructionCache(reinterpret_cast<const uint8_t*>(at), count);
}

}  // namespace jit_arena
