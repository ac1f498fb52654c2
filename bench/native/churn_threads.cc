// T1 by two threads in one arena: what both together free and install in a second, beside what one does alone.
#include <atomic>
#include <chrono>
#include <thread>

#include "population.h"

namespace bench {
namespace {

constexpr size_t kThreads = 2;

// Operations per second of so many threads: the populations are divided among them, so that one thread does what two
// do.
double Measure(const std::vector<std::unique_ptr<Population>>& populations, size_t threads, uint64_t nanos,
               uint64_t seed) {
  constexpr uint64_t kPiece = 100;
  std::atomic<size_t> ready{0};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> operations{0};
  std::vector<std::thread> running;
  for (size_t i = 0; i < threads; i++) {
    running.emplace_back([&, i] {
      ready.fetch_add(1);
      uint64_t done = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        for (size_t own = i; own < populations.size(); own += threads, done += kPiece)
          populations[own]->Churn(kPiece, seed + own + done);
      }
      operations.fetch_add(done);
    });
  }
  while (ready.load() < threads) std::this_thread::yield();
  uint64_t begin = NowNanos();
  std::this_thread::sleep_for(std::chrono::nanoseconds(nanos));
  stop.store(true);
  for (std::thread& thread : running) thread.join();
  return static_cast<double>(operations) * 1e3 / static_cast<double>(NowNanos() - begin);
}

void ChurnWith(bool staged, const Settings& settings, const TinyWorkload& workload) {
  const uint32_t live = settings.Size(10'000u, 100u);
  const uint64_t nanos = settings.Size(250'000'000ull, 10'000'000ull);
  OwnArena own(uint64_t{kThreads} * live * 4096 + (64 << 20));
  std::vector<std::unique_ptr<Population>> populations(kThreads);
  for (auto& population : populations) {
    population = std::make_unique<Population>(std::make_unique<ArenaPeer>(own, staged), workload, live);
    population->Fill();
    population->Churn(live, settings.seed);
  }
  std::vector<double> one, two;
  for (int run = 0; run < settings.runs; run++) {
    uint64_t seed = settings.seed + static_cast<uint64_t>(run) * 1'000'000'007;
    one.push_back(Measure(populations, 1, nanos, seed));
    two.push_back(Measure(populations, kThreads, nanos, seed));
  }
  for (auto& population : populations) {
    population->CheckIntact(1000);
    BENCH_CHECK(population->refused() == 0);
  }
  std::string how = staged ? "allocate + freeze" : "install";
  Report("T1-threads", how + ", one thread", kThreads * live, "M/s", one);
  Report("T1-threads", how + ", two threads", kThreads * live, "M/s", two);
}

}  // namespace

void ChurnInThreads(const Settings& settings) {
  TinyWorkload workload(settings.seed);
  for (bool staged : {false, true}) ChurnWith(staged, settings, workload);
}

}  // namespace bench
