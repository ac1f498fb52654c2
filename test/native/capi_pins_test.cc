// ja_pin and ja_unpin: pins of no thread, which need not nest and may end elsewhere.
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "capi_host.h"

using namespace capi_test;

namespace {

uint64_t Pins(ja_arena* arena) {
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  return stats.pins;
}

ja_pinned* Pin(ja_arena* arena) {
  ja_pinned* pin = nullptr;
  CHECK_OK(ja_pin(arena, &pin));
  return pin;
}

// Whether anything of an executor still stands at an address.
bool IsThere(ja_arena* arena, uint64_t address) {
  ja_found found = ja_found_init();
  CHECK_OK(ja_find(arena, address, &found));
  return found.executor != 0;
}

// mov eax, n; ret
Code Constant(uint8_t n) { return Code().Move32(x64::kRax, n).Ret(); }
int CallAt(uint64_t address) { return reinterpret_cast<int (*)()>(address)(); }

uint64_t EntryOf(Host& host, ja_executor id) {
  uint64_t address = 0;
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, id, &address));
  CHECK_OK(ja_leave(host.thread));
  return address;
}

}  // namespace

TEST(a_pin_begins_and_ends_once_on_any_thread) {
  Host host;
  CHECK_EQ(Pins(host.arena), 0u);
  ja_pinned* first = Pin(host.arena);
  ja_pinned* second = nullptr;
  std::thread([&] { second = Pin(host.arena); }).join();  // one that was never attached
  CHECK(first != second);
  CHECK_EQ(Pins(host.arena), 2u);
  std::thread([&] { CHECK_OK(ja_unpin(first)); }).join();
  CHECK_EQ(Pins(host.arena), 1u);
  CHECK_STATUS(ja_unpin(first), JA_ERR_ENDED);
  CHECK_OK(ja_unpin(second));
  // A slot that is used again does not bring the old handle back.
  ja_pinned* third = Pin(host.arena);
  CHECK_STATUS(ja_unpin(first), JA_ERR_ENDED);
  CHECK_STATUS(ja_unpin(second), JA_ERR_ENDED);
  CHECK_EQ(Pins(host.arena), 1u);
  CHECK_OK(ja_unpin(third));

  int local = 0;
  CHECK_STATUS(ja_unpin(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_unpin(reinterpret_cast<ja_pinned*>(&local)), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_pin(host.arena, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_pin(nullptr, &third), JA_ERR_ARGUMENT);
  CHECK_EQ(Pins(host.arena), 0u);
}

TEST(an_arena_with_pins_is_not_disposed_of) {
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(nullptr, &arena));
  ja_pinned* pin = Pin(arena);
  CHECK_STATUS(ja_dispose(arena), JA_ERR_BUSY);
  CHECK_OK(ja_unpin(pin));
  CHECK_OK(ja_dispose(arena));
  CHECK_STATUS(ja_pin(arena, &pin), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_unpin(pin), JA_ERR_ENDED);
}

TEST(a_pin_keeps_what_is_freed_and_what_moves) {
  for (int layout : {JA_LAYOUT_TOGETHER, JA_LAYOUT_APART}) {
    ja_options options = ja_options_init();
    options.layout = layout;
    Host host(options);
    Code code = Constant(7);
    code.spec.data.size = 100;
    ja_executor moved = host.Install(code), freed = host.Install(Constant(8));
    uint64_t of_moved = EntryOf(host, moved), of_freed = EntryOf(host, freed);
    host.MakeSparse();
    ja_pinned* pin = Pin(host.arena);
    CHECK_OK(ja_free(host.arena, &freed, 1));
    CHECK(host.Collect().moved >= 1);
    CHECK(EntryOf(host, moved) != of_moved);
    for (int i = 0; i < 50; i++) host.InstallZeros(3000);
    CHECK(host.Collect().retired_bytes > 0);
    CHECK_EQ(CallAt(of_moved), 7);
    CHECK_EQ(CallAt(of_freed), 8);
    CHECK_OK(ja_unpin(pin));
    CHECK_EQ(host.Collect().retired_bytes, 0u);
  }
}

// An address is taken under the thread's pin, and kept by one that is made before that ends.
TEST(a_pin_made_under_a_pin_keeps_all_that_was_in_reach_there) {
  Host host;
  ja_executor moved = host.Install(Constant(7)), freed = host.Install(Constant(8));
  host.MakeSparse();
  ja_pinned* pins[3];
  uint64_t of_moved = 0, of_freed = 0;
  pins[0] = Pin(host.arena);
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, moved, &of_moved));
  CHECK_OK(ja_entry(host.thread, freed, &of_freed));
  CHECK_OK(ja_free(host.arena, &freed, 1));
  CHECK(host.Collect().moved >= 1);  // both are retired under the thread's pin, and before the next ones begin
  std::thread([&] { pins[1] = Pin(host.arena); }).join();
  pins[2] = Pin(host.arena);
  CHECK_OK(ja_leave(host.thread));
  for (int i : {0, 1}) CHECK_OK(ja_unpin(pins[i]));
  CHECK(host.Collect().retired_bytes > 0);
  for (int i = 0; i < 50; i++) host.InstallZeros(3000);
  CHECK_EQ(CallAt(of_moved), 7);
  CHECK_EQ(CallAt(of_freed), 8);
  CHECK_OK(ja_unpin(pins[2]));
  CHECK_EQ(host.Collect().retired_bytes, 0u);
}

