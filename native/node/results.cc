#include "node/results.h"

namespace jit_arena::node {
namespace {

double Micros(uint64_t nanos) { return static_cast<double>(nanos) / 1000; }

}  // namespace

Napi::Object ToJs(Napi::Env env, const Error& error) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("code", ErrorCodeName(error.code));
  object.Set("message", error.message);
  if (error.executor) object.Set("executor", ToNumber(env, *error.executor));
  if (error.section) object.Set("section", SectionName(*error.section));
  if (error.offset) object.Set("offset", Napi::Number::New(env, static_cast<double>(*error.offset)));
  if (!error.kind.empty()) object.Set("kind", error.kind);
  if (error.index) object.Set("index", ToNumber(env, *error.index));
  return object;
}

Napi::Object ToJs(Napi::Env env, const ExecutorInfo& info) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("frozen", info.state == ExecutorState::kFrozen);
  object.Set("codeBytes", ToNumber(env, info.sizes[0]));
  object.Set("dataBytes", ToNumber(env, info.sizes[1]));
  object.Set("stateBytes", ToNumber(env, info.sizes[2]));
  object.Set("movable", info.movable);
  object.Set("evictable", info.evictable);
  object.Set("makesProgress", info.makes_progress);
  object.Set("exits", ToNumber(env, info.exits));
  object.Set("trace", info.trace);
  object.Set("firstEntry", ToNumber(env, info.first_entry));
  object.Set("name", info.name);
  object.Set("address", Napi::BigInt::New(env, info.address));
  return object;
}

Napi::Object ToJs(Napi::Env env, const FoundAddress& found) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("executor", ToNumber(env, found.executor));
  object.Set("section", SectionName(found.section));
  object.Set("offset", ToNumber(env, found.offset));
  object.Set("retired", found.retired);
  return object;
}

Napi::Object ToJs(Napi::Env env, const CompactionPlan& plan) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("profitable", plan.profitable);
  object.Set("slabsFreed", ToNumber(env, plan.slabs_freed));
  object.Set("pagesFreed", ToNumber(env, plan.pages_freed));
  object.Set("pagesNeeded", ToNumber(env, plan.pages_needed));
  object.Set("moved", ToNumber(env, plan.moved));
  object.Set("movedBytes", ToNumber(env, plan.moved_bytes));
  object.Set("relocsRewritten", ToNumber(env, plan.relocs_rewritten));
  return object;
}

Napi::Object ToJs(Napi::Env env, const CollectResult& result) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("done", result.done);
  object.Set("moved", ToNumber(env, result.moved));
  object.Set("movedBytes", ToNumber(env, result.moved_bytes));
  object.Set("relocsRewritten", ToNumber(env, result.relocs_rewritten));
  object.Set("pagesFreed", ToNumber(env, result.pages_freed));
  object.Set("retiredBytes", ToNumber(env, result.retired_bytes));
  object.Set("pauseMicros", Napi::Number::New(env, Micros(result.pause_nanos)));
  Napi::Array evicted = Napi::Array::New(env, result.evicted.size());
  for (uint32_t i = 0; i < result.evicted.size(); i++) evicted.Set(i, ToNumber(env, result.evicted[i]));
  object.Set("evicted", ToNumber(env, result.evicted.size()));
  object.Set("evictedIds", evicted);
  return object;
}

