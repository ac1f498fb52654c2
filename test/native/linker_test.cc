// What a reloc puts into its field: the psABI's expressions restated here and read back from memory, when frozen and
// after moves; what is kept of a reloc and what is not; far slots; and every way to be refused.
#include "core/linker.h"

#include <elf.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bits.h"
#include "support/arena_rig.h"
#include "support/linker_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kFar = 0x1234'5678'9AB0;   // out of every branch's reach
constexpr uint64_t kLow = 0x1234'5678;        // fits 32 bits, signed and unsigned
constexpr uint64_t kHigh = ~uint64_t{0xFFF};  // fits 32 bits, signed

constexpr uint32_t kCodeBytes = 160, kDataBytes = 96, kStateBytes = 48;
constexpr uint32_t kSite = 64;  // of the reloc under test, in code or in data

enum class Form { kAbsolute, kRelative, kSlot };
struct Kind {
  arch::RelocKind number;
  Form form;
  uint32_t bytes;
  bool sign_extends;
};
const Kind kKinds[] = {
    {R_X86_64_64, Form::kAbsolute, 8, false},        // S + A
    {R_X86_64_PC32, Form::kRelative, 4, true},       // S + A - P
    {R_X86_64_PLT32, Form::kRelative, 4, true},      // L + A - P
    {R_X86_64_32, Form::kAbsolute, 4, false},        // S + A, zero-extended
    {R_X86_64_32S, Form::kAbsolute, 4, true},        // S + A, sign-extended
    {R_X86_64_PC64, Form::kRelative, 8, false},      // S + A - P
    {R_X86_64_GOTPCREL, Form::kSlot, 4, true},       // G + GOT + A - P
    {R_X86_64_GOTPCRELX, Form::kSlot, 4, true},      // the same
    {R_X86_64_REX_GOTPCRELX, Form::kSlot, 4, true},  // the same
};

// What a reloc may refer to. The last three are parts of another executor.
enum class Class { kOwnCode, kOwnData, kOwnState, kNear, kFar, kLow, kHigh, kOther, kMember, kOtherData, kMemberState };
constexpr int kClassCount = 11;

bool IsOwn(Class target) { return target <= Class::kOwnState; }
bool IsExecutor(Class target) { return target >= Class::kOther; }
bool IsMember(Class target) { return target == Class::kMember || target == Class::kMemberState; }
Section SectionOf(Class target) {
  if (target == Class::kOwnData || target == Class::kOtherData) return Section::kData;
  if (target == Class::kOwnState || target == Class::kMemberState) return Section::kState;
  return Section::kCode;
}
// From the start of the section.
constexpr uint32_t kTargetOffset = 12;

// One reloc under test, in an executor that also says where its sections are.
struct Subject {
  Kind kind;
  Class target;
  Section section;
  int64_t addend;
  bool movable;
  uint64_t fixed_address = 0;  // the target, when it is an address
  ExecutorId id = 0;
  ExecutorId other = 0;

  std::string Describe() const {
    return Format("kind %u, target class %d, in %s, addend %lld, %smovable", kind.number, static_cast<int>(target),
                  SectionName(section), static_cast<long long>(addend), movable ? "" : "im");
  }
};

// An executor that says where its sections are.
Program Located(uint32_t seed) {
  Program program = Program::Of(kCodeBytes, kDataBytes, kStateBytes, seed);
  program.relocs = {{Section::kCode, R_X86_64_64, TargetKind::kOwnCode, 8, 0, 0},
                    {Section::kCode, R_X86_64_64, TargetKind::kOwnData, 16, 0, 0},
                    {Section::kCode, R_X86_64_64, TargetKind::kOwnState, 24, 0, 0}};
  return program;
}

Program ProgramOf(const Subject& subject) {
  Program program = Located(subject.kind.number);
  program.movable = subject.movable;
  RelocSpec reloc{subject.section, subject.kind.number,   TargetKind::kAddress,
                  kSite,           subject.fixed_address, subject.addend};
  if (IsOwn(subject.target)) {
    constexpr TargetKind kOwn[] = {TargetKind::kOwnCode, TargetKind::kOwnData, TargetKind::kOwnState};
    reloc.target_kind = kOwn[static_cast<int>(SectionOf(subject.target))];
    reloc.target = kTargetOffset;
  } else if (IsExecutor(subject.target)) {
    reloc.target_kind = IsMember(subject.target) ? TargetKind::kBatchMember : TargetKind::kExecutor;
    reloc.target = IsMember(subject.target) ? 1 : subject.other;
    reloc.target_section = SectionOf(subject.target);
    reloc.target_offset = kTargetOffset;
  }
  program.relocs.push_back(reloc);
  return program;
}

// Where a section is: what the code says, confirmed by the books.
uint64_t SectionAddress(ArenaRig& rig, ExecutorId id, Section section) {
  uint64_t address = LoadAs<uint64_t>(rig.Read(id, Section::kCode).data() + 8 + 8 * static_cast<int>(section));
  std::optional<FoundAddress> found = rig.arena->Find(address);
  CHECK(found && found->executor == id && found->section == section && found->offset == 0 && !found->retired);
  if (section == Section::kCode) CHECK_EQ(address, rig.AddressOf(id));
  return address;
}

template <class T>
T At(uint64_t address) {
  return LoadAs<T>(reinterpret_cast<const uint8_t*>(address));
}

