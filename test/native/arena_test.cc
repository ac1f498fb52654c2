// The whole arena: an executor's life, real execution under every writer and both layouts, threads and forks, and
// proof that the invariants notice damage.
#include "core/arena.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/bits.h"
#include "support/arena_rig.h"
#include "test.h"

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace jit_arena;

namespace {

constexpr int kFewer =
#if JIT_ARENA_DEBUG
    10;  // every call is followed by all the checks
#else
    1;
#endif

int Twice(int value) { return 2 * value; }

// A function every part of which takes part in its result: two constants of its data, one through a pointer in its
// code, its state, a helper executor, and a C function called directly and through a slot.
constexpr uint32_t kHelperResult = 7;
Program Helper() { return Program::Of(x64::Assembler().Move32(x64::kRax, kHelperResult).Ret()); }

Program Sum(uint32_t value, ExecutorId helper, uint32_t padding) {
  using namespace x64;
  Assembler code;
  code.Push(kRbx).Load32(kRbx, OwnData(0));
  code.MoveAddress(kRax, OwnData(8)).Put({0x03, 0x18});  // add ebx, [rax]
  code.Add32(kRbx, OwnState(4));
  if (helper != 0) code.Call(Another(helper)).Add32(kRbx, kRax);
  code.Move32(kRdi, 5).Call(Outside(&Twice)).Add32(kRbx, kRax);
  code.Load(kRax, Outside(&Twice), kRexGotPcRelX).Move32(kRdi, 9).Call(kRax).Add32(kRbx, kRax);
  code.Move32(kRax, kRbx).Pop(kRbx).Ret().Fill(padding, 0xCC);
  Program program = Program::Of(code);
  program.sections[1].resize(16 + padding / 4);
  StoreAs<uint32_t>(program.sections[1].data(), value);
  StoreAs<uint32_t>(program.sections[1].data() + 8, 1000);
  program.sections[2].resize(8);
  StoreAs<uint32_t>(program.sections[2].data() + 4, 300);
  return program;
}

uint32_t SumOf(uint32_t value, bool helped, uint32_t state = 300) {
  return value + 1000 + state + (helped ? kHelperResult : 0) + 10 + 18;
}

// An arena that executes.
struct Machine {
  explicit Machine(os::WriterKind writer = os::WriterKind::kAlias, bool apart = false, uint64_t max_bytes = 8 * kMiB) {
    ArenaOptions options;
    options.writer = writer;
    options.apart = apart;
    options.max_bytes = max_bytes;
    options.full_records = true;
    Result<std::unique_ptr<Arena>> made = Arena::Create(options);
    if (!made.ok()) {
      std::printf("  skipped: %s: %s\n", os::WriterName(writer), made.status().error().message.c_str());
      return;
    }
    arena = std::move(made.value());
    self = arena->reclaimer().Attach();
  }

