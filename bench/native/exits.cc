// T8: what 512 cold exits cost in memory, records and stub together: the same traces with exits and without.
#include "base/bits.h"
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kExits = 512;
constexpr uint32_t kExitsPerTrace = 8;

// Leaves through exit number rdi, or is done. With `exits` 0 the same bytes, none of which is an exit.
Assembler MakeTrace(uint32_t exits) {
  Assembler out;
  for (uint32_t exit = 0; exit < kExitsPerTrace; exit++) {
    out.Put({0x48, 0x83, 0xFF, static_cast<int>(exit), 0x75, 10});  // cmp rdi, exit; jne over
    out.Put({0x4C, 0x8D, 0x1D});                                    // lea r11, [rip + record]
    if (exits != 0)
      out.Relative(TargetKind::kExit, exit);
    else
      out.Put32(0);
    out.Put({0x41, 0xFF, 0x23});  // jmp [r11]
  }
  out.Put({0xE9});
  out.Relative(TargetKind::kDone, 0, true);
  out.exits = exits;
  return out;
}

// Everything that the traces took: pages and tables.
uint64_t BytesWith(uint32_t exits) {
  OwnArena own(16 << 20);
  auto total = [&] {
    ArenaStats stats = own.arena->Stats();
    return stats.committed_bytes + stats.metadata_bytes;
  };
  Assembler trace = MakeTrace(exits);
  std::vector<ExecutorSpec> specs(kExits / kExitsPerTrace, trace.Spec());
  std::vector<ExecutorId> ids(specs.size());
  uint64_t before = total();
  CheckOk(own.arena->Install(specs.data(), static_cast<uint32_t>(specs.size()), ids.data(), own.self));
  uint64_t bytes = total() - before;
  for (ExecutorId id : ids) {
    for (uint32_t exit = 0; exit < exits; exit++) {
      ExitTaken taken = own.arena->ResolveExit(Run(own, id, {exit}));
      BENCH_CHECK(taken.executor == id && taken.exit == exit);
    }
    BENCH_CHECK(Run(own, id, {1000}) == 0);
  }
  return bytes;
}

}  // namespace

void Exits(const Settings& settings) {
  uint64_t of_records = BytesWith(kExitsPerTrace) - BytesWith(0);
  // The stub is there in every arena: its granules are counted here.
  uint64_t stubs = AlignUp(arch::ExitStubBytes(), kGranuleBytes) + AlignUp(arch::HotReturnBytes(), kGranuleBytes);
  Report("T8", "arena", kExits, "KiB", {static_cast<double>(of_records + stubs) / 1024});

  // The others have no exits: each cold exit is a small executor of its own, as CPython had them in 2024.
  const uint8_t landing[] = {0x49, 0xBB, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xFF, 0xE3};  // mov r11, record; jmp r11
  Bytes bytes{landing, sizeof landing, nullptr, 0};
  for (const PeerKind& kind : PeerKinds()) {
    if (kind.make == MakeArenaPeer || !kind.executable) continue;
    std::vector<double> kib;
    for (int run = -1; run < settings.runs; run++) {
      std::vector<Peer::Handle> handles(kExits);
      std::unique_ptr<Peer> peer = kind.make(1 << 20);
      if (peer == nullptr) break;
      uint64_t before = ResidentBytes();
      for (Peer::Handle& handle : handles) handle = peer->Install(bytes);
      uint64_t after = ResidentBytes();
      for (Peer::Handle handle : handles) BENCH_CHECK(handle != 0 && peer->Free(handle));
      if (run >= 0) kib.push_back(static_cast<double>(after - std::min(after, before)) / 1024);
    }
    if (kib.empty())
      ReportMissing("T8", kind.name, kExits, "not installed");
    else
      Report("T8", kind.name, kExits, "KiB", kib);
  }
}

}  // namespace bench
