// The object reader on objects that are written here byte by byte, so that every header can lie, and on every
// truncation and many mutations of them. Under ASan a read outside the bytes ends the test. Real objects are loaded,
// run and mutated by test/70-objects.test.ts, and by test/fuzz.
#include "elf_maker.h"
#include "object/object_limits.h"
#include "object_checks.h"
#include "test.h"

namespace {

using namespace jit_arena;
using namespace test;

// f: call g; mov table(%rip),%eax; lea table(%rip),%rax; mov counter(%rip),%eax; call away
// g: ret; a table with a distance to f, a counter, and a pointer to it.
struct Sample {
  ElfMaker maker;
  uint32_t text_f, text_g, table, counter, pointer;
  Sample() {
    std::vector<uint8_t> f = {0xE8, 0, 0,    0,    0, 0x8B, 0x05, 0, 0,    0,    0, 0x48, 0x8D, 0x05, 0,   0,
                              0,    0, 0x8B, 0x05, 0, 0,    0,    0, 0xFF, 0x15, 0, 0,    0,    0,    0xC3};
    text_f = maker.Add(".text.f", kAX, f, 16);
    text_g = maker.Add(".text.g", kAX, {0xC3}, 16);
    table = maker.Add(".rodata.table", kA, {1, 0, 0, 0, 2, 0, 0, 0}, 4);
    counter = maker.Add(".bss.counter", kWA, {}, 8);
    maker.sections.back().type = 8;
    maker.sections.back().size = 8;
    pointer = maker.Add(".data.pointer", kWA, {0, 0, 0, 0, 0, 0, 0, 0}, 8);
    uint32_t section_table = maker.Symbol("", kLocalSection, static_cast<uint16_t>(table), 0);
    maker.Symbol("f", kGlobalFunction, static_cast<uint16_t>(text_f), 0, f.size());
    uint32_t g = maker.Symbol("g", kGlobalFunction, static_cast<uint16_t>(text_g), 0, 1);
    uint32_t count = maker.Symbol("counter", kGlobalObject, static_cast<uint16_t>(counter), 0, 8);
    uint32_t away = maker.Symbol("away", kGlobalNone, 0, 0);
    maker.Relocs(
        text_f,
        {{1, 4, g, -4}, {7, 2, section_table, -4}, {14, 2, section_table, -4}, {20, 2, count, -4}, {26, 41, away, -4}});
    maker.Relocs(pointer, {{0, 1, count, 0}});
  }
};

}  // namespace

TEST(a_section_of_code_each_makes_a_unit) {
  ObjectUnits units = UnitsOf(Sample().maker.Make());
  CHECK_EQ(units.units.size(), 2);
  CHECK_EQ(units.units[0].name, "f");
  CHECK_EQ(units.units[1].name, "g");
  CHECK_EQ(units.units[0].sizes[0], 31);
  CHECK_EQ(units.units[0].sizes[1], 16);  // the table and a slot for `away`
  CHECK_EQ(units.units[0].sizes[2], 16);  // the counter is used by f, the pointer by nobody
  CHECK_EQ(units.units[1].sizes[1], 0);
  CHECK_EQ(units.exports.size(), 3);
  CHECK_EQ(units.asked.size(), 1);
  CHECK_EQ(units.asked[0].name, "away");
}

TEST(bytes_come_first_and_zeros_last) {
  ObjectUnits units = UnitsOf(Sample().maker.Make());
  CHECK_EQ(units.units[0].bytes[2].size(), 8);  // .data.pointer, before .bss.counter
  for (const UnitReloc& reloc : units.units[0].relocs)
    if (reloc.spec.section == Section::kState) {
      CHECK_EQ(reloc.spec.offset, 0);
      CHECK(reloc.spec.target_kind == TargetKind::kOwnState);
      CHECK_EQ(reloc.spec.target, 8);
    }
}

TEST(a_slot_is_a_constant_of_the_unit) {
  ObjectUnits units = UnitsOf(Sample().maker.Make());
  bool use = false, slot = false;
  for (const UnitReloc& reloc : units.units[0].relocs) {
    if (reloc.spec.section == Section::kCode && reloc.spec.offset == 26) {
      use = reloc.asked == kNoIndex && reloc.spec.target_kind == TargetKind::kOwnData && reloc.spec.target == 8 &&
            reloc.spec.kind == 2 && reloc.spec.addend == -4;
    }
    if (reloc.spec.section == Section::kData && reloc.spec.offset == 8)
      slot = reloc.asked == 0 && reloc.spec.kind == 1 && reloc.spec.addend == 0 && !reloc.takes_address;
  }
  CHECK(use);
  CHECK(slot);
}

