// Which threads may still be executing which memory: pins, the gate, epochs, and memory that waits for pins to end.
//
// A thread *pins* the arena around every call into machine code. Memory that was freed or moved away from is *retired*:
// it is stamped with an epoch, and reclaimed once every active pin is younger. docs/moving.md walks through the
// protocol.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "arch/arch.h"
#include "base/status.h"
#include "base/test_point.h"
#include "core/span_table.h"

namespace jit_arena {

// One thread's pin. The slot lives as long as the Reclaimer, and only the thread that attached it writes to it.
struct alignas(128) PinSlot {
  // 0: not pinned. Otherwise the epoch at which the outermost pin began.
  std::atomic<uint64_t> epoch{0};
  uint64_t code_epoch = 0;  // the newest code that this thread's core has synchronised with; the owning thread's
  uint32_t depth = 0;       // nested pins; read by the owning thread only
  bool attached = false;    // under the Reclaimer's list lock
  std::thread::id thread;   // the one that attached it; under the list lock
  PinSlot* next = nullptr;  // set once, before the slot is in the list
};

// A pin that belongs to no thread, for code that is left and resumed later. The caller owns its memory; the Reclaimer
// puts it into a list.
struct LoosePin {
  uint64_t epoch = 0;
  LoosePin* older = nullptr;
  LoosePin* younger = nullptr;
};

// Memory of one executor, or of one old copy, which is reclaimed in one piece.
struct Retired {
  SpanId spans[3];          // 0: none
  uint32_t executor_index;  // to recycle; 0 when only memory was left behind by a move
  uint64_t stamp;           // the epoch of retiring: reclaim when every active pin is younger
};

class Reclaimer {
 public:
  Reclaimer() = default;
  ~Reclaimer();
  Reclaimer(const Reclaimer&) = delete;
  Reclaimer& operator=(const Reclaimer&) = delete;

  // Attach and Detach: any thread, take a lock of their own. Attach is null without memory; Detach only when not
  // pinned.
  PinSlot* Attach();
  void Detach(PinSlot* slot);

  // Around fork(), with the arena's lock held. No thread attaches meanwhile. The child has none of the other threads,
  // so their pins end there and their slots are free. `in_child`: this is the child.
  void BeforeFork() { slots_lock_.lock(); }
  void AfterFork(bool in_child);

  // Enter and Leave: the slot's own thread; no lock, no system call unless the gate is closed. Where a pin lasts as
  // long as a scope, Pinned is both.
  void Enter(PinSlot& slot) {
    if (slot.depth++ != 0) return;  // a nested pin keeps the outer epoch
    for (;;) {
      uint64_t now = epoch_.load(std::memory_order_acquire);
      TestPoint(TestPointId::kEnterHasEpoch);
      slot.epoch.store(now, std::memory_order_relaxed);
      // Pairs with the fences in OldestPin and OthersPinned. If they miss this pin, their fence came before this one,
      // so this thread sees what they published before they looked: the closed gate, the code epoch, a new entry.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      TestPoint(TestPointId::kEnterHasPin);
      if (!gate_.load(std::memory_order_acquire)) break;
      slot.epoch.store(0, std::memory_order_release);
      WaitForGate();
    }
    // A barrier reaches pinned threads only. If code was written while this thread was not pinned, its core
    // synchronises now.
    uint64_t code = code_epoch_.load(std::memory_order_acquire);
    if (slot.code_epoch == code) return;
    slot.code_epoch = code;
    arch::SynchroniseThisCore();
  }
  void Leave(PinSlot& slot) {
    // Release: pairs with the acquire in OldestPin and OthersPinned. All that the thread did under its pin happens
    // before the memory is reclaimed.
    if (--slot.depth == 0) slot.epoch.store(0, std::memory_order_release);
  }

  // Everything below: under the arena's lock.

  // Begins a loose pin, while the gate is open. The pin keeps what the calling thread can reach: as much as a pin of
  // the thread would keep that begins now. If the thread is pinned already (`self`, which may be null), the loose pin
  // keeps as much as that older pin.
  void Begin(LoosePin& pin, const PinSlot* self);
  void End(LoosePin& pin);
  bool gate_closed() const { return gate_closings_ != 0; }
  uint64_t loose_pins() const { return loose_pins_; }

  // True when a thread other than `self`'s (which may be null) is pinned, or there is a loose pin.
  bool OthersPinned(const PinSlot* self) const {
    // Pairs with the fence in Enter: see there.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (oldest_loose_.load(std::memory_order_acquire) != 0) return true;
    for (const PinSlot* slot = slots_.load(std::memory_order_acquire); slot != nullptr; slot = slot->next)
      if (slot != self && slot->epoch.load(std::memory_order_acquire) != 0) return true;
    return false;
  }
  // False: memory that nothing leads to any more (a cleared entry) may be reclaimed at once, without Retire. If we miss
  // a pin, its fence came after ours, so that thread already sees the cleared entry. If we see that a pin has ended,
  // all that its thread did happened before (acquire). The calling thread's own pin counts as well, since its frames
  // may stand in the memory that it frees.
  bool AnyPinned() const { return OthersPinned(nullptr); }

