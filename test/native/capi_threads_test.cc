// The C API among threads and processes: pins, moves, the end of an arena, and systems that refuse.
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <set>
#include <thread>
#include <vector>

#include "capi_host.h"

using namespace capi_test;

namespace {

// Runs it in a forked child: checks that fail there fail here.
void InChild(const std::function<void()>& run) {
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    test::failed_checks = 0;
    run();
    std::fflush(stdout);
    _exit(test::failed_checks == 0 ? 0 : 1);
  }
  int ending = -1;
  CHECK_EQ(waitpid(child, &ending, 0), child);
  CHECK_EQ(ending, 0);
}

}  // namespace

TEST(threads_attach_pin_and_leave) {
  Host host;
  ja_executor id = host.Install(Trace(1));
  uint64_t address = 0;
  ja_thread* again = nullptr;
  CHECK_OK(ja_attach(host.arena, &again));
  CHECK(again == host.thread);
  CHECK_OK(ja_detach(again));
  CHECK_STATUS(ja_leave(host.thread), JA_ERR_NOT_PINNED);
  CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_NOT_PINNED);
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_enter(host.thread));
  CHECK_STATUS(ja_detach(host.thread), JA_ERR_BUSY);
  CHECK_STATUS(ja_dispose(host.arena), JA_ERR_BUSY);
  CHECK_OK(ja_leave(host.thread));
  CHECK_STATUS(ja_dispose(host.arena), JA_ERR_BUSY);
  CHECK_OK(ja_entry(host.thread, id, &address));
  CHECK_OK(ja_leave(host.thread));
  CHECK_STATUS(ja_leave(host.thread), JA_ERR_NOT_PINNED);

  // Another thread's pin: what it has is not this thread's to use, and keeps the arena.
  std::atomic<int> step{0};
  ja_thread* others = nullptr;
  std::thread other([&] {
    CHECK_STATUS(ja_enter(host.thread), JA_ERR_WRONG_THREAD);
    CHECK_STATUS(ja_leave(host.thread), JA_ERR_WRONG_THREAD);
    CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_WRONG_THREAD);
    ja_taken taken;
    CHECK_STATUS(ja_run(host.thread, id, 0, host.context, &taken), JA_ERR_WRONG_THREAD);
    CHECK_STATUS(ja_detach(host.thread), JA_ERR_WRONG_THREAD);
    CHECK_OK(ja_attach(host.arena, &others));
    CHECK(others != host.thread);
    CHECK_OK(ja_enter(others));
    step = 1;
    while (step != 2) std::this_thread::yield();
  });
  while (step != 1) std::this_thread::yield();
  CHECK_STATUS(ja_dispose(host.arena), JA_ERR_BUSY);
  CHECK_STATUS(ja_enter(others), JA_ERR_WRONG_THREAD);
  CHECK_OK(ja_free(host.arena, &id, 1));
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(host.arena, &stats));
  CHECK(stats.retired_bytes != 0);
  step = 2;
  other.join();
  // It ended pinned: its pin ended with it, and so nothing waits.
  CHECK_EQ(host.Collect().retired_bytes, 0u);
}

TEST(an_arena_that_was_disposed_of_answers_those_who_are_attached) {
  Host host;
  ja_executor id = host.Install(Trace(1));
  CHECK_OK(ja_dispose(host.arena));
  CHECK_STATUS(ja_dispose(host.arena), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_enter(host.thread), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_leave(host.thread), JA_ERR_NOT_PINNED);
  ja_taken taken;
  CHECK_STATUS(ja_run(host.thread, id, 0, host.context, &taken), JA_ERR_DISPOSED);
  ja_thread* thread = nullptr;
  CHECK_STATUS(ja_attach(host.arena, &thread), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_free(host.arena, &id, 1), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_collect(host.arena, nullptr, nullptr), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_unlink_all(host.arena), JA_ERR_DISPOSED);
  CHECK_STATUS(ja_set_move_callback(host.arena, nullptr, nullptr), JA_ERR_DISPOSED);
  CHECK_OK(ja_detach(host.thread));
  host.arena = nullptr;
}

