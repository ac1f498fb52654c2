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

// A span's place and size.
struct Span {
  uint64_t rx;    // address at which it executes or is read
  uint8_t* view;  // the writer's view, or null when the writer has none
  uint32_t bytes;
};

// Every method: under the arena's lock, except base(), end(), Address, Contains and the methods that say so.
class CodeSpace {
 public:
  // Reserve will be asked for at most `max_bytes`. Slabs as large as a huge page begin at multiples of one.
  CodeSpace(std::unique_ptr<os::Memory> memory, uint64_t max_bytes, uint32_t slab_bytes = kSlabBytes);
  ~CodeSpace();  // gives everything back
  // Makes the destructor leave the memory alone, in a forked child that has none of it.
  void Disown() { backing_.Disown(); }

  // Around fork(), when the child gets a copy (core/code_space_fork.cc): BeforeFork, then one of the others.
  void BeforeFork();
  void AfterForkInParent();
  // In the child: the same bytes at the same addresses, in memory of its own. On failure the memory is gone and
  // disowned, and the Status says why.
  Status AfterForkInChild();

  // Reserves `bytes`, rounded up to whole slabs, with a guard page at each end. Under `ulimit -v` and in containers a
  // large reservation may be refused; Reserve then tries smaller ones before it fails with ERR_ARENA_NO_MEMORY. `wish`:
  // an address that would suit; 0: any.
  Status Reserve(uint64_t bytes, uint64_t wish = 0);

  uint64_t base() const { return backing_.base(); }
  uint64_t bytes() const { return backing_.bytes(); }
  uint64_t end() const { return backing_.end(); }
  bool Contains(uint64_t address) const { return backing_.Contains(address); }
  uint64_t Address(uint32_t granule) const { return backing_.Address(granule); }

  // A reserved span of at least `bytes` at a multiple of `align` (a power of two up to a page) in a slab of the zone.
  // O(1) in the number of spans and slabs. ERR_ARENA_FULL, ERR_ARENA_NO_MEMORY; nothing has changed then.
  Result<SpanId> Allocate(Zone zone, uint32_t bytes, uint32_t align, uint32_t owner, Section section);
  // Frees a span of any state, whose granules may be reused at once. Poisons code. May give back a slab that is empty
  // then.
  void Free(SpanId span);
  // Until PoisonHeld, Free leaves poison to it where each window costs system calls: it poisons slab by slab. Nobody
  // may execute or allocate in between.
  void HoldPoison() { holds_poison_ = writer_ == os::WriterKind::kFlip; }
  void PoisonHeld();
  // For a span at `address` that will be freed soon: fetches the cache lines that Free will write, all at once rather
  // than one after the other.
  void PrefetchForFree(SpanId span, uint64_t address) const {
    Prefetch(&spans_[span]);
    const Slab& slab = SlabCovering(address);
    if (slab.view() == nullptr) return;
    const uint8_t* from = slab.view() + (address - Address(slab.first()));
    for (uint32_t at = 0; at < 512; at += 64) Prefetch(from + at);  // the CPU sees the pattern and fetches the rest
  }
  // Frees every span that is kUnlisted, after visit(span).
  template <class Visit>
  void FreeUnlisted(Visit visit);
  // Undoes Allocate for a span that was never written: no poison.
  void Abandon(SpanId span);

