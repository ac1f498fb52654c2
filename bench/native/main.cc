// jit_arena_bench: measures the native figures, one JSON line per series. `npm run bench` runs it, makes the table and
// knows the targets (bench/rows.mjs).
//
//   jit_arena_bench [--smoke] [--runs N] [--seed N] FIGURE…     such as T1 T11; "counts" for the counting of operations
#include <cstdlib>
#include <cstring>
#include <vector>

#include "bench.h"

namespace {

struct Figure {
  const char* name;
  void (*measure)(const bench::Settings&);
};

constexpr Figure kFigures[] = {
    {"T1", bench::Churn},      {"T1-threads", bench::ChurnInThreads},
    {"T2", bench::Fill},       {"T3", bench::Fill},
    {"T4", bench::Survivors},  {"T5", bench::Compaction},
    {"T6", bench::Pauses},     {"T7", bench::Locality},
    {"T8", bench::Exits},      {"T9", bench::Mappings},
    {"T11", bench::Threads},   {"T15", bench::Batches},
    {"T19", bench::Relocs},    {"T20", bench::Frames},
    {"counts", bench::Counts},
};

}  // namespace

int main(int argc, char** argv) {
#if JIT_ARENA_DEBUG
  std::fprintf(stderr, "jit_arena_bench: a debug build checks every invariant after every call; it measures nothing\n");
  return 2;
#endif
  bench::Settings settings;
  std::vector<const Figure*> chosen;
  for (int i = 1; i < argc; i++) {
    const Figure* found = nullptr;
    for (const Figure& figure : kFigures)
      if (std::strcmp(argv[i], figure.name) == 0) found = &figure;
    if (found != nullptr) {
      chosen.push_back(found);
    } else if (std::strcmp(argv[i], "--smoke") == 0) {
      settings.smoke = true;
    } else if (std::strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      settings.runs = std::max(1, std::atoi(argv[++i]));
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      settings.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "jit_arena_bench: %s is neither an option nor a figure\n", argv[i]);
      return 2;
    }
  }
  for (size_t i = 0; i < chosen.size(); i++) {
    bool measured = false;  // T2 and T3 come from the same runs
    for (size_t j = 0; j < i; j++) measured = measured || chosen[j]->measure == chosen[i]->measure;
    if (!measured) chosen[i]->measure(settings);
  }
  return 0;
}
