// The unwinder's table of an object: what is in it, and tables that nobody should have made. What it is for,
// test/79-exceptions.test.ts asks.
#include "object/object_unwind.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/bits.h"
#include "elf_maker.h"
#include "object_checks.h"
#include "support/compile.h"
#include "test.h"

using namespace jit_arena;
using namespace test;

namespace {

const std::string kText =
    "struct Noted { ~Noted(); }; int away(int);"
    "int f(int n) { Noted noted; try { return away(n); } catch (int value) { return value; } }"
    "int g(int n) { Noted noted; return away(n) + 1; } int h(int n) { return n; }";

// A table by hand, over 16 bytes of code: entries as words, and relocs.
std::vector<uint8_t> With(std::vector<uint8_t> table, std::vector<ElfMaker::MadeReloc> relocs, uint32_t type = 1,
                          const char* needs = "__cxa_throw") {
  ElfMaker maker;
  uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(16, 0xC3), 1);
  uint32_t frames = maker.Add(".eh_frame", kA, std::move(table), 8);
  maker.sections.back().type = type;
  maker.Symbol("f", kGlobalFunction, static_cast<uint16_t>(text), 0);  // 1
  maker.Symbol(needs, kGlobalNone, 0, 0);                              // 2
  maker.Relocs(frames, std::move(relocs));
  return maker.Make();
}

// zR, addresses of 4 bytes from where they stand; then one function of 16 bytes.
std::vector<uint8_t> Table() {
  return {20, 0, 0, 0, 0,  0, 0, 0, 1, 'z', 'R', 0, 1,  0x78, 16, 1, 0x1B, 0x0C, 7,    8,  0x90, 1, 0, 0,
          16, 0, 0, 0, 28, 0, 0, 0, 0, 0,   0,   0, 16, 0,    0,  0, 0,    0x44, 0x0E, 16, 0,    0, 0, 0};
}
const std::vector<ElfMaker::MadeReloc> kOneFunction = {{32, 2, 1, 0}};

bool HasFrames(const ObjectUnits& units) {
  return std::any_of(units.units.begin(), units.units.end(),
                     [](const ObjectUnit& unit) { return !unit.frames.bytes.empty(); });
}

}  // namespace

TEST(a_table_has_absolute_addresses_and_an_end) {
  for (uint32_t type : {1u, 0x70000001u}) {
    ObjectUnits units = UnitsOf(With(Table(), kOneFunction, type));
    CHECK_EQ(units.units.size(), 1u);
    CHECK(units.needs_unwinder);
    const ObjectUnit& unit = units.units[0];
    CHECK(unit.movable);
    CHECK_EQ(units.reasons.size(), 0u);
    const FrameTable& table = unit.frames;
    CHECK(!table.bytes.empty());
    if (table.bytes.empty()) return;
    const uint8_t* at = table.bytes.data();
    // The common part, with another encoding, and the function with 8 bytes for each address.
    uint32_t common = LoadAs<uint32_t>(at) + 4;
    CHECK_EQ(at[16], 0);
    CHECK_EQ(LoadAs<uint32_t>(at + common + 4), common + 4);
    CHECK_EQ(LoadAs<uint64_t>(at + common + 16), 16u);
    CHECK(std::memcmp(at + common + 25, "\x44\x0E\x10", 3) == 0);
    CHECK_EQ(LoadAs<uint32_t>(at + table.bytes.size() - 4), 0u);
    CHECK_EQ(unit.relocs.size(), 0u);
    CHECK_EQ(table.fixups.size(), 1u);
    CHECK_EQ(table.fixups[0].at, common + 8);
    CHECK(table.fixups[0].section == Section::kCode);
    CHECK_EQ(table.fixups[0].offset, 0u);
  }
}

// Exceptions pass through code that knows nothing of them. Such code does without a table as well.
TEST(code_without_exceptions_needs_no_table) {
  for (const std::string& compiler : Compilers()) {
    const std::string text = "int f(int n) { return n; }";
    ObjectUnits none = UnitsOf(CompileText(text, "-O2 -fPIC -fno-asynchronous-unwind-tables", compiler));
    CHECK(!HasFrames(none) && !none.needs_unwinder);
    ObjectUnits plain = UnitsOf(CompileText(text, "-O2 -fPIC", compiler));
    CHECK(HasFrames(plain) && !plain.needs_unwinder);
    for (const std::string& throws : {kText, std::string("int f(int n) { throw n; }")}) {
      ObjectUnits units = UnitsOf(CompileText(throws, "-O2 -fPIC", compiler, ".cc"));
      CHECK(HasFrames(units) && units.needs_unwinder);
    }
  }
  std::vector<uint8_t> unknown = Table();
  unknown[8] = 2;
  CHECK(!HasFrames(UnitsOf(With(unknown, kOneFunction, 1, "puts"))));
}

