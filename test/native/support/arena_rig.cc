#include "support/arena_rig.h"

#include "base/bits.h"
#include "test.h"

using namespace jit_arena;

ExecutorSpec Program::Spec() const {
  ExecutorSpec spec;
  for (int section = 0; section < kSections; section++) {
    spec.bytes[section] = sections[section].empty() ? nullptr : sections[section].data();
    spec.sizes[section] = static_cast<uint32_t>(sections[section].size());
    spec.aligns[section] = aligns[section];
  }
  spec.relocs = relocs.data();
  spec.reloc_count = static_cast<uint32_t>(relocs.size());
  spec.movable = movable;
  return spec;
}

Program Program::Of(const x64::Assembler& code) {
  Program program;
  program.sections[0] = code.bytes;
  program.relocs = code.relocs;
  return program;
}

Program Program::Of(uint32_t code_bytes, uint32_t data_bytes, uint32_t state_bytes, uint32_t seed) {
  Program program;
  uint32_t sizes[] = {code_bytes, data_bytes, state_bytes};
  uint32_t value = seed * 2654435761u + 1;
  for (int section = 0; section < kSections; section++) {
    program.sections[section].resize(sizes[section]);
    for (uint8_t& byte : program.sections[section]) {
      value = value * 1664525 + 1013904223;
      byte = static_cast<uint8_t>(value >> 24);
    }
  }
  return program;
}

ArenaRig::ArenaRig(const Options& options) {
  FakeMemory::Options fake;
  fake.writer = options.writer;
  fake.real = true;
  fake.can_punch = options.can_punch;
  fake.page_bytes = os::PageBytes();
  auto owned = std::make_unique<FakeMemory>(fake);
  memory = owned.get();
  ArenaOptions of_arena;
  of_arena.max_bytes = options.max_bytes;
  of_arena.apart = options.apart;
  of_arena.max_retired_bytes = options.max_retired_bytes;
  of_arena.full_records = true;
  Result<std::unique_ptr<Arena>> made = Arena::Create(of_arena, std::move(owned));
  CHECK(made.ok());
  arena = std::move(made.value());
  self = arena->reclaimer().Attach();
}

ArenaRig::~ArenaRig() { CheckInvariants(); }

std::vector<ExecutorId> ArenaRig::Install(const std::vector<Program>& programs) {
  std::vector<ExecutorSpec> specs;
  for (const Program& program : programs) specs.push_back(program.Spec());
  std::vector<ExecutorId> ids(programs.size());
  Status failed = arena->Install(specs.data(), static_cast<uint32_t>(specs.size()), ids.data(), self);
  CHECK_EQ(std::string(failed.ok() ? "" : failed.error().message), "");
  return ids;
}

ExecutorId ArenaRig::Install(const Program& program) { return Install(std::vector<Program>{program})[0]; }

void ArenaRig::Free(const std::vector<ExecutorId>& ids) {
  Status failed = arena->Free(ids.data(), static_cast<uint32_t>(ids.size()), self);
  CHECK_EQ(std::string(failed.ok() ? "" : failed.error().message), "");
}

void ArenaRig::Free(ExecutorId id) { Free(std::vector<ExecutorId>{id}); }

void ArenaRig::CheckInvariants() {
  CHECK_EQ(arena->CheckInvariants(), "");
  CHECK_EQ(memory->violations(), "");
  CHECK_EQ(memory->open_windows(), 0);
}

uint64_t ArenaRig::AddressOf(ExecutorId id) {
  Result<ExecutorInfo> info = arena->Describe(id);
  CHECK(info.ok());
  return info.ok() ? info.value().address : 0;
}

std::vector<uint8_t> ArenaRig::Read(ExecutorId id, Section section) {
  Result<ExecutorInfo> info = arena->Describe(id);
  CHECK(info.ok());
  if (!info.ok()) return {};
  std::vector<uint8_t> bytes(info.value().sizes[static_cast<int>(section)]);
  CHECK(arena->Read(id, section, 0, bytes.data(), static_cast<uint32_t>(bytes.size())).ok());
  return bytes;
}

void ArenaRig::MakeMove(const std::vector<ExecutorId>& ids) {
  std::vector<uint64_t> before;
  for (ExecutorId id : ids) before.push_back(AddressOf(id));
  size_t moved = 0;
  for (int round = 0; round < 8 && moved < ids.size(); round++) {
    // Enough to fill every slab that has room, with small ones at their ends, which keep them from being filled again.
    // Their size grows, so that they do not fit into what their predecessors left in front of somebody.
    uint32_t small = 1500 + 160 * (make_moves_++ % 32);
    std::vector<ExecutorId> filling;
    for (int i = 0; i < 24; i++) filling.push_back(Install(Program::Of(20000, 20000)));
    std::vector<ExecutorId> last;
    for (int i = 0; i < 60; i++) last.push_back(Install(Program::Of(small, small)));
    Free(filling);
    Collect();
    Free(last);
    moved = 0;
    for (size_t i = 0; i < ids.size(); i++) moved += AddressOf(ids[i]) != before[i];
  }
  CHECK_EQ(moved, ids.size());
}
