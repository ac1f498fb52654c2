// Exits and links: traces that leave through records, the stubs, and links that survive moves and deaths.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/arena.h"
#include "support/x64.h"
#include "test.h"

using namespace jit_arena;

namespace {

using namespace x64;

// A trace: counts itself in context[0], takes exit `number` when context[1] is not 0, else is done.
// The context's address is in rdi; done and exits leave the stack as it was.
Assembler Trace(uint32_t exits, uint32_t number = 0, uint8_t add = 1) {
  Assembler code;
  code.exits = exits;
  return code.CountAndLeave(number, add);
}

struct Host {
  std::unique_ptr<Arena> arena;
  PinSlot* pin;
  uint64_t context[2] = {0, 0};

  explicit Host(ArenaOptions options = {}) {
    options.max_bytes = std::min(options.max_bytes, 4 * kMiB);
    options.full_records = true;
    arena = std::move(Arena::Create(options).value());
    pin = arena->reclaimer().Attach();
  }

  ExecutorId Install(const Assembler& trace) {
    ExecutorSpec spec = trace.Spec();
    ExecutorId id = 0;
    Status status = arena->Install(&spec, 1, &id, pin);
    CHECK(status.ok());
    return id;
  }

  ExitTaken Run(ExecutorId id, uint64_t exits_to_take) {
    context[0] = 0;
    context[1] = exits_to_take;
    return RunWith(id, context);
  }

  ExitTaken RunWith(ExecutorId id, uint64_t* context_of_run) {
    arch::CallFrame frame{};
    frame.integers[0] = reinterpret_cast<uint64_t>(context_of_run);
    Pinned pinned(arena->reclaimer(), *pin);
    arena->call_gate()(reinterpret_cast<const void*>(arena->EntryOf(id)), &frame, arch::ReadFloatControl());
    ExitTaken taken = arena->ResolveExit(frame.integer_result);
    return taken;
  }

  bool Holds() {
    std::string broken = arena->CheckInvariants();
    if (!broken.empty()) std::fprintf(stderr, "%s\n", broken.c_str());
    return broken.empty();
  }
};

}  // namespace

TEST(a_trace_is_done_or_takes_an_exit) {
  Host host;
  ExecutorId id = host.Install(Trace(3, 2));
  ExitTaken done = host.Run(id, 0);
  CHECK_EQ(done.executor, 0u);
  CHECK_EQ(host.context[0], 1u);
  ExitTaken taken = host.Run(id, 1);
  CHECK_EQ(taken.executor, id);
  CHECK_EQ(taken.exit, 2u);
  CHECK(!taken.hot);
  CHECK(host.Holds());
}

TEST(links_lead_from_trace_to_trace_and_follow_moves) {
  Host host;
  ExecutorId a = host.Install(Trace(1, 0, 1));
  std::vector<ExecutorId> filler;
  for (int i = 0; i < 3000; i++) filler.push_back(host.Install(Trace(1)));
  ExecutorId b = host.Install(Trace(1, 0, 10));
  CHECK(host.arena->Link(a, 0, b, 0).ok());
  ExitTaken taken = host.Run(a, 1);
  CHECK_EQ(taken.executor, 0u);  // b was done
  CHECK_EQ(host.context[0], 11u);
  taken = host.Run(a, 2);
  CHECK_EQ(taken.executor, b);
  for (ExecutorId id : filler) CHECK(host.arena->Free(&id, 1, host.pin).ok());
  CollectResult result = host.arena->Collect({}, host.pin);
  CHECK(result.moved >= 1);
  CHECK(host.Holds());
  host.Run(a, 1);
  CHECK_EQ(host.context[0], 11u);
  Result<Arena::LinkedTo> linked = host.arena->LinkOf(a, 0);
  CHECK_EQ(linked.value().target, b);
}

