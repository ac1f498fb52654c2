// The arena's lock: one holder at a time, whether those that wait spin or sleep.
#include "core/lock.h"

#include <atomic>
#include <chrono>
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