  ExecutorId Install(const Program& program) {
    ExecutorSpec spec = program.Spec();
    ExecutorId id = 0;
    Status failed = arena->Install(&spec, 1, &id, self);
    CHECK_EQ(std::string(failed.ok() ? "" : failed.error().message), "");
    return id;
  }
  void Free(ExecutorId id) {
    Status failed = arena->Free(&id, 1, self);
    CHECK_EQ(std::string(failed.ok() ? "" : failed.error().message), "");
  }
  // Under a pin of its own, or in one that is there.
  uint32_t Call(ExecutorId id) {
    Pinned pinned(arena->reclaimer(), *self);
    return CallAt(arena->EntryOf(id));
  }
  uint32_t CallAt(uint64_t entry) {
    CHECK(entry != 0);
    if (entry == 0) return 0;
    arch::CallFrame frame{};
    arena->call_gate()(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
    return static_cast<uint32_t>(frame.integer_result);
  }

  std::unique_ptr<Arena> arena;
  PinSlot* self = nullptr;
};

// Random installs, frees, collects, writes to state and calls, with every result checked.
void RunRandom(os::WriterKind writer, bool apart, uint32_t seed, int steps) {
  Machine machine(writer, apart);
  if (!machine.arena) return;
  std::mt19937 random(seed);
  struct Live {
    ExecutorId id;
    uint32_t value, state;
    bool helped;
  };
  std::vector<Live> live;
  ExecutorId helper = machine.Install(Helper());
  int failed_before = test::failed_checks;
  uint64_t moved = 0;
  auto check = [&](const Live& one) { CHECK_EQ(machine.Call(one.id), SumOf(one.value, one.helped, one.state)); };
  for (int step = 0; step < steps && test::failed_checks == failed_before; step++) {
    uint32_t action = random() % 100;
    if (live.size() < 100 || action < 45) {
      uint32_t value = static_cast<uint32_t>(random());
      bool helped = random() % 4 == 0;
      uint32_t padding = random() % 50 == 0 ? random() % 300000 : random() % 1500;
      Program program = Sum(value, helped ? helper : 0, padding);
      program.movable = random() % 8 != 0;
      program.aligns[0] = 1u << (random() % 8);
      program.aligns[1] = 1u << (2 + random() % 6);
      ExecutorSpec spec = program.Spec();
      ExecutorId id = 0;
      Status failed = machine.arena->Install(&spec, 1, &id, machine.self);
      CHECK(failed.ok() || failed.code() == ErrorCode::kFull);
      if (failed.ok()) live.push_back({id, value, 300, helped});
    } else if (action < 85) {
      size_t at = random() % live.size();
      machine.Free(live[at].id);
      CHECK_EQ(machine.arena->EntryOf(live[at].id), 0);
      live[at] = live.back();
      live.pop_back();
    } else if (action < 90) {
      Live& one = live[random() % live.size()];
      one.state = static_cast<uint32_t>(random());
      uint8_t bytes[4];
      StoreAs(bytes, one.state);
      CHECK(machine.arena->Write(one.id, Section::kState, 4, bytes, 4).ok());
    } else if (action == 99) {
      uint64_t pause = random() % 2 == 0 ? 0 : 1000;
      moved += machine.arena->Collect({.max_pause_nanos = pause}, machine.self).moved;
      for (const Live& one : live) check(one);
      CHECK_EQ(machine.arena->CheckInvariants(), "");
    }
    for (int i = 0; i < 3 && !live.empty(); i++) check(live[random() % live.size()]);
  }
  CHECK(moved > 0);
  CHECK_EQ(machine.arena->CheckInvariants(), "");
  if (test::failed_checks != failed_before)
    std::printf("  writer %s, %s, seed %u\n", os::WriterName(writer), apart ? "apart" : "together", seed);
}

}  // namespace

TEST(arena_executes_what_was_installed_wherever_it_is) {
  for (os::WriterKind writer : kAllWriters)
    for (bool apart : {false, true}) RunRandom(writer, apart, apart ? 11 : 12, 6000 / kFewer);
}

TEST(arena_old_copies_go_on_under_a_pin) {
  for (os::WriterKind writer : kAllWriters) {
    Machine machine(writer);
    if (!machine.arena) continue;
    std::vector<ExecutorId> ids;
    for (uint32_t i = 0; i < 800; i++) ids.push_back(machine.Install(Sum(i, 0, 500)));
    for (uint32_t i = 0; i < 800; i++)
      if (i % 8 != 3) machine.Free(ids[i]);
    ExecutorId moves = ids[11], dies = ids[19];
    {
      Pinned pinned(machine.arena->reclaimer(), *machine.self);
      uint64_t old_entry = machine.arena->EntryOf(moves), dead_entry = machine.arena->EntryOf(dies);
      machine.Free(dies);
      CHECK_EQ(machine.arena->EntryOf(dies), 0);
      CHECK(machine.arena->Collect({}, machine.self).moved > 0);
      CHECK(machine.arena->EntryOf(moves) != old_entry);
      for (uint32_t i = 0; i < 200; i++) machine.Install(Sum(77, 0, 500));
      // As if we had been executing there all the time.
      CHECK_EQ(machine.CallAt(old_entry), SumOf(11, false));
      CHECK_EQ(machine.CallAt(dead_entry), SumOf(19, false));
      CHECK_EQ(machine.Call(moves), SumOf(11, false));
      CHECK(machine.arena->Stats().retired_bytes != 0);
    }
    machine.Free(machine.Install(Helper()));
    CHECK_EQ(machine.arena->Stats().retired_bytes, 0);
    CHECK_EQ(machine.arena->CheckInvariants(), "");
  }
}

// Threads call what they find while another installs, frees and collects.
TEST(arena_threads_execute_while_code_moves) {
  for (os::WriterKind writer : kAllWriters) {
    Machine machine(writer);
    if (!machine.arena) continue;
    constexpr size_t kSlots = 400;
    std::vector<std::atomic<uint64_t>> ids(kSlots);
    auto value_of = [](size_t slot) { return static_cast<uint32_t>(slot * 1000); };
    std::atomic<bool> stop{false};
    std::atomic<uint64_t> wrong{0}, calls{0};
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 2; t++) {
      threads.emplace_back([&, t] {
        PinSlot* pin = machine.arena->reclaimer().Attach();
        uint32_t random = t;
        while (!stop) {
          random = random * 1664525 + 1013904223;
          size_t slot = (random >> 8) % kSlots;
          uint64_t id = ids[slot].load(std::memory_order_acquire);
          if (id == 0) continue;
          Pinned pinned(machine.arena->reclaimer(), *pin);
          if (uint64_t entry = machine.arena->EntryOf(id)) {
            arch::CallFrame frame{};
            machine.arena->call_gate()(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
            wrong += static_cast<uint32_t>(frame.integer_result) != SumOf(value_of(slot), false);
            calls++;
          }
        }
        machine.arena->reclaimer().Detach(pin);
      });
    }
    std::mt19937 random(4);
    uint64_t moved = 0;
    for (int step = 0; step < 4000 / kFewer || ((calls < 1000 || moved == 0) && step < 1'000'000); step++) {
      size_t slot = random() % kSlots;
      if (uint64_t id = ids[slot].exchange(0)) {
        machine.Free(id);
      } else {
        Program program = Sum(value_of(slot), 0, random() % 4000);
        ExecutorSpec spec = program.Spec();
        ExecutorId installed = 0;
        Status failed = machine.arena->Install(&spec, 1, &installed, machine.self);
        // A flip waits for the other threads, up to a bound.
        CHECK(failed.ok() || failed.code() == ErrorCode::kBusy || failed.code() == ErrorCode::kRetiredLimit);
        if (failed.ok()) ids[slot].store(installed, std::memory_order_release);
      }
      if (step % 200 == 199) moved += machine.arena->Collect({}, machine.self).moved;
    }
    stop = true;
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
    CHECK(moved > 0);
    CHECK_EQ(machine.arena->CheckInvariants(), "");
  }
}

#if defined(__linux__)
TEST(arena_is_dead_in_a_forked_child_and_unharmed_in_the_parent) {
  for (os::WriterKind writer : kAllWriters) {
    Machine machine(writer);
    if (!machine.arena) continue;
    ExecutorId id = machine.Install(Sum(1, 0, 100));
    Program staged = Sum(2, 0, 100);
    ExecutorId writable = machine.arena->Allocate(staged.Spec()).value();
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      // The exit status says which call gave another answer. (No CHECK here: it would print into the parent's output.)
      Arena& arena = *machine.arena;
      ExecutorSpec spec = staged.Spec();
      ExecutorId other = 0;
      uint8_t byte = 0;
      RelocSpec reloc{Section::kCode, 1, TargetKind::kAddress, 0, 0, 0};
      auto forked = [](const Status& status) { return status.code() == ErrorCode::kForked; };
      int call = 1;
      auto expect = [&](bool as_it_should) {
        if (!as_it_should) _exit(call);
        call++;
      };
      expect(forked(arena.Allocate(spec).status()));
      expect(forked(arena.Write(writable, Section::kCode, 0, &byte, 1)));
      expect(forked(arena.Write(id, Section::kState, 0, &byte, 1)));
      expect(forked(arena.AddRelocs(writable, &reloc, 1)));
      expect(forked(arena.Freeze(&writable, 1, machine.self)));
      expect(forked(arena.Install(&spec, 1, &other, machine.self)));
      expect(forked(arena.Free(&id, 1, machine.self)));
      expect(forked(arena.Read(id, Section::kCode, 0, &byte, 1)));
      expect(forked(arena.Describe(id).status()));
      expect(forked(arena.EntryOffset(id, 0).status()));
      expect(forked(arena.CheckProcess()));
      expect(forked(arena.AddThunk(nullptr, machine.self).status()));
      expect(!arena.in_own_process());
      expect(arena.Collect({}, machine.self).moved == 0);
      expect(arena.Verify().empty());
      expect(arena.CheckInvariants().empty());
      expect(!arena.Find(arena.EntryOf(id)));
      // An arena of the child's own works.
      ArenaOptions options;
      options.max_bytes = kMiB;
      options.writer = writer;
      Result<std::unique_ptr<Arena>> own = Arena::Create(options);
      expect(own.ok() && own.value()->Install(&spec, 1, &other, nullptr).ok());
      machine.arena.reset();  // takes nothing from anybody
      _exit(0);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    CHECK_EQ(machine.Call(id), SumOf(1, false));
    CHECK(machine.arena->Freeze(&writable, 1, machine.self).ok());
    CHECK_EQ(machine.Call(writable), SumOf(2, false));
    CHECK_EQ(machine.arena->CheckInvariants(), "");
  }
}
#endif

// ---- An executor's life

TEST(arena_writable_executors_are_written_and_read_before_they_have_an_address) {
  ArenaRig rig;
  Program program = Program::Of(100, 50, 30);
  ExecutorId id = rig.arena->Allocate(program.Spec()).value();
  CHECK(rig.arena->Describe(id).value().state == ExecutorState::kWritable);
  CHECK_EQ(rig.arena->Describe(id).value().address, 0);
  CHECK_EQ(rig.arena->EntryOf(id), 0);
  CHECK(rig.arena->EntryOffset(id, 0).status().code() == ErrorCode::kNotFrozen);
  const uint8_t bytes[] = {1, 2, 3};
  for (int section = 0; section < kSections; section++) {
    CHECK(rig.Read(id, static_cast<Section>(section)) == program.sections[section]);
    CHECK(rig.arena->Write(id, static_cast<Section>(section), 27, bytes, 3).ok());
    std::copy(bytes, bytes + 3, program.sections[section].begin() + 27);
    CHECK(rig.Read(id, static_cast<Section>(section)) == program.sections[section]);
  }
  CHECK_EQ(rig.arena->Stats().live_bytes, 0);
  CHECK_EQ(rig.arena->Stats().executors, 1);
  CHECK(rig.arena->Freeze(&id, 1, rig.self).ok());
  CHECK_EQ(rig.arena->Stats().live_bytes, 180);
  CHECK_EQ(rig.arena->EntryOf(id), rig.AddressOf(id));
  for (int section = 0; section < kSections; section++)
    CHECK(rig.Read(id, static_cast<Section>(section)) == program.sections[section]);
  // Frozen: code and data no more, state still.
  for (Section section : {Section::kCode, Section::kData}) {
    Status failed = rig.arena->Write(id, section, 1, bytes, 3);
    CHECK(failed.code() == ErrorCode::kNotWritable);
    CHECK(failed.error().executor == id && failed.error().section == section && failed.error().offset == 1);
  }
  CHECK(rig.arena->Write(id, Section::kState, 0, bytes, 3).ok());
  CHECK_EQ(rig.Read(id, Section::kState)[2], 3);
  CHECK(rig.arena->AddRelocs(id, nullptr, 0).code() == ErrorCode::kNotWritable);
  // A writable one may be freed as well.
  ExecutorId never_frozen = rig.arena->Allocate(program.Spec()).value();
  rig.Free(never_frozen);
  CHECK(rig.arena->Describe(never_frozen).status().code() == ErrorCode::kStaleExecutor);
}

TEST(arena_refuses_what_cannot_be_and_says_where) {
  ArenaRig rig;
  ArenaStats before = rig.arena->Stats();
  auto refused = [&](const ExecutorSpec& spec) {
    ExecutorId id = 0;
    ErrorCode code = rig.arena->Install(&spec, 1, &id, rig.self).code();
    CHECK(rig.arena->Allocate(spec).status().code() == code);
    CHECK_EQ(id, 0);
    return code;
  };
  Program program = Program::Of(100, 50, 30);
  ExecutorSpec spec = program.Spec();
  spec.sizes[0] = 0;
  CHECK(refused(spec) == ErrorCode::kSize);
  spec = program.Spec();
  for (int section = 0; section < kSections; section++) {
    for (uint32_t align : {0u, 3u, 24u, 2 * static_cast<uint32_t>(os::PageBytes()), 0x80000000u}) {
      spec = program.Spec();
      spec.aligns[section] = align;
      CHECK(refused(spec) == ErrorCode::kAlignment);
    }
    spec = {};
    spec.sizes[0] = 16;
    spec.sizes[section] = 0xFFFFFFFF;
    CHECK(refused(spec) == ErrorCode::kSize);
  }
  std::vector<RelocSpec> relocs(kMaxRelocs + 1);
  spec = program.Spec();
  spec.relocs = relocs.data();
  spec.reloc_count = kMaxRelocs + 1;
  CHECK(refused(spec) == ErrorCode::kSize);
  const uint32_t entries[] = {0, 99, 100};
  spec = program.Spec();
  spec.entries = entries;
  spec.entry_count = 3;
  CHECK(refused(spec) == ErrorCode::kBounds);

  ExecutorId id = rig.Install(program);
  uint8_t bytes[4] = {};
  for (auto [offset, count] :
       {std::pair<uint32_t, uint32_t>{101, 0}, {100, 1}, {98, 3}, {0xFFFFFFFF, 4}, {1, 0xFFFFFFFF}}) {
    Status failed = rig.arena->Read(id, Section::kCode, offset, bytes, count);
    CHECK(failed.code() == ErrorCode::kBounds);
    CHECK(failed.error().executor == id && failed.error().section == Section::kCode);
    CHECK(failed.error().offset == offset);
  }
  CHECK(rig.arena->Read(id, Section::kCode, 100, nullptr, 0).ok());
  CHECK(rig.arena->Write(id, Section::kState, 28, bytes, 3).code() == ErrorCode::kBounds);
  rig.Free(id);

  for (ExecutorId gone : {id, ExecutorId{0}, MakeId(1, 0), MakeId(5000000, 1), ~uint64_t{0}}) {
    CHECK(rig.arena->Free(&gone, 1, rig.self).code() == ErrorCode::kStaleExecutor);
    CHECK(rig.arena->Freeze(&gone, 1, rig.self).code() == ErrorCode::kStaleExecutor);
    CHECK(rig.arena->Read(gone, Section::kCode, 0, bytes, 1).code() == ErrorCode::kStaleExecutor);
    CHECK(rig.arena->Write(gone, Section::kCode, 0, bytes, 1).code() == ErrorCode::kStaleExecutor);
    CHECK(rig.arena->AddRelocs(gone, nullptr, 0).code() == ErrorCode::kStaleExecutor);
    CHECK(rig.arena->EntryOffset(gone, 0).status().code() == ErrorCode::kStaleExecutor);
    Result<ExecutorInfo> described = rig.arena->Describe(gone);
    CHECK(described.status().code() == ErrorCode::kStaleExecutor);
    CHECK(described.status().error().executor == gone);
  }
  CHECK_EQ(rig.arena->Stats().executors, before.executors);
  CHECK_EQ(rig.arena->Stats().live_bytes, before.live_bytes);
}

TEST(arena_refuses_a_size_that_no_branch_spans) {
  for (uint64_t bytes : {uint64_t{0}, arch::kMaxArenaBytes + 1, ~uint64_t{0}}) {
    ArenaOptions options;
    options.max_bytes = bytes;
    Result<std::unique_ptr<Arena>> made = Arena::Create(options);
    CHECK(!made.ok() && made.status().code() == ErrorCode::kSize);
  }
}

TEST(arena_finds_the_owner_of_any_byte) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    Program program = Program::Of(40, 24, 20);
    program.aligns[1] = 16;
    program.relocs = {{Section::kCode, 1, TargetKind::kOwnData, 0, 0, 0},
                      {Section::kCode, 1, TargetKind::kOwnState, 8, 0, 0}};
    ExecutorId id = rig.Install(program);
    uint64_t addresses[] = {rig.AddressOf(id), LoadAs<uint64_t>(rig.Read(id, Section::kCode).data()),
                            LoadAs<uint64_t>(rig.Read(id, Section::kCode).data() + 8)};
    uint32_t sizes[] = {40, 24, 20};
    for (int section = 0; section < kSections; section++) {
      for (uint32_t offset = 0; offset < sizes[section] + 8; offset++) {
        std::optional<FoundAddress> found = rig.arena->Find(addresses[section] + offset);
        CHECK_EQ(found.has_value(), offset < sizes[section]);  // behind it lies padding
        if (!found) continue;
        CHECK(found->executor == id && found->section == static_cast<Section>(section) && found->offset == offset);
        CHECK(!found->retired);
      }
    }
    {
      Pinned pinned(rig.arena->reclaimer(), *rig.self);
      rig.Free(id);
      for (uint64_t address : addresses) CHECK(rig.arena->Find(address) && rig.arena->Find(address)->retired);
    }
    rig.Collect();
    for (uint64_t address : addresses) CHECK(!rig.arena->Find(address));
    CHECK(!rig.arena->Find(0));
  }
}