// Of two tables in one section, as ld -r makes of objects with an end each, both are read.
TEST(an_end_is_not_the_end_of_the_section) {
  std::vector<uint8_t> table = Table();
  table.insert(table.begin(), 4, 0);
  CHECK_EQ(UnitsOf(With(table, {{36, 2, 1, 0}})).units[0].frames.fixups.size(), 1u);
}

// Each function moves alone, with its handlers.
TEST(each_unit_has_the_table_of_its_own_code) {
  for (const std::string& compiler : Compilers()) {
    ObjectUnits units = UnitsOf(CompileText(kText, "-O2 -fPIC -ffunction-sections", compiler, ".cc"));
    CHECK(units.units.size() >= 3);
    size_t handlers = 0;
    for (const ObjectUnit& unit : units.units) {
      if (unit.sizes[static_cast<int>(Section::kCode)] == 0) continue;
      CHECK(!unit.frames.bytes.empty());
      for (const FrameTable::Fixup& fixup : unit.frames.fixups) handlers += fixup.section == Section::kData;
      // Whole entries, each function behind what it has in common with others, and the end.
      const std::vector<uint8_t>& bytes = unit.frames.bytes;
      size_t functions = 0, at = 0;
      while (at + 4 < bytes.size()) {
        uint32_t distance = LoadAs<uint32_t>(bytes.data() + at + 4);
        if (distance != 0) {
          functions++;
          CHECK(distance <= at + 4);
          CHECK_EQ(LoadAs<uint32_t>(bytes.data() + at + 4 - distance + 4), 0u);
        }
        at += LoadAs<uint32_t>(bytes.data() + at) + 4;
      }
      CHECK(functions > 0);
      CHECK_EQ(at + 4, bytes.size());
      CHECK_EQ(LoadAs<uint32_t>(bytes.data() + at), 0u);
    }
    CHECK(handlers >= 2);
  }
}

// What functions have in common is written once for each unit: a large one must not make an object grow.
TEST(what_many_units_have_in_common_is_small) {
  ElfMaker maker;
  std::vector<uint8_t> table = Table();
  std::vector<uint8_t> function(table.end() - 24, table.end() - 4);
  table.resize(24);
  table.insert(table.end(), 4000, 0);
  StoreAs<uint32_t>(table.data(), 4020);
  std::vector<ElfMaker::MadeReloc> relocs;
  for (uint32_t i = 0; i < 200; i++) {
    uint32_t text = maker.Add(".text.f" + std::to_string(i), kAX, std::vector<uint8_t>(16, 0xC3), 1);
    maker.Symbol("f" + std::to_string(i), kGlobalFunction, static_cast<uint16_t>(text), 0);
    StoreAs<uint32_t>(function.data() + 4, static_cast<uint32_t>(table.size()) + 4);
    relocs.push_back({table.size() + 8, 2, i + 1, 0});
    table.insert(table.end(), function.begin(), function.end());
  }
  uint32_t frames = maker.Add(".eh_frame", kA, std::move(table), 8);
  maker.Relocs(frames, std::move(relocs));
  std::vector<uint8_t> bytes = maker.Make();
  Result<ObjectFile> file = ReadObject(bytes.data(), bytes.size(), ReadFor::kExecutors);
  CHECK(file.ok());
  Result<ObjectUnits> units = MakeUnits(file.value());
  CHECK(!units.ok() && units.status().error().message.find("larger entries in common") != std::string::npos);
}

TEST(a_table_that_is_none_is_refused) {
  auto refused = [](size_t at, uint8_t value, const char* words, ErrorCode code = ErrorCode::kObject) {
    std::vector<uint8_t> table = Table();
    table[at] = value;
    CHECK(Refuses(With(table, kOneFunction), words, code));
  };
  const ErrorCode unsupported = ErrorCode::kObjectUnsupported;
  refused(0, 3, "at 0 does not lie within it");
  refused(0, 200, "at 0 does not lie within it");
  refused(24, 25, "at 24 does not lie within it");
  refused(28, 27, "at 24 refers to nothing that is before it");
  refused(28, 200, "at 24 refers to nothing that is before it");
  refused(8, 2, "an unknown version", unsupported);
  refused(9, 'y', "an unknown augmentation", unsupported);
  refused(10, 'Q', "an unknown augmentation", unsupported);
  refused(15, 2, "an augmentation of another length");
  refused(40, 1, "an augmentation of another length");
  refused(16, 0x2B, "an unknown encoding", unsupported);
  refused(16, 0x19, "an unknown encoding", unsupported);
  refused(16, 0x03, "a reloc that does not go with its encoding", unsupported);
  refused(16, 0x1C, "a reloc that does not go with its encoding", unsupported);
  refused(36, 17, "at 24 is of code beyond its section");
  CHECK(Refuses(With(Table(), {{32, 2, 1, 1}}), "at 24 is of code beyond its section"));
  CHECK(Refuses(With(Table(), {{32, 2, 1, -1}}), "at 24 is of code beyond its section"));
  CHECK(Refuses(With(Table(), {{32, 2, 1, 0}, {42, 2, 1, 0}}), "an instruction with an address", unsupported));
  CHECK(Refuses(With(Table(), {{33, 2, 1, 0}}), "a reloc that does not go with its encoding", unsupported));
  std::vector<uint8_t> linked = Table();
  linked[32] = 1;
  CHECK(Refuses(With(linked, {}), "an address without a reloc", unsupported));
  // Of code that is not there, and of none.
  CHECK(!HasFrames(UnitsOf(With(Table(), {{32, 2, 2, 0}}))));
  CHECK(!HasFrames(UnitsOf(With(Table(), {}))));
}

