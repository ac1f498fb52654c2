// Spans as the arena's bookkeeping sees them: boundary tags that stand outside the memory they describe.
//
// Each span knows its neighbours by address, and carries the list links of the hole that follows it. So one structure
// gives coalescing without a search, a slab's executors in address order, and the owner of any granule; and nothing
// of it lies in the arena, where poison and machine code are.
#pragma once

#include <cstdint>

#include "core/chunked_array.h"

namespace jit_arena {

// What a span's granules are (DESIGN §2); granules in no span are free.
enum class SpanState : uint8_t {
  kHead,      // not granules: the anchor at a slab's start, zero long
  kReserved,  // will be written by the freeze or move under way
  kLive,      // holds an executor's bytes
  kRetired,   // freed or moved away, may still be executing
  kInternal,  // the arena's own code: gates, thunks, external links
};

// Index into the span table; 0 is none.
using SpanId = uint32_t;

struct SpanNode {
  uint32_t start = 0;  // granule index in the arena
  uint32_t granules = 0;
  SpanId previous = 0;  // neighbours by address in the same slab; a head has no previous
  SpanId next = 0;
  SpanId hole_previous = 0;  // the bin list of the hole between this span and the next; of the first without meaning
  SpanId hole_next = 0;
  uint32_t hole_granules = 0;     // free granules between this span and the next (or the slab's end)
  uint32_t owner_index : 27 = 0;  // executor; 0 for internal spans
  uint32_t state : 3 = 0;
  uint32_t section : 2 = 0;  // of the executor: code (with its data, unless apart), data or state

  SpanState State() const { return static_cast<SpanState>(state); }
  uint32_t End() const { return start + granules; }
};
static_assert(sizeof(SpanNode) == 32, "two to a cache line: it is counted per executor");

class SpanTable {
 public:
  explicit SpanTable(uint32_t max_spans) : nodes_(max_spans) {}

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
    node = SpanNode{};
    node.next = free_;
    free_ = id;
  }

  size_t MetadataBytes() const { return nodes_.MetadataBytes(); }

 private:
  ChunkedArray<SpanNode> nodes_;
  SpanId free_ = 0;
};

}  // namespace jit_arena
