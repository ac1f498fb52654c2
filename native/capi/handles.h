// Handles that can be used too late: what C holds is a number in the shape of a pointer, and never an address.
//
// A number is a slot's index and the generation in which the slot was given to the caller. Slots are never freed, and
// their generations only grow; so a handle that has ended finds a slot with another generation, and is told apart from
// every handle that was given after it.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>

namespace jit_arena::capi {

// What every slot begins with.
struct HandleSlot {
  // Generation in the upper half: odd while a handle names the slot. Holders in the lower half: whoever needs the
  // slot's content, the handle itself among them; without any the slot may be given again.
  std::atomic<uint64_t> word{0};
  std::atomic<uint32_t> next_free{0};
  uint32_t index = 0;

  uint32_t generation() const { return static_cast<uint32_t>(word.load(std::memory_order_seq_cst) >> 32); }
  uint32_t holders() const { return static_cast<uint32_t>(word.load(std::memory_order_relaxed)); }
  bool given() const { return (generation() & 1) != 0; }
};

// Everything by any thread and without a lock, so that a forked child finds the table whole. Meant to be a constinit
// variable: it is never destroyed, since threads may use handles until the process is gone.
template <class Slot, uint32_t kChunkSlots = 64, uint32_t kChunks = 16384, uint32_t kLastGeneration = 0xFFFFFFFE>
class HandleTable {
  static_assert(sizeof(void*) == sizeof(uint64_t), "a handle has the bits of a pointer");
  static_assert(kLastGeneration % 2 == 0, "a slot ends with an even generation");

 public:
  constexpr HandleTable() = default;

  // A slot that no handle names yet, with one holder; null when memory or the table's limit is reached.
  Slot* Take() {
    Slot* slot = TakeFree();
    if (slot == nullptr) slot = TakeNew();
    if (slot != nullptr) slot->word.fetch_add(1, std::memory_order_relaxed);
    return slot;
  }
  // Names a slot that was taken, whose content is in place: its holder is the handle from now on.
  uint64_t Give(Slot& slot) {
    // Release: pairs with the acquire loads of those who find the handle.
    uint64_t word = slot.word.fetch_add(kOneGeneration, std::memory_order_release) + kOneGeneration;
    return (word >> 32 << 32) | slot.index;
  }

  // The slot that a handle with this index would name, whether it does or not; null when there is none. It is never
  // freed.
  Slot* At(uint64_t handle) const { return SlotAt(static_cast<uint32_t>(handle)); }
  // The slot that the handle names, or null. Nobody keeps it from ending but who is sure to be the only one to end it.
  Slot* Find(uint64_t handle) const {
    Slot* slot = At(handle);
    bool named = slot != nullptr && slot->generation() == handle >> 32 && (handle >> 32 & 1) != 0;
    return named ? slot : nullptr;
  }
  // The same, and one holder more.
  Slot* Hold(uint64_t handle) {
    Slot* slot = Find(handle);
    if (slot == nullptr) return nullptr;
    uint64_t word = slot->word.load(std::memory_order_relaxed);
    while (word >> 32 == handle >> 32)
      if (slot->word.compare_exchange_weak(word, word + 1, std::memory_order_acquire)) return slot;
    return nullptr;
  }
  // True for a handle that this table gave and that has ended; false for any other number.
  bool HasEnded(uint64_t handle) const {
    Slot* slot = At(handle);
    return slot != nullptr && (handle >> 32 & 1) != 0 && slot->generation() > handle >> 32;
  }

  // For who holds the slot already.
  void HoldAgain(Slot& slot) { slot.word.fetch_add(1, std::memory_order_relaxed); }
  // The handle names nothing any more; its holder is the caller's from now on.
  void End(Slot& slot) { slot.word.fetch_add(kOneGeneration, std::memory_order_seq_cst); }
  // The slot, when this call has ended what the handle names; null when it had ended before, or never named anything.
  Slot* EndOnce(uint64_t handle) {
    Slot* slot = Find(handle);
    if (slot == nullptr) return nullptr;
    uint64_t word = slot->word.load(std::memory_order_relaxed);
    while (word >> 32 == handle >> 32)
      if (slot->word.compare_exchange_weak(word, word + kOneGeneration, std::memory_order_seq_cst)) return slot;
    return nullptr;
  }
  // True when that was the last holder: its caller empties the slot, and then puts it back.
  bool LetGo(Slot& slot) {
    // Release and acquire: what the others did with the content happened before it goes.
    return static_cast<uint32_t>(slot.word.fetch_sub(1, std::memory_order_acq_rel)) == 1;
  }
  void PutBack(Slot& slot) {
    if (slot.generation() == kLastGeneration) return;  // a handle is never given twice
    uint64_t first = first_free_.load(std::memory_order_relaxed);
    do slot.next_free.store(static_cast<uint32_t>(first), std::memory_order_relaxed);
    while (!first_free_.compare_exchange_weak(first, Tagged(first, slot.index), std::memory_order_release,
                                              std::memory_order_relaxed));
  }

  // Calls visit(slot) for every slot that was ever taken.
  template <class Visit>
  void ForEach(Visit visit) {
    uint32_t end = next_new_.load(std::memory_order_acquire);
    for (uint32_t index = 1; index < end; index++)
      if (Slot* slot = SlotAt(index)) visit(*slot);
  }

 private:
  static constexpr uint64_t kOneGeneration = uint64_t{1} << 32;

  // The head of the free list: an index, under a count of changes, so that a list that has changed meanwhile and begins
  // with the same slot again is not taken for the same list.
  static uint64_t Tagged(uint64_t before, uint32_t index) { return ((before >> 32) + 1) << 32 | index; }

  Slot* SlotAt(uint32_t index) const {
    if (index / kChunkSlots >= kChunks) return nullptr;
    // Acquire: who finds a chunk finds its slots initialised.
    Slot* chunk = chunks_[index / kChunkSlots].load(std::memory_order_acquire);
    return chunk != nullptr ? &chunk[index % kChunkSlots] : nullptr;
  }

  Slot* TakeFree() {
    uint64_t first = first_free_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(first) != 0) {
      Slot* slot = SlotAt(static_cast<uint32_t>(first));
      uint64_t rest = Tagged(first, slot->next_free.load(std::memory_order_relaxed));
      if (first_free_.compare_exchange_weak(first, rest, std::memory_order_acquire)) return slot;
    }
    return nullptr;
  }
  Slot* TakeNew() {
    uint32_t index = next_new_.load(std::memory_order_relaxed);
    for (;;) {
      if (index / kChunkSlots >= kChunks) return nullptr;
      std::atomic<Slot*>& chunk = chunks_[index / kChunkSlots];
      if (chunk.load(std::memory_order_acquire) == nullptr) {
        Slot* made = new (std::nothrow) Slot[kChunkSlots];
        if (made == nullptr) return nullptr;
        for (uint32_t i = 0; i < kChunkSlots; i++) made[i].index = index / kChunkSlots * kChunkSlots + i;
        Slot* none = nullptr;
        if (!chunk.compare_exchange_strong(none, made, std::memory_order_acq_rel)) delete[] made;
      }
      if (next_new_.compare_exchange_weak(index, index + 1, std::memory_order_acq_rel)) return SlotAt(index);
    }
  }

  std::atomic<uint64_t> first_free_{0};
  std::atomic<uint32_t> next_new_{1};  // 0 is no slot
  std::atomic<Slot*> chunks_[kChunks] = {};
};

}  // namespace jit_arena::capi