TEST(tables_that_share_bytes_are_refused) {
  std::vector<uint8_t> bytes = With(Table(), kOneFunction);
  // Where the section headers are, and the third of them says where the table lies: more of it than there is.
  uint64_t headers = LoadAs<uint64_t>(bytes.data() + 40);
  uint16_t count = LoadAs<uint16_t>(bytes.data() + 60);
  std::vector<uint8_t> more(bytes.begin() + static_cast<ptrdiff_t>(headers), bytes.end());
  uint16_t copies = 0;
  for (; copies < 1000; copies++) bytes.insert(bytes.end(), more.begin() + 128, more.begin() + 192);
  uint16_t all = static_cast<uint16_t>(count + copies);
  std::memcpy(bytes.data() + 60, &all, sizeof all);
  CHECK(ReadStatus(bytes).ok());
  // 48 bytes of each, in headers of 64: as many as are let in. Larger ones are not.
  std::vector<uint8_t> large = With(std::vector<uint8_t>(4096), {});
  headers = LoadAs<uint64_t>(large.data() + 40);
  more.assign(large.begin() + static_cast<ptrdiff_t>(headers), large.end());
  for (int i = 0; i < 100; i++) large.insert(large.end(), more.begin() + 128, more.begin() + 192);
  all = static_cast<uint16_t>(LoadAs<uint16_t>(large.data() + 60) + 100);
  std::memcpy(large.data() + 60, &all, sizeof all);
  CHECK(Refuses(large, "they share bytes"));
}

// Sixteen addresses of a function for each frame, of 9 bytes each as they are written anew.
TEST(more_than_a_length_of_one_byte_is_refused) {
  std::vector<uint8_t> table = {0, 0, 0, 0, 0, 0, 0, 0, 1, 'z'};
  table.insert(table.end(), 16, 'P');
  table.insert(table.end(), {0, 1, 0x78, 16, 16 * 5});
  std::vector<ElfMaker::MadeReloc> relocs;
  for (int i = 0; i < 16; i++) {
    relocs.push_back({table.size() + 1, 2, 2, 0});
    table.insert(table.end(), {0x1B, 0, 0, 0, 0});
  }
  table[0] = static_cast<uint8_t>(table.size() - 4);
  CHECK(Refuses(With(table, relocs), "an unknown augmentation", ErrorCode::kObjectUnsupported));
}

TEST(lying_tables_do_no_harm) {
  uint32_t random = 20240607;
  auto next = [&](size_t below) { return (random = random * 1664525 + 1013904223) / 65536 % below; };
  for (const std::string& compiler : Compilers()) {
    std::vector<uint8_t> object = CompileText(kText, "-O2 -fPIC -ffunction-sections", compiler, ".cc");
    // Where its table lies: after the name of the encodings that both compilers use.
    const char* mark = "zPLR";
    auto table = std::search(object.begin(), object.end(), mark, mark + 4);
    CHECK(table != object.end());
    size_t begin = static_cast<size_t>(table - object.begin()) - 9;
    int accepted = 0;
    for (int i = 0; i < 4000; i++) {
      std::vector<uint8_t> bytes = object;
      for (size_t changes = 1 + next(3); changes > 0; changes--)
        bytes[begin + next(160)] = static_cast<uint8_t>(next(4) == 0 ? 0xFF : next(256));
      const char* broken = FindBrokenObjectRule(bytes.data(), bytes.size());
      if (broken != nullptr) std::printf("  %s\n", broken);
      CHECK(broken == nullptr);
      accepted += ReadStatus(bytes).ok();
    }
    CHECK(accepted > 0 && accepted < 4000);
  }
}
