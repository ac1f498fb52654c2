// T15, the native half: installing and freeing executors in batches, as bench/js/installs.mjs does from JavaScript.
#include <cstdlib>

#include "programs.h"

namespace bench {

using namespace jit_arena;

void Batches(const Settings& settings) {
  constexpr uint32_t kBatch = 1000;
  int rounds = settings.Size(100, 2);
  // int f(void) { return abs(constant); }, 64 bytes and a constant, with a reloc for each of the two.
  const int32_t constant = -42;
  Assembler code;
  code.Put({0x8B, 0x3D}).Relative(TargetKind::kOwnData, 0);  // mov edi, [rip + constant]
  code.Put({0xE9}).Relative(TargetKind::kAddress, reinterpret_cast<uint64_t>(static_cast<int (*)(int)>(std::abs)),
                            true);
  code.Pad(64);
  ExecutorSpec spec = code.Spec();
  spec.bytes[1] = reinterpret_cast<const uint8_t*>(&constant);
  spec.sizes[1] = sizeof constant;
  std::vector<ExecutorSpec> specs(kBatch, spec);
  std::vector<ExecutorId> ids(kBatch);
  OwnArena own(64 << 20);
  std::vector<double> nanos;
  for (int run = -1; run < settings.runs; run++) {
    uint64_t total = 0;
    for (int round = 0; round < rounds; round++) {
      uint64_t begin = NowNanos();
      CheckOk(own.arena->Install(specs.data(), kBatch, ids.data(), own.self));
      total += NowNanos() - begin;
      BENCH_CHECK(Run(own, ids[static_cast<uint32_t>(round) % kBatch]) == 42);
      begin = NowNanos();
      CheckOk(own.arena->Free(ids.data(), kBatch, own.self));
      total += NowNanos() - begin;
    }
    if (run >= 0) nanos.push_back(static_cast<double>(total) / rounds / kBatch);
  }
  Report("T15", "native core", kBatch, "ns", nanos);
}

}  // namespace bench