TEST(a_dead_target_puts_the_stub_back_and_a_cycle_dies_like_anything_else) {
  Host host;
  ExecutorId a = host.Install(Trace(1, 0, 1));
  ExecutorId b = host.Install(Trace(1, 0, 10));
  CHECK(host.arena->Link(a, 0, b, 0).ok());
  CHECK(host.arena->Link(b, 0, a, 0).ok());
  host.Run(a, 5);
  CHECK_EQ(host.context[0], 33u);  // a b a b a b
  CHECK_EQ(host.arena->ChainDepth(a).value(), Exits::kEndless);
  CHECK(host.arena->Invalidate(b, host.pin).ok());
  CHECK(host.Holds());
  ExitTaken taken = host.Run(a, 5);
  CHECK_EQ(taken.executor, a);
  CHECK_EQ(host.context[0], 1u);
  CHECK_EQ(static_cast<int>(host.arena->Invalidate(b, host.pin).code()), static_cast<int>(ErrorCode::kStaleExecutor));
  CHECK(host.arena->Link(a, 0, a, 0).ok());
  host.Run(a, 7);
  CHECK_EQ(host.context[0], 8u);
  CHECK(host.arena->Free(&a, 1, host.pin).ok());
  CHECK(host.Holds());
}

TEST(an_exit_gets_hot_and_then_takes_longer) {
  ArenaOptions options;
  options.exit_threshold = 3;
  options.exit_growth = 2;
  Host host(options);
  ExecutorId id = host.Install(Trace(1));
  std::vector<int> hot;
  for (int crossing = 1; crossing <= 21; crossing++)
    if (host.Run(id, 1).hot) hot.push_back(crossing);
  // 3, then 6, then 12 crossings.
  CHECK_EQ(hot.size(), 3u);
  CHECK_EQ(hot[0], 3);
  CHECK_EQ(hot[1], 9);
  CHECK_EQ(hot[2], 21);
  CHECK(host.arena->Link(id, 0, id, 0).ok());
  CHECK(host.arena->Unlink(id, 0).ok());
  CHECK(!host.Run(id, 1).hot);
  CHECK(!host.Run(id, 1).hot);
  CHECK(host.Run(id, 1).hot);  // as new
}

TEST(cold_executors_are_evicted_in_the_second_pass_and_sources_keep_their_targets) {
  Host host;
  ExecutorId cold = host.Install(Trace(2));
  ExecutorId warm = host.Install(Trace(2));
  CollectOptions evict;
  evict.evict_cold = true;
  CHECK_EQ(host.arena->Collect(evict, host.pin).evicted.size(), 0u);  // new ones are not cold
  host.Run(warm, 0);
  CollectResult result = host.arena->Collect(evict, host.pin);
  CHECK_EQ(result.evicted.size(), 1u);
  CHECK_EQ(result.evicted[0], cold);
  CHECK(host.Holds());

  // A direct reloc of a warm one keeps a cold one.
  Assembler source = Trace(1);
  ExecutorId target = host.Install(Trace(1));
  source.Absolute(Another(target));
  ExecutorId keeper = host.Install(source);
  result = host.arena->Collect(evict, host.pin);
  CHECK_EQ(result.evicted.size(), 1u);
  CHECK_EQ(result.evicted[0], warm);  // it ran before the pass that kept it, and not since
  host.Run(keeper, 0);
  result = host.arena->Collect(evict, host.pin);
  CHECK_EQ(result.evicted.size(), 0u);  // the target is cold, its source is not
  result = host.arena->Collect(evict, host.pin);
  CHECK_EQ(result.evicted.size(), 2u);  // both in one pass
  CHECK(host.Holds());
}

TEST(replace_moves_links_and_unlink_all_ends_them) {
  Host host;
  ExecutorId a = host.Install(Trace(1, 0, 1));
  ExecutorId b = host.Install(Trace(1, 0, 10));
  ExecutorId c = host.Install(Trace(1, 0, 100));
  CHECK(host.arena->Link(a, 0, b, 0).ok());
  CHECK(host.arena->Replace(b, c).ok());
  CHECK(host.arena->Replace(b, b).ok());
  host.Run(a, 1);
  CHECK_EQ(host.context[0], 101u);
  CHECK_EQ(host.Run(b, 0).executor, 0u);  // still alive
  CHECK(host.arena->UnlinkAll().ok());
  CHECK_EQ(host.Run(a, 1).executor, a);
  CHECK(host.arena->Unlink(a, 0).ok());  // nothing to do
  CHECK_EQ(static_cast<int>(host.arena->Unlink(a, 1).code()), static_cast<int>(ErrorCode::kExit));
  CHECK(host.Holds());
}