TEST(dispose_meets_threads_that_enter) {
  for (int round = 0; round < 25; round++) {
    ja_options options = ja_options_init();
    options.max_bytes = kMiB;
    ja_arena* arena = nullptr;
    CHECK_OK(ja_create(&options, &arena));
    ja_executor id = 0;
    Code code = Trace(1);
    CHECK_OK(ja_install(arena, code.Spec(), 1, &id));
    std::atomic<int> attached{0};
    std::atomic<bool> disposed{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; i++)
      threads.emplace_back([&] {
        ja_thread* thread = nullptr;
        CHECK_OK(ja_attach(arena, &thread));
        attached++;
        uint64_t context[2] = {0, 0};
        ja_taken taken;
        uint64_t runs = 0;
        ja_status status;
        while ((status = ja_run(thread, id, 0, context, &taken)) == JA_OK) {
          runs++;
          std::this_thread::yield();
        }
        CHECK_STATUS(status, JA_ERR_DISPOSED);
        CHECK_EQ(context[0], runs);
        CHECK_OK(ja_detach(thread));
      });
    while (attached != 2) std::this_thread::yield();
    ja_status status;
    while ((status = ja_dispose(arena)) == JA_ERR_BUSY) std::this_thread::yield();
    CHECK_STATUS(status, JA_OK);
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(moves_are_told_and_old_copies_still_stand) {
  struct Told {
    Host* host;
    std::vector<ja_executor> ids;
    std::vector<std::pair<uint64_t, uint64_t>> places;
  };
  for (int layout : {JA_LAYOUT_TOGETHER, JA_LAYOUT_APART}) {
    for (int writer = JA_WRITER_ALIAS; writer <= JA_WRITER_FLIP; writer++) {
      ja_options options = ja_options_init();
      options.layout = layout;
      options.writer = writer;
      Host host(options);
      Told told{&host, {}, {}};
      Code code = Trace(1);
      code.spec.data.size = 100;
      ja_executor id = host.Install(code);
      ja_move_callback callback = [](void* user, ja_executor moved, uint64_t from, uint64_t to) {
        Told& told = *static_cast<Told*>(user);
        told.ids.push_back(moved);
        told.places.push_back({from, to});
        CHECK_EQ(std::memcmp(reinterpret_cast<void*>(from), reinterpret_cast<void*>(to), 2), 0);
        // Every way back into the arena is shut, and none blocks.
        ja_arena* arena = told.host->arena;
        ja_thread* thread = told.host->thread;
        ja_info info = ja_info_init();
        ja_taken taken;
        CHECK_STATUS(ja_describe(arena, moved, &info), JA_ERR_BUSY);
        CHECK_STATUS(ja_free(arena, &moved, 1), JA_ERR_BUSY);
        CHECK_STATUS(ja_collect(arena, nullptr, nullptr), JA_ERR_BUSY);
        CHECK_STATUS(ja_dispose(arena), JA_ERR_BUSY);
        CHECK_STATUS(ja_attach(arena, &thread), JA_ERR_BUSY);
        CHECK_STATUS(ja_detach(thread), JA_ERR_BUSY);
        CHECK_STATUS(ja_enter(thread), JA_ERR_BUSY);
        CHECK_STATUS(ja_run(thread, moved, 0, told.host->context, &taken), JA_ERR_BUSY);
        CHECK_STATUS(ja_set_move_callback(arena, nullptr, nullptr), JA_ERR_BUSY);
      };
      CHECK_OK(ja_set_move_callback(host.arena, callback, &told));
      uint64_t before = host.Address(id);
      host.MakeSparse();
      CHECK_OK(ja_enter(host.thread));
      ja_collect_result result = host.Collect();
      CHECK(result.moved >= 1);
      CHECK_EQ(told.ids.size(), result.moved);
      CHECK(std::set<ja_executor>(told.ids.begin(), told.ids.end()).size() == told.ids.size());
      bool found_it = false;
      for (size_t i = 0; i < told.ids.size(); i++) {
        CHECK_EQ(host.Address(told.ids[i]), told.places[i].second);
        if (told.ids[i] != id) continue;
        found_it = true;
        CHECK_EQ(told.places[i].first, before);
      }
      CHECK(found_it);
      // The pin keeps the old copy, which the arena can name.
      ja_found found = ja_found_init();
      CHECK_OK(ja_find(host.arena, before + 3, &found));
      CHECK_EQ(found.executor, id);
      CHECK_EQ(found.section, JA_CODE);
      CHECK_EQ(found.offset, 3u);
      CHECK_EQ(found.retired, 1);
      CHECK_OK(ja_find(host.arena, host.Address(id), &found));
      CHECK_EQ(found.retired, 0);
      CHECK_OK(ja_leave(host.thread));
      CHECK_EQ(host.Run(id, 0).executor, 0u);
      CHECK_OK(ja_set_move_callback(host.arena, nullptr, nullptr));
      size_t told_before = told.ids.size();
      host.MakeSparse();
      CHECK(host.Collect().moved >= 1);
      CHECK_EQ(told.ids.size(), told_before);
    }
  }
}

TEST(a_c_function_called_by_a_trace_may_collect_and_free) {
  ja_options options = ja_options_init();
  options.max_retired_bytes = 4 * kMiB;
  Host host(options);
  struct Meddler {
    Host* host;
    ja_executor running;
    uint64_t moved;
  };
  void (*meddle)(uint64_t*) = [](uint64_t* context) {
    auto* meddler = reinterpret_cast<Meddler*>(context[2]);
    meddler->host->MakeSparse();
    meddler->moved = meddler->host->Collect().moved;
    CHECK_STATUS(ja_dispose(meddler->host->arena), JA_ERR_BUSY);
    CHECK_OK(ja_invalidate(meddler->host->arena, meddler->running));
    for (int i = 0; i < 50; i++) meddler->host->InstallZeros(500);
  };
  Code code = Code().CallKeepingContext(x64::Outside(meddle)).CountAndLeave(0, 1);
  code.spec.exits = 1;
  ja_executor id = host.Install(code);
  Meddler meddler{&host, id, 0};
  host.context[2] = reinterpret_cast<uint64_t>(&meddler);
  ja_taken taken = host.Run(id, 1);
  CHECK(meddler.moved >= 1);
  CHECK_EQ(taken.executor, id);  // stale by now, and still told
  CHECK_EQ(host.context[0], 1u);
  ja_info info = ja_info_init();
  CHECK_STATUS(ja_describe(host.arena, id, &info), JA_ERR_STALE_EXECUTOR);
}

TEST(collecting_plans_moves_evicts_and_stops) {
  Host host;
  ja_executor cold = host.Install(Trace(1));
  ja_executor warm = host.Install(Trace(1));
  Code kept = Trace(1);
  kept.spec.evictable = JA_NO;
  ja_executor never = host.Install(kept);
  std::vector<ja_executor> evicted;
  ja_collect_options options = ja_collect_options_init();
  options.evict_cold = JA_YES;
  options.compact = JA_NO;
  options.user = &evicted;
  options.evicted = [](void* user, ja_executor id) { static_cast<std::vector<ja_executor>*>(user)->push_back(id); };
  CHECK_EQ(host.Collect(options).evicted, 0u);
  host.Run(warm, 0);
  CHECK_EQ(host.Collect(options).evicted, 1u);
  CHECK_EQ(evicted.size(), 1u);
  CHECK_EQ(evicted[0], cold);
  CHECK_EQ(host.Run(never, 0).executor, 0u);

  ja_plan_result plan = ja_plan_result_init();
  CHECK_OK(ja_plan(host.arena, &plan));
  CHECK(!plan.profitable);
  host.MakeSparse();
  CHECK_EQ(host.Collect(options).moved, 0u);  // warm is evicted, and nothing moves
  host.MakeSparse();
  CHECK_OK(ja_plan(host.arena, &plan));
  CHECK(plan.profitable && plan.moved >= 1 && plan.moved_bytes >= 1 && plan.pages_freed > plan.pages_needed);
  CHECK(plan.slabs_freed >= 1);
  options = ja_collect_options_init();
  options.max_pause_nanos = 1;
  ja_collect_result result = host.Collect(options);
  int slices = 1;
  uint64_t moved = result.moved;
  for (; !result.done && slices < 1000; slices++) moved += (result = host.Collect(options)).moved;
  CHECK(result.done);
  CHECK(slices > 1 && moved >= 1);
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(host.arena, &stats));
  CHECK_EQ(stats.moves, moved);
  CHECK_EQ(stats.evicted, 2u);
  CHECK(stats.pauses >= 4 && stats.pause_nanos >= stats.max_pause_nanos && stats.moved_bytes > 0);
  options.compact = 3;
  CHECK_STATUS(ja_collect(host.arena, &options, nullptr), JA_ERR_ARGUMENT);
  options.compact = JA_DEFAULT;
  options.follow_links = -7;
  CHECK_STATUS(ja_collect(host.arena, &options, nullptr), JA_ERR_ARGUMENT);
  options.follow_links = JA_NO;
  options.evict_cold = 3;
  CHECK_STATUS(ja_collect(host.arena, &options, nullptr), JA_ERR_ARGUMENT);
  CHECK_OK(ja_collect(host.arena, nullptr, nullptr));

  // Evicted callbacks may use the arena.
  host.Install(Trace(1));
  options = ja_collect_options_init();
  options.evict_cold = JA_YES;
  options.user = &host;
  options.evicted = [](void* user, ja_executor id) {
    static_cast<Host*>(user)->InstallZeros(100);
    ja_info info = ja_info_init();
    CHECK_STATUS(ja_describe(static_cast<Host*>(user)->arena, id, &info), JA_ERR_STALE_EXECUTOR);
  };
  host.Collect(options);
  CHECK_EQ(host.Collect(options).evicted, 1u);
}

TEST(collecting_lays_traces_in_front_of_the_ones_they_lead_to) {
  Host host;
  ja_executor last = host.Install(Trace(1));
  std::vector<ja_executor> others;
  for (int i = 0; i < 20; i++) others.push_back(host.InstallZeros(300));
  ja_executor first = host.Install(Trace(1));
  CHECK_OK(ja_link(host.arena, first, 0, last, 0));
  CHECK(host.Address(first) > host.Address(last));
  ja_collect_options options = ja_collect_options_init();
  options.follow_links = JA_YES;
  CHECK(host.Collect(options).moved >= 2);
  CHECK_EQ(host.Address(last) - host.Address(first), 48u);
  CHECK_EQ(host.Run(first, 1).executor, 0u);
  CHECK_EQ(host.context[0], 2u);
}

TEST(flip_waits_for_other_threads_and_then_says_busy) {
  ja_options options = ja_options_init();
  options.writer = JA_WRITER_FLIP;
  Host host(options);
  host.Install(Trace(1));
  host.MakeSparse();
  std::atomic<int> step{0};
  std::thread other([&] {
    ja_thread* thread = nullptr;
    CHECK_OK(ja_attach(host.arena, &thread));
    CHECK_OK(ja_enter(thread));
    step = 1;
    while (step != 2) std::this_thread::yield();
    CHECK_OK(ja_leave(thread));
    CHECK_OK(ja_detach(thread));
  });
  while (step != 1) std::this_thread::yield();
  ja_executor id = 0;
  Code code = Trace(1);
  CHECK_STATUS(ja_install(host.arena, code.Spec(), 1, &id), JA_ERR_BUSY);
  ja_executor staged = host.Allocate();
  CHECK_STATUS(ja_freeze(host.arena, &staged, 1), JA_ERR_BUSY);
  ja_executor stub = 0;
  CHECK_EQ(host.Collect().done, 0);
  step = 2;
  other.join();
  Code fixed = Trace(0);
  fixed.relocs[1].target_kind = JA_TARGET_WARM;
  fixed.spec.movable = JA_NO;
  stub = host.Install(fixed);
  CHECK_OK(ja_freeze(host.arena, &staged, 1));
  CHECK_EQ(host.Collect().done, 1);
  // The calling thread's own pin is none of the others.
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_install(host.arena, code.Spec(), 1, &id));
  CHECK_OK(ja_set_hot_stub(host.arena, stub));
  CHECK_OK(ja_leave(host.thread));
}