TEST(state_stays_while_there_is_a_pin) {
  Host host;
  Code code = Code().LoadAddress(x64::kRax, x64::OwnState(0)).Ret();
  code.spec.state.size = 64;
  std::vector<ja_executor> others;
  for (int i = 0; i < 4000; i++) {
    Code other = Constant(1);
    other.spec.state.size = 256;
    others.push_back(host.Install(other));
  }
  ja_executor id = host.Install(code);
  auto state = [&] { return reinterpret_cast<uint64_t (*)()>(EntryOf(host, id))(); };
  uint64_t before = state();
  CHECK_OK(ja_free(host.arena, others.data(), others.size() - 1));
  ja_pinned* pin = Pin(host.arena);
  host.Collect();
  CHECK_EQ(state(), before);
  CHECK_OK(ja_unpin(pin));
  host.Collect();
  CHECK(state() != before);
}

// A fiber is left inside machine code, which moves and is freed meanwhile, and is resumed on another thread.
TEST(a_fiber_is_suspended_inside_code_that_moves_and_resumed_on_another_thread) {
  static ucontext_t host_context, fiber_context;
  static ja_arena* arena;
  static uint64_t entry;
  static int result;
  static ja_pinned* pin;
  Host host;
  arena = host.arena;
  void (*yield)() = [] { swapcontext(&fiber_context, &host_context); };
  Code code = Code().CallKeepingContext(x64::Outside(yield)).Move32(x64::kRax, 77).Ret();
  ja_executor id = host.Install(code);
  host.MakeSparse();

  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, id, &entry));
  pin = Pin(arena);
  CHECK_OK(ja_leave(host.thread));
  std::vector<char> stack(256 * 1024);
  getcontext(&fiber_context);
  fiber_context.uc_stack.ss_sp = stack.data();
  fiber_context.uc_stack.ss_size = stack.size();
  fiber_context.uc_link = &host_context;
  result = 0;
  makecontext(
      &fiber_context, [] { result = CallAt(entry); }, 0);
  swapcontext(&host_context, &fiber_context);
  CHECK_EQ(result, 0);

  CHECK(host.Collect().moved >= 1);
  CHECK(EntryOf(host, id) != entry);
  CHECK_OK(ja_free(arena, &id, 1));
  for (int i = 0; i < 100; i++) host.InstallZeros(3000);
  CHECK(IsThere(arena, entry));
  std::thread([&] {
    swapcontext(&host_context, &fiber_context);
    CHECK_OK(ja_unpin(pin));
  }).join();
  CHECK_EQ(result, 77);
  CHECK_EQ(host.Collect().retired_bytes, 0u);
}

