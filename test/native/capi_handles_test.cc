// Handles of the C API that are used late: after the thread has detached, while it ends, after the arena has gone.
#include <limits.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "capi_host.h"

using namespace capi_test;

namespace {

ja_arena* Create() {
  ja_options options = ja_options_init();
  options.max_bytes = kMiB;
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(&options, &arena));
  return arena;
}

ja_thread* Attach(ja_arena* arena) {
  ja_thread* thread = nullptr;
  CHECK_OK(ja_attach(arena, &thread));
  return thread;
}

// A retired executor shows a pin that has not ended.
void CheckNobodyIsPinned(ja_arena* arena) {
  Code code = Trace(1);
  ja_executor id = 0;
  CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
  CHECK_OK(ja_free(arena, &id, 1));
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  CHECK_EQ(stats.retired_bytes, 0u);
}

// The thread sanitizer takes away what it keeps for a thread in the last round, and then no code that it has compiled
// may run.
#if defined(__SANITIZE_THREAD__)
constexpr int kRounds = PTHREAD_DESTRUCTOR_ITERATIONS - 1;
#else
constexpr int kRounds = PTHREAD_DESTRUCTOR_ITERATIONS;
#endif

// Every function with a thread, on a place that has ended.
void CheckEnded(ja_thread* thread) {
  ja_taken taken;
  uint64_t address, context[3] = {0, 0, 0};
  CHECK_STATUS(ja_enter(thread), JA_ERR_ENDED);
  CHECK_STATUS(ja_leave(thread), JA_ERR_ENDED);
  CHECK_STATUS(ja_entry(thread, 1, &address), JA_ERR_ENDED);
  CHECK_STATUS(ja_run(thread, 1, 0, context, &taken), JA_ERR_ENDED);
  CHECK_OK(ja_detach(thread));
}

// What a thread's destructors do, and what they met.
struct AtEnd {
  std::vector<ja_thread*> threads;
  int rounds = 1;       // a key is set anew until it has been called so often
  bool enters = false;  // uses the place before it detaches
  pthread_key_t key = 0;
  int called = 0;
  int entered = 0, detached = 0;
};

// The test's checks are for one thread at a time; each thread is joined before its results are looked at.
void OnEnd(void* value) {
  auto& at_end = *static_cast<AtEnd*>(value);
  at_end.called++;
  if (at_end.called < at_end.rounds) pthread_setspecific(at_end.key, value);
  for (ja_thread* thread : at_end.threads) {
    if (at_end.enters) {
      ja_status status = ja_enter(thread);
      CHECK(status == JA_OK || status == JA_ERR_ENDED);
      CHECK_STATUS(ja_leave(thread), status);
      at_end.entered += status == JA_OK;
    }
    // Twice: the second finds nothing left to do.
    CHECK_OK(ja_detach(thread));
    CHECK_OK(ja_detach(thread));
    at_end.detached++;
    CHECK_STATUS(ja_enter(thread), JA_ERR_ENDED);
  }
}

}  // namespace

TEST(a_place_that_was_detached_says_so) {
  ja_arena* arena = Create();
  ja_thread* thread = Attach(arena);
  CHECK_OK(ja_detach(thread));
  CheckEnded(thread);
  // Another thread is told the same, and not that the place is somebody else's.
  std::thread([&] { CheckEnded(thread); }).join();
  CHECK_OK(ja_dispose(arena));
  CheckEnded(thread);
}

TEST(a_slot_that_is_used_again_does_not_bring_an_old_handle_back) {
  ja_arena* arena = Create();
  std::vector<ja_thread*> old;
  for (int i = 0; i < 100; i++) {
    ja_thread* thread = Attach(arena);
    for (ja_thread* before : old) CHECK(before != thread);
    old.push_back(thread);
    CHECK_OK(ja_detach(thread));
  }
  ja_thread* thread = Attach(arena);
  CHECK_OK(ja_enter(thread));
  for (ja_thread* before : old) CheckEnded(before);
  CHECK_STATUS(ja_dispose(arena), JA_ERR_BUSY);
  CHECK_OK(ja_leave(thread));
  CHECK_OK(ja_detach(thread));
  CHECK_OK(ja_dispose(arena));

  ja_arena* next = Create();
  CHECK(next != arena);
  ja_stats_result stats = ja_stats_result_init();
  CHECK_STATUS(ja_stats(arena, &stats), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_dispose(arena), JA_ERR_DISPOSED);
  CHECK_OK(ja_stats(next, &stats));
  CHECK_OK(ja_dispose(next));
}

