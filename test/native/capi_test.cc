// The C API without other threads: every function, every error that jit_arena.h promises, and input that nobody should
// give. Threads, moves and forks are in capi_threads_test.cc.
#include <cstdlib>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "capi_host.h"

using namespace capi_test;

TEST(code_is_installed_called_and_freed) {
  Host host;
  Code add;
  add.bytes.assign(kAdd, kAdd + sizeof kAdd);
  ja_executor id = host.Install(add);
  CHECK(id != 0);
  uint64_t address = 0;
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, id, &address));
  CHECK_EQ(reinterpret_cast<int (*)(int, int)>(address)(2, 3), 5);
  CHECK_OK(ja_leave(host.thread));
  CHECK_OK(ja_free(host.arena, &id, 1));
  CHECK_OK(ja_enter(host.thread));
  address = 77;
  CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_STALE_EXECUTOR);
  CHECK_EQ(ja_last_error()->executor, id);
  CHECK_EQ(address, 77u);
  CHECK_OK(ja_leave(host.thread));
  CHECK_STATUS(ja_free(host.arena, &id, 1), JA_ERR_STALE_EXECUTOR);
}

TEST(statuses_and_reloc_kinds_have_names) {
  std::set<std::string> names;
  for (int status = JA_ERR_ENDED; status <= JA_ERR_EXCEPTION; status++) {
    CHECK(ja_status_name(status) != nullptr);
    CHECK(ja_status_text(status) != nullptr);
    names.insert(Name(status));
  }
  CHECK_EQ(names.size(), JA_ERR_EXCEPTION - JA_ERR_ENDED + 1);
  CHECK_EQ(std::string(Name(JA_ERR_CHAIN_DEPTH)), "ERR_ARENA_CHAIN_DEPTH");
  for (int status : {JA_ERR_ENDED - 1, JA_ERR_EXCEPTION + 1, INT32_MIN, INT32_MAX}) {
    CHECK(ja_status_name(status) == nullptr);
    CHECK(ja_status_text(status) == nullptr);
  }
  const std::pair<uint32_t, const char*> kinds[] = {
      {JA_R_X86_64_64, "R_X86_64_64"},
      {JA_R_X86_64_PC32, "R_X86_64_PC32"},
      {JA_R_X86_64_PLT32, "R_X86_64_PLT32"},
      {JA_R_X86_64_GOTPCREL, "R_X86_64_GOTPCREL"},
      {JA_R_X86_64_32, "R_X86_64_32"},
      {JA_R_X86_64_32S, "R_X86_64_32S"},
      {JA_R_X86_64_PC64, "R_X86_64_PC64"},
      {JA_R_X86_64_GOTPCRELX, "R_X86_64_GOTPCRELX"},
      {JA_R_X86_64_REX_GOTPCRELX, "R_X86_64_REX_GOTPCRELX"},
  };
  int known = 0;
  for (uint32_t kind = 0; kind < 1000; kind++) known += ja_reloc_name(kind) != nullptr;
  CHECK_EQ(known, std::size(kinds));
  for (auto [kind, name] : kinds) {
    CHECK_EQ(std::string(ja_reloc_name(kind)), name);
    CHECK_EQ(ja_reloc_kind(name), kind);
  }
  CHECK_EQ(ja_reloc_kind("R_X86_64_COPY"), 0u);
  CHECK_EQ(ja_reloc_kind(nullptr), 0u);
  CHECK_EQ(ja_version(), JA_VERSION_MAJOR * 1000000 + JA_VERSION_MINOR * 1000 + JA_VERSION_PATCH);
  std::thread([] { CHECK_EQ(ja_last_error()->status, JA_OK); }).join();
}

TEST(options_are_checked) {
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(nullptr, &arena));
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(arena, &stats));
  CHECK(stats.reserved_bytes >= 64 * kMiB);
  CHECK_OK(ja_dispose(arena));
  arena = nullptr;

  auto refused = [&](auto change, ja_status expected) {
    ja_options options = ja_options_init();
    change(options);
    CHECK_STATUS(ja_create(&options, &arena), expected);
    CHECK(arena == nullptr);
  };
  refused([](ja_options& o) { o.max_bytes = uint64_t{3} << 30; }, JA_ERR_SIZE);
  refused([](ja_options& o) { o.exit_threshold = 4097; }, JA_ERR_SIZE);
  refused([](ja_options& o) { o.exit_growth = 0.5; }, JA_ERR_SIZE);
  refused([](ja_options& o) { o.exit_growth = __builtin_nan(""); }, JA_ERR_SIZE);
  refused([](ja_options& o) { o.fork = 2; }, JA_ERR_ARGUMENT);
  for (int writer : {-1, 4}) refused([&](ja_options& o) { o.writer = writer; }, JA_ERR_ARGUMENT);
  for (int layout : {-1, 2}) refused([&](ja_options& o) { o.layout = layout; }, JA_ERR_ARGUMENT);
  for (int choice : {-2, 2}) refused([&](ja_options& o) { o.full_records = choice; }, JA_ERR_ARGUMENT);
  for (int choice : {-2, 2}) refused([&](ja_options& o) { o.huge_pages = choice; }, JA_ERR_ARGUMENT);
  for (size_t size : {size_t{0}, sizeof(ja_options) - 1, size_t{5000}, SIZE_MAX})
    refused([&](ja_options& o) { o.struct_size = size; }, JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_create(nullptr, nullptr), JA_ERR_ARGUMENT);

  for (int writer = JA_WRITER_AUTO; writer <= JA_WRITER_FLIP; writer++) {
    ja_options options = ja_options_init();
    options.writer = writer;
    CHECK_OK(ja_probe(writer));
    CHECK_OK(ja_create(&options, &arena));
    CHECK_OK(ja_stats(arena, &stats));
    CHECK_EQ(stats.writer, writer == JA_WRITER_AUTO ? JA_WRITER_ALIAS : writer);
    CHECK_OK(ja_dispose(arena));
    arena = nullptr;
  }
  CHECK_STATUS(ja_probe(-1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_probe(4), JA_ERR_ARGUMENT);
}

