// What time cannot show on a busy machine: how many system calls and how many instructions a churn operation takes.
// System calls are counted by a parent that traces a forked child; instructions by the trap flag, which makes the
// processor raise a signal after each. Both are exact, and slow: a virtual
// machine may take 20 µs for one instruction.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "bench.h"
#include "peer.h"

namespace bench {
namespace {

// Small, so that what is counted is the books rather than the bytes; and below what the C library copies with string
// instructions, each repetition of which is an instruction to the trap flag.
Bytes SmallExecutor(Random* random, const std::vector<uint8_t>& pool) {
  return {pool.data(), 16 + random->Below(240), pool.data() + 1, 1 + random->Below(32)};
}

// A full arena with holes of all sizes.
class Churned {
 public:
  Churned(uint32_t live, uint64_t seed)
      : peer_(uint64_t{live} * 4096 + (16 << 20)), random_(seed, 5), pool_(4096, 0xC3), handles_(live) {
    for (Peer::Handle& handle : handles_) handle = peer_.Install(SmallExecutor(&random_, pool_));
    Churn(uint64_t{live} * 4);
    random_ = Random(seed, 6);  // the same sizes from now on, however many live
  }
  void Churn(uint64_t operations) {
    for (uint64_t i = 0; i < operations; i++) {
      Peer::Handle& handle = handles_[random_.Below(static_cast<uint32_t>(handles_.size()))];
      BENCH_CHECK(peer_.Free(handle));
      handle = peer_.Install(SmallExecutor(&random_, pool_));
      BENCH_CHECK(handle != 0);
    }
  }

 private:
  ArenaPeer peer_;
  Random random_;
  std::vector<uint8_t> pool_;
  std::vector<Peer::Handle> handles_;
};

// ---- System calls

// An instruction that stops the child with a signal of its own.
void Mark() { asm volatile("ud2" : : : "memory"); }
constexpr int kMarkSignal = SIGILL;
constexpr uint64_t kMarkBytes = 2;

bool StoppedAtMark(int status) { return WIFSTOPPED(status) && WSTOPSIG(status) == kMarkSignal; }

void PassMark(pid_t child) {
  user_regs_struct registers;
  BENCH_CHECK(ptrace(PTRACE_GETREGS, child, nullptr, &registers) == 0);
  registers.rip += kMarkBytes;
  BENCH_CHECK(ptrace(PTRACE_SETREGS, child, nullptr, &registers) == 0);
}

void CountSystemCalls(uint32_t live, uint32_t operations, const Settings& settings) {
  std::fflush(stdout);
  pid_t child = fork();
  BENCH_CHECK(child >= 0);
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    Churned churned(live, settings.seed);
    Mark();
    churned.Churn(operations);
    Mark();
    _exit(0);
  }
  int status = 0;
  // Its first stop is the first mark; a child that may not be traced dies of it.
  BENCH_CHECK(waitpid(child, &status, 0) == child);
  if (!StoppedAtMark(status)) return ReportMissing("counts", "system calls", live, "ptrace is not allowed here");
  PassMark(child);
  uint64_t stops = 0;  // two for each call
  for (;;) {
    BENCH_CHECK(ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) == 0 && waitpid(child, &status, 0) == child);
    BENCH_CHECK(WIFSTOPPED(status));
    if (StoppedAtMark(status)) break;
    stops++;
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  Report("counts", "system calls", live, "per 10 000 operations",
         {static_cast<double>(stops) / 2 * 10'000 / static_cast<double>(operations)});
}

// ---- Instructions

constexpr uint64_t kTrapFlag = 0x100;
volatile uint64_t steps;
volatile bool stepping;

void OnStep(int, siginfo_t*, void* context) {
  steps = steps + 1;
  if (!stepping) static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~static_cast<greg_t>(kTrapFlag);
}

void CountInstructions(uint32_t live, uint32_t operations, const Settings& settings) {
  Churned churned(live, settings.seed);
  struct sigaction action {
  }, before{};
  action.sa_sigaction = OnStep;
  action.sa_flags = SA_SIGINFO;
  BENCH_CHECK(sigaction(SIGTRAP, &action, &before) == 0);
  steps = 0;
  stepping = true;
  __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | kTrapFlag);
  churned.Churn(operations);
  stepping = false;
  sigaction(SIGTRAP, &before, nullptr);
  BENCH_CHECK(steps > operations);
  Report("counts", "instructions", live, "per operation",
         {static_cast<double>(steps) / static_cast<double>(operations)});
}

}  // namespace

void Counts(const Settings& settings) {
  uint32_t few = 1'000, many = settings.Size(100'000u, 20'000u);
  for (uint32_t live : {few, many}) CountSystemCalls(live, 10'000, settings);
  for (uint32_t live : {few, many}) CountInstructions(live, settings.Size(100u, 30u), settings);
}

}  // namespace bench
