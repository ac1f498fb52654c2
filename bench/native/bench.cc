#include "bench.h"

#include <cinttypes>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace bench {

double Random::Normal() { return std::sqrt(-2 * std::log(Unit())) * std::cos(2 * M_PI * Unit()); }

void Report(const char* figure, const std::string& variant, uint64_t size, const char* unit,
            const std::vector<double>& values) {
  std::printf("{\"figure\":\"%s\",\"variant\":\"%s\",\"size\":%" PRIu64 ",\"unit\":\"%s\",\"values\":[", figure,
              variant.c_str(), size, unit);
  for (double value : values) BENCH_CHECK(std::isfinite(value));
  for (size_t i = 0; i < values.size(); i++) std::printf("%s%.9g", i == 0 ? "" : ",", values[i]);
  std::printf("]}\n");
  std::fflush(stdout);
}

void ReportMissing(const char* figure, const std::string& variant, uint64_t size, const char* why) {
  std::printf("{\"figure\":\"%s\",\"variant\":\"%s\",\"size\":%" PRIu64 ",\"missing\":\"%s\"}\n", figure,
              variant.c_str(), size, why);
  std::fflush(stdout);
}

double Percentile(std::vector<double> values, double share) {
  BENCH_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

uint64_t ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/smaps_rollup", "r");
  if (file == nullptr) return 0;
  char line[256];
  uint64_t kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr)
    if (std::strncmp(line, "Pss:", 4) == 0) kib = std::strtoull(line + 4, nullptr, 10);
  std::fclose(file);
  return kib * 1024;
}

uint64_t MappingCount() {
  std::FILE* file = std::fopen("/proc/self/maps", "r");
  BENCH_CHECK(file != nullptr);
  uint64_t lines = 0;
  for (int c; (c = std::fgetc(file)) != EOF;) lines += c == '\n';
  std::fclose(file);
  return lines;
}

void Fail(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  std::_Exit(1);
}

void CheckOk(const jit_arena::Status& status) {
  if (!status.ok()) Fail("an arena", 0, jit_arena::ErrorCodeName(status.code()) + (": " + status.error().message));
}

}  // namespace bench