// Whether the psABI's value can be had at all, and the code of the refusal if not.
ErrorCode ExpectedRefusal(const Subject& subject) {
  switch (subject.kind.form) {
    case Form::kAbsolute:
      if (subject.kind.bytes == 8) return ErrorCode::kOk;
      if (subject.target == Class::kLow) return ErrorCode::kOk;
      if (subject.target == Class::kHigh && subject.kind.sign_extends) return ErrorCode::kOk;
      return ErrorCode::kRelocRange;  // the arena and everything in it is above 4 GiB
    case Form::kRelative:
      // Only a branch can go through a veneer.
      if (subject.kind.number == R_X86_64_PC32 &&
          (subject.target == Class::kFar || subject.target == Class::kLow || subject.target == Class::kHigh))
        return ErrorCode::kRelocRange;
      return ErrorCode::kOk;
    case Form::kSlot:
      // Slots are for code and for what is outside.
      return SectionOf(subject.target) == Section::kCode ? ErrorCode::kOk : ErrorCode::kRelocTarget;
  }
  return ErrorCode::kOk;
}

// The field must stand for what the psABI says.
void CheckField(ArenaRig& rig, const Subject& subject) {
  uint64_t section = SectionAddress(rig, subject.id, subject.section);
  uint64_t place = section + kSite;         // P
  uint64_t symbol = subject.fixed_address;  // S
  if (IsOwn(subject.target) || IsExecutor(subject.target)) {
    ExecutorId owner = IsOwn(subject.target) ? subject.id : subject.other;
    symbol = SectionAddress(rig, owner, SectionOf(subject.target)) + kTargetOffset;
  }

  std::vector<uint8_t> bytes = rig.Read(subject.id, subject.section);
  uint64_t field = subject.kind.bytes == 8     ? LoadAs<uint64_t>(bytes.data() + kSite)
                   : subject.kind.sign_extends ? static_cast<uint64_t>(int64_t{LoadAs<int32_t>(bytes.data() + kSite)})
                                               : LoadAs<uint32_t>(bytes.data() + kSite);
  uint64_t addend = static_cast<uint64_t>(subject.addend);
  switch (subject.kind.form) {
    case Form::kAbsolute:
      CHECK_EQ(field, symbol + addend);
      break;
    case Form::kRelative: {
      bool out_of_reach = subject.kind.number == R_X86_64_PLT32 && !IsOwn(subject.target) &&
                          !IsExecutor(subject.target) && subject.target != Class::kNear;
      if (!out_of_reach) {
        CHECK_EQ(field, symbol + addend - place);
        break;
      }
      // The branch goes to a jump through the eight bytes behind it, and from there to where it would have gone.
      uint64_t veneer = place + 4 + field;
      CHECK(rig.arena->Contains(veneer));
      CHECK_EQ(At<uint16_t>(veneer), 0x25FF);  // jmp [rip + 2]
      CHECK_EQ(At<uint32_t>(veneer + 2), 2);
      CHECK_EQ(At<uint64_t>(veneer + 8), symbol + addend + 4);
      break;
    }
    case Form::kSlot: {
      uint64_t slot = field - addend + place;  // G + GOT
      CHECK(rig.arena->Contains(slot));
      CHECK_EQ(slot % 8, 0);
      CHECK_EQ(At<uint64_t>(slot), symbol);
      break;
    }
  }
}

// Everything that a refused freeze must leave as it was.
bool SameFigures(const ArenaStats& a, const ArenaStats& b) {
  return a.executors == b.executors && a.live_bytes == b.live_bytes && a.span_bytes == b.span_bytes &&
         a.retired_bytes == b.retired_bytes && a.kept_relocs == b.kept_relocs && a.far_slots == b.far_slots &&
         a.page_per_executor_bytes == b.page_per_executor_bytes && a.moves == b.moves &&
         a.committed_bytes == b.committed_bytes;
}

struct Layout {
  os::WriterKind writer;
  bool apart;
};

template <class Body>
void WithEachLayout(Body body) {
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      int failed_before = test::failed_checks;
      body(Layout{writer, apart});
      if (test::failed_checks != failed_before)
        std::printf("  (%s, %s)\n", os::WriterName(writer), apart ? "apart" : "together");
    }
  }
}

}  // namespace

TEST(linker_every_kind_says_its_target_before_and_after_moves) {
  WithEachLayout([](Layout layout) {
    ArenaRig rig({.writer = layout.writer, .apart = layout.apart, .max_bytes = 32 * kSlabBytes});
    // Below the arena: in reach from everywhere in it, and not in it.
    const uint64_t near = rig.AddressOf(rig.Install(Program::Of(16))) - 64 * kMiB;
    std::vector<Subject> subjects;
    std::vector<ExecutorId> movable;
    for (const Kind& kind : kKinds) {
      for (int i = 0; i < kClassCount; i++) {
        Class target = static_cast<Class>(i);
        for (Section section : {Section::kCode, Section::kData}) {
          for (int64_t addend : {-4, 0, 12}) {
            bool is_movable = (subjects.size() + static_cast<size_t>(addend)) % 3 != 0;
            Subject subject{kind, target, section, addend, is_movable};
            subject.fixed_address = target == Class::kNear  ? near
                                    : target == Class::kFar ? kFar
                                    : target == Class::kLow ? kLow
                                                            : kHigh;
            Program other = Located(99);
            if (IsExecutor(target) && !IsMember(target)) subject.other = rig.Install(other);
            Program program = ProgramOf(subject);
            ArenaStats before = rig.arena->Stats();
            ExecutorSpec specs[] = {program.Spec(), other.Spec()};
            ExecutorId ids[2] = {};
            uint32_t count = IsMember(target) ? 2 : 1;
            Status failed = rig.arena->Install(specs, count, ids, rig.self);
            ErrorCode expected = ExpectedRefusal(subject);
            if (failed.code() != expected) std::printf("  %s\n", subject.Describe().c_str());
            CHECK_EQ(std::string(ErrorCodeName(failed.code())), ErrorCodeName(expected));
            if (!failed.ok()) {
              CHECK(failed.error().section == section);
              CHECK(failed.error().offset == kSite);
              CHECK_EQ(failed.error().kind, arch::FindKind(kind.number)->name);
              CHECK(SameFigures(rig.arena->Stats(), before));
              continue;
            }
            subject.id = ids[0];
            if (IsMember(target)) subject.other = ids[1];
            if (subject.movable) movable.push_back(subject.id);
            if (subject.other != 0) movable.push_back(subject.other);
            subjects.push_back(subject);
          }
        }
      }
    }
    CHECK(subjects.size() > 250);
    for (int round = 0; round < 3; round++) {
      for (const Subject& subject : subjects) {
        int failed_before = test::failed_checks;
        CheckField(rig, subject);
        if (test::failed_checks != failed_before) std::printf("  round %d: %s\n", round, subject.Describe().c_str());
      }
      rig.CheckInvariants();
      if (round < 2) rig.MakeMove(movable);
    }
  });
}