TEST(what_was_never_a_handle_is_an_argument_error) {
  alignas(64) char memory[64] = {};
  for (void* wrong :
       {static_cast<void*>(nullptr), static_cast<void*>(memory), reinterpret_cast<void*>(1),
        reinterpret_cast<void*>(~uintptr_t{0}), reinterpret_cast<void*>((uintptr_t{0x7FFFFFF1} << 32) + 1)}) {
    auto* arena = static_cast<ja_arena*>(wrong);
    auto* thread = static_cast<ja_thread*>(wrong);
    ja_stats_result stats = ja_stats_result_init();
    CHECK_STATUS(ja_stats(arena, &stats), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_dispose(arena), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_attach(arena, &thread), JA_ERR_ARGUMENT);
    thread = static_cast<ja_thread*>(wrong);
    CHECK_STATUS(ja_enter(thread), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_leave(thread), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_detach(thread), JA_ERR_ARGUMENT);
  }
}

// Every function with an arena, by a thread that was never attached.
TEST(an_arena_that_was_disposed_of_answers_everybody) {
  ja_arena* arena = Create();
  CHECK_OK(ja_dispose(arena));
  ja_spec spec = ja_spec_init();
  spec.code = {kAdd, sizeof kAdd, 0};
  ja_executor id = 1;
  uint32_t number = 0;
  size_t count = 0;
  ja_thread* thread = nullptr;
  ja_info info = ja_info_init();
  ja_found found = ja_found_init();
  ja_plan_result plan = ja_plan_result_init();
  ja_stats_result stats = ja_stats_result_init();
  auto visit = [](void*, const ja_slab*) {};
  const std::function<ja_status()> calls[] = {
      [&] { return ja_install(arena, &spec, 1, &id); },
      [&] { return ja_allocate(arena, &spec, &id); },
      [&] { return ja_write(arena, id, JA_CODE, 0, kAdd, 1); },
      [&] { return ja_read(arena, id, JA_CODE, 0, &number, 1); },
      [&] { return ja_add_relocs(arena, id, nullptr, 0); },
      [&] { return ja_freeze(arena, &id, 1); },
      [&] { return ja_free(arena, &id, 1); },
      [&] { return ja_invalidate(arena, id); },
      [&] { return ja_describe(arena, id, &info); },
      [&] { return ja_entry_offset(arena, id, 0, &number); },
      [&] { return ja_executors(arena, nullptr, 0, &count); },
      [&] { return ja_find(arena, 1, &found); },
      [&] { return ja_link(arena, id, 0, id, 0); },
      [&] { return ja_unlink(arena, id, 0); },
      [&] { return ja_unlink_all(arena); },
      [&] { return ja_link_of(arena, id, 0, &id, nullptr); },
      [&] { return ja_chain_depth(arena, id, &number); },
      [&] { return ja_replace(arena, id, id); },
      [&] { return ja_exit_tag(arena, id, 0, &number); },
      [&] { return ja_set_hot_stub(arena, 0); },
      [&] { return ja_attach(arena, &thread); },
      [&] { return ja_set_move_callback(arena, nullptr, nullptr); },
      [&] { return ja_collect(arena, nullptr, nullptr); },
      [&] { return ja_plan(arena, &plan); },
      [&] { return ja_stats(arena, &stats); },
      [&] { return ja_slabs(arena, visit, nullptr); },
      [&] { return ja_verify(arena, nullptr, nullptr, &count); },
      [&] { return ja_dispose(arena); },
  };
  for (const auto& call : calls) CHECK_STATUS(call(), JA_ERR_DISPOSED);
  std::thread([&] {
    for (const auto& call : calls) CHECK_STATUS(call(), JA_ERR_DISPOSED);
  }).join();
}

