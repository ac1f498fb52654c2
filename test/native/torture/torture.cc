// The torture: threads call, run, and loop through chains of executors while others install, link, replace, invalidate,
// free, evict and compact them as fast as they can. docs/torture.md describes it, and the mistakes that it has found.
//
//   torture --seconds 600 --seed 7                        all set-ups, one after the other
//   torture --seconds 60 --executors 8 --slices           one: see Usage
//
// Exit status 0: nothing was torn, stale, half moved or lost. The first failure ends it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>

#include "base/bits.h"
#include "torture/host.h"
#include "torture/program.h"

namespace torture {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kUsage =
    "torture [--seconds N] [--seed N] and, for one set-up instead of all:\n"
    "  --executors N       about so many live at a time (4000)\n"
    "  --slices            collect in the smallest slices; otherwise everything at once\n"
    "  --writer NAME       alias, procmem or flip (alias)\n"
    "  --apart             data in slabs of its own\n"
    "  --without-barrier   as on a kernel without membarrier\n"
    "  --retired-limit N   bytes that may wait for pins (a quarter of the arena)\n"
    "  --runners N         threads that run and call (3)\n";

struct SetUp {
  uint32_t executors = 4000;
  bool slices = false;
  ja_writer writer = JA_WRITER_ALIAS;
  bool apart = false;
  bool without_barrier = false;
  uint64_t retired_limit = 0;
  uint32_t runners = 3;
};

const char* const kWriterNames[] = {"auto", "alias", "procmem", "flip"};

std::string Describe(const SetUp& set_up) {
  std::string text = "--executors " + std::to_string(set_up.executors);
  if (set_up.slices) text += " --slices";
  text += std::string(" --writer ") + kWriterNames[set_up.writer];
  if (set_up.apart) text += " --apart";
  if (set_up.without_barrier) text += " --without-barrier";
  if (set_up.retired_limit != 0) text += " --retired-limit " + std::to_string(set_up.retired_limit);
  return text + " --runners " + std::to_string(set_up.runners);
}

// ---- Failing

char how_to_repeat[256];

[[noreturn]] void Fail(const char* format, ...) {
  // One failure is enough, and others often follow from it.
  static std::atomic_flag failing = ATOMIC_FLAG_INIT;
  while (failing.test_and_set()) pause();
  std::va_list arguments;
  va_start(arguments, format);
  std::printf("FAILED: ");
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n  torture %s\n", how_to_repeat);
  std::fflush(stdout);
  _exit(1);
}

const Host* host_of_signals = nullptr;

// Code that is stale or half written traps, or goes anywhere.
void OnSignal(int number, siginfo_t* info, void*) {
  auto address = reinterpret_cast<uint64_t>(info->si_addr);
  bool inside = host_of_signals != nullptr && host_of_signals->Contains(address);
  char text[400];
  int length = std::snprintf(text, sizeof text, "FAILED: signal %d at %#llx%s\n  torture %s\n", number,
                             static_cast<unsigned long long>(address), inside ? ", in the arena" : "", how_to_repeat);
  if (write(STDOUT_FILENO, text, static_cast<size_t>(length)) < 0) _exit(2);
  _exit(1);
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_sigaction = OnSignal;
  action.sa_flags = SA_SIGINFO;
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE}) sigaction(number, &action, nullptr);
}

// ---- What the threads share

// When each executor's death was complete, in steps of `time_of_deaths`; found by its life. A run that begins later
// must not meet it.
class Deaths {
 public:
  Deaths() : died_(new std::atomic<uint64_t>[kLives]) {
    for (uint64_t i = 0; i < kLives; i++) died_[i].store(kAlive, std::memory_order_relaxed);
  }
  uint64_t now() const { return now_.load(std::memory_order_acquire); }
  void Birth(uint64_t key) { At(key).store(kAlive, std::memory_order_relaxed); }
  void Death(uint64_t key) { At(key).store(now_.fetch_add(1) + 1, std::memory_order_relaxed); }
  bool DiedBefore(uint64_t key, uint64_t when) { return At(key).load(std::memory_order_relaxed) <= when; }

 private:
  static constexpr uint64_t kLives = 1 << 22;  // lives so far apart share a place
  static constexpr uint64_t kAlive = ~uint64_t{0};
  std::atomic<uint64_t>& At(uint64_t key) {
    uint64_t serial = LifeOf(key) >> (kMemberBits + kFamilyBits);
    return died_[(serial << kMemberBits | MemberOf(key)) & (kLives - 1)];
  }
  std::unique_ptr<std::atomic<uint64_t>[]> died_;
  std::atomic<uint64_t> now_{0};
};

