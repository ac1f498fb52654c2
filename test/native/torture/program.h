// What the torture's executors are made of, and what they must compute.
//
// Each executor has a *key*. Its code logs the key into the run's context and mixes it into a sum: with constants in
// the code, in data (by a relative load, and by an absolute address), in state, and in a helper that is called through
// an address in data. So a copy that is stale, half written or wrongly fixed up gives another sum than Step says of the
// keys in the log, or crashes. One .cc file per CPU implements Program::Of.
#pragma once

#include <cstdint>
#include <vector>

#include "core/spec.h"

namespace torture {

// The context of a run. Machine code knows the first three by their offsets.
struct Context {
  uint64_t sum = 0;         // in and out
  uint64_t fuel = 0;        // traces to pass through until the run is done
  uint64_t* log = nullptr;  // where the next key goes; an executor logs one
  void* runner = nullptr;   // for Outside
};

// A family is installed together, and its members refer to each other directly: they die together.
//   bits 0-1 member, 2-21 family, 22-59 serial of the family; and what the executor is:
inline constexpr int kMemberBits = 2;
inline constexpr int kFamilyBits = 20;
inline constexpr int kMaxMembers = 1 << kMemberBits;
inline constexpr uint64_t kCalls = uint64_t{1} << 60;        // calls its family's function, which logs next
inline constexpr uint64_t kJumps = uint64_t{1} << 61;        // goes on to the next member, unless fuel is out
inline constexpr uint64_t kFunction = uint64_t{1} << 62;     // a function; else a trace
inline constexpr uint64_t kSecondEntry = uint64_t{1} << 63;  // logged by who came through entry 1

constexpr uint64_t MakeKey(uint64_t serial, uint32_t family, uint32_t member, uint64_t kind) {
  return serial << (kMemberBits + kFamilyBits) | uint64_t{family} << kMemberBits | member | kind;
}
constexpr uint32_t MemberOf(uint64_t key) { return key & (kMaxMembers - 1); }
constexpr uint32_t FamilyOf(uint64_t key) { return key >> kMemberBits & ((1u << kFamilyBits) - 1); }
// Family and member.
constexpr uint32_t SlotOf(uint64_t key) { return key & ((1u << (kMemberBits + kFamilyBits)) - 1); }
// Family, member and serial.
constexpr uint64_t LifeOf(uint64_t key) { return key & (kCalls - 1); }

// How an executor calls its family's function. Where a move of the function rewrites the call:
enum class CallKind : uint8_t {
  kBranch,           // rel32 within 8 aligned bytes: one store
  kUnalignedBranch,  // rel32 across them: nobody may be executing
  kPointer,          // an aligned address in data
  kImmediate,        // an unaligned address in code
  kSlot,             // a GOT slot
};
inline constexpr int kCallKinds = 5;

// How it calls Outside.
enum class OutsideKind : uint8_t { kNone, kBranch, kSlot };

struct Program {
  std::vector<uint8_t> sections[jit_arena::kSections];
  std::vector<jit_arena::RelocSpec> relocs;
  std::vector<uint32_t> entries;
  std::vector<uint32_t> exit_tags;
  uint32_t exits = 0;
  uint32_t aligns[jit_arena::kSections] = {16, 8, 16};

  // `ledger`: an executor whose state is a counter that each execution raises. Its own counter is the first word of its
  // state.
  static Program Of(uint64_t key, CallKind call, uint64_t ledger);
  // Never executed: `bytes` of code, as much data and as much state. Its data is full of the ledger's address, so that
  // a move of the ledger takes its time.
  static Program Filler(uint32_t bytes, uint64_t ledger);
  // Not executed either. Its counter is the first word of its state, whose rest takes time to copy. Its exit can be
  // linked, so that it has a place in an order.
  static Program Ledger();
};

// What the executor with this (logged) key makes of the sum.
uint64_t Step(uint64_t sum, uint64_t key);
OutsideKind OutsideOf(uint64_t key);
uint32_t ExitTagOf(uint64_t key, uint32_t exit);

// Where a C function of the host's leads to, which executors call.
uint64_t OutsideStep(uint64_t sum);
// The function itself: OutsideStep, and whatever the runner has in mind.
extern "C" uint64_t TortureOutside(Context* context, uint64_t sum);

// Exit 0 or 1 by the lowest bit of the sum; exit 2 by who finds that it has been invalidated.
inline constexpr uint32_t kExits = 3;
inline constexpr uint32_t kDeadExit = 2;

constexpr uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccd;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53;
  return x ^ x >> 33;
}

struct Random {
  uint64_t state;
  uint32_t operator()(uint32_t below) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return static_cast<uint32_t>((state >> 32) * below >> 32);
  }
};

}  // namespace torture
