// arm64: the machine code of the arena's own that depends on no C convention, but for its use of x16 and x17: far
// slots, the stubs that traces leave through, the function of a trial. The call gate and callbacks are in
// gate_aapcs64.cc.
//
// What varies is stored over the zeroes left for it. All of it is position-independent. x16 is the exit register; x17
// is nobody's between an exit and what it leads to, so that a veneer may stand there (AAPCS64, 6.1.1: both are for
// veneers). A trace does not keep x30, so the call gate leaves its own place at the stack pointer's for the stubs.
//
// What is reached by BR or BLR begins with BTI C, which takes BLR and, of BR, those through x16 and x17 (Arm ARM,
// D8.4.7). Cores without it take it for a NOP.
#include "arch/arch.h"
#include "arch/arm64/words.h"
#include "base/bits.h"

namespace jit_arena::arch {

const uint8_t kPoisonByte = 0;  // four of them are udf #0
const uint32_t kHotSlotOffset = 40;
const FloatControl kFloatStatus = 0;  // FPSR has it

namespace arm64 {

// Executable first: a branch to a far slot's address is a branch to its veneer.
constexpr uint32_t kFarSlot[] = {
    0x58000051,  // ldr x17, the GOT slot
    0xD61F0220,  // br x17
    0, 0,        // GOT slot: the address
};
static_assert(sizeof kFarSlot == kFarSlotBytes && kFarSlotBytes == kGranuleBytes && kFarSlotGotOffset == 8);

// The record is in x16. The subtraction borrows when the upper 12 bits were 0: the exit is hot, and the count begins
// again at its largest value, until the host says otherwise.
constexpr uint32_t kExitStub[] = {
    0xD503245F,     // bti c
    0x79401E11,     // ldrh w17, [x16, #14]
    0x71004231,     // subs w17, w17, #16
    0x79001E11,     // strh w17, [x16, #14]
    0x54000083,     // b.lo hot
    0xAA1003E0,     // mov x0, x16
    0xF94003FE,     // ldr x30, [sp]
    0xD65F03C0,     // ret, into the call gate
    0x58000051,     // hot: ldr x17, the slot
    0xD61F0220,     // br x17
    0,          0,  // the slot
};
static_assert(kExitRecordTemperatureOffset == 14 && 1 << kTemperatureShift == 16);

constexpr uint32_t kHotReturn[] = {
    0xD503245F,  // bti c
    0x91000600,  // add x0, x16, #1: records are aligned, so the lowest bit is free
    0xF94003FE,  // ldr x30, [sp]
    0xD65F03C0,  // ret
};

constexpr uint32_t kDoneStub[] = {
    0xD503245F,  // bti c
    0xAA1F03E0,  // mov x0, xzr
    0xF94003FE,  // ldr x30, [sp]
    0xD65F03C0,  // ret, into the call gate
};

constexpr uint32_t kTrialFunction[] = {
    0xD503245F,  // bti c
    0x52800000,  // mov w0, #answer
    0xD65F03C0,  // ret
};
constexpr size_t kTrialMoveOffset = kWordBytes;
constexpr int kMoveConstantAt = 5;
static_assert(sizeof kTrialFunction <= kMostTrialFunctionBytes && kMostTrialAnswer <= 0xFFFF);

}  // namespace arm64

void SynchroniseThisCore() { asm volatile("isb" : : : "memory"); }

void Pause() { asm volatile("isb" : : : "memory"); }  // longer than yield, which most cores take for a nop

// The sequence of the Arm ARM, B2.2.5. A line is cleaned and invalidated at the address where it executes: a data cache
// knows physical addresses, whichever view wrote them, but of an instruction cache only the lines of the addresses
// named are sure to go. The system gives every core the smallest lines of them all in CTR_EL0.
void MakeFetchable(const uint8_t* at, size_t bytes) {
  uint64_t types;
  asm volatile("mrs %0, ctr_el0" : "=r"(types));
  const uint64_t begin = reinterpret_cast<uint64_t>(at), end = begin + bytes;
  const uint64_t data_line = uint64_t{4} << (types >> 16 & 15), code_line = uint64_t{4} << (types & 15);
  // IDC, DIC: what the core does by itself.
  if ((types >> 28 & 1) == 0)
    for (uint64_t line = AlignDown(begin, data_line); line < end; line += data_line)
      asm volatile("dc cvau, %0" : : "r"(line) : "memory");
  asm volatile("dsb ish" : : : "memory");
  if ((types >> 29 & 1) == 0) {
    for (uint64_t line = AlignDown(begin, code_line); line < end; line += code_line)
      asm volatile("ic ivau, %0" : : "r"(line) : "memory");
    asm volatile("dsb ish" : : : "memory");
  }
  asm volatile("isb" : : : "memory");
}

void WriteFarSlot(uint8_t* out, uint64_t address) {
  arm64::PutWords(out, arm64::kFarSlot);
  StoreAs<uint64_t>(out + kFarSlotGotOffset, address);
}

size_t ExitStubBytes() { return sizeof arm64::kExitStub; }

void WriteExitStub(uint8_t* out, uint64_t hot) {
  arm64::PutWords(out, arm64::kExitStub);
  StoreAs<uint64_t>(out + kHotSlotOffset, hot);
}

size_t HotReturnBytes() { return sizeof arm64::kHotReturn; }

void WriteHotReturn(uint8_t* out) { arm64::PutWords(out, arm64::kHotReturn); }

size_t DoneStubBytes() { return sizeof arm64::kDoneStub; }

void WriteDoneStub(uint8_t* out) { arm64::PutWords(out, arm64::kDoneStub); }

size_t TrialFunctionBytes() { return sizeof arm64::kTrialFunction; }

void WriteTrialFunction(uint8_t* out, uint32_t answer) {
  arm64::PutWords(out, arm64::kTrialFunction);
  uint8_t* move = out + arm64::kTrialMoveOffset;
  StoreAs<uint32_t>(move, LoadAs<uint32_t>(move) | answer << arm64::kMoveConstantAt);
}

FloatControl ReadFloatControl() {
  FloatControl control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}

void WriteFloatControl(FloatControl control) { asm volatile("msr fpcr, %0" : : "r"(control)); }

}  // namespace jit_arena::arch