TEST(who_takes_an_address_is_told) {
  ObjectUnits units = UnitsOf(Sample().maker.Make());
  CHECK_EQ(units.reasons.size(), 2);
  CHECK_EQ(units.reasons[0].text, ".text.f + 0xe: an instruction takes the address of .rodata.table");
  CHECK_EQ(units.reasons[1].text, ".data.pointer + 0: a variable holds the address of 'counter' (.bss.counter)");
  CHECK(!units.units[0].movable);
  CHECK(units.units[1].movable);
}

TEST(an_address_in_the_own_section_needs_no_reloc_to_be_seen) {
  ElfMaker maker;
  // lea 0(%rip), %rcx, which is the ret; ret
  uint32_t text = maker.Add(".text", kAX, {0x48, 0x8D, 0x0D, 0, 0, 0, 0, 0xC3}, 16);
  maker.Symbol("f", kGlobalFunction, static_cast<uint16_t>(text), 0);
  maker.Symbol("g", 2, static_cast<uint16_t>(text), 7);
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.reasons.size(), 1);
  CHECK_EQ(units.reasons[0].text, ".text + 0x3: an instruction takes the address of 'g' (.text)");
}

TEST(an_object_without_symbols) {
  ElfMaker maker;
  maker.Add(".text", kAX, {0x48, 0x8D, 0x0D, 0, 0, 0, 0, 0xC3}, 16);
  std::vector<uint8_t> bytes = maker.Make();
  ElfMaker::Put<uint32_t>(bytes, maker.headers + 64 * 2 + 4, 1);  // .symtab becomes something else
  ObjectUnits units = UnitsOf(bytes);
  CHECK_EQ(units.units.size(), 1);
  CHECK_EQ(units.reasons[0].text, ".text + 0x3: an instruction takes the address of .text");
}

TEST(cold_parts_go_with_their_functions) {
  ElfMaker maker;
  for (const char* name : {".text.unlikely.f", ".text.f", ".text.unlikely", ".text", ".text.hot.g", ".text.g"})
    maker.Add(name, kAX, {0xC3}, 1);
  CHECK_EQ(UnitsOf(maker.Make()).units.size(), 3);
}

TEST(distances_stay_with_what_they_measure) {
  ElfMaker maker;
  uint32_t f = maker.Add(".text.f", kAX, {0xC3, 0xC3, 0xC3, 0xC3}, 1);
  uint32_t g = maker.Add(".text.g", kAX, {0xC3}, 1);
  maker.Add(".text.h", kAX, {0xC3}, 1);
  uint32_t table = maker.Add(".rodata", kA, std::vector<uint8_t>(8), 4);
  uint32_t of_f = maker.Symbol("", kLocalSection, static_cast<uint16_t>(f), 0);
  uint32_t of_g = maker.Symbol("", kLocalSection, static_cast<uint16_t>(g), 0);
  maker.Relocs(table, {{0, 2, of_f, 0}, {4, 2, of_g, 4}});
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.units.size(), 2);
  CHECK_EQ(units.units[0].sizes[1], 8);
  CHECK_EQ(units.units[0].relocs.size(), 2);
}

TEST(the_first_user_owns_and_others_refer_to_it) {
  ElfMaker maker;
  uint32_t f = maker.Add(".text.f", kAX, std::vector<uint8_t>(8, 0x90), 1);
  uint32_t g = maker.Add(".text.g", kAX, std::vector<uint8_t>(8, 0x90), 1);
  uint32_t data = maker.Add(".rodata", kA, std::vector<uint8_t>(8), 4);
  uint32_t strings = maker.Add(".rodata.str1.1", kA, {'a', 0}, 1);
  uint32_t of_data = maker.Symbol("", kLocalSection, static_cast<uint16_t>(data), 0);
  uint32_t of_strings = maker.Symbol("", kLocalSection, static_cast<uint16_t>(strings), 0);
  maker.Relocs(f, {{0, 1, of_data, 0}});
  maker.Relocs(g, {{0, 1, of_strings, 1}});
  maker.Relocs(data, {{0, 1, of_strings, 0}});
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.units[0].sizes[1], 10);
  CHECK_EQ(units.units[1].sizes[1], 0);
  const RelocSpec& spec = units.units[1].relocs[0].spec;
  CHECK(spec.target_kind == TargetKind::kBatchMember);
  CHECK_EQ(spec.target, 0);
  CHECK(spec.target_section == Section::kData);
  CHECK_EQ(spec.target_offset, 8);
  CHECK_EQ(spec.addend, 1);
}