TEST(structures_may_grow) {
  struct Newer {
    ja_options known;
    uint64_t unknown[4];
  } newer;
  std::memset(&newer, 0, sizeof newer);
  newer.known.struct_size = sizeof newer;
  ja_arena* arena = nullptr;
  CHECK_OK(ja_create(&newer.known, &arena));
  newer.unknown[3] = uint64_t{1} << 63;
  ja_arena* none = nullptr;
  CHECK_STATUS(ja_create(&newer.known, &none), JA_ERR_ARGUMENT);
  CHECK(none == nullptr);

  struct NewerStats {
    ja_stats_result known;
    uint64_t unknown[2];
  } stats;
  std::memset(&stats, 0xFF, sizeof stats);
  stats.known.struct_size = sizeof stats;
  CHECK_OK(ja_stats(arena, &stats.known));
  CHECK_EQ(stats.known.executors, 0u);
  CHECK_EQ(stats.known.struct_size, sizeof stats);
  CHECK_EQ(stats.unknown[0] | stats.unknown[1], 0u);

  // Specs in a list are as far apart as the first says.
  struct NewerSpec {
    ja_spec known;
    uint64_t unknown;
  } specs[3];
  std::memset(specs, 0, sizeof specs);
  for (NewerSpec& spec : specs) {
    spec.known.struct_size = sizeof spec;
    spec.known.code = {kAdd, sizeof kAdd, 0};
  }
  ja_executor ids[3];
  CHECK_OK(ja_install(arena, &specs[0].known, 3, ids));
  specs[2].known.struct_size = sizeof(ja_spec);
  CHECK_STATUS(ja_install(arena, &specs[0].known, 3, ids), JA_ERR_ARGUMENT);
  CHECK_EQ(ja_last_error()->index, 2);
  specs[2].known.struct_size = sizeof specs[2];
  specs[1].unknown = 1;
  CHECK_STATUS(ja_install(arena, &specs[0].known, 3, ids), JA_ERR_ARGUMENT);
  CHECK_EQ(ja_last_error()->index, 1);
  CHECK_OK(ja_dispose(arena));
}

TEST(classes_of_sizes_and_backed_pages_add_up_to_the_figures) {
  Host host;
  ja_executor traces[2] = {host.Install(Trace(2)), host.Install(Trace(2))};
  CHECK_OK(ja_link(host.arena, traces[0], 0, traces[1], 0));
  CHECK_OK(ja_link(host.arena, traces[1], 0, traces[0], 0));
  Code large;
  large.bytes.resize(5000, 0xC3);
  host.Install(large);
  std::vector<ja_size_class> classes;
  CHECK_OK(ja_size_classes(
      host.arena,
      [](void* user, const ja_size_class* size_class) {
        static_cast<std::vector<ja_size_class>*>(user)->push_back(*size_class);
      },
      &classes));
  CHECK_EQ(classes.size(), 8u);  // up to 64, 128, … 8 192 bytes
  CHECK_EQ(classes[0].up_to, 64u);
  CHECK_EQ(classes[0].count, 2u);
  CHECK_EQ(classes[0].exits, 4u);
  CHECK_EQ(classes[0].loops, 2u);
  CHECK_EQ(classes[7].up_to, 8192u);
  CHECK_EQ(classes[7].count, 1u);
  CHECK_EQ(classes[7].bytes, 5000u);

  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(host.arena, &stats));
  CHECK(stats.kept_relocs > 0 && stats.kept_reloc_bytes > 0 && stats.kept_reloc_bytes <= 8 * stats.kept_relocs);
  uint64_t backed = 0;
  CHECK_OK(ja_slabs(
      host.arena,
      [](void* user, const ja_slab* slab) {
        uint32_t here = 0;
        for (uint32_t page = 0; page < slab->pages; page++) here += slab->backed[page];
        CHECK_EQ(here, slab->backed_pages);
        *static_cast<uint64_t*>(user) += here * (slab->bytes / slab->pages);
      },
      &backed));
  CHECK_EQ(backed, stats.committed_bytes);
}

