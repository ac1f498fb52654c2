// Kinds that use a GOT, which an arena does not have (psABI, table 4.9: numbers 25 to 31): what stands for the base and
// for the slots, and where there is none.
#include "elf_maker.h"
#include "object_checks.h"
#include "test.h"

namespace {

using namespace jit_arena;
using namespace test;

enum : uint32_t { kGotOff64 = 25, kGotPc32, kGot64, kGotPcRel64, kGotPc64, kGotPlt64, kPltOff64 };

constexpr uint64_t kCodeAddress = 0x7000'0000'1000, kDataAddress = 0x7000'0000'9000, kStateAddress = 0x7000'4000'0000;
constexpr uint64_t kOutside = 0x1234'5678'9ABC, kFill = 24;

// A function with the base and one field of the kind behind other code of the unit, so that it does not begin at the
// base; a symbol in each kind of section, and one outside.
struct Sample {
  ElfMaker maker;
  uint32_t text, other, symbols[4], got;
  uint64_t field = 20;
  Sample(uint32_t kind, int symbol, int64_t addend, bool with_base = true) {
    other = maker.Add(".text", kAX, std::vector<uint8_t>(kFill, 0x90), 8);
    text = maker.Add(".text.unlikely", kAX, std::vector<uint8_t>(40, 0x90), 8);
    uint32_t data = maker.Add(".rodata", kA, std::vector<uint8_t>(12), 4);
    uint32_t state = maker.Add(".data", kWA, std::vector<uint8_t>(16), 8);
    symbols[0] = maker.Symbol("f", kGlobalFunction, static_cast<uint16_t>(other), 3);
    symbols[1] = maker.Symbol("d", kGlobalObject, static_cast<uint16_t>(data), 4);
    symbols[2] = maker.Symbol("s", kGlobalObject, static_cast<uint16_t>(state), 8);
    symbols[3] = maker.Symbol("away", kGlobalNone, 0, 0);
    got = maker.Symbol("_GLOBAL_OFFSET_TABLE_", kGlobalNone, 0, 0);
    std::vector<ElfMaker::MadeReloc> relocs = {{field, kind, symbol < 0 ? got : symbols[symbol], addend}};
    if (with_base) relocs.push_back({2, kGotPc64, got, 2});
    maker.Relocs(text, relocs);
  }
};

uint64_t AddressOf(int section) { return section == 0 ? kCodeAddress : section == 1 ? kDataAddress : kStateAddress; }

// What a field is filled with when the sections are at their addresses.
uint64_t ValueOf(const UnitReloc& reloc) {
  uint64_t symbol = reloc.asked != kNoIndex ? kOutside
                    : reloc.spec.target_kind == TargetKind::kAddress
                        ? reloc.spec.target
                        : AddressOf(static_cast<int>(reloc.spec.target_kind)) + reloc.spec.target;
  uint64_t site = AddressOf(static_cast<int>(reloc.spec.section)) + reloc.spec.offset;
  const arch::KindInfo& info = *arch::FindKind(reloc.spec.kind);
  CHECK(!info.through_slot);
  return symbol + static_cast<uint64_t>(reloc.spec.addend) - (arch::FieldOf(info.field).relative ? site : 0);
}

const UnitReloc* RelocAt(const ObjectUnits& units, Section section, uint64_t offset) {
  for (const UnitReloc& reloc : units.units[0].relocs)
    if (reloc.spec.section == section && reloc.spec.offset == offset) return &reloc;
  return nullptr;
}

constexpr uint64_t kSymbolAddresses[] = {kCodeAddress + 3, kDataAddress + 4, kStateAddress + 8, kOutside};

}  // namespace

