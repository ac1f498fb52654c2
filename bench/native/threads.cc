// T11: one thread executes, another compacts. How many results the first gets for a second of its own processor time,
// at several rates of moves, and beside no compaction at all.
//
// The executing thread runs chains of linked traces from random starts, each run under a pin of its own. The other one
// makes the arena worth compacting, over and over: between the traces lie larger executors in generations; when a
// generation dies, every slab has holes, and collect moves all that lives. When the last generation is gone, everything
// is installed anew. So more happens to the executing thread than the rate says, which counts moves of traces alone.
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>

#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kTraceBytes = 480;
constexpr uint32_t kSteps = 64;  // traces in one run
constexpr uint32_t kFillerBytes = 2048;
constexpr uint32_t kGenerations = 8;
constexpr uint32_t kTracesPerFiller = 8;
constexpr uint32_t kRunsPerSample = 64;
constexpr uint32_t kSamples = 1 << 14;

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53;
  return x ^ (x >> 33);
}

uint32_t Constant(uint32_t number, uint32_t which) { return static_cast<uint32_t>(Mix(number * 32ull + which)); }
uint32_t Additions(uint32_t number) { return Constant(number, 31) & 15; }
int64_t SignExtended(uint32_t value) { return static_cast<int32_t>(value); }

// rdi: hash, rsi: where its number is noted, rdx: traces left, rcx: where the last one stores the hash.
Assembler MakeTrace(uint32_t number) {
  Assembler out;
  out.exits = 2;
  out.Put({0xC7, 0x06}).Put32(number);                            // mov dword [rsi], number
  out.Put({0x48, 0x83, 0xC6, 4});                                 // add rsi, 4
  out.Put({0x48, 0x69, 0xFF}).Put32(Constant(number, 0) | 1);     // imul rdi, rdi, constant
  out.Put({0x48, 0x03, 0x3D}).Relative(TargetKind::kOwnData, 0);  // add rdi, [rip + data]
  for (uint32_t i = 0; i < Additions(number); i++) out.Put({0x48, 0x81, 0xC7}).Put32(Constant(number, 2 + i));
  out.Put({0x48, 0xFF, 0xCA, 0x74, 26});     // dec rdx; jz done
  out.Put({0x40, 0xF6, 0xC7, 1, 0x75, 10});  // test dil, 1; jnz over
  for (uint64_t exit : {0, 1}) {
    out.Put({0x4C, 0x8D, 0x1D}).Relative(TargetKind::kExit, exit);  // lea r11, [rip + record]
    out.Put({0x41, 0xFF, 0x23});                                    // jmp [r11]
  }
  out.Put({0x48, 0x89, 0x39, 0xE9}).Relative(TargetKind::kDone, 0, true);  // done: mov [rcx], rdi; jmp the done stub
  return out.Pad(kTraceBytes), out;
}

uint64_t DataOf(uint32_t number) { return Mix(number * 32ull + 1); }

uint64_t StepOf(uint64_t hash, uint32_t number) {
  hash *= static_cast<uint64_t>(SignExtended(Constant(number, 0) | 1));
  hash += DataOf(number);
  for (uint32_t i = 0; i < Additions(number); i++) hash += static_cast<uint64_t>(SignExtended(Constant(number, 2 + i)));
  return hash;
}

// One run as it was, to be checked when nobody's time is taken.
struct Sample {
  uint64_t input;
  uint64_t result;
  uint32_t log[kSteps];

  bool IsRight() const {
    uint64_t hash = input;
    for (uint32_t number : log) hash = StepOf(hash, number);
    return hash == result;
  }
};

class World {
 public:
  World(uint32_t traces, uint64_t seed)
      : own_(uint64_t{traces} * 16 * 1024 + (32 << 20)),
        random_(seed, 7),
        ids_(new std::atomic<ExecutorId>[traces]),
        traces_(traces) {
    for (uint32_t i = 0; i < traces; i++) ids_[i] = 0;
    for (uint32_t i = 0; i < 2 * traces; i++) links_.push_back(random_.Below(traces));
    Rebuild();
  }

  // Moves once, in a slice or as much as there is to move. Returns the moves of traces; adds the time of the collects
  // that moved something.
  double Move(bool slice, uint64_t* nanos) {
    CollectOptions options;
    options.max_pause_nanos = slice ? 1 : 0;  // one batch
    // While there is nothing to collect, the next generation dies.
    for (;;) {
      uint64_t begin = NowNanos();
      CollectResult result = own_.arena->Collect(options, own_.self);
      if (result.moved != 0) *nanos += NowNanos() - begin;
      if (result.moved != 0) return static_cast<double>(result.moved) * traces_ / (traces_ + fillers_.size());
      if (fillers_.empty()) Rebuild();
      FreeGeneration();
    }
  }