Napi::Object ToJs(Napi::Env env, const ArenaStats& stats) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("executors", ToNumber(env, stats.executors));
  object.Set("liveBytes", ToNumber(env, stats.live_bytes));
  object.Set("spanBytes", ToNumber(env, stats.span_bytes));
  object.Set("committedBytes", ToNumber(env, stats.committed_bytes));
  object.Set("reservedBytes", ToNumber(env, stats.reserved_bytes));
  object.Set("retiredBytes", ToNumber(env, stats.retired_bytes));
  object.Set("pins", ToNumber(env, stats.pins));
  object.Set("metadataBytes", ToNumber(env, stats.metadata_bytes));
  object.Set("slabs", ToNumber(env, stats.slabs));
  object.Set("lostBytes", ToNumber(env, stats.lost_bytes));
  object.Set("hugePageBytes", ToNumber(env, stats.huge_page_bytes));
  object.Set("pagePerExecutorBytes", ToNumber(env, stats.page_per_executor_bytes));
  object.Set("moves", ToNumber(env, stats.moves));
  object.Set("movedBytes", ToNumber(env, stats.moved_bytes));
  object.Set("relocsRewritten", ToNumber(env, stats.relocs_rewritten));
  object.Set("keptRelocs", ToNumber(env, stats.kept_relocs));
  object.Set("keptRelocBytes", ToNumber(env, stats.kept_reloc_bytes));
  object.Set("farSlots", ToNumber(env, stats.far_slots));
  object.Set("evicted", ToNumber(env, stats.evicted));
  Napi::Array classes = Napi::Array::New(env, stats.size_classes.size());
  for (uint32_t i = 0; i < stats.size_classes.size(); i++) {
    const SizeClass& size_class = stats.size_classes[i];
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("upTo", ToNumber(env, size_class.up_to));
    entry.Set("count", ToNumber(env, size_class.count));
    entry.Set("bytes", ToNumber(env, size_class.bytes));
    entry.Set("exits", ToNumber(env, size_class.exits));
    entry.Set("loops", ToNumber(env, size_class.loops));
    entry.Set("diedCold", ToNumber(env, size_class.died_cold));
    entry.Set("diedColdLoops", ToNumber(env, size_class.died_cold_loops));
    classes.Set(i, entry);
  }
  object.Set("sizeClasses", classes);
  Napi::Object pauses = Napi::Object::New(env);
  pauses.Set("count", ToNumber(env, stats.pauses.count));
  pauses.Set("totalMicros", Napi::Number::New(env, Micros(stats.pauses.total_nanos)));
  pauses.Set("maxMicros", Napi::Number::New(env, Micros(stats.pauses.max_nanos)));
  object.Set("pauses", pauses);
  return object;
}

Napi::Array ToJs(Napi::Env env, const std::vector<SlabMap>& slabs) {
  Napi::Array array = Napi::Array::New(env, slabs.size());
  for (uint32_t i = 0; i < slabs.size(); i++) {
    const SlabMap& slab = slabs[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("kind", ZoneName(slab.zone));
    object.Set("address", Napi::BigInt::New(env, slab.address));
    object.Set("bytes", ToNumber(env, slab.bytes));
    object.Set("liveBytes", ToNumber(env, slab.live_bytes));
    object.Set("retiredBytes", ToNumber(env, slab.retired_bytes));
    Napi::Array live = Napi::Array::New(env, slab.live_bytes_per_page.size());
    Napi::Array backed = Napi::Array::New(env, slab.backed.size());
    uint32_t backed_pages = 0;
    for (uint32_t page = 0; page < slab.backed.size(); page++) {
      live.Set(page, ToNumber(env, slab.live_bytes_per_page[page]));
      backed.Set(page, Napi::Boolean::New(env, slab.backed[page]));
      backed_pages += slab.backed[page];
    }
    object.Set("backedPages", ToNumber(env, backed_pages));
    object.Set("liveBytesPerPage", live);
    object.Set("backed", backed);
    array.Set(i, object);
  }
  return array;
}

Napi::Object ToJs(Napi::Env env, const std::vector<Problem>& problems, const std::string& broken) {
  Napi::Array array = Napi::Array::New(env, problems.size());
  for (uint32_t i = 0; i < problems.size(); i++) {
    const Problem& problem = problems[i];
    Napi::Object object = Napi::Object::New(env);
    object.Set("executor", ToNumber(env, problem.executor));
    object.Set("section", SectionName(problem.section));
    if (problem.offset >= 0) object.Set("offset", Napi::Number::New(env, static_cast<double>(problem.offset)));
    object.Set("expected", Napi::BigInt::New(env, problem.expected));
    object.Set("found", Napi::BigInt::New(env, problem.found));
    object.Set("what", problem.what);
    array.Set(i, object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("ok", problems.empty() && broken.empty());
  object.Set("problems", array);
  if (!broken.empty()) object.Set("broken", broken);
  return object;
}

}  // namespace jit_arena::node
