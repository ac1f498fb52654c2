// What holds of every object that could be read, whatever its bytes: for the fuzzer and the tests.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "object/object_file.h"
#include "object/object_units.h"

namespace test {

// The first broken rule, or null: also when the object was refused, with one of the codes for it.
inline const char* FindBrokenObjectRule(const uint8_t* given, size_t size) {
  using namespace jit_arena;
  // A block of its own of exactly this size, so that a sanitizer sees every read behind it.
  std::vector<uint8_t> bytes(given, given + size);
  bytes.shrink_to_fit();
  auto is_expected = [](ErrorCode code) {
    return code == ErrorCode::kObject || code == ErrorCode::kObjectUnsupported || code == ErrorCode::kRelocKind;
  };
  Result<ObjectFile> file = ReadObject(bytes.data(), bytes.size(), ReadFor::kExecutors);
  if (!file.ok()) return is_expected(file.status().code()) ? nullptr : "an error of another kind";
  for (const ObjectReloc& reloc : file.value().relocs)
    if (reloc.symbol >= file.value().symbols.size()) return "a reloc of no symbol";
  Result<ObjectUnits> made = MakeUnits(file.value());
  if (!made.ok()) return is_expected(made.status().code()) ? nullptr : "an error of another kind";

  const ObjectUnits& units = made.value();
  for (const ObjectUnit& unit : units.units) {
    if (unit.sizes[0] == 0) return "a unit without code";
    if (unit.entries.empty()) return "a unit without an entry";
    for (uint32_t entry : unit.entries)
      if (entry >= unit.sizes[0]) return "an entry outside the code";
    uint64_t total = 0;
    for (int i = 0; i < kSections; i++) {
      if (unit.bytes[i].size() > unit.sizes[i]) return "more bytes than the section has";
      if (unit.aligns[i] == 0 || (unit.aligns[i] & (unit.aligns[i] - 1)) != 0) return "an alignment of no power of two";
      total += unit.sizes[i];
    }
    if (total > 2 * kMaxObjectBytes) return "a unit larger than any arena";
    for (const UnitReloc& reloc : unit.relocs) {
      const RelocSpec& spec = reloc.spec;
      const arch::KindInfo* info = arch::FindKind(spec.kind);
      if (info == nullptr) return "a kind that does not exist";
      if (info->through_slot) return "a slot of the arena's";
      if (uint64_t{spec.offset} + arch::FieldOf(info->field).bytes > unit.sizes[static_cast<int>(spec.section)])
        return "a site outside its section";
      if (reloc.asked != kNoIndex && reloc.asked >= units.asked.size()) return "a symbol that does not exist";
      if (reloc.asked != kNoIndex && !units.asked[reloc.asked].defined) continue;
      if (spec.target_kind == TargetKind::kBatchMember) {
        if (spec.target >= units.units.size()) return "a unit that does not exist";
        if (spec.target_offset > units.units[spec.target].sizes[static_cast<int>(spec.target_section)])
          return "a target outside the other unit";
      } else if (spec.target_kind <= TargetKind::kOwnState) {
        if (spec.target > unit.sizes[static_cast<int>(spec.target_kind)]) return "a target outside its section";
      } else if (spec.target_kind != TargetKind::kAddress) {
        return "a target of another kind";
      }
    }
  }
  std::set<std::string_view> names;
  for (const ObjectExport& exported : units.exports) {
    if (exported.unit >= units.units.size()) return "a symbol of no unit";
    const ObjectUnit& unit = units.units[exported.unit];
    if (exported.offset > unit.sizes[static_cast<int>(exported.section)]) return "a symbol outside its section";
    if (exported.entry != kNoIndex && exported.entry >= unit.entries.size()) return "an entry that does not exist";
    if (!names.insert(exported.name).second) return "a name twice";
  }
  for (const std::vector<CalledEntry>* calls : {&units.constructors, &units.destructors})
    for (const CalledEntry& call : *calls)
      if (call.unit >= units.units.size() || call.entry >= units.units[call.unit].entries.size())
        return "a constructor or destructor that is no entry";
  for (const ObjectUnit& unit : units.units) {
    const size_t size = unit.frames.bytes.size();
    for (const FrameTable::Fixup& fixup : unit.frames.fixups) {
      if (fixup.at + size_t{8} > size) return "an address outside of the unwinder's table";
      if (fixup.offset > unit.sizes[static_cast<int>(fixup.section)])
        return "a frame or a handler outside of its section";
    }
    for (const ObjectUnit::AskedOfFrames& asks : unit.frames_ask)
      if (asks.at + size_t{8} > size || asks.asked >= units.asked.size()) return "an address of no symbol";
  }
  for (const IfuncPlace& ifunc : units.ifuncs) {
    if (ifunc.resolver.unit >= units.units.size() || ifunc.slot.unit >= units.units.size())
      return "an IFUNC of no unit";
    if (ifunc.resolver.entry >= units.units[ifunc.resolver.unit].entries.size()) return "a resolver that is no entry";
    if (ifunc.slot.offset + 8 > units.units[ifunc.slot.unit].sizes[2]) return "a slot outside its state";
  }
  for (const ImmovableReason& reason : units.reasons) {
    if (reason.unit >= units.units.size()) return "a reason for no unit";
    if (units.units[reason.unit].movable) return "a reason for a unit that is movable";
  }
  return nullptr;
}

}  // namespace test
