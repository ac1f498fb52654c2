// What an arena says of itself: executors, addresses, figures, maps, and whether its rules hold.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bits.h"
#include "core/arena.h"
#include "core/placement.h"

namespace jit_arena {

Status Arena::Read(ExecutorId id, Section section, uint32_t offset, uint8_t* bytes, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  const Executor& executor = *found.value();
  uint32_t size = executor.BytesOf(section);
  if (offset > size || count > size - offset) {
    Error error = ExecutorError(
        ErrorCode::kBounds, id,
        Format("%u bytes at %s + %u do not lie within its %u bytes", count, SectionName(section), offset, size));
    error.section = section;
    error.offset = offset;
    return error;
  }
  if (count == 0) return Status::Ok();
  if (executor.State() == ExecutorState::kWritable) {
    staged_[IndexOf(id)].Read(section, offset, bytes, count);
    return Status::Ok();
  }
  Placement at = PlacementOf(space_, executor);
  uint64_t from = section == Section::kCode ? at.code : section == Section::kData ? at.data : at.state;
  std::memcpy(bytes, reinterpret_cast<const uint8_t*>(from) + offset, count);
  return Status::Ok();
}

Result<ExecutorInfo> Arena::Describe(ExecutorId id) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  const Executor& executor = *found.value();
  const Notes* notes = table_.FindNotes(IndexOf(id));
  ExecutorInfo info{};
  info.state = executor.State();
  info.sizes[0] = executor.code_bytes;
  info.sizes[1] = executor.data_bytes;
  info.sizes[2] = executor.state_bytes;
  info.movable = executor.movable;
  info.evictable = executor.evictable;
  info.makes_progress = executor.makes_progress;
  info.exits = executor.exit_count;
  info.trace = executor.IsTrace();
  info.first_entry = *table_.EntryOffset(IndexOf(id), 0);
  if (notes != nullptr) info.name = notes->name;
  info.address = executor.entry.load(std::memory_order_relaxed);
  return info;
}

Result<uint32_t> Arena::EntryOffset(ExecutorId id, uint32_t entry) {
  std::lock_guard guard(lock_);
  Result<uint32_t> index = FindFrozen(id);
  if (!index.ok()) return std::move(index.status());
  return EntryOffsetOf(index.value(), entry);
}

Result<uint32_t> Arena::EntryOffsetOf(uint32_t index, uint32_t entry) const {
  if (std::optional<uint32_t> offset = table_.EntryOffset(index, entry)) return *offset;
  const Notes* notes = table_.FindNotes(index);
  size_t count = notes != nullptr ? notes->entries.size() : 0;
  return ExecutorError(ErrorCode::kBounds, table_.IdOf(index),
                       Format("executor %llu has %zu entries and no entry %u", Wide(table_.IdOf(index)),
                              std::max<size_t>(count, 1), entry));
}

std::vector<ExecutorId> Arena::Executors() {
  std::lock_guard guard(lock_);
  std::vector<ExecutorId> ids;
  for (uint32_t index = 1; index < table_.size(); index++) {
    ExecutorState state = table_[index].State();
    if (state == ExecutorState::kWritable || state == ExecutorState::kFrozen) ids.push_back(table_.IdOf(index));
  }
  return ids;
}

std::optional<FoundAddress> Arena::Find(uint64_t address) {
  std::lock_guard guard(lock_);
  if (!in_own_process()) return std::nullopt;
  return Look(address);
}

bool Arena::FindSignalSafe(uint64_t address, std::optional<FoundAddress>* found) const {
  return space_.ReadBesideChanges([&] { *found = Look(address); });
}

std::optional<FoundAddress> Arena::Look(uint64_t address) const {
  SpanId span = space_.FindSpan(address);
  if (span == 0) return std::nullopt;
  const SpanNode& node = space_[span];
  const uint32_t owner = node.Owner();
  if (owner == 0 || owner >= table_.size() || node.State() == SpanState::kReserved) return std::nullopt;
  const Executor& executor = table_[owner];
  FoundAddress found{table_.IdOf(owner), static_cast<Section>(node.Section()),
                     static_cast<uint32_t>(address - space_.AddressOf(span)), IsRetired(node.State())};
  if (found.section == Section::kCode && found.offset >= executor.code_bytes) {
    // Behind the code lie its padding and, unless apart, the data.
    if (executor.apart() || executor.data_bytes == 0 || found.offset < executor.DataOffset()) return std::nullopt;
    found.section = Section::kData;
    found.offset -= executor.DataOffset();
  }
  if (found.offset >= executor.BytesOf(found.section)) return std::nullopt;
  return found;
}

ArenaStats Arena::Stats() {
  std::lock_guard guard(lock_);
  ArenaStats stats = stats_;
  stats.committed_bytes = space_.CommittedBytes();
  stats.lost_bytes = space_.LostBytes();
  stats.reserved_bytes = space_.bytes();
  stats.retired_bytes = reclaimer_.retired_bytes();
  stats.pins = reclaimer_.loose_pins();
  space_.ForEachSlab([&](const Slab& slab) { stats.span_bytes += uint64_t{slab.live_granules()} * kGranuleBytes; });
  stats.metadata_bytes = sizeof *this + space_.MetadataBytes() + table_.MetadataBytes() + linker_.MetadataBytes() +
                         reclaimer_.MetadataBytes() + frames_.MetadataBytes() + staged_.MetadataBytes() +
                         own_code_.MetadataBytes();
  std::vector<bool> loops = linker_.exits.FindLoops();
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.State() != ExecutorState::kFrozen) continue;
    uint64_t code_and_data = uint64_t{executor.code_bytes} + executor.data_bytes;
    stats.kept_reloc_bytes += executor.kept_bytes;
    stats.page_per_executor_bytes += AlignUp(code_and_data, space_.page_bytes());
    SizeClass& size_class = SizeClassOf(stats, executor);
    size_class.count++;
    size_class.bytes += code_and_data;
    size_class.exits += executor.exit_count;
    size_class.loops += loops[index];
  }
  stats.slabs = space_.slab_count();
  stats.huge_page_bytes = space_.HugePageBytes();
  stats.kept_relocs = linker_.reloc_check.kept_relocs();
  stats.far_slots = linker_.far_slots.count();
  return stats;
}

