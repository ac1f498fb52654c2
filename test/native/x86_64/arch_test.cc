// x86-64: reloc kinds restated from the psABI.
#include <elf.h>

#include <cstdint>
#include <cstring>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "base/bits.h"
#include "test.h"

namespace jit_arena::arch {
namespace {

// The table of the psABI once more; the numbers are those of the system's <elf.h>.
enum class Field { kAny64, kSigned32, kUnsigned32 };
struct Expected {
  int number;
  const char* name;
  const char* expression;
  Field field;
  bool is_branch;
};
const Expected kExpected[] = {
    {R_X86_64_64, "R_X86_64_64", "S + A", Field::kAny64, false},
    {R_X86_64_PC32, "R_X86_64_PC32", "S + A - P", Field::kSigned32, false},
    {R_X86_64_PLT32, "R_X86_64_PLT32", "S + A - P", Field::kSigned32, true},
    {R_X86_64_GOTPCREL, "R_X86_64_GOTPCREL", "G + A - P", Field::kSigned32, false},
    {R_X86_64_32, "R_X86_64_32", "S + A", Field::kUnsigned32, false},
    {R_X86_64_32S, "R_X86_64_32S", "S + A", Field::kSigned32, false},
    {R_X86_64_PC64, "R_X86_64_PC64", "S + A - P", Field::kAny64, false},
    {R_X86_64_GOTPCRELX, "R_X86_64_GOTPCRELX", "G + A - P", Field::kSigned32, false},
    {R_X86_64_REX_GOTPCRELX, "R_X86_64_REX_GOTPCRELX", "G + A - P", Field::kSigned32, false},
};

const KindInfo& InfoOf(const Expected& expected) { return *FindKind(static_cast<RelocKind>(expected.number)); }

size_t BytesOf(const Expected& expected) { return expected.field == Field::kAny64 ? 8 : 4; }

std::string ExpressionOf(const KindInfo& info) {
  return std::string(info.through_slot ? "G + A" : "S + A") + (FieldOf(info.field).relative ? " - P" : "");
}

bool Fits(Field field, uint64_t value) {
  switch (field) {
    case Field::kAny64:
      return true;
    case Field::kSigned32:  // -2^31 .. 2^31 - 1
      return value < 0x80000000 || value >= 0xFFFFFFFF80000000;
    case Field::kUnsigned32:
      return value < 0x100000000;
  }
  return false;
}

// Every value at which a field's range begins or ends, with its neighbours on both sides.
std::vector<uint64_t> Boundaries() {
  std::vector<uint64_t> values;
  for (int bit : {7, 8, 15, 16, 31, 32, 33, 47, 63}) {
    const uint64_t power = uint64_t{1} << bit;
    for (uint64_t near : {power - 1, power, power + 1}) {
      values.push_back(near);
      values.push_back(0 - near);
    }
  }
  values.push_back(0);
  values.push_back(0x123456789ABCDEF0);
  return values;
}

TEST(arch_kinds_are_those_of_the_psabi) {
  size_t count = 0;
  const KindInfo* kinds = Kinds(&count);
  CHECK_EQ(count, std::size(kExpected));
  std::set<const KindInfo*> listed;
  for (size_t i = 0; i < count; i++) listed.insert(&kinds[i]);
  CHECK_EQ(listed.size(), count);

  for (const Expected& expected : kExpected) {
    const KindInfo* info = FindKind(static_cast<RelocKind>(expected.number));
    CHECK(info != nullptr);
    CHECK(FindKind(std::string_view(expected.name)) == info);
    CHECK(listed.count(info) == 1);
    CHECK_EQ(info->kind, expected.number);
    CHECK_EQ(std::string(info->name), expected.name);
    CHECK_EQ(ExpressionOf(*info), expected.expression);
    CHECK_EQ(FieldOf(info->field).bytes, BytesOf(expected));
    CHECK_EQ(info->is_branch, expected.is_branch);
  }
}

TEST(arch_unknown_kinds_are_null) {
  std::set<int> known;
  for (const Expected& expected : kExpected) known.insert(expected.number);
  for (int number = 0; number < 256; number++) {
    CHECK_EQ(FindKind(static_cast<RelocKind>(number)) != nullptr, known.count(number) == 1);
  }
  for (const char* name : {"", "R_X86_64_", "R_X86_64_NONE", "R_X86_64_PC3", "R_X86_64_PC322", "r_x86_64_pc32", "PC32",
                           "R_X86_64_PC32 ", "R_AARCH64_CALL26"}) {
    CHECK(FindKind(std::string_view(name)) == nullptr);
  }
  // A view need not end in a zero byte.
  CHECK(FindKind(std::string_view("R_X86_64_PC32_and_more", 13)) == FindKind(RelocKind{R_X86_64_PC32}));
}

TEST(arch_check_knows_both_ends_of_each_range) {
  for (const Expected& expected : kExpected) {
    for (uint64_t value : Boundaries()) {
      CHECK_EQ(Check(InfoOf(expected), value), Fits(expected.field, value));
    }
  }
  // The ones that matter most, spelled out.
  const KindInfo& pc32 = *FindKind(RelocKind{R_X86_64_PC32});
  CHECK(Check(pc32, 0x7FFFFFFF));
  CHECK(!Check(pc32, 0x80000000));
  CHECK(Check(pc32, static_cast<uint64_t>(-0x80000000LL)));
  CHECK(!Check(pc32, static_cast<uint64_t>(-0x80000001LL)));
  const KindInfo& abs32 = *FindKind(RelocKind{R_X86_64_32});
  CHECK(Check(abs32, 0xFFFFFFFF));
  CHECK(!Check(abs32, 0x100000000));
  CHECK(!Check(abs32, static_cast<uint64_t>(-1LL)));
}

// The field's bytes, put together one by one.
uint64_t FieldAt(const uint8_t* site, Field field) {
  const int bytes = field == Field::kAny64 ? 8 : 4;
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; i--) value = value * 256 + site[i];
  if (field == Field::kSigned32 && value >= 0x80000000) value += 0xFFFFFFFF00000000;
  return value;
}

TEST(arch_apply_is_idempotent_and_keeps_to_its_field) {
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    for (size_t offset = 0; offset < 8; offset++) {  // every alignment
      for (uint64_t first : Boundaries()) {
        for (uint64_t second : Boundaries()) {
          if (!Fits(expected.field, first) || !Fits(expected.field, second)) continue;
          uint8_t fresh[16], used[16];
          std::memset(fresh, 0xA5, sizeof fresh);
          std::memset(used, 0xA5, sizeof used);
          Apply(info, fresh + offset, second);
          Apply(info, used + offset, first);
          CHECK_EQ(Read(info, used + offset), first);
          Apply(info, used + offset, second);
          CHECK_EQ(Read(info, used + offset), second);
          CHECK_EQ(FieldAt(used + offset, expected.field), second);
          CHECK(std::memcmp(fresh, used, sizeof fresh) == 0);
          for (size_t i = 0; i < sizeof used; i++) {
            CHECK((i >= offset && i < offset + BytesOf(expected)) || used[i] == 0xA5);
          }
        }
      }
    }
  }
}

