// T2 and T3: an empty allocator is filled; how long that takes, and how much memory it has then for each live byte.
#include <malloc.h>

#include "population.h"

namespace bench {
namespace {

double PerLive(uint64_t bytes, const Population& population) {
  return static_cast<double>(bytes) / static_cast<double>(population.live_bytes());
}

struct Series {
  std::vector<double> nanos, resident, committed, with_metadata;
};

bool FillOnce(const PeerKind& kind, uint32_t count, const TinyWorkload& workload, Series* series) {
  std::unique_ptr<Peer> peer = kind.make(uint64_t{count} * 8192 + (16 << 20));
  if (peer == nullptr) return false;
  Population population(std::move(peer), workload, count);
  malloc_trim(0);  // tables that the last one left behind are new memory again
  uint64_t before = ResidentBytes();
  uint64_t begin = NowNanos();
  population.Fill();
  series->nanos.push_back(static_cast<double>(NowNanos() - begin) / count);
  uint64_t after = ResidentBytes();
  BENCH_CHECK(population.refused() == 0);
  population.CheckIntact(count);
  series->resident.push_back(PerLive(after > before ? after - before : 0, population));
  if (kind.make == MakeArenaPeer) {
    jit_arena::ArenaStats stats = static_cast<ArenaPeer&>(population.peer()).arena().Stats();
    BENCH_CHECK(stats.live_bytes == population.live_bytes());
    series->committed.push_back(PerLive(stats.committed_bytes, population));
    series->with_metadata.push_back(PerLive(stats.committed_bytes + stats.metadata_bytes, population));
  }
  return true;
}

}  // namespace

void Fill(const Settings& settings) {
  uint32_t count = settings.Size(20'000u, 500u);
  TinyWorkload workload(settings.seed);
  std::vector<Series> series(PeerKinds().size());
  // One round more than counts: the first is the warm-up.
  for (int run = -1; run < settings.runs; run++) {
    for (size_t i = 0; i < series.size(); i++) {
      Series scratch;
      FillOnce(PeerKinds()[i], count, workload, run < 0 ? &scratch : &series[i]);
    }
  }
  for (size_t i = 0; i < series.size(); i++) {
    const char* name = PeerKinds()[i].name;
    if (series[i].nanos.empty()) {
      ReportMissing("T2", name, count, "not installed");
      if (PeerKinds()[i].executable) ReportMissing("T3", name, count, "not installed");
      continue;
    }
    Report("T2", name, count, "ns", series[i].nanos);
    if (!PeerKinds()[i].executable) continue;
    if (PeerKinds()[i].make != MakeArenaPeer) {
      Report("T3", name, count, "x", series[i].resident);
      continue;
    }
    Report("T3", "arena", count, "x", series[i].committed);
    Report("T3", "arena with metadata", count, "x", series[i].with_metadata);
    Report("T3", "arena, as the kernel counts", count, "x", series[i].resident);
  }
}

}  // namespace bench
