// Constructors and destructors as an object has them: their order, and what is none.
#include "elf_maker.h"
#include "object_checks.h"
#include "test.h"

namespace {

using namespace jit_arena;
using namespace test;

// An object with 16 functions of a byte each, and sections that name some of them.
struct Caller {
  ElfMaker maker;
  uint32_t text, functions[16];
  Caller() {
    text = maker.Add(".text", kAX, std::vector<uint8_t>(16, 0xC3), 1);
    for (uint32_t i = 0; i < 16; i++)
      functions[i] = maker.Symbol("f" + std::to_string(i), kGlobalFunction, static_cast<uint16_t>(text), i);
  }
  Caller& List(const char* name, const std::vector<uint32_t>& called, uint32_t type = 1) {
    uint32_t section = maker.Add(name, kWA, std::vector<uint8_t>(8 * called.size()), 8);
    maker.sections.back().type = type;
    std::vector<ElfMaker::MadeReloc> relocs;
    for (uint32_t i = 0; i < called.size(); i++) relocs.push_back({8 * i, 1, functions[called[i]], 0});
    maker.Relocs(section, relocs);
    return *this;
  }
};

// Where in the code they are.
std::vector<uint32_t> Called(const ObjectUnits& units, const std::vector<CalledEntry>& calls) {
  std::vector<uint32_t> offsets;
  for (const CalledEntry& call : calls) offsets.push_back(units.units[call.unit].entries[call.entry]);
  return offsets;
}

}  // namespace

TEST(priorities_say_who_is_first) {
  ObjectUnits units = UnitsOf(Caller()
                                  .List(".init_array", {1, 2}, 14)
                                  .List(".init_array.200", {3, 4}, 14)
                                  .List(".init_array.00101", {5})
                                  .List(".ctors.65400", {6, 7})  // 135
                                  .List(".ctors", {8, 9})
                                  .List(".init_array.named", {10})
                                  .List(".fini_array", {1, 2}, 15)
                                  .List(".fini_array.300", {3})
                                  .List(".dtors", {11, 12})
                                  .List(".dtors.65534", {13})  // 1
                                  .maker.Make());
  CHECK(Called(units, units.constructors) == (std::vector<uint32_t>{5, 7, 6, 3, 4, 1, 2, 9, 8, 10}));
  CHECK(Called(units, units.destructors) == (std::vector<uint32_t>{11, 12, 2, 1, 3, 13}));
  CHECK(units.dso_handle.has_value());
  // The functions that others may ask for are the first entries, as ever.
  CHECK_EQ(units.units[0].entries[0], 0u);
  CHECK_EQ(units.exports.size(), 16u);
}

TEST(without_any_an_object_is_what_it_was) {
  ObjectUnits units = UnitsOf(Caller().maker.Make());
  CHECK(units.constructors.empty() && units.destructors.empty() && !units.dso_handle);
  CHECK_EQ(units.units[0].sizes[2], 0u);
}

TEST(ends_of_older_lists_are_passed_over) {
  Caller caller;
  uint32_t section = caller.maker.Add(".ctors", kWA, std::vector<uint8_t>(24, 0xFF), 8);
  std::fill_n(caller.maker.sections.back().bytes.begin() + 16, 8, uint8_t{0});
  caller.maker.Relocs(section, {{8, 1, caller.functions[4], 0}});
  ObjectUnits units = UnitsOf(caller.maker.Make());
  CHECK(Called(units, units.constructors) == std::vector<uint32_t>{4});
}

TEST(what_is_no_function_is_refused) {
  auto with = [](std::vector<uint8_t> bytes, std::vector<ElfMaker::MadeReloc> relocs) {
    Caller caller;
    uint32_t section = caller.maker.Add(".init_array", kWA, std::move(bytes), 8);
    uint32_t data = caller.maker.Add(".data", kWA, {1, 2, 3, 4}, 1);
    caller.maker.Symbol("d", kGlobalObject, static_cast<uint16_t>(data), 0);  // 17
    caller.maker.Symbol("away", kGlobalNone, 0, 0);                           // 18
    caller.maker.Relocs(section, std::move(relocs));
    return caller.maker.Make();
  };
  const std::vector<uint8_t> one(8);
  CHECK(Refuses(with(std::vector<uint8_t>(8, 1), {}), "address of a function at 0"));
  CHECK(Refuses(with(std::vector<uint8_t>(12), {{0, 1, 1, 0}}), "address of a function at 8"));
  CHECK(Refuses(with(one, {{0, 2, 1, 0}}), "address of a function at 0"));
  CHECK(Refuses(with(std::vector<uint8_t>(16), {{4, 1, 1, 0}}), "address of a function at 0"));
  CHECK(Refuses(with(one, {{0, 1, 1, 16}}), "'f0' + 16, is no function"));
  CHECK(Refuses(with(one, {{0, 1, 1, -1}}), "'f0' + -1, is no function"));
  CHECK(Refuses(with(one, {{0, 1, 17, 0}}), "'d' + 0, is no function"));
  CHECK(Refuses(with(one, {{0, 1, 18, 0}}), "'away' + 0, is no function"));
  CHECK(Refuses(with(one, {{0, 1, 0, 0}}), "is no function"));
  CHECK(ReadStatus(with(one, {{0, 1, 16, 0}})).ok());
}