// What the CPU computes from the field must be the address that the record asks for.
TEST(arch_fields_lead_to_their_targets) {
  const uint64_t kSite = 0x7F0000001003, kTarget = 0x7F0000400010, kSlot = 0x7EFFFFFFF008, kLow = 0x401000;
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    const bool low = expected.number == R_X86_64_32 || expected.number == R_X86_64_32S;
    for (int64_t addend : {-4, 0, 4, 0x1000, -0x1000}) {
      const uint64_t target = low ? kLow : kTarget;
      const uint64_t added = static_cast<uint64_t>(addend);
      uint64_t value = ValueOf(info.field, (info.through_slot ? kSlot : target) + added, kSite);
      CHECK(Check(info, value));
      uint8_t bytes[8] = {};
      Apply(info, bytes, value);
      const uint64_t field = FieldAt(bytes, expected.field);
      switch (expected.number) {
        case R_X86_64_64:
        case R_X86_64_32:
        case R_X86_64_32S:
          CHECK(field - added == target);
          break;
        case R_X86_64_PC32:
        case R_X86_64_PLT32:
        case R_X86_64_PC64:
          CHECK(kSite + field - added == target);
          break;
        default:  // the GOTPCREL kinds: the address of the slot
          CHECK(kSite + field - added == kSlot);
      }
    }
  }
}

