// Veneers and GOT slots for what is out of reach: a *far slot* is a granule that has both, for one far address
// (arch::WriteFarSlot). Everybody in the arena who branches to the address, or loads it, shares the far slot.
//
// Far slots never move. The far address is a fixed one, or an offset in the code of an executor, and then it moves.
// This file keeps the books of far slots and writes new ones; core/references.h knows who uses a far slot, and
// core/relocator.h rewrites its address.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"
#include "core/chunked_array.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/placement.h"
#include "core/problem.h"

namespace jit_arena {

// What far slots are found by.
struct FarAddress {
  uint64_t target;
  uint32_t owner;  // the executor in whose code `target` is an offset; 0: `target` is an address

  bool operator==(const FarAddress& other) const { return target == other.target && owner == other.owner; }
};

struct FarSlot {
  SpanId span = 0;
  // As in an executor's record (core/references.h).
  uint32_t inbound = 0;
  uint32_t outbound = 0;   // when there is an owner
  uint32_t last_user = 0;  // executor: so that its many relocs to one address make one reference
  FarAddress address{};
};

// All of it under the arena's lock. A far slot's number is above 0.
class FarSlots {
 public:
  FarSlots(CodeSpace& space, const ExecutorTable& table, uint32_t max_far_slots)
      : space_(space), table_(table), slots_(max_far_slots) {}

  FarSlot& operator[](uint32_t slot) { return slots_[slot]; }
  const FarSlot& operator[](uint32_t slot) const { return slots_[slot]; }
  // The far slot for an address, or 0.
  uint32_t Find(const FarAddress& address) const {
    auto found = slot_of_.find(address);
    return found != slot_of_.end() ? found->second : 0;
  }
  // Makes one that Find does not find, with its bytes: nobody knows of it yet, so that it may be written before the
  // freeze that needs it is certain. ERR_ARENA_NO_MEMORY, _FULL.
  Result<uint32_t> Make(const FarAddress& address);
  // Nobody uses it any more, and it refers to nobody: Find does not find it, and it waits for TakeUnused.
  void Drop(uint32_t slot) {
    slot_of_.erase(slots_[slot].address);
    slots_[slot].inbound = std::exchange(unused_, slot);
  }
  // Calls take(span) for each far slot that has been dropped; the span is the caller's from then on.
  template <class Take>
  void TakeUnused(Take take) {
    while (unused_ != 0) {
      uint32_t slot = unused_;
      unused_ = slots_[slot].inbound;
      take(slots_[slot].span);
      Recycle(slot);
    }
  }

  // Where a branch to the far address goes, and where a load of the far address reads.
  uint64_t VeneerAddress(uint32_t slot) const { return space_.AddressOf(slots_[slot].span); }
  uint64_t GotAddress(uint32_t slot) const { return VeneerAddress(slot) + arch::kFarSlotGotOffset; }

  // A callback's thunk may be out of reach as well. Then the arena has a veneer to the thunk, which lives as long as
  // the arena and also answers to `lea`.
  void SetThunkVeneer(uint64_t thunk, uint64_t veneer) { thunk_veneers_[thunk] = veneer; }
  uint64_t FindThunkVeneer(uint64_t thunk) const {  // 0: it has none
    auto found = thunk_veneers_.find(thunk);
    return found != thunk_veneers_.end() ? found->second : 0;
  }

  // Calls visit(slot) for each that Find can find.
  template <class Visit>
  void ForEach(Visit visit) const {
    for (const auto& [address, slot] : slot_of_) visit(slot);
  }
  // Appends far slots that do not hold their address.
  void Verify(std::vector<Problem>* problems) const;
  uint64_t count() const { return slot_of_.size(); }
  // Beside this object.
  size_t MetadataBytes() const {
    return slots_.MetadataBytes() + slot_of_.size() * (sizeof(FarAddress) + 3 * sizeof(void*));
  }

 private:
  struct Hash {
    size_t operator()(const FarAddress& address) const {
      return static_cast<size_t>((address.target ^ (uint64_t{address.owner} << 40)) * 0x9e3779b97f4a7c15);
    }
  };
  // What the far slot holds.
  uint64_t Resolve(const FarAddress& address) const {
    return address.owner != 0 ? CodeAddress(space_, table_[address.owner]) + address.target : address.target;
  }
  Status Write(SpanId span, const FarAddress& address);
  void Recycle(uint32_t slot) {
    slots_[slot] = FarSlot{};
    slots_[slot].inbound = std::exchange(free_, slot);
  }

  CodeSpace& space_;
  const ExecutorTable& table_;
  ChunkedArray<FarSlot> slots_;
  uint32_t free_ = 0;    // chains through `inbound`
  uint32_t unused_ = 0;  // the same: those that wait for TakeUnused
  std::unordered_map<FarAddress, uint32_t, Hash> slot_of_;
  std::unordered_map<uint64_t, uint64_t> thunk_veneers_;
};

}  // namespace jit_arena