// Whether any move can change the field: this executor's, which takes code and data along, or its state's, which stays
// when the executor is immovable. (References to other executors are kept otherwise.)
static bool MustBeKept(const Subject& subject, bool apart) {
  if (!subject.movable) return false;
  bool to_state = subject.target == Class::kOwnState;
  if (subject.kind.form == Form::kAbsolute) return to_state || IsOwn(subject.target);
  if (to_state) return true;
  bool together = !apart || (subject.target == Class::kOwnCode) == (subject.section == Section::kCode);
  bool to_own_span = subject.kind.form == Form::kRelative && IsOwn(subject.target) && together;
  return !to_own_span;
}

TEST(linker_keeps_only_relocs_that_a_move_can_change) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    const uint64_t near = rig.AddressOf(rig.Install(Program::Of(16))) - 64 * kMiB;
    int kept = 0, dropped = 0;
    for (const Kind& kind : kKinds) {
      for (int i = 0; i < kClassCount; i++) {
        Class target = static_cast<Class>(i);
        for (Section section : {Section::kCode, Section::kData}) {
          for (bool movable : {false, true}) {
            Subject subject{kind, target, section, -4, movable};
            subject.fixed_address = target == Class::kNear  ? near
                                    : target == Class::kFar ? kFar
                                    : target == Class::kLow ? kLow
                                                            : kHigh;
            if (ExpectedRefusal(subject) != ErrorCode::kOk || IsMember(target)) continue;
            // To another executor there is a reference instead, but for the slot of one, which is a part of the arena.
            if (IsExecutor(target) && kind.form != Form::kSlot) continue;
            if (IsExecutor(target)) subject.other = rig.Install(Program::Of(16));
            uint64_t before = rig.arena->Stats().kept_relocs;
            subject.id = rig.Install(ProgramOf(subject));
            uint64_t locators = movable ? 3 : 0;
            uint64_t expected = MustBeKept(subject, apart) ? 1 : 0;
            uint64_t found = rig.arena->Stats().kept_relocs - before - locators;
            if (found != expected) std::printf("  %s\n", subject.Describe().c_str());
            CHECK_EQ(found, expected);
            (expected != 0 ? kept : dropped)++;
          }
        }
      }
    }
    CHECK(kept > 20 && dropped > 20);
    rig.Free(rig.arena->Executors().front());
    rig.CheckInvariants();
  }
}

// ---- Far slots

namespace {

Program Caller(uint64_t address, arch::RelocKind kind = R_X86_64_PLT32) {
  Program program = Program::Of(32);
  program.relocs = {{Section::kCode, kind, TargetKind::kAddress, 8, address, -4}};
  return program;
}

Program CallerOf(ExecutorId id, arch::RelocKind kind = R_X86_64_PLT32) {
  Program program = Program::Of(32);
  program.relocs = {{Section::kCode, kind, TargetKind::kExecutor, 8, id, -4}};
  return program;
}

// Where the instruction at the site goes: its end plus the field.
uint64_t Destination(ArenaRig& rig, ExecutorId id) {
  int32_t field = LoadAs<int32_t>(rig.Read(id, Section::kCode).data() + 8);
  return rig.AddressOf(id) + 12 + static_cast<uint64_t>(int64_t{field});
}

}  // namespace

TEST(linker_shares_one_far_slot_per_address) {
  ArenaRig rig;
  std::vector<ExecutorId> callers;
  for (int i = 0; i < 10; i++) {
    callers.push_back(rig.Install(Caller(kFar)));
    callers.push_back(rig.Install(Caller(kFar, R_X86_64_GOTPCREL)));
    CHECK_EQ(rig.arena->Stats().far_slots, 1);
  }
  // One executor with many relocs to it, and another address.
  Program many = Program::Of(64);
  for (uint32_t i = 0; i < 8; i++)
    many.relocs.push_back({Section::kCode, R_X86_64_PLT32, TargetKind::kAddress, 8 * i, i < 6 ? kFar : kFar + 16, -4});
  callers.push_back(rig.Install(many));
  CHECK_EQ(rig.arena->Stats().far_slots, 2);
  uint64_t veneer = Destination(rig, callers[0]);
  CHECK_EQ(Destination(rig, callers[2]), veneer);
  CHECK_EQ(Destination(rig, callers[1]), veneer + arch::kFarSlotGotOffset);
  rig.CheckInvariants();

  // It lasts as long as its last user.
  while (callers.size() > 1) {
    rig.Free(callers.front());
    callers.erase(callers.begin());
    CHECK_EQ(rig.arena->Stats().far_slots, 2);
    CHECK_EQ(At<uint64_t>(veneer + 8), kFar);
  }
  rig.Free(callers);
  CHECK_EQ(rig.arena->Stats().far_slots, 0);
  CHECK_EQ(At<uint8_t>(veneer), arch::kPoisonByte);
  rig.CheckInvariants();
}