std::vector<SlabMap> Arena::Slabs() {
  std::lock_guard guard(lock_);
  std::vector<SlabMap> maps;
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  space_.ForEachSlab([&](const Slab& slab) {
    SlabMap map{slab.zone(),
                space_.Address(slab.first()),
                uint64_t{slab.granules()} * kGranuleBytes,
                uint64_t{slab.live_granules()} * kGranuleBytes,
                uint64_t{slab.retired_granules()} * kGranuleBytes,
                std::vector<uint32_t>(slab.pages()),
                std::vector<bool>(slab.pages())};
    for (uint32_t page = 0; page < slab.pages(); page++) map.backed[page] = slab.PageBacked(page);
    slab.ForEachSpan([&](SpanId span) {
      if (IsRetired(space_[span].State())) return;
      for (uint32_t granule = space_[span].start; granule < space_[span].End();) {
        uint32_t page = (granule - slab.first()) / page_granules;
        uint32_t end = std::min(space_[span].End(), slab.first() + (page + 1) * page_granules);
        map.live_bytes_per_page[page] += (end - granule) * kGranuleBytes;
        granule = end;
      }
    });
    maps.push_back(std::move(map));
  });
  std::sort(maps.begin(), maps.end(), [](const SlabMap& a, const SlabMap& b) { return a.address < b.address; });
  return maps;
}

std::vector<Problem> Arena::Verify() {
  std::lock_guard guard(lock_);
  std::vector<Problem> problems;
  if (!CheckProcess().ok()) return problems;
  for (uint32_t index = 1; index < table_.size(); index++)
    if (table_[index].State() == ExecutorState::kFrozen) linker_.relocator.Verify(index, &problems);
  linker_.far_slots.Verify(&problems);
  own_code_.ForEachChanged([&](uint64_t expected, uint64_t found) {
    problems.push_back({0, Section::kCode, -1, expected, found, "the arena's own code"});
  });
  return problems;
}

std::string Arena::CheckInvariants() {
  std::vector<Problem> problems = Verify();
  if (problems.empty()) return FindBrokenRule();
  return Format("executor %llu, %s + %lld: expected %#llx, found %#llx (%s)", Wide(problems[0].executor),
                SectionName(problems[0].section), static_cast<long long>(problems[0].offset),
                Wide(problems[0].expected), Wide(problems[0].found), problems[0].what.c_str());
}

std::string Arena::FindBrokenRule() {
  std::lock_guard guard(lock_);
  if (!CheckProcess().ok()) return {};
  if (std::string broken = space_.FindBrokenRule(); !broken.empty()) return broken;
  if (std::string broken = linker_.FindBrokenRule(); !broken.empty()) return broken;

  frames_.ForgetReclaimed();
  if (const char* rule = frames_.FindBrokenRule()) return rule;

  // Every granule has one owner: spans and executors agree.
  uint64_t owned = 0, internal = 0, retired_bytes = 0, live_bytes = 0, executors = 0;
  std::string broken;
  space_.ForEachSlab([&](const Slab& slab) {
    slab.ForEachSpan([&](SpanId id) {
      const SpanNode& node = space_[id];
      if (IsRetired(node.State())) retired_bytes += uint64_t{node.granules} * kGranuleBytes;
      if (node.State() == SpanState::kReserved) broken = "a span is left reserved";
      if (node.State() == SpanState::kInternal) internal++;
      if (node.State() != SpanState::kLive) return;
      const Executor& owner = table_[node.Owner()];
      SpanId listed = node.Section() == 0 ? owner.code_span : node.Section() == 1 ? owner.data_span : owner.state_span;
      if (owner.State() != ExecutorState::kFrozen || listed != id) broken = "a live span is not its owner's";
      owned++;
    });
  });
  if (!broken.empty()) return broken;
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.marked) return "an executor is left marked";
    if (executor.State() == ExecutorState::kWritable) {
      executors++;
      if (executor.entry.load() != 0 || executor.code_span != 0) return "a writable executor has an address";
      if (!staged_.Has(index)) return "a writable executor has no staged bytes";
    }
    if (executor.State() != ExecutorState::kFrozen) continue;
    executors++;
    live_bytes += executor.LiveBytes();
    if (executor.has_frames && !frames_.Knows(space_.SlabOf(executor.code_span).first(), executor.entry.load()))
      return "the unwinder does not know an executor's frames";
    owned -= uint64_t{1} + (executor.data_span != 0) + (executor.state_span != 0);
  }
  if (owned != 0) return "live spans and frozen executors differ in number";
  if (internal != own_code_.count() + linker_.far_slots.count()) return "internal spans are not accounted for";
  if (retired_bytes != reclaimer_.retired_bytes()) return "retired spans and retired bytes differ";
  if (live_bytes != stats_.live_bytes || executors != stats_.executors) return "the figures are wrong";
  size_t writable_executable = 0;
  if (os::CountWritableExecutable(reinterpret_cast<const uint8_t*>(space_.base()), space_.bytes(),
                                  &writable_executable) &&
      writable_executable != 0)
    return "a mapping is writable and executable";
  return {};
}

}  // namespace jit_arena
