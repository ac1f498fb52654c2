// Whether an executor still is as it was frozen.
#include <cstring>

#include "base/bits.h"
#include "core/checksum.h"
#include "core/relocator.h"

namespace jit_arena {

void Relocator::Verify(uint32_t index, std::vector<Problem>* problems) const {
  const Executor& executor = table_[index];
  Placement at = PlacementOf(space_, executor);
  if (executor.entry.load(std::memory_order_relaxed) != at.code)
    problems->push_back({table_.IdOf(index), Section::kCode, 0, at.code, executor.entry.load(std::memory_order_relaxed),
                         "the entry is not the address of the code"});
  exits_.Verify(index, problems);
  // Whole spans: the padding is checked as well.
  uint64_t code_span_bytes = uint64_t{space_[executor.code_span].granules} * kGranuleBytes;
  uint64_t data_span_bytes = executor.apart() ? uint64_t{space_[executor.data_span].granules} * kGranuleBytes : 0;
  std::vector<uint8_t> bytes(code_span_bytes + data_span_bytes);
  uint8_t* code = bytes.data();
  uint8_t* data = code + (executor.apart() ? code_span_bytes : executor.DataOffset());
  std::memcpy(code, reinterpret_cast<const uint8_t*>(at.code), code_span_bytes);
  if (executor.apart()) std::memcpy(data, reinterpret_cast<const uint8_t*>(at.data), data_span_bytes);
  uint64_t beyond = 0;
  ForEachField(
      executor, at, Placement{},
      [&](const Reference& reference) {
        return Moved{SectionAddress(space_, table_[reference.target], reference.target_section), 0};
      },
      [&](uint32_t site, arch::FieldClass field, uint32_t rest, const arch::Ends& ends, const arch::Ends& normal) {
        uint8_t* bytes_at = site < executor.code_bytes ? code + site : data + (site - executor.code_bytes);
        beyond += ChecksumBeyond(site, arch::Shift(field, bytes_at, rest, ends, normal));
      });
  uint64_t sum = Checksum(Checksum(0, code, code_span_bytes), data, data_span_bytes) + beyond;
  if (static_cast<uint32_t>(sum) == executor.checksum) return;

  // Something differs. With full records the field can be named.
  size_t before = problems->size();
  FindWrongFields(index, problems);
  if (problems->size() == before)
    problems->push_back({table_.IdOf(index), Section::kCode, -1, executor.checksum, static_cast<uint32_t>(sum),
                         "the checksum of code and data"});
}

void Relocator::FindWrongFields(uint32_t index, std::vector<Problem>* problems) const {
  const std::vector<RelocSpec>* record = reloc_check_.FindFullRecord(index);
  if (record == nullptr) return;
  Placement at = PlacementOf(space_, table_[index]);
  for (const RelocSpec& reloc : *record) {
    if (reloc.section == Section::kState) continue;
    const arch::KindInfo& info = *arch::FindKind(reloc.kind);
    uint64_t symbol = reloc.target;
    if (reloc.target_kind <= TargetKind::kOwnState)
      symbol += AddressIn(at, static_cast<Section>(reloc.target_kind));
    else if (reloc.target_kind == TargetKind::kExecutor)
      symbol = SectionAddress(space_, table_[IndexOf(reloc.target)], reloc.target_section) + reloc.target_offset;
    else if (reloc.target_kind != TargetKind::kAddress)
      continue;                       // of the executor's own state span: the checksum has it
    if (info.through_slot) continue;  // FarSlots::Verify checks the far slot
    uint64_t site = AddressIn(at, reloc.section) + reloc.offset;
    uint64_t expected = arch::ValueOf(info.field, symbol + static_cast<uint64_t>(reloc.addend), site);
    if (info.is_branch && !arch::Check(info, expected)) continue;  // through a veneer
    uint64_t found = arch::Read(info, reinterpret_cast<const uint8_t*>(site));
    if (found != expected)
      problems->push_back({table_.IdOf(index), reloc.section, reloc.offset, expected, found, info.name});
  }
}

}  // namespace jit_arena
