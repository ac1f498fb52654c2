#include "torture/host.h"

#include <cstdio>
#include <cstdlib>

#include "capi/handle.h"

namespace torture {
namespace {

// For what can only fail when the arena is broken.
void Must(ja_status status) {
  if (status == JA_OK) return;
  std::printf("FAILED: %s: %s\n", ja_status_name(status), ja_last_error()->message);
  std::fflush(stdout);
  std::_Exit(1);
}

// Specs with what they point at.
class Specs {
 public:
  explicit Specs(const std::vector<Program>& programs) : relocs_(programs.size()) {
    for (size_t i = 0; i < programs.size(); i++) {
      const Program& program = programs[i];
      for (const jit_arena::RelocSpec& reloc : program.relocs)
        relocs_[i].push_back({static_cast<ja_section>(reloc.section), reloc.offset, reloc.kind,
                              static_cast<ja_target>(reloc.target_kind), reloc.target, reloc.addend,
                              static_cast<ja_section>(reloc.target_section), reloc.target_offset});
      ja_spec spec = ja_spec_init();
      ja_content* sections[] = {&spec.code, &spec.data, &spec.state};
      for (int section = 0; section < 3; section++)
        *sections[section] = {program.sections[section].data(), program.sections[section].size(),
                              program.aligns[section]};
      spec.relocs = relocs_[i].data();
      spec.reloc_count = relocs_[i].size();
      spec.exit_tags = program.exit_tags.empty() ? nullptr : program.exit_tags.data();
      spec.entries = program.entries.empty() ? nullptr : program.entries.data();
      spec.entry_count = program.entries.size();
      spec.exits = program.exits;
      specs_.push_back(spec);
    }
  }
  const std::vector<ja_spec>& list() const { return specs_; }

 private:
  std::vector<std::vector<ja_reloc>> relocs_;
  std::vector<ja_spec> specs_;
};

static_assert(static_cast<int>(jit_arena::TargetKind::kWarm) == JA_TARGET_WARM);
static_assert(static_cast<int>(jit_arena::TargetKind::kBatchMember) == JA_TARGET_BATCH_MEMBER);
static_assert(static_cast<int>(jit_arena::Section::kState) == JA_STATE);

constexpr uint32_t kExitThreshold = 64;  // hot soon

}  // namespace

Host::Host(const HostOptions& options) {
  if (options.without_barrier) {
    jit_arena::ArenaOptions of_arena;
    of_arena.max_bytes = options.max_bytes;
    of_arena.without_barrier = true;
    of_arena.exit_threshold = kExitThreshold;
    arena_ = jit_arena::capi::NameArena(std::move(jit_arena::Arena::Create(of_arena).value()));
    return;
  }
  ja_options made = ja_options_init();
  made.max_bytes = options.max_bytes;
  made.max_retired_bytes = options.max_retired_bytes;
  made.writer = options.writer;
  made.layout = options.apart ? JA_LAYOUT_APART : JA_LAYOUT_TOGETHER;
  made.exit_threshold = kExitThreshold;
  Must(ja_create(&made, &arena_));
}

Host::~Host() { Must(ja_dispose(arena_)); }

ja_thread* Host::Attach() {
  ja_thread* thread;
  Must(ja_attach(arena_, &thread));
  return thread;
}

void Host::Detach(ja_thread* thread) { Must(ja_detach(thread)); }
void Host::Enter(ja_thread* thread) { Must(ja_enter(thread)); }
void Host::Leave(ja_thread* thread) { Must(ja_leave(thread)); }

bool Host::IsStale(ja_thread* thread, ja_executor id) {
  uint64_t address;
  return ja_entry(thread, id, &address) == JA_ERR_STALE_EXECUTOR;
}

bool Host::Run(ja_thread* thread, ja_executor id, uint32_t entry, Context* context, ja_taken* taken) {
  uint32_t offset = 0;
  ja_status status = entry == 0 ? JA_OK : ja_entry_offset(arena_, id, entry, &offset);
  if (status == JA_OK) status = ja_run(thread, id, offset, context, taken);
  if (status != JA_ERR_STALE_EXECUTOR) Must(status);
  return status == JA_OK;
}

bool Host::Call(ja_thread* thread, ja_executor id, Context* context, uint64_t* result) {
  Enter(thread);
  uint64_t address;
  ja_status status = ja_entry(thread, id, &address);
  if (status == JA_OK)
    *result = reinterpret_cast<uint64_t (*)(Context*)>(address)(context);
  else if (status != JA_ERR_STALE_EXECUTOR)
    Must(status);
  Leave(thread);
  return status == JA_OK;
}

ja_status Host::Install(const std::vector<Program>& programs, ja_executor* ids) {
  Specs specs(programs);
  return ja_install(arena_, specs.list().data(), programs.size(), ids);
}

ja_status Host::AllocateAndFreeze(const std::vector<Program>& programs, ja_executor* ids) {
  Specs specs(programs);
  size_t count = 0;
  for (const ja_spec& spec : specs.list()) Must(ja_allocate(arena_, &spec, &ids[count++]));
  ja_status status = ja_freeze(arena_, ids, count);
  if (status != JA_OK) Must(ja_free(arena_, ids, count));
  return status;
}

Collected Host::Collect(const CollectRequest& request) {
  Collected collected{};
  ja_collect_options options = ja_collect_options_init();
  options.max_pause_nanos = request.max_pause_nanos;
  options.evict_cold = request.evict_cold ? JA_YES : JA_NO;
  options.follow_links = request.follow_links ? JA_YES : JA_NO;
  options.user = &collected.evicted;
  options.evicted = [](void* user, ja_executor id) { static_cast<std::vector<ja_executor>*>(user)->push_back(id); };
  ja_collect_result result = ja_collect_result_init();
  Must(ja_collect(arena_, &options, &result));
  collected.done = result.done;
  collected.moved = result.moved;
  return collected;
}

void Host::Plan() {
  ja_plan_result result = ja_plan_result_init();
  Must(ja_plan(arena_, &result));
}

uint64_t Host::ReadState(ja_executor id, uint32_t offset) {
  uint64_t value;
  Must(ja_read(arena_, id, JA_STATE, offset, &value, sizeof value));
  return value;
}

uint64_t Host::RetiredBytes() {
  ja_stats_result stats = ja_stats_result_init();
  Must(ja_stats(arena_, &stats));
  return stats.retired_bytes;
}

bool Host::Contains(uint64_t address) const { return jit_arena::capi::Call(arena_)->Contains(address); }

std::string Host::FindBroken() {
  std::string broken;
  auto visit = [](void* user, const ja_problem* problem) {
    char text[300];
    std::snprintf(text, sizeof text, "executor %llu, section %d + %lld: expected %#llx, found %#llx (%s)",
                  static_cast<unsigned long long>(problem->executor), problem->section,
                  static_cast<long long>(problem->offset), static_cast<unsigned long long>(problem->expected),
                  static_cast<unsigned long long>(problem->found), problem->what);
    auto* first = static_cast<std::string*>(user);
    if (first->empty()) *first = text;
  };
  size_t problems;
  Must(ja_verify(arena_, visit, &broken, &problems));
  return problems == 0 ? std::string() : broken.empty() ? "a rule" : broken;
}

}  // namespace torture