// Pins and deaths in random order: what has died under a pin is there for as long as the pin.
TEST(pins_end_in_any_order) {
  for (uint32_t seed = 1; seed <= 5; seed++) {
    Host host;
    std::mt19937 random(seed);
    struct Held {
      ja_pinned* pin;
      std::vector<uint64_t> kept;
    };
    std::vector<Held> held;
    std::vector<ja_executor> living;
    int depth = 0;
    for (int step = 0; step < 3000; step++) {
      switch (random() % 8) {
        case 0:
        case 1:
          if (held.size() < 40) held.push_back({Pin(host.arena), {}});
          break;
        case 2:
          if (!held.empty()) {
            size_t at = random() % held.size();
            for (uint64_t address : held[at].kept) CHECK(IsThere(host.arena, address));
            CHECK_OK(ja_unpin(held[at].pin));
            held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
          }
          break;
        case 3:
        case 4:
          living.push_back(host.Install(Constant(static_cast<uint8_t>(step))));
          break;
        case 5:
        case 6:
          if (!living.empty()) {
            size_t at = random() % living.size();
            uint64_t address = host.Address(living[at]);
            CHECK_OK(ja_free(host.arena, &living[at], 1));
            living.erase(living.begin() + static_cast<std::ptrdiff_t>(at));
            for (Held& each : held) each.kept.push_back(address);
          }
          break;
        default:
          // The thread's own pins come between.
          if (depth == 0) {
            CHECK_OK(ja_enter(host.thread));
            depth++;
          } else {
            CHECK_OK(ja_leave(host.thread));
            depth--;
          }
      }
      if (step % 100 == 0) CHECK_EQ(Pins(host.arena), held.size());
    }
    if (depth != 0) CHECK_OK(ja_leave(host.thread));
    for (Held& each : held) {
      for (uint64_t address : each.kept) CHECK(IsThere(host.arena, address));
      CHECK_OK(ja_unpin(each.pin));
    }
    CHECK_EQ(host.Collect().retired_bytes, 0u);
  }
}

TEST(threads_pin_while_others_free_and_move) {
  ja_options options = ja_options_init();
  options.max_bytes = 32 * kMiB;
  Host host(options);
  // A thread that is not run keeps its pin, and at the limit nothing is installed: then the next attempt will do.
  auto install = [&](const ja_spec* spec) {
    ja_executor id = 0;
    ja_status status;
    while ((status = ja_install(host.arena, spec, 1, &id)) == JA_ERR_RETIRED_LIMIT || status == JA_ERR_FULL)
      std::this_thread::yield();
    CHECK_OK(status);
    return id;
  };
  ja_spec filler = ja_spec_init();
  filler.code.size = 1000;
  constexpr int kSlots = 32;
  std::vector<std::atomic<ja_executor>> slots(kSlots);
  for (int i = 0; i < kSlots; i++) slots[static_cast<size_t>(i)] = host.Install(Constant(static_cast<uint8_t>(i)));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> calls{0}, wrong{0};
  std::vector<std::thread> threads;
  for (uint32_t seed : {1u, 2u})
    threads.emplace_back([&, seed] {
      ja_thread* thread = nullptr;
      if (ja_attach(host.arena, &thread) != JA_OK) wrong++;
      std::mt19937 random(seed);
      while (!stop) {
        uint32_t at = random() % kSlots;
        uint64_t address = 0;
        ja_pinned* pin = nullptr;
        if (ja_enter(thread) != JA_OK) wrong++;
        bool found = ja_entry(thread, slots[at], &address) == JA_OK;
        if (found && ja_pin(host.arena, &pin) != JA_OK) wrong++;
        if (ja_leave(thread) != JA_OK) wrong++;
        if (!found) continue;
        // Only the loose pin is left.
        for (int i = 0; i < 20; i++, calls++) wrong += CallAt(address) != static_cast<int>(at);
        if (ja_unpin(pin) != JA_OK) wrong++;
      }
      if (ja_detach(thread) != JA_OK) wrong++;
    });
  std::mt19937 random(3);
  for (int round = 0; round < 60; round++) {
    for (int i = 0; i < 30; i++) {
      uint32_t at = random() % kSlots;
      Code next = Constant(static_cast<uint8_t>(at));
      ja_executor old = slots[at].exchange(install(next.Spec()));
      CHECK_OK(ja_free(host.arena, &old, 1));
      ja_executor filling[20];
      for (ja_executor& id : filling) id = install(&filler);
      CHECK_OK(ja_free(host.arena, filling, 20));
    }
    host.Collect();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0u);
  CHECK(calls > 0);
  CHECK_EQ(host.Collect().retired_bytes, 0u);
}

