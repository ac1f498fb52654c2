// Who refers to whom: one record for each reference, in two lists at once. The *inbound* list of an executor or a far
// slot has what refers to it, so that a move finds what to rewrite without a search, and no target is freed under its
// sources. The *outbound* list has what it refers to.
//
// The lists begin in the records of executors (core/executor_table.h) and of far slots (core/far_slots.h), and a newer
// reference stands before an older one. This file knows what references are for only as far as their ends need it; it
// touches no memory of executors.
#pragma once

#include <cstdint>
#include <string>

#include "arch/arch.h"
#include "base/status.h"
#include "core/chunked_array.h"
#include "core/executor_table.h"
#include "core/far_slots.h"

namespace jit_arena {

// Why one thing refers to another.
enum class ReferenceKind : uint8_t {
  kReloc,    // executor → executor: a field that a move of either rewrites
  kHold,     // executor → executor: a reloc that no move changes; it only keeps the target
  kSlotUse,  // executor → far slot
  kSlot,     // far slot → executor: the far slot holds an address in the target's code
  kExit,     // executor → executor: an exit is linked
};

// One reference, in the lists of its source and of its target.
struct Reference {
  uint32_t source = 0;  // executor; for kSlot a far slot
  uint32_t target = 0;  // executor; for kSlotUse a far slot
  uint32_t site = 0;    // kReloc: as in KeptReloc; kExit: the exit's number
  uint32_t next_outbound = 0;
  uint32_t previous_outbound = 0;
  uint32_t next_inbound = 0;
  uint32_t previous_inbound = 0;
  union {
    uint32_t entry = 0;  // kExit: the number of the target's entry
    uint32_t rest;       // kReloc: as in KeptReloc
  };
  ReferenceKind kind = ReferenceKind::kReloc;
  arch::FieldClass field = 0;               // kReloc
  Section target_section = Section::kCode;  // kReloc: what the field moves with

  static Reference Of(ReferenceKind kind, uint32_t source, uint32_t target) {
    Reference reference;
    reference.source = source;
    reference.target = target;
    reference.kind = kind;
    return reference;
  }
  bool source_is_slot() const { return kind == ReferenceKind::kSlot; }
  bool target_is_slot() const { return kind == ReferenceKind::kSlotUse; }
  bool has_field() const { return kind == ReferenceKind::kReloc; }
};

// All of it under the arena's lock. A reference's number is above 0; 0 ends a list.
class References {
 public:
  // `most`: between executors, and from executors to far slots.
  References(ExecutorTable& table, FarSlots& far_slots, uint32_t most)
      : table_(table), far_slots_(far_slots), references_(most) {}

  const Reference& operator[](uint32_t id) const { return references_[id]; }
  // Takes all but the list's own fields from `reference`. ERR_ARENA_NO_MEMORY.
  Status Add(const Reference& reference);
  // A far slot loses its users through RemoveOutbound alone.
  void Remove(uint32_t id);
  // Everything that the executor refers to. Calls unlinked(exit) for each exit that was linked; a far slot that has
  // lost its last user is dropped.
  template <class Unlinked>
  void RemoveOutbound(uint32_t index, Unlinked unlinked);
  // To a far slot that nobody uses: drops it, with its own reference.
  void DropFarSlot(uint32_t slot);

  // The reference of a linked exit, or 0.
  uint32_t FindLink(uint32_t source, uint32_t exit) const;
  // The first executor that refers to `index`, be it through a far slot, and is not `marked`; 0 when there is none.
  // Links do not count.
  uint32_t FindUnmarkedSource(uint32_t index) const;

  // The first broken rule of the lists, in words, or empty: they are the same set, both ways; they lead between frozen
  // executors, and to far slots that somebody uses.
  std::string FindBrokenRule() const;
  size_t MetadataBytes() const { return references_.MetadataBytes(); }  // beside this object

 private:
  uint32_t& OutboundOf(const Reference& reference) {
    return reference.source_is_slot() ? far_slots_[reference.source].outbound : table_[reference.source].outbound;
  }
  uint32_t& InboundOf(const Reference& reference) {
    return reference.target_is_slot() ? far_slots_[reference.target].inbound : table_[reference.target].inbound;
  }
  // Takes it out of its target's list, and ends it. Its source's list is the caller's.
  void RemoveInbound(uint32_t id);
  void DropUse(uint32_t user, uint32_t slot);

  ExecutorTable& table_;
  FarSlots& far_slots_;
  ChunkedArray<Reference> references_;
  uint32_t free_ = 0;  // chains through `next_outbound`
};

template <class Unlinked>
void References::RemoveOutbound(uint32_t index, Unlinked unlinked) {
  Executor& executor = table_[index];
  for (uint32_t id = executor.outbound; id != 0;) {
    Reference reference = references_[id];
    RemoveInbound(id);
    if (reference.kind == ReferenceKind::kExit) unlinked(reference.site);
    if (reference.target_is_slot()) DropUse(index, reference.target);
    id = reference.next_outbound;
  }
  executor.outbound = 0;
  executor.holds_addresses = 0;
}

}  // namespace jit_arena
