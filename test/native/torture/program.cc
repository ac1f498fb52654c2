#include "torture/program.h"

namespace torture {
namespace {

uint64_t SignExtended(uint64_t value) { return static_cast<uint64_t>(int64_t{static_cast<int32_t>(value)}); }

}  // namespace

OutsideKind OutsideOf(uint64_t key) {
  uint64_t choice = Mix(LifeOf(key) + 7) & 7;
  return choice == 0 ? OutsideKind::kBranch : choice == 1 ? OutsideKind::kSlot : OutsideKind::kNone;
}

uint32_t ExitTagOf(uint64_t key, uint32_t exit) { return static_cast<uint32_t>(Mix(LifeOf(key) + 8)) + exit; }

uint64_t OutsideStep(uint64_t sum) { return (sum ^ sum >> 29) * 0x9e3779b97f4a7c15; }

uint64_t Step(uint64_t sum, uint64_t key) {
  uint64_t life = LifeOf(key);
  sum *= SignExtended(Mix(life) | 1);
  sum += Mix(life + 1);
  sum ^= Mix(life + 2);
  sum += SignExtended(Mix(life + 3));
  for (uint64_t rounds = Mix(life + 6) & 15; rounds != ~uint64_t{0}; rounds--) {
    sum += SignExtended(Mix(life + 4));
    sum = sum << 7 | sum >> 57;
  }
  sum += key;
  sum += Mix(life + 5);
  return OutsideOf(key) == OutsideKind::kNone ? sum : OutsideStep(sum);
}

Program Program::Ledger() {
  Program program;
  program.sections[0] = {0xC3};
  program.sections[2].resize(8);
  program.exits = 1;
  return program;
}

Program Program::Filler(uint32_t bytes) {
  Program program;
  program.sections[0].resize(bytes, 0x90);
  program.sections[1].resize(bytes, 0x55);
  program.sections[2].resize(bytes, 0x33);
  return program;
}

jit_arena::ExecutorSpec Program::Spec() const {
  jit_arena::ExecutorSpec spec;
  for (int section = 0; section < jit_arena::kSections; section++) {
    spec.bytes[section] = sections[section].data();
    spec.sizes[section] = static_cast<uint32_t>(sections[section].size());
    spec.aligns[section] = aligns[section];
  }
  spec.relocs = relocs.data();
  spec.reloc_count = static_cast<uint32_t>(relocs.size());
  spec.exit_count = exits;
  spec.exit_tags = exit_tags.empty() ? nullptr : exit_tags.data();
  spec.entries = entries.empty() ? nullptr : entries.data();
  spec.entry_count = static_cast<uint32_t>(entries.size());
  return spec;
}

}  // namespace torture