TEST(dispose_meets_threads_that_pin) {
  for (int round = 0; round < 50; round++) {
    ja_options options = ja_options_init();
    options.max_bytes = kMiB;
    ja_arena* arena = nullptr;
    CHECK_OK(ja_create(&options, &arena));
    std::atomic<uint64_t> pinned{0}, wrong{0};
    std::atomic<bool> disposed{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; i++)
      threads.emplace_back([&] {
        ja_pinned* pin = nullptr;
        ja_status status;
        while ((status = ja_pin(arena, &pin)) == JA_OK) {
          wrong += disposed;
          pinned++;
          wrong += ja_unpin(pin) != JA_OK;
          std::this_thread::yield();
        }
        wrong += status != JA_ERR_DISPOSED;
      });
    while (pinned < 3) std::this_thread::yield();
    ja_status status;
    while ((status = ja_dispose(arena)) == JA_ERR_BUSY) std::this_thread::yield();
    disposed = true;
    CHECK_STATUS(status, JA_OK);
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0u);
  }
}

TEST(a_move_callback_neither_pins_nor_unpins) {
  Host host;
  struct Both {
    Host* host;
    ja_pinned* pin;
    int told;
  } both{&host, nullptr, 0};
  host.Install(Constant(1));
  host.MakeSparse();
  both.pin = Pin(host.arena);
  CHECK_OK(ja_set_move_callback(
      host.arena,
      [](void* user, ja_executor, uint64_t, uint64_t) {
        auto& both = *static_cast<Both*>(user);
        ja_pinned* another = nullptr;
        CHECK_STATUS(ja_pin(both.host->arena, &another), JA_ERR_BUSY);
        CHECK_STATUS(ja_unpin(both.pin), JA_ERR_BUSY);
        both.told++;
      },
      &both));
  CHECK(host.Collect().moved >= 1);
  CHECK(both.told >= 1);
  CHECK_OK(ja_unpin(both.pin));
}

TEST(a_flip_arena_writes_nothing_while_there_is_a_pin) {
  ja_options options = ja_options_init();
  options.writer = JA_WRITER_FLIP;
  Host host(options);
  ja_executor id = host.Install(Constant(1));
  ja_pinned* pin = Pin(host.arena);
  ja_executor other = 0;
  Code code = Constant(2);
  CHECK_STATUS(ja_install(host.arena, code.Spec(), 1, &other), JA_ERR_BUSY);
  CHECK_OK(ja_free(host.arena, &id, 1));
  CHECK_EQ(host.Collect().done, 0);
  CHECK_OK(ja_unpin(pin));
  host.Install(Constant(2));
  CHECK_EQ(host.Collect().retired_bytes, 0u);
}

TEST(a_child_has_the_pins_of_its_parent) {
  for (ja_fork mode : {JA_FORK_DROP, JA_FORK_COPY}) {
    ja_options options = ja_options_init();
    options.fork = mode;
    Host host(options);
    ja_executor id = host.Install(Constant(7));
    uint64_t address = EntryOf(host, id);
    ja_pinned* pin = nullptr;
    std::thread([&] { pin = Pin(host.arena); }).join();  // by a thread that is not in the child
    CHECK_OK(ja_free(host.arena, &id, 1));
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      test::failed_checks = 0;
      if (mode == JA_FORK_COPY) {
        CHECK_EQ(Pins(host.arena), 1u);
        CHECK_EQ(CallAt(address), 7);
        CHECK_STATUS(ja_dispose(host.arena), JA_ERR_BUSY);
        CHECK_OK(ja_unpin(pin));
        CHECK_EQ(host.Collect().retired_bytes, 0u);
        CHECK_OK(ja_dispose(host.arena));
      } else {
        ja_pinned* another = nullptr;
        CHECK_STATUS(ja_pin(host.arena, &another), JA_ERR_FORKED);
        CHECK_OK(ja_dispose(host.arena));
        CHECK_OK(ja_unpin(pin));
      }
      CHECK_STATUS(ja_unpin(pin), JA_ERR_ENDED);
      CHECK_OK(ja_detach(host.thread));
      std::fflush(stdout);
      _exit(test::failed_checks == 0 ? 0 : 1);
    }
    int ending = -1;
    CHECK_EQ(waitpid(child, &ending, 0), child);
    CHECK_EQ(ending, 0);
    CHECK_EQ(Pins(host.arena), 1u);
    CHECK_EQ(CallAt(address), 7);
    CHECK_OK(ja_unpin(pin));
  }
}