  SpanNode& operator[](SpanId span) { return spans_[span]; }
  const SpanNode& operator[](SpanId span) const { return spans_[span]; }
  Span Describe(SpanId span) const;
  // The address at which the span's bytes are cheapest to read. The writer's view is in the processor's translation
  // buffers since the writing; the address of code that has not run yet is not.
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
  // True when every byte of the span is certain to be zero already.
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
  // SpanTable's, without the lock.
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
  // `destination`, or 0 when it does not fit there. The copies of a batch lie one behind the other.
  SpanId AllocateIn(Slab& destination, SpanId like, uint32_t align);
  // The slab of the zone with the largest hole (an empty one, if there is one), or null.
  Slab* FindRoomiest(Zone zone) const;
  Result<Slab*> CommitSlab(Zone zone, uint32_t slabs = 1);
  // Returns empty slabs to the OS, except the one that an evacuation would fill next. Returns one at least, and stops
  // in time for `end_nanos` (os::NowNanos). A slice begins with it, since the last slice may have emptied some slabs.
  void DecommitEmptied(uint64_t end_nanos);
  // Poisons the holes that an evacuation left, and returns empty slabs and whole empty pages to the OS. Stops in time
  // for `end_nanos` (0: never), after one slab at least. If slabs are left then, sets `*done` to false, and the next
  // call with an end begins with those. Returns the number of pages that have no memory any more.
  uint32_t Trim(uint64_t end_nanos = 0, bool* done = nullptr);

  // Puts a huge page behind each slab of code or data that is as large as one and nearly full. Up to a sixteenth of its
  // pages may have been without memory; they take memory then. Stops at the first slab that the system refuses.
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
  // Memory that the arena does not use any more and the system did not take back. Trim tries again, and so do a
  // CommitSlab that finds no room and the destructor.
  uint64_t LostBytes() const;
  size_t MetadataBytes() const;
  os::Memory& memory() const { return backing_.memory(); }
  os::WriterKind writer() const { return writer_; }

  // The first broken rule in words, or an empty string; see Arena::CheckInvariants.
  std::string FindBrokenRule() const;

 private:
  friend class WriteScope;

  Slab& SlabCovering(uint64_t address) const {
    return *units_[static_cast<uint32_t>((address - base()) / kGranuleBytes) >> unit_shift_];
  }

  // Both return false when the system refuses the write window.
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
  size_t trim_next_ = 0;                      // the slab at which a stopped Trim goes on
  std::vector<uint32_t> free_slab_slots_;
  Slab* spare_[kZones] = {};  // one empty slab per zone is kept, so that a free and an install at the edge of a slab
                              // do not cost system calls each time
  uint32_t slab_count_ = 0;
  bool holds_poison_ = false;
  std::vector<uint8_t> staging_;   // procmem: bytes on their way through the current WriteScope
  const char* writing_ = nullptr;  // the reason of the current WriteScope
};

// The only way to change code or read-only data is a scope with a reason. At its end the memory has its access back,
// and instruction fetch sees the bytes. Open can fail; after it nothing can.
//
// An arena has one scope at a time, under its lock. A new scope waits for forked children that still copy the code, up
// to a bound (docs/fork.md).
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

  // Whether this writer needs Open. Open makes the slab of a span writable and takes the memory that filling the span
  // needs. Call it for every span before the first byte is written.
  bool MustOpen() const { return space_.writer_ != os::WriterKind::kAlias; }
  Status Open(SpanId span) { return OpenAt(space_.AddressOf(span), space_[span].granules * kGranuleBytes); }
  Status OpenAt(uint64_t address, uint32_t bytes) {
    const Slab& slab = space_.SlabCovering(address);
    return slab.view() != nullptr ? Status::Ok() : OpenWindow(slab, address, bytes);
  }

  // The place to which the caller writes `bytes` bytes at `offset` of a span, each of them. Good until the next call of
  // the scope.
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

  // Puts all bytes written so far in place, where instruction fetch of this core sees them.
  void Finish() { Flush(); }

  // Overwrites 4 or 8 bytes of code that other threads may be executing. It is one store if the writer has a view and
  // the bytes lie within 8 aligned ones.
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
  std::vector<Window> opened_;  // without a view: memory that may be written now (and, with flip, not executed)
  bool staged_ = false;         // procmem: the last fill's bytes are still in the staging buffer
  uint64_t filled_at_ = 0;      // the last fill, which instruction fetch may not see yet
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
