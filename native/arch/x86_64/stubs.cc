// x86-64: the machine code of the arena's own that is the same under every OS: far slots, the stubs that traces
// leave through, the function of a trial. The call gate and callbacks depend on the C convention too (gate_sysv.cc).
//
// Each piece is a table of bytes with its assembly beside it; what varies is stored over the zeroes left for it. All of
// it is position-independent. Veneers leave r11, the exit register, alone.
#include "arch/arch.h"
#include "base/bits.h"

namespace jit_arena::arch {

const uint8_t kPoisonByte = 0xCC;  // int3
const uint32_t kHotSlotOffset = 24;
const FloatControl kFloatStatus = 0x3F;

namespace x86_64 {

// Executable first: a branch to a far slot's address is a branch to its veneer.
constexpr uint8_t kFarSlot[] = {
    0xFF, 0x25, 0x02, 0x00, 0x00, 0x00,              // jmp [rip + 2]
    0x0F, 0x0B,                                      // ud2: keeps the GOT slot aligned, and decoders out of it
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // GOT slot: the address
};
static_assert(sizeof kFarSlot == kFarSlotBytes);
static_assert(kFarSlotBytes == kGranuleBytes && kFarSlotGotOffset % 8 == 0);

// The record is in r11. `sub` sets the carry flag when the upper 12 bits were 0: the exit is hot, and the count begins
// again at its largest value, until the host says otherwise.
constexpr uint8_t kExitStub[] = {
    0x66, 0x41, 0x83, 0x6B, 0x0E, 0x10,  // sub word [r11 + 14], 16
    0x72, 0x04,                          // jc hot
    0x4C, 0x89, 0xD8,                    // mov rax, r11
    0xC3,                                // ret, into the call gate
    0xFF, 0x25, 0x06, 0x00, 0x00, 0x00,  // hot: jmp [rip + 6], the slot
    0xCC, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC,  // int3
    0,    0,    0,    0,    0,    0,    0, 0,
};
static_assert(sizeof kExitStub == kHotSlotOffset + sizeof(uint64_t));
static_assert(kExitStub[4] == kExitRecordTemperatureOffset && kExitStub[5] == 1 << kTemperatureShift);

constexpr uint8_t kHotReturn[] = {
    0x49, 0x8D, 0x43, 0x01,  // lea rax, [r11 + 1]: records are aligned, so the lowest bit is free
    0xC3,                    // ret
};

constexpr uint8_t kDoneStub[] = {
    0x31, 0xC0,  // xor eax, eax
    0xC3,        // ret, into the call gate
};

constexpr uint8_t kTrialFunction[] = {
    0xB8, 0x00, 0x00, 0x00, 0x00,  // mov eax, answer
    0xC3,                          // ret
};
constexpr size_t kTrialAnswerOffset = 1;
static_assert(sizeof kTrialFunction <= kMostTrialFunctionBytes);

}  // namespace x86_64

void SynchroniseThisCore() {}

// Only a barrier for the compiler: caches are coherent and self-modifying code is noticed by physical address,
// whichever view was written. (The manuals want a serialising instruction where the addresses differ; no core and no
// other JIT with two views has one, and os::SynchroniseCores serialises this core as well.)
void MakeFetchable(const uint8_t* at, size_t bytes) {
  char* start = const_cast<char*>(reinterpret_cast<const char*>(at));
  __builtin___clear_cache(start, start + bytes);
}

void Pause() { __builtin_ia32_pause(); }

void WriteFarSlot(uint8_t* out, uint64_t address) {
  std::memcpy(out, x86_64::kFarSlot, sizeof x86_64::kFarSlot);
  StoreAs<uint64_t>(out + kFarSlotGotOffset, address);
}

size_t ExitStubBytes() { return sizeof x86_64::kExitStub; }

void WriteExitStub(uint8_t* out, uint64_t hot) {
  std::memcpy(out, x86_64::kExitStub, sizeof x86_64::kExitStub);
  StoreAs<uint64_t>(out + kHotSlotOffset, hot);
}

size_t HotReturnBytes() { return sizeof x86_64::kHotReturn; }

void WriteHotReturn(uint8_t* out) { std::memcpy(out, x86_64::kHotReturn, sizeof x86_64::kHotReturn); }

size_t DoneStubBytes() { return sizeof x86_64::kDoneStub; }

void WriteDoneStub(uint8_t* out) { std::memcpy(out, x86_64::kDoneStub, sizeof x86_64::kDoneStub); }

size_t TrialFunctionBytes() { return sizeof x86_64::kTrialFunction; }

void WriteTrialFunction(uint8_t* out, uint32_t answer) {
  std::memcpy(out, x86_64::kTrialFunction, sizeof x86_64::kTrialFunction);
  StoreAs<uint32_t>(out + x86_64::kTrialAnswerOffset, answer);
}

FloatControl ReadFloatControl() {
  uint32_t sse;
  uint16_t x87;
  asm volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(sse), "=m"(x87));
  return uint64_t{x87} << 32 | sse;
}

void WriteFloatControl(FloatControl control) {
  uint32_t sse = static_cast<uint32_t>(control);
  uint16_t x87 = static_cast<uint16_t>(control >> 32);
  asm volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(sse), "m"(x87));
}

}  // namespace jit_arena::arch