TEST(common_weak_and_absolute_symbols) {
  ElfMaker maker;
  uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(40, 0x90), 1);
  uint32_t big = maker.Symbol("big", kGlobalObject, 0xFFF2, 32, 100);
  uint32_t small = maker.Symbol("small", kGlobalObject, 0xFFF2, 4, 4);
  uint32_t fixed = maker.Symbol("fixed", kGlobalNone, 0xFFF1, 0x1234);
  uint32_t maybe = maker.Symbol("maybe", kWeakNone, 0, 0);
  maker.Relocs(text, {{0, 1, big, 0}, {8, 1, small, 0}, {16, 1, fixed, 4}, {24, 1, maybe, 0}, {32, 0, 0, 0}});
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.units[0].sizes[2], 104);
  CHECK_EQ(units.units[0].aligns[2], 32);
  CHECK_EQ(units.units[0].relocs.size(), 4);
  CHECK_EQ(units.units[0].relocs[1].spec.target, 100);
  CHECK(units.units[0].relocs[2].spec.target_kind == TargetKind::kAddress);
  CHECK_EQ(units.units[0].relocs[2].spec.target, 0x1234);
  CHECK(units.asked[0].weak);
}

TEST(data_alone_gets_code_that_traps) {
  ElfMaker maker;
  maker.Add(".data", kWA, {1, 2, 3}, 1);
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.units.size(), 1);
  CHECK_EQ(units.units[0].bytes[0][0], arch::kPoisonByte);
  CHECK(UnitsOf(ElfMaker().Make()).units.empty());
}

TEST(handlers_of_no_function_are_refused) {
  for (const char* name : {".gcc_except_table", ".gcc_except_table.f"}) {
    ElfMaker maker;
    maker.Add(name, kA, std::vector<uint8_t>(8), 8);
    CHECK(Refuses(maker.Make(), "exceptions are handled", ErrorCode::kObjectUnsupported));
  }
}

TEST(an_ifunc_is_a_stub_with_a_slot_and_a_resolver) {
  ElfMaker maker;
  uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(24, 0x90), 16);
  uint32_t chosen = maker.Symbol("chosen", 0x1A, static_cast<uint16_t>(text), 3);
  maker.Symbol("other", 0x1A, static_cast<uint16_t>(text), 5);
  maker.Relocs(text, {{10, 4, chosen, -4}});
  std::vector<uint8_t> bytes = maker.Make();
  ObjectUnits units = UnitsOf(bytes);
  CHECK_EQ(units.units.size(), 1);
  CHECK_EQ(units.ifuncs.size(), 2);
  const ObjectUnit& unit = units.units[0];
  CHECK_EQ(unit.entries[units.ifuncs[0].resolver.entry], 3u);
  CHECK_EQ(unit.entries[units.ifuncs[1].resolver.entry], 5u);
  CHECK_EQ(units.ifuncs[1].slot.offset, units.ifuncs[0].slot.offset + 8);
  CHECK_EQ(unit.sizes[2], 16u);
  // Callers and other objects find the stub, which is behind the object's own code.
  CHECK_EQ(units.exports[0].name, "chosen");
  CHECK_EQ(units.exports[0].offset, 24u);
  CHECK_EQ(unit.relocs[0].spec.target, 24u);
  const RelocSpec& of_slot = unit.relocs[2].spec;
  CHECK(of_slot.target_kind == TargetKind::kOwnState && of_slot.section == Section::kCode);
  CHECK_EQ(static_cast<int64_t>(of_slot.target) + of_slot.addend - kSlotJumpFields[0].addend, 8);
  CHECK(FindBrokenObjectRule(bytes.data(), bytes.size()) == nullptr);

  ElfMaker in_data;
  uint32_t data = in_data.Add(".data", kWA, {1, 2, 3, 4}, 4);
  in_data.Symbol("chosen", 0x1A, static_cast<uint16_t>(data), 0);
  CHECK(Refuses(in_data.Make(), "'chosen' + 0, is no function"));
}

