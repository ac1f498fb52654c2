// The arena's address range: slabs, spans in them, and the only door through which executable memory is written.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/bits.h"
#include "base/status.h"
#include "core/backing.h"
#include "core/hole_bins.h"
#include "core/slab.h"
#include "core/span_table.h"
#include "os/memory.h"

namespace jit_arena {

inline constexpr uint64_t kSlabBytes = 256 * 1024;

// Where and how large a span is.
struct Span {
  uint64_t rx;    // address at which it executes or is read
  uint8_t* view;  // the writer's view, or null when the writer has none
  uint32_t bytes;
};

// Every method: under the arena's lock, except base(), end(), Address, Contains and what says so.
class CodeSpace {
 public:
  // `max_bytes` bounds what Reserve will be asked for.
  // A slab that is as large as a huge page begins at a multiple of one.
  CodeSpace(std::unique_ptr<os::Memory> memory, uint64_t max_bytes, uint32_t slab_bytes = kSlabBytes);
  ~CodeSpace();  // gives everything back
  // Makes the destructor leave the memory alone: in a forked child it is not there.
  void Disown() { backing_.Disown(); }

  // Around fork() for memory that a child keeps (core/code_space_fork.cc): BeforeFork, then one of the others.
  void BeforeFork();
  void AfterForkInParent();
  // In the child: the same bytes at the same addresses, in memory of its own. On failure the memory is gone and
  // disowned, and the Status says why.
  Status AfterForkInChild();

  // Reserves `bytes`, rounded up to whole slabs, with a guard page at each end. Under `ulimit -v` and in containers
  // large reservations fail: retries smaller before it fails with ERR_ARENA_NO_MEMORY. `wish`: where it would be well
  // placed; 0: anywhere.
  Status Reserve(uint64_t bytes, uint64_t wish = 0);

  uint64_t base() const { return backing_.base(); }
  uint64_t bytes() const { return backing_.bytes(); }
  uint64_t end() const { return backing_.end(); }
  bool Contains(uint64_t address) const { return backing_.Contains(address); }
  uint64_t Address(uint32_t granule) const { return backing_.Address(granule); }

  // A reserved span of at least `bytes` at a multiple of `align` (a power of two up to a page) in a slab of the zone.
  // O(1) in the number of spans and slabs. ERR_ARENA_FULL, ERR_ARENA_NO_MEMORY; nothing has changed then.
  Result<SpanId> Allocate(Zone zone, uint32_t bytes, uint32_t align, uint32_t owner, Section section);
  // Frees a span of any state: its granules may be reused at once. Code is poisoned. Ends an empty slab's life.
  void Free(SpanId span);
  // Free is coming for a span at `address`: fetches what it will write, all at once rather than one after the other.
  void PrefetchForFree(SpanId span, uint64_t address) const {
    Prefetch(&spans_[span]);
    const Slab& slab = SlabCovering(address);
    if (slab.view() == nullptr) return;
    const uint8_t* from = slab.view() + (address - Address(slab.first()));
    for (uint32_t at = 0; at < 512; at += 64) Prefetch(from + at);  // from there on the CPU sees the pattern
  }
  // Frees every span that is kUnlisted, after visit(span).
  template <class Visit>
  void FreeUnlisted(Visit visit);
  // Undoes Allocate for a span that was never written: no poison.
  void Abandon(SpanId span);

  SpanNode& operator[](SpanId span) { return spans_[span]; }
  const SpanNode& operator[](SpanId span) const { return spans_[span]; }
  Span Describe(SpanId span) const;
  // Where the span's bytes are read at least cost: in the writer's view, which the processor's page tables know from
  // the writing, while code that has not run yet is unknown to them at its own address.
  const uint8_t* BytesOf(SpanId span) const {
    Span described = Describe(span);
    return described.view != nullptr ? described.view : reinterpret_cast<const uint8_t*>(described.rx);
  }
  uint64_t AddressOf(SpanId span) const { return Address(spans_[span].start); }
  void SetState(SpanId span, SpanState state) {
    SpanNode& node = spans_[span];
    SlabOf(node).SetState(node, state);
    if (IsRetired(state)) {
      Prefetch(&spans_[node.previous]);
      Prefetch(&spans_[node.next]);
    }
  }
  // True when every byte that Fill will point to is certain to be zero already.
  bool KnownZero(SpanId span) const {
    const SpanNode& node = spans_[span];
    const Slab& slab = SlabOf(node);
    return slab.view() != nullptr && slab.KnownZero(node.start, node.granules);
  }
  // Whether WriteScope::Patch changes these bytes with one store.
  bool CanPatchAtomically(SpanId span, uint32_t offset, uint32_t count) const {
    return SlabOf(span).view() != nullptr && (AddressOf(span) + offset) % 8 + count <= 8;
  }
  // The span at an address, or 0. Under the lock, or in ReadBesideChanges.
  SpanId FindSpan(uint64_t address) const {
    return Contains(address) ? spans_.Find(static_cast<uint32_t>((address - base()) / kGranuleBytes)) : 0;
  }
  // Without the lock: SpanTable's.
  template <class Read>
  bool ReadBesideChanges(Read read) const {
    return spans_.ReadBesideChanges(read);
  }
  Slab& SlabOf(SpanId span) const { return SlabOf(spans_[span]); }
  Slab& SlabOf(const SpanNode& node) const { return *units_[node.start >> unit_shift_]; }

