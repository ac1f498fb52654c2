// Stencils natively: the bytes of jumps, the file, and what is built of lying ones. What a trace computes,
// test/74-stencils.test.ts asks.
#include "object/stencils.h"

#include <algorithm>
#include <string>
#include <vector>

#include "arch/object_relocs.h"
#include "object/trace_builder.h"
#include "support/compile.h"
#include "test.h"

using namespace jit_arena;
using namespace test;

namespace {

const std::string kFlags = "-O2 -fno-pic -mcmodel=large -ffunction-sections -fdata-sections";
constexpr arch::RelocKind k64 = 1, kPc32 = 2, kPlt32 = 4, kGotPcRel = 9, k32 = 10;

StencilSet SetOf(const std::vector<uint8_t>& object) {
  Result<StencilSet> set = StencilSet::FromObject(object.data(), object.size());
  CHECK(set.ok());
  return set.ok() ? std::move(set.value()) : StencilSet();
}

uint32_t Find(const StencilSet& set, const std::string& name) {
  for (uint32_t i = 0; i < set.stencils().size(); i++)
    if (set.stencils()[i].name == name) return i;
  CHECK(false);
  return 0;
}

size_t EndingBytes(std::vector<uint8_t> code, arch::RelocKind kind, size_t site, int64_t addend) {
  return FindEndingJump(code.data(), code.size(), kind, site, addend).bytes;
}

}  // namespace

TEST(an_ending_jump_is_known_by_its_bytes) {
  std::vector<uint8_t> near = {0x90, 0xE9, 0, 0, 0, 0};
  CHECK_EQ(EndingBytes(near, kPlt32, 2, -4), 5u);
  CHECK_EQ(EndingBytes(near, kPc32, 2, -4), 5u);
  CHECK_EQ(EndingBytes(near, kPc32, 2, 0), 0u);
  CHECK_EQ(EndingBytes(near, kGotPcRel, 2, -4), 0u);
  CHECK_EQ(EndingBytes(near, k32, 2, -4), 0u);
  CHECK_EQ(EndingBytes({0x90, 0xE8, 0, 0, 0, 0}, kPlt32, 2, -4), 0u);  // a call
  CHECK_EQ(EndingBytes({0xE9, 0, 0, 0, 0, 0x90}, kPlt32, 1, -4), 0u);  // not at the end
  for (uint8_t reg = 0; reg < 8; reg++) {
    std::vector<uint8_t> low = {0x90, 0x48, static_cast<uint8_t>(0xB8 + reg), 0, 0, 0, 0, 0, 0, 0,
                                0,    0xFF, static_cast<uint8_t>(0xE0 + reg)};
    std::vector<uint8_t> high = {0x49, static_cast<uint8_t>(0xB8 + reg), 0, 0, 0, 0, 0, 0, 0, 0, 0x41,
                                 0xFF, static_cast<uint8_t>(0xE0 + reg)};
    CHECK_EQ(EndingBytes(low, k64, 3, 0), 12u);
    CHECK_EQ(EndingBytes(high, k64, 2, 0), 13u);
    CHECK_EQ(FindEndingJump(low.data(), low.size(), k64, 3, 0).second, 11u);
    CHECK_EQ(FindEndingJump(high.data(), high.size(), k64, 2, 0).second, 10u);
    CHECK_EQ(EndingBytes(low, k64, 3, 8), 0u);
    for (std::vector<uint8_t>* code : {&low, &high}) {
      std::vector<uint8_t> other = *code;
      other.back() = static_cast<uint8_t>(0xE0 + ((reg + 1) & 7));  // through another register
      CHECK_EQ(EndingBytes(other, k64, code == &low ? 3 : 2, 0), 0u);
    }
    low[1] = 0x49;
    CHECK_EQ(EndingBytes(low, k64, 3, 0), 0u);
  }
}

TEST(any_bytes_that_read_as_a_branch_count) {
  auto may = [](std::vector<uint8_t> code, size_t offset) { return MayBranchTo(code.data(), code.size(), offset); };
  CHECK(may({0xEB, 0x01, 0x90, 0x90}, 3));
  CHECK(!may({0xEB, 0x01, 0x90, 0x90}, 2));
  CHECK(may({0x90, 0x90, 0x75, 0xFC}, 0));
  CHECK(may({0xE3, 0x00, 0x90}, 2));
  CHECK(may({0xE9, 0xFB, 0xFF, 0xFF, 0xFF}, 0));
  CHECK(may({0xE8, 1, 0, 0, 0, 0x90}, 6));
  CHECK(may({0x0F, 0x84, 1, 0, 0, 0, 0x90}, 7));
  CHECK(!may({0x90, 0x84, 1, 0, 0, 0, 0x90}, 7));
  CHECK(!may({0xE9, 0, 0, 0}, 5));  // cut off
}

