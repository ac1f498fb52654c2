// Pins, the gate and epochs, with real threads where it matters.
#include "core/reclaimer.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "os/memory.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kMillisecond = 1'000'000;

Retired Number(uint32_t number) { return {{number, 0, 0}, number, 0}; }

// A batch of one.
void RetireAlone(Reclaimer& reclaimer, const Retired& retired, uint64_t bytes) {
  reclaimer.Retire(retired, bytes);
  reclaimer.Stamp();
}

// The numbers of what is due now, in the order in which it is handed out.
std::vector<uint32_t> Reclaim(Reclaimer& reclaimer) {
  std::vector<uint32_t> numbers;
  reclaimer.Reclaim([&](const Retired& retired) { numbers.push_back(retired.executor_index); });
  return numbers;
}

using Numbers = std::vector<uint32_t>;

}  // namespace

TEST(reclaimer_reclaims_at_once_when_nobody_is_pinned) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  CHECK(Reclaim(reclaimer).empty());
  RetireAlone(reclaimer, Number(1), 16);
  RetireAlone(reclaimer, Number(2), 32);
  CHECK_EQ(reclaimer.retired_bytes(), 48);
  CHECK(Reclaim(reclaimer) == (Numbers{1, 2}));
  CHECK_EQ(reclaimer.retired_bytes(), 0);
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Detach(slot);
}

TEST(reclaimer_waits_for_pins_that_are_older) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  reclaimer.Enter(*slot);
  RetireAlone(reclaimer, Number(1), 16);
  CHECK(Reclaim(reclaimer).empty());
  CHECK_EQ(reclaimer.retired_bytes(), 16);
  reclaimer.Leave(*slot);
  CHECK(Reclaim(reclaimer) == Numbers{1});
}

TEST(reclaimer_a_pin_of_the_same_epoch_counts_as_older) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  RetireAlone(reclaimer, Number(1), 16);
  reclaimer.Enter(*slot);
  // The pin has the epoch with which the next retirement is stamped: it may still hold the old entry.
  uint64_t pinned = slot->epoch.load();
  CHECK_EQ(pinned, reclaimer.epoch());
  RetireAlone(reclaimer, Number(2), 16);
  CHECK(Reclaim(reclaimer) == Numbers{1});
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Leave(*slot);
  CHECK(Reclaim(reclaimer) == Numbers{2});
}

TEST(reclaimer_dates_a_batch_as_one) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  uint64_t epoch = reclaimer.epoch();
  reclaimer.Retire(Number(1), 16);
  reclaimer.Retire(Number(2), 16);
  CHECK(Reclaim(reclaimer).empty());  // not before it is stamped
  reclaimer.Enter(*slot);
  reclaimer.Stamp();
  reclaimer.Stamp();  // nothing new
  CHECK_EQ(reclaimer.epoch(), epoch + 1);
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Leave(*slot);
  CHECK(Reclaim(reclaimer) == (Numbers{1, 2}));
}

TEST(reclaimer_raises_the_code_epoch_for_those_who_enter_later) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  reclaimer.Enter(*slot);
  uint64_t before = slot->code_epoch;
  reclaimer.RaiseCodeEpoch();
  CHECK_EQ(slot->code_epoch, before);
  reclaimer.Leave(*slot);
  reclaimer.Enter(*slot);
  CHECK_EQ(slot->code_epoch, before + 1);
  reclaimer.Leave(*slot);
}

