// arm64: reloc kinds restated from the psABI (aaelf64) and the Arm ARM.
#include "arch/arch.h"

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "arch/object_relocs.h"
#include "base/bits.h"
#include "test.h"

namespace jit_arena::arch {
namespace {

// What an instruction makes of its field, and which of its bits that is.
enum class Form { kWord64, kWord32, kBranch26, kBranch19, kBranch14, kAdr, kAdrp, kImm12, kMove };
struct Expected {
  int number;
  const char* name;
  Form form;
  const char* expression;
  int bits;      // of the value, counted from bit 0; 0: nothing is checked
  int unit = 1;  // the value is a multiple
  int part = 0;  // kMove: from this bit on
  bool is_branch = false;
};
const Expected kExpected[] = {
    {R_AARCH64_ABS64, "ABS64", Form::kWord64, "S + A", 0},
    {R_AARCH64_PREL64, "PREL64", Form::kWord64, "S + A - P", 0},
    {R_AARCH64_PREL32, "PREL32", Form::kWord32, "S + A - P", 32},
    {R_AARCH64_MOVW_UABS_G0, "MOVW_UABS_G0", Form::kMove, "S + A", 16, 1, 0},
    {R_AARCH64_MOVW_UABS_G0_NC, "MOVW_UABS_G0_NC", Form::kMove, "S + A", 0, 1, 0},
    {R_AARCH64_MOVW_UABS_G1, "MOVW_UABS_G1", Form::kMove, "S + A", 32, 1, 16},
    {R_AARCH64_MOVW_UABS_G1_NC, "MOVW_UABS_G1_NC", Form::kMove, "S + A", 0, 1, 16},
    {R_AARCH64_MOVW_UABS_G2, "MOVW_UABS_G2", Form::kMove, "S + A", 48, 1, 32},
    {R_AARCH64_MOVW_UABS_G2_NC, "MOVW_UABS_G2_NC", Form::kMove, "S + A", 0, 1, 32},
    {R_AARCH64_MOVW_UABS_G3, "MOVW_UABS_G3", Form::kMove, "S + A", 0, 1, 48},
    {R_AARCH64_LD_PREL_LO19, "LD_PREL_LO19", Form::kBranch19, "S + A - P", 21, 4},
    {R_AARCH64_ADR_PREL_LO21, "ADR_PREL_LO21", Form::kAdr, "S + A - P", 21},
    {R_AARCH64_ADR_PREL_PG_HI21, "ADR_PREL_PG_HI21", Form::kAdrp, "Page(S + A) - Page(P)", 33},
    {R_AARCH64_ADR_PREL_PG_HI21_NC, "ADR_PREL_PG_HI21_NC", Form::kAdrp, "Page(S + A) - Page(P)", 0},
    {R_AARCH64_ADD_ABS_LO12_NC, "ADD_ABS_LO12_NC", Form::kImm12, "S + A", 0},
    {R_AARCH64_LDST8_ABS_LO12_NC, "LDST8_ABS_LO12_NC", Form::kImm12, "S + A", 0},
    {R_AARCH64_LDST16_ABS_LO12_NC, "LDST16_ABS_LO12_NC", Form::kImm12, "S + A", 0, 2},
    {R_AARCH64_LDST32_ABS_LO12_NC, "LDST32_ABS_LO12_NC", Form::kImm12, "S + A", 0, 4},
    {R_AARCH64_LDST64_ABS_LO12_NC, "LDST64_ABS_LO12_NC", Form::kImm12, "S + A", 0, 8},
    {R_AARCH64_LDST128_ABS_LO12_NC, "LDST128_ABS_LO12_NC", Form::kImm12, "S + A", 0, 16},
    {R_AARCH64_TSTBR14, "TSTBR14", Form::kBranch14, "S + A - P", 16, 4, 0, true},
    {R_AARCH64_CONDBR19, "CONDBR19", Form::kBranch19, "S + A - P", 21, 4, 0, true},
    {R_AARCH64_JUMP26, "JUMP26", Form::kBranch26, "S + A - P", 28, 4, 0, true},
    {R_AARCH64_CALL26, "CALL26", Form::kBranch26, "S + A - P", 28, 4, 0, true},
    {R_AARCH64_ADR_GOT_PAGE, "ADR_GOT_PAGE", Form::kAdrp, "Page(G) - Page(P)", 33},
    {R_AARCH64_LD64_GOT_LO12_NC, "LD64_GOT_LO12_NC", Form::kImm12, "G", 0, 8},
};

const KindInfo& InfoOf(const Expected& expected) { return *FindKind(static_cast<RelocKind>(expected.number)); }
size_t BytesOf(const Expected& expected) { return expected.form == Form::kWord64 ? 8 : 4; }
bool IsRelative(const Expected& expected) { return std::string(expected.expression).find("P") != std::string::npos; }

// Which bits of an instruction are the field.
uint64_t FieldMask(Form form) {
  switch (form) {
    case Form::kWord64:
      return ~uint64_t{0};
    case Form::kWord32:
      return 0xFFFFFFFF;
    case Form::kBranch26:
      return 0x03FFFFFF;
    case Form::kBranch19:
      return 0x00FFFFE0;
    case Form::kBranch14:
      return 0x0007FFE0;
    case Form::kAdr:
    case Form::kAdrp:
      return 0x60FFFFE0;
    case Form::kImm12:
      return 0x003FFC00;
    case Form::kMove:
      return 0x001FFFE0;
  }
  return 0;
}

// What the CPU makes of it: a distance, an offset in a page, a constant.
int64_t Decode(const Expected& expected, const uint8_t* at) {
  if (expected.form == Form::kWord64) return LoadAs<int64_t>(at);
  const uint32_t word = LoadAs<uint32_t>(at);
  auto sign = [](uint64_t value, int bits) { return static_cast<int64_t>(value << (64 - bits)) >> (64 - bits); };
  switch (expected.form) {
    case Form::kWord32:
      return static_cast<int32_t>(word);
    case Form::kBranch26:
      return sign(word & 0x03FFFFFF, 26) * 4;
    case Form::kBranch19:
      return sign(word >> 5 & 0x7FFFF, 19) * 4;
    case Form::kBranch14:
      return sign(word >> 5 & 0x3FFF, 14) * 4;
    case Form::kAdr:
      return sign((word >> 5 & 0x7FFFF) << 2 | (word >> 29 & 3), 21);
    case Form::kAdrp:
      return sign((word >> 5 & 0x7FFFF) << 2 | (word >> 29 & 3), 21) * 4096;
    case Form::kImm12:
      return int64_t{word >> 10 & 0xFFF} * expected.unit;
    default:
      return static_cast<int64_t>(uint64_t{word >> 5 & 0xFFFF} << expected.part);
  }
}

TEST(arch_kinds_are_those_of_the_psabi) {
  size_t count = 0;
  Kinds(&count);
  CHECK_EQ(count, std::size(kExpected));
  for (const Expected& expected : kExpected) {
    const KindInfo* info = FindKind(static_cast<RelocKind>(expected.number));
    CHECK(info != nullptr);
    if (info == nullptr) continue;
    CHECK_EQ(std::string(info->name), std::string("R_AARCH64_") + expected.name);
    CHECK(FindKind(std::string_view(info->name)) == info);
    CHECK_EQ(info->kind, expected.number);
    CHECK_EQ(FieldOf(info->field).bytes, BytesOf(expected));
    CHECK_EQ(FieldOf(info->field).relative, IsRelative(expected));
    CHECK_EQ(info->through_slot, std::string(expected.expression).find('G') != std::string::npos);
    CHECK_EQ(info->is_branch, expected.is_branch);
    CHECK_EQ(FieldOf(info->field).follows, expected.form != Form::kMove);
    // B, BL, and aligned words of 8 bytes.
    CHECK_EQ(FieldOf(info->field).changes_beside_others,
             expected.form == Form::kBranch26 || expected.form == Form::kWord64);
  }
  for (int number = 0; number < 70'000; number += number < 2000 ? 1 : 1009) {
    bool known = false;
    for (const Expected& expected : kExpected) known = known || expected.number == (number & 0xFFFF);
    CHECK_EQ(FindKind(static_cast<RelocKind>(number)) != nullptr, known);
  }
  for (const char* name : {"", "R_AARCH64_", "R_AARCH64_NONE", "R_AARCH64_CALL2", "R_AARCH64_CALL266", "CALL26",
                           "R_X86_64_PC32", "R_AARCH64_TLSDESC_CALL"})
    CHECK(FindKind(std::string_view(name)) == nullptr);
}

TEST(arch_check_knows_both_ends_of_each_range) {
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    if (expected.bits == 0) continue;
    const uint64_t unit = expected.form == Form::kAdrp ? 4096 : static_cast<uint64_t>(expected.unit);
    const bool is_signed = expected.form != Form::kMove;
    const uint64_t end = uint64_t{1} << (expected.bits - is_signed);
    const uint64_t step = expected.form == Form::kMove ? uint64_t{1} << expected.part : unit;
    CHECK(Check(info, ValueOf(info.field, end - step, 0)));
    CHECK(!Check(info, ValueOf(info.field, end, 0)));
    if (!is_signed) continue;
    CHECK(Check(info, ValueOf(info.field, 0 - end, 0)));
    CHECK(!Check(info, ValueOf(info.field, 0 - end - unit, 0)));
  }
  for (const Expected& expected : kExpected) {
    if (expected.unit == 1) continue;
    const KindInfo& info = InfoOf(expected);
    for (uint64_t target = 0; target < 64; target++)
      CHECK_EQ(Check(info, ValueOf(info.field, 0x10000 + target, 0x10000)),
               target % static_cast<uint64_t>(expected.unit) == 0);
  }
}

// Pairs of addresses that every kind takes.
struct Pair {
  uint64_t target, site;
};
std::vector<Pair> PairsFor(const Expected& expected) {
  if (expected.form == Form::kMove && expected.bits == 16) return {{0x1234, 0}, {0xFFFF, 4}, {0, 8}};
  if (expected.form == Form::kMove && expected.bits == 32) return {{0x12345678, 0}, {0xFFFFFFFF, 4}, {0, 8}};
  std::vector<Pair> pairs;
  for (uint64_t site : {uint64_t{0xFFFF'7000'1004}, uint64_t{0xFFFF'7000'0FFC}, uint64_t{0x0040'0000}})
    for (int64_t distance : {-32752, -4096, -16, 0, 16, 4080, 4096, 32752})
      pairs.push_back({AlignDown(site, 16) + static_cast<uint64_t>(distance), site});
  return pairs;
}

// What the CPU computes from the field is the address that the record asks for, and no other bit has changed.
TEST(arch_fields_lead_to_their_targets) {
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    for (uint8_t fill : {0x00, 0xFF, 0xA5}) {
      uint8_t used[16];
      std::memset(used, fill, sizeof used);
      for (const Pair& pair : PairsFor(expected)) {
        const uint64_t value = ValueOf(info.field, pair.target, pair.site);
        CHECK(Check(info, value));
        if (!Check(info, value)) std::printf("  %s %llx\n", expected.name, static_cast<unsigned long long>(value));
        uint8_t fresh[16];
        std::memset(fresh, fill, sizeof fresh);
        Apply(info, fresh + 4, value);
        Apply(info, used + 4, value);  // over what was there
        CHECK(std::memcmp(fresh, used, sizeof fresh) == 0);
        CHECK_EQ(Read(info, used + 4), value);
        for (size_t i = 0; i < sizeof used; i++) CHECK((i >= 4 && i < 4 + BytesOf(expected)) || used[i] == fill);
        if (BytesOf(expected) == 4)
          CHECK_EQ((LoadAs<uint32_t>(used + 4) ^ fill * 0x01010101u) & ~FieldMask(expected.form) & 0xFFFFFFFF, 0u);
        const auto made = static_cast<uint64_t>(Decode(expected, used + 4));
        switch (expected.form) {
          case Form::kAdrp:
            CHECK_EQ((pair.site & ~uint64_t{4095}) + made, pair.target & ~uint64_t{4095});
            break;
          case Form::kImm12:
            CHECK_EQ(made, pair.target & 4095);
            break;
          case Form::kMove:
            CHECK_EQ(made, pair.target & uint64_t{0xFFFF} << expected.part);
            break;
          default:
            CHECK_EQ(made, pair.target - (IsRelative(expected) ? pair.site : 0));
        }
      }
    }
  }
}

// Whatever moves by multiples of 16, the field says what a new one would say. To normal form, where target and site
// begin at 0, and back, too: also of a target in a section that is aligned to nothing.
TEST(arch_shift_is_what_a_new_field_would_be) {
  size_t shifts = 0;
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    const FieldInfo& field = FieldOf(info.field);
    if (!field.follows) continue;
    CHECK(info.field < 1 << kFieldClassBits);
    for (uint64_t base : {uint64_t{0xFFFF'7000'0000}, uint64_t{0xFFFF'7000'0FF8}, uint64_t{0xFFFF'7000'0FF1},
                          uint64_t{0xFFFF'7000'1002}}) {
      for (uint64_t in_section : {0, 8, 14, 15, 0x0FF8}) {
        const uint64_t unit = static_cast<uint64_t>(expected.unit);
        const uint64_t target = AlignUp(base + in_section, unit);
        const uint32_t rest = static_cast<uint32_t>((target - base) & ((uint64_t{1} << field.rest_bits) - 1));
        const uint64_t code = 0xFFFF'7000'0100, site = code + 0x24;
        auto field_for = [&](uint64_t of_target, uint64_t of_site) {
          uint64_t bytes = 0xA5A5A5A5A5A5A5A5;
          Apply(info, reinterpret_cast<uint8_t*>(&bytes), ValueOf(info.field, of_target, of_site));
          return bytes;
        };
        const uint64_t normal_value = ValueOf(info.field, target - base, site - code);
        for (uint64_t target_moves : {0, 16, -4096, 0x4320, 0xFF0}) {
          for (uint64_t site_moves : {0, -16, 4096, 0x3210}) {
            const Ends from{base, site}, to{base + target_moves, site + site_moves}, normal{0, site - code};
            uint64_t moved = field_for(target, site);
            const uint64_t expected_field = field_for(target + target_moves, site + site_moves);
            CHECK_EQ(Shift(info.field, reinterpret_cast<uint8_t*>(&moved), rest, from, to),
                     Beyond(info.field, ValueOf(info.field, target + target_moves, site + site_moves)));
            CHECK_EQ(moved, expected_field);
            // As a freeze inserts it; and as verification gets there from what has moved.
            uint64_t placed = field_for(target - base, site - code);
            CHECK_EQ(Shift(info.field, reinterpret_cast<uint8_t*>(&moved), rest, to, normal),
                     Beyond(info.field, normal_value));
            CHECK_EQ(moved, placed);
            Shift(info.field, reinterpret_cast<uint8_t*>(&placed), rest, normal, to);
            CHECK_EQ(placed, expected_field);
            shifts++;
          }
        }
      }
    }
  }
  CHECK(shifts > 3000);
}

TEST(arch_constants) {
  CHECK_EQ(std::string(kCpuName), "arm64");
  CHECK_EQ(kPoisonByte, 0);  // udf #0 is a word of zeroes
  const KindInfo& branch = *FindKind("R_AARCH64_JUMP26");
  CHECK(Check(branch, 0 - kMaxArenaBytes));
  CHECK(Check(branch, kMaxArenaBytes - 4));
}

// ---- what objects and stencils ask

TEST(arch_uses_of_fields) {
  auto use = [](const char* name) { return UseOfCodeSite(FindKind(std::string_view(name))->kind, nullptr, 0, 0); };
  for (const char* name : {"R_AARCH64_CALL26", "R_AARCH64_JUMP26", "R_AARCH64_CONDBR19", "R_AARCH64_TSTBR14"})
    CHECK(use(name) == SiteUse::kBranch);
  for (const char* name : {"R_AARCH64_ADR_PREL_PG_HI21", "R_AARCH64_LDST8_ABS_LO12_NC", "R_AARCH64_LDST16_ABS_LO12_NC",
                           "R_AARCH64_LDST32_ABS_LO12_NC", "R_AARCH64_LDST64_ABS_LO12_NC",
                           "R_AARCH64_LDST128_ABS_LO12_NC", "R_AARCH64_LD_PREL_LO19", "R_AARCH64_ADR_GOT_PAGE"})
    CHECK(use(name) == SiteUse::kAccess);
  for (const char* name : {"R_AARCH64_ADD_ABS_LO12_NC", "R_AARCH64_ADR_PREL_LO21", "R_AARCH64_LD64_GOT_LO12_NC",
                           "R_AARCH64_ABS64", "R_AARCH64_PREL32", "R_AARCH64_MOVW_UABS_G0_NC"})
    CHECK(use(name) == SiteUse::kAddress);
  CHECK(IsThreadLocalKind(R_AARCH64_TLSDESC_CALL));
  CHECK_EQ(std::string(ObjectKindName(R_AARCH64_TLSDESC_CALL)), "R_AARCH64_TLSDESC_CALL");
  CHECK(!IsThreadLocalKind(R_AARCH64_CALL26));
}

std::vector<uint8_t> Words(std::initializer_list<uint32_t> words) {
  std::vector<uint8_t> bytes(4 * words.size());
  std::memcpy(bytes.data(), words.begin(), bytes.size());
  return bytes;
}

TEST(arch_own_addresses_are_found) {
  // nop; adr x0, . + 8; adr x1, . - 4; adr x2, out of the section
  std::vector<uint8_t> code = Words({0xD503201F, 0x10000040, 0x10FFFFE1, 0x10008002});
  uint32_t site = 0, target = 0;
  CHECK(FindOwnAddress(code.data(), 16, &site, &target));
  CHECK(site == 4 && target == 12);
  site++;
  CHECK(FindOwnAddress(code.data(), 16, &site, &target));
  CHECK(site == 8 && target == 4);
  site++;
  CHECK(!FindOwnAddress(code.data(), 16, &site, &target));
}

TEST(arch_ending_jumps_and_branches) {
  const RelocKind kJump = R_AARCH64_JUMP26, kCall = R_AARCH64_CALL26;
  std::vector<uint8_t> code = Words({0xD503201F, 0x14000000});
  CHECK_EQ(FindEndingJump(code.data(), 8, kJump, 4, 0).bytes, 4u);
  CHECK_EQ(FindEndingJump(code.data(), 8, kJump, 4, 4).bytes, 0u);
  CHECK_EQ(FindEndingJump(code.data(), 8, kJump, 0, 0).bytes, 0u);
  std::vector<uint8_t> call = Words({0xD503201F, 0x94000000});
  CHECK_EQ(FindEndingJump(call.data(), 8, kCall, 4, 0).bytes, 0u);
  // b . + 8; bl . - 4; b.ne . + 8; cbz x3, . - 12; tbnz w1, #3, . + 4; nop
  code = Words({0x14000002, 0x97FFFFFF, 0x54000041, 0xB4FFFFA3, 0x37180021, 0xD503201F});
  const bool expected[] = {true, false, true, false, true, true, false};  // 4 - 4, 0 + 8, 12 - 12, 8 + 8, 16 + 4
  for (size_t at = 0; at < std::size(expected); at++)
    CHECK_EQ(MayBranchTo(code.data(), code.size(), 4 * at), expected[at]);
}

}  // namespace
}  // namespace jit_arena::arch
