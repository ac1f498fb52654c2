// Listeners of C: several, each of its kinds; what they may not do; the move callback beside them; a forked child.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "capi_host.h"

using namespace capi_test;

namespace {

constexpr uint32_t kAll = JA_EVENT_PUBLISHED | JA_EVENT_MOVED | JA_EVENT_EVICTED | JA_EVENT_RETIRED |
                          JA_EVENT_RECLAIMED | JA_EVENT_FORKED_CHILD;

struct Told {
  ja_event_kind kind;
  ja_event event;
};
struct Log {
  ja_arena* arena = nullptr;
  std::vector<Told> told;

  size_t Count(ja_event_kind kind) const {
    size_t count = 0;
    for (const Told& one : told) count += one.kind == kind;
    return count;
  }
};

void Note(void* user, ja_event_kind kind, const ja_event* events, size_t count) {
  Log& log = *static_cast<Log*>(user);
  CHECK(count >= 1 && count <= JA_MOST_EVENTS);
  for (size_t i = 0; i < count; i++) log.told.push_back({kind, events[i]});
}

}  // namespace

TEST(listeners_are_told_what_they_asked_for) {
  Host host;
  Log all, moves;
  uint32_t number = 0, of_moves = 0;
  CHECK_OK(ja_add_listener(host.arena, kAll, Note, &all, &number));
  CHECK_OK(ja_add_listener(host.arena, JA_EVENT_MOVED, Note, &moves, &of_moves));
  CHECK(number != of_moves);
  ja_executor id = host.Install(Trace(1));
  uint64_t address = host.Address(id);
  CHECK_EQ(all.told.size(), 1u);
  CHECK(all.told[0].kind == JA_EVENT_PUBLISHED && all.told[0].event.executor == id);
  CHECK(all.told[0].event.old_address == 0 && all.told[0].event.new_address == address);
  host.MakeSparse();
  CHECK_EQ(all.Count(JA_EVENT_PUBLISHED), 401u);
  CHECK_EQ(all.Count(JA_EVENT_RETIRED), 399u);
  CHECK_EQ(all.Count(JA_EVENT_RECLAIMED), 399u);
  ja_collect_result result = host.Collect();
  CHECK(result.moved > 0 && moves.told.size() > 0);
  CHECK_EQ(all.Count(JA_EVENT_MOVED), moves.told.size());
  for (const Told& one : moves.told) {
    CHECK(one.kind == JA_EVENT_MOVED);
    if (one.event.executor != id) continue;
    CHECK(one.event.old_address == address && one.event.new_address == host.Address(id));
  }
  CHECK_OK(ja_remove_listener(host.arena, of_moves));
  CHECK_STATUS(ja_remove_listener(host.arena, of_moves), JA_ERR_ARGUMENT);
  size_t before = moves.told.size();
  host.MakeSparse();
  host.Collect();
  CHECK_EQ(moves.told.size(), before);
  CHECK_OK(ja_invalidate(host.arena, id));
  CHECK(all.told.back().kind == JA_EVENT_RECLAIMED && all.told.back().event.executor == id);

  // Cold: of those that tell, every one but the last to run.
  ja_executor cold = host.Install(Trace(1)), warm = host.Install(Trace(2));
  ja_collect_options evict = ja_collect_options_init();
  evict.evict_cold = JA_YES;
  host.Collect(evict);
  host.Run(warm, 0);
  host.Collect(evict);
  CHECK_EQ(all.Count(JA_EVENT_EVICTED), 1u);
  for (const Told& one : all.told)
    if (one.kind == JA_EVENT_EVICTED) CHECK_EQ(one.event.executor, cold);
}

TEST(listeners_may_not_call_their_arena) {
  Host host;
  Log log;
  log.arena = host.arena;
  ja_listener calls = [](void* user, ja_event_kind kind, const ja_event* events, size_t count) {
    Note(user, kind, events, count);
    ja_arena* arena = static_cast<Log*>(user)->arena;
    ja_info info = ja_info_init();
    uint32_t number = 0;
    CHECK_STATUS(ja_describe(arena, events[0].executor, &info), JA_ERR_BUSY);
    CHECK_STATUS(ja_collect(arena, nullptr, nullptr), JA_ERR_BUSY);
    CHECK_STATUS(ja_add_listener(arena, kAll, Note, user, &number), JA_ERR_BUSY);
    CHECK_STATUS(ja_remove_listener(arena, 1), JA_ERR_BUSY);
    CHECK_STATUS(ja_dispose(arena), JA_ERR_BUSY);
  };
  uint32_t number = 0;
  CHECK_OK(ja_add_listener(host.arena, kAll, calls, &log, &number));
  ja_executor id = host.Install(Trace(1));
  host.MakeSparse();
  host.Collect();
  CHECK_OK(ja_free(host.arena, &id, 1));
  for (ja_event_kind kind : {JA_EVENT_PUBLISHED, JA_EVENT_MOVED, JA_EVENT_RETIRED, JA_EVENT_RECLAIMED})
    CHECK(log.Count(kind) > 0);
}

TEST(listeners_and_the_move_callback_stand_beside_each_other) {
  Host host;
  Log log;
  size_t moved[2] = {};
  ja_move_callback count = [](void* user, ja_executor, uint64_t, uint64_t) { ++*static_cast<size_t*>(user); };
  uint32_t number = 0;
  CHECK_OK(ja_set_move_callback(host.arena, count, &moved[0]));
  CHECK_OK(ja_add_listener(host.arena, JA_EVENT_MOVED, Note, &log, &number));
  auto move = [&] {
    host.Install(Trace(1));
    host.MakeSparse();
    CHECK(host.Collect().moved > 0);
  };
  move();
  CHECK(moved[0] > 0 && moved[0] == log.told.size());
  CHECK_OK(ja_set_move_callback(host.arena, count, &moved[1]));
  move();
  CHECK_EQ(moved[0] + moved[1], log.told.size());
  CHECK(moved[1] > 0);
  CHECK_OK(ja_set_move_callback(host.arena, nullptr, nullptr));
  size_t before = moved[1];
  move();
  CHECK_EQ(moved[1], before);
  CHECK(log.told.size() > moved[0] + moved[1]);
}

TEST(listeners_that_cannot_be_are_refused) {
  Host host;
  uint32_t number = 77;
  CHECK_STATUS(ja_add_listener(host.arena, kAll, nullptr, nullptr, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_listener(host.arena, 0, Note, nullptr, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_listener(host.arena, 2 * JA_EVENT_FORKED_CHILD, Note, nullptr, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_listener(host.arena, kAll, Note, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_listener(nullptr, kAll, Note, nullptr, &number), JA_ERR_ARGUMENT);
  CHECK_EQ(number, 77u);
}

TEST(listeners_hear_in_a_forked_child_that_they_are_there) {
  for (ja_fork mode : {JA_FORK_DROP, JA_FORK_COPY}) {
    ja_options options = ja_options_init();
    options.fork = mode;
    Host host(options);
    Log log;
    uint32_t number = 0;
    CHECK_OK(ja_add_listener(host.arena, kAll, Note, &log, &number));
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      bool told = log.told.size() == 1 && log.told[0].kind == JA_EVENT_FORKED_CHILD && log.told[0].event.executor == 0;
      _exit(mode == JA_FORK_COPY ? !told : log.told.size() != 0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(log.told.empty());
  }
}
