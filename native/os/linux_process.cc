// Linux: the process around the memory: page size, cores, time, symbols.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

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

// The unwinder's, once it has been found. Relaxed: they publish nothing but themselves.
using RegisterTable = void (*)(const void* table, void* room);
using DeregisterTable = void* (*)(const void* table);
constinit std::atomic<RegisterTable> register_table{nullptr};
constinit std::atomic<DeregisterTable> deregister_table{nullptr};
using FindTable = const void* (*)(void* code, void** bases);
constinit std::atomic<FindTable> find_table{nullptr};  // null: there is none

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

void FlushInstructionCache(const uint8_t* at, size_t bytes) {
  // On x86-64 only a barrier for the compiler: caches are coherent and self-modifying code is noticed by physical
  // address, whichever view was written. (The manuals want a serialising instruction where the addresses differ; no
  // core and no other JIT with two views has one, and SynchroniseCores serialises this core as well.) On arm64 the
  // cache maintenance of the range, by its executable address, and an isb.
  char* start = const_cast<char*>(reinterpret_cast<const char*>(at));
  __builtin___clear_cache(start, start + bytes);
}

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

// Functions of libgcc_s, the unwinder of the process's exceptions, when it has any. These two need no memory: what the
// unwinder keeps of a table, 8 words at most up to gcc 14, is the caller's, and without more it searches for longer.
// Nor do they look for the functions, since dlsym takes the loader's lock: a thread may hold it that runs a library's
// constructor and waits for the caller's.
bool CanRegisterUnwindTable() {
  using namespace linux_process;
  const void* to_register = FindSymbol("__register_frame_info");
  const void* to_deregister = FindSymbol("__deregister_frame_info");
  if (to_register == nullptr || to_deregister == nullptr) return false;
  register_table.store(reinterpret_cast<RegisterTable>(const_cast<void*>(to_register)), std::memory_order_relaxed);
  deregister_table.store(reinterpret_cast<DeregisterTable>(const_cast<void*>(to_deregister)),
                         std::memory_order_relaxed);
  find_table.store(reinterpret_cast<FindTable>(const_cast<void*>(FindSymbol("_Unwind_Find_FDE"))),
                   std::memory_order_relaxed);
  return true;
}

void RegisterUnwindTable(const void* table, UnwindTableRoom* room, const void* code) {
  linux_process::register_table.load(std::memory_order_relaxed)(table, room);
  // Up to gcc 12 new tables wait in a list for the next exception, which sorts them into another with all threads that
  // throw waiting for it: 29 s for 20 000. So this one is looked for now; a new one is mostly the first in its place.
  if (linux_process::FindTable find = linux_process::find_table.load(std::memory_order_relaxed)) {
    void* bases[3];
    find(const_cast<void*>(code), bases);
  }
}

void DeregisterUnwindTable(const void* table) {
  linux_process::deregister_table.load(std::memory_order_relaxed)(table);
}

}  // namespace jit_arena::os