TEST(each_kind_says_what_the_psABI_says) {
  for (int64_t addend : {int64_t{0}, int64_t{7}, int64_t{-4}, INT64_MAX, INT64_MIN}) {
    for (uint32_t kind = kGotOff64; kind <= kPltOff64; kind++) {
      for (int symbol = 0; symbol < 4; symbol++) {
        ObjectUnits units = UnitsOf(Sample(kind, symbol, addend).maker.Make());
        CHECK_EQ(units.units.size(), 1);
        const UnitReloc* base = RelocAt(units, Section::kCode, kFill + 2);
        const UnitReloc* made = RelocAt(units, Section::kCode, kFill + 20);
        CHECK(base != nullptr && made != nullptr);
        if (base == nullptr || made == nullptr) return;
        // GOT + A - P, where A counts from the instruction.
        uint64_t got = ValueOf(*base) + kCodeAddress + kFill + 2 - 2;
        CHECK_EQ(got, kCodeAddress);
        uint64_t s = kSymbolAddresses[symbol], a = static_cast<uint64_t>(addend), p = kCodeAddress + kFill + 20;
        const UnitReloc* slot = RelocAt(units, Section::kData, 16);
        bool is_slot = kind == kGot64 || kind == kGotPlt64 || kind == kGotPcRel64;
        CHECK_EQ(slot != nullptr, is_slot);
        if (slot != nullptr) CHECK_EQ(ValueOf(*slot), s);
        uint64_t g = kDataAddress + 16;
        uint64_t expected = kind == kGotOff64 || kind == kPltOff64 ? s + a - got
                            : kind == kGot64 || kind == kGotPlt64  ? g + a - got
                            : kind == kGotPcRel64                  ? g + a - p
                                                                   : got + a - p;
        CHECK_EQ(ValueOf(*made), expected);
        CHECK_EQ(arch::FieldOf(arch::FindKind(made->spec.kind)->field).bytes, kind == kGotPc32 ? 4 : 8);
      }
    }
  }
}

TEST(nobody_is_asked_for_the_base_and_it_is_no_address_taken) {
  for (uint32_t kind : {kGotPc64, kGotPc32}) {
    ObjectUnits units = UnitsOf(Sample(kind, -1, -4).maker.Make());
    CHECK(units.asked.empty());
    CHECK(units.reasons.empty());
    for (const UnitReloc& reloc : units.units[0].relocs) {
      CHECK(!reloc.takes_address);
      CHECK(reloc.spec.target_kind == TargetKind::kOwnCode);
    }
  }
}

TEST(what_counts_from_the_base_takes_an_address) {
  for (uint32_t kind : {kGotOff64, kPltOff64, kGot64, kGotPlt64, kGotPcRel64}) {
    ObjectUnits own = UnitsOf(Sample(kind, 0, 0).maker.Make());
    CHECK(!own.units[0].movable);
    CHECK_EQ(own.reasons.size(), 1);
    CHECK_EQ(own.reasons[0].text, ".text.unlikely + 0x14: an instruction takes the address of 'f' (.text)");
    // Of what another object has, the host's answer is checked.
    ObjectUnits other = UnitsOf(Sample(kind, 3, 0).maker.Make());
    CHECK(other.units[0].movable);
    bool takes = false;
    for (const UnitReloc& reloc : other.units[0].relocs) takes = takes || (reloc.asked == 0 && reloc.takes_address);
    CHECK(takes);
  }
}

TEST(all_code_that_counts_from_the_base_is_one_unit) {
  ElfMaker maker;
  std::vector<uint32_t> texts;
  for (const char* name : {".text.a", ".text.b", ".text.c", ".text.d"})
    texts.push_back(maker.Add(name, kAX, std::vector<uint8_t>(16, 0x90), 1));
  uint32_t data = maker.Add(".rodata", kA, std::vector<uint8_t>(8), 8);
  uint32_t got = maker.Symbol("_GLOBAL_OFFSET_TABLE_", kGlobalNone, 0, 0);
  uint32_t of_data = maker.Symbol("", kLocalSection, static_cast<uint16_t>(data), 0);
  maker.Relocs(texts[1], {{4, kGotPc64, got, 2}});
  maker.Relocs(texts[3], {{5, kGotOff64, of_data, 0}});
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.units.size(), 3);
  CHECK_EQ(units.units[1].sizes[0], 32);
  const UnitReloc& use = units.units[1].relocs.back();
  CHECK_EQ(use.spec.offset, 16 + 5);
  CHECK_EQ(use.spec.addend, 16 + 5);
}

TEST(a_base_that_nobody_takes_is_none) {
  for (uint32_t kind : {kGotOff64, kPltOff64, kGot64, kGotPlt64})
    CHECK(
        Refuses(Sample(kind, 1, 0, false).maker.Make(),
                Format("section 2 '.text.unlikely' + 0x14 is %s (%u), which counts from the base of a GOT, and no code",
                       ObjectKindName(kind), kind)
                    .c_str(),
                ErrorCode::kRelocKind));
  CHECK(ReadStatus(Sample(kGotPcRel64, 1, 0, false).maker.Make()).ok());
}