TEST(gate_closings_nest) {
  Reclaimer reclaimer;
  PinSlot *inside = reclaimer.Attach(), *own = reclaimer.Attach();
  {
    ClosedGate outer;
    CHECK(outer.Close(reclaimer, own, 0));
    {
      ClosedGate inner;
      CHECK(inner.Close(reclaimer, own, 0));
    }
    std::atomic<bool> entered{false};
    std::thread thread([&] {
      Pinned pinned(reclaimer, *inside);
      entered = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(!entered);  // the end of the inner closing has not opened it
    outer.~ClosedGate();
    new (&outer) ClosedGate;
    thread.join();
    CHECK(entered);
  }
}

TEST(reclaimer_does_not_wait_for_pins_that_are_younger) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  RetireAlone(reclaimer, Number(1), 16);
  RetireAlone(reclaimer, Number(2), 16);
  reclaimer.Enter(*slot);
  RetireAlone(reclaimer, Number(3), 16);
  CHECK(Reclaim(reclaimer) == (Numbers{1, 2}));
  reclaimer.Leave(*slot);
  reclaimer.Enter(*slot);  // another pin, younger than all
  CHECK(Reclaim(reclaimer) == Numbers{3});
  reclaimer.Leave(*slot);
}

TEST(reclaimer_nested_pins_keep_the_outer_epoch) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  reclaimer.Enter(*slot);
  uint64_t outer = slot->epoch.load();
  RetireAlone(reclaimer, Number(1), 16);
  reclaimer.Enter(*slot);
  CHECK_EQ(slot->epoch.load(), outer);
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Leave(*slot);
  CHECK_EQ(slot->epoch.load(), outer);
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Leave(*slot);
  CHECK_EQ(slot->epoch.load(), 0);
  CHECK(Reclaim(reclaimer) == Numbers{1});
}

TEST(reclaimer_a_scope_is_a_pin) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  {
    Pinned outer(reclaimer, *slot);
    RetireAlone(reclaimer, Number(1), 16);
    {
      Pinned inner(reclaimer, *slot);
      CHECK_EQ(slot->depth, 2u);
    }
    CHECK(Reclaim(reclaimer).empty());
  }
  CHECK(!reclaimer.AnyPinned());
  CHECK(Reclaim(reclaimer) == Numbers{1});
}

TEST(reclaimer_the_oldest_of_several_pins_decides) {
  Reclaimer reclaimer;
  PinSlot* slots[3];
  for (PinSlot*& slot : slots) slot = reclaimer.Attach();
  for (uint32_t i = 0; i < 3; i++) {
    reclaimer.Enter(*slots[i]);
    RetireAlone(reclaimer, Number(i + 1), 16);
  }
  reclaimer.Leave(*slots[1]);
  CHECK(Reclaim(reclaimer).empty());
  reclaimer.Leave(*slots[0]);
  CHECK(Reclaim(reclaimer) == (Numbers{1, 2}));
  reclaimer.Leave(*slots[2]);
  CHECK(Reclaim(reclaimer) == Numbers{3});
}

TEST(reclaimer_knows_its_own_pin_from_others) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach();
  CHECK(own != other);
  CHECK(!reclaimer.AnyPinned());
  reclaimer.Enter(*own);
  CHECK(reclaimer.AnyPinned());
  CHECK(!reclaimer.OthersPinned(own));
  CHECK(reclaimer.OthersPinned(other));
  CHECK(reclaimer.OthersPinned(nullptr));
  reclaimer.Leave(*own);
}

TEST(reclaimer_slots_are_used_again) {
  Reclaimer reclaimer;
  PinSlot* first = reclaimer.Attach();
  PinSlot* second = reclaimer.Attach();
  reclaimer.Detach(first);
  CHECK(reclaimer.Attach() == first);
  CHECK(reclaimer.Attach() != second);
  size_t bytes = reclaimer.MetadataBytes();
  for (int i = 0; i < 100; i++) reclaimer.Detach(reclaimer.Attach());
  CHECK(reclaimer.MetadataBytes() <= bytes + sizeof(PinSlot));
}

TEST(gate_closes_when_nobody_is_pinned_and_ignores_ones_own_pin) {
  Reclaimer reclaimer;
  PinSlot* own = reclaimer.Attach();
  CHECK(reclaimer.CloseGate(nullptr, 0));
  reclaimer.OpenGate();
  reclaimer.Enter(*own);
  CHECK(reclaimer.CloseGate(own, 0));
  reclaimer.Enter(*own);  // a nested pin does not wait: the thread is in already
  reclaimer.Leave(*own);
  reclaimer.OpenGate();
  reclaimer.Leave(*own);
}

