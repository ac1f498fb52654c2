#include "core/reclaimer.h"

#include <new>
#include <thread>

#include "os/memory.h"

namespace jit_arena {

Reclaimer::~Reclaimer() {
  for (PinSlot* slot = slots_.load(std::memory_order_relaxed); slot != nullptr;) {
    PinSlot* next = slot->next;
    delete slot;
    slot = next;
  }
}

PinSlot* Reclaimer::Attach() {
  std::lock_guard lock(slots_lock_);
  for (PinSlot* slot = slots_.load(std::memory_order_relaxed); slot != nullptr; slot = slot->next) {
    if (slot->attached) continue;
    slot->attached = true;
    slot->thread = std::this_thread::get_id();
    // The slot was another thread's. Its code epoch says nothing of this thread's core.
    slot->code_epoch = 0;
    return slot;
  }
  auto* slot = new (std::nothrow) PinSlot;
  if (slot == nullptr) return nullptr;
  slot->attached = true;
  slot->thread = std::this_thread::get_id();
  slot->next = slots_.load(std::memory_order_relaxed);
  slot_count_.fetch_add(1, std::memory_order_relaxed);
  // Release: pairs with the acquire loads in OthersPinned and OldestPin, which walk the list.
  slots_.store(slot, std::memory_order_release);
  return slot;
}

void Reclaimer::Detach(PinSlot* slot) {
  JIT_ARENA_CHECK(slot->depth == 0);
  std::lock_guard lock(slots_lock_);
  slot->attached = false;
}

void Reclaimer::Begin(LoosePin& pin, const PinSlot* self) {
  const bool inside = self != nullptr && self->depth != 0;
  pin.epoch = inside ? self->epoch.load(std::memory_order_relaxed) : epoch_.load(std::memory_order_acquire);
  LoosePin* older = last_loose_;
  while (older != nullptr && older->epoch > pin.epoch) older = older->older;
  pin.older = older;
  pin.younger = older != nullptr ? older->younger : first_loose_;
  (pin.older != nullptr ? pin.older->younger : first_loose_) = &pin;
  (pin.younger != nullptr ? pin.younger->older : last_loose_) = &pin;
  loose_pins_++;
  NoteOldestLoose();
  // Pairs with the fence in OthersPinned, as Enter's does: dispose calls it without the lock.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Reclaimer::End(LoosePin& pin) {
  (pin.older != nullptr ? pin.older->younger : first_loose_) = pin.younger;
  (pin.younger != nullptr ? pin.younger->older : last_loose_) = pin.older;
  loose_pins_--;
  NoteOldestLoose();
}

void Reclaimer::AfterFork(bool in_child) {
  PinSlot* slot = in_child ? slots_.load(std::memory_order_relaxed) : nullptr;
  for (; slot != nullptr; slot = slot->next) {
    if (slot->thread == std::this_thread::get_id()) continue;
    slot->epoch.store(0, std::memory_order_relaxed);
    slot->depth = 0;
    slot->attached = false;
  }
  // The thread that closed the gate is not in the child. (Debug builds let go of the arena's lock while they check.)
  if (in_child) {
    gate_.store(false, std::memory_order_relaxed);
    gate_closings_ = 0;
  }
  slots_lock_.unlock();
}

uint64_t Reclaimer::OldestPin() const {
  // Pairs with the fence in Enter: see there.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  uint64_t oldest = first_loose_ != nullptr ? first_loose_->epoch : ~uint64_t{0};
  for (const PinSlot* slot = slots_.load(std::memory_order_acquire); slot != nullptr; slot = slot->next) {
    // Acquire: pairs with Leave's release.
    uint64_t epoch = slot->epoch.load(std::memory_order_acquire);
    if (epoch != 0 && epoch < oldest) oldest = epoch;
  }
  return oldest;
}

bool Reclaimer::CloseGate(const PinSlot* self, uint64_t bound_nanos) {
  // Pairs with Enter, through the fence in OthersPinned: if a thread enters without seeing the closed gate, the loop
  // below sees its pin.
  gate_.store(true, std::memory_order_relaxed);
  gate_closings_++;
  uint64_t give_up = 0;
  while (OthersPinned(self)) {
    uint64_t now = os::NowNanos();
    // Ending a loose pin takes the lock, which the caller holds: waiting for it would not help.
    if (first_loose_ != nullptr) bound_nanos = 0;
    if (give_up == 0) give_up = now + bound_nanos;
    if (now >= give_up) {
      OpenGate();
      return false;
    }
    std::this_thread::yield();
  }
  return true;
}

void Reclaimer::OpenGate() {
  // Release: pairs with the acquire loads in Enter and WaitForGate. A thread that comes in sees what was written while
  // the gate was closed.
  if (--gate_closings_ == 0) gate_.store(false, std::memory_order_release);
}

void Reclaimer::RaiseCodeEpoch() {
  // Release: a thread that sees the new number sees the bytes. The caller asks OthersPinned next. Its fence pairs with
  // Enter's: either the entering thread sees the number, or OthersPinned sees its pin.
  code_epoch_.store(code_epoch_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

void Reclaimer::WaitForGate() const {
  while (gate_.load(std::memory_order_acquire)) std::this_thread::yield();
}

bool Reclaimer::Retire(const Retired& retired, uint64_t bytes) {
  retired_bytes_ += bytes;
  Status listed = OrOutOfMemory([&] { waiting_.push_back({retired, bytes}); });
  if (listed.ok()) {
    unstamped_++;
  } else {
    unlisted_bytes_ += bytes;
    unlisted_stamp_ = kUnstamped;
  }
  return listed.ok();
}

void Reclaimer::Stamp() {
  if (unstamped_ == 0 && unlisted_stamp_ != kUnstamped) return;
  // A thread whose pin loads the epoch after this increment also sees everything that was published before it. A pin
  // with the same epoch may have loaded it earlier, so it counts as older: Reclaim compares with <.
  uint64_t stamp = epoch_.fetch_add(1, std::memory_order_acq_rel);
  if (unlisted_stamp_ == kUnstamped) unlisted_stamp_ = stamp;
  for (; unstamped_ != 0; unstamped_--) waiting_[waiting_.size() - unstamped_].retired.stamp = stamp;
}

}  // namespace jit_arena
