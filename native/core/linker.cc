#include "core/linker.h"

namespace jit_arena {

Linker::Linker(CodeSpace& space, ExecutorTable& table, uint32_t max_references, bool full_records)
    : far_slots(space, table, max_references),
      references(table, far_slots, max_references),
      exits(space, table, references),
      reloc_check(space, table, references, far_slots, exits, full_records),
      relocator(space, table, references, far_slots, exits, reloc_check),
      table_(table) {}

void Linker::ForgetReferences(uint32_t index) {
  // A thread that is still in the executor leaves it at its next exit.
  references.RemoveOutbound(index, [&](uint32_t exit) { exits.MakeCold(exits.RecordOf(index, exit)); });
  exits.UnlinkInbound(index);
  reloc_check.ForgetKept(index);
}

std::string Linker::FindBrokenRule() const {
  if (std::string broken = references.FindBrokenRule(); !broken.empty()) return broken;
  return reloc_check.FindBrokenRule();
}

size_t Linker::MetadataBytes() const {
  return sizeof *this + references.MetadataBytes() + far_slots.MetadataBytes() + reloc_check.MetadataBytes();
}

}  // namespace jit_arena