  // The slab that begins at a granule, or null.
  Slab* SlabAt(uint32_t first) const {
    Slab* slab = units_[first >> unit_shift_];
    return slab != nullptr && slab->first() == first ? slab : nullptr;
  }
  uint32_t slab_bytes() const { return slab_bytes_; }

  // Evacuation (core/collector.cc).
  // A reserved copy of span `like` (size, owner, section; `align` as at its Allocate) in the last hole of
  // `destination`, or 0 when it does not fit there. Bump allocation: what a batch of moves needs is known beforehand.
  SpanId AllocateIn(Slab& destination, SpanId like, uint32_t align);
  // The slab of the zone with the largest hole (an empty one, if there is one), or null.
  Slab* FindRoomiest(Zone zone) const;
  Result<Slab*> CommitSlab(Zone zone, uint32_t slabs = 1);
  // Returns empty slabs to the OS, one at least, but for the one that an evacuation would fill next; stops in time for
  // `end_nanos` (os::NowNanos). For the beginning of a slice: the last one may have emptied some.
  void DecommitEmptied(uint64_t end_nanos);
  // Poisons what an evacuation left unpoisoned, returns empty slabs and whole empty pages to the OS. Stops in
  // time for `end_nanos` (0: never), after one slab at least, and sets `*done` to false, when more slabs are left to
  // come to; the next call with an end begins with those. Returns the number of pages that have no memory any more.
  uint32_t Trim(uint64_t end_nanos = 0, bool* done = nullptr);

  // Puts huge pages behind the slabs of code and data that are as large as one and full, but for a sixteenth of their
  // pages, which then take memory as well. Stops at the first that the system refuses.
  void BackByHugePages();
  uint64_t HugePageBytes() const;  // behind slabs

  template <class Visit>
  void ForEachSlab(Visit visit) const {
    for (const auto& slab : slabs_)
      if (slab) visit(*slab);
  }
  uint32_t slab_count() const { return slab_count_; }
  uint32_t page_bytes() const { return backing_.page_bytes(); }
  uint64_t CommittedBytes() const;
  // Memory that is not used any more and that the system did not take back. It is tried again by Trim, by a CommitSlab
  // that finds no room, and at the end.
  uint64_t LostBytes() const;
  size_t MetadataBytes() const;
  os::Memory& memory() const { return backing_.memory(); }
  os::WriterKind writer() const { return writer_; }

  // First broken rule in words, or an empty string; see Arena::CheckInvariants.
  std::string FindBrokenRule() const;

 private:
  friend class WriteScope;

  Slab& SlabCovering(uint64_t address) const {
    return *units_[static_cast<uint32_t>((address - base()) / kGranuleBytes) >> unit_shift_];
  }

  // Both: false when the system refuses the write window.
  bool Poison(const SpanNode& node);
  bool PoisonHoles(Slab& slab);
  void Release(Slab& slab, SpanId span);
  void DecommitSlab(Slab* slab);
  bool IsFree(uint32_t unit) const { return units_[unit] == nullptr && !backing_.IsLost(unit); }
  void OnEmpty(Slab* slab);
  Status CopyInChild();
  Status CopySlab(Slab& slab, uint8_t* copy);  // by way of `copy`

  Backing backing_;
  os::WriterKind writer_;
  uint32_t slab_bytes_;
  uint32_t unit_granules_;  // granules of the smallest slab: the unit of the address range; a power of two
  int unit_shift_;          // log2 of it