TEST(linker_a_far_slot_outlives_the_copies_that_may_still_leave_through_it) {
  ArenaRig rig;
  ExecutorId caller = rig.Install(Caller(kFar));
  uint64_t veneer = Destination(rig, caller);
  {
    Pinned pinned(rig.arena->reclaimer(), *rig.self);
    rig.Free(caller);
    CHECK_EQ(rig.arena->Stats().far_slots, 0);
    ExecutorId next = rig.Install(Caller(kFar + 64));
    CHECK(Destination(rig, next) != veneer);
    CHECK_EQ(At<uint16_t>(veneer), 0x25FF);
    CHECK_EQ(At<uint64_t>(veneer + 8), kFar);
  }
  rig.Collect();
  CHECK_EQ(At<uint8_t>(veneer), arch::kPoisonByte);
}

TEST(linker_slots_of_executors_follow_their_moves) {
  WithEachLayout([](Layout layout) {
    ArenaRig rig({.writer = layout.writer, .apart = layout.apart});
    ExecutorId target = rig.Install(Program::Of(100));
    ExecutorId first = rig.Install(CallerOf(target, R_X86_64_GOTPCRELX));
    ExecutorId second = rig.Install(CallerOf(target, R_X86_64_GOTPCREL));
    CHECK_EQ(rig.arena->Stats().far_slots, 1);
    uint64_t slot = Destination(rig, first);
    CHECK_EQ(Destination(rig, second), slot);
    for (int i = 0; i < 2; i++) {
      CHECK_EQ(At<uint64_t>(slot), rig.AddressOf(target));
      rig.MakeMove({target, first, second});
      CHECK_EQ(Destination(rig, first), slot);
    }
    CHECK(rig.arena->Free(&target, 1, rig.self).code() == ErrorCode::kReferenced);
    rig.Free(first);
    CHECK(rig.arena->Free(&target, 1, rig.self).code() == ErrorCode::kReferenced);
    rig.Free({target, second});
    CHECK_EQ(rig.arena->Stats().far_slots, 0);
  });
}

TEST(linker_a_slot_of_ones_own_code_dies_with_it) {
  ArenaRig rig;
  Program program = Program::Of(64);
  program.relocs = {{Section::kCode, R_X86_64_GOTPCREL, TargetKind::kOwnCode, 8, 32, -4},
                    {Section::kCode, R_X86_64_GOTPCREL, TargetKind::kOwnCode, 16, 0, -4}};
  ExecutorId id = rig.Install(program);
  CHECK_EQ(rig.arena->Stats().far_slots, 2);
  CHECK_EQ(At<uint64_t>(Destination(rig, id)), rig.AddressOf(id) + 32);
  rig.MakeMove({id});
  CHECK_EQ(At<uint64_t>(Destination(rig, id)), rig.AddressOf(id) + 32);
  rig.Free(id);
  CHECK_EQ(rig.arena->Stats().far_slots, 0);
}

TEST(linker_a_used_index_does_not_inherit_far_slots) {
  // The books remember the last user of a far slot by index; a later executor of the same index is another user.
  ArenaRig rig;
  ExecutorId keeps = rig.Install(Caller(kFar));
  ExecutorId first = rig.Install(Caller(kFar));
  rig.Free(first);
  ExecutorId second = rig.Install(Caller(kFar));
  CHECK_EQ(IndexOf(first), IndexOf(second));
  rig.Free(keeps);
  CHECK_EQ(rig.arena->Stats().far_slots, 1);
  CHECK_EQ(At<uint64_t>(Destination(rig, second) + 8), kFar);
  rig.Free(second);
  CHECK_EQ(rig.arena->Stats().far_slots, 0);
}

TEST(linker_a_far_slot_without_room_fails_the_freeze) {
  ArenaRig rig({.max_bytes = 2 * kSlabBytes});
  rig.Install(Program::Of(32));  // a slab for the caller
  std::vector<ExecutorId> fillers;
  for (uint32_t bytes : {4096u, 16u}) {
    Program filler = Program::Of(bytes);
    filler.movable = false;
    const ExecutorSpec spec = filler.Spec();
    ExecutorId id;
    while (rig.arena->Install(&spec, 1, &id, rig.self).ok()) fillers.push_back(id);
  }
  Program caller = Caller(kFar);
  const ExecutorSpec spec = caller.Spec();
  ExecutorId id;
  CHECK(rig.arena->Install(&spec, 1, &id, rig.self).code() == ErrorCode::kFull);
  CHECK_EQ(rig.arena->Stats().far_slots, 0);
  rig.CheckInvariants();
  rig.Free(fillers.back());
  CHECK_EQ(At<uint64_t>(Destination(rig, rig.Install(caller)) + 8), kFar);
}

// ---- References between executors

