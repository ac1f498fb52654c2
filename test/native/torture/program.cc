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
  constexpr size_t kBytesToCopy = 100 * 1024;
  Program program;
  program.sections[0] = {0xC3};
  program.sections[2].resize(kBytesToCopy);
  program.exits = 1;
  return program;
}

}  // namespace torture
