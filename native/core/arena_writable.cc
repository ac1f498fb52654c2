// Writable executors: what a spec must be, the record that is made of it, and the copy of its bytes until it is frozen.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bits.h"
#include "core/arena.h"

namespace jit_arena {

Status Arena::CheckSizes(const ExecutorSpec& spec) const {
  uint64_t total = 0;
  for (int section = 0; section < kSections; section++) {
    if (!IsPowerOfTwo(spec.aligns[section]) || spec.aligns[section] > space_.page_bytes())
      return Error{ErrorCode::kAlignment,
                   Format("the alignment %u of %s is not a power of two up to a page (%u)", spec.aligns[section],
                          SectionName(static_cast<Section>(section)), space_.page_bytes())};
    total += AlignUp(spec.sizes[section], std::max(spec.aligns[section], kGranuleBytes));
  }
  total += uint64_t{spec.exit_count} * arch::kExitRecordBytes;
  if (spec.exit_count > UINT16_MAX)
    return Error{ErrorCode::kSize, Format("%u exits; an executor has at most 65535", spec.exit_count)};
  if (spec.sizes[0] == 0) return Error{ErrorCode::kSize, "an executor has at least one byte of code"};
  // One slab is the arena's own.
  uint64_t room = space_.bytes() - space_.slab_bytes();
  if (total > room)
    return Error{ErrorCode::kSize,
                 Format("an executor of %llu bytes is larger than the arena's %llu", Wide(total), Wide(room))};
  for (uint32_t i = 0; i < spec.entry_count; i++)
    if (spec.entries[i] >= spec.sizes[0])
      return Error{ErrorCode::kBounds, Format("entry %u at offset %u lies outside the %u bytes of code", i,
                                              spec.entries[i], spec.sizes[0])};
  return Status::Ok();
}

Status Arena::CheckShape(const ExecutorSpec& spec) const {
  if (spec.reloc_count == 0) return Status::Ok();
  Status failed = linker_.reloc_check.CheckShape(spec, 0);
  if (!failed.ok()) failed.SetExecutor({});  // it has no id yet
  return failed;
}

// What kind of executor the relocs make of it; looked at again when relocs are added.
void Arena::TakeKind(Executor& executor, const ExecutorSpec& spec) {
  bool done = false, warm = false, flags = false, state_fixed = false;
  for (uint32_t i = 0; i < spec.reloc_count; i++) {
    const RelocSpec& reloc = spec.relocs[i];
    done |= reloc.target_kind == TargetKind::kDone;
    warm |= reloc.target_kind == TargetKind::kWarm;
    flags |= warm || reloc.target_kind == TargetKind::kValid;
    state_fixed |= reloc.section == Section::kState && MovesWithState(reloc);
  }
  executor.state_fixed = state_fixed;
  executor.SetTrace(spec.exit_count != 0 || done);
  executor.has_flags = flags;
  executor.has_warm = warm;
  executor.evictable = spec.evictable >= 0 ? spec.evictable != 0 : executor.IsTrace() || warm;
}

// A table record for a spec that has passed its checks.
Result<uint32_t> Arena::AddExecutor(const ExecutorSpec& spec) {
  uint32_t index = table_.Add();
  if (index == 0) return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Executor& executor = table_[index];
  executor.code_bytes = spec.sizes[0];
  executor.data_bytes = spec.sizes[1];
  executor.state_bytes = spec.sizes[2];
  executor.movable = spec.movable;
  executor.align_log2 = static_cast<uint8_t>(std::countr_zero(spec.aligns[0])) & 15;
  executor.state_align_log2 = static_cast<uint8_t>(std::countr_zero(spec.aligns[2])) & 15;
  // Without data there is nothing to align: the code span ends with the code.
  if (spec.sizes[1] != 0) executor.SetData(apart_, std::countr_zero(spec.aligns[1]));
  executor.exit_count = static_cast<uint16_t>(spec.exit_count);
  executor.makes_progress = spec.makes_progress;
  executor.has_frames = spec.frames != nullptr;
  TakeKind(executor, spec);
  Status failed = OrOutOfMemory([&] {
    if (!spec.name.empty()) table_.NotesOf(index).name = spec.name;
    if (spec.exit_tags != nullptr)
      table_.NotesOf(index).exit_tags.assign(spec.exit_tags, spec.exit_tags + spec.exit_count);
    if (spec.keeps != nullptr) table_.NotesOf(index).keeps = spec.keeps;
    if (spec.frames != nullptr) table_.NotesOf(index).frames = spec.frames;
    if (spec.entry_count != 0) table_.NotesOf(index).entries.assign(spec.entries, spec.entries + spec.entry_count);
  });
  if (!failed.ok()) {
    table_.Recycle(index);
    return failed;
  }
  stats_.executors++;
  return index;
}

void Arena::DropExecutor(uint32_t index) {
  table_.Recycle(index);
  stats_.executors--;
}

Result<ExecutorId> Arena::Allocate(const ExecutorSpec& spec) {
  // The copy takes most of the time, and no lock.
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = CheckSizes(spec)) return failed;
  SpecCopy copy = Staged::CopyOf(spec);
  std::lock_guard guard(lock_);
  if (Status failed = CheckShape(spec)) return failed;
  Result<uint32_t> index = AddExecutor(spec);
  if (!index.ok()) return std::move(index.status());
  if (Status failed = staged_.Add(index.value(), std::move(copy))) {
    DropExecutor(index.value());
    return failed;
  }
  AfterCall();
  return table_.IdOf(index.value());
}

Status Arena::Write(ExecutorId id, Section section, uint32_t offset, const uint8_t* bytes, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  Executor& executor = *found.value();
  uint32_t size = executor.BytesOf(section);
  auto failed = [&](ErrorCode code, Words message) {
    Error error = ExecutorError(code, id, std::move(message));
    error.section = section;
    error.offset = offset;
    return Status(std::move(error));
  };
  bool frozen = executor.State() == ExecutorState::kFrozen;
  if (frozen && section != Section::kState)
    return failed(ErrorCode::kNotWritable,
                  Format("%s of executor %llu is frozen and cannot be written", SectionName(section), Wide(id)));
  if (offset > size || count > size - offset)
    return failed(ErrorCode::kBounds, Format("%u bytes at %s + %u do not lie within its %u bytes", count,
                                             SectionName(section), offset, size));
  if (count == 0) return Status::Ok();
  if (frozen) {
    std::memcpy(reinterpret_cast<uint8_t*>(space_.AddressOf(executor.state_span)) + offset, bytes, count);
    return Status::Ok();
  }
  staged_[IndexOf(id)].Write(section, offset, bytes, count);
  return Status::Ok();
}

Status Arena::AddRelocs(ExecutorId id, const RelocSpec* relocs, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  if (found.value()->State() != ExecutorState::kWritable)
    return ExecutorError(ErrorCode::kNotWritable, id, Format("executor %llu is frozen: relocs come before", Wide(id)));
  SpecCopy& staged = staged_[IndexOf(id)];
  size_t before = staged.reloc_count();
  staged.AddRelocs(relocs, count);
  if (Status failed = OrOutOfMemory([&] { return linker_.reloc_check.CheckShape(staged.Spec(), id); })) {
    staged.KeepRelocs(before);
    // The index counts in the caller's list.
    std::optional<uint64_t> index = failed.error().index;
    if (index && *index >= before) failed.SetIndex(*index - before);
    return failed;
  }
  TakeKind(*found.value(), staged.Spec());
  return Status::Ok();
}

}  // namespace jit_arena
