// Arenas of a CPU whose fields are not sums in plain bytes: a page-relative one, which a move cannot rewrite from its
// old bits and two distances alone, and immediates in pieces. The core is the same as ever; only the kinds are those of
// fake_cpu/. What stands in code is read back as that CPU would.
#include <cstdio>
#include <string>
#include <vector>

#include "base/bits.h"
#include "fake_cpu/kinds.h"
#include "support/arena_rig.h"
#include "support/linker_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kFar = 0x1234'5678'9AB0;
// Every executor says where it is: its sections' addresses are the first words of its data, behind each other.
constexpr uint32_t kDataBytes = 96, kStateBytes = 48;

// What the CPU finds at an address that it makes in two steps, by the instructions at `page_at` and `in_page_at`.
uint64_t AddressMade(uint64_t page_at, uint64_t in_page_at) {
  uint32_t word = LoadAs<uint32_t>(reinterpret_cast<const uint8_t*>(page_at));
  int64_t pages = static_cast<int32_t>((word << 8 & ~((1u << 13) - 1)) | (word >> 29 & 3) << 11) >> 11;
  uint32_t other = LoadAs<uint32_t>(reinterpret_cast<const uint8_t*>(in_page_at));
  return (page_at & ~uint64_t{4095}) + static_cast<uint64_t>(pages * 4096) + (other << 10 >> 20);
}