TEST(chains_without_progress_can_be_refused) {
  ArenaOptions options;
  options.max_chain_depth = 2;
  Host host(options);
  std::vector<ExecutorId> traces;
  for (int i = 0; i < 4; i++) traces.push_back(host.Install(Trace(1)));
  CHECK(host.arena->Link(traces[0], 0, traces[1], 0).ok());
  CHECK(host.arena->Link(traces[1], 0, traces[2], 0).ok());
  CHECK_EQ(host.arena->ChainDepth(traces[2]).value(), 2u);
  Status refused = host.arena->Link(traces[2], 0, traces[3], 0);
  CHECK_EQ(static_cast<int>(refused.code()), static_cast<int>(ErrorCode::kChainDepth));
  refused = host.arena->Link(traces[2], 0, traces[0], 0);
  CHECK_EQ(static_cast<int>(refused.code()), static_cast<int>(ErrorCode::kChainDepth));
  CHECK_EQ(host.arena->LinkOf(traces[2], 0).value().target, 0u);
  CHECK(host.Holds());
}

TEST(five_hundred_and_twelve_cold_exits_fit_in_16_kib) {
  Host host;
  ArenaStats before = host.arena->Stats();
  Assembler trace = Trace(512, 511);
  ExecutorSpec spec = trace.Spec();
  ExecutorId id = 0;
  CHECK(host.arena->Install(&spec, 1, &id, host.pin).ok());
  ArenaStats after = host.arena->Stats();
  CHECK(after.committed_bytes - before.committed_bytes <= 16 * kKiB);
  CHECK_EQ(host.Run(id, 1).exit, 511u);
}

