// Executors, exits and links: what C says of them, as the core takes it.
#include <memory>
#include <new>

#include "base/bits.h"
#include "capi/handle.h"

using namespace jit_arena;
using namespace jit_arena::capi;

namespace {

static_assert(static_cast<int>(Section::kCode) == JA_CODE && static_cast<int>(Section::kState) == JA_STATE);
static_assert(static_cast<int>(TargetKind::kOwnCode) == JA_TARGET_OWN_CODE);
static_assert(static_cast<int>(TargetKind::kOwnState) == JA_TARGET_OWN_STATE);
static_assert(static_cast<int>(TargetKind::kAddress) == JA_TARGET_ADDRESS);
static_assert(static_cast<int>(TargetKind::kExecutor) == JA_TARGET_EXECUTOR);
static_assert(static_cast<int>(TargetKind::kBatchMember) == JA_TARGET_BATCH_MEMBER);
static_assert(static_cast<int>(TargetKind::kExit) == JA_TARGET_EXIT);
static_assert(static_cast<int>(TargetKind::kDone) == JA_TARGET_DONE);
static_assert(static_cast<int>(TargetKind::kValid) == JA_TARGET_VALID);
static_assert(static_cast<int>(TargetKind::kWarm) == JA_TARGET_WARM);
static_assert(kTargetKinds == JA_TARGET_WARM + 1, "a target is missing in jit_arena.h");
static_assert(JA_ENDLESS == Exits::kEndless);

// Room for so many elements, most often without the heap. Throws std::bad_alloc, as containers do.
template <class T, size_t kInPlace>
class Room {
 public:
  explicit Room(size_t count)
      : heap_(count > kInPlace ? new T[count] : nullptr), elements_(heap_ != nullptr ? heap_.get() : in_place_) {}
  T* data() { return elements_; }
  T& operator[](size_t i) { return elements_[i]; }

 private:
  T in_place_[kInPlace];
  std::unique_ptr<T[]> heap_;
  T* elements_;
};

using Relocs = Room<RelocSpec, 24>;

ja_status TakeRelocs(const ja_reloc* given, size_t count, RelocSpec* taken) {
  for (size_t i = 0; i < count; i++) {
    const ja_reloc& reloc = given[i];
    if (reloc.kind > UINT16_MAX)
      return Fail(JA_ERR_RELOC_KIND, Format("there is no reloc kind %u", reloc.kind), 0, static_cast<int64_t>(i));
    bool exists = reloc.section >= JA_CODE && reloc.section <= JA_STATE && reloc.target_kind >= JA_TARGET_OWN_CODE &&
                  reloc.target_kind <= JA_TARGET_WARM && reloc.target_section >= JA_CODE &&
                  reloc.target_section <= JA_STATE;
    if (!exists)
      return Fail(JA_ERR_ARGUMENT,
                  Format("reloc %zu: section %d, target kind %d, target section %d: not all of them exist", i,
                         reloc.section, reloc.target_kind, reloc.target_section),
                  0, static_cast<int64_t>(i));
    taken[i] = {static_cast<Section>(reloc.section),
                static_cast<arch::RelocKind>(reloc.kind),
                static_cast<TargetKind>(reloc.target_kind),
                reloc.offset,
                reloc.target,
                reloc.addend,
                static_cast<Section>(reloc.target_section),
                reloc.target_offset};
  }
  return JA_OK;
}

// Names the position in a list of more than one, as the core does.
ja_status AtIndex(ja_status failed, size_t i, size_t count) {
  return count > 1 ? FailAt(failed, static_cast<int64_t>(i)) : failed;
}

// One spec of a list; its relocs go to `relocs`, as many as there are.
ja_status TakeSpec(const ja_spec& given, RelocSpec* relocs, ExecutorSpec* taken) {
  const ja_content* contents[] = {&given.code, &given.data, &given.state};
  for (int section = 0; section < kSections; section++) {
    const ja_content& content = *contents[section];
    if (content.size > UINT32_MAX)
      return Fail(JA_ERR_SIZE, Format("%zu bytes of %s; a section is shorter than 4 GiB", content.size,
                                      SectionName(static_cast<Section>(section))));
    taken->bytes[section] = content.size != 0 ? static_cast<const uint8_t*>(content.bytes) : nullptr;
    taken->sizes[section] = static_cast<uint32_t>(content.size);
    if (content.align != 0) taken->aligns[section] = content.align;
  }
  if (ja_status failed = CheckList(given.entries, given.entry_count, "entries")) return failed;
  if (ja_status failed = CheckChoice(given.movable, "movable")) return failed;
  if (ja_status failed = CheckChoice(given.evictable, "evictable")) return failed;
  if (ja_status failed = CheckChoice(given.makes_progress, "makes_progress")) return failed;
  if (ja_status failed = TakeRelocs(given.relocs, given.reloc_count, relocs)) return failed;
  taken->relocs = relocs;
  taken->reloc_count = static_cast<uint32_t>(given.reloc_count);
  taken->exit_count = given.exits;
  taken->exit_tags = given.exit_tags;
  taken->movable = given.movable != JA_NO;
  taken->evictable = given.evictable == JA_DEFAULT ? int8_t{-1} : int8_t{given.evictable == JA_YES};
  taken->makes_progress = given.makes_progress == JA_YES;
  if (given.name != nullptr) taken->name = given.name;
  taken->entries = given.entries;
  taken->entry_count = static_cast<uint32_t>(given.entry_count);
  return JA_OK;
}

// The spec at a position of a list whose elements are as long as the first.
ja_status SpecAt(const ja_spec* specs, size_t i, ja_spec* spec) {
  const auto* at = reinterpret_cast<const ja_spec*>(reinterpret_cast<const char*>(specs) + i * specs->struct_size);
  if (i != 0 && at->struct_size != specs->struct_size)
    return FailArgument(
        Format("spec %zu has the struct_size %zu and the first %zu", i, at->struct_size, specs->struct_size));
  if (ja_status failed = TakeStruct(at, "ja_spec", spec)) return failed;
  return CheckList(spec->relocs, spec->reloc_count, "relocs");
}

// All of a list, and then what is done with it.
template <class Use>
ja_status WithSpecs(const ja_spec* given, size_t count, Use use) {
  ja_spec spec;
  size_t reloc_count = 0;
  for (size_t i = 0; i < count; i++) {
    if (ja_status failed = SpecAt(given, i, &spec)) return AtIndex(failed, i, count);
    reloc_count += spec.reloc_count;
  }
  Room<ExecutorSpec, 1> specs(count);
  Relocs relocs(reloc_count);
  RelocSpec* next = relocs.data();
  for (size_t i = 0; i < count; i++) {
    if (ja_status failed = SpecAt(given, i, &spec)) return AtIndex(failed, i, count);
    if (ja_status failed = TakeSpec(spec, next, &specs[i])) return AtIndex(failed, i, count);
    next += spec.reloc_count;
  }
  return use(specs.data());
}

}  // namespace

