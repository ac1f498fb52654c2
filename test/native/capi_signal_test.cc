// ja_find_signal_safe: right answers, in signal handlers and beside everything that others do, and never a wait.
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

#include "capi_host.h"

using namespace capi_test;
using Clock = std::chrono::steady_clock;

namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr auto kStorm = std::chrono::milliseconds(500);
#else
constexpr auto kStorm = std::chrono::milliseconds(1500);
#endif

// Counts down in a loop and returns its key. The key stands in the code, so that who has an address in it can tell
// from the bytes alone whose it is.
constexpr uint32_t kKeyAt = 1;
Code Loop(uint32_t key, uint32_t turns) {
  Code code = Code().Move32(x64::kRax, key).Move32(x64::kRcx, turns);
  return code.Put({0xFF, 0xC9, 0x75, 0xFC}).Ret();  // dec ecx; jnz -4
}

ja_status FindSafely(ja_arena* arena, uint64_t address, ja_found* found) {
  *found = ja_found_init();
  return ja_find_signal_safe(arena, address, found);
}

void Handle(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  CHECK_EQ(sigaction(signal, &action, nullptr), 0);
}

// Executors by key, while other threads install and free them.
constexpr uint32_t kMostKeys = 1 << 20;
std::vector<std::atomic<ja_executor>> ids(kMostKeys);
std::atomic<uint32_t> keys{1};

ja_executor InstallLoop(ja_arena* arena, uint32_t turns) {
  uint32_t key = keys.fetch_add(1) % kMostKeys;
  Code code = Loop(key, turns);
  ja_executor id = 0;
  ids[key] = 0;
  ja_status status = ja_install(arena, code.Spec(), 1, &id);
  if (status != JA_OK && status != JA_ERR_FULL && status != JA_ERR_RETIRED_LIMIT) CHECK_OK(status);
  ids[key] = id;
  return id;
}

// Installs, frees and moves until the time is up; `slots` are what others may run.
void Churn(ja_arena* arena, std::vector<std::atomic<ja_executor>>& slots, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<ja_executor> filling;
  for (auto end = Clock::now() + kStorm; Clock::now() < end;) {
    std::atomic<ja_executor>& slot = slots[random() % slots.size()];
    if (ja_executor next = InstallLoop(arena, 2000)) {
      ja_executor old = slot.exchange(next);
      if (old != 0) CHECK_OK(ja_free(arena, &old, 1));
    }
    for (int i = 0; i < 20; i++)
      if (ja_executor id = InstallLoop(arena, 1)) filling.push_back(id);
    if (filling.size() > 4000) {
      CHECK_OK(ja_free(arena, filling.data(), filling.size()));
      filling.clear();
      CHECK_OK(ja_collect(arena, nullptr, nullptr));
    }
  }
  CHECK_OK(ja_free(arena, filling.data(), filling.size()));
}

}  // namespace

TEST(it_says_what_ja_find_says) {
  for (int layout : {JA_LAYOUT_TOGETHER, JA_LAYOUT_APART}) {
    ja_options options = ja_options_init();
    options.layout = layout;
    Host host(options);
    std::mt19937 random(7);
    std::vector<ja_executor> installed;
    for (int i = 0; i < 400; i++) {
      Code code = Trace(i % 3 == 0 ? 2 : 1);
      code.spec.data.size = random() % 300;
      code.spec.data.align = 1u << random() % 7;
      code.spec.state.size = random() % 90;
      installed.push_back(host.Install(code));
    }
    host.InstallZeros(3 << 18);  // in a slab of three units
    CHECK_OK(ja_enter(host.thread));
    for (int i = 0; i < 200; i++) CHECK_OK(ja_free(host.arena, &installed[static_cast<size_t>(i) * 2], 1));
    host.Collect();  // what is freed and moved waits for the pin
    ja_executor staged = host.Allocate();
    uint64_t first = ~uint64_t{0}, last = 0;
    struct Range {
      uint64_t *first, *last;
    } range{&first, &last};
    CHECK_OK(ja_slabs(
        host.arena,
        [](void* user, const ja_slab* slab) {
          auto* range = static_cast<Range*>(user);
          *range->first = std::min(*range->first, slab->address);
          *range->last = std::max(*range->last, slab->address + slab->bytes);
        },
        &range));
    uint64_t found_any = 0, retired = 0, sections[3] = {0, 0, 0};
    for (uint64_t at = first - 4096; at < last + 4096; at += at % 64 == 0 ? 1 : 1 + random() % 13) {
      ja_found slow = ja_found_init(), safe;
      CHECK_OK(ja_find(host.arena, at, &slow));
      CHECK_EQ(FindSafely(host.arena, at, &safe), JA_OK);
      CHECK_EQ(std::memcmp(&slow, &safe, sizeof slow), 0);
      if (safe.executor == 0) continue;
      CHECK(safe.executor != staged);
      found_any++;
      retired += safe.retired;
      sections[safe.section]++;
    }
    CHECK(found_any > 1000 && retired > 100);
    for (uint64_t count : sections) CHECK(count > 100);
    ja_found found;
    for (uint64_t far : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, reinterpret_cast<uint64_t>(&host)}) {
      CHECK_EQ(FindSafely(host.arena, far, &found), JA_OK);
      CHECK_EQ(found.executor, 0u);
    }
    CHECK_OK(ja_leave(host.thread));
  }
}