TEST(a_child_has_nothing_of_the_parents_arena) {
  Host host;
  ja_executor id = host.Install(Trace(1));
  std::atomic<int> step{0};
  std::thread other([&] {
    ja_thread* thread = nullptr;
    CHECK_OK(ja_attach(host.arena, &thread));
    CHECK_OK(ja_enter(thread));
    step = 1;
    while (step != 2) std::this_thread::yield();
    CHECK_OK(ja_leave(thread));
    CHECK_OK(ja_detach(thread));
  });
  while (step != 1) std::this_thread::yield();
  CHECK_OK(ja_enter(host.thread));
  InChild([&] {
    ja_taken taken;
    uint64_t address;
    size_t count;
    ja_info info = ja_info_init();
    ja_stats_result stats = ja_stats_result_init();
    ja_thread* thread;
    CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_FORKED);
    CHECK_STATUS(ja_enter(host.thread), JA_ERR_FORKED);
    CHECK_OK(ja_leave(host.thread));
    CHECK_STATUS(ja_run(host.thread, id, 0, host.context, &taken), JA_ERR_FORKED);
    CHECK_STATUS(ja_describe(host.arena, id, &info), JA_ERR_FORKED);
    CHECK_STATUS(ja_free(host.arena, &id, 1), JA_ERR_FORKED);
    CHECK_STATUS(ja_collect(host.arena, nullptr, nullptr), JA_ERR_FORKED);
    CHECK_STATUS(ja_stats(host.arena, &stats), JA_ERR_FORKED);
    CHECK_STATUS(ja_verify(host.arena, nullptr, nullptr, &count), JA_ERR_FORKED);
    CHECK_STATUS(ja_attach(host.arena, &thread), JA_ERR_FORKED);
    CHECK_OK(ja_dispose(host.arena));
    CHECK_OK(ja_detach(host.thread));
    // And an arena of its own is as good as any.
    Host of_child;
    CHECK_EQ(of_child.Run(of_child.Install(Trace(1)), 0).executor, 0u);
  });
  step = 2;
  other.join();
  CHECK_OK(ja_leave(host.thread));
  CHECK_EQ(host.Run(id, 0).executor, 0u);
}

