// T4: nine of ten die at random. What is left of the memory, for each live byte: packing alone does not help, because a
// page with one survivor stays.
#include <malloc.h>

#include "population.h"

namespace bench {

void Survivors(const Settings& settings) {
  uint32_t count = settings.Size(40'000u, 4'000u);
  TinyWorkload workload(settings.seed);
  for (const PeerKind& kind : PeerKinds()) {
    if (!kind.executable) continue;
    std::vector<double> resident, committed, kept;
    for (int run = -1; run < settings.runs; run++) {
      std::unique_ptr<Peer> peer = kind.make(uint64_t{count} * 8192 + (16 << 20));
      if (peer == nullptr) break;
      Population population(std::move(peer), workload, count);
      malloc_trim(0);
      uint64_t before = ResidentBytes();
      population.Fill();
      population.ThinOut(0.9, settings.seed + static_cast<uint64_t>(run));
      auto per_live = [&](uint64_t bytes) {
        return static_cast<double>(bytes) / static_cast<double>(population.live_bytes());
      };
      double of_arena = 0, of_arena_before = 0;
      if (kind.make == MakeArenaPeer) {
        auto& arena = static_cast<ArenaPeer&>(population.peer());
        of_arena_before = per_live(arena.arena().Stats().committed_bytes);
        while (!arena.Collect().done) continue;
        of_arena = per_live(arena.arena().Stats().committed_bytes);
        BENCH_CHECK(arena.arena().CheckInvariants().empty());
      }
      uint64_t after = ResidentBytes();
      BENCH_CHECK(population.refused() == 0);
      population.CheckIntact(count);
      if (run < 0) continue;  // the warm-up
      resident.push_back(per_live(after > before ? after - before : 0));
      committed.push_back(of_arena);
      kept.push_back(of_arena_before);
    }
    if (resident.empty()) {
      ReportMissing("T4", kind.name, count, "not installed");
    } else if (kind.make == MakeArenaPeer) {
      Report("T4", "arena", count, "x", committed);
      Report("T4", "arena, before collect", count, "x", kept);
      Report("T4", "arena, as the kernel counts", count, "x", resident);
    } else {
      Report("T4", kind.name, count, "x", resident);
    }
  }
}

}  // namespace bench
