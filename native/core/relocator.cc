#include "core/relocator.h"

#include <cstring>

#include "base/bits.h"
#include "core/checksum.h"

namespace jit_arena {
namespace {

// A whole word is the same on every CPU.
void Insert(const CheckedReloc& reloc, uint8_t* section, uint64_t value) {
  if (arch::FieldOf(reloc.info->field).bytes == 8)
    StoreAs<uint64_t>(section + reloc.offset, value);
  else
    arch::Apply(*reloc.info, section + reloc.offset, value);
}

}  // namespace

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
  const CheckedReloc* rebased = next;
  const CheckedReloc* end = next + spec.reloc_count;
  // Copies one section's bytes and inserts its fields in normal form.
  auto write = [&](Section section, uint8_t* to, uint32_t sites_before, bool known_zero) {
    const uint8_t* bytes = spec.bytes[static_cast<int>(section)];
    uint32_t size = spec.sizes[static_cast<int>(section)];
    uint32_t filled = bytes != nullptr ? size - spec.zero_tails[static_cast<int>(section)] : 0;
    // A zero tail is there already. Most data of stencils is nothing else.
    while (known_zero && filled != 0 && bytes[filled - 1] == 0) filled--;
    if (filled != 0) std::memcpy(to, bytes, filled);
    if (!known_zero && filled != size) std::memset(to + filled, 0, size - filled);
    for (; next < end && next->section == section; next++) {
      Insert(*next, to, next->normal);
      if (next->moves)
        beyond += ChecksumBeyond(sites_before + next->offset, arch::Beyond(next->info->field, next->normal));
    }
  };
  // Takes the fields from normal form to what they say, once the checksum is taken.
  auto rebase = [&](Section section, uint8_t* to) {
    for (; rebased < next && rebased->section == section; rebased++)
      if (rebased->moves) Insert(*rebased, to, rebased->value);
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
    rebase(Section::kCode, code);
    rebase(Section::kData, data);
  } else {
    // The fields of code must be in place before the next Fill.
    pad(arch::kPoisonByte, code + executor.code_bytes, code + bytes);
    sum = Checksum(0, code, bytes);
    rebase(Section::kCode, code);
    bytes = space_[executor.data_span].granules * kGranuleBytes;
    known_zero = space_.KnownZero(executor.data_span);
    uint8_t* data = scope.Fill(executor.data_span, 0, bytes);
    write(Section::kData, data, executor.code_bytes, known_zero);
    pad(0, data + executor.data_bytes, data + bytes);
    sum = Checksum(sum, data, bytes);
    rebase(Section::kData, data);
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