// JA_FORK_COPY: the child goes on with what the parent had, on its own.
TEST(a_child_may_have_a_copy) {
  ja_options options = ja_options_init();
  options.fork = JA_FORK_COPY;
  Host host(options);
  ja_executor id = host.Install(Trace(1));
  std::atomic<int> step{0};
  std::thread other([&] {
    ja_thread* thread = nullptr;
    CHECK_OK(ja_attach(host.arena, &thread));
    CHECK_OK(ja_enter(thread));
    step = 1;
    while (step != 2) std::this_thread::yield();
    CHECK_OK(ja_leave(thread));
    CHECK_OK(ja_detach(thread));
  });
  while (step != 1) std::this_thread::yield();
  InChild([&] {
    CHECK_EQ(host.Run(id, 0).executor, 0u);
    ja_executor another = host.Install(Trace(1));
    CHECK_EQ(host.Run(another, 0).executor, 0u);
    CHECK_OK(ja_free(host.arena, &id, 1));
    CHECK_EQ(host.Collect().done, 1);
    CHECK_EQ(host.Problems(), 0u);
    ja_thread* thread = nullptr;
    std::thread of_child([&] {
      CHECK_OK(ja_attach(host.arena, &thread));
      CHECK_OK(ja_detach(thread));
    });
    of_child.join();
    // The parent's other thread is not here: it keeps nobody from disposing, and nothing in memory.
    CHECK_OK(ja_dispose(host.arena));
    CHECK_OK(ja_detach(host.thread));
  });
  CHECK_EQ(host.Run(id, 0).executor, 0u);
  step = 2;
  other.join();
}