ja_status ja_install(ja_arena* arena, const ja_spec* specs, size_t count, ja_executor* ids) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckList(specs, count, "specs")) return failed;
  if (ja_status failed = CheckList(ids, count, "ids")) return failed;
  return WithSpecs(specs, count, [&](const ExecutorSpec* taken) {
    return Finish(call->Install(taken, static_cast<uint32_t>(count), ids, call.self()));
  });
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_allocate(ja_arena* arena, const ja_spec* spec, ja_executor* id) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (id == nullptr) return FailArgument("the place for the id is null");
  if (spec == nullptr) return FailArgument("ja_spec is null");
  return WithSpecs(spec, 1, [&](const ExecutorSpec* taken) {
    Result<ExecutorId> made = call->Allocate(*taken);
    if (made.ok()) *id = made.value();
    return Finish(made.status());
  });
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_write(ja_arena* arena, ja_executor id, ja_section section, uint32_t offset, const void* bytes,
                   size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckSection(section)) return failed;
  if (ja_status failed = CheckList(bytes, count, "bytes")) return failed;
  return Finish(call->Write(id, static_cast<Section>(section), offset, static_cast<const uint8_t*>(bytes),
                            static_cast<uint32_t>(count)));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_read(ja_arena* arena, ja_executor id, ja_section section, uint32_t offset, void* bytes, size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckSection(section)) return failed;
  if (ja_status failed = CheckList(bytes, count, "bytes")) return failed;
  return Finish(call->Read(id, static_cast<Section>(section), offset, static_cast<uint8_t*>(bytes),
                           static_cast<uint32_t>(count)));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_add_relocs(ja_arena* arena, ja_executor id, const ja_reloc* relocs, size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckList(relocs, count, "relocs")) return failed;
  Relocs taken(count);
  if (ja_status failed = TakeRelocs(relocs, count, taken.data())) return failed;
  return Finish(call->AddRelocs(id, taken.data(), static_cast<uint32_t>(count)));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_freeze(ja_arena* arena, const ja_executor* ids, size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckList(ids, count, "ids")) return failed;
  return Finish(call->Freeze(ids, static_cast<uint32_t>(count), call.self()));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_free(ja_arena* arena, const ja_executor* ids, size_t count) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (ja_status failed = CheckList(ids, count, "ids")) return failed;
  return Finish(call->Free(ids, static_cast<uint32_t>(count), call.self()));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_invalidate(ja_arena* arena, ja_executor id) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->Invalidate(id, call.self()));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_entry_offset(ja_arena* arena, ja_executor id, uint32_t entry, uint32_t* offset) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (offset == nullptr) return FailArgument("the place for the offset is null");
  Result<uint32_t> found = call->EntryOffset(id, entry);
  if (found.ok()) *offset = found.value();
  return Finish(found.status());
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_link(ja_arena* arena, ja_executor source, uint32_t exit, ja_executor target, uint32_t entry) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->Link(source, exit, target, entry));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_unlink(ja_arena* arena, ja_executor source, uint32_t exit) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->Unlink(source, exit));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_unlink_all(ja_arena* arena) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->UnlinkAll());
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_link_of(ja_arena* arena, ja_executor source, uint32_t exit, ja_executor* target, uint32_t* entry) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (target == nullptr) return FailArgument("the place for the target is null");
  Result<Arena::LinkedTo> linked = call->LinkOf(source, exit);
  if (!linked.ok()) return Finish(linked.status());
  *target = linked.value().target;
  if (entry != nullptr) *entry = linked.value().entry;
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_chain_depth(ja_arena* arena, ja_executor id, uint32_t* depth) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (depth == nullptr) return FailArgument("the place for the depth is null");
  Result<uint32_t> found = call->ChainDepth(id);
  if (found.ok()) *depth = found.value();
  return Finish(found.status());
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_replace(ja_arena* arena, ja_executor old_id, ja_executor new_id) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->Replace(old_id, new_id));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_exit_tag(ja_arena* arena, ja_executor id, uint32_t exit, uint32_t* tag) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (tag == nullptr) return FailArgument("the place for the tag is null");
  Result<uint32_t> found = call->ExitTag(id, exit);
  if (found.ok()) *tag = found.value();
  return Finish(found.status());
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_set_hot_stub(ja_arena* arena, ja_executor id) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  return Finish(call->SetHotStub(id, call.self()));
} catch (const std::bad_alloc&) {
  return FailMemory();
}
