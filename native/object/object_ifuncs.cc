#include "object/object_ifuncs.h"

namespace jit_arena {

void AddIfuncStubs(ObjectFile* file) {
  auto stubs = static_cast<uint32_t>(file->sections.size());
  uint32_t slots = stubs + 1;
  auto slots_symbol = static_cast<uint32_t>(file->symbols.size());
  for (uint32_t i = 0; i < slots_symbol; i++) {
    ObjectSymbol& symbol = file->symbols[i];
    if (!symbol.is_ifunc) continue;
    auto number = static_cast<uint32_t>(file->ifuncs.size());
    file->ifuncs.push_back({symbol.name, symbol.section, symbol.value});
    symbol.section = stubs;
    symbol.value = uint64_t{number} * kSlotJumpBytes;
    symbol.size = kSlotJumpBytes;
    symbol.is_function = true;
  }
  auto count = static_cast<uint32_t>(file->ifuncs.size());
  if (count == 0) return;

  ObjectSymbol of_slots;
  of_slots.name = ".ifunc";
  of_slots.place = ObjectSymbol::Place::kSection;
  of_slots.is_section = true;
  of_slots.section = slots;
  file->symbols.push_back(of_slots);

  std::vector<uint8_t>& stub_bytes = file->made_bytes.emplace_back(size_t{count} * kSlotJumpBytes);
  ObjectSection of_stubs;
  of_stubs.name = ".text";
  of_stubs.role = ObjectRole::kCode;
  of_stubs.size = count * kSlotJumpBytes;
  of_stubs.align = kSlotJumpBytes;
  of_stubs.bytes = stub_bytes.data();
  of_stubs.first_reloc = static_cast<uint32_t>(file->relocs.size());
  of_stubs.reloc_count = count * kSlotJumpFieldCount;
  for (uint32_t i = 0; i < count; i++) {
    WriteSlotJump(&stub_bytes[size_t{i} * kSlotJumpBytes]);
    for (uint32_t j = 0; j < kSlotJumpFieldCount; j++) {
      const SlotJumpField& field = kSlotJumpFields[j];
      file->relocs.push_back({i * kSlotJumpBytes + field.at, field.kind, GotUse::kNone, field.kind, slots_symbol,
                              int64_t{i} * kSlotBytes + field.addend});
    }
  }
  ObjectSection state;
  state.name = ".ifunc";
  state.role = ObjectRole::kState;
  state.size = count * kSlotBytes;
  state.align = kSlotBytes;
  file->sections.push_back(of_stubs);
  file->sections.push_back(state);
  file->ifunc_slots = slots;
}

}  // namespace jit_arena