// Whatever moves, the field says what a new one would say; and what is beyond a field is seen from normal form.
TEST(arch_shift_is_what_a_new_field_would_be) {
  const uint64_t kTarget = 0x7F0000400010, kSite = 0x7F0000001003;
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    if (!FieldOf(info.field).follows) continue;
    CHECK(info.field < 1 << kFieldClassBits);
    CHECK_EQ(FieldOf(info.field).rest_bits, 0);
    for (uint64_t target_moves : {0, 16, -4096, 0x12340}) {
      for (uint64_t site_moves : {0, -16, 4096, 0x3210}) {
        const Ends from{kTarget, kSite}, to{kTarget + target_moves, kSite + site_moves};
        uint8_t moved[8], fresh[8];
        std::memset(moved, 0xA5, sizeof moved);
        std::memset(fresh, 0xA5, sizeof fresh);
        Apply(info, moved, ValueOf(info.field, kTarget + 0x55, kSite));
        CHECK_EQ(Shift(info.field, moved, 0, from, to), Beyond(info.field, ValueOf(info.field, to.target, to.site)));
        Apply(info, fresh, ValueOf(info.field, to.target + 0x55, to.site));
        CHECK(std::memcmp(moved, fresh, sizeof moved) == 0);
      }
    }
    // To normal form: the target as far from 0 as it is from what stays, the site as it is from its section.
    uint8_t field[8] = {};
    const uint64_t normal = ValueOf(info.field, kTarget, 3);
    Apply(info, field, ValueOf(info.field, kTarget, kSite));
    CHECK_EQ(Shift(info.field, field, 0, {0, kSite}, {0, 3}),
             BytesOf(expected) == 8 ? 0 : normal & ~uint64_t{0xFFFFFFFF});
    CHECK_EQ(Beyond(info.field, normal), BytesOf(expected) == 8 ? 0 : normal & ~uint64_t{0xFFFFFFFF});
    CHECK_EQ(FieldAt(field, expected.field) << 32, normal << 32);
  }
}

// The numbers of docs/relocs.md.
TEST(arch_worked_example_of_the_docs) {
  const KindInfo& pc32 = *FindKind("R_X86_64_PC32");
  const KindInfo& got = *FindKind("R_X86_64_GOTPCREL");
  uint8_t lea[] = {0x48, 0x8D, 0x0D, 0, 0, 0, 0};
  uint8_t load[] = {0x48, 0x8B, 0x05, 0, 0, 0, 0};
  const uint64_t kTable = 0x7F2000002000, kSlot = 0x7F2000000200, kFar = 0x7FFFF7E4A1B0;
  auto bytes = [](const uint8_t* from, std::initializer_list<uint8_t> expected) {
    return std::memcmp(from, expected.begin(), expected.size()) == 0;
  };

  const uint64_t kFrom = 0x7F2000000400;
  Apply(pc32, lea + 3, kTable - 4 - (kFrom + 0x13));
  Apply(got, load + 3, kSlot + kFarSlotGotOffset - 4 - (kFrom + 0x23));
  CHECK(bytes(lea, {0x48, 0x8D, 0x0D, 0xE9, 0x1B, 0x00, 0x00}));
  CHECK(bytes(load, {0x48, 0x8B, 0x05, 0xE1, 0xFD, 0xFF, 0xFF}));
  uint8_t slot[kFarSlotBytes];
  WriteFarSlot(slot, kFar);
  CHECK(bytes(slot, {0xFF, 0x25, 0x02, 0, 0, 0, 0x0F, 0x0B, 0xB0, 0xA1, 0xE4, 0xF7, 0xFF, 0x7F, 0, 0}));

  // The executor moves 0x1000 up; table and far slot stay. Only the old bytes and the distance are needed.
  Apply(pc32, lea + 3, Read(pc32, lea + 3) - 0x1000);
  Apply(got, load + 3, Read(got, load + 3) - 0x1000);
  CHECK(bytes(lea, {0x48, 0x8D, 0x0D, 0xE9, 0x0B, 0x00, 0x00}));
  CHECK(bytes(load, {0x48, 0x8B, 0x05, 0xE1, 0xED, 0xFF, 0xFF}));
}

TEST(arch_constants) {
  CHECK_EQ(std::string(kCpuName), "x64");
  CHECK_EQ(kPoisonByte, 0xCC);
  // From the end of an instruction at one end of an arena to the other end.
  const KindInfo& branch = *FindKind(RelocKind{R_X86_64_PLT32});
  CHECK(Check(branch, 0 - kMaxArenaBytes));
  CHECK(Check(branch, kMaxArenaBytes - 1));
}

}  // namespace
}  // namespace jit_arena::arch
