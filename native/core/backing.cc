#include "core/backing.h"

#include <algorithm>

#include "base/bits.h"

namespace jit_arena {

Backing::Backing(std::unique_ptr<os::Memory> memory, uint32_t slab_bytes)
    : memory_(std::move(memory)), slab_bytes_(slab_bytes), page_bytes_(static_cast<uint32_t>(os::PageBytes())) {}

Backing::~Backing() {
  if (!reserved()) return;
  // One by one, since each is owned by the one before.
  for (; lost_ != nullptr; lost_ = std::move(lost_->next_lost)) DecommitForGood(*lost_);
  Unreserve();
}

void Backing::Unreserve() {
  memory_->Unreserve(reservation_, reserved_bytes_);
  Disown();
}

Status Backing::Reserve(uint64_t bytes, uint64_t wish) {
  bytes = AlignUp(bytes, slab_bytes_);
  uint64_t smallest = std::min<uint64_t>(bytes, 4 * slab_bytes_);
  // Slabs begin at multiples of a page, not of a slab: the kernel's choice of base keeps its randomness.
  uint64_t align = slab_bytes_ == os::HugePageBytes() ? slab_bytes_ : page_bytes_;
  for (;;) {
    reserved_bytes_ = bytes + page_bytes_ + align;
    Result<uint8_t*> reserved = wish == 0 ? memory_->Reserve(reserved_bytes_)
                                          : memory_->ReserveNear(reinterpret_cast<uint8_t*>(wish), reserved_bytes_);
    if (reserved.ok()) {
      reservation_ = reserved.value();
      base_ = AlignUp(reinterpret_cast<uint64_t>(reservation_) + page_bytes_, align);
      bytes_ = bytes;
      lost_units_.resize(bytes / slab_bytes_);
      return Status::Ok();
    }
    if (bytes <= smallest) return std::move(reserved.status());
    bytes = std::max(smallest, AlignUp(bytes / 2, slab_bytes_));
  }
}

Backing::Pages Backing::PagesOf(const Slab& slab, uint32_t first, uint32_t count) const {
  uint64_t offset = uint64_t{first} * page_bytes_;
  return {AccessOf(slab.zone()), reinterpret_cast<uint8_t*>(Address(slab.first()) + offset),
          uint64_t{count} * page_bytes_, slab.view() != nullptr ? slab.view() + offset : nullptr};
}

Result<uint8_t*> Backing::Commit(Zone zone, uint32_t first, uint32_t granules) {
  return memory_->Commit(AccessOf(zone), reinterpret_cast<uint8_t*>(Address(first)),
                         uint64_t{granules} * kGranuleBytes);
}

bool Backing::Decommit(Slab& slab) {
  Pages all = PagesOf(slab, 0, slab.pages());
  Status refused = memory_->Decommit(all.access, all.at, all.bytes, &all.view);
  slab.SetView(all.view);
  return refused.ok();
}

void Backing::GiveBack(std::unique_ptr<Slab> slab) {
  if (Decommit(*slab)) return;
  MarkLost(*slab, true);
  slab->next_lost = std::move(lost_);
  lost_ = std::move(slab);
}

void Backing::DecommitForGood(const Slab& slab) {
  Pages all = PagesOf(slab, 0, slab.pages());
  memory_->DecommitForGood(all.access, all.at, all.bytes, all.view);
}

// Where one is refused, so are the others as a rule.
void Backing::RetryLost() {
  while (lost_ != nullptr && Decommit(*lost_)) {
    MarkLost(*lost_, false);
    lost_ = std::move(lost_->next_lost);
  }
}

void Backing::MarkLost(const Slab& slab, bool lost) {
  const uint32_t unit_granules = slab_bytes_ / kGranuleBytes;
  auto first = lost_units_.begin() + slab.first() / unit_granules;
  std::fill(first, first + slab.granules() / unit_granules, lost);
}

uint64_t Backing::LostPages() const {
  uint64_t pages = 0;
  for (const Slab* slab = lost_.get(); slab != nullptr; slab = slab->next_lost.get())
    pages += slab->backed_pages() + slab->kept_pages;
  return pages;
}

Status Backing::Restore(Slab& slab) {
  Pages punched = PagesOf(slab, slab.punch_first(), slab.punch_pages());
  if (Status failed = memory_->Restore(punched.access, punched.at, punched.bytes, punched.view)) return failed;
  slab.kept_pages = 0;
  slab.MarkRestored();
  return Status::Ok();
}

bool Backing::PunchEmptyPages(Slab& slab, bool may_split, uint32_t* pages) {
  if (!memory_->CanPunch()) return true;
  if (slab.kept_pages != 0) {
    Pages kept = PagesOf(slab, slab.punch_first(), slab.punch_pages());
    if (!memory_->PunchAgain(kept.access, kept.at, kept.bytes, kept.view)) return false;
    *pages += std::exchange(slab.kept_pages, 0);
  }
  Slab::PageRun run = slab.FindEmptyPages();
  if (run.backed < 4) return true;
  if (!slab.punched() && !may_split) return false;
  // What is punched already stays as it is: before it and behind it.
  uint32_t middle = slab.punched() ? slab.punch_first() : run.first;
  uint32_t middle_end = slab.punched() ? middle + slab.punch_pages() : run.first;
  for (auto [first, end] : {std::pair(run.first, middle), std::pair(middle_end, run.first + run.count)}) {
    if (first == end) continue;
    handshake_.Await();  // as before a write: a child would copy zeroes
    Pages empty = PagesOf(slab, first, end - first);
    Result<bool> punched = memory_->Punch(empty.access, empty.at, empty.bytes, empty.view);
    if (!punched.ok()) return false;  // at the mapping limit: the pages stay, poisoned as they are
    uint32_t before = slab.backed_pages();
    slab.MarkPunched(first, end - first);
    uint32_t backed = before - slab.backed_pages();
    (punched.value() ? *pages : slab.kept_pages) += backed;
    if (!punched.value()) return false;
  }
  return true;
}

Status Backing::PunchAnew(Slab& slab) {
  Pages punched = PagesOf(slab, slab.punch_first(), slab.punch_pages());
  Result<bool> done = memory_->Punch(punched.access, punched.at, punched.bytes, punched.view);
  slab.kept_pages = done.ok() && !done.value() ? slab.punch_pages() : 0;
  return std::move(done.status());
}

bool Backing::BackByHugePages(Slab& slab) {
  auto* at = reinterpret_cast<uint8_t*>(Address(slab.first()));
  if (!memory_->BackByHugePages(at, uint64_t{slab.granules()} * kGranuleBytes)) return false;
  slab.MarkHuge();
  return true;
}

}  // namespace jit_arena