// Who lives in a place, for those who want to execute or link it; 0: nobody.
class Slot {
 public:
  void Publish(ja_executor id, bool function) {
    value_.store(id | (function ? kIsFunction : 0), std::memory_order_release);
  }
  void Withdraw(ja_executor id) {
    uint64_t value = value_.load(std::memory_order_relaxed);
    if ((value & ~kIsFunction) == id) value_.compare_exchange_strong(value, 0);
  }
  ja_executor Look(bool* function = nullptr) const {
    uint64_t value = value_.load(std::memory_order_acquire);
    if (function != nullptr) *function = (value & kIsFunction) != 0;
    return value & ~kIsFunction;
  }

 private:
  static constexpr uint64_t kIsFunction = uint64_t{1} << 63;
  std::atomic<uint64_t> value_{0};
};

struct Figures {
  std::atomic<uint64_t> runs{0}, calls{0}, stale{0}, exits{0}, dead_exits{0}, installs{0}, deaths{0}, links{0},
      collects{0}, moved{0}, evicted{0}, checks{0}, naps{0}, largest_retired{0}, limited{0};
};

class Torture;

// What a thread that executes knows: its pin, and how often it has executed what.
struct Executing {
  Executing(Torture& torture, uint64_t seed);

  // The thread that executes, between these: its pin belongs to it.
  void Attach() { thread = host.Attach(); }
  void Detach() { host.Detach(thread); }

  // One run or call of whoever lives in the slot, checked. `fuel` bounds the traces of a run. False: nobody does.
  bool Execute(uint32_t slot, uint32_t fuel);

  Torture& torture;
  Host& host;
  ja_thread* thread = nullptr;
  Random random;
  std::function<void()> inside;  // what the next call of Outside does, once
  uint32_t depth = 0;            // runs under way, one inside the other
  struct Count {
    uint64_t life = 0;
    uint64_t executed = 0;
  };
  std::vector<Count> counts;  // by slot, of its youngest life that this thread has met
  std::vector<uint64_t> ledger;

 private:
  void Check(uint64_t key_slot, const Context& context, uint64_t began, uint32_t fuel, const uint64_t* log,
             const ja_taken& taken, uint64_t since);
  void CountExecution(uint64_t key);
  std::vector<uint64_t> logs_[2];
};

constexpr uint32_t kLedgers = 8;
constexpr uint32_t kMaxFuel = 4096;

struct Family {
  uint64_t serial = 0;
  std::vector<uint64_t> keys;
  std::vector<ja_executor> ids;  // 0: evicted
};

class Torture {
 public:
  Torture(const SetUp& set_up, uint64_t seed);
  void Run(seconds duration);

  bool stopping() const { return stop_.load(std::memory_order_relaxed); }
  // For a while now and then, threads are outside most of the time and come in for a moment: the gate closes often, and
  // often somebody is about to enter.
  bool dipping() const { return (Clock::now() - began_) % milliseconds(400) > milliseconds(300); }
  // Every thread says now and then that it is alive.
  void Beat(int place) { beats_[place].fetch_add(1, std::memory_order_relaxed); }

  SetUp set_up;
  uint64_t seed;
  Host host;
  Deaths deaths;
  uint32_t family_count;
  std::vector<Slot> slots;
  Figures figures;
  ja_executor ledgers[kLedgers];
  uint32_t RandomSlot(Random& random) const { return random(static_cast<uint32_t>(slots.size())); }

 private:
  // What one thread of the host's changes: its own families, and fillers that keep the survivors apart.
  struct Mutator {
    Mutator(Torture& torture, uint32_t number, uint64_t seed)
        : torture(torture), host(torture.host), executing(torture, seed), number(number) {}
    void Loop(int place);
    void Build(uint32_t family);
    void Replace(uint32_t family);
    void Kill(Family* family);
    void KillInside(uint32_t family);
    void LinkSome(uint32_t family);
    void UnlinkSome(uint32_t family);
    void ChurnFillers();
    void AwaitEvicted(Family* family);
    Torture& torture;
    Host& host;
    Executing executing;
    uint32_t number;
    std::vector<ja_executor> fillers;
  };

  void RunnerLoop(int place, Executing& executing);
  void SleeperLoop(int place, Executing& executing);
  void CompactorLoop(int place);
  void CheckerLoop(int place);
  void RunThreads(const std::vector<std::function<void(int)>>& loops, Clock::time_point end);
  void CheckCounters(const std::vector<const Executing*>& all);
  ja_status Install(const std::vector<Program>& programs, ja_executor* ids, Random& random);
  // A host's link; either side may have been evicted.
  void Link(ja_executor source, uint32_t exit, ja_executor target, uint32_t entry);

  static constexpr uint32_t kMutators = 2;
  std::vector<Family> families_;
  std::atomic<uint64_t> serial_{0};
  std::mutex evicted_lock_;
  std::unordered_set<ja_executor> evicted_;
  std::atomic<bool> stop_{false};
  const Clock::time_point began_ = Clock::now();
  std::atomic<uint64_t> beats_[16] = {};
  friend struct Executing;
};

