// What the library does without ordinary memory: the Nth allocation fails, for every N in the life of an arena, once
// and from then on, with each writer; and limits of the process that leave less and less. Nothing ends the process,
// what is there goes on, a free never fails, and a later try succeeds.
#include "capi_host.h"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <errno.h>
#include <malloc.h>
#include <sys/resource.h>

#include "arena_life.h"
#include "support/compile.h"

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* at, size_t bytes);
void* __libc_memalign(size_t align, size_t bytes);
}

namespace {

using namespace capi_test;

// What is refused: the `left`th allocation from now on, and, if `forever`, all that follow. Only while hindered.
struct Fault {
  long left = 0;
  bool forever = false;
  long seen = 0;
};
Fault fault;

bool Refused() {
  if (!hindered) return false;
  fault.seen++;
  if (fault.left == 0 || --fault.left != 0) return false;
  if (fault.forever) fault.left = 1;
  errno = ENOMEM;
  return true;
}

// Runs a body in a child, so that a crash is told from a failed check.
template <class Body>
void InChild(const std::string& what, Body body) {
  std::fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    alarm(240);
    test::failed_checks = 0;
    body();
    std::fflush(stdout);
    _exit(test::failed_checks == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  if (status != 0) test::Fail(__FILE__, __LINE__, "the child ended with " + std::to_string(status) + " (" + what + ")");
}

void Sweep(ja_writer writer, bool forever) {
  auto live = [&](long nth) {
    fault = {nth, forever, 0};
    Life(writer, nth % 2 == 1, nth % 3 == 0 ? JA_FORK_COPY : JA_FORK_DROP, {JA_ERR_NO_MEMORY}, true).Live();
  };
  live(0);
  long total = fault.seen;
  CHECK(total > 100);
  size_t in_use = 0;
  // Each of them fails once with the first writer. What the other writers do differently they do again and again, and
  // what has failed for good fails at the next step as well.
  const bool all = writer == JA_WRITER_ALIAS && !forever;
  for (long nth = 1; nth <= total + 2; nth += nth < 40 || all ? 1 : 1 + nth / 40) {
    int before = test::failed_checks;
    live(nth);
    // What the first lives have made for the process stays.
    if (nth == 12) in_use = mallinfo2().uordblks;
    if (test::failed_checks != before) {
      std::printf("  at allocation %ld of %ld%s, writer %d\n", nth, total, forever ? " and all that follow" : "",
                  writer);
      return;
    }
  }
  size_t left = mallinfo2().uordblks;
  if (left > in_use + 16384) test::Fail(__FILE__, __LINE__, std::to_string(left - in_use) + " bytes were not freed");
}

void SweepBoth(ja_writer writer) {
  for (bool forever : {false, true})
    InChild(std::string(forever ? "from then on" : "once") + ", writer " + std::to_string(writer),
            [&] { Sweep(writer, forever); });
}

uint64_t RetiredBytes(ja_arena* arena) {
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  return stats.retired_bytes;
}

size_t Problems(ja_arena* arena) {
  size_t problems = 99;
  CHECK_OK(ja_verify(
      arena, [](void*, const ja_problem* problem) { std::printf("  %s\n", problem->what); }, nullptr, &problems));
  return problems;
}

}  // namespace

// In the place of libc's.
extern "C" {
void* malloc(size_t bytes) { return Refused() ? nullptr : __libc_malloc(bytes); }
void* calloc(size_t count, size_t bytes) { return Refused() ? nullptr : __libc_calloc(count, bytes); }
void* realloc(void* at, size_t bytes) { return Refused() ? nullptr : __libc_realloc(at, bytes); }
void* memalign(size_t align, size_t bytes) { return Refused() ? nullptr : __libc_memalign(align, bytes); }
void* aligned_alloc(size_t align, size_t bytes) { return Refused() ? nullptr : __libc_memalign(align, bytes); }
int posix_memalign(void** at, size_t align, size_t bytes) {
  if (Refused()) return ENOMEM;
  *at = __libc_memalign(align, bytes);
  return *at != nullptr ? 0 : ENOMEM;
}
}

TEST(allocations_may_fail_alias) { SweepBoth(JA_WRITER_ALIAS); }
TEST(allocations_may_fail_procmem) { SweepBoth(JA_WRITER_PROCMEM); }
TEST(allocations_may_fail_flip) { SweepBoth(JA_WRITER_FLIP); }

// The list of what is retired takes memory, and a free cannot fail: what is not listed is found all the same.
TEST(what_is_freed_without_memory_is_reclaimed_when_its_time_comes) {
  for (ja_writer writer : {JA_WRITER_ALIAS, JA_WRITER_PROCMEM, JA_WRITER_FLIP}) {
    ja_options options = ja_options_init();
    options.writer = writer;
    Host host(options);
    std::vector<ja_executor> ids;
    for (uint32_t i = 0; i < 400; i++) ids.push_back(host.Install(Returns(i)));
    CHECK_OK(ja_enter(host.thread));
    uint64_t address = 0;
    CHECK_OK(ja_entry(host.thread, ids[150], &address));  // of those that are not listed
    fault = {1, true, 0};
    for (uint32_t i = 0; i < 200; i++) CHECK_EQ(Hindered([&] { return ja_free(host.arena, &ids[i], 1); }), JA_OK);
    CHECK(fault.seen > 0);
    // Some that are listed again, and younger.
    fault = {};
    for (uint32_t i = 200; i < 300; i++) CHECK_OK(ja_free(host.arena, &ids[i], 1));
    CHECK(RetiredBytes(host.arena) > 300 * 64);
    CHECK_EQ(Problems(host.arena), 0u);
    // It still stands, until the pin ends.
    CHECK_EQ(reinterpret_cast<uint32_t (*)()>(address)(), 150u);
    CHECK_EQ(CallOf(host.thread, ids[150]), ~0u);
    CHECK_OK(ja_leave(host.thread));
    host.Collect();
    CHECK_EQ(RetiredBytes(host.arena), 0u);
    CHECK_EQ(Problems(host.arena), 0u);
    for (uint32_t i = 300; i < 400; i++) CHECK_EQ(CallOf(host.thread, ids[i]), i);
    // The indexes of the unlisted ones are given again, to executors with other ids.
    ja_executor last = ids[399];
    for (uint32_t i = 0; i < 300; i++) {
      ja_executor id = host.Install(Returns(i));
      CHECK(static_cast<uint32_t>(id) <= static_cast<uint32_t>(last));
      CHECK_EQ(CallOf(host.thread, id), i);
    }
    CHECK_EQ(Problems(host.arena), 0u);
  }
}

// An object is loaded and installed with all that belongs to it, or not at all.
TEST(objects_may_fail_whole) {
  static std::vector<int> noted;
  noted.reserve(100);
  const std::vector<uint8_t> bytes = test::CompileText(
      "extern \"C\" void note(int); struct Noted { int n; Noted(int n) : n(n) { note(n); } ~Noted() {} };"
      "static Noted first(1), second(2);"
      "extern \"C\" int f(int n) { try { Noted inside(3); throw n; } catch (int value) { return value + 1; } }",
      "-O2 -fPIC", "cc", ".cc");
  ja_object_options loading = ja_object_options_init();
  loading.resolve = [](void*, const char* name, uint8_t, uint8_t, ja_place* place) {
    if (std::string_view(name) != "note") return 0;
    place->address = reinterpret_cast<uint64_t>(+[](int n) { noted.push_back(n); });
    return 1;
  };
  ja_install_options installing = ja_install_options_init();
  installing.constructors = JA_YES;
  bool done = false;
  for (long nth = 1; !done && nth < 2000; nth++) {
    Host host;
    noted.clear();
    fault = {nth, true, 0};
    ja_object* object = nullptr;
    ja_status loaded = Hindered([&] { return ja_load_object(bytes.data(), bytes.size(), &loading, &object); });
    if (loaded != JA_OK) {
      CHECK_EQ(loaded, JA_ERR_NO_MEMORY);
      CHECK(object == nullptr);
      continue;
    }
    ja_object_info info = ja_object_info_init();
    CHECK_OK(ja_describe_object(object, &info));
    std::vector<ja_executor> ids(info.executors);
    ja_status installed =
        Hindered([&] { return ja_install_object(host.arena, object, &installing, ids.data(), ids.size()); });
    done = fault.seen < nth;
    fault = {};
    size_t count = 99;
    CHECK_OK(ja_executors(host.arena, nullptr, 0, &count));
    CHECK_EQ(count, installed == JA_OK ? info.executors : 0u);
    CHECK_EQ(noted.size(), installed == JA_OK ? 2u : 0u);
    if (installed == JA_OK) {
      CHECK_OK(ja_free_object(host.arena, object, ids.data(), ids.size()));
    } else {
      CHECK_EQ(installed, JA_ERR_NO_MEMORY);
      CHECK_OK(ja_install_object(host.arena, object, &installing, ids.data(), ids.size()));
    }
    CHECK_OK(ja_unload_object(object));
  }
  CHECK(done);
}

// The unwinder is told of copies before they are published: without memory for that nothing moves, and collect says so.
TEST(a_collect_without_memory_for_frames_says_so) {
  const std::vector<uint8_t> bytes =
      test::CompileText("extern \"C\" int f(int n) { try { throw n; } catch (int value) { return value + 1; } }",
                        "-O2 -fPIC", "cc", ".cc");
  ja_object* object = nullptr;
  CHECK_OK(ja_load_object(bytes.data(), bytes.size(), nullptr, &object));
  bool done = false;
  int refused = 0;
  for (long nth = 1; !done && nth < 500; nth++) {
    Host host;
    std::vector<ja_executor> ids(2000), kept;
    for (ja_executor& id : ids) CHECK_OK(ja_install_object(host.arena, object, nullptr, &id, 1));
    for (size_t i = 0; i < ids.size(); i++) {
      if (i % 40 == 0)
        kept.push_back(ids[i]);
      else
        CHECK_OK(ja_free(host.arena, &ids[i], 1));
    }
    fault = {nth, true, 0};
    ja_collect_result result = ja_collect_result_init();
    ja_status status = Hindered([&] { return ja_collect(host.arena, nullptr, &result); });
    done = fault.seen < nth;
    fault = {};
    if (status != JA_OK) CHECK_EQ(status, JA_ERR_NO_MEMORY);
    if (status != JA_OK || result.done == 0) refused++;
    CHECK_EQ(Problems(host.arena), 0u);
    ja_collect_result rest = ja_collect_result_init();
    CHECK_OK(ja_collect(host.arena, nullptr, &rest));
    // Whoever was told that all was done finds nothing left to do.
    CHECK(rest.done != 0 && (status != JA_OK || result.done == 0 || rest.moved == 0));
    CHECK_OK(ja_enter(host.thread));
    for (ja_executor id : kept) {
      uint64_t entry = 0;
      CHECK_OK(ja_entry(host.thread, id, &entry));
      CHECK_EQ(reinterpret_cast<int (*)(int)>(entry)(4), 5);
    }
    CHECK_OK(ja_leave(host.thread));
  }
  CHECK(done && refused > 0);
  CHECK_OK(ja_unload_object(object));
}

// Old copies of what has moved are retired, too.
TEST(what_moves_without_memory_for_the_list_moves_all_the_same) {
  Host host;
  std::vector<ja_executor> ids;
  for (uint32_t i = 0; i < 400; i++) ids.push_back(host.Install(Returns(i)));
  for (uint32_t i = 0; i < 400; i++)
    if (i % 8 != 0) CHECK_OK(ja_free(host.arena, &ids[i], 1));
  CHECK_OK(ja_enter(host.thread));
  uint64_t before = 0, after = 0;
  CHECK_OK(ja_entry(host.thread, ids[0], &before));
  // A collect takes its plans before it moves; whichever allocation fails behind them is the list's.
  uint64_t moved = 0;
  for (long nth = 1; nth < 40 && moved == 0; nth++) {
    fault = {nth, true, 0};
    ja_collect_result result = ja_collect_result_init();
    ja_status status = Hindered([&] { return ja_collect(host.arena, nullptr, &result); });
    CHECK(status == JA_OK || status == JA_ERR_NO_MEMORY);
    moved = result.moved;
  }
  CHECK(moved > 0);
  CHECK_OK(ja_entry(host.thread, ids[0], &after));
  CHECK(after != before);
  CHECK(RetiredBytes(host.arena) > 0);
  CHECK_EQ(reinterpret_cast<uint32_t (*)()>(before)(), 0u);
  CHECK_EQ(reinterpret_cast<uint32_t (*)()>(after)(), 0u);
  CHECK_OK(ja_leave(host.thread));
  host.Collect();
  CHECK_EQ(RetiredBytes(host.arena), 0u);
  CHECK_EQ(Problems(host.arena), 0u);
  for (uint32_t i = 0; i < 400; i += 8) CHECK_EQ(CallOf(host.thread, ids[i]), i);
}

namespace {

// Less and less is allowed to the process; the arena makes do, and goes on where the limit is lifted again. The body
// takes no memory of its own.
void LiveUnder(int resource, rlim_t limit, ja_writer writer) {
  static const uint8_t zeroes[3000] = {};
  static ja_executor ids[2000];
  rlimit before, lowered;
  getrlimit(resource, &before);
  lowered = {limit, before.rlim_max};
  if (setrlimit(resource, &lowered) != 0) return;
  auto allowed = [&](ja_status status) {
    return status == JA_OK || status == JA_ERR_NO_MEMORY || status == JA_ERR_NO_EXEC || status == JA_ERR_FULL ||
           status == JA_ERR_WRITER_UNAVAILABLE || status == JA_ERR_BUSY;
  };
  ja_options options = ja_options_init();
  options.writer = writer;
  options.max_bytes = 16 * kMiB;
  options.name = "under a limit";
  ja_arena* arena = nullptr;
  ja_thread* thread = nullptr;
  uint32_t count = 0;
  bool right = allowed(ja_create(&options, &arena)) && (arena == nullptr || allowed(ja_attach(arena, &thread)));
  ja_spec spec = ja_spec_init();
  uint8_t code[] = {0xB8, 0, 0, 0, 0, 0xC3};
  auto install = [&](uint32_t number) {
    std::memcpy(code + 1, &number, 4);
    spec.code = {code, sizeof code, 0};
    spec.data = {zeroes, 1000 + number % 2000, 0};
    return ja_install(arena, &spec, 1, &ids[number]);
  };
  for (; arena != nullptr && count < 2000 && right; count++) {
    ja_status status = install(count);
    right &= allowed(status);
    if (status != JA_OK) break;
  }
  for (uint32_t i = 0; i + 1 < count; i += 2) right &= ja_free(arena, &ids[i], 1) == JA_OK;
  if (arena != nullptr) right &= allowed(ja_collect(arena, nullptr, nullptr));
  setrlimit(resource, &before);
  CHECK(right);
  if (arena == nullptr) CHECK_OK(ja_create(&options, &arena));
  if (thread == nullptr) CHECK_OK(ja_attach(arena, &thread));
  for (uint32_t i = 1; i < count; i += 2) CHECK_EQ(CallOf(thread, ids[i]), i);
  CHECK_EQ(Problems(arena), 0u);
  // A limit on address space leaves a smaller arena, which may have been full to the last hole.
  for (uint32_t i = 0; i + 1 < count; i += 2) {
    ja_status status = install(i);
    CHECK(status == JA_OK || (status == JA_ERR_FULL && i > count / 2));
    if (status != JA_OK) ids[i] = 0;
  }
  CHECK_OK(ja_collect(arena, nullptr, nullptr));
  for (uint32_t i = 0; i + 1 < count; i += 2)
    if (ids[i] != 0) CHECK_EQ(CallOf(thread, ids[i]), i);
  CHECK_OK(ja_detach(thread));
  CHECK_OK(ja_dispose(arena));
}

// What the process has now of what the limit counts.
rlim_t UsedNow(int resource) {
  std::FILE* status = std::fopen("/proc/self/status", "r");
  const char* name = resource == RLIMIT_AS ? "VmSize:" : "VmData:";
  char line[256];
  unsigned long long kib = 0;
  while (status != nullptr && std::fgets(line, sizeof line, status) != nullptr)
    if (std::strncmp(line, name, 7) == 0) std::sscanf(line + 7, "%llu", &kib);
  if (status != nullptr) std::fclose(status);
  return kib * 1024;
}

void SweepLimit(int resource, const char* name) {
  for (ja_writer writer : {JA_WRITER_ALIAS, JA_WRITER_PROCMEM, JA_WRITER_FLIP})
    for (size_t more = 0; more < 14 * kMiB; more += more < 2 * kMiB ? 128 << 10 : kMiB)
      InChild(std::string(name) + " and " + std::to_string(more / 1024) + " KiB, writer " + std::to_string(writer),
              [&] { LiveUnder(resource, resource == RLIMIT_MEMLOCK ? more : UsedNow(resource) + more, writer); });
}

}  // namespace

TEST(a_limit_on_address_space_is_an_error) { SweepLimit(RLIMIT_AS, "RLIMIT_AS"); }
TEST(a_limit_on_data_is_an_error) { SweepLimit(RLIMIT_DATA, "RLIMIT_DATA"); }

#include <sys/mman.h>

TEST(a_limit_on_locked_memory_is_an_error) {
  // As a process that has locked all that it will ever have, and may lock no more.
  for (ja_writer writer : {JA_WRITER_ALIAS, JA_WRITER_PROCMEM, JA_WRITER_FLIP})
    for (size_t more = 0; more < 24 * kMiB; more += more < 2 * kMiB ? 512 << 10 : 4 * kMiB)
      InChild("RLIMIT_MEMLOCK and " + std::to_string(more / 1024) + " KiB, writer " + std::to_string(writer), [&] {
        if (mlockall(MCL_FUTURE) != 0) return;
        LiveUnder(RLIMIT_MEMLOCK, more, writer);
        munlockall();
      });
}
#else
TEST(without_glibc_or_under_a_sanitizer_nothing_is_refused) {}
#endif
