// Collecting, and what an arena says of itself.
#include <algorithm>

#include "base/bits.h"
#include "capi/handle.h"

using namespace jit_arena;
using namespace jit_arena::capi;

static_assert(static_cast<int>(Zone::kCode) == JA_ZONE_CODE && static_cast<int>(Zone::kData) == JA_ZONE_DATA);
static_assert(static_cast<int>(Zone::kFixedCode) == JA_ZONE_FIXED_CODE);
static_assert(static_cast<int>(Zone::kFixedData) == JA_ZONE_FIXED_DATA);
static_assert(static_cast<int>(Zone::kState) == JA_ZONE_STATE);
static_assert(static_cast<int>(Zone::kFixedState) == JA_ZONE_FIXED_STATE && kZones == JA_ZONE_FIXED_STATE + 1);

ja_status ja_collect(ja_arena* arena, const ja_collect_options* given, ja_collect_result* result) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  ja_collect_options options = ja_collect_options_init();
  if (given != nullptr)
    if (ja_status failed = TakeStruct(given, "ja_collect_options", &options)) return failed;
  if (result != nullptr)
    if (ja_status failed = CheckStruct(result, "ja_collect_result")) return failed;
  if (ja_status failed = CheckChoice(options.compact, "compact")) return failed;
  if (ja_status failed = CheckChoice(options.follow_links, "follow_links")) return failed;
  if (ja_status failed = CheckChoice(options.evict_cold, "evict_cold")) return failed;
  CollectOptions of_arena;
  of_arena.compact = options.compact != JA_NO;
  of_arena.follow_links = options.follow_links == JA_YES;
  of_arena.evict_cold = options.evict_cold == JA_YES;
  of_arena.max_pause_nanos = options.max_pause_nanos;
  CollectResult collected = call->Collect(of_arena, call.self());
  if (result != nullptr) {
    ja_collect_result value = ja_collect_result_init();
    value.moved = collected.moved;
    value.moved_bytes = collected.moved_bytes;
    value.relocs_rewritten = collected.relocs_rewritten;
    value.evicted = collected.evicted.size();
    value.pages_freed = collected.pages_freed;
    value.retired_bytes = collected.retired_bytes;
    value.pause_nanos = collected.pause_nanos;
    value.done = collected.done;
    GiveStruct(value, result);
  }
  // Last, since the callback may do anything, also dispose of the arena.
  if (options.evicted != nullptr)
    for (ExecutorId id : collected.evicted) options.evicted(options.user, id);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_plan(ja_arena* arena, ja_plan_result* result) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckStruct(result, "ja_plan_result")) return failed;
  CompactionPlan plan = call->PlanCompaction();
  ja_plan_result value = ja_plan_result_init();
  value.slabs_freed = plan.slabs_freed;
  value.pages_freed = plan.pages_freed;
  value.pages_needed = plan.pages_needed;
  value.moved = plan.moved;
  value.moved_bytes = plan.moved_bytes;
  value.relocs_rewritten = plan.relocs_rewritten;
  value.profitable = plan.profitable;
  GiveStruct(value, result);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_stats(ja_arena* arena, ja_stats_result* result) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckStruct(result, "ja_stats_result")) return failed;
  ArenaStats stats = call->Stats();
  ja_stats_result value = ja_stats_result_init();
  value.executors = stats.executors;
  value.live_bytes = stats.live_bytes;
  value.span_bytes = stats.span_bytes;
  value.committed_bytes = stats.committed_bytes;
  value.reserved_bytes = stats.reserved_bytes;
  value.retired_bytes = stats.retired_bytes;
  value.metadata_bytes = stats.metadata_bytes;
  value.slabs = stats.slabs;
  value.page_per_executor_bytes = stats.page_per_executor_bytes;
  value.moves = stats.moves;
  value.moved_bytes = stats.moved_bytes;
  value.relocs_rewritten = stats.relocs_rewritten;
  value.evicted = stats.evicted;
  value.pauses = stats.pauses.count;
  value.pause_nanos = stats.pauses.total_nanos;
  value.max_pause_nanos = stats.pauses.max_nanos;
  value.kept_relocs = stats.kept_relocs;
  value.far_slots = stats.far_slots;
  value.writer = static_cast<ja_writer>(call->writer()) + JA_WRITER_ALIAS;
  value.huge_page_bytes = stats.huge_page_bytes;
  value.pins = stats.pins;
  value.lost_bytes = stats.lost_bytes;
  value.kept_reloc_bytes = stats.kept_reloc_bytes;
  GiveStruct(value, result);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_size_classes(ja_arena* arena, void (*visit)(void* user, const ja_size_class* size_class), void* user) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (visit == nullptr) return FailArgument("visit is null");
  const ArenaStats stats = call->Stats();
  for (const SizeClass& of : stats.size_classes) {
    const ja_size_class given = {of.up_to, of.count, of.bytes, of.exits, of.loops, of.died_cold, of.died_cold_loops};
    visit(user, &given);
  }
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_describe(ja_arena* arena, ja_executor id, ja_info* result) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckStruct(result, "ja_info")) return failed;
  Result<ExecutorInfo> described = call->Describe(id);
  if (!described.ok()) return Finish(described.status());
  const ExecutorInfo& info = described.value();
  ja_info value = ja_info_init();
  value.address = info.address;
  value.code_size = info.sizes[JA_CODE];
  value.data_size = info.sizes[JA_DATA];
  value.state_size = info.sizes[JA_STATE];
  value.exits = info.exits;
  value.first_entry = info.first_entry;
  value.frozen = info.state == ExecutorState::kFrozen;
  value.movable = info.movable;
  value.evictable = info.evictable;
  value.makes_progress = info.makes_progress;
  value.trace = info.trace;
  std::memcpy(value.name, info.name.data(), std::min(info.name.size(), sizeof value.name - 1));
  GiveStruct(value, result);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_executors(ja_arena* arena, ja_executor* ids, size_t capacity, size_t* count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ids == nullptr && capacity != 0) return FailArgument("ids is null and its capacity is not 0");
  if (count == nullptr) return FailArgument("the place for the count is null");
  std::vector<ExecutorId> all = call->Executors();
  std::copy_n(all.begin(), std::min(all.size(), capacity), ids);
  *count = all.size();
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

