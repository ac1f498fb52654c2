#include "core/relocator.h"

#include <cstring>

#include "core/checksum.h"

namespace jit_arena {

Status Relocator::OpenSpans(WriteScope& scope, uint32_t index) const {
  const Executor& executor = table_[index];
  if (Status failed = scope.Open(executor.code_span)) return failed;
  if (executor.data_span != 0)
    if (Status failed = scope.Open(executor.data_span)) return failed;
  return Status::Ok();
}

void Relocator::Write(WriteScope& scope, uint32_t index, const ExecutorSpec& spec, size_t check) {
  Executor& executor = table_[index];
  uint64_t beyond = 0;  // the fields: of every field's normal form, what lies beyond the field
  const CheckedReloc* next = reloc_check_.Checked(check);
  const CheckedReloc* end = next + spec.reloc_count;
  // Copies one section's bytes and inserts its fields, in normal form where a move may change them.
  auto write = [&](Section section, uint8_t* to, uint32_t sites_before, bool known_zero) {
    const uint8_t* bytes = spec.bytes[static_cast<int>(section)];
    uint32_t size = spec.sizes[static_cast<int>(section)];
    uint32_t filled = bytes != nullptr ? size - spec.zero_tails[static_cast<int>(section)] : 0;
    // A zero tail is there already. Most data of stencils is nothing else.
    while (known_zero && filled != 0 && bytes[filled - 1] == 0) filled--;
    if (filled != 0) std::memcpy(to, bytes, filled);
    if (!known_zero && filled != size) std::memset(to + filled, 0, size - filled);
    for (; next < end && next->section == section; next++) {
      arch::Apply(*next->info, to + next->offset, next->value);
      arch::FieldClass field = next->info->field;
      uint32_t site = sites_before + next->offset;
      if (next->normal) beyond += ChecksumBeyond(site, arch::Beyond(field, next->value));
    }
  };
  // From normal form to the place, where not null.
  auto rebase = [&](uint8_t* code, uint8_t* data) {
    if (executor.kept_bytes == 0 && !executor.holds_addresses) return;
    Rebase(executor, code, data, Placement{}, PlacementOf(space_, executor), [&](const Reference& reference) {
      return Moved{0, SectionAddress(space_, table_[reference.target], reference.target_section)};
    });
  };
  auto pad = [](uint8_t byte, uint8_t* from, uint8_t* to) {
    while (from < to) *from++ = byte;  // a granule at most, as a rule
  };

  uint32_t bytes = space_[executor.code_span].granules * kGranuleBytes;
  bool known_zero = space_.KnownZero(executor.code_span);
  uint8_t* code = scope.Fill(executor.code_span, 0, bytes);
  write(Section::kCode, code, 0, known_zero);
  uint64_t sum;
  if (executor.data_span == 0) {
    uint8_t* data = code + executor.DataOffset();
    pad(arch::kPoisonByte, code + executor.code_bytes, data);
    if (executor.data_bytes != 0) write(Section::kData, data, executor.code_bytes, known_zero);
    pad(arch::kPoisonByte, data + executor.data_bytes, code + bytes);
    sum = Checksum(0, code, bytes);
    rebase(code, data);
  } else {
    // The fields of code must be in place before the next Fill.
    pad(arch::kPoisonByte, code + executor.code_bytes, code + bytes);
    sum = Checksum(0, code, bytes);
    rebase(code, nullptr);
    bytes = space_[executor.data_span].granules * kGranuleBytes;
    known_zero = space_.KnownZero(executor.data_span);
    uint8_t* data = scope.Fill(executor.data_span, 0, bytes);
    write(Section::kData, data, executor.code_bytes, known_zero);
    pad(0, data + executor.data_bytes, data + bytes);
    sum = Checksum(sum, data, bytes);
    rebase(nullptr, data);
  }
  executor.checksum = static_cast<uint32_t>(sum + beyond);

  if (executor.state_span != 0) {
    known_zero = space_.KnownZero(executor.state_span);
    uint8_t* state = scope.Fill(executor.state_span, 0, executor.StateSpanBytes());
    write(Section::kState, state, 0, known_zero);
    exits_.Initialise(index, state);
  }
}

}  // namespace jit_arena
