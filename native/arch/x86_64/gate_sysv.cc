// x86-64 under System V: the call gate and callbacks, which depend on the C convention. Other code of the arena's own
// is in stubs.cc.
//
// Each piece is a table of bytes with its assembly beside it; what varies is stored over the zeroes left for it. All of
// it is position-independent but the thunk's jump. Thunks leave r11, the exit register, alone; the call gate may use
// it, because no exit has been taken where machine code is entered.
//
// The convention (psABI §3.2): integer arguments in rdi rsi rdx rcx r8 r9, floating ones in xmm0-7, results in rax and
// xmm0; the callee keeps rbx rbp r12-r15, mxcsr's control bits and the x87 control word. Every frame begins with push
// rbp; mov rbp, rsp, so that a debugger or profiler that follows rbp walks through. On Windows a gate changes the
// gate's own arguments (rcx, rdx), saves rsi, rdi and xmm6-15 as well, passes only four arguments in registers (rcx rdx
// r8 r9 or xmm0-3, one count for both), leaves 32 bytes above each call for the callee, and registers unwind data for
// the gate and the common part (RtlAddFunctionTable).
#include <cstddef>

#include "arch/arch.h"
#include "base/bits.h"

namespace jit_arena::arch {
namespace x86_64 {

// The displacements below.
static_assert(offsetof(CallFrame, integers) == 0);
static_assert(offsetof(CallFrame, integer_result) == 0x30);
static_assert(offsetof(CallFrame, float_result) == 0x38);
static_assert(offsetof(CallFrame, floats) == 0x40);
static_assert(sizeof(CallFrame) == 0x80);

// The frame's address and the control words wait on the stack, because the callee may keep no register but rsp:
// [rsp] mxcsr, [rsp + 4] x87 control word, [rsp + 8] frame; rsp is 16-aligned (return address, six pushes, 24 bytes).
// The control words are always reloaded: comparing them first would mean to read them.
constexpr uint8_t kCallGate[] = {
    0x55,                          // push rbp
    0x48, 0x89, 0xE5,              // mov rbp, rsp
    0x53,                          // push rbx
    0x41, 0x54,                    // push r12
    0x41, 0x55,                    // push r13
    0x41, 0x56,                    // push r14
    0x41, 0x57,                    // push r15
    0x48, 0x83, 0xEC, 0x18,        // sub rsp, 24
    0x48, 0x89, 0x14, 0x24,        // mov [rsp], rdx
    0x48, 0x89, 0x74, 0x24, 0x08,  // mov [rsp + 8], rsi
    0x49, 0x89, 0xFB,              // mov r11, rdi
    0xF2, 0x0F, 0x10, 0x46, 0x40,  // movsd xmm0, [rsi + 0x40]
    0xF2, 0x0F, 0x10, 0x4E, 0x48,  // movsd xmm1, [rsi + 0x48]
    0xF2, 0x0F, 0x10, 0x56, 0x50,  // movsd xmm2, [rsi + 0x50]
    0xF2, 0x0F, 0x10, 0x5E, 0x58,  // movsd xmm3, [rsi + 0x58]
    0xF2, 0x0F, 0x10, 0x66, 0x60,  // movsd xmm4, [rsi + 0x60]
    0xF2, 0x0F, 0x10, 0x6E, 0x68,  // movsd xmm5, [rsi + 0x68]
    0xF2, 0x0F, 0x10, 0x76, 0x70,  // movsd xmm6, [rsi + 0x70]
    0xF2, 0x0F, 0x10, 0x7E, 0x78,  // movsd xmm7, [rsi + 0x78]
    0x48, 0x8B, 0x3E,              // mov rdi, [rsi]
    0x48, 0x8B, 0x56, 0x10,        // mov rdx, [rsi + 0x10]
    0x48, 0x8B, 0x4E, 0x18,        // mov rcx, [rsi + 0x18]
    0x4C, 0x8B, 0x46, 0x20,        // mov r8, [rsi + 0x20]
    0x4C, 0x8B, 0x4E, 0x28,        // mov r9, [rsi + 0x28]
    0x48, 0x8B, 0x76, 0x08,        // mov rsi, [rsi + 8]
    0xB8, 0x08, 0x00, 0x00, 0x00,  // mov eax, 8: a variadic callee saves all of xmm0-7
    0x41, 0xFF, 0xD3,              // call r11
    0x48, 0x8B, 0x4C, 0x24, 0x08,  // mov rcx, [rsp + 8]
    0x48, 0x89, 0x41, 0x30,        // mov [rcx + 0x30], rax
    0xF2, 0x0F, 0x11, 0x41, 0x38,  // movsd [rcx + 0x38], xmm0
    0xFC,                          // cld: C++ expects the direction flag clear,
    0x0F, 0x77,                    // emms: and no value left on the x87 stack
    0x0F, 0xAE, 0x14, 0x24,        // ldmxcsr [rsp]
    0xD9, 0x6C, 0x24, 0x04,        // fldcw [rsp + 4]
    0x48, 0x83, 0xC4, 0x18,        // add rsp, 24
    0x41, 0x5F,                    // pop r15
    0x41, 0x5E,                    // pop r14
    0x41, 0x5D,                    // pop r13
    0x41, 0x5C,                    // pop r12
    0x5B,                          // pop rbx
    0x5D,                          // pop rbp
    0xC3,                          // ret
};

// DWARF 4, 6.4; the registers' numbers are the psABI's (figure 3.36): rbx 3, rbp 6, rsp 7, r12 to r15, return
// address 16. The canonical frame address (CFA) is rsp before the call. Offsets of saved registers count in 8 bytes
// down from it.
constexpr uint8_t kCallGateFrames[] = {
    0x14, 0,    0,    0,                                        // 20 bytes that functions have in common
    0,    0,    0,    0,    1,    'z',  'R', 0,                 // version 1, with an encoding of addresses
    1,    0x78, 16,                                             // code counts in bytes, data in -8; return address
    1,    0,                                                    // the encoding: absolute, 8 bytes
    0x0C, 7,    8,    0x90, 1,    0,    0,                      // CFA = rsp + 8; return address at CFA - 8
    0x34, 0,    0,    0,    0x1C, 0,    0,   0,                 // 52 bytes of the gate; 28 back is what is in common
    0,    0,    0,    0,    0,    0,    0,   0,                 // its address
    0,    0,    0,    0,    0,    0,    0,   0,    0,           // its size; nothing of its own
    0x41, 0x0E, 16,   0x86, 2,                                  // push rbp: CFA = rsp + 16, rbp at CFA - 16
    0x43, 0x0D, 6,                                              // mov rbp, rsp: CFA = rbp + 16
    0x49, 0x83, 3,    0x8C, 4,    0x8D, 5,   0x8E, 6, 0x8F, 7,  // five pushes: rbx, r12 to r15
    0x02, 0,    0x0C, 7,    8,    0xC6,                         // before ret: CFA = rsp + 8, rbp the caller's
    0,    0,    0,    0,    0,    0,                            // nothing more
    0,    0,    0,    0,                                        // the end
};
constexpr size_t kGateAddressOffset = 32;
constexpr size_t kGateSizeOffset = 40;
constexpr size_t kToRetOffset = 69;  // from behind the pushes, which end at 13
static_assert(kCallGateFrames[kToRetOffset - 1] == 0x02 && sizeof kCallGateFrames == 24 + 4 + 0x34 + 4);

// Entered from a thunk with the context in r10, everything else as the machine code's call left it. The CallFrame is
// the whole of the local frame, so rsp is its address, and 16-aligned. The results begin as 0: a handler that gives
// up returns 0.
constexpr uint8_t kCallbackCommon[] = {
    0x55,                                                        // push rbp
    0x48, 0x89, 0xE5,                                            // mov rbp, rsp
    0x48, 0x81, 0xEC, 0x80, 0x00, 0x00, 0x00,                    // sub rsp, 0x80
    0x48, 0x89, 0x3C, 0x24,                                      // mov [rsp], rdi
    0x48, 0x89, 0x74, 0x24, 0x08,                                // mov [rsp + 8], rsi
    0x48, 0x89, 0x54, 0x24, 0x10,                                // mov [rsp + 0x10], rdx
    0x48, 0x89, 0x4C, 0x24, 0x18,                                // mov [rsp + 0x18], rcx
    0x4C, 0x89, 0x44, 0x24, 0x20,                                // mov [rsp + 0x20], r8
    0x4C, 0x89, 0x4C, 0x24, 0x28,                                // mov [rsp + 0x28], r9
    0x31, 0xC0,                                                  // xor eax, eax
    0x48, 0x89, 0x44, 0x24, 0x30,                                // mov [rsp + 0x30], rax
    0x48, 0x89, 0x44, 0x24, 0x38,                                // mov [rsp + 0x38], rax
    0xF2, 0x0F, 0x11, 0x44, 0x24, 0x40,                          // movsd [rsp + 0x40], xmm0
    0xF2, 0x0F, 0x11, 0x4C, 0x24, 0x48,                          // movsd [rsp + 0x48], xmm1
    0xF2, 0x0F, 0x11, 0x54, 0x24, 0x50,                          // movsd [rsp + 0x50], xmm2
    0xF2, 0x0F, 0x11, 0x5C, 0x24, 0x58,                          // movsd [rsp + 0x58], xmm3
    0xF2, 0x0F, 0x11, 0x64, 0x24, 0x60,                          // movsd [rsp + 0x60], xmm4
    0xF2, 0x0F, 0x11, 0x6C, 0x24, 0x68,                          // movsd [rsp + 0x68], xmm5
    0xF2, 0x0F, 0x11, 0x74, 0x24, 0x70,                          // movsd [rsp + 0x70], xmm6
    0xF2, 0x0F, 0x11, 0x7C, 0x24, 0x78,                          // movsd [rsp + 0x78], xmm7
    0x4C, 0x89, 0xD7,                                            // mov rdi, r10
    0x48, 0x89, 0xE6,                                            // mov rsi, rsp
    0x48, 0xB8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // mov rax, handler
    0xFF, 0xD0,                                                  // call rax
    0x48, 0x8B, 0x44, 0x24, 0x30,                                // mov rax, [rsp + 0x30]
    0xF2, 0x0F, 0x10, 0x44, 0x24, 0x38,                          // movsd xmm0, [rsp + 0x38]
    0xC9,                                                        // leave
    0xC3,                                                        // ret
};
constexpr size_t kHandlerOffset = 0x6C;
static_assert(kCallbackCommon[kHandlerOffset - 2] == 0x48 && kCallbackCommon[kHandlerOffset - 1] == 0xB8);

constexpr uint8_t kCallbackThunk[] = {
    0x49, 0xBA, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // mov r10, context
    0xE9, 0x00, 0x00, 0x00, 0x00,                                // jmp common
    0xCC,                                                        // int3
};
constexpr size_t kThunkContextOffset = 2;
constexpr size_t kThunkJumpEnd = 15;
static_assert(sizeof kCallbackThunk == kGranuleBytes);

}  // namespace x86_64

const size_t kCallbackThunkBytes = sizeof x86_64::kCallbackThunk;

size_t CallGateBytes() { return sizeof x86_64::kCallGate; }

void WriteCallGate(uint8_t* out) { std::memcpy(out, x86_64::kCallGate, sizeof x86_64::kCallGate); }

size_t CallGateFramesBytes() { return sizeof x86_64::kCallGateFrames; }

void WriteCallGateFrames(uint8_t* out, uint64_t gate) {
  std::memcpy(out, x86_64::kCallGateFrames, sizeof x86_64::kCallGateFrames);
  StoreAs<uint64_t>(out + x86_64::kGateAddressOffset, gate);
  StoreAs<uint64_t>(out + x86_64::kGateSizeOffset, sizeof x86_64::kCallGate);
  out[x86_64::kToRetOffset] = static_cast<uint8_t>(sizeof x86_64::kCallGate - 1 - 13);
}

size_t CallbackCommonBytes() { return sizeof x86_64::kCallbackCommon; }

void WriteCallbackCommon(uint8_t* out, CallbackHandler handler) {
  std::memcpy(out, x86_64::kCallbackCommon, sizeof x86_64::kCallbackCommon);
  StoreAs<uint64_t>(out + x86_64::kHandlerOffset, reinterpret_cast<uint64_t>(handler));
}

void WriteCallbackThunk(uint8_t* out, uint64_t at, uint64_t common, const void* context) {
  const int64_t distance = static_cast<int64_t>(common - (at + x86_64::kThunkJumpEnd));
  JIT_ARENA_CHECK(FitsIn<int32_t>(distance));
  std::memcpy(out, x86_64::kCallbackThunk, sizeof x86_64::kCallbackThunk);
  StoreAs<uint64_t>(out + x86_64::kThunkContextOffset, reinterpret_cast<uint64_t>(context));
  StoreAs<int32_t>(out + x86_64::kThunkJumpEnd - sizeof(int32_t), static_cast<int32_t>(distance));
}

}  // namespace jit_arena::arch