TEST(a_system_that_refuses_is_told_of) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  InChild([] {
    // Room for the arena's tables, and not for the smallest reservation.
    unsigned long pages = 0;
    FILE* statm = std::fopen("/proc/self/statm", "r");
    CHECK_EQ(std::fscanf(statm, "%lu", &pages), 1);
    std::fclose(statm);
    rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + 768 * 1024;
    rlimit limit = {bytes, bytes};
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    ja_arena* arena = nullptr;
    CHECK_STATUS(ja_create(nullptr, &arena), JA_ERR_NO_MEMORY);
  });
#endif
  InChild([] {
    const int kSetMdwe = 65;
    if (prctl(kSetMdwe, 1, 0, 0, 0) != 0) return;  // older kernels have no such thing
    CHECK_STATUS(ja_probe(JA_WRITER_FLIP), JA_ERR_WRITER_UNAVAILABLE);
    ja_options options = ja_options_init();
    options.writer = JA_WRITER_FLIP;
    ja_arena* arena = nullptr;
    CHECK_STATUS(ja_create(&options, &arena), JA_ERR_WRITER_UNAVAILABLE);
    CHECK_OK(ja_probe(JA_WRITER_AUTO));
  });
}

TEST(a_move_callback_that_collects_another_arena_is_still_inside_its_own) {
  Host outer, inner;
  struct Both {
    Host *outer, *inner;
    int in_outer = 0, in_inner = 0;
  } both{&outer, &inner};
  outer.Install(Trace(1));
  inner.Install(Trace(2));
  CHECK_OK(ja_set_move_callback(
      inner.arena,
      [](void* user, ja_executor, uint64_t, uint64_t) {
        Both& both = *static_cast<Both*>(user);
        both.in_inner++;
        ja_stats_result stats = ja_stats_result_init();
        CHECK_STATUS(ja_stats(both.outer->arena, &stats), JA_ERR_BUSY);
        CHECK_STATUS(ja_stats(both.inner->arena, &stats), JA_ERR_BUSY);
        CHECK_STATUS(ja_dispose(both.outer->arena), JA_ERR_BUSY);
      },
      &both));
  CHECK_OK(ja_set_move_callback(
      outer.arena,
      [](void* user, ja_executor, uint64_t, uint64_t) {
        Both& both = *static_cast<Both*>(user);
        if (both.in_outer++ == 0) CHECK_OK(ja_collect(both.inner->arena, nullptr, nullptr));
        ja_stats_result stats = ja_stats_result_init();
        CHECK_OK(ja_stats(both.inner->arena, &stats));
        CHECK_STATUS(ja_stats(both.outer->arena, &stats), JA_ERR_BUSY);
      },
      &both));
  inner.MakeSparse();
  outer.MakeSparse();
  outer.Collect();
  CHECK(both.in_outer > 0 && both.in_inner > 0);
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(outer.arena, &stats));
}
