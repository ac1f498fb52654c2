// The memory behind an arena's slabs: the reservation, what is committed in it, and what the system did not take back.
//
// CodeSpace decides which slabs there are and what lies in them. This knows no span: it turns pages of a slab into
// calls of os::Memory, and keeps the slab's books of pages in step. Giving memory back may be refused at any time. Then
// the slab is *lost*: nobody uses it, its address range stays taken, and it is tried again until the system takes it.
//
// Every method: under the arena's lock, except base(), end(), Address and Contains.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "core/slab.h"
#include "os/memory.h"

namespace jit_arena {

constexpr os::Access AccessOf(Zone zone) {
  return zone <= Zone::kFixedCode   ? os::Access::kCode
         : zone <= Zone::kFixedData ? os::Access::kData
                                    : os::Access::kState;
}

class Backing {
 public:
  Backing(std::unique_ptr<os::Memory> memory, uint32_t slab_bytes);
  ~Backing();  // gives back the lost slabs and the reservation
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;

  // CodeSpace::Reserve.
  Status Reserve(uint64_t bytes, uint64_t wish);
  bool reserved() const { return reservation_ != nullptr; }
  // Makes the destructor leave the memory alone: in a forked child it is not there.
  void Disown() { reservation_ = nullptr; }
  // The reservation is gone; disowned.
  void Unreserve();

  uint64_t base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t end() const { return base_ + bytes_; }
  bool Contains(uint64_t address) const { return address - base_ < bytes_; }
  uint64_t Address(uint32_t granule) const { return base_ + uint64_t{granule} * kGranuleBytes; }
  uint32_t page_bytes() const { return page_bytes_; }
  bool has_memory() const { return memory_ != nullptr; }  // tests of books have none
  os::Memory& memory() const { return *memory_; }
  // With forked children that still copy the code: awaited before shared memory changes.
  os::ForkHandshake& handshake() { return handshake_; }

  // Memory for a slab at these granules; the writer's view of it. ERR_ARENA_NO_MEMORY.
  Result<uint8_t*> Commit(Zone zone, uint32_t first, uint32_t granules);
  // The reverse; the slab is empty and nobody finds it any more. It is lost when the system refuses.
  void GiveBack(std::unique_ptr<Slab> slab);
  // The reverse in a child that has no copy: nothing stays that could be executed.
  void DecommitForGood(const Slab& slab);

  // Lost slabs. A slab's unit is the smallest slab's address range, by number.
  bool IsLost(uint32_t unit) const { return lost_units_[unit]; }
  bool AnyLost() const { return lost_ != nullptr; }
  void RetryLost();
  uint64_t LostPages() const;
  template <class Visit>
  void ForEachLost(Visit visit) {
    for (Slab* slab = lost_.get(); slab != nullptr; slab = slab->next_lost.get()) visit(*slab);
  }

  // Punched pages of a slab have memory again. Fails at the mapping limit; they stay punched then.
  Status Restore(Slab& slab);
  // Punches the longest run of empty pages, and adds to `*pages` those that have no memory any more. `may_split`:
  // whether a slab without punched pages may get some, which takes up to two mappings. False when there is more to give
  // back than the system, or `may_split`, allows now.
  bool PunchEmptyPages(Slab& slab, bool may_split, uint32_t* pages);
  // The slab's punched pages, in memory that has just been committed anew.
  Status PunchAnew(Slab& slab);
  // Puts huge pages behind a slab that is as large as one. False when the system refuses.
  bool BackByHugePages(Slab& slab);

 private:
  // Pages of a slab as os::Memory takes them.
  struct Pages {
    os::Access access;
    uint8_t* at;
    size_t bytes;
    uint8_t* view;
  };
  Pages PagesOf(const Slab& slab, uint32_t first, uint32_t count) const;
  bool Decommit(Slab& slab);
  void MarkLost(const Slab& slab, bool lost);

  std::unique_ptr<os::Memory> memory_;
  os::ForkHandshake handshake_;
  uint32_t slab_bytes_;
  uint32_t page_bytes_;
  uint8_t* reservation_ = nullptr;
  uint64_t reserved_bytes_ = 0;
  uint64_t base_ = 0;
  uint64_t bytes_ = 0;
  std::unique_ptr<Slab> lost_;    // the first of a list
  std::vector<bool> lost_units_;  // by unit: of those slabs
};

}  // namespace jit_arena
