// T7: what scattering costs the code that runs. 1 000 to 200 000 functions of 400 bytes jump to each other in random
// order: packed, as the survivors of ten times as many, after a collect (also in the order of links, and with huge
// pages), and on a page each.
#include <sys/mman.h>

#include "base/bits.h"
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kFunctionBytes = 400;

// One function: adds its number to rsi, counts rdi down, and goes on to the next or, at 0, stores rsi where rdx points.
enum class Way { kDirect, kLinked };

Assembler MakeFunction(uint32_t number, Way way) {
  Assembler out;
  out.Put({0x48, 0x81, 0xC6}).Put32(number);  // add rsi, number
  out.Put({0x48, 0xFF, 0xCF});                // dec rdi
  if (way == Way::kDirect) {
    out.Put({0x74, 5, 0xE9});  // jz done; jmp next
    out.Relative(TargetKind::kBatchMember, number, true);
  } else {
    out.exits = 1;
    out.Put({0x74, 10, 0x4C, 0x8D, 0x1D});  // jz done; lea r11, [rip + record]
    out.Relative(TargetKind::kExit, 0);
    out.Put({0x41, 0xFF, 0x23});  // jmp [r11]
  }
  out.Put({0x48, 0x89, 0x32, 0xE9});  // done: mov [rdx], rsi; jmp the done stub
  out.Relative(TargetKind::kDone, 0, true);
  return out.Pad(kFunctionBytes), out;
}

// Functions in an arena, `count` of which stay: chained in random order, the others between them.
class Functions {
 public:
  Functions(uint32_t count, uint32_t deaths, Way way, uint64_t seed, bool huge_pages = false)
      : count_(count), own_((uint64_t{count} * (deaths + 1) * 512) + (64 << 20), huge_pages) {
    Random random(seed, 4);
    std::vector<uint32_t> places(uint64_t{count} * (deaths + 1));
    for (uint32_t i = 0; i < places.size(); i++) places[i] = i;
    random.Shuffle(&places);
    places.resize(count);
    // places[k] jumps to places[k + 1]; those that are to die jump to themselves.
    std::vector<uint32_t> next(uint64_t{count} * (deaths + 1));
    for (uint32_t i = 0; i < next.size(); i++) next[i] = i;
    for (uint32_t k = 0; k < count; k++) next[places[k]] = places[(k + 1) % count];
    std::vector<Assembler> functions;
    std::vector<ExecutorSpec> specs;
    for (uint32_t i = 0; i < next.size(); i++) {
      functions.push_back(MakeFunction(i, way));
      if (way == Way::kDirect) functions.back().relocs[0].target = next[i];
    }
    for (const Assembler& function : functions) specs.push_back(function.Spec());
    std::vector<ExecutorId> ids(specs.size());
    CheckOk(own_.arena->Install(specs.data(), static_cast<uint32_t>(specs.size()), ids.data(), own_.self));
    std::vector<bool> stays(ids.size());
    for (uint32_t place : places) stays[place] = true;
    std::vector<ExecutorId> dying;
    for (uint32_t i = 0; i < ids.size(); i++)
      if (!stays[i]) dying.push_back(ids[i]);
    if (!dying.empty()) CheckOk(own_.arena->Free(dying.data(), static_cast<uint32_t>(dying.size()), own_.self));
    if (way == Way::kLinked)
      for (uint32_t place : places) CheckOk(own_.arena->Link(ids[place], 0, ids[next[place]], 0));
    first_ = ids[places[0]];
    for (uint32_t place : places) sum_ += place;
  }

  void Collect(bool follow_links = false) {
    CollectOptions options;
    options.follow_links = follow_links;
    while (!own_.arena->Collect(options, own_.self).done) continue;
    BENCH_CHECK(own_.arena->CheckInvariants().empty());
  }

  // Nanoseconds for each function, on `laps` rounds.
  double Nanos(uint32_t laps) {
    uint64_t sum = 0;
    uint64_t begin = NowNanos();
    Run(own_, first_, {uint64_t{laps} * count_, 0, reinterpret_cast<uint64_t>(&sum)});
    uint64_t nanos = NowNanos() - begin;
    BENCH_CHECK(sum == laps * sum_);
    return static_cast<double>(nanos) / (static_cast<double>(laps) * count_);
  }