TEST(a_record_of_an_executor_freed_while_it_ran_still_resolves) {
  Host host;
  ExecutorId id = host.Install(Trace(1));
  ExitTaken taken{};
  {
    Pinned pinned(host.arena->reclaimer(), *host.pin);
    uint64_t entry = host.arena->EntryOf(id);
    CHECK(host.arena->Free(&id, 1, host.pin).ok());
    for (int i = 0; i < 200; i++) host.Install(Trace(1));
    host.context[1] = 1;
    arch::CallFrame frame{};
    frame.integers[0] = reinterpret_cast<uint64_t>(host.context);
    host.arena->call_gate()(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
    taken = host.arena->ResolveExit(frame.integer_result);
  }
  CHECK_EQ(taken.executor, id);
  CHECK(host.Holds());
}

// A trace that calls a C function, which does what it likes to the trace that called it.
namespace {

struct Meddler {
  Host* host;
  ExecutorId caller, running, target, spare;
  enum { kFree, kInvalidate, kReplace, kEvict, kMove } what;
  bool waited = true;

  static void Meddle(uint64_t* context) { reinterpret_cast<Meddler*>(context[2])->Meddle(); }

  void Meddle() {
    Arena& arena = *host->arena;
    ExecutorId all[] = {caller, running, target};
    uint64_t places[] = {arena.EntryOf(caller), arena.EntryOf(running), arena.EntryOf(target)};
    CollectOptions evict;
    evict.evict_cold = true;
    switch (what) {
      case kFree:
        CHECK(arena.Free(all, 3, host->pin).ok());
        break;
      case kInvalidate:
        for (ExecutorId id : all) CHECK(arena.Invalidate(id, host->pin).ok());
        break;
      case kReplace:
        for (ExecutorId id : all) CHECK(arena.Replace(id, spare).ok());
        return;
      case kEvict:
        arena.Collect(evict, host->pin);
        arena.Collect(evict, host->pin);
        for (ExecutorId id : all) CHECK(!arena.Describe(id).ok());
        break;
      case kMove:
        CHECK(arena.Collect({}, host->pin).moved >= 3);
        break;
    }
    // Traps wherever there is room, in code and in state.
    for (uint32_t bytes : {16384u, 1024u, 48u}) {
      std::vector<uint8_t> traps(bytes, 0xCC);
      ExecutorSpec spec;
      spec.bytes[0] = spec.bytes[2] = traps.data();
      spec.sizes[0] = spec.sizes[2] = bytes;
      ExecutorId id = 0;
      for (int i = 0; i < 60 && arena.Install(&spec, 1, &id, host->pin).ok(); i++) continue;
    }
    for (int i = 0; i < 3; i++) {
      std::optional<FoundAddress> found = arena.Find(places[i]);
      waited = waited && found && found->retired && found->executor == all[i];
    }
  }
};

}  // namespace

TEST(a_c_function_may_end_the_traces_that_are_executing) {
  for (auto what : {Meddler::kFree, Meddler::kInvalidate, Meddler::kReplace, Meddler::kEvict, Meddler::kMove}) {
    for (int writer = 0; writer < os::kWriterKinds; writer++) {
      ArenaOptions options;
      options.writer = static_cast<os::WriterKind>(writer);
      options.max_bytes = options.max_retired_bytes = kMiB;
      Host host(options);
      Assembler running;
      running.exits = 1;
      running.CallKeepingContext(Outside(static_cast<void (*)(uint64_t*)>(&Meddler::Meddle))).CountAndLeave(0, 10);

      // Between others, so that there is something to move.
      std::vector<ExecutorId> others;
      auto install = [&](const Assembler& trace) {
        Assembler other = Trace(1);
        other.bytes.resize(6000);
        for (int i = 0; i < 2; i++) others.push_back(host.Install(other));
        return host.Install(trace);
      };
      Meddler meddler{&host, 0, 0, 0, 0, what};
      meddler.caller = install(Trace(1, 0, 1));
      meddler.running = install(running);
      meddler.target = install(Trace(1, 0, 100));
      meddler.spare = install(Trace(1, 0, 50));
      CHECK(host.arena->Free(others.data(), static_cast<uint32_t>(others.size()), host.pin).ok());
      CHECK(host.arena->Link(meddler.caller, 0, meddler.running, 0).ok());
      CHECK(host.arena->Link(meddler.running, 0, meddler.target, 0).ok());
      uint64_t context[4] = {0, 9, reinterpret_cast<uint64_t>(&meddler), 0};
      ExitTaken taken = host.RunWith(meddler.caller, context);
      CHECK(meddler.waited);
      bool linked = what == Meddler::kReplace || what == Meddler::kMove;
      CHECK_EQ(context[0], !linked ? 11u : what == Meddler::kMove ? 111u : 61u);
      CHECK_EQ(taken.executor, !linked ? meddler.running : what == Meddler::kReplace ? meddler.spare : meddler.target);
      CHECK_EQ(host.arena->Collect({}, host.pin).retired_bytes, 0u);
      CHECK(host.Holds());
    }
  }
}

TEST(the_call_gate_gives_back_what_a_callee_keeps) {
  Host host;
  // Clobbers what a caller may rely on, of which the gate must save all; then an exit, or done.
  for (bool exit : {false, true}) {
    Assembler trace;
    trace.exits = 1;
    trace.Put({0x31, 0xDB, 0x31, 0xED, 0x45, 0x31, 0xE4, 0x45, 0x31, 0xED});  // xor ebx, ebp, r12d, r13d
    trace.Put({0x45, 0x31, 0xF6, 0x45, 0x31, 0xFF});                          // xor r14d, r15d
    trace.Put({0x0F, 0xAE, 0x17, 0xDB, 0xE3, 0xD9, 0x6F, 0x04, 0xFD});        // ldmxcsr, fninit, fldcw, std
    exit ? trace.LeaveThrough(0) : trace.Done();
    ExecutorId id = host.Install(trace);
    const uint32_t control[] = {0xE040, 0x0C40};
    arch::CallFrame frame{};
    frame.integers[0] = reinterpret_cast<uint64_t>(control);

    // A C function that calls the gate with its own two arguments, and returns what differs afterwards.
    Assembler keeps;
    keeps.Push(kRbx).Push(kRbp).Put({0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push r12, r13, r14, r15
    keeps.Put({0x48, 0x83, 0xEC, 0x18});                                                // sub rsp, 24
    const int registers[][2] = {{0x48, 3}, {0x48, 5}, {0x49, 4}, {0x49, 5}, {0x49, 6}, {0x49, 7}};
    for (auto [rex, n] : registers) keeps.Put({rex, 0xC7, 0xC0 + n, 1, 2, 3, 4});  // mov register, pattern
    keeps.Put({0x0F, 0xAE, 0x1C, 0x24, 0xD9, 0x7C, 0x24, 0x04});                   // stmxcsr, fnstcw
    keeps.Move64(kRax, reinterpret_cast<uint64_t>(host.arena->call_gate())).Call(kRax).Put({0x31, 0xC0});  // xor eax
    for (auto [rex, n] : registers) {
      keeps.Put({rex, 0x81, 0xE8 + n, 1, 2, 3, 4});                // sub register, pattern
      keeps.Put({rex == 0x48 ? 0x48 : 0x4C, 0x09, 0xC0 + 8 * n});  // or rax, register
    }
    keeps.Put({0x0F, 0xAE, 0x5C, 0x24, 0x08, 0xD9, 0x7C, 0x24, 0x0C});                    // stmxcsr, fnstcw
    keeps.Put({0x48, 0x8B, 0x4C, 0x24, 0x08, 0x48, 0x33, 0x0C, 0x24, 0x48, 0x09, 0xC8});  // or their difference
    keeps.Put({0x9C, 0x59, 0x81, 0xE1, 0, 4, 0, 0, 0x48, 0x09, 0xC8});                    // or the direction flag
    keeps.Put({0x48, 0x83, 0xC4, 0x18, 0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C});  // add rsp, 24; pop r15 to r12
    keeps.Pop(kRbp).Pop(kRbx).Ret();
    ExecutorId outer = host.Install(keeps);

    Pinned pinned(host.arena->reclaimer(), *host.pin);
    arch::CallFrame call{};
    call.integers[0] = host.arena->EntryOf(id);
    call.integers[1] = reinterpret_cast<uint64_t>(&frame);
    call.integers[2] = arch::ReadFloatControl();
    host.arena->call_gate()(reinterpret_cast<const void*>(host.arena->EntryOf(outer)), &call, arch::ReadFloatControl());
    CHECK_EQ(call.integer_result, 0u);
    CHECK_EQ(host.arena->ResolveExit(frame.integer_result).executor, exit ? id : 0);
  }
}

TEST(the_hot_stub_gets_the_record_in_the_exit_register) {
  ArenaOptions options;
  options.exit_threshold = 1;
  Host host(options);
  Assembler stub;
  stub.Put({0x4C, 0x89, 0x1F}).Done();  // mov [rdi], r11
  ExecutorSpec spec = stub.Spec();
  ExecutorId movable = 0, fixed = 0;
  CHECK(host.arena->Install(&spec, 1, &movable, host.pin).ok());
  CHECK_EQ(static_cast<int>(host.arena->SetHotStub(movable, host.pin).code()), static_cast<int>(ErrorCode::kMovable));
  spec.movable = false;
  CHECK(host.arena->Install(&spec, 1, &fixed, host.pin).ok());
  CHECK(host.arena->SetHotStub(fixed, host.pin).ok());
  CHECK_EQ(static_cast<int>(host.arena->Free(&fixed, 1, host.pin).code()), static_cast<int>(ErrorCode::kImmortal));
  ExecutorId id = host.Install(Trace(1));
  CHECK_EQ(host.Run(id, 1).executor, 0u);  // the stub was done with it
  CHECK(host.arena->Contains(host.context[0]));
  CHECK(host.arena->SetHotStub(0, host.pin).ok());
  CHECK(host.Holds());
}