TEST(linker_a_target_is_freed_only_with_its_sources) {
  ArenaRig rig;
  ExecutorId target = rig.Install(Program::Of(16));
  ExecutorId source = rig.Install(CallerOf(target));
  ExecutorId above = rig.Install(CallerOf(source));
  ArenaStats before = rig.arena->Stats();
  for (ExecutorId id : {target, source}) {
    Status failed = rig.arena->Free(&id, 1, rig.self);
    CHECK(failed.code() == ErrorCode::kReferenced);
    CHECK(failed.error().executor == id);
    CHECK(!failed.error().index);  // there is no list
  }
  ExecutorId two[] = {source, target};
  Status failed = rig.arena->Free(two, 2, rig.self);
  CHECK(failed.code() == ErrorCode::kReferenced);
  CHECK(failed.error().executor == source && failed.error().index == 0);
  CHECK(SameFigures(rig.arena->Stats(), before));
  CHECK_EQ(Destination(rig, source), rig.AddressOf(target));
  rig.Free(above);
  rig.Free({target, source});
  CHECK_EQ(rig.arena->Stats().executors, 0);
}

TEST(linker_a_cycle_dies_together) {
  ArenaRig rig;
  std::vector<Program> programs(3, Program::Of(32));
  for (uint64_t i = 0; i < 3; i++) {
    programs[i].relocs = {{Section::kCode, R_X86_64_PLT32, TargetKind::kBatchMember, 8, (i + 1) % 3, -4},
                          {Section::kCode, R_X86_64_64, TargetKind::kBatchMember, 16, i, 0}};  // and itself
  }
  std::vector<ExecutorId> ids = rig.Install(programs);
  for (size_t i = 0; i < 3; i++) CHECK_EQ(Destination(rig, ids[i]), rig.AddressOf(ids[(i + 1) % 3]));
  rig.MakeMove(ids);
  for (size_t i = 0; i < 3; i++) {
    CHECK_EQ(Destination(rig, ids[i]), rig.AddressOf(ids[(i + 1) % 3]));
    CHECK_EQ(LoadAs<uint64_t>(rig.Read(ids[i], Section::kCode).data() + 16), rig.AddressOf(ids[i]));
  }
  for (ExecutorId id : ids) CHECK(rig.arena->Free(&id, 1, rig.self).code() == ErrorCode::kReferenced);
  rig.Free(ids);
  CHECK_EQ(rig.arena->Stats().executors, 0);
}

TEST(linker_an_executor_that_names_itself_can_be_freed) {
  ArenaRig rig;
  Program program = Program::Of(32);
  Result<ExecutorId> id = rig.arena->Allocate(program.Spec());
  CHECK(id.ok());
  RelocSpec self{Section::kCode, R_X86_64_PLT32, TargetKind::kExecutor, 8, id.value(), -4};
  CHECK(rig.arena->AddRelocs(id.value(), &self, 1).ok());
  CHECK(rig.arena->Freeze(&id.value(), 1, rig.self).ok());
  CHECK_EQ(Destination(rig, id.value()), rig.AddressOf(id.value()));
  rig.Free(id.value());
}

TEST(linker_state_holds_only_addresses_that_stay) {
  ArenaRig rig;
  Program fixed = Program::Of(32);
  fixed.movable = false;
  ExecutorId stays = rig.Install(fixed);
  ExecutorId moves = rig.Install(Program::Of(32));
  struct Try {
    TargetKind target_kind;
    uint64_t target;
    arch::RelocKind kind;
    ErrorCode code;
    bool movable;
  };
  const Try tries[] = {
      {TargetKind::kAddress, kFar, R_X86_64_64, ErrorCode::kOk, true},
      {TargetKind::kAddress, kLow, R_X86_64_32, ErrorCode::kOk, true},
      {TargetKind::kOwnState, 16, R_X86_64_64, ErrorCode::kOk, true},
      {TargetKind::kExecutor, stays, R_X86_64_64, ErrorCode::kOk, true},
      {TargetKind::kOwnCode, 0, R_X86_64_64, ErrorCode::kOk, false},
      {TargetKind::kOwnCode, 0, R_X86_64_64, ErrorCode::kRelocSite, true},
      {TargetKind::kExecutor, moves, R_X86_64_64, ErrorCode::kRelocSite, true},
      {TargetKind::kAddress, kFar, R_X86_64_PC64, ErrorCode::kRelocSite, true},
      {TargetKind::kAddress, kFar, R_X86_64_GOTPCREL, ErrorCode::kRelocSite, true},
  };
  for (const Try& attempt : tries) {
    Program program = Program::Of(32, 0, 32);
    program.movable = attempt.movable;
    program.relocs = {{Section::kState, attempt.kind, attempt.target_kind, 8, attempt.target, 0}};
    ExecutorSpec spec = program.Spec();
    ExecutorId id = 0;
    Status failed = rig.arena->Install(&spec, 1, &id, rig.self);
    CHECK_EQ(std::string(ErrorCodeName(failed.code())), ErrorCodeName(attempt.code));
    if (!failed.ok()) continue;
    std::vector<uint8_t> state = rig.Read(id, Section::kState);
    uint64_t field =
        attempt.kind == R_X86_64_32 ? LoadAs<uint32_t>(state.data() + 8) : LoadAs<uint64_t>(state.data() + 8);
    if (attempt.target_kind == TargetKind::kAddress) CHECK_EQ(field, attempt.target);
    if (attempt.target_kind == TargetKind::kExecutor) CHECK_EQ(field, rig.AddressOf(stays));
    if (attempt.target_kind == TargetKind::kOwnCode) CHECK_EQ(field, rig.AddressOf(id));
    if (attempt.target_kind == TargetKind::kOwnState) {
      std::optional<FoundAddress> found = rig.arena->Find(field);
      CHECK(found && found->executor == id && found->section == Section::kState && found->offset == 16);
    }
  }
  CHECK(rig.arena->Free(&stays, 1, rig.self).code() == ErrorCode::kReferenced);
}

