#include "support/linker_rig.h"

#include "test.h"

using namespace jit_arena;

namespace {

FakeMemory::Options Real() {
  FakeMemory::Options options;
  options.real = true;
  return options;
}

}  // namespace

LinkerRig::LinkerRig() : space(std::make_unique<FakeMemory>(Real()), 4 * kSlabBytes) {
  CHECK(space.Reserve(4 * kSlabBytes).ok());
}

uint32_t LinkerRig::Place(uint32_t code_bytes, bool movable) {
  uint32_t index = table.Add();
  Executor& executor = table[index];
  executor.code_bytes = code_bytes;
  executor.movable = movable;
  executor.code_span = space.Allocate(Zone::kCode, code_bytes, 16, index, Section::kCode).value();
  executor.marked = true;
  batch.push_back(index);
  return index;
}

void LinkerRig::Freeze(const std::vector<Program>& programs) {
  linker.reloc_check.BeginFreeze();
  std::vector<size_t> checks;
  for (size_t i = 0; i < batch.size(); i++)
    checks.push_back(linker.reloc_check.Check(batch[i], programs[i].Spec(), batch).value());
  {
    WriteScope scope(space, "test");
    for (uint32_t index : batch) CHECK(linker.relocator.Open(scope, index).ok());
    for (size_t i = 0; i < batch.size(); i++) linker.relocator.Write(scope, batch[i], programs[i].Spec(), checks[i]);
  }
  for (uint32_t index : batch) {
    table[index].marked = false;
    table[index].SetState(ExecutorState::kFrozen);
    table[index].entry = AddressOf(index);
    space.SetState(table[index].code_span, SpanState::kLive);
  }
}
