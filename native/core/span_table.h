// Spans as the arena's bookkeeping sees them: boundary tags that stand outside the memory they describe.
//
// Each span knows its neighbours by address, and carries the list links of the hole that follows it. So one structure
// gives coalescing without a search, a slab's executors in address order, and the owner of any granule; and nothing
// of it lies in the arena, where poison and machine code are.
//
// A table also finds the span at an address, through the last span that begins in each stretch of the arena. That takes
// no lock: a count of changes, odd while one is under way, tells whether what was read belongs together.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <type_traits>

#include "arch/arch.h"
#include "base/shared.h"
#include "core/chunked_array.h"

namespace jit_arena {

// What a span's granules are; granules in no span are free.
enum class SpanState : uint8_t {
  kHead,      // not granules: the anchor at a slab's start, zero long
  kReserved,  // will be written by the freeze or move under way
  kLive,      // holds an executor's bytes
  kRetired,   // freed or moved away, may still be executing
  kInternal,  // the arena's own code: gates, thunks, far slots
  kUnlisted,  // retired, and there was no memory to list it (Reclaimer::Retire)
};

// In no executor's hands any more, and perhaps still executing.
inline bool IsRetired(SpanState state) { return state == SpanState::kRetired || state == SpanState::kUnlisted; }

// Index into the span table; 0 is none.
using SpanId = uint32_t;

struct SpanNode {
  Shared<uint32_t> start;  // granule index in the arena
  Shared<uint32_t> granules;
  Shared<SpanId> previous;  // neighbours by address in the same slab; a head has no previous
  SpanId next = 0;
  SpanId hole_previous = 0;  // the bin list of the hole between this span and the next; of the first without meaning
  SpanId hole_next = 0;
  uint32_t hole_granules = 0;  // free granules between this span and the next (or the slab's end)
  Shared<uint32_t> use;        // owner, state and section

  // The executor; 0 for internal spans.
  uint32_t Owner() const { return use & kOwnerMask; }
  SpanState State() const { return static_cast<SpanState>(use >> kStateShift & 7); }
  // Of the executor: code (with its data, unless apart), data or state.
  uint32_t Section() const { return use >> kSectionShift; }
  void SetUse(uint32_t owner, uint32_t section, SpanState state) {
    use = owner | static_cast<uint32_t>(state) << kStateShift | section << kSectionShift;
  }
  void SetState(SpanState state) { use = (use & ~(7u << kStateShift)) | static_cast<uint32_t>(state) << kStateShift; }
  // As new.
  void Clear() {
    start = 0;
    granules = 0;
    previous = 0;
    next = hole_previous = hole_next = hole_granules = 0;
    use = 0;
  }
  uint32_t End() const { return start + granules; }

 private:
  static constexpr int kStateShift = 27, kSectionShift = 30;
  static constexpr uint32_t kOwnerMask = (1u << kStateShift) - 1;
};
static_assert(sizeof(SpanNode) == 32, "two to a cache line: it is counted per executor");

class SpanTable {
 public:
  // A span takes a granule at least: so this also bounds the granules.
  explicit SpanTable(uint32_t max_spans)
      : nodes_(max_spans),
        stretches_(max_spans / kStretchGranules + 1),
        last_(static_cast<Shared<SpanId>*>(std::calloc(stretches_, sizeof(Shared<SpanId>)))) {
    if (last_ == nullptr) throw std::bad_alloc();
  }
  ~SpanTable() { std::free(last_); }
  SpanTable(const SpanTable&) = delete;
  SpanTable& operator=(const SpanTable&) = delete;

  SpanNode& operator[](SpanId id) { return nodes_[id]; }
  const SpanNode& operator[](SpanId id) const { return nodes_[id]; }

  // 0 when out of memory.
  SpanId Add() {
    if (free_ == 0) return nodes_.Add();
    SpanId id = free_;
    SpanNode& node = nodes_[id];
    free_ = node.next;
    node.next = 0;
    return id;
  }

  void Recycle(SpanId id) {
    SpanNode& node = nodes_[id];
    node.Clear();
    node.next = free_;
    free_ = id;
  }

  // Lives while spans are put between others or taken out.
  class Change {
   public:
    explicit Change(SpanTable& spans) : spans_(spans), before_(spans.changes_) { spans_.changes_ = before_ + 1; }
    ~Change() { spans_.changes_ = before_ + 2; }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    SpanTable& spans_;
    const uint32_t before_;
  };

  // Makes a span known to Find, which lies in front of `right` (null: nothing) in its slab. A slab's head is the first
  // of its spans.
  void Enter(SpanId id, const SpanNode& node, const SpanNode* right) {
    uint32_t stretch = node.start / kStretchGranules;
    if (right == nullptr || right->start / kStretchGranules != stretch) last_[stretch] = id;
    if (stretch >= entered_) entered_ = stretch + 1;
  }
  // The reverse, for one that lies behind `left` with the id `left_id` (null: nothing).
  void Leave(SpanId id, const SpanNode& node, SpanId left_id, const SpanNode* left) {
    uint32_t stretch = node.start / kStretchGranules;
    if (last_[stretch] != id) return;
    last_[stretch] = left != nullptr && left->start / kStretchGranules == stretch ? left_id : 0;
  }
  // No slab is longer.
  void Lengthen(uint32_t slab_granules) {
    uint32_t stretches = (slab_granules + kStretchGranules - 1) / kStretchGranules;
    if (stretches > longest_slab_) longest_slab_ = stretches;
  }

  // The span that covers a granule, or 0. Under the lock, or in ReadBesideChanges. At most as many steps as a stretch
  // has granules and the longest slab has stretches.
  SpanId Find(uint32_t granule) const {
    uint32_t stretch = granule / kStretchGranules;
    if (stretch >= stretches_) return 0;
    SpanId id = last_[stretch];
    for (uint32_t back = longest_slab_; id == 0 && stretch != 0 && back != 0; back--) id = last_[--stretch];
    // Torn lists may lead in circles.
    for (uint32_t steps = kStretchGranules + 1; id != 0 && nodes_[id].start > granule; id = nodes_[id].previous)
      if (steps-- == 0) return 0;
    return id != 0 && granule < nodes_[id].End() ? id : 0;
  }

  // Calls read() until nothing has changed meanwhile, and then returns true; false when something changes all the time,
  // as it does for a signal handler that has interrupted a change. It may only look at what is Shared, and may find
  // what does not belong together.
  template <class Read>
  bool ReadBesideChanges(Read read) const {
    for (int tries = 0; tries < kMostTries; tries++) {
      uint32_t before = changes_;
      if (before % 2 == 0) {
        read();
        if (changes_ == before) return true;
      }
      arch::Pause();
    }
    return false;
  }

  size_t MetadataBytes() const { return nodes_.MetadataBytes() + entered_ * sizeof(Shared<SpanId>); }

 private:
  static constexpr uint32_t kStretchGranules = 256;
  static constexpr int kMostTries = 64;

  ChunkedArray<SpanNode> nodes_;
  SpanId free_ = 0;
  uint32_t stretches_;
  uint32_t entered_ = 0;  // stretches that anything has been in
  Shared<uint32_t> longest_slab_;
  Shared<uint32_t> changes_;
  Shared<SpanId>* last_;  // span that begins in each stretch
};

}  // namespace jit_arena
