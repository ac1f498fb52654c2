// arm64 under AAPCS64: the call gate and callbacks, which depend on the C convention. Other code of the arena's own is
// in stubs.cc.
//
// What varies is stored over the zeroes left for it. All of it is position-independent but the thunk's jump. Thunks
// leave x16, the exit register, alone; the call gate may use it, because no exit has been taken where machine code is
// entered.
//
// The convention (AAPCS64, 6.1, 6.8): integer arguments in x0-x7, of which six are used, floating ones in d0-d7,
// results in x0 and d0; the callee keeps x19-x29, d8-d15, sp and FPCR. Every frame has a record of x29 and x30 that x29
// points to, so that a debugger or profiler that follows x29 walks through.
#include <cstddef>

#include "arch/arch.h"
#include "arch/arm64/words.h"
#include "base/bits.h"

namespace jit_arena::arch {
namespace arm64 {

// The displacements below.
static_assert(offsetof(CallFrame, integers) == 0);
static_assert(offsetof(CallFrame, integer_result) == 0x30);
static_assert(offsetof(CallFrame, float_result) == 0x38);
static_assert(offsetof(CallFrame, floats) == 0x40);
static_assert(sizeof(CallFrame) == 0x80);

// What waits on the stack, because the callee may keep no register but sp: [sp] the place to come back to, for stubs,
// which find nothing in x30; [sp + 8] the frame; [sp + 16] FPCR; then x29, x30 and the other registers. FPCR is written
// only when it has changed: reading it is cheap, and writing it waits for all that the core has begun.
constexpr uint32_t kCallGate[] = {
    0xD503245F,  // bti c
    0xD10303FF,  // sub sp, sp, #192
    0xA9027BFD,  // stp x29, x30, [sp, #32]
    0x910083FD,  // add x29, sp, #32
    0xA90353F3,  // stp x19, x20, [sp, #48]
    0xA9045BF5,  // stp x21, x22, [sp, #64]
    0xA90563F7,  // stp x23, x24, [sp, #80]
    0xA9066BF9,  // stp x25, x26, [sp, #96]
    0xA90773FB,  // stp x27, x28, [sp, #112]
    0x6D0827E8,  // stp d8, d9, [sp, #128]
    0x6D092FEA,  // stp d10, d11, [sp, #144]
    0x6D0A37EC,  // stp d12, d13, [sp, #160]
    0x6D0B3FEE,  // stp d14, d15, [sp, #176]
    0x10000190,  // adr x16, back
    0xA90007F0,  // stp x16, x1, [sp]
    0xF9000BE2,  // str x2, [sp, #16]
    0xAA0003F1,  // mov x17, x0
    0x6D440420,  // ldp d0, d1, [x1, #0x40]
    0x6D450C22,  // ldp d2, d3, [x1, #0x50]
    0x6D461424,  // ldp d4, d5, [x1, #0x60]
    0x6D471C26,  // ldp d6, d7, [x1, #0x70]
    0xA9410C22,  // ldp x2, x3, [x1, #0x10]
    0xA9421424,  // ldp x4, x5, [x1, #0x20]
    0xA9400420,  // ldp x0, x1, [x1]
    0xD63F0220,  // blr x17
    0xA940C7F0,  // back: ldp x16, x17, [sp, #8]
    0xF9001A00,  // str x0, [x16, #0x30]
    0xFD001E00,  // str d0, [x16, #0x38]
    0xD53B4410,  // mrs x16, fpcr
    0xEB11021F,  // cmp x16, x17
    0x54000040,  // b.eq over the next
    0xD51B4411,  // msr fpcr, x17
    0xA94353F3,  // ldp x19, x20, [sp, #48]
    0xA9445BF5,  // ldp x21, x22, [sp, #64]
    0xA94563F7,  // ldp x23, x24, [sp, #80]
    0xA9466BF9,  // ldp x25, x26, [sp, #96]
    0xA94773FB,  // ldp x27, x28, [sp, #112]
    0x6D4827E8,  // ldp d8, d9, [sp, #128]
    0x6D492FEA,  // ldp d10, d11, [sp, #144]
    0x6D4A37EC,  // ldp d12, d13, [sp, #160]
    0x6D4B3FEE,  // ldp d14, d15, [sp, #176]
    0xA9427BFD,  // ldp x29, x30, [sp, #32]
    0x910303FF,  // add sp, sp, #192
    0xD65F03C0,  // ret
};
static_assert(std::size(kCallGate) == 44 && kCallGate[43] == 0xD65F03C0);

// DWARF 4, 6.4; the registers' numbers are those of DWARF for the Arm 64-bit Architecture (aadwarf64, 4.1): x0 to x30
// are 0 to 30, sp 31, d8 to d15 72 to 79. The canonical frame address (CFA) is sp before the call. Offsets of saved
// registers count in 8 bytes down from it, places in the code in 4 bytes.
constexpr uint8_t kCallGateFrames[] = {
    0x14, 0,    0,    0,                                    // 20 bytes that functions have in common
    0,    0,    0,    0,    1,    'z',  'R',  0,            // version 1, with an encoding of addresses
    4,    0x78, 30,                                         // code counts in 4, data in -8; return address
    1,    0,                                                // the encoding: absolute, 8 bytes
    0x0C, 31,   0,    0,    0,    0,    0,                  // CFA = sp
    0x6C, 0,    0,    0,    0x1C, 0,    0,    0,            // 108 bytes of the gate; 28 back is what is in common
    0,    0,    0,    0,    0,    0,    0,    0,            // its address
    0,    0,    0,    0,    0,    0,    0,    0,    0,      // its size; nothing of its own
    0x42, 0x0E, 0xC0, 1,                                    // sub sp: CFA = sp + 192
    0x41, 0x9D, 20,   0x9E, 19,                             // x29 at CFA - 160, x30 at CFA - 152
    0x4A,                                                   // behind the other nine stp
    0x93, 18,   0x94, 17,   0x95, 16,   0x96, 15,           // x19 to x22
    0x97, 14,   0x98, 13,   0x99, 12,   0x9A, 11,           // x23 to x26
    0x9B, 10,   0x9C, 9,                                    // x27, x28
    5,    72,   8,    5,    73,   7,    5,    74,   6,      // d8 to d10
    5,    75,   5,    5,    76,   4,    5,    77,   3,      // d11 to d13
    5,    78,   2,    5,    79,   1,                        // d14, d15
    0x5E, 0x0E, 0,                                          // before ret: CFA = sp, and the caller's are
    0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,         // x19 to x26
    0xDB, 0xDC, 0xDD, 0xDE,                                 // x27 to x30
    6,    72,   6,    73,   6,    74,   6,    75,   6, 76,  // d8 to d12
    6,    77,   6,    78,   6,    79,                       // d13 to d15
    0,    0,                                                // nothing more
    0,    0,    0,    0,                                    // the end
};
constexpr size_t kGateAddressOffset = 32;
constexpr size_t kGateSizeOffset = 40;
static_assert(sizeof kCallGateFrames == 24 + 4 + 0x6C + 4);

// Entered from a thunk with the context in x17, everything else as the machine code's call left it. The CallFrame lies
// behind the record of x29 and x30. The results begin as 0: a handler that gives up returns 0.
constexpr uint32_t kCallbackCommon[] = {
    0xA9B77BFD,     // stp x29, x30, [sp, #-144]!
    0x910003FD,     // mov x29, sp
    0xA90107E0,     // stp x0, x1, [sp, #0x10]
    0xA9020FE2,     // stp x2, x3, [sp, #0x20]
    0xA90317E4,     // stp x4, x5, [sp, #0x30]
    0xA9047FFF,     // stp xzr, xzr, [sp, #0x40]
    0x6D0507E0,     // stp d0, d1, [sp, #0x50]
    0x6D060FE2,     // stp d2, d3, [sp, #0x60]
    0x6D0717E4,     // stp d4, d5, [sp, #0x70]
    0x6D081FE6,     // stp d6, d7, [sp, #0x80]
    0xAA1103E0,     // mov x0, x17
    0x910043E1,     // add x1, sp, #0x10
    0x580000D1,     // ldr x17, handler
    0xD63F0220,     // blr x17
    0xF94023E0,     // ldr x0, [sp, #0x40]
    0xFD4027E0,     // ldr d0, [sp, #0x48]
    0xA8C97BFD,     // ldp x29, x30, [sp], #144
    0xD65F03C0,     // ret
    0,          0,  // handler
};
constexpr size_t kHandlerOffset = sizeof kCallbackCommon - sizeof(uint64_t);
static_assert(kHandlerOffset % 8 == 0 && kHandlerOffset == 12 * kWordBytes + 24);

constexpr uint32_t kCallbackThunk[] = {
    0xD503245F,           // bti c
    0x58000071,           // ldr x17, context
    0x14000000,           // b common
    kUdf,       0,    0,  // context
    kUdf,       kUdf,
};
constexpr size_t kThunkJumpOffset = 8, kThunkContextOffset = 16;
static_assert(sizeof kCallbackThunk % kGranuleBytes == 0);

}  // namespace arm64

const size_t kCallbackThunkBytes = sizeof arm64::kCallbackThunk;

size_t CallGateBytes() { return sizeof arm64::kCallGate; }

void WriteCallGate(uint8_t* out) { arm64::PutWords(out, arm64::kCallGate); }

size_t CallGateFramesBytes() { return sizeof arm64::kCallGateFrames; }

void WriteCallGateFrames(uint8_t* out, uint64_t gate) {
  std::memcpy(out, arm64::kCallGateFrames, sizeof arm64::kCallGateFrames);
  StoreAs<uint64_t>(out + arm64::kGateAddressOffset, gate);
  StoreAs<uint64_t>(out + arm64::kGateSizeOffset, sizeof arm64::kCallGate);
}

size_t CallbackCommonBytes() { return sizeof arm64::kCallbackCommon; }

void WriteCallbackCommon(uint8_t* out, CallbackHandler handler) {
  arm64::PutWords(out, arm64::kCallbackCommon);
  StoreAs<uint64_t>(out + arm64::kHandlerOffset, reinterpret_cast<uint64_t>(handler));
}

void WriteCallbackThunk(uint8_t* out, uint64_t at, uint64_t common, const void* context) {
  static const KindInfo& branch = *FindKind("R_AARCH64_JUMP26");
  const uint64_t distance = ValueOf(branch.field, common, at + arm64::kThunkJumpOffset);
  JIT_ARENA_CHECK(Check(branch, distance));
  arm64::PutWords(out, arm64::kCallbackThunk);
  Apply(branch, out + arm64::kThunkJumpOffset, distance);
  StoreAs<uint64_t>(out + arm64::kThunkContextOffset, reinterpret_cast<uint64_t>(context));
}

}  // namespace jit_arena::arch
