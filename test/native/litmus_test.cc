// Store/load litmus: one side stores and then loads what the other side stores. Without a full barrier between the two
// on both sides each may miss the other, which no stress shows: the window is a store buffer. Reclaimer::Enter does so
// against all that looks for pins.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "core/reclaimer.h"
#include "test.h"

using namespace jit_arena;

namespace {

struct alignas(128) Line {
  std::atomic<uint64_t> value{0};
};

// How long each goes on, in seconds: LITMUS_SECONDS, or what is enough on CPUs that nobody else wants.
std::chrono::seconds Patience(int unless_given) {
  const char* given = std::getenv("LITMUS_SECONDS");
  return std::chrono::seconds(given != nullptr ? std::atoi(given) : unless_given);
}
constexpr int kSeconds = 2;

void Delay(uint32_t* state) {
  *state = *state * 1664525 + 1013904223;
  for (uint32_t i = (*state >> 24) & 63; i > 0; i--) std::atomic_signal_fence(std::memory_order_seq_cst);
}

// Waits without sleeping, but lets others run where there are fewer cores than threads.
void WaitFor(const Line& line, uint64_t round) {
  for (uint32_t spins = 1; line.value.load(std::memory_order_acquire) < round; spins++)
    if (spins % 4096 == 0) std::this_thread::yield();
}

// Stores leave a core in their order. Each side writes such lines, which the other core has, before its own store; so
// that becomes visible as late as it may: without them a miss is too rare to wait for.
struct BusyLines {
  Line lines[24];
  void Write(uint64_t round) {
    for (Line& line : lines) line.value.store(round, std::memory_order_relaxed);
  }
};

// In each round one thread calls pin(round), which says whether it saw what the other did, while the other calls
// look(round), which says whether it saw the pin. Then unpin() and settle(). True: in some round neither did.
template <class Pin, class Unpin, class Look, class Settle>
bool FindMiss(std::chrono::seconds patience, Pin pin, Unpin unpin, Look look, Settle settle) {
  static Line start, looked, leave, left;
  static BusyLines of_pin, of_look;
  for (Line* line : {&start, &looked, &leave, &left}) line->value = 0;
  bool saw_look = false;
  std::atomic<bool> stop{false};
  std::thread thread([&] {
    uint32_t random = 1;
    for (uint64_t round = 1;; round++) {
      of_look.Write(round);
      WaitFor(start, round);
      if (stop.load(std::memory_order_relaxed)) return;
      Delay(&random);
      of_pin.Write(round);
      saw_look = pin(round);
      looked.value.store(round, std::memory_order_release);
      WaitFor(leave, round);
      unpin();
      left.value.store(round, std::memory_order_release);
    }
  });
  bool missed = false;
  uint32_t random = 7;
  auto end = std::chrono::steady_clock::now() + patience;
  constexpr uint64_t kFewestRounds = 1000;
  for (uint64_t round = 1; !missed; round++) {
    if (round % 256 == 0 && round > kFewestRounds && std::chrono::steady_clock::now() > end) break;
    of_pin.Write(round);
    start.value.store(round, std::memory_order_release);
    Delay(&random);
    Delay(&random);
    of_look.Write(round);
    bool saw_pin = look(round);
    WaitFor(looked, round);
    missed = !saw_look && !saw_pin;
    leave.value.store(round, std::memory_order_release);
    WaitFor(left, round);
    settle();
  }
  stop = true;
  start.value.store(~uint64_t{0}, std::memory_order_release);
  thread.join();
  return missed;
}

// Enter against Retire, Stamp and Reclaim. A miss: the thread has the old entry, and yet it is reclaimed.
template <class EnterPin>
bool FindReclaimMiss(std::chrono::seconds patience, EnterPin enter) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  static Line entry;
  entry.value = 0;
  auto reclaim = [&] {
    bool reclaimed = false;
    reclaimer.Reclaim([&](const Retired&) { reclaimed = true; });
    return reclaimed;
  };
  return FindMiss(
      patience,
      [&](uint64_t round) {
        enter(reclaimer, *slot);
        return entry.value.load(std::memory_order_acquire) == round;
      },
      [&] { reclaimer.Leave(*slot); },
      [&](uint64_t round) {
        reclaimer.Retire({{1, 0, 0}, 1, 0}, 16);  // takes its time: not between the store and the load
        entry.value.store(round, std::memory_order_release);
        reclaimer.Stamp();
        return !reclaim();
      },
      reclaim);
}

// Enter as it must not be: the pin may become visible after the entry has been loaded.
void EnterWithoutFence(Reclaimer& reclaimer, PinSlot& slot) {
  slot.depth++;
  slot.epoch.store(reclaimer.epoch(), std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler keeps the order; the CPU need not
}

}  // namespace

TEST(litmus_enter_and_reclaim_never_miss_each_other) {
  CHECK(!FindReclaimMiss(Patience(kSeconds), [](Reclaimer& reclaimer, PinSlot& slot) { reclaimer.Enter(slot); }), 0);
}

// The same without the fence: were there no misses here either, the tests around it would prove nothing. For the other
// two, `npm run mutants` takes the fences out of the reclaimer itself.
TEST(litmus_can_fail) {
  if (std::thread::hardware_concurrency() < 2) {
    std::printf("  skipped: two threads must run at once, and there is one CPU\n");
    return;
  }
#if defined(__SANITIZE_THREAD__)
  std::printf("  skipped: what the thread sanitizer adds to each access is a fence\n");
  return;
#endif
  // The first few thousand rounds have one as a rule.
  CHECK(FindReclaimMiss(Patience(60), EnterWithoutFence));
}

// A miss: the thread is inside, and yet the gate is closed.
TEST(litmus_enter_and_close_gate_never_miss_each_other) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  static Line entered;
  bool missed = FindMiss(
      Patience(kSeconds),
      [&](uint64_t round) {
        reclaimer.Enter(*slot);
        entered.value.store(round, std::memory_order_release);
        return false;
      },
      [&] { reclaimer.Leave(*slot); },
      [&](uint64_t round) {
        if (!reclaimer.CloseGate(nullptr, 0)) return true;
        bool inside = false;
        for (int i = 0; i < 2000 && !inside; i++) inside = entered.value.load(std::memory_order_acquire) == round;
        reclaimer.OpenGate();
        return !inside;
      },
      [] {});
  CHECK(!missed);
}

// A miss: the thread runs on without having synchronised its core, and yet nobody sends it a barrier.
TEST(litmus_enter_and_raise_code_epoch_never_miss_each_other) {
  Reclaimer reclaimer;
  PinSlot* slot = reclaimer.Attach();
  uint64_t before = slot->code_epoch;
  reclaimer.Enter(*slot);  // the first one synchronises with all that was before
  before = slot->code_epoch;
  reclaimer.Leave(*slot);
  bool missed = FindMiss(
      Patience(kSeconds),
      [&](uint64_t round) {
        reclaimer.Enter(*slot);
        return slot->code_epoch >= before + round;
      },
      [&] { reclaimer.Leave(*slot); },
      [&](uint64_t) {
        reclaimer.RaiseCodeEpoch();
        return reclaimer.AnyPinned();
      },
      [] {});
  CHECK(!missed);
}