TEST(arena_sections_without_bytes_are_zero_also_in_used_memory) {
  for (os::WriterKind writer : kAllWriters) {
    for (bool apart : {false, true}) {
      ArenaRig rig({.writer = writer, .apart = apart});
      for (int round = 0; round < 3; round++) {
        ExecutorSpec spec;
        uint32_t sizes[] = {300, 200, 100};
        std::copy(sizes, sizes + kSections, spec.sizes);
        ExecutorId id = 0;
        CHECK(rig.arena->Install(&spec, 1, &id, rig.self).ok());
        for (int section = 0; section < kSections; section++) {
          std::vector<uint8_t> bytes = rig.Read(id, static_cast<Section>(section));
          CHECK(std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; }));
        }
        rig.Free(id);
        ExecutorId used = rig.Install(Program::Of(300, 200, 100));
        std::vector<uint8_t> ones(100, 0xFF);
        CHECK(rig.arena->Write(used, Section::kState, 0, ones.data(), 100).ok());
        rig.Free(used);
      }
    }
  }
}

// Padding for data that is not there would lie outside the span, on the neighbours.
TEST(arena_an_alignment_without_data_costs_nobody_anything) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    Program plain = Program::Of(16);
    ExecutorId before = rig.Install(plain);
    for (uint32_t align = 1; align <= os::PageBytes(); align *= 2) {
      Program program = Program::Of(17);
      program.aligns[1] = align;
      ExecutorId id = rig.Install(program);
      ExecutorId behind = rig.Install(plain);
      CHECK_EQ(rig.AddressOf(behind) - rig.AddressOf(id), 32);
      rig.Free(id);
      rig.Install(program);
      CHECK(rig.Read(behind, Section::kCode) == plain.sections[0]);
    }
    CHECK(rig.Read(before, Section::kCode) == plain.sections[0]);
  }
}