TEST(what_an_arena_does_not_have_is_named) {
  auto with = [](const char* name, uint32_t type, uint64_t flags) {
    ElfMaker maker;
    maker.Add(name, flags, std::vector<uint8_t>(8), 8);
    maker.sections.back().type = type;
    return maker.Make();
  };
  CHECK(Refuses(with(".tdata", 1, kWA | 0x400), "thread-local", ErrorCode::kObjectUnsupported));
  CHECK(Refuses(with(".text", 1, kAX | 1), "writable and executable", ErrorCode::kObjectUnsupported));
  // Whatever its type, a linker would gather it by its name.
  for (const char* name : {".preinit_array", ".preinit_array.1", ".init", ".fini"})
    for (uint64_t flags : {kWA, kA, kAX})
      CHECK(Refuses(with(name, 1, flags), (std::string("'") + name + "' has constructors").c_str(),
                    ErrorCode::kObjectUnsupported));
  CHECK(Refuses(with(".text", 16, kWA), "'.text' has constructors", ErrorCode::kObjectUnsupported));
  CHECK(Refuses(with(".text", 14, kWA), "'.text' has constructors", ErrorCode::kObjectUnsupported));
  CHECK(Refuses(with(".init_array", 7, kWA), "'.init_array' has constructors", ErrorCode::kObjectUnsupported));
  CHECK(ReadStatus(with(".initial", 1, kWA)).ok());
  CHECK(ReadStatus(with(".init.text", 1, kAX)).ok());
}

// Every type that has no meaning here could be one of relocs: none is passed over.
TEST(a_section_of_an_unknown_type_is_refused_by_name) {
  auto with = [](uint32_t type, size_t bytes, const char* name = ".relx") {
    ElfMaker maker;
    uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(16, 0x90), 1);
    maker.Add(name, 0, std::vector<uint8_t>(bytes), 8);
    maker.sections.back().type = type;
    maker.sections.back().info = text;
    return maker.Make();
  };
  std::vector<uint32_t> types = {10,         12,         13,         19,         20,
                                 0x40000014, 0x60000001, 0x60000002, 0x6FFFFF00, 0x6FFFFFFF,
                                 0x70000000, 0x70001234, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};
  for (uint32_t bit = 5; bit < 32; bit++) types.push_back(uint32_t{1} << bit);
  for (uint32_t type : types) {
    CHECK(Refuses(with(type, 24), Format("'.relx' has the unknown type %#x", type).c_str(),
                  ErrorCode::kObjectUnsupported));
    CHECK(ReadStatus(with(type, 0)).ok());
  }
  for (uint32_t type : {1u, 3u, 7u, 17u, 18u, 0x6FFF4C03u, 0x6FFF4C0Cu, 0x6FFFFFF5u})
    CHECK(ReadStatus(with(type, 24)).ok());
  CHECK(Refuses(with(9, 24), "SHT_REL"));
}

TEST(each_section_has_one_table_of_relocs) {
  Sample sample;
  sample.maker.Relocs(sample.text_f, {{1, 4, 3, -4}});
  CHECK(Refuses(sample.maker.Make(), "has relocs of section 1 '.text.f', and so has"));
  Sample nowhere;
  nowhere.maker.Relocs(0, {{1, 4, 3, -4}});
  CHECK(Refuses(nowhere.maker.Make(), "has the relocs of section 0"));
  Sample outside;
  outside.maker.Relocs(1000, {{1, 4, 3, -4}});
  CHECK(Refuses(outside.maker.Make(), "has the relocs of section 1000"));
}

TEST(what_is_no_machine_code_is_named) {
  auto bytes = [](std::string_view text) { return std::vector<uint8_t>(text.begin(), text.end()); };
  CHECK(Refuses(bytes("BC\xC0\xDE and so on"), "LLVM bitcode"));
  CHECK(Refuses(bytes("\xDE\xC0\x17\x0B and so on"), "LLVM bitcode"));
  CHECK(Refuses(bytes("!<arch>\nf.o/"), "an archive"));
  CHECK(Refuses(bytes("!<thin>\nf.o/"), "an archive"));
  Sample symbol;
  symbol.maker.Symbol("__gnu_lto_slim", kGlobalObject, 0xFFF2, 1, 1);
  CHECK(Refuses(symbol.maker.Make(), "'__gnu_lto_slim' says", ErrorCode::kObjectUnsupported));
  for (uint8_t slim : {0, 1}) {
    Sample section;
    section.maker.Add(".gnu.lto_.lto.1234", 0x80000000, {12, 0, 0, 0, slim, 0, 0, 0});
    if (slim == 0)
      CHECK(ReadStatus(section.maker.Make()).ok());
    else
      CHECK(Refuses(section.maker.Make(), "'.gnu.lto_.lto.1234' says", ErrorCode::kObjectUnsupported));
  }
}