TEST(calls_under_way_keep_an_arena_that_is_disposed_of) {
  // On other threads, which are not attached.
  for (int round = 0; round < 50; round++) {
    ja_arena* arena = Create();
    std::atomic<int> begun{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; i++)
      threads.emplace_back([&] {
        Code code = Trace(1);
        ja_executor id;
        ja_status status;
        while ((status = ja_install(arena, code.Spec(), 1, &id)) == JA_OK) {
          begun++;
          status = ja_free(arena, &id, 1);
          if (status != JA_OK) break;
        }
        CHECK_STATUS(status, JA_ERR_DISPOSED);
      });
    while (begun < 3) std::this_thread::yield();
    CHECK_OK(ja_dispose(arena));
    for (std::thread& thread : threads) thread.join();
  }
  // On this one, in a callback that the arena calls last.
  ja_arena* arena = Create();
  Code code = Trace(1);
  ja_executor ids[2];
  for (ja_executor& id : ids) CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
  ja_collect_options options = ja_collect_options_init();
  options.evict_cold = JA_YES;
  options.user = arena;
  options.evicted = [](void* user, ja_executor) {
    ja_status status = ja_dispose(static_cast<ja_arena*>(user));
    CHECK(status == JA_OK || status == JA_ERR_DISPOSED);
  };
  CHECK_OK(ja_collect(arena, &options, nullptr));
  CHECK_OK(ja_collect(arena, &options, nullptr));
  CHECK_STATUS(ja_collect(arena, &options, nullptr), JA_ERR_DISPOSED);
}

// Keys before and after the library's own (which the first thread to attach makes), one and several arenas, each with
// as many rounds as the system has.
TEST(key_destructors_of_any_order_may_use_and_detach_a_place) {
  ja_arena* arenas[3] = {Create(), Create(), Create()};
  pthread_key_t keys[2];
  CHECK_EQ(pthread_key_create(&keys[0], OnEnd), 0);
  std::thread([&] { Attach(arenas[0]); }).join();
  CHECK_EQ(pthread_key_create(&keys[1], OnEnd), 0);
  for (int rounds = 1; rounds <= kRounds; rounds++) {
    for (bool enters : {false, true}) {
      for (size_t attached : {size_t{1}, std::size(arenas)}) {
        AtEnd at_ends[2];
        std::thread([&] {
          for (int k = 0; k < 2; k++) {
            at_ends[k].key = keys[k];
            at_ends[k].rounds = rounds;
            at_ends[k].enters = enters;
            // Before and after the thread attaches.
            if (k == 0) pthread_setspecific(keys[k], &at_ends[k]);
            for (size_t i = 0; i < attached; i++) at_ends[k].threads.push_back(Attach(arenas[i]));
            if (k == 1) pthread_setspecific(keys[k], &at_ends[k]);
          }
        }).join();
        for (AtEnd& at_end : at_ends) {
          CHECK_EQ(at_end.called, rounds);
          CHECK_EQ(at_end.detached, at_end.called * static_cast<int>(attached));
        }
        // The first to run found every place alive, attached twice.
        if (enters) CHECK(at_ends[0].entered + at_ends[1].entered >= static_cast<int>(attached));
      }
    }
  }
  for (pthread_key_t key : keys) pthread_key_delete(key);
  for (ja_arena* arena : arenas) {
    CheckNobodyIsPinned(arena);
    CHECK_OK(ja_dispose(arena));
  }
}

// Here nobody detaches.
TEST(a_place_is_alive_in_every_round_of_destructors_but_the_last_two) {
  ja_arena* arena = Create();
  struct Rounds {
    ja_thread* thread;
    pthread_key_t key;
    std::vector<ja_status> entered;
  } rounds{nullptr, 0, {}};
  CHECK_EQ(pthread_key_create(&rounds.key,
                              [](void* value) {
                                auto& rounds = *static_cast<Rounds*>(value);
                                rounds.entered.push_back(ja_enter(rounds.thread));
                                if (rounds.entered.size() < kRounds) pthread_setspecific(rounds.key, value);
                              }),
           0);
  std::thread([&] {
    rounds.thread = Attach(arena);
    pthread_setspecific(rounds.key, &rounds);
  }).join();
  CHECK_EQ(rounds.entered.size(), kRounds);
  for (size_t i = 0; i + 2 < PTHREAD_DESTRUCTOR_ITERATIONS; i++) CHECK_EQ(rounds.entered[i], JA_OK);
  // It ended pinned, and its pin with it.
  CheckNobodyIsPinned(arena);
  pthread_key_delete(rounds.key);
  CHECK_OK(ja_dispose(arena));
}

