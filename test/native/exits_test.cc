// Exits and links: traces that leave through records, the stubs, and links that survive moves and deaths.
#include <cstring>
#include <vector>

#include "core/arena.h"
#include "test.h"

using namespace jit_arena;

namespace {

// A trace: counts itself in context[0], takes exit `number` when context[1] is not 0, else is done.
// The context's address is in rdi; done and exits leave the stack as it was.
struct Trace {
  std::vector<uint8_t> code;
  std::vector<RelocSpec> relocs;
  uint32_t exits;

  explicit Trace(uint32_t exits, uint32_t number = 0, uint8_t add = 1) : exits(exits) {
    auto put = [&](std::initializer_list<uint8_t> bytes) { code.insert(code.end(), bytes); };
    put({0xC6, 0x05, 0, 0, 0, 0, 0x01});  // mov byte [rip + warm], 1
    Reloc(2, TargetKind::kWarm, 0, -5);
    put({0x48, 0x83, 0x07, add});         // add qword [rdi], add
    put({0x48, 0x83, 0x7F, 0x08, 0x00});  // cmp qword [rdi + 8], 0
    put({0x74, 0x0E});                    // je done
    put({0x48, 0xFF, 0x4F, 0x08});        // dec qword [rdi + 8]
    put({0x4C, 0x8D, 0x1D, 0, 0, 0, 0});  // lea r11, [rip + record]
    Reloc(static_cast<uint32_t>(code.size() - 4), TargetKind::kExit, number, -4);
    put({0x41, 0xFF, 0x23});  // jmp [r11]
    put({0xE9, 0, 0, 0, 0});  // done: jmp the done stub
    Reloc(static_cast<uint32_t>(code.size() - 4), TargetKind::kDone, 0, -4, 4);
  }

  void Reloc(uint32_t offset, TargetKind kind, uint64_t target, int64_t addend, uint8_t number = 2) {
    relocs.push_back({Section::kCode, number, kind, offset, target, addend});
  }

  ExecutorSpec Spec() const {
    ExecutorSpec spec;
    spec.bytes[0] = code.data();
    spec.sizes[0] = static_cast<uint32_t>(code.size());
    spec.relocs = relocs.data();
    spec.reloc_count = static_cast<uint32_t>(relocs.size());
    spec.exit_count = exits;
    return spec;
  }
};

struct Host {
  std::unique_ptr<Arena> arena;
  PinSlot* pin;
  uint64_t context[2] = {0, 0};

  explicit Host(ArenaOptions options = {}) {
    options.max_bytes = 4 * kMiB;
    options.full_records = true;
    arena = std::move(Arena::Create(options).value());
    pin = arena->reclaimer().Attach();
  }

  ExecutorId Install(const Trace& trace) {
    ExecutorSpec spec = trace.Spec();
    ExecutorId id = 0;
    Status status = arena->Install(&spec, 1, &id, pin);
    CHECK(status.ok());
    return id;
  }

  ExitTaken Run(ExecutorId id, uint64_t exits_to_take) {
    context[0] = 0;
    context[1] = exits_to_take;
    arch::CallFrame frame{};
    frame.integers[0] = reinterpret_cast<uint64_t>(context);
    arena->reclaimer().Enter(*pin);
    arena->call_gate()(reinterpret_cast<const void*>(arena->EntryOf(id)), &frame);
    ExitTaken taken = arena->ResolveExit(frame.integer_result);
    arena->reclaimer().Leave(*pin);
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
  CHECK_EQ(host.arena->ChainDepth(a).value(), Linker::kEndless);
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
  Trace source(1);
  ExecutorId target = host.Install(Trace(1));
  source.relocs.push_back(
      {Section::kCode, 1, TargetKind::kExecutor, static_cast<uint32_t>(source.code.size()), target, 0});
  source.code.resize(source.code.size() + 8);
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
  ExecutorSpec spec = Trace(512, 511).Spec();
  Trace trace(512, 511);
  spec = trace.Spec();
  ExecutorId id = 0;
  CHECK(host.arena->Install(&spec, 1, &id, host.pin).ok());
  ArenaStats after = host.arena->Stats();
  CHECK(after.committed_bytes - before.committed_bytes <= 16 * kKiB);
  CHECK_EQ(host.Run(id, 1).exit, 511u);
}

TEST(a_record_of_an_executor_freed_while_it_ran_still_resolves) {
  Host host;
  ExecutorId id = host.Install(Trace(1));
  host.arena->reclaimer().Enter(*host.pin);
  uint64_t entry = host.arena->EntryOf(id);
  CHECK(host.arena->Free(&id, 1, host.pin).ok());
  for (int i = 0; i < 200; i++) host.Install(Trace(1));
  host.context[1] = 1;
  arch::CallFrame frame{};
  frame.integers[0] = reinterpret_cast<uint64_t>(host.context);
  host.arena->call_gate()(reinterpret_cast<const void*>(entry), &frame);
  ExitTaken taken = host.arena->ResolveExit(frame.integer_result);
  host.arena->reclaimer().Leave(*host.pin);
  CHECK_EQ(taken.executor, id);
  CHECK(host.Holds());
}

TEST(the_hot_stub_gets_the_record_in_the_exit_register) {
  ArenaOptions options;
  options.exit_threshold = 1;
  Host host(options);
  // mov [rdi], r11; jmp done
  Trace stub(0);
  stub.code = {0x4C, 0x89, 0x1F, 0xE9, 0, 0, 0, 0};
  stub.relocs = {{Section::kCode, 4, TargetKind::kDone, 4, 0, -4}};
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
