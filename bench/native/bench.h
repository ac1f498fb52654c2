// What the benches share: settings, time, repeatable randomness, and one JSON line per measured series.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "os/memory.h"

namespace bench {

struct Settings {
  bool smoke = false;  // tiny sizes: shows that everything works, measures nothing
  int runs = 7;        // of each series; the first of a figure comes after a warm-up
  uint64_t seed = 1;

  template <class T>
  T Size(T full, T smoke_size) const {
    return smoke ? smoke_size : full;
  }
};

// One figure of TARGETS per function; each prints its series with Report. A wrong result ends the program
// (BENCH_CHECK).
void Churn(const Settings& settings);           // T1
void ChurnInThreads(const Settings& settings);  // T1, by two threads in one arena
void Fill(const Settings& settings);            // T2, T3
void Survivors(const Settings& settings);       // T4
void Compaction(const Settings& settings);      // T5
void Pauses(const Settings& settings);          // T6
void Locality(const Settings& settings);        // T7
void Exits(const Settings& settings);           // T8
void Mappings(const Settings& settings);        // T9
void Threads(const Settings& settings);         // T11
void Batches(const Settings& settings);         // T15, the native half
void Relocs(const Settings& settings);          // T19
void Frames(const Settings& settings);          // T20
void Counts(const Settings& settings);          // the O(1) claims of T1: system calls, instructions

// sfc64: the same everywhere, about a nanosecond a number.
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : a_(seed), b_(stream * 0x9E3779B97F4A7C15u + 1), c_(~seed) {
    for (int i = 0; i < 12; i++) U64();
  }
  uint64_t U64() {
    uint64_t result = a_ + b_ + counter_++;
    a_ = b_ ^ (b_ >> 11);
    b_ = c_ + (c_ << 3);
    c_ = ((c_ << 24) | (c_ >> 40)) + result;
    return result;
  }
  // In [0, limit).
  uint32_t Below(uint32_t limit) { return static_cast<uint32_t>(((U64() >> 32) * limit) >> 32); }
  // In (0, 1].
  double Unit() { return static_cast<double>((U64() >> 11) + 1) * 0x1p-53; }
  // From the normal distribution with mean 0 and deviation 1.
  double Normal();

  template <class T>
  void Shuffle(std::vector<T>* items) {
    for (size_t i = items->size(); i > 1; i--) std::swap((*items)[i - 1], (*items)[Below(static_cast<uint32_t>(i))]);
  }

 private:
  uint64_t a_, b_, c_, counter_ = 1;
};

using jit_arena::os::NowNanos;

// A value that the compiler must compute.
template <class T>
inline void Keep(const T& value) {
  asm volatile("" : : "r,m"(value) : "memory");
}

// A measured series: `variant` of `figure` at `size`, one value per run. Printed at once.
void Report(const char* figure, const std::string& variant, uint64_t size, const char* unit,
            const std::vector<double>& values);
// The series that could not be measured, and why.
void ReportMissing(const char* figure, const std::string& variant, uint64_t size, const char* why);

// Value at a share (0.99: the 99th percentile) of the values.
double Percentile(std::vector<double> values, double share);

// Memory that the kernel counts for this process, each page once however often it is mapped: Pss. 0: it does not say.
uint64_t ResidentBytes();
// Mappings of this process.
uint64_t MappingCount();

// Aborts with what went wrong: a bench that measures wrong results measures nothing.
[[noreturn]] void Fail(const char* file, int line, const std::string& what);
#define BENCH_CHECK(condition) ((condition) ? (void)0 : ::bench::Fail(__FILE__, __LINE__, #condition))
void CheckOk(const jit_arena::Status& status);

}  // namespace bench
