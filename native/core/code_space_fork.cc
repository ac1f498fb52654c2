// What a forked child does with the code and data that it has inherited.
//
// Private memory (procmem, flip, all state) was copied by the kernel. Shared memory still is its parent's, which does
// not change it before the handshake ends: here every slab's pages are copied, also those of retired spans, since a
// thread may be in them: the one that forked.
#include <algorithm>
#include <cstring>
#include <new>

#include "base/bits.h"
#include "core/code_space.h"

namespace jit_arena {

void CodeSpace::BeforeFork() {
  if (memory_->shared()) handshake_.Begin(CommittedBytes());
}

void CodeSpace::AfterForkInParent() {
  if (memory_->shared()) handshake_.InParent();
}

Status CodeSpace::AfterForkInChild() {
  Status failed = CopyInChild();
  if (failed.ok()) return failed;
  // Nothing may stay that could be executed while the parent changes it.
  for (auto& slab : slabs_) {
    if (!slab || slab->view() == nullptr || AccessOf(slab->zone()) == os::Access::kState) continue;
    Pages all = PagesOf(*slab, 0, slab->pages());
    memory_->DecommitForGood(all.access, all.at, all.bytes, all.view);
  }
  memory_->Unreserve(reservation_, reserved_bytes_);
  Disown();
  return failed;
}

Status CodeSpace::CopyInChild() {
  Status failed = memory_->EnterChild();
  if (!memory_->shared()) return failed;
  handshake_.InChild();
  uint64_t largest = 0;
  ForEachSlab([&](Slab& slab) {
    if (AccessOf(slab.zone()) == os::Access::kState) return;
    slab.SetView(nullptr);  // the parent's, which was not inherited
    largest = std::max(largest, uint64_t{slab.granules()} * kGranuleBytes);
  });
  for (Slab* slab = lost_.get(); slab != nullptr; slab = slab->next_lost.get())
    if (AccessOf(slab->zone()) != os::Access::kState) slab->SetView(nullptr);
  RetryLost();
  std::unique_ptr<uint8_t[]> copy(new (std::nothrow) uint8_t[largest]);
  if (copy == nullptr) failed = Error{ErrorCode::kNoMemory, "no memory to copy a slab through"};
  for (auto& slab : slabs_) {
    if (!failed.ok()) break;
    if (!slab || AccessOf(slab->zone()) == os::Access::kState) continue;
    os::Access access = AccessOf(slab->zone());
    uint8_t* at = reinterpret_cast<uint8_t*>(Address(slab->first()));
    uint64_t bytes = uint64_t{slab->granules()} * kGranuleBytes;
    // Only pages that have memory: reading the others would give them some. And before the slab is committed anew, in
    // the same place.
    auto for_each_backed = [&](auto visit) {
      for (uint32_t page = 0; page < slab->pages(); page++)
        if (slab->PageBacked(page)) visit(uint64_t{page} * page_bytes_);
    };
    for_each_backed([&](uint64_t offset) { std::memcpy(copy.get() + offset, at + offset, page_bytes_); });
    Result<uint8_t*> view = memory_->Commit(access, at, bytes);
    if (!view.ok()) {
      failed = std::move(view.status());
      break;
    }
    slab->SetView(view.value());
    for_each_backed([&](uint64_t offset) {
      std::memcpy(view.value() + offset, copy.get() + offset, page_bytes_);
      os::FlushInstructionCache(at + offset, page_bytes_);
    });
    if (!slab->punched()) continue;
    Pages punched = PagesOf(*slab, slab->punch_first(), slab->punch_pages());
    Result<bool> done = memory_->Punch(punched.access, punched.at, punched.bytes, punched.view);
    slab->kept_pages = done.ok() && !done.value() ? slab->punch_pages() : 0;
    failed = std::move(done.status());
  }
  const char* late = handshake_.Finish();
  if (failed.ok() && late != nullptr) failed = Error{ErrorCode::kForked, late};
  return failed;
}

}  // namespace jit_arena
