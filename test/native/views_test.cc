// Where the writable view of executable memory lies: nobody can work it out from where the code is, nor from another
// view, in any process.
#include "os/memory.h"
#include "test.h"

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "base/bits.h"
#include "os/linux_memory.h"

using namespace jit_arena;
using namespace jit_arena::os;

namespace {

constexpr size_t kSlabs = 3, kSlab = 256 * kKiB;
constexpr char kChild[] = "JIT_ARENA_VIEWS_OF";

struct Place {
  uint64_t code, view;
};

Result<std::unique_ptr<Memory>> Open(const char* source) {
  return OpenAliasFrom(source[0] == 'm' ? AliasSource::kMemfd : AliasSource::kAnonymous, Trial::kQuick);
}

// This program again as a child: prints where it got its memory, and ends.
[[maybe_unused]] const bool child = [] {
  const char* source = std::getenv(kChild);
  if (source == nullptr) return false;
  Result<std::unique_ptr<Memory>> memory = Open(source);
  if (!memory.ok()) _exit(1);
  uint8_t* base = memory.value()->Reserve(kSlabs * kSlab).value();
  for (size_t i = 0; i < kSlabs; i++) {
    uint8_t* at = base + i * kSlab;
    Result<uint8_t*> view = memory.value()->Commit(i == 1 ? Access::kData : Access::kCode, at, kSlab);
    if (!view.ok()) _exit(2);
    std::printf("%llx %llx\n", Wide(reinterpret_cast<uint64_t>(at)), Wide(reinterpret_cast<uint64_t>(view.value())));
  }
  std::fflush(stdout);
  _exit(0);
}();

std::vector<Place> PlacesInChild(const char* source) {
  std::FILE* out =
      popen((std::string(kChild) + "=" + source + " exec /proc/" + std::to_string(getpid()) + "/exe").c_str(), "r");
  std::vector<Place> places;
  unsigned long long code, view;
  while (out != nullptr && std::fscanf(out, "%llx %llx", &code, &view) == 2) places.push_back({code, view});
  CHECK(out != nullptr && pclose(out) == 0);
  return places;
}

// That `numbers` have at least `bits` random bits above the page: each bit is set about as often as not, and hardly any
// upper half comes twice.
void CheckRandom(const std::vector<uint64_t>& numbers, int bits, const char* what) {
  double count = static_cast<double>(numbers.size());
  for (int bit = 12; bit < 12 + bits; bit++) {
    auto set = [&](uint64_t number) { return (number >> bit & 1) != 0; };
    double share = static_cast<double>(std::count_if(numbers.begin(), numbers.end(), set)) / count;
    // Six standard deviations.
    if (std::abs(share - 0.5) > 3 / std::sqrt(count))
      test::Fail(__FILE__, __LINE__, Format("bit %d of %s is set in %.3f of all", bit, what, share));
  }
  std::map<uint64_t, int> seen;
  int twice = 0;
  for (uint64_t number : numbers) twice += seen[number >> 12 & ((uint64_t{1} << bits) - 1)]++ != 0;
  CHECK(twice <= 1);
}

}  // namespace

TEST(views_of_a_thousand_processes_are_nowhere_to_be_guessed) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return;  // a thread sanitizer takes no hints, and starting a process takes long
#endif
  for (const char* source : {"anonymous", "memfd"}) {
    if (!Open(source).ok()) {
      CHECK(source[0] == 'm');  // some systems have no executable memfd
      continue;
    }
    constexpr int kProcesses = 500;  // of each source
    std::vector<uint64_t> views, from_code, from_other_view;
    for (int i = 0; i < kProcesses; i++) {
      std::vector<Place> places = PlacesInChild(source);
      CHECK_EQ(places.size(), kSlabs);
      if (places.size() != kSlabs) return;
      for (const Place& place : places) {
        uint64_t distance = place.view - place.code;
        CHECK(std::min(distance, ~distance) >= uint64_t{1} << 32);
        CHECK_EQ(place.view % PageBytes(), 0);
      }
      views.push_back(places[0].view);
      from_code.push_back(places[0].view - places[0].code);
      from_other_view.push_back(places[2].view - places[0].view);
    }
    CheckRandom(views, 28, "a view's address");
    CheckRandom(from_code, 28, "a view's distance from its code");
    CheckRandom(from_other_view, 28, "a view's distance from another view");
  }
}
#else
TEST(views_are_those_of_linux) {}
#endif
