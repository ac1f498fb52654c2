// The system refuses: each single call in turn, and everything from some call on. Nothing is lost or half done, and
// every refusal is an answer.
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/arena.h"
#include "kinds.h"
#include "support/arena_rig.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint64_t kFar = 0x1234'5678'9AB0;

Program Busy(uint32_t seed, ExecutorId other) {
  Program program = Program::Of(200 + seed * 977 % 12000, 100, seed % 3 == 0 ? 40 : 0, seed);
  program.relocs = {{Section::kCode, kinds::kNear, TargetKind::kOwnData, 8, 0, -4},
                    {Section::kCode, kinds::kAddress, TargetKind::kOwnCode, 16, 0, 0},
                    {Section::kCode, kinds::kCall, TargetKind::kAddress, 24, kFar + seed % 5 * 16, -4}};
  if (other != 0) program.relocs.push_back({Section::kCode, kinds::kCall, TargetKind::kExecutor, 32, other, -4});
  return program;
}

// Installs, frees and collects; ends at the first broken check. Counts on nothing but that what fails changes nothing.
void Exercise(FakeMemory& memory, Arena& arena) {
  std::mt19937 random(3);
  PinSlot* self = arena.reclaimer().Attach();
  std::vector<ExecutorId> live;
  int failed_before = test::failed_checks;
  auto check = [&] {
    CHECK_EQ(arena.CheckInvariants(), "");
    CHECK_EQ(memory.violations(), "");
    CHECK_EQ(memory.open_windows(), 0);
  };
  for (uint32_t step = 0; step < 200 && test::failed_checks == failed_before; step++) {
    if (step % 40 == 39) {
      arena.Collect({}, self);
      check();
    } else if (random() % 3 != 0) {
      // Some in pairs that refer to each other, some by way of allocate and freeze.
      ExecutorId other = live.empty() || random() % 4 != 0 ? 0 : live[random() % live.size()];
      std::vector<Program> programs = {Busy(step, other), Busy(step + 1, 0)};
      if (step % 40 == 0) programs[0].sections[0].resize(kSlabBytes + 5000, 0x90);
      programs[1].relocs.push_back({Section::kCode, kinds::kThroughSlot, TargetKind::kBatchMember, 40, 0, -4});
      ExecutorSpec specs[] = {programs[0].Spec(), programs[1].Spec()};
      ExecutorId ids[2] = {};
      ArenaStats before = arena.Stats();
      Status failed;
      if (random() % 2 == 0) {
        failed = arena.Install(specs, 2, ids, self);
      } else {
        for (int i = 0; i < 2; i++) ids[i] = arena.Allocate(specs[i]).value();
        failed = arena.Freeze(ids, 2, self);
        if (!failed.ok()) CHECK(arena.Free(ids, 2, self).ok());
      }
      if (failed.ok()) {
        live.insert(live.end(), ids, ids + 2);
      } else {
        CHECK(failed.code() == ErrorCode::kNoMemory || failed.code() == ErrorCode::kFull);
        ArenaStats after = arena.Stats();
        CHECK_EQ(after.executors, before.executors);
        CHECK_EQ(after.live_bytes, before.live_bytes);
        CHECK_EQ(after.span_bytes, before.span_bytes);
        CHECK_EQ(after.kept_relocs, before.kept_relocs);
        CHECK_EQ(after.far_slots, before.far_slots);
        check();
      }
    } else if (!live.empty()) {
      size_t at = random() % live.size();
      Status failed = arena.Free(&live[at], 1, self);
      CHECK(failed.ok() || failed.code() == ErrorCode::kReferenced);
      if (failed.ok()) {
        live[at] = live.back();
        live.pop_back();
      }
    }
    if (step % 20 == 0) check();
  }
  // Everything can go still.
  while (!live.empty()) {
    size_t before = live.size();
    std::vector<ExecutorId> left;
    for (ExecutorId id : live)
      if (!arena.Free(&id, 1, self).ok()) left.push_back(id);
    live = std::move(left);
    CHECK(live.size() < before);
    if (live.size() == before) break;
  }
  check();
  CHECK_EQ(arena.Stats().executors, 0);
  CHECK_EQ(arena.Stats().far_slots, 0);
}

// One run; returns how many calls could have been refused.
size_t Run(os::WriterKind writer, bool apart, const std::string& script) {
  FakeMemory::Options fake;
  fake.writer = writer;
  fake.real = true;
  fake.script = script;
  fake.page_bytes = os::PageBytes();
  auto owned = std::make_unique<FakeMemory>(fake);
  FakeMemory& memory = *owned;
  ArenaOptions options;
  options.max_bytes = 12 * kSlabBytes;
  options.apart = apart;
  Result<std::unique_ptr<Arena>> made = Arena::Create(options, std::move(owned));
  if (!made.ok()) {
    CHECK(made.status().code() == ErrorCode::kNoMemory);
    return script.size();  // there is no memory left to ask
  }
  Exercise(memory, *made.value());
  return memory.fallible_calls();
}

// With `letters` from call n on, for every n that the run gets to.
void FailFromEach(os::WriterKind writer, bool apart, size_t refusals, size_t stride) {
  for (size_t n = 0;; n += n < 8 ? 1 : stride) {
    int failed_before = test::failed_checks;
    size_t calls = Run(writer, apart, std::string(n, '.') + std::string(refusals, 'x'));
    if (test::failed_checks != failed_before) {
      std::printf("  %zu calls refused from call %zu on, writer %s, %s\n", refusals, n, os::WriterName(writer),
                  apart ? "apart" : "together");
      return;
    }
    if (calls <= n) return;  // it was not reached
  }
}

// The flip writer asks for a window at each write: every call is too much of the same.
size_t StrideOf(os::WriterKind writer) { return writer == os::WriterKind::kAlias ? 1 : 53; }

}  // namespace

TEST(faults_any_one_call_may_be_refused) {
  for (os::WriterKind writer : kAllWriters)
    for (bool apart : {false, true}) FailFromEach(writer, apart, 1, StrideOf(writer));
}

TEST(faults_everything_may_be_refused_from_some_call_on) {
  for (os::WriterKind writer : kAllWriters)
    for (bool apart : {false, true}) FailFromEach(writer, apart, 100000, 2 * StrideOf(writer));
}

// What was installed before still is what it was, and still can be moved when the system gives in.
TEST(faults_live_executors_survive_a_time_without_memory) {
  for (os::WriterKind writer : kAllWriters) {
    ArenaRig rig({.writer = writer});
    std::map<ExecutorId, std::vector<uint8_t>> code;
    std::vector<ExecutorId> dead;
    for (uint32_t i = 0; i < 600; i++) {
      Program program = Program::Of(500 + i % 700, 100, 0, i);
      ExecutorId id = rig.Install(program);
      if (i % 4 == 0)
        code[id] = program.sections[0];
      else
        dead.push_back(id);
    }
    rig.Free(dead);
    rig.memory->SetScript(std::string(100000, 'x'));
    rig.Collect();
    for (const auto& [id, bytes] : code) CHECK(rig.Read(id, Section::kCode) == bytes);
    rig.CheckInvariants();
    rig.memory->SetScript("");
    CHECK(rig.Collect().done);
    CHECK(!rig.arena->PlanCompaction().profitable);
    for (const auto& [id, bytes] : code) CHECK(rig.Read(id, Section::kCode) == bytes);
  }
}