// ---- Refusals

namespace {

struct Refusal {
  const char* what;
  ErrorCode code;
  Section section;
  int64_t offset;
  const char* kind;
  uint64_t index;
  std::vector<RelocSpec> relocs;
};

}  // namespace

TEST(linker_refuses_relocs_that_cannot_be_and_says_which) {
  ArenaRig rig;
  constexpr Section kCode = Section::kCode, kData = Section::kData;
  constexpr TargetKind kAddress = TargetKind::kAddress;
  ExecutorId gone = rig.Install(Program::Of(16));
  rig.Free(gone);
  ExecutorId there = rig.Install(Program::Of(16));
  Program staged = Program::Of(16);
  Result<ExecutorId> writable = rig.arena->Allocate(staged.Spec());
  CHECK(writable.ok());

  const RelocSpec fine{kCode, R_X86_64_64, kAddress, 0, kFar, 0};
  // What can be known without addresses is refused at once.
  const Refusal at_once[] = {
      {"an unknown kind", ErrorCode::kRelocKind, kCode, 8, "3", 1, {fine, {kCode, 3, kAddress, 8, 0, 0}}},
      {"another CPU's kind", ErrorCode::kRelocKind, kData, 8, "200", 0, {{kData, 200, kAddress, 8, 0, 0}}},
      {"a site that reaches over the end",
       ErrorCode::kRelocBounds,
       kCode,
       61,
       "R_X86_64_PC32",
       1,
       {fine, {kCode, R_X86_64_PC32, kAddress, 61, 0, 0}}},
      {"a wide site that reaches over the end",
       ErrorCode::kRelocBounds,
       kData,
       25,
       "R_X86_64_64",
       0,
       {{kData, R_X86_64_64, kAddress, 25, 0, 0}}},
      {"a site far beyond",
       ErrorCode::kRelocBounds,
       kCode,
       0xFFFFFFFF,
       "R_X86_64_64",
       0,
       {{kCode, R_X86_64_64, kAddress, 0xFFFFFFFF, 0, 0}}},
      {"a site in a section that is not there",
       ErrorCode::kRelocBounds,
       Section::kState,
       0,
       "R_X86_64_64",
       0,
       {{Section::kState, R_X86_64_64, kAddress, 0, 0, 0}}},
      {"two relocs that share a byte",
       ErrorCode::kRelocOverlap,
       kCode,
       7,
       "R_X86_64_32",
       1,
       {fine, {kCode, R_X86_64_32, kAddress, 7, kLow, 0}}},
      {"the same in the other order: the one given later is at fault",
       ErrorCode::kRelocOverlap,
       kCode,
       0,
       "R_X86_64_64",
       1,
       {{kCode, R_X86_64_32, kAddress, 7, kLow, 0}, fine}},
      {"a target beyond the section",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_64",
       0,
       {{kCode, R_X86_64_64, TargetKind::kOwnData, 8, 33, 0}}},
      {"a target in a section that is not there",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_64",
       1,
       {fine, {kCode, R_X86_64_64, TargetKind::kOwnState, 8, 0, 0}}},
  };
  for (const Refusal& refusal : at_once) {
    int failed_before = test::failed_checks;
    Program program = Program::Of(64, 32);
    auto check = [&](Status failed, std::optional<uint64_t> executor) {
      CHECK_EQ(std::string(ErrorCodeName(failed.code())), ErrorCodeName(refusal.code));
      if (failed.ok()) return;
      CHECK(failed.error().section == refusal.section);
      CHECK(failed.error().offset == refusal.offset);
      CHECK_EQ(failed.error().kind, refusal.kind);
      CHECK(failed.error().index == refusal.index);
      CHECK(failed.error().executor == executor);
      CHECK(!failed.error().message.empty());
    };
    // Later, to an executor that is there already.
    Result<ExecutorId> id = rig.arena->Allocate(program.Spec());
    CHECK(id.ok());
    ArenaStats before = rig.arena->Stats();
    check(rig.arena->AddRelocs(id.value(), refusal.relocs.data(), static_cast<uint32_t>(refusal.relocs.size())),
          id.value());
    // With it.
    program.relocs = refusal.relocs;
    ExecutorSpec spec = program.Spec();
    Result<ExecutorId> refused = rig.arena->Allocate(spec);
    CHECK(!refused.ok());
    check(std::move(refused.status()), std::nullopt);
    ExecutorId installed = 0;
    check(rig.arena->Install(&spec, 1, &installed, rig.self), std::nullopt);
    CHECK_EQ(installed, 0);
    CHECK(SameFigures(rig.arena->Stats(), before));
    // The one that was there has taken nothing over.
    CHECK(rig.arena->Freeze(&id.value(), 1, rig.self).ok());
    CHECK(rig.Read(id.value(), kCode) == program.sections[0]);
    rig.Free(id.value());
    if (test::failed_checks != failed_before) std::printf("  %s\n", refusal.what);
  }

  // What depends on addresses is refused at freeze.
  const Refusal at_freeze[] = {
      {"a dead target",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_PLT32",
       1,
       {fine, {kCode, R_X86_64_PLT32, TargetKind::kExecutor, 8, gone, -4}}},
      {"a target that never was",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_PLT32",
       0,
       {{kCode, R_X86_64_PLT32, TargetKind::kExecutor, 8, MakeId(900, 1), -4}}},
      {"a target that has no address yet",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_PLT32",
       0,
       {{kCode, R_X86_64_PLT32, TargetKind::kExecutor, 8, writable.value(), -4}}},
      {"a member that the list has not",
       ErrorCode::kRelocTarget,
       kData,
       8,
       "R_X86_64_64",
       0,
       {{kData, R_X86_64_64, TargetKind::kBatchMember, 8, 1, 0}}},
      {"an executor by its address",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_64",
       0,
       {{kCode, R_X86_64_64, kAddress, 8, rig.AddressOf(there), 0}}},
      {"an address in the arena where nothing is",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_64",
       0,
       {{kCode, R_X86_64_64, kAddress, 8, rig.AddressOf(there) + 100000, 0}}},
      {"data out of reach",
       ErrorCode::kRelocRange,
       kCode,
       8,
       "R_X86_64_PC32",
       1,
       {fine, {kCode, R_X86_64_PC32, kAddress, 8, kFar, -4}}},
      {"a narrow field for a wide address",
       ErrorCode::kRelocRange,
       kData,
       8,
       "R_X86_64_32",
       1,
       {fine, {kData, R_X86_64_32, kAddress, 8, uint64_t{1} << 32, 0}}},
      {"a narrow field for a negative address",
       ErrorCode::kRelocRange,
       kData,
       8,
       "R_X86_64_32",
       0,
       {{kData, R_X86_64_32, kAddress, 8, kHigh, 0}}},
      {"a signed field for a large address",
       ErrorCode::kRelocRange,
       kData,
       8,
       "R_X86_64_32S",
       0,
       {{kData, R_X86_64_32S, kAddress, 8, 0x80000000, 0}}},
      {"a slot for own data",
       ErrorCode::kRelocTarget,
       kCode,
       8,
       "R_X86_64_GOTPCREL",
       0,
       {{kCode, R_X86_64_GOTPCREL, TargetKind::kOwnData, 8, 0, -4}}},
  };
  for (const Refusal& refusal : at_freeze) {
    int failed_before = test::failed_checks;
    Program program = Program::Of(64, 32);
    program.relocs = refusal.relocs;
    Result<ExecutorId> id = rig.arena->Allocate(program.Spec());
    CHECK(id.ok());
    ArenaStats before = rig.arena->Stats();
    Status failed = rig.arena->Freeze(&id.value(), 1, rig.self);
    CHECK_EQ(std::string(ErrorCodeName(failed.code())), ErrorCodeName(refusal.code));
    if (!failed.ok()) {
      CHECK(failed.error().section == refusal.section);
      CHECK(failed.error().offset == refusal.offset);
      CHECK_EQ(failed.error().kind, refusal.kind);
      CHECK(failed.error().index == refusal.index);
      CHECK(failed.error().executor == id.value());
    }
    CHECK(SameFigures(rig.arena->Stats(), before));
    CHECK(rig.arena->Describe(id.value()).value().state == ExecutorState::kWritable);
    rig.Free(id.value());
    if (test::failed_checks != failed_before) std::printf("  %s\n", refusal.what);
  }
}