TEST(nothing_is_done_with_null_and_sizes_that_lie) {
  Host host;
  ja_arena* arena = host.arena;
  ja_executor id = host.Install(Trace(1));
  uint32_t number;
  uint64_t address;
  size_t count;
  ja_taken taken;
  ja_thread* thread;
  ja_info info = ja_info_init();
  ja_found found = ja_found_init();
  ja_stats_result stats = ja_stats_result_init();
  ja_plan_result plan = ja_plan_result_init();
  ja_spec spec = ja_spec_init();
  auto visit_slab = [](void*, const ja_slab*) {};
  auto visit_class = [](void*, const ja_size_class*) {};
  // No arena, no thread.
  CHECK_STATUS(ja_dispose(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install(nullptr, &spec, 1, &id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_allocate(nullptr, &spec, &id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_write(nullptr, id, JA_STATE, 0, "", 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_relocs(nullptr, id, nullptr, 0), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_freeze(nullptr, &id, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_free(nullptr, &id, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_invalidate(nullptr, id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_read(nullptr, id, JA_CODE, 0, &number, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_describe(nullptr, id, &info), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_entry_offset(nullptr, id, 0, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_executors(nullptr, nullptr, 0, &count), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_find(nullptr, 0, &found), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_link(nullptr, id, 0, id, 0), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_unlink(nullptr, id, 0), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_unlink_all(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_link_of(nullptr, id, 0, &id, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_chain_depth(nullptr, id, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_replace(nullptr, id, id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_exit_tag(nullptr, id, 0, &number), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_set_hot_stub(nullptr, id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_attach(nullptr, &thread), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_set_move_callback(nullptr, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_collect(nullptr, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_plan(nullptr, &plan), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_stats(nullptr, &stats), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_slabs(nullptr, visit_slab, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_size_classes(nullptr, visit_class, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_verify(nullptr, nullptr, nullptr, &count), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_detach(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_enter(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_leave(nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_entry(nullptr, id, &address), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_run(nullptr, id, 0, nullptr, &taken), JA_ERR_ARGUMENT);
  // No place for the result, no list.
  CHECK_STATUS(ja_install(arena, nullptr, 1, &id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_install(arena, &spec, 1, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_allocate(arena, nullptr, &id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_allocate(arena, &spec, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_write(arena, id, JA_STATE, 0, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_add_relocs(arena, id, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_freeze(arena, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_free(arena, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_read(arena, id, JA_CODE, 0, nullptr, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_describe(arena, id, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_entry_offset(arena, id, 0, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_executors(arena, nullptr, 1, &count), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_executors(arena, nullptr, 0, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_find(arena, 0, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_link_of(arena, id, 0, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_chain_depth(arena, id, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_exit_tag(arena, id, 0, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_attach(arena, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_plan(arena, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_stats(arena, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_slabs(arena, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_size_classes(arena, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_verify(arena, nullptr, nullptr, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_entry(host.thread, id, nullptr), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_run(host.thread, id, 0, nullptr, nullptr), JA_ERR_ARGUMENT);
  // Counts that no memory could hold, and structures that nobody has initialised.
  CHECK_STATUS(ja_install(arena, &spec, SIZE_MAX, &id), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_free(arena, &id, SIZE_MAX), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_freeze(arena, &id, SIZE_MAX / 8), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_write(arena, id, JA_STATE, 0, "", SIZE_MAX), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_read(arena, id, JA_CODE, 0, &number, SIZE_MAX), JA_ERR_ARGUMENT);
  ja_reloc reloc = {};
  CHECK_STATUS(ja_add_relocs(arena, id, &reloc, SIZE_MAX), JA_ERR_ARGUMENT);
  for (size_t size : {size_t{0}, size_t{8}, SIZE_MAX}) {
    info.struct_size = found.struct_size = stats.struct_size = plan.struct_size = spec.struct_size = size;
    ja_collect_options options = ja_collect_options_init();
    ja_collect_result result = ja_collect_result_init();
    CHECK_STATUS(ja_describe(arena, id, &info), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_find(arena, 0, &found), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_stats(arena, &stats), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_plan(arena, &plan), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_install(arena, &spec, 1, &id), JA_ERR_ARGUMENT);
    CHECK_STATUS(ja_allocate(arena, &spec, &id), JA_ERR_ARGUMENT);
    options.struct_size = size;
    CHECK_STATUS(ja_collect(arena, &options, &result), JA_ERR_ARGUMENT);
    options.struct_size = sizeof options;
    result.struct_size = size;
    CHECK_STATUS(ja_collect(arena, &options, &result), JA_ERR_ARGUMENT);
  }
  // Empty lists are nothing to do.
  CHECK_OK(ja_install(arena, nullptr, 0, nullptr));
  CHECK_OK(ja_free(arena, nullptr, 0));
  CHECK_OK(ja_freeze(arena, nullptr, 0));
  CHECK_OK(ja_add_relocs(arena, host.Allocate(), nullptr, 0));
  CHECK_OK(ja_read(arena, id, JA_CODE, 0, nullptr, 0));
  CHECK_OK(ja_write(arena, id, JA_STATE, 0, nullptr, 0));
  CHECK_EQ(host.Run(id, 0).executor, 0u);
}

TEST(stale_and_invented_ids_are_errors_everywhere) {
  Host host;
  ja_executor gone = host.Install(Trace(1));
  ja_executor live = host.Install(Trace(1));
  CHECK_OK(ja_invalidate(host.arena, gone));
  uint32_t number;
  uint64_t address;
  ja_executor target;
  ja_taken taken;
  ja_info info = ja_info_init();
  uint8_t byte = 0;
  CHECK_OK(ja_enter(host.thread));
  for (ja_executor id : {ja_executor{0}, gone, live + 1000, live + (ja_executor{1} << 32), ~ja_executor{0},
                         ja_executor{0xFFFFFFFF}, ja_executor{1} << 53}) {
    CHECK_STATUS(ja_write(host.arena, id, JA_STATE, 0, &byte, 1), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_add_relocs(host.arena, id, nullptr, 0), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_freeze(host.arena, &id, 1), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_free(host.arena, &id, 1), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_invalidate(host.arena, id), JA_ERR_STALE_EXECUTOR);
    CHECK_EQ(ja_last_error()->executor, id);
    CHECK_STATUS(ja_read(host.arena, id, JA_CODE, 0, &byte, 1), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_describe(host.arena, id, &info), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_entry_offset(host.arena, id, 0, &number), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_link(host.arena, id, 0, live, 0), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_link(host.arena, live, 0, id, 0), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_unlink(host.arena, id, 0), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_link_of(host.arena, id, 0, &target, nullptr), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_chain_depth(host.arena, id, &number), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_replace(host.arena, id, live), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_replace(host.arena, live, id), JA_ERR_STALE_EXECUTOR);
    if (id != gone) CHECK_STATUS(ja_exit_tag(host.arena, id, 0, &number), JA_ERR_STALE_EXECUTOR);
    if (id != 0) CHECK_STATUS(ja_set_hot_stub(host.arena, id), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_STALE_EXECUTOR);
    CHECK_STATUS(ja_run(host.thread, id, 0, host.context, &taken), JA_ERR_STALE_EXECUTOR);
    // As a reloc's target it is the reloc that is wrong.
    Code code = Code().Ret().Relative(x64::Another(id));
    ja_executor made;
    CHECK_STATUS(ja_install(host.arena, code.Spec(), 1, &made), JA_ERR_RELOC_TARGET);
  }
  CHECK_OK(ja_leave(host.thread));
  ja_executor twice[] = {live, live};
  CHECK_STATUS(ja_free(host.arena, twice, 2), JA_ERR_DUPLICATE_EXECUTOR);
  CHECK_EQ(ja_last_error()->index, 1);
}

TEST(executors_are_written_in_steps_and_then_frozen) {
  Host host;
  Code code;
  code.Put({0, 0, 0, 0, 0, 0, 0, 0});
  code.spec.data.size = 8;
  code.spec.state.size = 8;
  code.spec.name = "in steps";
  const uint32_t entries[] = {2, 0};
  code.spec.entries = entries;
  code.spec.entry_count = 2;
  ja_executor id = host.Allocate(code);
  ja_info info = ja_info_init();
  CHECK_OK(ja_describe(host.arena, id, &info));
  CHECK(!info.frozen && info.address == 0 && info.movable && !info.evictable && !info.trace && !info.makes_progress);
  CHECK_EQ(std::string(info.name), "in steps");
  CHECK_EQ(info.code_size, 8u);
  CHECK_EQ(info.data_size, 8u);
  CHECK_EQ(info.state_size, 8u);
  CHECK_EQ(info.first_entry, 2u);
  uint32_t offset = 0;
  CHECK_STATUS(ja_entry_offset(host.arena, id, 0, &offset), JA_ERR_NOT_FROZEN);
  CHECK_OK(ja_enter(host.thread));
  uint64_t address = 0;
  CHECK_STATUS(ja_entry(host.thread, id, &address), JA_ERR_STALE_EXECUTOR);
  CHECK_OK(ja_leave(host.thread));

  // nop; nop; mov eax, [rip + data]; ret would take 9 bytes: mov eax, [rip + data] at 1, ret at 7.
  const uint8_t bytes[] = {0x90, 0x8B, 0x05, 0, 0, 0, 0, 0xC3};
  CHECK_OK(ja_write(host.arena, id, JA_CODE, 0, bytes, sizeof bytes));
  const uint32_t value = 42;
  CHECK_OK(ja_write(host.arena, id, JA_DATA, 4, &value, sizeof value));
  CHECK_STATUS(ja_write(host.arena, id, JA_DATA, 5, &value, sizeof value), JA_ERR_BOUNDS);
  CHECK_EQ(ja_last_error()->section, JA_DATA);
  CHECK_EQ(ja_last_error()->offset, 5);
  CHECK_STATUS(ja_write(host.arena, id, 3, 0, &value, 1), JA_ERR_ARGUMENT);
  CHECK_STATUS(ja_write(host.arena, id, -1, 0, &value, 1), JA_ERR_ARGUMENT);
  ja_reloc reloc = {JA_CODE, 3, JA_R_X86_64_PC32, JA_TARGET_OWN_DATA, 4, -4, JA_CODE, 0};
  CHECK_OK(ja_add_relocs(host.arena, id, &reloc, 1));
  CHECK_STATUS(ja_add_relocs(host.arena, id, &reloc, 1), JA_ERR_RELOC_OVERLAP);
  CHECK_OK(ja_freeze(host.arena, &id, 1));
  CHECK_STATUS(ja_freeze(host.arena, &id, 1), JA_ERR_NOT_WRITABLE);
  CHECK_STATUS(ja_add_relocs(host.arena, id, &reloc, 1), JA_ERR_NOT_WRITABLE);
  CHECK_STATUS(ja_write(host.arena, id, JA_CODE, 0, bytes, 1), JA_ERR_NOT_WRITABLE);
  CHECK_OK(ja_write(host.arena, id, JA_STATE, 1, bytes, 2));
  uint8_t read[8] = {};
  CHECK_OK(ja_read(host.arena, id, JA_STATE, 0, read, 4));
  CHECK_EQ(read[2], 0x8B);
  CHECK_STATUS(ja_read(host.arena, id, JA_STATE, 7, read, 2), JA_ERR_BOUNDS);
  CHECK_STATUS(ja_read(host.arena, id, 7, 0, read, 1), JA_ERR_ARGUMENT);
  CHECK_OK(ja_entry_offset(host.arena, id, 1, &offset));
  CHECK_EQ(offset, 0u);
  CHECK_STATUS(ja_entry_offset(host.arena, id, 2, &offset), JA_ERR_BOUNDS);
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_entry(host.thread, id, &address));
  CHECK_EQ(reinterpret_cast<int (*)()>(address + offset)(), 42);
  CHECK_OK(ja_leave(host.thread));
  ja_executor two[] = {host.Allocate(), 0};
  two[1] = two[0];
  CHECK_STATUS(ja_freeze(host.arena, two, 2), JA_ERR_DUPLICATE_EXECUTOR);
  CHECK_OK(ja_free(host.arena, two, 1));
  Code long_name;
  long_name.Ret();
  std::string letters(200, 'x');
  long_name.spec.name = letters.c_str();
  id = host.Install(long_name);
  CHECK_OK(ja_describe(host.arena, id, &info));
  CHECK_EQ(std::string(info.name), letters.substr(0, sizeof info.name - 1));
}

TEST(specs_are_checked) {
  Host host;
  ja_executor id = 0;
  auto refused = [&](auto change, ja_status expected, ja_status of_allocate) {
    Code code = Trace(1);
    code.Spec();
    change(code);
    CHECK_STATUS(ja_install(host.arena, &code.spec, 1, &id), expected);
    ja_executor allocated = 0;
    CHECK_STATUS(ja_allocate(host.arena, &code.spec, &allocated), of_allocate);
    if (of_allocate == JA_OK) CHECK_STATUS(ja_freeze(host.arena, &allocated, 1), expected);
    CHECK_EQ(id, 0u);
  };
  auto both = [&](auto change, ja_status expected) { refused(change, expected, expected); };
  static const uint32_t outside[] = {1000};
  both([](Code& c) { c.spec.code.size = 0; }, JA_ERR_SIZE);
  both([](Code& c) { c.spec.data.size = 64 * kMiB; }, JA_ERR_SIZE);
  both([](Code& c) { c.spec.state.size = SIZE_MAX; }, JA_ERR_SIZE);
  both([](Code& c) { c.spec.exits = 65536; }, JA_ERR_SIZE);
  both([](Code& c) { c.spec.code.align = 3; }, JA_ERR_ALIGNMENT);
  both([](Code& c) { c.spec.state.align = 8192; }, JA_ERR_ALIGNMENT);
  both([](Code& c) { c.spec.entries = outside, c.spec.entry_count = 1; }, JA_ERR_BOUNDS);
  both([](Code& c) { c.spec.entry_count = 1; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.entries = outside, c.spec.entry_count = SIZE_MAX; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.relocs = nullptr; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.reloc_count = SIZE_MAX; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.movable = 2; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.evictable = -2; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.spec.makes_progress = 7; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.relocs[0].section = 3; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.relocs[0].target_section = -1; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.relocs[1].target_kind = 10; }, JA_ERR_ARGUMENT);
  CHECK_EQ(ja_last_error()->index, 1);
  both([](Code& c) { c.relocs[1].target_kind = -1; }, JA_ERR_ARGUMENT);
  both([](Code& c) { c.relocs[1].kind = 3; }, JA_ERR_RELOC_KIND);
  both([](Code& c) { c.relocs[1].kind = 256 + JA_R_X86_64_PC32; }, JA_ERR_RELOC_KIND);
  CHECK_EQ(ja_last_error()->index, 1);
  both([](Code& c) { c.relocs[1].offset = 1000; }, JA_ERR_RELOC_BOUNDS);
  both([](Code& c) { c.relocs[1].offset = c.relocs[0].offset + 1; }, JA_ERR_RELOC_OVERLAP);
  both([](Code& c) { c.relocs[1].target = 1; }, JA_ERR_RELOC_TARGET);  // exit 1 of 1
  auto late = [&](auto change, ja_status expected) { refused(change, expected, JA_OK); };
  late(
      [](Code& c) {
        c.relocs[1].target_kind = JA_TARGET_ADDRESS;
        c.relocs[1].target = 0x123456789;
      },
      JA_ERR_RELOC_RANGE);
  CHECK_EQ(std::string(ja_last_error()->kind), "R_X86_64_PC32");
  CHECK_EQ(ja_last_error()->section, JA_CODE);
  CHECK_EQ(ja_last_error()->offset, 21 + 4);
  late(
      [](Code& c) {
        c.spec.state.size = 8;
        c.relocs[1] = {JA_STATE, 0, JA_R_X86_64_64, JA_TARGET_OWN_CODE, 0, 0, JA_CODE, 0};
      },
      JA_ERR_RELOC_SITE);
  late([](Code& c) { c.relocs[1].target_kind = JA_TARGET_BATCH_MEMBER, c.relocs[1].target = 1; }, JA_ERR_RELOC_TARGET);
  ja_executor writable = host.Allocate();
  late([&](Code& c) { c.relocs[1].target_kind = JA_TARGET_EXECUTOR, c.relocs[1].target = writable; },
       JA_ERR_RELOC_TARGET);

  // All or none, and which of them.
  ja_spec specs[] = {*Code().Ret().Spec(), ja_spec_init(), ja_spec_init()};
  const uint8_t ret = 0xC3;
  for (ja_spec& spec : specs) spec.code = {&ret, 1, 0}, spec.relocs = nullptr;
  specs[1].code.align = 5;
  ja_executor ids[3] = {1, 1, 1};
  size_t before = 0, after = 0;
  CHECK_OK(ja_executors(host.arena, nullptr, 0, &before));
  CHECK_STATUS(ja_install(host.arena, specs, 3, ids), JA_ERR_ALIGNMENT);
  CHECK_EQ(ja_last_error()->index, 1);
  specs[1].code.align = 0;
  specs[2].movable = 9;
  CHECK_STATUS(ja_install(host.arena, specs, 3, ids), JA_ERR_ARGUMENT);
  CHECK_EQ(ja_last_error()->index, 2);
  CHECK_OK(ja_executors(host.arena, nullptr, 0, &after));
  CHECK_EQ(before, after);
  CHECK_EQ(ids[0], 1u);

  // An arena that is full, or has too much retired.
  ja_status status = JA_OK;
  std::vector<ja_executor> all;
  ja_spec large = ja_spec_init();
  large.code.size = 100000;
  while ((status = ja_install(host.arena, &large, 1, &id)) == JA_OK) all.push_back(id);
  CHECK_STATUS(status, JA_ERR_FULL);
  CHECK_OK(ja_enter(host.thread));
  CHECK_OK(ja_free(host.arena, all.data(), all.size()));
  CHECK_STATUS(ja_install(host.arena, &large, 1, &id), JA_ERR_RETIRED_LIMIT);
  ja_executor staged = host.Allocate();
  CHECK_STATUS(ja_freeze(host.arena, &staged, 1), JA_ERR_RETIRED_LIMIT);
  CHECK_OK(ja_leave(host.thread));
  CHECK_OK(ja_install(host.arena, &large, 1, &id));
}

TEST(every_kind_of_target_is_found) {
  Host host;
  // Two that refer to each other: mov rax, address; ret, and a call through a veneer to the C library.
  const x64::To data_of_1{jit_arena::TargetKind::kBatchMember, 1, jit_arena::Section::kData, 4};
  Code first = Code().Load32(x64::kRax, data_of_1).Ret();
  int (*absolute)(int) = &std::abs;
  Code second = Code().Jump(x64::Outside(absolute));
  const uint32_t data[] = {1, 4711};
  second.spec.data = {data, sizeof data, 64};
  ja_spec specs[] = {*first.Spec(), *second.Spec()};
  ja_executor ids[2];
  CHECK_OK(ja_install(host.arena, specs, 2, ids));
  Code third = Code().MoveAddress(x64::kRax, x64::OwnData(4)).Put({0x8B, 0x00}).Ret();  // mov eax, [rax]
  third.spec.data = {data, sizeof data, 0};
  ja_executor own = host.Install(third);
  Code fourth = Code().Load32(x64::kRax, x64::OwnState(0));
  fourth.Put({0xFF, 0x05}).Relative(x64::OwnState(0));   // inc dword [rip + state]
  fourth.Put({0x0F, 0xB6, 0x0D}).Relative(x64::kValid);  // movzx ecx, byte [rip + valid]
  fourth.Add32(x64::kRax, x64::kRcx).Ret();
  fourth.spec.state.size = 4;
  ja_executor counter = host.Install(fourth);
  Code fifth = Code().Jump(x64::Another(own));
  ja_executor jump = host.Install(fifth);
  Code sixth = Code().Put({0xEB, 0x01, 0xCC});  // jmp over the trap
  sixth.Jump(x64::OwnCode(8)).Move32(x64::kRax, 9).Ret();
  ja_executor inside = host.Install(sixth);
  auto check_all = [&](int counted) {
    uint64_t address = 0;
    auto call = [&](ja_executor id, int argument) {
      CHECK_OK(ja_entry(host.thread, id, &address));
      return reinterpret_cast<int (*)(int)>(address)(argument);
    };
    CHECK_OK(ja_enter(host.thread));
    CHECK_EQ(call(ids[0], 0), 4711);
    CHECK_EQ(call(ids[1], -5), 5);
    CHECK_EQ(call(own, 0), 4711);
    CHECK_EQ(call(counter, 0), counted + 1);
    CHECK_EQ(call(jump, 0), 4711);
    CHECK_EQ(call(inside, 0), 9);
    CHECK_OK(ja_leave(host.thread));
  };
  check_all(0);
  uint64_t before = host.Address(own);
  host.MakeSparse();
  CHECK(host.Collect().moved >= 6);
  CHECK(host.Address(own) != before);
  check_all(1);
  CHECK_STATUS(ja_free(host.arena, &own, 1), JA_ERR_REFERENCED);
  CHECK_STATUS(ja_invalidate(host.arena, own), JA_ERR_REFERENCED);
  ja_executor together[] = {own, jump};
  CHECK_OK(ja_free(host.arena, together, 2));
}

TEST(traces_are_run_linked_replaced_and_ended) {
  ja_options options = ja_options_init();
  options.exit_threshold = 2;
  Host host(options);
  Code tagged = Trace(2, 1);
  const uint32_t tags[] = {100, 200};
  tagged.spec.exit_tags = tags;
  ja_executor a = host.Install(tagged);
  ja_executor b = host.Install(Trace(1, 0, 10));
  ja_executor c = host.Install(Trace(1, 0, 100));
  ja_executor plain = host.Install(Code().Ret());
  ja_executor writable = host.Allocate(Trace(1));

  ja_taken taken = host.Run(a, 0);
  CHECK_EQ(taken.executor, 0u);
  taken = host.Run(a, 1);
  CHECK_EQ(taken.executor, a);
  CHECK_EQ(taken.exit, 1u);
  CHECK_EQ(taken.hot, 0u);
  CHECK_EQ(host.Run(a, 1).hot, 1u);
  uint32_t tag = 0;
  CHECK_OK(ja_exit_tag(host.arena, a, 1, &tag));
  CHECK_EQ(tag, 200u);
  CHECK_OK(ja_exit_tag(host.arena, b, 0, &tag));
  CHECK_EQ(tag, 0u);

  ja_executor target = 77;
  uint32_t entry = 77;
  CHECK_OK(ja_link_of(host.arena, a, 1, &target, nullptr));
  CHECK_EQ(target, 0u);
  CHECK_OK(ja_link(host.arena, a, 1, b, 0));
  CHECK_OK(ja_link_of(host.arena, a, 1, &target, &entry));
  CHECK_EQ(target, b);
  CHECK_EQ(entry, 0u);
  CHECK_EQ(host.Run(a, 1).executor, 0u);
  CHECK_EQ(host.context[0], 11u);
  CHECK_OK(ja_replace(host.arena, b, c));
  host.Run(a, 1);
  CHECK_EQ(host.context[0], 101u);
  uint32_t depth = 77;
  CHECK_OK(ja_chain_depth(host.arena, c, &depth));
  CHECK_EQ(depth, 1u);
  CHECK_OK(ja_link(host.arena, c, 0, a, 0));
  CHECK_OK(ja_chain_depth(host.arena, c, &depth));
  CHECK_EQ(depth, JA_ENDLESS);
  CHECK_OK(ja_unlink(host.arena, c, 0));
  CHECK_OK(ja_unlink_all(host.arena));
  CHECK_EQ(host.Run(a, 1).executor, a);

  CHECK_STATUS(ja_link(host.arena, a, 2, b, 0), JA_ERR_EXIT);
  CHECK_STATUS(ja_unlink(host.arena, a, 2), JA_ERR_EXIT);
  CHECK_STATUS(ja_link_of(host.arena, a, 2, &target, &entry), JA_ERR_EXIT);
  CHECK_STATUS(ja_exit_tag(host.arena, a, 2, &tag), JA_ERR_EXIT);
  CHECK_STATUS(ja_link(host.arena, a, 0, b, 1), JA_ERR_BOUNDS);
  CHECK_STATUS(ja_link(host.arena, a, 0, plain, 0), JA_ERR_TRACE_ABI);
  CHECK_STATUS(ja_replace(host.arena, a, plain), JA_ERR_TRACE_ABI);
  {
    ja_executor id = writable;
    CHECK_STATUS(ja_link(host.arena, id, 0, a, 0), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_link(host.arena, a, 0, id, 0), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_unlink(host.arena, id, 0), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_link_of(host.arena, id, 0, &target, &entry), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_chain_depth(host.arena, id, &depth), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_replace(host.arena, id, a), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_exit_tag(host.arena, id, 0, &tag), JA_ERR_NOT_FROZEN);
    CHECK_STATUS(ja_set_hot_stub(host.arena, id), JA_ERR_NOT_FROZEN);
  }
  CHECK_STATUS(ja_run(host.thread, plain, 0, host.context, &taken), JA_ERR_TRACE_ABI);
  CHECK_STATUS(ja_run(host.thread, writable, 0, host.context, &taken), JA_ERR_STALE_EXECUTOR);

  // Another entry, for links and for runs: the nop in front is left out.
  Code two_entries = Trace(1, 0, 7);
  const uint32_t entries[] = {7, 0};
  two_entries.spec.entries = entries;
  two_entries.spec.entry_count = 2;
  ja_executor d = host.Install(two_entries);
  uint32_t offset = 0;
  CHECK_OK(ja_entry_offset(host.arena, d, 0, &offset));
  CHECK_EQ(offset, 7u);
  host.context[0] = host.context[1] = 0;
  CHECK_OK(ja_run(host.thread, d, offset, host.context, &taken));
  CHECK_EQ(host.context[0], 7u);
  CHECK_OK(ja_link(host.arena, a, 1, d, 1));
  CHECK_STATUS(ja_replace(host.arena, d, b), JA_ERR_BOUNDS);
  CHECK_OK(ja_invalidate(host.arena, d));
  CHECK_EQ(host.Run(a, 1).executor, a);
}

TEST(chains_without_progress_are_refused_beyond_the_limit) {
  ja_options options = ja_options_init();
  options.max_chain_depth = 1;
  Host host(options);
  ja_executor a = host.Install(Trace(1));
  ja_executor b = host.Install(Trace(1));
  Code progress = Trace(1);
  progress.spec.makes_progress = JA_YES;
  ja_executor c = host.Install(progress);
  CHECK_OK(ja_link(host.arena, a, 0, b, 0));
  CHECK_STATUS(ja_link(host.arena, b, 0, a, 0), JA_ERR_CHAIN_DEPTH);
  CHECK_OK(ja_link(host.arena, b, 0, c, 0));
  CHECK_STATUS(ja_replace(host.arena, c, a), JA_ERR_CHAIN_DEPTH);
}

TEST(a_hot_stub_gets_hot_exits) {
  ja_options options = ja_options_init();
  options.exit_threshold = 1;
  Host host(options);
  Code stub = Code().Put({0x4C, 0x89, 0x5F, 0x10}).Done();  // mov [rdi + 16], r11
  ja_executor movable = host.Install(stub);
  CHECK_STATUS(ja_set_hot_stub(host.arena, movable), JA_ERR_MOVABLE);
  stub.spec.movable = JA_NO;
  ja_executor fixed = host.Install(stub);
  Code plain = Code().Ret();
  plain.spec.movable = JA_NO;
  CHECK_STATUS(ja_set_hot_stub(host.arena, host.Install(plain)), JA_ERR_TRACE_ABI);
  CHECK_OK(ja_set_hot_stub(host.arena, fixed));
  CHECK_STATUS(ja_free(host.arena, &fixed, 1), JA_ERR_IMMORTAL);
  CHECK_STATUS(ja_invalidate(host.arena, fixed), JA_ERR_IMMORTAL);
  ja_executor id = host.Install(Trace(1));
  CHECK_EQ(host.Run(id, 1).executor, 0u);
  ja_found found = ja_found_init();
  CHECK(host.context[2] != 0);  // the record, which lies behind the state
  CHECK_OK(ja_set_hot_stub(host.arena, 0));
  CHECK_OK(ja_find(host.arena, 1, &found));
  CHECK_EQ(found.executor, 0u);
}

TEST(the_arena_says_what_is_in_it) {
  ja_options options = ja_options_init();
  options.layout = JA_LAYOUT_APART;
  options.full_records = JA_YES;
  Host host(options);
  Code code = Trace(3);
  code.spec.data.size = 100;
  code.spec.state.size = 50;
  ja_executor id = host.Install(code);
  code.spec.movable = JA_NO;
  ja_executor fixed = host.Install(code);
  ja_info info = ja_info_init();
  CHECK_OK(ja_describe(host.arena, fixed, &info));
  CHECK(info.frozen && !info.movable && info.evictable && info.trace && info.exits == 3 && info.data_size == 100);
  ja_executor ids[2] = {0, 0};
  size_t count = 0;
  CHECK_OK(ja_executors(host.arena, ids, 1, &count));
  CHECK_EQ(count, 2u);
  CHECK_EQ(ids[0], id);
  CHECK_EQ(ids[1], 0u);
  CHECK_OK(ja_executors(host.arena, ids, 2, &count));
  CHECK_EQ(ids[1], fixed);
  ja_stats_result stats = ja_stats_result_init();
  CHECK_OK(ja_stats(host.arena, &stats));
  CHECK_EQ(stats.executors, 2u);
  CHECK_EQ(stats.live_bytes, 2 * (code.bytes.size() + 100 + 50 + 3 * 16));
  CHECK(stats.slabs >= 5 && stats.committed_bytes > 0 && stats.span_bytes > stats.live_bytes);
  CHECK(stats.metadata_bytes > 0 && stats.page_per_executor_bytes == 8192 && stats.kept_relocs > 0);
  std::vector<ja_slab> slabs;
  CHECK_OK(ja_slabs(
      host.arena,
      [](void* user, const ja_slab* slab) {
        uint64_t live = 0;
        for (uint32_t page = 0; page < slab->pages; page++) live += slab->live_bytes_per_page[page];
        CHECK_EQ(live, slab->live_bytes);
        CHECK(slab->backed_pages <= slab->pages);
        static_cast<std::vector<ja_slab>*>(user)->push_back(*slab);
      },
      &slabs));
  CHECK_EQ(slabs.size(), stats.slabs);
  std::set<ja_zone> zones;
  uint64_t live = 0;
  for (const ja_slab& slab : slabs) {
    zones.insert(slab.zone);
    live += slab.live_bytes;
  }
  CHECK_EQ(zones.size(), 6u);
  CHECK_EQ(live, stats.span_bytes);
  uint64_t address = host.Address(id);
  ja_found found = ja_found_init();
  CHECK_OK(ja_find(host.arena, address + code.bytes.size() - 1, &found));
  CHECK_EQ(found.executor, id);
  CHECK_EQ(found.offset, code.bytes.size() - 1);
  CHECK_OK(ja_find(host.arena, reinterpret_cast<uint64_t>(&found), &found));
  CHECK_EQ(found.executor, 0u);
}