uint64_t BranchGoesTo(uint64_t at) {
  uint32_t word = LoadAs<uint32_t>(reinterpret_cast<const uint8_t*>(at));
  int32_t distance = static_cast<int32_t>((word << 12 & 0xFFFF'0000) | (word >> 20 & 0xFFF) << 4) >> 4;
  return at + static_cast<uint64_t>(int64_t{distance});
}

template <class T>
T At(uint64_t address) {
  return LoadAs<T>(reinterpret_cast<const uint8_t*>(address));
}

// Two instructions that make an address, or one that branches, and where they must lead.
struct Use {
  enum class How { kPair, kSlotPair, kBranch, kVeneer } how;
  ExecutorId id;
  uint32_t at;  // offset in code
  ExecutorId target;
  Section section;  // of the target
  uint64_t offset;  // in the section; or the address, when there is no target
};

class Host {
 public:
  explicit Host(const ArenaRig::Options& options) : rig_(options) {}

  // An executor that uses everything: itself, `other`, and what stays. `seed` says how long it is, so that executors
  // lie at different places in their pages.
  void Install(uint32_t seed, ExecutorId other, bool movable) {
    Program program = Program::Of(512 + 16 * (seed * 37 % 101), kDataBytes, kStateBytes, seed);
    program.movable = movable;
    for (int section = 0; section < kSections; section++)
      program.relocs.push_back({Section::kData, fake_cpu::kAddress, static_cast<TargetKind>(section),
                                static_cast<uint32_t>(8 * section), 0, 0});
    std::vector<Use> uses;
    uint32_t at = 4 * (seed % 8);
    auto pair = [&](RelocSpec target, ExecutorId id, Section section, uint64_t offset) {
      bool slot = target.kind == fake_cpu::kSlotPage;
      uses.push_back({slot ? Use::How::kSlotPair : Use::How::kPair, 0, at, id, section, offset});
      for (uint8_t second : {0, 1}) {
        target.offset = at;
        program.relocs.push_back(target);
        program.relocs.back().kind = static_cast<arch::RelocKind>(target.kind + second);
        at += 4;
      }
      at += 4 * (seed % 3);
    };
    auto branch = [&](RelocSpec target, Use::How how, ExecutorId id, uint64_t offset) {
      target.offset = at;
      target.kind = fake_cpu::kBranch;
      uses.push_back({how, 0, at, id, Section::kCode, offset});
      program.relocs.push_back(target);
      at += 4;
    };
    // Addends lead across the end of a page, or out of the section.
    for (int section = 0; section < kSections; section++) {
      auto own = static_cast<TargetKind>(section);
      for (int64_t addend : {0, 4090, -16})
        pair({Section::kCode, fake_cpu::kPage, own, 0, 12, addend}, kSelf, static_cast<Section>(section),
             12 + static_cast<uint64_t>(addend));
      if (other == 0) continue;
      RelocSpec theirs{Section::kCode, fake_cpu::kPage, TargetKind::kExecutor, 0, other, 8};
      theirs.target_section = static_cast<Section>(section);
      theirs.target_offset = 4;
      pair(theirs, other, theirs.target_section, 12);
    }
    pair({Section::kCode, fake_cpu::kSlotPage, TargetKind::kAddress, 0, kFar, 0}, 0, Section::kCode, kFar);
    pair({Section::kCode, fake_cpu::kSlotPage, TargetKind::kOwnCode, 0, 16, 0}, kSelf, Section::kCode, 16);
    branch({Section::kCode, 0, TargetKind::kOwnCode, 0, 20, 0}, Use::How::kBranch, kSelf, 20);
    branch({Section::kCode, 0, TargetKind::kAddress, 0, kFar, 32}, Use::How::kVeneer, 0, kFar + 32);
    if (other != 0) branch({Section::kCode, 0, TargetKind::kExecutor, 0, other, 0}, Use::How::kBranch, other, 0);

    ExecutorId id = rig_.Install(program);
    for (Use& use : uses) {
      use.id = id;
      if (use.target == kSelf) use.target = id;
      uses_.push_back(use);
    }
    if (movable) movable_.push_back(id);
    last_ = id;
  }

  void CheckUses() {
    for (const Use& use : uses_) {
      uint64_t at = AddressOf(use.id, Section::kCode) + use.at;
      uint64_t expected = use.offset + (use.target != 0 ? AddressOf(use.target, use.section) : 0);
      switch (use.how) {
        case Use::How::kPair:
          CHECK_EQ(AddressMade(at, at + 4), expected);
          break;
        case Use::How::kSlotPair:
          CHECK_EQ(At<uint64_t>(AddressMade(at, at + 4)), expected);
          break;
        case Use::How::kBranch:
          CHECK_EQ(BranchGoesTo(at), expected);
          break;
        case Use::How::kVeneer:
          CHECK_EQ(At<uint64_t>(BranchGoesTo(at) + arch::kFarSlotGotOffset), expected);
          break;
      }
    }
    rig_.CheckInvariants();
  }

  uint64_t AddressOf(ExecutorId id, Section section) {
    uint64_t address = LoadAs<uint64_t>(rig_.Read(id, Section::kData).data() + 8 * static_cast<int>(section));
    std::optional<FoundAddress> found = rig_.arena->Find(address);
    CHECK(found && found->executor == id && found->section == section && found->offset == 0 && !found->retired);
    return address;
  }

  void MoveAll() { rig_.MakeMove(movable_); }
  ArenaRig& rig() { return rig_; }
  ExecutorId last() const { return last_; }
  size_t uses() const { return uses_.size(); }

 private:
  static constexpr ExecutorId kSelf = ~ExecutorId{0};
  ArenaRig rig_;
  std::vector<Use> uses_;
  std::vector<ExecutorId> movable_;
  ExecutorId last_ = 0;
};

}  // namespace

TEST(fake_cpu_fields_lead_to_their_targets_after_every_move) {
  CHECK_EQ(std::string(arch::kCpuName), "a test CPU");
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      int failed_before = test::failed_checks;
      Host host({.writer = writer, .apart = apart, .max_bytes = 32 * kSlabBytes});
      for (uint32_t seed = 1; seed <= 40; seed++) host.Install(seed, host.last(), seed % 4 != 0);
      CHECK(host.uses() > 600);
      host.CheckUses();
      for (int round = 0; round < 3; round++) {
        host.MoveAll();
        host.CheckUses();
      }
      if (test::failed_checks != failed_before)
        std::printf("  (%s, %s)\n", os::WriterName(writer), apart ? "apart" : "together");
    }
  }
}