TEST(arena_pads_code_with_traps) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    Program program = Program::Of(17, 5);
    program.aligns[1] = 32;
    ExecutorId id = rig.Install(program);
    const uint8_t* code = reinterpret_cast<const uint8_t*>(rig.AddressOf(id));
    for (int i = 17; i < 32; i++) CHECK_EQ(code[i], arch::kPoisonByte);
    if (!apart)
      for (int i = 37; i < 48; i++) CHECK_EQ(code[i], arch::kPoisonByte);
  }
}

TEST(arena_says_when_it_is_full_and_changes_nothing) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart, .max_bytes = 4 * kSlabBytes});
    std::vector<ExecutorId> ids;
    Program program = Program::Of(3000, 2000, 100);
    ExecutorSpec specs[4];
    for (ExecutorSpec& spec : specs) spec = program.Spec();
    for (;;) {
      ArenaStats before = rig.arena->Stats();
      ExecutorId installed[4] = {};
      Status failed = rig.arena->Install(specs, 4, installed, rig.self);
      if (failed.ok()) {
        ids.insert(ids.end(), installed, installed + 4);
        continue;
      }
      CHECK(failed.code() == ErrorCode::kFull);
      CHECK(failed.error().index.has_value());
      CHECK_EQ(installed[0], 0);
      ArenaStats after = rig.arena->Stats();
      CHECK_EQ(after.executors, before.executors);
      CHECK_EQ(after.live_bytes, before.live_bytes);
      CHECK_EQ(after.span_bytes, before.span_bytes);
      CHECK_EQ(after.committed_bytes, before.committed_bytes);
      break;
    }
    rig.CheckInvariants();
    CHECK(ids.size() > 100);
    CHECK(!rig.arena->PlanCompaction().profitable);
    rig.Free(std::vector<ExecutorId>(ids.end() - 4, ids.end()));
    rig.Install({program, program, program, program});
  }
}

