// Executors that can be run and have a known result, and running them. x86-64 machine code.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "bench.h"
#include "core/arena.h"
#include "peer.h"

namespace bench {

// Machine code on its way into an executor, with its relocs.
class Assembler {
 public:
  Assembler& Put(std::initializer_list<int> bytes) {
    for (int byte : bytes) code.push_back(static_cast<uint8_t>(byte));
    return *this;
  }
  Assembler& Put32(uint32_t value) {
    code.resize(code.size() + 4);
    std::memcpy(code.data() + code.size() - 4, &value, 4);
    return *this;
  }
  // Four bytes that hold the distance to the target from `end` bytes behind them, where the instruction ends.
  Assembler& Relative(jit_arena::TargetKind kind, uint64_t target, bool is_branch = false, int end = 0);
  // int3 up to `bytes`.
  Assembler& Pad(uint32_t bytes) {
    BENCH_CHECK(code.size() <= bytes);
    code.resize(bytes, 0xCC);
    return *this;
  }

  std::vector<uint8_t> code;
  std::vector<jit_arena::RelocSpec> relocs;
  uint32_t exits = 0;

  // Valid while this is.
  jit_arena::ExecutorSpec Spec() const;
};

// Runs under the pin of `self`: integer registers rdi, rsi, rdx, rcx in, rax out.
uint64_t Run(OwnArena& own, jit_arena::ExecutorId id, std::initializer_list<uint64_t> arguments = {});

// 500 bytes that call five functions outside the arena and so keep five relocs: what T5 and T6 move. Running it adds
// kCallsSum to CallsCounted().
class CallingExecutor {
 public:
  static constexpr uint32_t kBytes = 500;
  static constexpr int kCalls = 5;
  static constexpr uint64_t kCallsSum = 1 + 2 + 4 + 8 + 16;
  static uint64_t CallsCounted();
  static void (*const kFunctions[kCalls])();
  // Offset of the rel32 of a call.
  static constexpr uint32_t SiteOf(int call) { return 5 * static_cast<uint32_t>(call) + 1; }

  CallingExecutor();
  const jit_arena::ExecutorSpec& spec() const { return spec_; }
  const std::vector<uint8_t>& code() const { return assembler_.code; }

 private:
  Assembler assembler_;
  jit_arena::ExecutorSpec spec_;
};

// `live` of them in an arena where as many others have died, every second one; their order is that of installation.
std::vector<jit_arena::ExecutorId> InstallEverySecond(OwnArena& own, const CallingExecutor& executor, uint32_t live);
// Runs all and checks what they did, then the arena's invariants.
void CheckCalling(OwnArena& own, const std::vector<jit_arena::ExecutorId>& ids);

// Memory with an executable and a writable view, as the alias writer makes it, for loops that are written by hand.
class DualMapping {
 public:
  explicit DualMapping(size_t bytes);
  ~DualMapping();
  DualMapping(const DualMapping&) = delete;
  DualMapping& operator=(const DualMapping&) = delete;
  uint8_t* rx() { return rx_; }
  uint8_t* rw() { return rw_; }

 private:
  size_t bytes_;
  uint8_t* rx_;
  uint8_t* rw_;
};

}  // namespace bench