TEST(linker_one_past_the_end_is_an_address) {
  ArenaRig rig;
  Program program = Program::Of(64, 32);
  program.relocs = {{Section::kCode, R_X86_64_64, TargetKind::kOwnData, 8, 32, 0},
                    {Section::kCode, R_X86_64_64, TargetKind::kOwnData, 16, 0, 0},
                    {Section::kCode, R_X86_64_PC32, TargetKind::kOwnCode, 60, 64, 0}};
  std::vector<uint8_t> code = rig.Read(rig.Install(program), Section::kCode);
  CHECK_EQ(LoadAs<uint64_t>(code.data() + 8), LoadAs<uint64_t>(code.data() + 16) + 32);
  CHECK_EQ(LoadAs<int32_t>(code.data() + 60), 4);
}

TEST(linker_a_failed_freeze_of_ten_publishes_none) {
  WithEachLayout([](Layout layout) {
    ArenaRig rig({.writer = layout.writer, .apart = layout.apart});
    // So that slabs and pages are there before.
    rig.Free(rig.Install(Caller(kFar + 1024)));
    ExecutorId user = rig.Install(Caller(kFar));
    std::vector<Program> programs;
    for (uint64_t i = 0; i < 10; i++) {
      Program program = Program::Of(80, 40, i % 2 == 0 ? 24 : 0, static_cast<uint32_t>(i));
      program.relocs = {{Section::kCode, R_X86_64_PLT32, TargetKind::kAddress, 0, kFar, -4},
                        {Section::kCode, R_X86_64_PLT32, TargetKind::kAddress, 8, kFar + 16 * i, -4},
                        {Section::kCode, R_X86_64_GOTPCREL, TargetKind::kBatchMember, 16, (i + 1) % 10, -4},
                        {Section::kCode, R_X86_64_PLT32, TargetKind::kBatchMember, 24, (i + 7) % 10, -4},
                        {Section::kData, R_X86_64_64, TargetKind::kExecutor, 8, user, 0}};
      programs.push_back(program);
    }
    std::vector<Program> spoilt = programs;
    spoilt[6].relocs.push_back({Section::kData, R_X86_64_PC32, TargetKind::kAddress, 20, kFar, 0});

    std::vector<ExecutorId> ids;
    std::vector<ExecutorSpec> specs;
    for (const Program& program : spoilt) {
      Result<ExecutorId> id = rig.arena->Allocate(program.Spec());
      CHECK(id.ok());
      ids.push_back(id.value());
      specs.push_back(program.Spec());
    }
    ArenaStats before = rig.arena->Stats();
    Status failed = rig.arena->Freeze(ids.data(), 10, rig.self);
    CHECK(failed.code() == ErrorCode::kRelocRange);
    CHECK(failed.error().executor == ids[6] && failed.error().index == 6);
    CHECK(failed.error().section == Section::kData && failed.error().offset == 20);
    CHECK_EQ(failed.error().kind, "R_X86_64_PC32");
    CHECK(SameFigures(rig.arena->Stats(), before));
    for (ExecutorId id : ids) CHECK(rig.arena->Describe(id).value().state == ExecutorState::kWritable);
    rig.CheckInvariants();
    ExecutorId installed[10] = {};
    failed = rig.arena->Install(specs.data(), 10, installed, rig.self);
    CHECK(failed.code() == ErrorCode::kRelocRange);
    CHECK(!failed.error().executor && failed.error().index == 6);  // there are no ids: the position says which
    CHECK(SameFigures(rig.arena->Stats(), before));
    rig.CheckInvariants();
    rig.Free(user);  // no reference of theirs is left behind
    rig.Free(ids);

    user = rig.Install(Caller(kFar));
    for (Program& program : programs) program.relocs[4].target = user;
    std::vector<ExecutorId> good = rig.Install(programs);
    CHECK_EQ(rig.arena->Stats().far_slots, 10 + 10);
    rig.CheckInvariants();
    rig.Free(good);
    CHECK_EQ(rig.arena->Stats().far_slots, 1);
  });
}