TEST(the_host_is_asked_for_weak_definitions) {
  ElfMaker maker;
  uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(40, 0x90), 1);
  uint32_t data = maker.Add(".data", kWA, std::vector<uint8_t>(8), 8);
  uint32_t weak = maker.Symbol("weak", 0x21, static_cast<uint16_t>(data), 0, 4);
  uint32_t strong = maker.Symbol("strong", kGlobalObject, static_cast<uint16_t>(data), 4, 4);
  maker.Relocs(text, {{0, 2, weak, -4}, {8, 9, weak, -4}, {16, 2, strong, -4}});
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.asked.size(), 1);
  CHECK_EQ(units.asked[0].name, "weak");
  CHECK(units.asked[0].defined && units.asked[0].weak);
  // Direct, and through a slot; and what serves where nothing is answered is there.
  int asked = 0;
  for (const UnitReloc& reloc : units.units[0].relocs) {
    asked += reloc.asked == 0;
    if (reloc.asked == 0) CHECK(reloc.spec.target_kind == TargetKind::kOwnState);
  }
  CHECK_EQ(asked, 2);
}

TEST(the_ends_of_a_section_have_names) {
  auto with = [](std::initializer_list<const char*> sections, bool defined = false) {
    ElfMaker maker;
    uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(40, 0x90), 1);
    uint32_t first = 0;
    for (const char* name : sections) {
      uint32_t index = maker.Add(name, kWA, std::vector<uint8_t>(24), 8);
      if (first == 0) first = index;
    }
    uint16_t place = static_cast<uint16_t>(defined ? first : 0);
    uint32_t start = maker.Symbol("__start_table", kGlobalNone, place, 0);
    uint32_t stop = maker.Symbol("__stop_table", kWeakNone, place, 0);
    maker.Relocs(text, {{3, 2, start, -4}, {11, 2, stop, -4}});
    return maker.Make();
  };
  ObjectUnits units = UnitsOf(with({".data", "table", "tables"}));
  CHECK(units.asked.empty() && units.exports.empty());
  CHECK_EQ(units.units[0].relocs[0].spec.target, 24);
  CHECK_EQ(units.units[0].relocs[1].spec.target, 48);
  for (const UnitReloc& reloc : units.units[0].relocs) CHECK(reloc.spec.target_kind == TargetKind::kOwnState);
  CHECK_EQ(UnitsOf(with({".data", "tables"})).asked.size(), 2);  // somebody else's
  CHECK_EQ(UnitsOf(with({"table"}, true)).exports.size(), 2);    // the object's own word counts
  CHECK(Refuses(with({"table", "table"}), "'__start_table' and has more than one section",
                ErrorCode::kObjectUnsupported));
}

TEST(an_object_that_switches_stacks_stays) {
  auto with = [](const char* name) {
    Sample sample;
    sample.maker.Relocs(sample.text_g, {});
    sample.maker.Symbol(name, kGlobalNone, 0, 0);
    return UnitsOf(sample.maker.Make());
  };
  for (const char* name :
       {"swapcontext", "makecontext", "jump_fcontext", "co_switch", "my_fiber_yield", "coro_transfer"}) {
    ObjectUnits units = with(name);
    for (const ObjectUnit& unit : units.units) CHECK(!unit.movable);
    CHECK(units.reasons.back().text.find(Format("'%s' can suspend a stack", name)) == 0);
  }
  for (const char* name : {"longjmp", "context", "decorate", "memcpy"}) {
    bool movable = false;
    for (const ObjectUnit& unit : with(name).units) movable = movable || unit.movable;
    CHECK(movable);
  }
}