TEST(arena_figures_add_up) {
  ArenaRig rig;
  ArenaStats empty = rig.arena->Stats();
  CHECK_EQ(empty.executors + empty.live_bytes + empty.retired_bytes + empty.moves, 0);
  CHECK(empty.reserved_bytes >= 16 * kSlabBytes);
  std::vector<ExecutorId> ids;
  for (int i = 0; i < 100; i++) ids.push_back(rig.Install(Program::Of(100, 60, 40)));
  ArenaStats stats = rig.arena->Stats();
  CHECK_EQ(stats.executors, 100);
  CHECK_EQ(stats.live_bytes, 100 * 200);
  CHECK_EQ(stats.page_per_executor_bytes, 100 * os::PageBytes());
  CHECK_EQ(stats.span_bytes - empty.span_bytes, 100 * (176 + 48));  // code + data from 104, and state, in granules
  CHECK(stats.committed_bytes >= stats.span_bytes);
  CHECK(stats.committed_bytes <= stats.span_bytes + 4 * os::PageBytes());
  uint64_t live = 0, backed = 0;
  for (const SlabMap& slab : rig.arena->Slabs()) {
    live += slab.live_bytes;
    uint64_t in_pages = 0;
    for (size_t page = 0; page < slab.backed.size(); page++) {
      backed += slab.backed[page] ? os::PageBytes() : 0;
      in_pages += slab.live_bytes_per_page[page];
      if (slab.live_bytes_per_page[page] != 0) CHECK(slab.backed[page]);
    }
    CHECK_EQ(in_pages, slab.live_bytes);
    CHECK_EQ(slab.retired_bytes, 0);
  }
  CHECK_EQ(live, stats.span_bytes);
  CHECK_EQ(backed, stats.committed_bytes);
  rig.Free(ids);
  stats = rig.arena->Stats();
  CHECK_EQ(stats.executors + stats.live_bytes + stats.page_per_executor_bytes, 0);
  CHECK_EQ(stats.span_bytes, empty.span_bytes);
}

