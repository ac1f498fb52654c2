// T5: compacting 20 000 executors of 500 bytes with five rel32 each, beside a loop that does nothing but copy and patch
// them: the least that a move can cost. The loop knows where everything is and goes; the collector has to plan,
// reserve, publish, retire, reclaim, poison and give pages back as well.
#include <sys/mman.h>

#include "base/bits.h"
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kStride = 512;  // 500 bytes in granules

// The loop, with memory of its own: the executors lie as they do in the arena, every second one of their places.
class HandMadeMove {
 public:
  HandMadeMove(const CallingExecutor& executor, uint32_t count)
      : count_(count), from_(kStubs + 2 * size_t{count} * kStride), to_(size_t{count} * kStride) {
    // As in the arena, the five functions are reached through a veneer each.
    for (int call = 0; call < CallingExecutor::kCalls; call++)
      arch::WriteFarSlot(from_.rw() + 16 * call, reinterpret_cast<uint64_t>(CallingExecutor::kFunctions[call]));
    for (uint32_t i = 0; i < 2 * count; i++) {
      uint8_t* at = from_.rw() + kStubs + size_t{i} * kStride;
      std::memcpy(at, executor.code().data(), CallingExecutor::kBytes);
      for (int call = 0; call < CallingExecutor::kCalls; call++) {
        uint32_t site = CallingExecutor::SiteOf(call);
        const uint8_t* end = from_.rx() + kStubs + size_t{i} * kStride + site + 4;
        StoreAs<int32_t>(at + site, static_cast<int32_t>(from_.rx() + 16 * call - end));
      }
    }
  }

  double Nanos(bool warm) {
    if (warm) {
      Keep(Touch(to_.rx()));  // both views: the executable one is not written through
      std::memset(to_.rw(), 0, size_t{count_} * kStride);
    }
    const uint8_t* from = from_.rx() + kStubs;
    uint8_t* to = to_.rw();
    uint64_t begin = NowNanos();
    for (uint32_t i = 0; i < count_; i++, from += 2 * kStride, to += kStride) {
      std::memcpy(to, from, CallingExecutor::kBytes);
      auto delta = static_cast<uint32_t>((to_.rx() + size_t{i} * kStride) - from);
      for (int call = 0; call < CallingExecutor::kCalls; call++) {
        uint8_t* site = to + CallingExecutor::SiteOf(call);
        StoreAs<uint32_t>(site, LoadAs<uint32_t>(site) - delta);
      }
    }
    uint64_t nanos = NowNanos() - begin;
    // What it made can be run, as what the arena made.
    uint64_t before = CallingExecutor::CallsCounted();
    for (uint32_t i = 0; i < count_; i++) reinterpret_cast<void (*)()>(to_.rx() + size_t{i} * kStride)();
    BENCH_CHECK(CallingExecutor::CallsCounted() - before == count_ * CallingExecutor::kCallsSum);
    // Fresh again.
    BENCH_CHECK(madvise(to_.rw(), size_t{count_} * kStride, MADV_REMOVE) == 0);
    return static_cast<double>(nanos);
  }

 private:
  static constexpr uint32_t kStubs = 4096;
  uint64_t Touch(const uint8_t* at) const {
    uint64_t sum = 0;
    for (size_t i = 0; i < size_t{count_} * kStride; i += 4096) sum += at[i];
    return sum;
  }
  uint32_t count_;
  DualMapping from_, to_;
};

}  // namespace

void Compaction(const Settings& settings) {
  uint32_t count = settings.Size(20'000u, 2'000u);
  CallingExecutor executor;
  HandMadeMove loop(executor, count);
  std::vector<double> collect, warm, fresh, moves_per_second;
  for (int run = -1; run < settings.runs; run++) {
    OwnArena own(uint64_t{count} * 4 * kStride + (16 << 20));
    std::vector<ExecutorId> ids = InstallEverySecond(own, executor, count);
    double warm_nanos = loop.Nanos(true);
    double fresh_nanos = loop.Nanos(false);
    CollectResult total;
    uint64_t begin = NowNanos();
    do {
      CollectResult result = own.arena->Collect({}, own.self);
      total.moved += result.moved;
      total.done = result.done;
    } while (!total.done);
    auto nanos = static_cast<double>(NowNanos() - begin);
    BENCH_CHECK(total.moved > count / 2);
    CheckCalling(own, ids);
    if (run < 0) continue;
    // Some lie where they end up, so that they need not move: the time is for as many moves as the loop makes.
    collect.push_back(nanos * count / static_cast<double>(total.moved) / 1e6);
    moves_per_second.push_back(static_cast<double>(total.moved) / nanos * 1e3);
    warm.push_back(warm_nanos / 1e6);
    fresh.push_back(fresh_nanos / 1e6);
  }
  Report("T5", "arena", count, "ms", collect);
  Report("T5", "arena: rate", count, "M moves/s", moves_per_second);
  Report("T5", "loop, warm pages", count, "ms", warm);
  Report("T5", "loop, fresh pages", count, "ms", fresh);
}

}  // namespace bench