TEST(reloc_kinds_are_named) {
  auto with = [](uint32_t kind) {
    ElfMaker maker;
    uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(16), 1);
    maker.Relocs(text, {{4, kind, maker.Symbol("s", kGlobalNone, 0, 0), 0}});
    return maker.Make();
  };
  CHECK(Refuses(with(3), "R_X86_64_GOT32 (3)", ErrorCode::kRelocKind));
  CHECK(Refuses(with(14), "R_X86_64_8 (14)", ErrorCode::kRelocKind));
  CHECK(Refuses(with(200), "number 200", ErrorCode::kRelocKind));
  CHECK(Refuses(with(0x10002), "number 65538", ErrorCode::kRelocKind));  // not 2 after a cut
  CHECK(Refuses(with(23), "R_X86_64_TPOFF32 (23)", ErrorCode::kObjectUnsupported));
  CHECK(ReadStatus(with(2)).ok());
}

TEST(lies_of_the_header) {
  std::vector<uint8_t> good = Sample().maker.Make();
  auto changed = [&](size_t at, auto value) {
    std::vector<uint8_t> bytes = good;
    ElfMaker::Put(bytes, at, value);
    return bytes;
  };
  CHECK(ReadStatus(good).ok());
  CHECK(Refuses({}, "not an ELF object"));
  CHECK(Refuses(changed(0, uint8_t{0}), "not an ELF object"));
  CHECK(Refuses(changed(4, uint8_t{1}), "not a 64-bit"));
  CHECK(Refuses(changed(5, uint8_t{2}), "not a 64-bit"));
  CHECK(Refuses(changed(16, uint16_t{2}), "type is 2"));
  CHECK(Refuses(changed(18, uint16_t{183}), "machine 183"));
  CHECK(Refuses(changed(40, ~uint64_t{0}), "section headers"));
  CHECK(Refuses(changed(40, ~uint64_t{0} - 63), "section headers"));
  CHECK(Refuses(changed(40, uint64_t{good.size()}), "section headers"));
  CHECK(Refuses(changed(58, uint16_t{65}), "section headers of 65"));
  CHECK(Refuses(changed(60, uint16_t{0xFEFF}), "section headers"));
  CHECK(Refuses(changed(60, uint16_t{0}), "65 280 sections", ErrorCode::kObjectUnsupported));
  CHECK(Refuses(changed(62, uint16_t{0xFEFF}), "section names"));
}

TEST(lies_of_a_section) {
  Sample sample;
  std::vector<uint8_t> good = sample.maker.Make();
  auto changed = [&](uint32_t section, size_t field, auto value) {
    std::vector<uint8_t> bytes = good;
    ElfMaker::Put(bytes, sample.maker.headers + 64 * section + field, value);
    return bytes;
  };
  uint32_t f = sample.text_f, bss = sample.counter;
  CHECK(Refuses(changed(f, 0, uint32_t{1 << 30}), "lies outside its string table"));
  CHECK(Refuses(changed(f, 4, uint32_t{8}), "code without bytes"));
  CHECK(Refuses(changed(f, 4, uint32_t{0x6FFFFFFF}), "unknown type", ErrorCode::kObjectUnsupported));
  CHECK(Refuses(changed(f, 24, ~uint64_t{0}), "do not lie within"));
  CHECK(Refuses(changed(f, 24, ~uint64_t{0} - 10), "do not lie within"));
  CHECK(Refuses(changed(f, 32, ~uint64_t{0}), "do not lie within"));
  CHECK(Refuses(changed(f, 32, uint64_t{good.size()}), "do not lie within"));
  CHECK(Refuses(changed(f, 32, uint64_t{20}), "do not lie within the section's 20 bytes"));
  CHECK(Refuses(changed(f, 48, uint64_t{3}), "power of two"));
  CHECK(Refuses(changed(f, 48, uint64_t{1} << 63), "power of two"));
  CHECK(Refuses(changed(bss, 32, ~uint64_t{0}), "more than any arena"));
  CHECK(Refuses(changed(bss, 32, kMaxObjectBytes), "larger than any arena"));
  CHECK(Refuses(changed(sample.pointer, 4, uint32_t{8}), "without bytes"));
  CHECK(ReadStatus(changed(f, 48, uint64_t{0})).ok());
}

TEST(sections_that_share_bytes_do_not_multiply) {
  ElfMaker maker;
  for (int i = 0; i < 100; i++) maker.Add(".rodata", kA, std::vector<uint8_t>(16), 1);
  std::vector<uint8_t> bytes = maker.Make();
  for (int i = 1; i <= 100; i++) {
    ElfMaker::Put<uint64_t>(bytes, maker.headers + 64 * i + 24, 0);
    ElfMaker::Put<uint64_t>(bytes, maker.headers + 64 * i + 32, bytes.size() / 2);
  }
  CHECK(Refuses(bytes, "they share bytes"));

  ElfMaker aligned;
  for (int i = 0; i < 1025; i++) aligned.Add(".data", kWA, {1}, 1 << 16);
  CHECK(Refuses(aligned.Make(), "the alignments of the sections up to"));
}