TEST(destructors_of_thread_local_objects_may_use_and_detach_a_place) {
  struct Guard {
    ja_thread* thread = nullptr;
    bool detaches = false;
    ~Guard() {
      if (thread == nullptr) return;
      CHECK_OK(ja_enter(thread));
      CHECK_OK(ja_leave(thread));
      if (detaches) CHECK_OK(ja_detach(thread));
      if (detaches) CheckEnded(thread);
    }
  };
  ja_arena* arenas[2] = {Create(), Create()};
  for (bool detaches : {false, true}) {
    std::thread([&] {
      thread_local Guard before;
      before.thread = nullptr;  // made before anything of the library's
      ja_thread* first = Attach(arenas[0]);
      ja_thread* second = Attach(arenas[1]);
      thread_local Guard after;
      after.thread = second;
      after.detaches = detaches;
      before.thread = first;
      before.detaches = detaches;
      CHECK_OK(ja_enter(first));
      CHECK_OK(ja_leave(first));
    }).join();
  }
  for (ja_arena* arena : arenas) {
    CheckNobodyIsPinned(arena);
    CHECK_OK(ja_dispose(arena));
  }
}

TEST(a_thread_that_has_been_detached_at_its_end_attaches_no_more) {
  static ja_arena* arena;
  arena = Create();
  struct Late {
    pthread_key_t key;
    int called = 0;
    ja_status last = JA_OK;
    ja_thread* again = nullptr;
  } late{};
  // A key behind the library's: in each round it comes after it.
  std::thread([&] { Attach(arena); }).join();
  CHECK_EQ(pthread_key_create(&late.key,
                              [](void* value) {
                                auto& late = *static_cast<Late*>(value);
                                if (++late.called < kRounds) pthread_setspecific(late.key, value);
                                late.last = ja_attach(arena, &late.again);
                                if (late.last == JA_OK) CHECK_OK(ja_detach(late.again));
                              }),
           0);
  std::thread([&] {
    Attach(arena);
    pthread_setspecific(late.key, &late);
  }).join();
  CHECK_EQ(late.called, kRounds);
  CHECK_EQ(std::string(Name(late.last)), std::string("ERR_ARENA_ENDED"));
  CheckEnded(late.again);
  pthread_key_delete(late.key);
  CHECK_OK(ja_dispose(arena));
}

TEST(places_end_in_threads_whose_arena_has_gone) {
  static ja_arena* arena;
  arena = Create();
  static std::atomic<int> step{0};
  pthread_key_t key;
  CHECK_EQ(pthread_key_create(&key,
                              [](void* value) {
                                auto* thread = static_cast<ja_thread*>(value);
                                CHECK_STATUS(ja_enter(thread), JA_ERR_DISPOSED);
                                CHECK_STATUS(ja_leave(thread), JA_ERR_NOT_PINNED);
                                CHECK_OK(ja_detach(thread));
                                CheckEnded(thread);
                              }),
           0);
  std::thread detaches([&] {
    pthread_setspecific(key, Attach(arena));
    step++;
    while (step != 3) std::this_thread::yield();
  });
  std::thread forgets([&] {
    Attach(arena);
    step++;
    while (step != 3) std::this_thread::yield();
  });
  while (step != 2) std::this_thread::yield();
  CHECK_OK(ja_dispose(arena));
  step = 3;
  detaches.join();
  forgets.join();
  pthread_key_delete(key);
  CHECK_STATUS(ja_dispose(arena), JA_ERR_DISPOSED);
}

