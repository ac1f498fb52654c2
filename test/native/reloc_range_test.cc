// How far a reloc may reach: as far as the field holds at every place that either end can be moved to, and one byte
// further is refused; and verify sees a field that has wrapped all the same.
#include <elf.h>

#include <cstring>

#include "base/bits.h"
#include "core/linker.h"
#include "support/arena_rig.h"
#include "support/linker_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint32_t kCodeBytes = 160, kDataBytes = 96, kStateBytes = 48;
constexpr uint32_t kSite = 32, kTargetOffset = 12;

uint32_t Random() {
  static uint64_t state = 88172645463325252;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return static_cast<uint32_t>(state >> 16);
}

// A rel32 between two places, each in an executor that moves or stays.
struct Subject {
  Section site;
  Section target;
  bool own;  // the target is in the executor itself
  bool source_movable, target_movable;
  arch::RelocKind kind;

  std::string Describe() const {
    return Format("kind %u in %s of %s to %s of %s", kind, SectionName(site), source_movable ? "a movable" : "a fixed",
                  SectionName(target),
                  own              ? "its own"
                  : target_movable ? "a movable other"
                                   : "a fixed other");
  }
};

struct Bounds {
  uint64_t lowest, highest;
};

// Where a byte of a section can be. Spans are whole granules; data lies behind code unless apart.
Bounds PlacesOf(bool movable, uint64_t now, Section section, bool apart, uint32_t offset, uint64_t base, uint64_t end) {
  if (!movable) return {now, now};
  uint32_t span = section == Section::kState           ? kStateBytes
                  : section == Section::kData && apart ? kDataBytes
                  : apart                              ? kCodeBytes
                                                       : kCodeBytes + kDataBytes;
  uint32_t in_span = offset + (section == Section::kData && !apart ? kCodeBytes : 0);
  return {base + in_span, end - span + in_span};
}

// An executor that says where its sections are.
Program Located(bool movable) {
  Program program = Program::Of(kCodeBytes, kDataBytes, kStateBytes, Random());
  program.movable = movable;
  program.relocs = {{Section::kCode, R_X86_64_64, TargetKind::kOwnCode, 8, 0, 0},
                    {Section::kCode, R_X86_64_64, TargetKind::kOwnData, 16, 0, 0},
                    {Section::kCode, R_X86_64_64, TargetKind::kOwnState, 24, 0, 0}};
  return program;
}

uint64_t SectionAddress(ArenaRig& rig, ExecutorId id, Section section) {
  return LoadAs<uint64_t>(rig.Read(id, Section::kCode).data() + 8 + 8 * static_cast<int>(section));
}

RelocSpec RelocOf(const Subject& subject, ExecutorId other, int64_t addend) {
  constexpr TargetKind kOwn[] = {TargetKind::kOwnCode, TargetKind::kOwnData, TargetKind::kOwnState};
  RelocSpec reloc{subject.site, subject.kind, TargetKind::kExecutor, kSite, other, addend};
  reloc.target_section = subject.target;
  reloc.target_offset = kTargetOffset;
  if (subject.own) {
    reloc.target_kind = kOwn[static_cast<int>(subject.target)];
    reloc.target = kTargetOffset;
  }
  return reloc;
}

// What the field leads to, less what it should lead to.
int64_t FindError(ArenaRig& rig, ExecutorId id, const Subject& subject, ExecutorId other, int64_t addend) {
  uint64_t place = SectionAddress(rig, id, subject.site) + kSite;
  uint64_t symbol = SectionAddress(rig, subject.own ? id : other, subject.target) + kTargetOffset;
  int64_t field = LoadAs<int32_t>(rig.Read(id, subject.site).data() + kSite);
  uint64_t target = place + static_cast<uint64_t>(field) - static_cast<uint64_t>(addend);
  return static_cast<int64_t>(target - symbol);
}

// The reservation's lowest address: the last page below `id` that is the arena's.
uint64_t BaseOf(ArenaRig& rig, ExecutorId id, uint64_t max_bytes) {
  uint64_t inside = rig.AddressOf(id) & ~uint64_t{0xFFF}, outside = inside - max_bytes;
  while (inside - outside > 0x1000) {
    uint64_t middle = (outside + (inside - outside) / 2) & ~uint64_t{0xFFF};
    (rig.arena->Contains(middle) ? inside : outside) = middle;
  }
  return inside;
}

}  // namespace

