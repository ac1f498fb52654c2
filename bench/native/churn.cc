// T1: a full allocator in steady use. A random executor dies, another is installed; the peers take turns.
#include <algorithm>

#include "population.h"

namespace bench {
namespace {

struct Turn {
  const PeerKind* kind;
  std::unique_ptr<Population> population;
  uint64_t operations;  // of one run
  std::vector<double> nanos;
};

// Churns as often as executors live, so that holes are everywhere, but no longer than this: there are peers whose
// search for a hole takes as long as many are live. Ending early leaves them with fewer holes, which is in their
// favour.
constexpr uint64_t kWarmUpNanos = 2'000'000'000;
// A run is no longer than this.
constexpr double kRunNanos = 250'000'000;

bool Prepare(Turn* turn, const TinyWorkload& workload, uint32_t live, uint64_t operations, const Settings& settings) {
  std::unique_ptr<Peer> peer = turn->kind->make(uint64_t{live} * 4096 + (64 << 20));
  if (peer == nullptr) {
    ReportMissing("T1", turn->kind->name, live, "not installed");
    return false;
  }
  turn->population = std::make_unique<Population>(std::move(peer), workload, live);
  turn->population->Fill();
  uint64_t begin = NowNanos(), nanos = 0, done = 0;
  for (; done < live && nanos < kWarmUpNanos; nanos = NowNanos() - begin) {
    turn->population->Churn(100, settings.seed + done);
    done += 100;
  }
  double each = static_cast<double>(nanos) / static_cast<double>(done);
  turn->operations = std::clamp<uint64_t>(static_cast<uint64_t>(kRunNanos / each), 500, operations);
  if (turn->population->refused() == 0) return true;
  ReportMissing("T1", turn->kind->name, live, "refused");
  return false;
}

void ChurnAt(uint32_t live, uint64_t operations, const Settings& settings, const TinyWorkload& workload) {
  // A million executors are a gigabyte for each peer, and more mappings than a process may have for one of them.
  bool few = live > 100'000;
  std::vector<Turn> turns;
  for (const PeerKind& kind : PeerKinds()) {
    std::string name = kind.name;
    if (few && name != "arena" && name != "malloc" && name != "asmjit dual") continue;
    Turn turn{&kind, nullptr, 0, {}};
    if (Prepare(&turn, workload, live, operations, settings)) turns.push_back(std::move(turn));
  }
  for (int run = 0; run < settings.runs; run++) {
    for (Turn& turn : turns) {
      uint64_t begin = NowNanos();
      turn.population->Churn(turn.operations, settings.seed + 1'000'000'007ull * static_cast<uint64_t>(run + 1));
      turn.nanos.push_back(static_cast<double>(NowNanos() - begin) / static_cast<double>(turn.operations));
    }
  }
  for (Turn& turn : turns) {
    turn.population->CheckIntact(1000);
    if (turn.population->refused() == 0)
      Report("T1", turn.kind->name, live, "ns", turn.nanos);
    else
      ReportMissing("T1", turn.kind->name, live, "refused");
  }
}

}  // namespace

void Churn(const Settings& settings) {
  TinyWorkload workload(settings.seed);
  if (settings.smoke) {
    for (uint32_t live : {100, 300}) ChurnAt(live, 500, settings, workload);
    return;
  }
  for (uint32_t live : {1'000, 20'000, 100'000, 1'000'000}) ChurnAt(live, 200'000, settings, workload);
}

}  // namespace bench