// ---- The invariants can fail

namespace {

// Damages one byte, sees it noticed, and repairs it.
void CheckNoticed(ArenaRig& rig, uint64_t address, ExecutorId id, const char* what) {
  uint8_t* byte = reinterpret_cast<uint8_t*>(address);
  for (int bit = 0; bit < 8; bit++) {
    *byte ^= static_cast<uint8_t>(1 << bit);
    std::vector<Problem> problems = rig.arena->Verify();
    CHECK_EQ(problems.size(), 1);
    if (problems.size() == 1) CHECK_EQ(problems[0].executor, id);
    CHECK(!rig.arena->CheckInvariants().empty());
    *byte ^= static_cast<uint8_t>(1 << bit);
    CHECK_EQ(rig.arena->CheckInvariants(), "");
    if (problems.size() != 1) std::printf("  %s, bit %d\n", what, bit);
  }
}

}  // namespace

TEST(invariants_notice_any_changed_bit_of_code_data_and_padding) {
  for (bool apart : {false, true}) {
    ArenaRig rig({.apart = apart});
    ExecutorId other = rig.Install(Program::Of(50));
    Program program = Program::Of(61, 37);
    program.relocs = {{Section::kCode, 1, TargetKind::kOwnData, 8, 0, 0},
                      {Section::kCode, 2, TargetKind::kOwnData, 20, 4, -4},
                      {Section::kCode, 4, TargetKind::kExecutor, 32, other, -4}};
    ExecutorId id = rig.Install(program);
    uint64_t code = rig.AddressOf(id);
    uint64_t data = LoadAs<uint64_t>(rig.Read(id, Section::kCode).data() + 8);
    for (uint32_t i = 0; i < 64; i++) CheckNoticed(rig, code + i, id, "code and its padding");
    for (uint32_t i = 0; i < 48; i++) CheckNoticed(rig, data + i, id, "data and its padding");
  }
}