TEST(it_refuses_without_touching_the_last_error) {
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(nullptr, &arena));
  ja_found found = ja_found_init();
  std::thread([&] {  // where nothing has failed before
    CHECK_EQ(ja_find_signal_safe(nullptr, 0, &found), JA_ERR_ARGUMENT);
    CHECK_EQ(ja_find_signal_safe(arena, 0, nullptr), JA_ERR_ARGUMENT);
    ja_found small = ja_found_init();
    small.struct_size--;
    CHECK_EQ(ja_find_signal_safe(arena, 0, &small), JA_ERR_ARGUMENT);
    CHECK_EQ(ja_find_signal_safe(reinterpret_cast<ja_arena*>(&small), 0, &found), JA_ERR_ARGUMENT);
    CHECK_OK(ja_dispose(arena));
    CHECK_EQ(ja_find_signal_safe(arena, 0, &found), JA_ERR_DISPOSED);
    CHECK_EQ(ja_last_error()->status, JA_OK);
  })
      .join();
}

// The thread's own pc, in machine code that others replace and move meanwhile.
TEST(a_storm_of_samples_finds_the_executor_that_was_interrupted) {
#if !defined(__SANITIZE_THREAD__)  // which calls handlers later, when what they interrupted has gone on
  static ja_arena* arena;
  static std::atomic<uint64_t> samples, inside, busy, wrong;
  static pthread_t runner;
  ja_options options = ja_options_init();
  options.max_bytes = 16 * kMiB;
  CHECK_OK(ja_create(&options, &arena));
  Handle(SIGPROF, [](int, siginfo_t*, void* context) {
    if (!pthread_equal(pthread_self(), runner)) return;
    auto pc = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
    ja_found found;
    samples++;
    switch (FindSafely(arena, pc, &found)) {
      case JA_OK:
        break;
      case JA_ERR_BUSY:
        busy++;
        return;
      default:
        wrong++;
        return;
    }
    if (found.executor == 0) return;
    // The thread is pinned: what it executes stands where it stood.
    uint32_t key;
    std::memcpy(&key, reinterpret_cast<const void*>(pc - found.offset + kKeyAt), sizeof key);
    bool known = found.section == JA_CODE && found.offset < 15 && key < kMostKeys;
    wrong += !known || ids[key].load() != found.executor;
    inside++;
  });
  static std::atomic<bool> stop;
  stop = false;
  std::vector<std::atomic<ja_executor>> slots(64);
  for (auto& slot : slots) slot = InstallLoop(arena, 2000);
  std::atomic<bool> ready{false};
  std::thread running([&] {
    runner = pthread_self();
    ready = true;
    ja_thread* thread = nullptr;
    CHECK_OK(ja_attach(arena, &thread));
    std::mt19937 random(3);
    while (!stop) {
      CHECK_OK(ja_enter(thread));
      uint64_t address = 0;
      if (ja_entry(thread, slots[random() % slots.size()], &address) == JA_OK)
        reinterpret_cast<uint32_t (*)()>(address)();
      CHECK_OK(ja_leave(thread));
    }
    CHECK_OK(ja_detach(thread));
  });
  while (!ready) std::this_thread::yield();
  std::thread storm([&] {
    while (!stop) {
      pthread_kill(running.native_handle(), SIGPROF);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });
  Churn(arena, slots, 5);
  stop = true;
  storm.join();
  running.join();
  std::printf("  %llu samples, %llu in executors, %llu busy\n", (unsigned long long)samples.load(),
              (unsigned long long)inside.load(), (unsigned long long)busy.load());
  CHECK_EQ(wrong.load(), 0u);
  CHECK(inside > 100);
  CHECK(busy * 3 < samples);
  signal(SIGPROF, SIG_IGN);
  CHECK_OK(ja_dispose(arena));
#endif
}

// Handlers that interrupt the very thread that installs, frees and collects, and so often holds the arena's lock.
TEST(a_handler_may_interrupt_who_holds_the_lock) {
  static ja_arena* arena;
  static std::atomic<uint64_t> samples, busy, wrong;
  static std::atomic<uint64_t> address, id;
  ja_options options = ja_options_init();
  options.max_bytes = 16 * kMiB;
  CHECK_OK(ja_create(&options, &arena));
  Code code = Loop(1, 1);
  code.spec.movable = JA_NO;
  ja_executor fixed = 0;
  CHECK_OK(ja_install(arena, code.Spec(), 1, &fixed));
  ja_info info = ja_info_init();
  CHECK_OK(ja_describe(arena, fixed, &info));
  address = info.address;
  id = fixed;
  Handle(SIGUSR1, [](int, siginfo_t*, void*) {
    ja_found found;
    ja_status status = FindSafely(arena, address + 3, &found);
    samples++;
    busy += status == JA_ERR_BUSY;
    if (status == JA_OK) wrong += found.executor != id || found.offset != 3 || found.section != JA_CODE;
    if (status != JA_OK && status != JA_ERR_BUSY) wrong++;
  });
  std::atomic<bool> stop{false};
  pthread_t self = pthread_self();
  std::thread storm([&] {
    while (!stop) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
  });
  std::vector<std::atomic<ja_executor>> slots(64);
  Churn(arena, slots, 6);
  stop = true;
  storm.join();
  std::printf("  %llu samples, %llu busy\n", (unsigned long long)samples.load(), (unsigned long long)busy.load());
  CHECK_EQ(wrong.load(), 0u);
  CHECK(samples > 100);
  CHECK(busy * 2 < samples);

  // And certainly: the move callback runs under the lock.
  static std::atomic<uint64_t> moved_from, moved_to, moved_id, told;
  Handle(SIGUSR2, [](int, siginfo_t*, void*) {
    ja_found from, to;
    bool right = FindSafely(arena, moved_from, &from) == JA_OK && FindSafely(arena, moved_to, &to) == JA_OK;
    wrong += !right || from.executor != moved_id || to.executor != moved_id;
    told++;
  });
  CHECK_OK(ja_set_move_callback(
      arena,
      [](void*, ja_executor id, uint64_t from, uint64_t to) {
        moved_id = id;
        moved_from = from;
        moved_to = to;
        raise(SIGUSR2);
      },
      nullptr));
  std::vector<ja_executor> sparse;
  for (int i = 0; i < 40000; i++) sparse.push_back(InstallLoop(arena, 1));
  for (size_t i = 0; i < sparse.size(); i++)
    if (i % 50 != 0) CHECK_OK(ja_free(arena, &sparse[i], 1));
  CHECK_OK(ja_collect(arena, nullptr, nullptr));
  CHECK(told > 10);
  CHECK_EQ(wrong.load(), 0u);
  CHECK_OK(ja_dispose(arena));
}

// Plain threads, which every sanitizer follows: what a pinned thread may enter has a known answer.
TEST(pinned_threads_get_right_answers_beside_installs_frees_and_moves) {
  ja_options options = ja_options_init();
  options.max_bytes = 16 * kMiB;
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(&options, &arena));
  std::vector<std::atomic<ja_executor>> slots(64);
  for (auto& slot : slots) slot = InstallLoop(arena, 1);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> right{0}, busy{0}, wrong{0};
  std::vector<std::thread> threads;
  for (uint32_t seed : {1u, 2u})
    threads.emplace_back([&, seed] {
      ja_thread* thread = nullptr;
      if (ja_attach(arena, &thread) != JA_OK) wrong++;
      std::mt19937 random(seed);
      while (!stop) {
        ja_executor id = slots[random() % slots.size()];
        uint64_t address = 0;
        if (ja_enter(thread) != JA_OK) wrong++;
        if (ja_entry(thread, id, &address) == JA_OK) {
          for (uint32_t offset = 0; offset < 15; offset += 7) {
            ja_found found;
            ja_status status = FindSafely(arena, address + offset, &found);
            busy += status == JA_ERR_BUSY;
            if (status == JA_ERR_BUSY) continue;
            bool is = status == JA_OK && found.executor == id && found.offset == offset && found.section == JA_CODE;
            (is ? right : wrong)++;
          }
        }
        if (ja_leave(thread) != JA_OK) wrong++;
        // Anywhere: no answer is known, and none may harm.
        ja_found found;
        if (address != 0) FindSafely(arena, address + random() % (8 * kMiB) - 4 * kMiB, &found);
      }
      if (ja_detach(thread) != JA_OK) wrong++;
    });
  Churn(arena, slots, 9);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  std::printf("  %llu right, %llu busy\n", (unsigned long long)right.load(), (unsigned long long)busy.load());
  CHECK_EQ(wrong.load(), 0u);
  CHECK(right > 100);
  CHECK(busy * 3 < right);
  CHECK_OK(ja_dispose(arena));
}

TEST(an_arena_may_be_disposed_of_beside_samples) {
  static std::atomic<ja_arena*> current;
  static std::atomic<uint64_t> wrong;
  current = nullptr;
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<uint64_t> alive{0}, gone{0};
  for (int i = 0; i < 2; i++)
    threads.emplace_back([&] {
      while (!stop) {
        ja_arena* arena = current;
        if (arena == nullptr) continue;
        ja_found found;
        ja_status status = FindSafely(arena, 0x1000, &found);
        alive += status == JA_OK;
        gone += status == JA_ERR_DISPOSED;
        wrong += status != JA_OK && status != JA_ERR_DISPOSED && status != JA_ERR_BUSY;
      }
    });
  ja_options options = ja_options_init();
  options.max_bytes = kMiB;
  for (int i = 0; i < 300; i++) {
    ja_arena* arena = nullptr;
    CHECK_OK(ja_create(&options, &arena));
    current = arena;
    std::this_thread::yield();
    CHECK_OK(ja_dispose(arena));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(wrong.load(), 0u);
  CHECK(gone > 0);
}