TEST(a_set_is_saved_and_loads_as_it_was) {
  for (const std::string& compiler : Compilers()) {
    StencilSet set = SetOf(CompileFixture("stencils.c", kFlags, compiler));
    std::vector<uint8_t> file = set.Save();
    Result<StencilSet> loaded = StencilSet::Load(file.data(), file.size());
    CHECK(loaded.ok());
    if (!loaded.ok()) return;
    CHECK(loaded.value().Save() == file);
    CHECK_EQ(loaded.value().stencils().size(), set.stencils().size());
    const Stencil& add = set.stencils()[Find(set, "add")];
    CHECK_EQ(add.jump_bytes, 12u);
    CHECK_EQ(add.holes.size(), 2u);
    CHECK_EQ(set.holes()[add.holes[0]], "CONTINUE");
  }
}

TEST(what_is_built_has_its_holes_filled) {
  StencilSet set = SetOf(CompileFixture("stencils.c", kFlags));
  TraceBuilder builder;
  builder.Emit(set, Find(set, "add"));
  builder.Fill(1, {HoleFilling::Kind::kNumber, 0x1122334455667788});
  builder.Emit(set, Find(set, "add"));
  builder.Fill(1, {HoleFilling::Kind::kTarget, 7});
  builder.Emit(set, Find(set, "leave"));
  Result<BuiltTrace> built = builder.Build({}, {nullptr, 16});
  CHECK(built.ok());
  if (!built.ok()) return;
  const BuiltTrace& trace = built.value();
  CHECK_EQ(trace.elided_bytes, 24u);
  CHECK_EQ(trace.bodies.size(), 3u);
  CHECK_EQ(trace.sizes[2], 16u);
  CHECK(trace.bytes[2].empty());
  const uint8_t number[] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
  CHECK(std::search(trace.bytes[0].begin(), trace.bytes[0].end(), number, number + 8) != trace.bytes[0].end());
  CHECK_EQ(trace.relocs.size(), 1u);
  CHECK(trace.relocs[0].host_target == 7u);

  TraceBuilder last;
  last.Emit(set, Find(set, "add"));
  Status failed = std::move(last.Build({}, {}).status());
  CHECK(failed.code() == ErrorCode::kStencil);
}

TEST(lying_files_do_no_harm) {
  std::vector<uint8_t> file = SetOf(CompileFixture("stencils.c", kFlags)).Save();
  uint32_t random = 12345;
  auto next = [&](size_t below) { return (random = random * 1664525 + 1013904223) / 65536 % below; };
  int accepted = 0, built = 0;
  for (int i = 0; i < 3000; i++) {
    std::vector<uint8_t> bytes = file;
    for (size_t changes = 1 + next(3); changes > 0; changes--)
      bytes[5 + next(file.size() - 9)] = static_cast<uint8_t>(next(256));
    uint32_t sum = 0x811C9DC5;
    for (size_t at = 0; at + 4 < bytes.size(); at++) sum = (sum ^ bytes[at]) * 0x01000193;
    for (size_t at = 0; at < 4; at++) bytes[bytes.size() - 4 + at] = static_cast<uint8_t>(sum >> (8 * at));
    Result<StencilSet> set = StencilSet::Load(bytes.data(), bytes.size());
    if (!set.ok()) {
      CHECK(set.status().code() == ErrorCode::kStencil);
      continue;
    }
    accepted++;
    uint64_t total = 0;
    for (const StencilPart& part : set.value().parts()) total += part.size;
    if (total > 1'000'000) continue;  // allowed, and slow to build
    for (uint32_t n = 0; n < set.value().stencils().size(); n++) {
      TraceBuilder builder;
      builder.Emit(set.value(), n);
      for (uint32_t hole = 0; hole < set.value().stencils()[n].holes.size(); hole++)
        builder.Fill(hole, {HoleFilling::Kind::kNumber, 1});
      built += builder.Build({}, {}).ok();
    }
  }
  CHECK(accepted > 0 && built > 0);
}