TEST(invariants_name_the_field_that_is_wrong) {
  ArenaRig rig;  // keeps full records
  ExecutorId other = rig.Install(Program::Of(50));
  Program program = Program::Of(64, 32);
  program.relocs = {{Section::kCode, 4, TargetKind::kExecutor, 32, other, -4},
                    {Section::kData, 1, TargetKind::kOwnCode, 8, 16, 0}};
  ExecutorId id = rig.Install(program);
  uint8_t* field = reinterpret_cast<uint8_t*>(rig.AddressOf(id)) + 32;
  uint32_t right = LoadAs<uint32_t>(field);
  StoreAs<uint32_t>(field, right + 16);
  std::vector<Problem> problems = rig.arena->Verify();
  CHECK_EQ(problems.size(), 1);
  CHECK(problems[0].executor == id && problems[0].section == Section::kCode && problems[0].offset == 32);
  CHECK_EQ(static_cast<uint32_t>(problems[0].expected), right);
  CHECK_EQ(static_cast<uint32_t>(problems[0].found), right + 16);
  CHECK_EQ(problems[0].what, "R_X86_64_PLT32");
  StoreAs<uint32_t>(field, right);
  CHECK(rig.arena->Verify().empty());
}

TEST(invariants_notice_a_wrong_far_slot) {
  ArenaRig rig;
  Program program = Program::Of(32);
  constexpr uint64_t kFar = 0x1234'5678'9AB0;
  program.relocs = {{Section::kCode, 9, TargetKind::kAddress, 8, kFar, -4}};
  ExecutorId id = rig.Install(program);
  int32_t field = LoadAs<int32_t>(rig.Read(id, Section::kCode).data() + 8);
  uint8_t* slot = reinterpret_cast<uint8_t*>(rig.AddressOf(id) + 12 + static_cast<uint64_t>(int64_t{field}));
  CHECK_EQ(LoadAs<uint64_t>(slot), kFar);
  StoreAs<uint64_t>(slot, kFar + 1);
  std::vector<Problem> problems = rig.arena->Verify();
  CHECK_EQ(problems.size(), 1);
  CHECK_EQ(problems[0].expected, kFar);
  CHECK_EQ(problems[0].found, kFar + 1);
  StoreAs<uint64_t>(slot, kFar);
  CHECK(rig.arena->Verify().empty());
}