static void GiveFound(const std::optional<FoundAddress>& found, ja_found* result) {
  ja_found value = ja_found_init();
  if (found) {
    value.executor = found->executor;
    value.section = static_cast<ja_section>(found->section);
    value.offset = found->offset;
    value.retired = found->retired;
  }
  GiveStruct(value, result);
}

ja_status ja_find(ja_arena* arena, uint64_t address, ja_found* result) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckStruct(result, "ja_found")) return failed;
  GiveFound(call->Find(address), result);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

// Nothing here may touch what belongs to the thread: where such memory is made at its first use, that allocates.
ja_status ja_find_signal_safe(ja_arena* arena, uint64_t address, ja_found* result) {
  if (result == nullptr || !FitsStruct(*result)) return JA_ERR_ARGUMENT;
  Glance glance(arena);
  if (glance.refused()) return glance.refused();
  std::optional<FoundAddress> found;
  if (!glance->FindSignalSafe(address, &found)) return JA_ERR_BUSY;
  GiveFound(found, result);
  return JA_OK;
}

ja_status ja_slabs(ja_arena* arena, void (*visit)(void* user, const ja_slab* slab), void* user) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (visit == nullptr) return FailArgument("visit is null");
  for (const SlabMap& map : call->Slabs()) {
    ja_slab slab{};
    slab.zone = static_cast<ja_zone>(map.zone);
    slab.pages = static_cast<uint32_t>(map.live_bytes_per_page.size());
    slab.backed_pages = static_cast<uint32_t>(std::count(map.backed.begin(), map.backed.end(), true));
    slab.address = map.address;
    slab.bytes = map.bytes;
    slab.live_bytes = map.live_bytes;
    slab.retired_bytes = map.retired_bytes;
    slab.live_bytes_per_page = map.live_bytes_per_page.data();
    const std::vector<uint8_t> backed(map.backed.begin(), map.backed.end());
    slab.backed = backed.data();
    visit(user, &slab);
  }
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_verify(ja_arena* arena, void (*visit)(void* user, const ja_problem* problem), void* user,
                    size_t* problems) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (problems == nullptr) return FailArgument("the place for the number of problems is null");
  std::vector<Problem> found = call->Verify();
  if (std::string broken = call->FindBrokenRule(); !broken.empty())
    found.push_back({0, Section::kCode, -1, 0, 0, std::move(broken)});
  *problems = found.size();
  if (visit == nullptr) return JA_OK;
  for (const Problem& problem : found) {
    ja_problem given = {problem.executor, static_cast<ja_section>(problem.section),
                        problem.offset,   problem.expected,
                        problem.found,    problem.what.c_str()};
    visit(user, &given);
  }
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}