TEST(only_code_counts_from_the_base) {
  auto in = [](uint64_t flags, uint32_t kind) {
    Sample sample(kGotPc64, -1, 0);
    uint32_t section = sample.maker.Add(".x", flags, std::vector<uint8_t>(16), 8);
    sample.maker.Relocs(section, {{8, kind, sample.symbols[0], 0}});
    return sample.maker.Make();
  };
  for (uint64_t flags : {kA, kWA}) {
    for (uint32_t kind : {kGotOff64, kGotPc32, kGot64, kGotPc64, kGotPlt64, kPltOff64})
      CHECK(Refuses(in(flags, kind),
                    Format("'.x' + 0x8 is %s (%u), which counts from the base of a GOT, and only code",
                           ObjectKindName(kind), kind)
                        .c_str(),
                    ErrorCode::kRelocKind));
    // The distance of a slot is none of what the slot holds: no reason to be one unit, but one not to move.
    ObjectUnits units = UnitsOf(in(flags, kGotPcRel64));
    CHECK_EQ(units.reasons.size(), 1);
    CHECK(!units.units[0].movable);
  }
}

TEST(stencils_have_no_base) {
  for (uint32_t kind = kGotOff64; kind <= kPltOff64; kind++) {
    std::vector<uint8_t> bytes = Sample(kind, 0, 0, false).maker.Make();
    Result<ObjectFile> file = ReadObject(bytes.data(), bytes.size(), ReadFor::kStencils);
    CHECK(file.status().code() == ErrorCode::kRelocKind);
    std::string words = Format("is of the kind %s (%u), which is not one that an arena", ObjectKindName(kind), kind);
    CHECK(file.status().error().message.find(words) != std::string::npos);
    CHECK_EQ(file.status().error().kind, std::string(ObjectKindName(kind)));
  }
}

TEST(a_field_outside_its_section_is_refused) {
  for (uint32_t kind = kGotOff64; kind <= kPltOff64; kind++) {
    for (uint64_t field : {uint64_t{33}, uint64_t{37}, uint64_t{40}, ~uint64_t{0}}) {
      Sample sample(kGotPc64, -1, 0);
      uint32_t text = sample.maker.Add(".text.hot", kAX, std::vector<uint8_t>(40), 8);
      sample.maker.Relocs(text, {{field, kind, sample.symbols[0], 0}});
      if (kind == kGotPc32 && field == 33)
        CHECK(ReadStatus(sample.maker.Make()).ok());
      else
        CHECK(Refuses(sample.maker.Make(), "do not lie within the section's 40 bytes"));
    }
  }
}

TEST(sections_of_the_large_model_are_as_others) {
  ElfMaker maker;
  for (const char* name : {".ltext", ".ltext.f", ".ltext.unlikely.f", ".ltext.hot", ".text.g", ".ltext.unlikely.g"})
    maker.Add(name, kAX, {0xC3}, 1);
  CHECK_EQ(UnitsOf(maker.Make()).units.size(), 3);
}

TEST(mutations_of_got_uses_are_refused_or_make_sound_units) {
  uint64_t random = 20240608;
  auto next = [&](uint64_t below) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return (random >> 33) % below;
  };
  int accepted = 0;
  for (int i = 0; i < 20000; i++) {
    uint32_t kind = kGotOff64 + static_cast<uint32_t>(next(7));
    std::vector<uint8_t> bytes = Sample(kind, static_cast<int>(next(4)), static_cast<int64_t>(random)).maker.Make();
    for (uint64_t changes = 1 + next(4); changes > 0; changes--)
      bytes[next(bytes.size())] = static_cast<uint8_t>(next(2) == 0 ? next(256) : kGotOff64 + next(7));
    const char* broken = FindBrokenObjectRule(bytes.data(), bytes.size());
    if (broken != nullptr) Fail(__FILE__, __LINE__, broken + (" in mutation " + std::to_string(i)));
    accepted += ReadStatus(bytes).ok();
  }
  CHECK(accepted > 0);
}