 private:
  uint32_t count_;
  OwnArena own_;
  ExecutorId first_ = 0;
  uint64_t sum_ = 0;
};

// The same with a page each, mapped by hand.
class PageEach {
 public:
  PageEach(uint32_t count, uint64_t seed) : count_(count), bytes_(size_t{count} * 4096) {
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    BENCH_CHECK(at != MAP_FAILED);
    at_ = static_cast<uint8_t*>(at);
    Random random(seed, 4);
    std::vector<uint32_t> order(count);
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    random.Shuffle(&order);
    first_ = order[0];
    for (uint32_t k = 0; k < count; k++) {
      uint8_t* function = at_ + size_t{order[k]} * 4096;
      Assembler code = MakeFunction(order[k], Way::kDirect);
      std::memcpy(function, code.code.data(), code.code.size());
      uint32_t site = code.relocs[0].offset;
      const uint8_t* next = at_ + size_t{order[(k + 1) % count]} * 4096;
      StoreAs<int32_t>(function + site, static_cast<int32_t>(next - (function + site + 4)));
      function[code.relocs[1].offset - 1] = 0xC3;  // ret instead of a jump to the done stub
      sum_ += order[k];
    }
    BENCH_CHECK(mprotect(at_, bytes_, PROT_READ | PROT_EXEC) == 0);
  }
  ~PageEach() { munmap(at_, bytes_); }

  double Nanos(uint32_t laps) {
    uint64_t sum = 0;
    auto* function = reinterpret_cast<void (*)(uint64_t, uint64_t, uint64_t*)>(at_ + size_t{first_} * 4096);
    uint64_t begin = NowNanos();
    function(uint64_t{laps} * count_, 0, &sum);
    uint64_t nanos = NowNanos() - begin;
    BENCH_CHECK(sum == laps * sum_);
    return static_cast<double>(nanos) / (static_cast<double>(laps) * count_);
  }

 private:
  uint32_t count_;
  size_t bytes_;
  uint8_t* at_;
  uint32_t first_;
  uint64_t sum_ = 0;
};

void LocalityOf(uint32_t count, const Settings& settings) {
  // What is to move is ten times as much, but for the largest, which would take gigabytes.
  const uint32_t deaths = count > 50'000 ? 1 : 9;
  const uint32_t laps = std::max(2u, settings.Size(1'000'000u, 1'000u) / count);
  for (Way way : {Way::kDirect, Way::kLinked}) {
    std::string name = way == Way::kDirect ? "direct jumps: " : "linked exits: ";
    Functions dense(count, 0, way, settings.seed);
    Functions survivors(count, deaths, way, settings.seed);
    Functions collected(count, deaths, way, settings.seed);
    Functions huge(count, deaths, way, settings.seed, true);
    Functions in_order(count, deaths, way, settings.seed);
    collected.Collect();
    huge.Collect();
    in_order.Collect(true);
    const std::pair<const char*, Functions&> variants[] = {{"dense", dense},
                                                           {"survivors", survivors},
                                                           {"collected", collected},
                                                           {"huge pages", huge},
                                                           {"order links", in_order}};
    std::vector<double> nanos[std::size(variants)];
    for (int run = -1; run < settings.runs; run++) {
      for (size_t i = 0; i < std::size(variants); i++) {
        double measured = variants[i].second.Nanos(laps);
        if (run >= 0) nanos[i].push_back(measured);
      }
    }
    for (size_t i = 0; i < std::size(variants); i++) Report("T7", name + variants[i].first, count, "ns", nanos[i]);
  }
  PageEach pages(count, settings.seed);
  std::vector<double> nanos;
  for (int run = -1; run < settings.runs; run++) {
    double measured = pages.Nanos(laps);
    if (run >= 0) nanos.push_back(measured);
  }
  Report("T7", "direct jumps: page per trace", count, "ns", nanos);
}

}  // namespace

void Locality(const Settings& settings) {
  const std::vector<uint32_t> counts =
      settings.smoke ? std::vector<uint32_t>{100, 500} : std::vector<uint32_t>{1'000, 10'000, 50'000, 200'000};
  for (uint32_t count : counts) LocalityOf(count, settings);
}

}  // namespace bench