TEST(linker_freezes_each_of_a_list_once) {
  ArenaRig rig;
  Program program = Program::Of(16);
  ExecutorId ids[3] = {};
  for (ExecutorId& id : ids) id = rig.arena->Allocate(program.Spec()).value();
  ExecutorId twice[] = {ids[0], ids[1], ids[0]};
  Status failed = rig.arena->Freeze(twice, 3, rig.self);
  CHECK(failed.code() == ErrorCode::kDuplicateExecutor);
  CHECK(failed.error().executor == ids[0] && failed.error().index == 2);
  CHECK(rig.arena->Freeze(ids, 2, rig.self).ok());
  failed = rig.arena->Freeze(ids, 3, rig.self);
  CHECK(failed.code() == ErrorCode::kNotWritable);
  CHECK(failed.error().executor == ids[0] && failed.error().index == 0);
  CHECK(rig.arena->Describe(ids[2]).value().state == ExecutorState::kWritable);
  ExecutorId freed_twice[] = {ids[1], ids[1]};
  failed = rig.arena->Free(freed_twice, 2, rig.self);
  CHECK(failed.code() == ErrorCode::kDuplicateExecutor && failed.error().index == 1);
  CHECK(rig.arena->Describe(ids[1]).ok());
}

// Proves that FindBrokenRule can fail, with a source, a target, and a far slot.
TEST(linker_notices_broken_books) {
  auto broken = [](void (*damage)(ExecutorTable&, uint32_t target, uint32_t source)) {
    LinkerRig rig;
    uint32_t target = rig.Place(48, true), source = rig.Place(48, true);
    std::vector<Program> programs = {Program::Of(48), Program::Of(48)};
    programs[1].relocs = {{Section::kCode, R_X86_64_PLT32, TargetKind::kBatchMember, 8, 0, -4},
                          {Section::kCode, R_X86_64_PLT32, TargetKind::kAddress, 16, kFar, -4},
                          {Section::kCode, R_X86_64_64, TargetKind::kOwnCode, 24, 0, 0}};
    rig.Freeze(programs);
    Linker& linker = rig.linker;
    std::vector<Problem> problems;
    for (uint32_t index : rig.batch) linker.relocator.Verify(index, &problems);
    linker.far_slots.Verify(&problems);
    CHECK(problems.empty());
    CHECK_EQ(linker.FindBrokenRule(), "");
    damage(rig.table, target, source);
    for (uint32_t index : rig.batch) linker.relocator.Verify(index, &problems);
    return !problems.empty() || !linker.FindBrokenRule().empty();
  };
  CHECK(!broken([](ExecutorTable&, uint32_t, uint32_t) {}));
  CHECK(broken([](ExecutorTable& table, uint32_t target, uint32_t) { table[target].inbound = 0; }));
  CHECK(broken([](ExecutorTable& table, uint32_t, uint32_t source) { table[source].outbound = 0; }));
  CHECK(broken([](ExecutorTable& table, uint32_t target, uint32_t source) {
    std::swap(table[target].outbound, table[source].outbound);
  }));
  CHECK(
      broken([](ExecutorTable& table, uint32_t target, uint32_t) { table[target].SetState(ExecutorState::kRetired); }));
  CHECK(broken([](ExecutorTable& table, uint32_t, uint32_t source) { table.DropKept(table[source]); }));
  CHECK(broken([](ExecutorTable& table, uint32_t, uint32_t source) { table[source].kept_inline[0] ^= 0x10; }));
  CHECK(broken([](ExecutorTable& table, uint32_t target, uint32_t) { table[target].entry = 1; }));
  CHECK(broken([](ExecutorTable& table, uint32_t target, uint32_t) { table[target].checksum ^= 1; }));
}
