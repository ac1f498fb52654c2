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
  if (memory().shared()) backing_.handshake().Begin(CommittedBytes());
}

void CodeSpace::AfterForkInParent() {
  if (memory().shared()) backing_.handshake().InParent();
}

Status CodeSpace::AfterForkInChild() {
  Status failed = CopyInChild();
  if (failed.ok()) return failed;
  // Nothing may stay that could be executed while the parent changes it.
  for (auto& slab : slabs_) {
    if (!slab || slab->view() == nullptr || AccessOf(slab->zone()) == os::Access::kState) continue;
    backing_.DecommitForGood(*slab);
  }
  backing_.Unreserve();
  return failed;
}

Status CodeSpace::CopyInChild() {
  Status failed = memory().EnterChild();
  if (!memory().shared()) return failed;
  backing_.handshake().InChild();
  uint64_t largest = 0;
  ForEachSlab([&](Slab& slab) {
    if (AccessOf(slab.zone()) == os::Access::kState) return;
    slab.SetView(nullptr);  // the parent's, which was not inherited
    largest = std::max(largest, uint64_t{slab.granules()} * kGranuleBytes);
  });
  backing_.ForEachLost([](Slab& slab) {
    if (AccessOf(slab.zone()) != os::Access::kState) slab.SetView(nullptr);
  });
  backing_.RetryLost();
  std::unique_ptr<uint8_t[]> copy(new (std::nothrow) uint8_t[largest]);
  if (copy == nullptr) failed = Error{ErrorCode::kNoMemory, "no memory to copy a slab through"};
  for (auto& slab : slabs_)
    if (failed.ok() && slab && AccessOf(slab->zone()) != os::Access::kState) failed = CopySlab(*slab, copy.get());
  const char* late = backing_.handshake().Finish();
  if (failed.ok() && late != nullptr) failed = Error{ErrorCode::kForked, late};
  return failed;
}

Status CodeSpace::CopySlab(Slab& slab, uint8_t* copy) {
  uint8_t* at = reinterpret_cast<uint8_t*>(Address(slab.first()));
  // Only pages that have memory: reading the others would give them some. And before the slab is committed anew, in the
  // same place.
  auto for_each_backed = [&](auto visit) {
    for (uint32_t page = 0; page < slab.pages(); page++)
      if (slab.PageBacked(page)) visit(uint64_t{page} * page_bytes());
  };
  for_each_backed([&](uint64_t offset) { std::memcpy(copy + offset, at + offset, page_bytes()); });
  Result<uint8_t*> view = backing_.Commit(slab.zone(), slab.first(), slab.granules());
  if (!view.ok()) return std::move(view.status());
  slab.SetView(view.value());
  for_each_backed([&](uint64_t offset) {
    std::memcpy(view.value() + offset, copy + offset, page_bytes());
    os::FlushInstructionCache(at + offset, page_bytes());
  });
  return slab.punched() ? backing_.PunchAnew(slab) : Status::Ok();
}

}  // namespace jit_arena