  Arena& arena() { return *own_.arena; }
  uint32_t traces() const { return traces_; }
  uint64_t rebuilt() const { return rebuilt_; }
  ExecutorId id(uint32_t trace) const { return ids_[trace].load(std::memory_order_relaxed); }

 private:
  void FreeGeneration() {
    std::vector<ExecutorId> dying;
    uint32_t count = std::min(static_cast<uint32_t>(fillers_.size()), FillersPerGeneration());
    dying.assign(fillers_.end() - count, fillers_.end());
    fillers_.resize(fillers_.size() - count);
    CheckOk(arena().Free(dying.data(), count, own_.self));
  }

  uint32_t FillersPerGeneration() const { return std::max(1u, traces_ / kTracesPerFiller / kGenerations); }

  // The same traces anew, with fillers between them; then the old ones die.
  void Rebuild() {
    rebuilt_++;
    std::vector<ExecutorId> old;
    for (uint32_t i = 0; i < traces_; i++)
      if (ids_[i] != 0) old.push_back(ids_[i]);
    std::vector<Assembler> code;
    std::vector<uint64_t> data;
    for (uint32_t i = 0; i < traces_; i++) code.push_back(MakeTrace(i));
    for (uint32_t i = 0; i < traces_; i++) data.push_back(DataOf(i));
    // kFiller stands for a filler.
    constexpr uint32_t kFiller = ~0u;
    std::vector<uint32_t> order;
    for (uint32_t i = 0; i < traces_; i++) order.push_back(i);
    order.insert(order.end(), size_t{FillersPerGeneration()} * kGenerations, kFiller);
    random_.Shuffle(&order);
    std::vector<ExecutorSpec> specs;
    for (uint32_t number : order) {
      ExecutorSpec spec;
      if (number == kFiller) {
        spec.sizes[0] = kFillerBytes;
      } else {
        spec = code[number].Spec();
        spec.bytes[1] = reinterpret_cast<const uint8_t*>(&data[number]);
        spec.sizes[1] = sizeof data[number];
      }
      specs.push_back(spec);
    }
    std::vector<ExecutorId> ids(specs.size());
    CheckOk(arena().Install(specs.data(), static_cast<uint32_t>(specs.size()), ids.data(), own_.self));
    std::vector<ExecutorId> of_trace(traces_);
    for (size_t i = 0; i < order.size(); i++)
      (order[i] == kFiller ? fillers_.emplace_back() : of_trace[order[i]]) = ids[i];
    for (uint32_t i = 0; i < 2 * traces_; i++) CheckOk(arena().Link(of_trace[i / 2], i % 2, of_trace[links_[i]], 0));
    for (uint32_t i = 0; i < traces_; i++) ids_[i].store(of_trace[i], std::memory_order_release);
    if (!old.empty()) CheckOk(arena().Free(old.data(), static_cast<uint32_t>(old.size()), own_.self));
  }

  OwnArena own_;
  Random random_;
  std::unique_ptr<std::atomic<ExecutorId>[]> ids_;
  uint32_t traces_;
  std::vector<uint32_t> links_;  // of exit i % 2 of trace i / 2: drawn once, so that all runs go the same ways
  std::vector<ExecutorId> fillers_;
  uint64_t rebuilt_ = 0;
};

// The executing thread.
class Executing {
 public:
  Executing(World& world, uint64_t seed) : world_(world), random_(seed, 8), samples_(kSamples) {
    thread_ = std::thread([this] { Loop(); });
  }
  ~Executing() {
    stop_.store(true);
    thread_.join();
  }

  // What it has done since it was made.
  uint64_t results() const { return results_.load(std::memory_order_relaxed); }
  double CpuSeconds() {
    clockid_t clock;
    BENCH_CHECK(pthread_getcpuclockid(thread_.native_handle(), &clock) == 0);
    timespec time;
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
  }
  // Runs that have left through an exit without a link.
  uint64_t unlinked() const { return unlinked_.load(std::memory_order_relaxed); }
  // Checks and drops what was sampled.
  uint64_t TakeWrong(uint64_t* checked) {
    pause_.store(true);
    while (!paused_.load()) usleep(10);
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < sampled_; i++) wrong += !samples_[i].IsRight();
    *checked += sampled_;
    sampled_ = 0;
    pause_.store(false);
    while (paused_.load()) usleep(10);
    return wrong;
  }

 private:
  void Loop() {
    Reclaimer& reclaimer = world_.arena().reclaimer();
    arch::CallGate gate = world_.arena().call_gate();
    PinSlot* self = reclaimer.Attach();
    Sample scratch;
    uint64_t runs = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      if (pause_.load(std::memory_order_relaxed)) {
        paused_.store(true);
        while (pause_.load()) usleep(10);
        paused_.store(false);
      }
      bool sample = runs % kRunsPerSample == 0 && sampled_ < kSamples;
      Sample& to = sample ? samples_[sampled_] : scratch;
      to.input = random_.U64();
      arch::CallFrame frame;
      frame.integers[0] = to.input;
      frame.integers[1] = reinterpret_cast<uint64_t>(to.log);
      frame.integers[2] = kSteps;
      frame.integers[3] = reinterpret_cast<uint64_t>(&to.result);
      uint64_t entry = 0;
      {
        Pinned pinned(reclaimer, *self);
        // 0: it has just been replaced by its successor.
        entry = world_.arena().EntryOf(world_.id(random_.Below(world_.traces())));
        if (entry != 0) gate(reinterpret_cast<const void*>(entry), &frame, arch::ReadFloatControl());
      }
      if (entry == 0) continue;
      // An exit that is not linked: the trace behind it has been freed, which a run can see once when all are replaced.
      if (frame.integer_result != 0) {
        unlinked_.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      sampled_ += sample;
      runs++;
      results_.store(runs * kSteps, std::memory_order_relaxed);
    }
    reclaimer.Detach(self);
  }

  World& world_;
  Random random_;
  std::vector<Sample> samples_;
  uint32_t sampled_ = 0;  // by the thread, and by others while it is paused
  std::atomic<uint64_t> results_{0}, unlinked_{0};
  std::atomic<bool> stop_{false}, pause_{false}, paused_{false};
  std::thread thread_;
};

