// T6: a collect in slices of 200 µs, beside one in a single piece.
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint64_t kSliceNanos = 200'000;

struct Setup {
  Setup(const CallingExecutor& executor, uint32_t live)
      : own(uint64_t{live} * 2048 + (16 << 20)), ids(InstallEverySecond(own, executor, live)) {}
  OwnArena own;
  std::vector<ExecutorId> ids;
};

}  // namespace

void Pauses(const Settings& settings) {
  uint32_t live = settings.Size(100'000u, 4'000u);
  CallingExecutor executor;
  std::vector<double> p99, longest, sliced, whole, slices;
  for (int run = -1; run < settings.runs; run++) {
    std::vector<double> micros;
    double total = 0;
    {
      Setup setup(executor, live);
      CollectOptions slice;
      slice.max_pause_nanos = kSliceNanos;
      for (bool done = false; !done;) {
        uint64_t begin = NowNanos();
        done = setup.own.arena->Collect(slice, setup.own.self).done;
        micros.push_back(static_cast<double>(NowNanos() - begin) / 1e3);
        total += micros.back();
      }
      CheckCalling(setup.own, setup.ids);
    }
    Setup setup(executor, live);
    uint64_t begin = NowNanos();
    while (!setup.own.arena->Collect({}, setup.own.self).done) continue;
    auto nanos = static_cast<double>(NowNanos() - begin);
    CheckCalling(setup.own, setup.ids);
    if (run < 0) continue;
    p99.push_back(Percentile(micros, 0.99));
    longest.push_back(Percentile(micros, 1));
    slices.push_back(static_cast<double>(micros.size()));
    sliced.push_back(total / 1e3);
    whole.push_back(nanos / 1e6);
  }
  Report("T6", "slices: p99", live, "us", p99);
  Report("T6", "slices: longest", live, "us", longest);
  Report("T6", "slices: number", live, "slices", slices);
  Report("T6", "slices: in all", live, "ms", sliced);
  Report("T6", "one piece", live, "ms", whole);
}

}  // namespace bench