TEST(gate_gives_up_after_its_bound_and_is_open_again) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach(), *third = reclaimer.Attach();
  reclaimer.Enter(*other);
  uint64_t begin = os::NowNanos();
  CHECK(!reclaimer.CloseGate(own, 2 * kMillisecond));
  CHECK(os::NowNanos() - begin >= 2 * kMillisecond);
  reclaimer.Enter(*third);  // would wait for ever at a closed gate
  reclaimer.Leave(*third);
  reclaimer.Leave(*other);
  CHECK(reclaimer.CloseGate(own, 0));
  reclaimer.OpenGate();
}

TEST(gate_keeps_new_pins_out_until_it_opens) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach();
  std::atomic<int> phase{0};
  for (int round = 0; round < 50; round++) {
    CHECK(reclaimer.CloseGate(own, 0));
    phase = 0;
    std::thread thread([&] {
      phase = 1;
      Pinned pinned(reclaimer, *other);
      phase = 2;
    });
    while (phase == 0) std::this_thread::yield();
    for (int i = 0; i < 20; i++) std::this_thread::yield();  // time enough to enter, if it could
    CHECK_EQ(phase.load(), 1);
    reclaimer.OpenGate();
    thread.join();
    CHECK_EQ(phase.load(), 2);
  }
}

TEST(gate_waits_for_the_pins_that_were_there) {
  Reclaimer reclaimer;
  PinSlot *own = reclaimer.Attach(), *other = reclaimer.Attach();
  std::atomic<bool> pinned{false}, leaving{false};
  std::thread thread([&] {
    reclaimer.Enter(*other);
    pinned = true;
    for (int i = 0; i < 200; i++) std::this_thread::yield();
    leaving = true;
    reclaimer.Leave(*other);
  });
  while (!pinned) std::this_thread::yield();
  CHECK(reclaimer.CloseGate(own, 60'000 * kMillisecond));
  CHECK(leaving.load());
  reclaimer.OpenGate();
  thread.join();
}

// Threads enter, look an object up and use it; one thread replaces the objects and reclaims the old ones.
TEST(reclaimer_nothing_is_reclaimed_while_a_thread_uses_it) {
  constexpr uint64_t kAlive = 0x600DF00D;
  struct Object {
    std::atomic<uint64_t> canary{kAlive};
  };
  Reclaimer reclaimer;
  std::vector<Object> objects(64);
  std::atomic<Object*> current{&objects[0]};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> dead_uses{0}, uses{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; i++) {
    threads.emplace_back([&] {
      PinSlot* slot = reclaimer.Attach();
      while (!stop) {
        Pinned pinned(reclaimer, *slot);
        Object* object = current.load(std::memory_order_acquire);
        for (int k = 0; k < 5; k++) dead_uses += object->canary.load(std::memory_order_relaxed) != kAlive;
        uses++;
      }
      reclaimer.Detach(slot);
    });
  }
  std::vector<uint32_t> free;
  for (uint32_t i = 1; i < objects.size(); i++) free.push_back(i);
  uint64_t replaced = 0;
  uint64_t end = os::NowNanos() + 300 * kMillisecond;
  while (os::NowNanos() < end || uses < 1000) {
    if (!free.empty()) {
      uint32_t next = free.back();
      free.pop_back();
      objects[next].canary = kAlive;
      uint32_t old = static_cast<uint32_t>(current.load() - objects.data());
      current.store(&objects[next], std::memory_order_release);
      RetireAlone(reclaimer, {{0, 0, 0}, old, 0}, 16);
      replaced++;
    }
    reclaimer.Reclaim([&](const Retired& retired) {
      objects[retired.executor_index].canary = 0xDEAD;
      free.push_back(retired.executor_index);
    });
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(dead_uses.load(), 0);
  CHECK(replaced > 10);
  Reclaim(reclaimer);
  CHECK_EQ(reclaimer.retired_bytes(), 0);
}

TEST(reclaimer_lets_a_new_thread_synchronise_with_code_that_the_last_one_knew) {
  Reclaimer reclaimer;
  reclaimer.RaiseCodeEpoch();
  PinSlot* slot = reclaimer.Attach();
  reclaimer.Enter(*slot);
  reclaimer.Leave(*slot);
  CHECK(slot->code_epoch != 0);
  reclaimer.Detach(slot);
  CHECK_EQ(reclaimer.Attach(), slot);
  CHECK_EQ(slot->code_epoch, 0u);
  reclaimer.Detach(slot);
}
