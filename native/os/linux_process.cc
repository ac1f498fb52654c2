// Linux: the process around the memory: page size, cores, time, symbols.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "arch/arch.h"
#include "os/memory.h"

namespace jit_arena::os {
namespace linux_process {
namespace {

// Commands of membarrier(2), Linux 4.16; numbers, because some of the headers that we build with are older.
constexpr int kRegisterSyncCore = 1 << 6;  // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
constexpr int kSyncCore = 1 << 5;          // MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE

// 2 × (fork generation + 1) + whether membarrier can be used; 0 before the first call. One word, so that threads that
// come first at the same time register twice and agree. Relaxed: it publishes nothing but itself.
constinit std::atomic<uint64_t> membarrier_state{0};

long Membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

}  // namespace
}  // namespace linux_process

size_t PageBytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t HugePageBytes() {
  // A page table fills a page, with eight bytes for each of its entries.
  size_t bytes = PageBytes() * (PageBytes() / 8);
  return bytes <= (4u << 20) ? bytes : 0;
}

bool SynchroniseCores() {
  using linux_process::membarrier_state;
  uint64_t mine = 2 * (uint64_t{ForkGeneration()} + 1);
  uint64_t state = membarrier_state.load(std::memory_order_relaxed);
  if ((state & ~uint64_t{1}) != mine) {
    state = mine + (linux_process::Membarrier(linux_process::kRegisterSyncCore) == 0 ? 1 : 0);
    membarrier_state.store(state, std::memory_order_relaxed);
  }
  return (state & 1) != 0 && linux_process::Membarrier(linux_process::kSyncCore) == 0;
}

void FlushInstructionCache(const uint8_t* at, size_t bytes) { arch::MakeFetchable(at, bytes); }

StackBounds ThisThreadsStack() {
  pthread_attr_t attributes;
  void* low = nullptr;
  size_t bytes = 0;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return {0, UINTPTR_MAX};
  const bool known = pthread_attr_getstack(&attributes, &low, &bytes) == 0;
  pthread_attr_destroy(&attributes);
  const auto begin = reinterpret_cast<uintptr_t>(low);
  return known ? StackBounds{begin, begin + bytes} : StackBounds{0, UINTPTR_MAX};
}

uint64_t NowNanos() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

const void* FindSymbol(const char* name) { return dlsym(RTLD_DEFAULT, name); }

}  // namespace jit_arena::os