  SpanTable spans_;
  std::vector<HoleBins> bins_;                // by zone
  std::vector<Slab*> units_;                  // by unit; a large slab fills several
  std::vector<std::unique_ptr<Slab>> slabs_;  // with gaps
  size_t trim_next_ = 0;                      // where a Trim that had to stop goes on
  std::vector<uint32_t> free_slab_slots_;
  Slab* spare_[kZones] = {};  // one empty slab per zone is kept, so that a free and an install at the edge of a slab
                              // do not cost system calls each time
  uint32_t slab_count_ = 0;
  std::vector<uint8_t> staging_;   // procmem: bytes on their way through the current WriteScope
  const char* writing_ = nullptr;  // the reason of the current WriteScope
};

// The only way to change code or read-only data: a scope with a reason, at whose end the memory has its access back
// and instruction fetch sees the bytes. Opening one can fail (flip); after that nothing can.
//
// One scope at a time per arena, under the arena's lock. Waits for forked children that still copy the code, up to a
// bound (docs/fork.md).
class WriteScope {
 public:
  WriteScope(CodeSpace& space, const char* reason) : space_(space) {
    JIT_ARENA_CHECK(space.writing_ == nullptr && reason != nullptr);
    space.writing_ = reason;
    space.backing_.handshake().Await();
  }
  ~WriteScope() {
    Flush();
    if (!opened_.empty()) CloseWindows();
    space_.writing_ = nullptr;
  }
  WriteScope(const WriteScope&) = delete;
  WriteScope& operator=(const WriteScope&) = delete;

  // Makes the slab of a span writable, for writers that must, and takes the memory that filling the span needs; call
  // for every span before the first byte is written.
  bool MustOpen() const { return space_.writer_ != os::WriterKind::kAlias; }
  Status Open(SpanId span) { return OpenAt(space_.AddressOf(span), space_[span].granules * kGranuleBytes); }
  Status OpenAt(uint64_t address, uint32_t bytes) {
    const Slab& slab = space_.SlabCovering(address);
    return slab.view() != nullptr ? Status::Ok() : OpenWindow(slab, address, bytes);
  }

  // Where to write the whole of `bytes` bytes at `offset` of a span; every byte must be written. Valid until the next
  // call of the scope.
  uint8_t* Fill(SpanId span, uint32_t offset, uint32_t bytes) { return FillAt(space_.AddressOf(span) + offset, bytes); }
  uint8_t* FillAt(uint64_t address, uint32_t bytes) {
    Flush();
    filled_at_ = address;
    filled_bytes_ = bytes;
    Slab& slab = space_.SlabCovering(address);
    uint64_t offset = address - space_.base();
    slab.MarkBacked(static_cast<uint32_t>(offset / kGranuleBytes), GranulesFor(offset % kGranuleBytes + bytes));
    if (slab.view() != nullptr) return slab.view() + (address - space_.Address(slab.first()));
    filled_access_ = AccessOf(slab.zone());
    return FillWithoutView();
  }

  // Everything written so far is in place and visible to instruction fetch of this core.
  void Finish() { Flush(); }

  // Overwrites 4 or 8 bytes of code that may be executing elsewhere: one store where the writer has a view and the
  // bytes lie within 8 aligned ones.
  void Patch(SpanId span, uint32_t offset, const uint8_t* bytes, uint32_t count);

 private:
  struct Window {
    uint64_t at;
    uint64_t bytes;
    os::Access access;
  };
  Status OpenWindow(const Slab& slab, uint64_t address, uint32_t bytes);
  void CloseWindows();
  uint8_t* FillWithoutView();
  void Flush() {
    if (filled_bytes_ == 0) return;
    if (staged_) WriteStaged();
    os::FlushInstructionCache(reinterpret_cast<const uint8_t*>(filled_at_), filled_bytes_);
    filled_bytes_ = 0;
  }
  void WriteStaged();

  CodeSpace& space_;
  std::vector<Window> opened_;  // without a view: what may be written (with flip, and not executed) just now
  bool staged_ = false;         // procmem: the last fill's bytes stand in the staging buffer
  uint64_t filled_at_ = 0;      // the last fill, whose bytes instruction fetch has not been told of
  uint32_t filled_bytes_ = 0;
  os::Access filled_access_ = os::Access::kCode;  // of a staged fill
};

template <class Visit>
void CodeSpace::FreeUnlisted(Visit visit) {
  for (size_t slot = 0; slot < slabs_.size(); slot++) {
    if (slabs_[slot] == nullptr) continue;
    // With its last span a slab may go.
    for (SpanId id = spans_[slabs_[slot]->head()].next; id != 0;) {
      SpanId next = spans_[id].next;
      if (spans_[id].State() == SpanState::kUnlisted) {
        visit(id);
        Free(id);
      }
      id = next;
    }
  }
}

}  // namespace jit_arena