// Nothing unwinds through machine code, so that the frames in front of it never get to their ends. Under the address
// sanitizer that looked like an error of its own (os/linux_thread_end.cc).
TEST(a_thread_may_be_cancelled_inside_machine_code) {
  static std::atomic<int> inside;
  struct Stay {
    static void Here() {
      inside = 1;
      for (;;) pause();
    }
    static void* Run(void* arena) {
      volatile char guarded[100];
      guarded[99] = 1;
      ja_thread* thread = Attach(static_cast<ja_arena*>(arena));
      ja_executor id = 0;
      uint64_t address = 0;
      size_t count = 0;
      CHECK_OK(ja_executors(static_cast<ja_arena*>(arena), &id, 1, &count));
      CHECK_OK(ja_enter(thread));
      CHECK_OK(ja_entry(thread, id, &address));
      reinterpret_cast<void (*)()>(address)();
      return reinterpret_cast<void*>(uintptr_t{guarded[99] != 0});
    }
  };
  ja_arena* arena = Create();
  Code code;
  code.Push(x64::kRax).Move64(x64::kRax, reinterpret_cast<uint64_t>(&Stay::Here)).Call(x64::kRax).Pop(x64::kRax).Ret();
  ja_executor id = 0;
  CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
  for (int i = 0; i < 5; i++) {
    inside = 0;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, nullptr, &Stay::Run, arena), 0);
    while (inside == 0) usleep(100);
    CHECK_EQ(pthread_cancel(thread), 0);
    void* result = nullptr;
    CHECK_EQ(pthread_join(thread, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
  }
  CheckNobodyIsPinned(arena);
  CHECK_OK(ja_dispose(arena));
}

TEST(in_a_child_the_places_of_other_threads_have_ended) {
  for (ja_fork mode : {JA_FORK_DROP, JA_FORK_COPY}) {
    ja_options options = ja_options_init();
    options.max_bytes = kMiB;
    options.fork = mode;
    ja_arena* arena = nullptr;
    CHECK_OK(ja_create(&options, &arena));
    ja_thread* own = Attach(arena);
    ja_thread* others = nullptr;
    std::atomic<int> step{0};
    std::thread other([&] {
      others = Attach(arena);
      CHECK_OK(ja_enter(others));
      step = 1;
      while (step != 2) std::this_thread::yield();
      CHECK_OK(ja_leave(others));
    });
    while (step != 1) std::this_thread::yield();
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      test::failed_checks = 0;
      CheckEnded(others);
#if !defined(__SANITIZE_THREAD__)
      // A thread of the child's, which may have the other's id (which the thread sanitizer does not expect).
      std::thread([&] { CheckEnded(others); }).join();
#endif
      CHECK_STATUS(ja_enter(own), mode == JA_FORK_COPY ? JA_OK : JA_ERR_FORKED);
      if (mode == JA_FORK_COPY) CHECK_OK(ja_leave(own));
      CHECK_OK(ja_dispose(arena));
      CHECK_STATUS(ja_enter(own), mode == JA_FORK_COPY ? JA_ERR_DISPOSED : JA_ERR_FORKED);
      CHECK_OK(ja_detach(own));
      CheckEnded(own);
      std::fflush(stdout);
      _exit(test::failed_checks == 0 ? 0 : 1);
    }
    int ending = -1;
    CHECK_EQ(waitpid(child, &ending, 0), child);
    CHECK_EQ(ending, 0);
    step = 2;
    other.join();
    CHECK_OK(ja_detach(own));
    CHECK_OK(ja_dispose(arena));
  }
}

// A child is made in the middle of a call: the call's end there finds the arena as it left it.
TEST(a_call_that_forks_ends_in_both_processes) {
  ja_options options = ja_options_init();
  options.max_bytes = kMiB;
  options.fork = JA_FORK_COPY;
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(&options, &arena));
  Code code = Trace(1);
  ja_executor id = 0;
  CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
  pid_t child = -1;
  CHECK_OK(ja_slabs(
      arena,
      [](void* user, const ja_slab*) {
        auto* child = static_cast<pid_t*>(user);
        std::fflush(stdout);
        if (*child < 0) *child = fork();
      },
      &child));
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  CHECK_OK(ja_dispose(arena));
  CHECK_STATUS(ja_stats(arena, &stats), JA_ERR_DISPOSED);
  if (child == 0) _exit(test::failed_checks == 0 ? 0 : 1);
  int ending = -1;
  CHECK_EQ(waitpid(child, &ending, 0), child);
  CHECK_EQ(ending, 0);
}