// ---- Executing

Executing::Executing(Torture& torture, uint64_t seed)
    : torture(torture), host(torture.host), random{seed}, counts(torture.slots.size()), ledger(kLedgers) {
  for (std::vector<uint64_t>& log : logs_) log.resize(2 * kMaxFuel + 2);
}

void Executing::CountExecution(uint64_t key) {
  ledger[FamilyOf(key) % kLedgers]++;
  Count& count = counts[SlotOf(key)];
  uint64_t life = LifeOf(key);
  if (life < count.life) return;  // its counter went with it
  if (life > count.life) count = {life, 0};
  count.executed++;
}

bool Executing::Execute(uint32_t slot, uint32_t fuel) {
  bool function;
  ja_executor id = torture.slots[slot].Look(&function);
  if (id == 0) return false;
  uint64_t* log = logs_[depth].data();
  Context context;
  uint64_t began = context.sum = random.state;
  context.fuel = fuel;
  context.log = log;
  context.runner = this;
  ja_taken taken{0, 0, 0};
  uint64_t since = torture.deaths.now();
  // Nothing that takes the arena's lock while dipping: who waits for it under a pin keeps the gate from closing, and
  // who waits outside does not come in.
  bool dipping = torture.dipping();
  bool second_entry = !dipping && random(4) == 0;
  bool outer = !dipping && random(2) == 0;  // a pin around it, for the questions below
  if (outer) host.Enter(thread);
  depth++;
  bool ran =
      function ? host.Call(thread, id, &context, &context.sum) : host.Run(thread, id, second_entry, &context, &taken);
  depth--;
  if (ran && outer && taken.executor != 0 && random(8) == 0) {
    const uint64_t* last = context.log - 1;
    while (last >= log && (*last & kFunction) != 0) last--;
    uint32_t tag = 0;
    ja_status failed = host.ExitTag(taken.executor, taken.exit, &tag);
    if (failed != JA_OK) Fail("the exit of a run has no tag under its pin: %s", ja_last_error()->message);
    if (taken.exit != kDeadExit && (last < log || tag != ExitTagOf(*last, taken.exit)))
      Fail("exit %u of executor %llu has another executor's tag", taken.exit,
           static_cast<unsigned long long>(taken.executor));
  }
  if (outer) host.Leave(thread);
  if (!ran) {
    torture.figures.stale.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  Check(slot, context, began, fuel, log, taken, since);
  return true;
}

void Executing::Check(uint64_t slot, const Context& context, uint64_t began, uint32_t fuel, const uint64_t* log,
                      const ja_taken& taken, uint64_t since) {
  uint64_t sum = began;
  uint64_t last_trace = 0;
  uint32_t traces = 0;
  for (const uint64_t* at = log; at != context.log; at++) {
    uint64_t key = *at;
    auto where = [&] { return static_cast<int>(at - log); };
    auto life = [&] { return static_cast<unsigned long long>(LifeOf(key)); };
    if (SlotOf(key) >= torture.slots.size()) Fail("a run logged %#llx at %d: no executor's key", life(), where());
    // Whoever was executed was published before; see the slot's store.
    torture.slots[SlotOf(key)].Look();
    if (at == log && SlotOf(key) != slot) Fail("the run began with executor %llx, not with its own", life());
    if (torture.deaths.DiedBefore(key, since))
      Fail("stale: executor %llx was executed at step %d of a run that began after its death", life(), where());
    CountExecution(key);
    sum = Step(sum, key);
    if ((key & kFunction) == 0) {
      traces++;
      last_trace = key;
    }
    // What it leads to directly is of its own family and life.
    uint64_t next = at + 1 != context.log ? at[1] : 0;
    bool same = next != 0 && LifeOf(next ^ key) >> (kMemberBits + kFamilyBits) == 0 && FamilyOf(next) == FamilyOf(key);
    if ((key & kCalls) != 0 && (!same || (next & kFunction) == 0))
      Fail("executor %llx called %llx and not its own function", life(), static_cast<unsigned long long>(next));
    uint64_t jumped = (key & kFunction) != 0 ? last_trace : (key & kCalls) != 0 ? 0 : key;
    if ((jumped & kJumps) != 0 && traces < fuel && taken.exit != kDeadExit &&
        (!same || MemberOf(next) != MemberOf(jumped) + 1))
      Fail("executor %llx jumped to %llx and not to the next of its family", life(),
           static_cast<unsigned long long>(next));
  }
  if (sum != context.sum)
    Fail("a run of %d executors from slot %u computed %#llx and should have computed %#llx",
         static_cast<int>(context.log - log), static_cast<unsigned>(slot), static_cast<unsigned long long>(context.sum),
         static_cast<unsigned long long>(sum));
  if (context.log - log == 1 && (*log & kFunction) != 0) {
    torture.figures.calls.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  torture.figures.runs.fetch_add(1, std::memory_order_relaxed);
  if (traces == fuel) {
    if (taken.executor != 0) Fail("a run that was done took exit %u", taken.exit);
    return;
  }
  torture.figures.exits.fetch_add(1, std::memory_order_relaxed);
  if (taken.executor == 0) Fail("a run was done after %u traces of %u", traces, fuel);
  if (taken.exit == kDeadExit) {
    torture.figures.dead_exits.fetch_add(1, std::memory_order_relaxed);
    host.Enter(thread);
    if (!host.IsStale(thread, taken.executor)) Fail("a live executor took itself for invalidated");
    host.Leave(thread);
  } else if (taken.exit != (sum & 1) || (last_trace & kJumps) != 0) {
    Fail("executor %llx cannot have taken exit %u", static_cast<unsigned long long>(LifeOf(last_trace)), taken.exit);
  }
}

// ---- The host's threads

Torture::Torture(const SetUp& set_up, uint64_t seed)
    : set_up(set_up),
      seed(seed),
      host({96 * jit_arena::kMiB, set_up.retired_limit, set_up.writer, set_up.apart, set_up.without_barrier}),
      family_count(std::max(2u, set_up.executors / 2)),
      slots(family_count * kMaxMembers),
      families_(family_count) {
  for (ja_executor& ledger : ledgers)
    if (host.Install({Program::Ledger()}, &ledger) != JA_OK) Fail("no ledger");
}

ja_status Torture::Install(const std::vector<Program>& programs, ja_executor* ids, Random& random) {
  for (;;) {
    ja_status code =
        programs.size() == 1 && random(2) == 0 ? host.AllocateAndFreeze(programs, ids) : host.Install(programs, ids);
    // It can be full, a thread may sleep with much retired behind it, and where writing needs the gate also before it.
    bool later = code == JA_ERR_FULL || code == JA_ERR_RETIRED_LIMIT || code == JA_ERR_BUSY;
    if (code == JA_OK || (later && stopping())) return code;
    if (!later) Fail("an install failed: %s", ja_last_error()->message);
    figures.limited.fetch_add(1, std::memory_order_relaxed);
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void Torture::Link(ja_executor source, uint32_t exit, ja_executor target, uint32_t entry) {
  if (source == 0 || target == 0) return;
  ja_status code = host.Link(source, exit, target, entry);
  // The target may be a function, which no exit can lead to.
  if (code != JA_OK && code != JA_ERR_STALE_EXECUTOR && code != JA_ERR_TRACE_ABI)
    Fail("a link failed: %s", ja_last_error()->message);
  figures.links.fetch_add(code == JA_OK, std::memory_order_relaxed);
}

void Torture::Mutator::Build(uint32_t number) {
  Family& family = torture.families_[number];
  Random& random = executing.random;
  uint64_t serial = torture.serial_.fetch_add(1) + 1;
  constexpr uint64_t kKinds[][kMaxMembers + 1] = {{0},
                                                  {0},
                                                  {kJumps, 0},
                                                  {kFunction, kCalls},
                                                  {kFunction, kCalls | kJumps, kCalls},
                                                  {kFunction, kCalls | kJumps, kJumps, kCalls}};
  constexpr uint32_t kMembers[] = {1, 1, 2, 2, 3, 4};
  uint32_t kind = random(6);
  std::vector<Program> programs;
  std::vector<uint64_t> keys;
  for (uint32_t member = 0; member < kMembers[kind]; member++) {
    keys.push_back(MakeKey(serial, number, member, kKinds[kind][member]));
    programs.push_back(
        Program::Of(keys.back(), static_cast<CallKind>(random(kCallKinds)), torture.ledgers[number % kLedgers]));
    torture.deaths.Birth(keys.back());
  }
  std::vector<ja_executor> ids(keys.size());
  if (torture.Install(programs, ids.data(), random) != JA_OK) return;
  family = {serial, keys, ids};
  torture.figures.installs.fetch_add(ids.size(), std::memory_order_relaxed);
  // Published before anything is linked to it, so that who executes it finds that it was.
  for (uint32_t member = 0; member < ids.size(); member++)
    torture.slots[number * kMaxMembers + member].Publish(ids[member], (keys[member] & kFunction) != 0);
  LinkSome(number);
}

void Torture::Mutator::LinkSome(uint32_t number) {
  Family& family = torture.families_[number];
  Random& random = executing.random;
  for (uint32_t member = 0; member < family.ids.size(); member++)
    for (uint32_t exit = 0; exit < 2; exit++)
      if ((family.keys[member] & kFunction) == 0 && random(10) != 0)
        torture.Link(family.ids[member], exit, torture.slots[torture.RandomSlot(random)].Look(), random(2));
}

void Torture::Mutator::UnlinkSome(uint32_t number) {
  Family& family = torture.families_[number];
  for (uint32_t member = 0; member < family.ids.size(); member++) {
    if ((family.keys[member] & kFunction) != 0 || family.ids[member] == 0) continue;
    ja_status code = host.Unlink(family.ids[member], executing.random(2));
    if (code != JA_OK && code != JA_ERR_STALE_EXECUTOR) Fail("unlink failed: %s", ja_last_error()->message);
  }
}

// Some of them are stale: the collector must have evicted them, and says so when its call returns.
void Torture::Mutator::AwaitEvicted(Family* family) {
  auto give_up = Clock::now() + seconds(20);
  for (;;) {
    bool found = false;
    {
      std::lock_guard guard(torture.evicted_lock_);
      for (uint32_t member = 0; member < family->ids.size(); member++) {
        if (torture.evicted_.erase(family->ids[member]) == 0) continue;
        family->ids[member] = 0;
        torture.deaths.Death(family->keys[member]);
        found = true;
      }
    }
    if (found) return;
    if (Clock::now() > give_up) Fail("an executor is stale that was neither freed nor evicted");
    std::this_thread::yield();
  }
}

void Torture::Mutator::Kill(Family* family) {
  if (family->keys.empty()) return;
  uint32_t first = FamilyOf(family->keys[0]) * kMaxMembers;
  for (uint32_t member = 0; member < family->ids.size(); member++)
    torture.slots[first + member].Withdraw(family->ids[member]);
  for (;;) {
    std::vector<ja_executor> living;
    for (ja_executor id : family->ids)
      if (id != 0) living.push_back(id);
    if (living.empty()) break;
    ja_status code = living.size() == 1 && executing.random(2) == 0 ? host.Invalidate(living[0]) : host.Free(living);
    if (code == JA_OK) break;
    if (code != JA_ERR_STALE_EXECUTOR) Fail("a free failed: %s", ja_last_error()->message);
    AwaitEvicted(family);
  }
  for (uint32_t member = 0; member < family->ids.size(); member++)
    if (family->ids[member] != 0) torture.deaths.Death(family->keys[member]);
  torture.figures.deaths.fetch_add(family->ids.size(), std::memory_order_relaxed);
  *family = {};
}

// The family's successor takes over its links before it dies.
void Torture::Mutator::Replace(uint32_t number) {
  Family old = torture.families_[number];
  Build(number);
  Family& young = torture.families_[number];
  if (young.serial == old.serial) return;  // no room
  for (uint32_t member = 0; member < std::min(old.ids.size(), young.ids.size()); member++) {
    if (((old.keys[member] | young.keys[member]) & kFunction) != 0 || old.ids[member] == 0) continue;
    ja_status code = host.Replace(old.ids[member], young.ids[member]);
    if (code != JA_OK && code != JA_ERR_STALE_EXECUTOR) Fail("replace failed: %s", ja_last_error()->message);
  }
  Kill(&old);
}

// The family dies while this thread executes it, if one of its members calls Outside.
void Torture::Mutator::KillInside(uint32_t number) {
  Family& family = torture.families_[number];
  executing.inside = [&] { Kill(&family); };
  executing.Execute(number * kMaxMembers + executing.random(static_cast<uint32_t>(family.ids.size())), 8);
  executing.inside = nullptr;
  Kill(&family);
}

void Torture::Mutator::ChurnFillers() {
  Random& random = executing.random;
  size_t most = torture.set_up.executors < 100 ? 24 : 300;
  std::vector<Program> programs;
  // Where there are few executors, what moves with them makes the move take longer.
  uint32_t largest = torture.set_up.executors < 100 ? 10000 : 3000;
  for (uint32_t count = random(8); count > 0; count--)
    programs.push_back(Program::Filler(16 + random(largest), torture.ledgers[random(kLedgers)]));
  std::vector<ja_executor> ids(programs.size());
  if (!programs.empty() && torture.Install(programs, ids.data(), random) == JA_OK)
    fillers.insert(fillers.end(), ids.begin(), ids.end());
  if (fillers.size() < most) return;
  std::vector<ja_executor> freed;
  while (fillers.size() > most / 4) {
    std::swap(fillers[random(static_cast<uint32_t>(fillers.size()))], fillers.back());
    freed.push_back(fillers.back());
    fillers.pop_back();
  }
  if (host.Free(freed) != JA_OK) Fail("freeing failed: %s", ja_last_error()->message);
}

void Torture::Mutator::Loop(int place) {
  Random& random = executing.random;
  executing.Attach();
  while (!torture.stopping()) {
    torture.Beat(place);
    uint32_t family = random(torture.family_count);
    family -= family % kMutators;
    family += number;
    if (family >= torture.family_count) continue;
    if (torture.families_[family].ids.empty()) {
      Build(family);
      continue;
    }
    // Few executors move only when fillers have come between them.
    if (random(100) < (torture.set_up.executors < 100 ? 60 : 20)) {
      ChurnFillers();
      continue;
    }
    uint32_t dice = random(100);
    if (dice < 25)
      Replace(family);
    else if (dice < 45)
      Kill(&torture.families_[family]);
    else if (dice < 50 && !torture.dipping())
      KillInside(family);
    else if (dice < 85)
      LinkSome(family);
    else if (dice < 95)
      UnlinkSome(family);
    else if (dice == 99 && random(20) == 0 && host.UnlinkAll() != JA_OK)
      Fail("unlinking all failed: %s", ja_last_error()->message);
    else
      executing.Execute(torture.RandomSlot(random), 16);
  }
  executing.Detach();
}

void Torture::RunnerLoop(int place, Executing& executing) {
  Random& random = executing.random;
  while (!stopping()) {
    Beat(place);
    if (dipping()) {
      for (auto end = Clock::now() + std::chrono::nanoseconds(random(5000)); Clock::now() < end;) {
      }
      executing.Execute(RandomSlot(random), 1);
      continue;
    }
    // From inside: collect under one's own pin, or execute somebody else.
    uint32_t dice = random(200);
    if (dice == 0)
      executing.inside = [&] { host.Collect({.max_pause_nanos = set_up.slices}); };
    else if (dice < 20)
      executing.inside = [&] { executing.Execute(RandomSlot(random), 32); };
    executing.Execute(RandomSlot(random), 1 + random(random(64) == 0 ? kMaxFuel : 64));
    executing.inside = nullptr;
  }
}

// Stays inside a trace for a long time: the pin that does not end.
void Torture::SleeperLoop(int place, Executing& executing) {
  Random& random = executing.random;
  while (!stopping()) {
    Beat(place);
    // Seldom long: while it lasts nothing is reclaimed, and what is reclaimed too soon cannot show.
    uint32_t nap = random(48) == 0 ? 200 : random(4);
    executing.inside = [&] {
      figures.naps.fetch_add(1, std::memory_order_relaxed);
      auto end = Clock::now() + milliseconds(nap);
      while (Clock::now() < end && !stopping()) std::this_thread::sleep_for(milliseconds(1));
    };
    for (int i = 0; i < 100 && executing.inside && !stopping(); i++) executing.Execute(RandomSlot(random), 64);
    std::this_thread::sleep_for(milliseconds(random(40)));
    while (dipping() && !stopping()) std::this_thread::sleep_for(milliseconds(10));
  }
}

void Torture::CompactorLoop(int place) {
  Random random{Mix(seed + 99 + figures.collects)};
  ja_executor ledgers_in_order[kLedgers];
  std::copy(std::begin(ledgers), std::end(ledgers), ledgers_in_order);
  while (!stopping()) {
    Beat(place);
    bool evict = random(64) == 0;
    bool slice = random(8) == 0 ? !set_up.slices : set_up.slices;
    bool follow_links = dipping() || random(4) == 0;
    if (follow_links) {
      // Another order of the ledgers: the state that everybody counts in must move.
      for (uint32_t i = kLedgers; i > 1; i--) std::swap(ledgers_in_order[random(i)], ledgers_in_order[i - 1]);
      for (uint32_t i = 1; i < kLedgers; i++) Link(ledgers_in_order[i - 1], 0, ledgers_in_order[i], 0);
      host.Unlink(ledgers_in_order[kLedgers - 1], 0);
    }
    // The smallest slices move one batch and do not wait for the gate; those that are longer do, and come to state.
    uint64_t pause_nanos = !slice ? 0 : follow_links ? 20'000'000 : 1;
    Collected collected =
        host.Collect({.max_pause_nanos = pause_nanos, .evict_cold = evict, .follow_links = follow_links});
    figures.collects.fetch_add(1, std::memory_order_relaxed);
    figures.moved.fetch_add(collected.moved, std::memory_order_relaxed);
    figures.evicted.fetch_add(collected.evicted.size(), std::memory_order_relaxed);
    if (!collected.evicted.empty()) {
      std::lock_guard guard(evicted_lock_);
      evicted_.insert(collected.evicted.begin(), collected.evicted.end());
    }
    if (random(100) == 0) host.Plan();
  }
}

void Torture::CheckerLoop(int place) {
  while (!stopping()) {
    Beat(place);
    if (std::string broken = host.FindBroken(); !broken.empty()) Fail("an invariant is broken: %s", broken.c_str());
    figures.checks.fetch_add(1, std::memory_order_relaxed);
    uint64_t retired = host.RetiredBytes();
    if (retired > figures.largest_retired.load()) figures.largest_retired.store(retired);
    // At the limit nothing more is installed and nothing moves; what lives then may still be freed.
    if (set_up.retired_limit != 0 && retired > set_up.retired_limit + 8 * jit_arena::kMiB)
      Fail("%llu bytes are retired; the limit is %llu", static_cast<unsigned long long>(retired),
           static_cast<unsigned long long>(set_up.retired_limit));
    std::this_thread::sleep_for(milliseconds(20));
  }
}

// Nobody executes any more: what state has counted is what the threads have seen.
void Torture::CheckCounters(const std::vector<const Executing*>& all) {
  for (uint32_t i = 0; i < kLedgers; i++) {
    uint64_t expected = 0;
    for (const Executing* executing : all) expected += executing->ledger[i];
    uint64_t found = host.ReadState(ledgers[i], 0);
    if (found != expected)
      Fail("updates of state were lost: ledger %u has counted %llu of %llu executions", i,
           static_cast<unsigned long long>(found), static_cast<unsigned long long>(expected));
  }
  for (const Family& family : families_) {
    for (uint32_t member = 0; member < family.ids.size(); member++) {
      if (evicted_.count(family.ids[member]) != 0 || family.ids[member] == 0) continue;
      uint64_t expected = 0;
      for (const Executing* executing : all) {
        const Executing::Count& count = executing->counts[SlotOf(family.keys[member])];
        if (count.life == LifeOf(family.keys[member])) expected += count.executed;
      }
      uint64_t found = host.ReadState(family.ids[member], 0);
      if (found != expected)
        Fail("updates of state were lost: the counter of executor %llx is %llu after %llu executions",
             static_cast<unsigned long long>(LifeOf(family.keys[member])), static_cast<unsigned long long>(found),
             static_cast<unsigned long long>(expected));
    }
  }
}

// Runs each loop in a thread of its own until `end`. A thread that says nothing for long hangs: at a gate that does not
// open, or in a loop that nobody leaves.
void Torture::RunThreads(const std::vector<std::function<void(int)>>& loops, Clock::time_point end) {
  constexpr seconds kPatience(60);
  stop_ = false;
  std::atomic<size_t> running{loops.size()};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < loops.size(); i++)
    threads.emplace_back([&, i] {
      loops[i](static_cast<int>(i));
      running--;
    });
  std::vector<uint64_t> beats(loops.size());
  std::vector<Clock::time_point> heard(loops.size(), Clock::now());
  while (running != 0) {
    std::this_thread::sleep_for(milliseconds(10));
    if (Clock::now() >= end) stop_ = true;
    for (size_t i = 0; i < loops.size(); i++) {
      uint64_t beat = beats_[i].load(std::memory_order_relaxed);
      if (beat != beats[i]) heard[i] = Clock::now();
      beats[i] = beat;
    }
    auto silent = std::min_element(heard.begin(), heard.end());
    if (Clock::now() - std::max(*silent, stop_ ? end : *silent) > kPatience)
      Fail("thread %d hangs", static_cast<int>(silent - heard.begin()));
  }
  for (std::thread& thread : threads) thread.join();
}

void Torture::Run(seconds duration) {
  std::vector<std::unique_ptr<Executing>> runners;
  std::vector<std::unique_ptr<Mutator>> mutators;
  for (uint32_t i = 0; i <= set_up.runners; i++) runners.push_back(std::make_unique<Executing>(*this, Mix(seed + i)));
  for (uint32_t i = 0; i < kMutators; i++) mutators.push_back(std::make_unique<Mutator>(*this, i, Mix(seed + 50 + i)));
  std::vector<const Executing*> all;
  for (auto& runner : runners) all.push_back(runner.get());
  for (auto& mutator : mutators) all.push_back(&mutator->executing);

  // Whether the counters add up can be seen only when nobody executes: the threads stop now and then.
  constexpr milliseconds kRound(3000);
  auto end = Clock::now() + duration;
  while (Clock::now() < end) {
    std::vector<std::function<void(int)>> loops;
    for (auto& mutator : mutators) loops.push_back([&mutator](int place) { mutator->Loop(place); });
    for (auto& runner : runners)
      loops.push_back([&, this](int place) {
        runner->Attach();
        runner == runners.back() ? SleeperLoop(place, *runner) : RunnerLoop(place, *runner);
        runner->Detach();
      });
    loops.push_back([this](int place) { CompactorLoop(place); });
    loops.push_back([this](int place) { CheckerLoop(place); });
    RunThreads(loops, std::min(Clock::now() + kRound, end));
    CheckCounters(all);
  }

  Collected last = host.Collect();
  if (!last.done) Fail("a collect with nobody inside is not done");
  host.Collect();
  if (host.RetiredBytes() != 0) Fail("memory is retired, and nobody is inside");
  if (std::string broken = host.FindBroken(); !broken.empty()) Fail("in the end: %s", broken.c_str());
  CheckCounters(all);
  if (figures.runs == 0) Fail("nothing happened: the run was too short to prove anything");
  uint64_t executions = 0;
  for (const Executing* executing : all)
    for (uint64_t counted : executing->ledger) executions += counted;
  auto count = [](const std::atomic<uint64_t>& figure) { return static_cast<unsigned long long>(figure.load()); };
  std::printf(
      "  %llu executions in %llu runs and %llu calls (%llu exits, %llu of invalidated executors, %llu stale ids), %llu "
      "installed, %llu "
      "died, %llu links\n"
      "  %llu collects, %llu moved, %llu evicted, %llu naps, %llu checks, at most %llu retired bytes, %llu waits\n",
      static_cast<unsigned long long>(executions), count(figures.runs), count(figures.calls), count(figures.exits),
      count(figures.dead_exits), count(figures.stale), count(figures.installs), count(figures.deaths),
      count(figures.links), count(figures.collects), count(figures.moved), count(figures.evicted), count(figures.naps),
      count(figures.checks), count(figures.largest_retired), count(figures.limited));
  std::fflush(stdout);
}

// Returns how many executors have moved.
uint64_t RunOne(const SetUp& set_up, uint64_t seed, uint64_t duration) {
  std::snprintf(how_to_repeat, sizeof how_to_repeat, "--seconds %llu --seed %llu %s",
                static_cast<unsigned long long>(duration), static_cast<unsigned long long>(seed),
                Describe(set_up).c_str());
  std::printf("torture %s\n", how_to_repeat);
  std::fflush(stdout);
  Torture torture(set_up, seed);
  host_of_signals = &torture.host;
  torture.Run(seconds(duration));
  host_of_signals = nullptr;
  return torture.figures.moved;
}

int Main(int argc, char** argv) {
  uint64_t duration = 20;
  uint64_t seed = static_cast<uint64_t>(Clock::now().time_since_epoch().count()) % 1'000'000;
  SetUp one;
  bool all = true;
  for (int i = 1; i < argc; i++) {
    std::string flag = argv[i];
    auto number = [&] { return i + 1 < argc ? std::strtoull(argv[++i], nullptr, 10) : 0; };
    if (flag == "--seconds") {
      duration = number();
      continue;
    }
    if (flag == "--seed") {
      seed = number();
      continue;
    }
    all = false;
    if (flag == "--executors") {
      one.executors = static_cast<uint32_t>(number());
    } else if (flag == "--slices") {
      one.slices = true;
    } else if (flag == "--apart") {
      one.apart = true;
    } else if (flag == "--without-barrier") {
      one.without_barrier = true;
    } else if (flag == "--retired-limit") {
      one.retired_limit = number();
    } else if (flag == "--runners") {
      one.runners = static_cast<uint32_t>(number());
    } else if (flag == "--writer" && i + 1 < argc) {
      std::string name = argv[++i];
      one.writer = name == "flip" ? JA_WRITER_FLIP : name == "procmem" ? JA_WRITER_PROCMEM : JA_WRITER_ALIAS;
    } else {
      std::printf("%s", kUsage);
      return flag == "--help" ? 0 : 2;
    }
  }
  if (duration == 0 || one.runners == 0 || one.runners > 8 || one.executors < 4 || one.executors > 100'000) {
    std::printf("%s", kUsage);
    return 2;
  }
  CatchSignals();
  uint64_t moved = 0;
  if (!all) {
    moved = RunOne(one, seed, duration);
  } else {
    const SetUp set_ups[] = {
        {.executors = 8, .slices = true},
        {.executors = 4000, .slices = false},
        {.executors = 8, .slices = false, .retired_limit = jit_arena::kMiB},
        {.executors = 4000, .slices = true},
        {.executors = 200, .apart = true},
        {.executors = 50, .writer = JA_WRITER_PROCMEM},
        {.executors = 50, .writer = JA_WRITER_FLIP},
        {.executors = 50, .without_barrier = true},
    };
    // The time is divided, in whole seconds; the first ones get what is left over, and are the hardest.
    uint64_t count = std::size(set_ups);
    uint64_t number = 0;
    for (const SetUp& set_up : set_ups) {
      uint64_t share = duration / count + (number < duration % count);
      if (share != 0) moved += RunOne(set_up, seed + number, share);
      number++;
    }
  }
  if (moved == 0) Fail("nothing has moved: the run was too short to prove anything");
  std::printf("0 failures\n");
  return 0;
}

}  // namespace

extern "C" uint64_t TortureOutside(Context* context, uint64_t sum) {
  auto* executing = static_cast<Executing*>(context->runner);
  // Once, and not from within what it does.
  if (executing->inside && executing->depth < 2) {
    std::function<void()> inside = std::move(executing->inside);
    executing->inside = nullptr;
    inside();
  }
  return OutsideStep(sum);
}

}  // namespace torture

int main(int argc, char** argv) { return torture::Main(argc, argv); }