// Pages change where distances stay: what x86-64 may drop has to be kept.
TEST(fake_cpu_keeps_pages_within_a_span) {
  auto kept_of = [](fake_cpu::Number kind, bool movable) {
    ArenaRig rig;
    Program program = Program::Of(64, 32);
    program.movable = movable;
    program.relocs = {{Section::kCode, kind, TargetKind::kOwnData, 8, 4, 0}};
    rig.Install(program);
    return rig.arena->Stats().kept_relocs;
  };
  CHECK_EQ(kept_of(fake_cpu::kPage, true), 1);
  CHECK_EQ(kept_of(fake_cpu::kInPage, true), 1);
  CHECK_EQ(kept_of(fake_cpu::kAddress, true), 1);
  CHECK_EQ(kept_of(fake_cpu::kBranch, true), 0);
  for (fake_cpu::Number kind : {fake_cpu::kPage, fake_cpu::kInPage, fake_cpu::kAddress, fake_cpu::kBranch})
    CHECK_EQ(kept_of(kind, false), 0);
}

// Every bit of code counts, those of fields and those between the pieces of one.
TEST(fake_cpu_verify_sees_each_bit) {
  LinkerRig rig;
  uint32_t target = rig.Place(48, true), source = rig.Place(48, true);
  std::vector<Program> programs = {Program::Of(48), Program::Of(48)};
  programs[1].relocs = {{Section::kCode, fake_cpu::kPage, TargetKind::kBatchMember, 4, 0, 40},
                        {Section::kCode, fake_cpu::kInPage, TargetKind::kBatchMember, 8, 0, 40},
                        {Section::kCode, fake_cpu::kBranch, TargetKind::kBatchMember, 12, 0, 0},
                        {Section::kCode, fake_cpu::kPage, TargetKind::kOwnCode, 16, 8, 0}};
  rig.Freeze(programs);
  auto problems_of = [&](uint32_t index) {
    std::vector<Problem> problems;
    rig.linker.relocator.Verify(index, &problems);
    return problems;
  };
  CHECK(problems_of(source).empty() && problems_of(target).empty());
  for (uint32_t bit = 0; bit < 48 * 8; bit++) {
    auto flip = [&] {
      WriteScope scope(rig.space, "test");
      SpanId span = rig.table[source].code_span;
      CHECK(scope.Open(span).ok());
      uint8_t byte = static_cast<uint8_t>(At<uint8_t>(rig.AddressOf(source) + bit / 8) ^ 1 << bit % 8);
      scope.Patch(span, bit / 8, &byte, 1);
    };
    flip();
    CHECK(!problems_of(source).empty());
    flip();
  }
  CHECK(problems_of(source).empty());
}

// Messages name this CPU's kinds, and no other's.
TEST(fake_cpu_is_named_in_refusals) {
  ArenaRig rig;
  auto refusal = [&](RelocSpec reloc) {
    Program program = Program::Of(64, 32);
    program.relocs = {reloc};
    ExecutorSpec spec = program.Spec();
    ExecutorId id = 0;
    Status failed = rig.arena->Install(&spec, 1, &id, rig.self);
    CHECK(!failed.ok());
    return failed.ok() ? Error{} : failed.error();
  };
  Error far = refusal({Section::kCode, fake_cpu::kPage, TargetKind::kAddress, 8, kFar, 0});
  CHECK(far.code == ErrorCode::kRelocRange && far.kind == "PAGE");
  CHECK(far.message.find("SLOT_PAGE") != std::string::npos && far.message.find("x86") == std::string::npos);
  Error slot = refusal({Section::kCode, fake_cpu::kSlotPage, TargetKind::kOwnData, 8, 0, 0});
  CHECK(slot.code == ErrorCode::kRelocTarget);
  CHECK(slot.message.find("PAGE and IN_PAGE") != std::string::npos);
  Error unknown = refusal({Section::kCode, 24, TargetKind::kOwnData, 8, 0, 0});
  CHECK(unknown.code == ErrorCode::kRelocKind);
  CHECK(unknown.message.find("a test CPU") != std::string::npos);
}