  // Closes the gate: new outermost pins wait. Returns true once no thread but `self`'s is pinned, or false after
  // `bound_nanos`, with the gate as it was before. OpenGate ends a closing. Closings nest: the gate is open again when
  // each of them has ended.
  bool CloseGate(const PinSlot* self, uint64_t bound_nanos);
  void OpenGate();

  // Call it after code has been written and before it is published. Threads that pin from now on synchronise their own
  // cores. Threads that are pinned already need a barrier: ask OthersPinned after this.
  void RaiseCodeEpoch();

  // Retires memory that only pins up to now may still use: nothing that is published leads to it any more (a cleared
  // entry, a new address). It waits for Stamp. False when there is no memory to list it. The caller marks it then, and
  // finds it again after TakeUnlisted.
  bool Retire(const Retired& retired, uint64_t bytes);
  // Stamps everything that was retired since the last call, all of it with one epoch.
  void Stamp();

  // Calls visit(const Retired&) for all memory that is due: stamped, and older than every pin.
  template <class Visit>
  void Reclaim(Visit visit) {
    if (waiting_.empty()) return;
    uint64_t oldest = OldestPin();
    while (waiting_.size() > unstamped_ && waiting_.front().retired.stamp < oldest) {
      Waiting due = waiting_.front();
      waiting_.pop_front();
      retired_bytes_ -= due.bytes;
      visit(due.retired);
    }
  }

  // True when some memory is unlisted and all of it is due. It counts as reclaimed from now on.
  bool TakeUnlisted() {
    if (unlisted_bytes_ == 0 || unlisted_stamp_ >= OldestPin()) return false;
    retired_bytes_ -= std::exchange(unlisted_bytes_, 0);
    return true;
  }

  uint64_t retired_bytes() const { return retired_bytes_; }
  uint64_t epoch() const { return epoch_.load(std::memory_order_relaxed); }
  size_t MetadataBytes() const {
    return sizeof *this + waiting_.size() * sizeof(Waiting) +
           slot_count_.load(std::memory_order_relaxed) * sizeof(PinSlot);
  }

 private:
  struct Waiting {
    Retired retired;
    uint64_t bytes;
  };
  void NoteOldestLoose() {
    oldest_loose_.store(first_loose_ != nullptr ? first_loose_->epoch : 0, std::memory_order_release);
  }
  // The epoch of the oldest active pin; the largest number when there is none.
  uint64_t OldestPin() const;
  void WaitForGate() const;

  alignas(128) std::atomic<uint64_t> epoch_{1};
  std::atomic<uint64_t> code_epoch_{0};
  std::atomic<bool> gate_{false};
  alignas(128) uint32_t gate_closings_ = 0;  // closings that have not ended
  std::mutex slots_lock_;                    // for Attach and Detach
  // A slot is added at the front and stays there, so that readers walk the list without the lock.
  std::atomic<PinSlot*> slots_{nullptr};
  LoosePin* first_loose_ = nullptr;  // epochs ascend
  LoosePin* last_loose_ = nullptr;
  uint64_t loose_pins_ = 0;
  std::atomic<uint64_t> oldest_loose_{0};  // the oldest loose pin's epoch; 0: none. Dispose reads it without the lock
  std::deque<Waiting> waiting_;            // stamps ascend
  size_t unstamped_ = 0;                   // of waiting_, at its end
  uint64_t retired_bytes_ = 0;
  uint64_t unlisted_bytes_ = 0;  // of retired_bytes_
  uint64_t unlisted_stamp_ = 0;  // of the youngest unlisted memory; kUnstamped until Stamp
  static constexpr uint64_t kUnstamped = ~uint64_t{0};
  std::atomic<size_t> slot_count_{0};  // relaxed: a figure
};

// The slot's thread, pinned as long as this lives.
class Pinned {
 public:
  Pinned(Reclaimer& reclaimer, PinSlot& slot) : reclaimer_(reclaimer), slot_(slot) { reclaimer_.Enter(slot_); }
  ~Pinned() { reclaimer_.Leave(slot_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  Reclaimer& reclaimer_;
  PinSlot& slot_;
};

// Keeps a gate closed as long as this lives. Under the arena's lock.
class ClosedGate {
 public:
  ClosedGate() = default;
  ~ClosedGate() {
    if (closed()) reclaimer_->OpenGate();
  }
  ClosedGate(const ClosedGate&) = delete;
  ClosedGate& operator=(const ClosedGate&) = delete;

  // True when the gate is closed and no thread but `self`'s is pinned: see Reclaimer::CloseGate.
  bool Close(Reclaimer& reclaimer, const PinSlot* self, uint64_t bound_nanos) {
    if (!closed() && reclaimer.CloseGate(self, bound_nanos)) reclaimer_ = &reclaimer;
    return closed();
  }
  bool closed() const { return reclaimer_ != nullptr; }

 private:
  Reclaimer* reclaimer_ = nullptr;
};

}  // namespace jit_arena