// For each subject the addends at the very edge of what holds everywhere, and random ones beyond it.
TEST(reloc_range_is_that_of_every_place) {
  for (bool apart : {false, true})
    for (uint64_t max_bytes : {16 * uint64_t{kSlabBytes}, 2048 * uint64_t{kMiB}}) {
      ArenaRig::Options options;
      options.apart = apart;
      options.max_bytes = max_bytes;
      ArenaRig rig(options);
      std::vector<ExecutorId> all;
      struct Accepted {
        ExecutorId id, other;
        Subject subject;
        int64_t addend;
      };
      std::vector<Accepted> accepted;
      for (uint32_t bits = 0; bits < 2 * 3 * 2 * 2 * 2 * 2; bits++) {
        uint32_t left = bits;
        auto take = [&](uint32_t choices) {
          uint32_t taken = left % choices;
          left /= choices;
          return taken;
        };
        Subject subject{};
        subject.site = take(2) != 0 ? Section::kData : Section::kCode;
        subject.target = static_cast<Section>(take(3));
        subject.own = take(2) != 0;
        subject.source_movable = take(2) != 0;
        subject.target_movable = take(2) != 0;
        subject.kind = take(2) != 0 ? R_X86_64_PLT32 : R_X86_64_PC32;
        if (subject.own) subject.target_movable = subject.source_movable;

        ExecutorId other = rig.Install(Located(subject.target_movable));
        all.push_back(other);
        // Where a source that stays will be is not known before it is there, but it is near where another has been.
        Program program = Located(subject.source_movable);
        ExecutorId probe = rig.Install(program);
        uint64_t bytes = rig.arena->Stats().reserved_bytes, base = BaseOf(rig, probe, bytes), end = base + bytes;
        uint64_t place = SectionAddress(rig, probe, subject.site) + kSite;
        uint64_t symbol = SectionAddress(rig, subject.own ? probe : other, subject.target) + kTargetOffset;
        rig.Free(probe);
        bool together = subject.own && subject.target != Section::kState && (!apart || subject.target == subject.site);
        Bounds places = PlacesOf(subject.source_movable && !together, place, subject.site, apart, kSite, base, end);
        Bounds symbols =
            PlacesOf(subject.target_movable && !together, symbol, subject.target, apart, kTargetOffset, base, end);
        int64_t highest = INT32_MAX - static_cast<int64_t>(symbols.highest - places.lowest);
        int64_t lowest = INT32_MIN - static_cast<int64_t>(symbols.lowest - places.highest);
        int64_t near = subject.source_movable || together ? 0 : kSlabBytes;
        highest -= near;
        lowest += near;
        int64_t beyond = 2 * near + 1, further = beyond + Random() % (max_bytes / 4);
        for (int64_t addend :
             {highest, highest + beyond, highest + further, lowest, lowest - beyond, lowest - further, int64_t{0}}) {
          program.relocs.resize(3);
          program.relocs.push_back(RelocOf(subject, other, addend));
          ExecutorSpec spec = program.Spec();
          ExecutorId id = 0;
          Status failed = rig.arena->Install(&spec, 1, &id, rig.self);
          // Two places in an arena always reach each other.
          bool fits = addend == 0 || (lowest <= addend && addend <= highest);
          // A branch to code that is too far goes through a veneer.
          bool through = !fits && subject.kind == R_X86_64_PLT32 && subject.target == Section::kCode;
          if (failed.ok() != (fits || through))
            test::Fail(__FILE__, __LINE__,
                       Format("%s, addend %lld, %s", subject.Describe().c_str(), static_cast<long long>(addend),
                              failed.ok() ? "taken" : failed.error().message.c_str()));
          if (!failed.ok()) {
            CHECK(failed.error().code == ErrorCode::kRelocRange);
            CHECK_EQ(failed.error().offset, kSite);
            CHECK(failed.error().section == subject.site);
            CHECK_EQ(failed.error().kind, subject.kind == R_X86_64_PLT32 ? "R_X86_64_PLT32" : "R_X86_64_PC32");
          } else if (through) {
            rig.Free(id);
          } else {
            accepted.push_back({id, other, subject, addend});
            all.push_back(id);
          }
        }
      }
      CHECK(accepted.size() > 200);
      auto check = [&] {
        for (const Accepted& one : accepted) CHECK_EQ(FindError(rig, one.id, one.subject, one.other, one.addend), 0);
        rig.CheckInvariants();
      };
      check();
      std::vector<ExecutorId> movable;
      for (const Accepted& one : accepted)
        if (one.subject.source_movable) movable.push_back(one.id);
      rig.MakeMove(movable);
      check();
    }
}

// The check above keeps every field from wrapping, so the wrap is made by hand: two executors that stay, at a distance
// that just fits, of which one is moved all the same.
TEST(reloc_range_verify_sees_a_field_that_wrapped) {
  for (bool wraps : {false, true}) {
    LinkerRig rig;
    uint32_t target = rig.Place(48, false), source = rig.Place(48, false);
    int64_t addend = wraps ? INT32_MAX - static_cast<int64_t>(rig.AddressOf(target) - (rig.AddressOf(source) + 8)) : -4;
    std::vector<Program> programs = {Program::Of(48), Program::Of(48)};
    programs[1].relocs = {{Section::kCode, R_X86_64_PC32, TargetKind::kBatchMember, 8, 0, addend}};
    rig.Freeze(programs);
    std::vector<Problem> problems;
    rig.linker.relocator.Verify(source, &problems);
    CHECK(problems.empty());

    SpanId to = rig.space.Allocate(Zone::kCode, 48, 16, target, Section::kCode).value();
    CHECK(rig.space.AddressOf(to) > rig.AddressOf(target));
    rig.table[target].marked = true;
    std::vector<Move> moves = {{target, rig.table[target].code_span, to, 0, 0}};
    {
      WriteScope scope(rig.space, "test");
      CHECK(rig.linker.relocator.OpenForMove(scope, moves).ok());
      rig.linker.relocator.Copy(scope, moves);
      rig.linker.relocator.Publish(scope, moves);
    }
    rig.table[target].marked = false;
    rig.linker.relocator.Verify(target, &problems);
    CHECK(problems.empty());
    rig.linker.relocator.Verify(source, &problems);
    CHECK_EQ(!problems.empty(), wraps);
  }
}