constexpr uint64_t kUnthrottled = ~uint64_t{0};
constexpr uint64_t kMostInSlices = 200'000;  // moves per second; above, a call moves all that there is

std::string RateName(uint64_t rate) {
  return rate == kUnthrottled ? "unthrottled" : "at " + std::to_string(rate) + " moves/s";
}

void ThreadsAt(uint32_t traces, const Settings& settings) {
  const std::vector<uint64_t> rates =
      settings.smoke ? std::vector<uint64_t>{0, 50'000, 200'000, kUnthrottled}
                     : std::vector<uint64_t>{0, 25'000, 50'000, 100'000, 200'000, 400'000, 800'000, kUnthrottled};
  const uint64_t nanos = settings.Size(250'000'000ull, 10'000'000ull);
  World world(traces, settings.seed);
  std::vector<std::vector<double>> results(rates.size()), moves(rates.size());
  std::vector<double> while_collecting;  // unthrottled
  uint64_t wrong = 0, checked = 0;
  {
    Executing executing(world, settings.seed);
    for (int run = -1; run < settings.runs; run++) {
      for (size_t i = 0; i < rates.size(); i++) {
        double moved = 0;
        uint64_t collecting = 0;
        world.Move(false, &collecting);  // every rate, and none, begins with a packed arena
        collecting = 0;
        uint64_t begin = NowNanos();
        double cpu = executing.CpuSeconds();
        uint64_t done = executing.results();
        // Where the executing thread has to wait for a processor, it takes longer.
        auto over = [&](uint64_t now) {
          return now - begin >= nanos && (executing.CpuSeconds() - cpu) * 4e9 >= static_cast<double>(nanos);
        };
        for (uint64_t now = begin; !over(now); now = NowNanos()) {
          double allowed = rates[i] == kUnthrottled
                               ? moved + 1
                               : static_cast<double>(rates[i]) * static_cast<double>(now - begin) / 1e9;
          if (moved >= allowed) {
            usleep(50);
            continue;
          }
          moved += world.Move(rates[i] <= kMostInSlices, &collecting);
        }
        double seconds = static_cast<double>(NowNanos() - begin) / 1e9;
        double per_second = static_cast<double>(executing.results() - done) / (executing.CpuSeconds() - cpu);
        wrong += executing.TakeWrong(&checked);
        if (run < 0) continue;
        results[i].push_back(per_second / 1e6);
        moves[i].push_back(moved / seconds / 1e6);
        if (rates[i] == kUnthrottled) while_collecting.push_back(moved / static_cast<double>(collecting) * 1e3);
      }
    }
    if (executing.unlinked() > world.rebuilt()) wrong += executing.unlinked() - world.rebuilt();
  }
  BENCH_CHECK(checked > 0);
  BENCH_CHECK(world.arena().CheckInvariants().empty());
  for (size_t i = 0; i < rates.size(); i++) {
    Report("T11", RateName(rates[i]), traces, "M results/s", results[i]);
    Report("T11", "moves " + RateName(rates[i]), traces, "M moves/s", moves[i]);
  }
  Report("T11", "moves while collecting", traces, "M moves/s", while_collecting);
  Report("T11", "wrong results", traces, "wrong", {static_cast<double>(wrong)});
  Report("T11", "results checked", traces, "runs", {static_cast<double>(checked)});
}

}  // namespace

void Threads(const Settings& settings) {
  for (uint32_t traces : {300u, 4'000u}) ThreadsAt(traces, settings);
}

}  // namespace bench