TEST(names_that_share_bytes_do_not_multiply) {
  auto with = [](uint32_t count, uint8_t info) {
    ElfMaker maker;
    uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(8), 1);
    uint32_t longest = maker.AddName(std::string(4000, 'n'));
    for (uint32_t i = 0; i < count; i++) {
      uint32_t symbol = maker.Symbol("", info, static_cast<uint16_t>(text), 0);
      ElfMaker::Put<uint32_t>(maker.symbols, symbol * size_t{24}, longest + i);
    }
    return maker.Make();
  };
  // The names have 4000, 3999, … bytes; the object has about 4800 and 24 for each of them.
  CHECK(ReadStatus(with(4, kGlobalFunction)).ok());
  CHECK(Refuses(with(6, kGlobalFunction), "the names of the global symbols up to 5 add up to"));
  CHECK(ReadStatus(with(1000, 0x02)).ok());
  // One of 4000 that ends as another does tells of both.
  ElfMaker maker;
  uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(8), 1);
  uint32_t name = maker.AddName("my_swapcontext_of_mine");
  for (uint32_t from : {name + 15, name, name + 18}) {
    uint32_t symbol = maker.Symbol("", kGlobalFunction, static_cast<uint16_t>(text), 0);
    ElfMaker::Put<uint32_t>(maker.symbols, symbol * size_t{24}, from);
  }
  ObjectUnits units = UnitsOf(maker.Make());
  CHECK_EQ(units.reasons.size(), 1);
  CHECK(units.reasons[0].text.find("'my_swapcontext_of_mine' can suspend a stack") == 0);
}

TEST(what_would_need_too_much_memory_is_refused_before_it_is_made) {
  // None of the bytes is read.
  uint8_t byte = 0;
  ObjectFile file;
  file.sections.resize(2);
  file.symbols.resize(1);
  file.sections[1].role = ObjectRole::kData;
  file.sections[1].bytes = &byte;
  file.sections[1].size = static_cast<uint32_t>(kMaxObjectNeeds / 3) + 1;
  Result<ObjectUnits> units = MakeUnits(file);
  CHECK(!units.ok());
  if (units.ok()) return;
  CHECK(units.status().code() == ErrorCode::kObject);
  CHECK(units.status().error().message.find(
            "loading the object would need about 1024 MiB of memory, and may need 1024") == 0);
  file.sections[1].bytes = nullptr;
  CHECK(MakeUnits(file).ok());
  // Addresses that are taken count too.
  CHECK(CheckNeeds(file, 1'000'000).ok());
  CHECK(!CheckNeeds(file, 2'000'000).ok());
}

TEST(lies_of_symbols_and_relocs) {
  auto with = [](uint8_t info, uint16_t section, uint64_t value, uint64_t size, ElfMaker::MadeReloc reloc) {
    ElfMaker maker;
    uint32_t text = maker.Add(".text", kAX, std::vector<uint8_t>(16, 0x90), 1);
    maker.Add(".debug_info", 0, std::vector<uint8_t>(16), 1);
    maker.Symbol("s", info, section, value, size);
    maker.Relocs(text, {reloc});
    return maker.Make();
  };
  ElfMaker::MadeReloc fine{4, 2, 1, -4};
  CHECK(ReadStatus(with(kGlobalFunction, 1, 16, ~uint64_t{0}, fine)).ok());
  CHECK(Refuses(with(kGlobalFunction, 1, 17, 0, fine), "lies outside"));
  CHECK(Refuses(with(kGlobalFunction, 1, ~uint64_t{0}, 0, fine), "lies outside"));
  CHECK(Refuses(with(kGlobalFunction, 99, 0, 0, fine), "section 99"));
  CHECK(Refuses(with(kGlobalFunction, 0xFF55, 0, 0, fine), "section 65365"));
  CHECK(Refuses(with(0x72, 1, 0, 0, fine), "unknown binding 7"));
  CHECK(Refuses(with(kGlobalObject, 0xFFF2, 3, 8, fine), "power of two"));
  CHECK(Refuses(with(kGlobalObject, 0xFFF2, 8, ~uint64_t{0}, fine), "larger than any arena"));
  CHECK(Refuses(with(kGlobalObject, 2, 0, 0, fine), "not loaded"));
  CHECK(Refuses(with(kGlobalFunction, 1, 0, 0, {13, 2, 1, 0}), "do not lie within the section's 16 bytes"));
  CHECK(Refuses(with(kGlobalFunction, 1, 0, 0, {9, 1, 1, 0}), "do not lie within the section's 16 bytes"));
  CHECK(Refuses(with(kGlobalFunction, 1, 0, 0, {~uint64_t{0}, 2, 1, 0}), "do not lie within"));
  CHECK(Refuses(with(kGlobalFunction, 1, 0, 0, {uint64_t{1} << 32, 2, 1, 0}), "do not lie within"));
  CHECK(Refuses(with(kGlobalFunction, 1, 0, 0, {4, 2, 7, 0}), "symbol 7 of 2"));

  ElfMaker twice;
  uint32_t text = twice.Add(".text", kAX, {0xC3}, 1);
  for (int i = 0; i < 2; i++) twice.Symbol("f", kGlobalFunction, static_cast<uint16_t>(text), 0);
  CHECK(Refuses(twice.Make(), "defines 'f' twice"));
}

