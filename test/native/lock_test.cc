// The arena's lock: one holder at a time, whether those that wait spin or sleep.
#include "core/lock.h"

#include <sched.h>
#include <algorithm>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "os/memory.h"
#include "test.h"

using namespace jit_arena;

// Neither counter is atomic: lost additions, and the thread sanitizer, tell.
TEST(lock_lets_one_thread_in_at_a_time) {
  Lock lock;
  uint64_t first = 0, second = 0;
  bool same = true;
  constexpr int kThreads = 4, kTimes = 50'000;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&] {
      for (int n = 0; n < kTimes; n++) {
        std::lock_guard guard(lock);
        same = same && first == second;
        first++;
        // Now and then long enough for the others to fall asleep.
        if (n % 10'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        second++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(same);
  CHECK_EQ(first, uint64_t{kThreads} * kTimes);
  CHECK_EQ(second, first);
}

TEST(lock_wakes_those_that_sleep_one_after_the_other) {
  Lock lock;
  lock.lock();
  std::atomic<int> in{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; i++) {
    threads.emplace_back([&] {
      std::lock_guard guard(lock);
      in++;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK_EQ(in.load(), 0);
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(in.load(), 8);
}

// Holders for longer than anybody spins, and for less, so that threads fall asleep while others are woken.
TEST(lock_forgets_nobody_who_sleeps) {
  Lock lock;
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; i++) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 150; n++) {
        std::lock_guard guard(lock);
        if ((n + i) % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(1200));
      }
      done++;
    });
  }
  for (int i = 0; i < 3000 && done < 6; i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK_EQ(done.load(), 6);
  if (done < 6) std::_Exit(1);  // they cannot be joined
  for (std::thread& thread : threads) thread.join();
}

// Slices of a collect, one after the other, with nothing in between.
TEST(lock_is_given_to_those_that_have_slept_though_its_holder_wants_it_again) {
  // On one processor, where who wakes finds the lock taken again.
  cpu_set_t all, one;
  CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  CPU_ZERO(&one);
  CPU_SET(sched_getcpu(), &one);
  CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  Lock lock;
  std::atomic<bool> stop{false}, begun{false};
  std::atomic<int> held{0};
  std::thread holder([&] {
    while (!stop && held < 3000) {
      std::lock_guard guard(lock);
      held++;
      begun = true;
      for (uint64_t end = os::NowNanos() + 2'000'000; os::NowNanos() < end;) {
      }
    }
  });
  while (!begun) std::this_thread::yield();
  int longest = 0;
  for (int i = 0; i < 20 && held < 2000; i++) {
    int before = held;
    lock.lock();
    longest = std::max(longest, held - before);
    lock.unlock();
  }
  stop = true;
  holder.join();
  CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
  CHECK(longest < 50);  // a few as a rule: it spins, sleeps, wakes too late, and is next
}

TEST(lock_is_tried_without_waiting) {
  Lock lock;
  CHECK(lock.try_lock());
  CHECK(!lock.try_lock());
  lock.unlock();
  CHECK(lock.try_lock());
  // The child of a fork: whoever held it is not there.
  lock.Reset();
  CHECK(lock.try_lock());
}
