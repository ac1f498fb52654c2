// What can be known of relocs without addresses: their shape, and what is kept of them.
#include <algorithm>
#include <numeric>
#include <utility>

#include "core/reloc_check.h"

namespace jit_arena {
namespace {

Section SectionOf(TargetKind kind) {
  return kind == TargetKind::kOwnCode   ? Section::kCode
         : kind == TargetKind::kOwnData ? Section::kData
                                        : Section::kState;
}

}  // namespace

void SortedRelocs::Sort(const ExecutorSpec& spec, std::vector<uint32_t>& order) {
  order.resize(spec.reloc_count);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return Key(relocs_[a]) < Key(relocs_[b]); });
  order_ = order.data();
}

Status RelocCheck::CheckShape(const ExecutorSpec& spec, ExecutorId id) const {
  if (spec.reloc_count > kMaxRelocs)
    return ExecutorError(ErrorCode::kSize, id,
                         Format("%u relocs; an executor has at most %u", spec.reloc_count, kMaxRelocs));
  const SortedRelocs sorted(spec, order_);
  const RelocSpec* previous = nullptr;
  uint32_t previous_end = 0;
  for (uint32_t i = 0; i < spec.reloc_count; i++) {
    const uint32_t position = sorted.PositionOf(i);
    const RelocSpec& reloc = spec.relocs[position];
    auto failed_at = [&](uint32_t at, ErrorCode code, Words message) {
      Error error = RelocError(code, id, spec.relocs[at], std::move(message));
      error.index = at;
      return Status(std::move(error));
    };
    auto failed = [&](ErrorCode code, Words message) { return failed_at(position, code, std::move(message)); };
    const arch::KindInfo* info = arch::FindKind(reloc.kind);
    if (info == nullptr)
      return failed(ErrorCode::kRelocKind, Format("reloc kind %u does not exist on %s", reloc.kind, arch::kCpuName));
    uint32_t size = spec.sizes[static_cast<int>(reloc.section)];
    uint32_t site_bytes = arch::FieldOf(info->field).bytes;
    if (reloc.offset > size || size - reloc.offset < site_bytes)
      return failed(ErrorCode::kRelocBounds,
                    Format("the %u bytes of %s at %s + %u do not lie within the section's %u bytes", site_bytes,
                           info->name, SectionName(reloc.section), reloc.offset, size));
    if (previous != nullptr && previous->section == reloc.section && reloc.offset < previous_end) {
      // At fault is the one that was given later.
      uint32_t other = static_cast<uint32_t>(previous - spec.relocs);
      uint32_t later = std::max(position, other);
      return failed_at(later, ErrorCode::kRelocOverlap,
                       Format("the reloc at %s + %u overlaps the one at %u", SectionName(reloc.section),
                              spec.relocs[later].offset, spec.relocs[std::min(position, other)].offset));
    }
    if (reloc.target_kind <= TargetKind::kOwnState) {
      Section section = SectionOf(reloc.target_kind);
      uint32_t target_size = spec.sizes[static_cast<int>(section)];
      // One past the end is an address that compilers take; an absent section has none.
      if (reloc.target > target_size || target_size == 0)
        return failed(ErrorCode::kRelocTarget, Format("target offset %llu lies outside the executor's %u bytes of %s",
                                                      Wide(reloc.target), target_size, SectionName(section)));
    }
    if (reloc.target_kind == TargetKind::kExit && reloc.target >= spec.exit_count)
      return failed(ErrorCode::kRelocTarget,
                    Format("the executor has %u exits and no exit %llu", spec.exit_count, Wide(reloc.target)));
    previous = &reloc;
    previous_end = reloc.offset + site_bytes;
  }
  return Status::Ok();
}

void RelocCheck::ForgetKept(uint32_t index) {
  Executor& executor = table_[index];
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept_count_--; });
  table_.DropKept(executor);
}

void RelocCheck::KeepFullRecord(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch) {
  std::vector<RelocSpec>& record = records_[index];
  record.assign(spec.relocs, spec.relocs + spec.reloc_count);
  for (RelocSpec& reloc : record) {
    if (reloc.target_kind != TargetKind::kBatchMember) continue;
    reloc.target_kind = TargetKind::kExecutor;
    reloc.target = table_.IdOf(batch[reloc.target]);
  }
}

const std::vector<RelocSpec>* RelocCheck::FindFullRecord(uint32_t index) const {
  auto found = records_.find(index);
  return found != records_.end() ? &found->second : nullptr;
}

std::string RelocCheck::FindBrokenRule() const {
  uint64_t kept = 0;
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.State() != ExecutorState::kFrozen) continue;
    ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept++; });
  }
  return kept == kept_count_ ? "" : "the count of kept relocs is wrong";
}

size_t RelocCheck::MetadataBytes() const {
  size_t bytes = 0;
  for (const auto& [index, relocs] : records_) bytes += relocs.capacity() * sizeof(RelocSpec);
  return bytes;
}

}  // namespace jit_arena