TEST(every_truncation_is_refused) {
  std::vector<uint8_t> good = Sample().maker.Make();
  for (size_t size = 0; size < good.size(); size++) {
    std::vector<uint8_t> bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(size));
    CHECK(!ReadStatus(bytes).ok());
    CHECK(test::FindBrokenObjectRule(bytes.data(), bytes.size()) == nullptr);
  }
}

TEST(mutations_are_refused_or_make_sound_units) {
  std::vector<uint8_t> good = Sample().maker.Make();
  uint64_t random = 20240607;
  auto next = [&](uint64_t below) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    return (random >> 33) % below;
  };
  constexpr uint8_t kInteresting[] = {0, 1, 2, 7, 8, 16, 0x7F, 0x80, 0xFE, 0xFF};
  int accepted = 0;
  for (int i = 0; i < 60000; i++) {
    std::vector<uint8_t> bytes = good;
    for (uint64_t changes = 1 + next(5); changes > 0; changes--)
      bytes[next(bytes.size())] =
          next(2) == 0 ? static_cast<uint8_t>(next(256)) : kInteresting[next(sizeof kInteresting)];
    const char* broken = test::FindBrokenObjectRule(bytes.data(), bytes.size());
    if (broken != nullptr) test::Fail(__FILE__, __LINE__, broken + (" in mutation " + std::to_string(i)));
    accepted += ReadStatus(bytes).ok();
  }
  CHECK(accepted > 0);
}

TEST(how_instructions_use_a_field) {
  auto use = [](std::vector<uint8_t> bytes, uint8_t kind) {
    uint32_t at = static_cast<uint32_t>(bytes.size());
    bytes.resize(at + 8);
    return UseOfCodeSite(kind, bytes.data(), static_cast<uint32_t>(bytes.size()), at);
  };
  constexpr uint8_t kAbs64 = 1, kPc = 2, kPlt = 4, kGot = 42;
  CHECK(use({0x90, 0xE8}, kPlt) == SiteUse::kBranch);
  CHECK(use({0x90, 0xE9}, kPc) == SiteUse::kBranch);
  CHECK(use({0x0F, 0x84}, kPc) == SiteUse::kBranch);              // je
  CHECK(use({0x48, 0x8D, 0x05}, kPc) == SiteUse::kAddress);       // lea
  CHECK(use({0x48, 0x8B, 0x05}, kPc) == SiteUse::kAccess);        // mov
  CHECK(use({0xF2, 0x0F, 0x59, 0x05}, kPc) == SiteUse::kAccess);  // mulsd
  CHECK(use({0xFF, 0x15}, kGot) == SiteUse::kBranch);             // call *
  CHECK(use({0xFF, 0x25}, kGot) == SiteUse::kBranch);             // jmp *
  CHECK(use({0x48, 0x8B, 0x05}, kGot) == SiteUse::kAddress);
  CHECK(use({0x48, 0xB8}, kAbs64) == SiteUse::kAddress);
  CHECK(use({0x48, 0xC7, 0xC0}, kPc) == SiteUse::kUnknown);
  CHECK(use({0x05}, kPc) == SiteUse::kUnknown);
}
