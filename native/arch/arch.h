// What is particular to a CPU: reloc kinds, how each field is checked, applied and shifted, and the few pieces of
// machine code that the arena itself owns. One .cc file per CPU implements this header; nothing above has an #ifdef.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"

namespace jit_arena::arch {

// Name of the CPU as in process.arch ("x64", "arm64") and as used in messages.
extern const char* const kCpuName;

// The longest distance that every direct branch inside one arena may span; an arena is never longer.
extern const uint64_t kMaxArenaBytes;

// The byte that fills freed code: executing it traps.
extern const uint8_t kPoisonByte;

// psABI number of a reloc kind (x86-64: R_X86_64_64 = 1, R_X86_64_PC32 = 2, …).
using RelocKind = uint8_t;

// How the value of a field follows from addresses; the linker needs no more than this to move code.
enum class Shape : uint8_t {
  kAbsolute,  // S + A
  kRelative,  // S + A - P
  kGot,       // G + A - P, where G is the address of a slot that holds S (the psABI's G + GOT)
};

struct KindInfo {
  RelocKind kind;
  const char* name;  // "R_X86_64_PC32"
  Shape shape;
  uint8_t field_bytes;     // bytes of the site: 4 or 8
  bool is_branch;          // the target may be reached through a veneer
  int8_t branch_bias = 0;  // a branch goes to S + A + branch_bias: a rel32 counts from its end (docs/relocs.md)
};

// Null for a kind that this CPU does not have. By number: one array lookup. By name: a search.
const KindInfo* FindKind(RelocKind kind);
const KindInfo* FindKind(std::string_view name);
// All kinds, for docs, bindings and tests.
const KindInfo* Kinds(size_t* count);

// True when `value` (S + A, S + A - P or G + A - P as the shape says, modulo 2^64) fits the field.
bool Check(const KindInfo& kind, uint64_t value);
// Clears the field at `site`, which may be unaligned, and inserts `value`; touches the field's bytes alone, never an
// opcode. Idempotent; Check's twin: `value` passed it.
void Apply(const KindInfo& kind, uint8_t* site, uint64_t value);
// What Apply inserted, sign- or zero-extended to 64 bits as the kind says.
uint64_t Read(const KindInfo& kind, const uint8_t* site);

// Adds `delta` (modulo the field's width) to what a kept field of `field_bytes` bytes says: the twin of Check and Apply
// for a move, which cannot change whether the value fits.
void Shift(uint8_t field_bytes, uint8_t* site, uint64_t delta);

// Makes this core's instruction fetch see what other cores have written and published. Nothing on x86-64: instruction
// caches are coherent there, and a core notices by physical address that what it has fetched was written. arm64: isb.
void SynchroniseThisCore();

// Tells the core that it is waiting in a loop.
void Pause();

// An external link: one granule that holds a veneer (a jump through the slot) and the slot itself, so that branches
// and GOT loads of one far address share it. Position-independent: it may be copied. It belongs at the start of a
// granule, so that the slot is naturally aligned; the veneer changes no register.
inline constexpr size_t kExternalLinkBytes = 16;
inline constexpr size_t kExternalLinkSlotOffset = 8;  // the 8-byte address, naturally aligned
void WriteExternalLink(uint8_t* out, uint64_t address);

// Exits (DESIGN §7). A trace leaves by loading an exit record's address into the exit register and jumping through the
// record's first word: on x86-64 `lea r11, [rip + record]; jmp [r11]`, 10 bytes.
inline constexpr size_t kExitRecordBytes = 16;
inline constexpr size_t kExitRecordTemperatureOffset = 14;
// The temperature counts down in its upper 12 bits; the lower four are the host side's, for backoff.
inline constexpr int kTemperatureShift = 4;

// The exit stub, where cold exits go: counts the record's temperature down and returns the record's address to the
// call gate; when the count was used up, it jumps to the address in its hot slot instead, with the record in the exit
// register and every other register as the trace left it.
size_t ExitStubBytes();
inline constexpr uint32_t kHotSlotOffset = 24;  // 8 bytes, aligned
void WriteExitStub(uint8_t* out, uint64_t hot);
// What the hot slot holds unless the host has a stub of its own: returns the record's address + 1.
size_t HotReturnBytes();
void WriteHotReturn(uint8_t* out);
// Where a trace jumps when it is done: returns 0.
size_t DoneStubBytes();
void WriteDoneStub(uint8_t* out);

// Registers as the call gate and callback thunks exchange them with C++. All of the argument registers of the System
// V psABI (§3.2.3): 6 integer, 8 floating; values in the low bytes. Further arguments would be on the stack and cannot
// pass.
struct CallFrame {
  uint64_t integers[6];
  uint64_t integer_result;
  uint64_t float_result;  // bits of xmm0
  uint64_t floats[8];     // bits of xmm0..xmm7
};

// How a thread computes with floating-point numbers: mxcsr in the lower half, the x87 control word above it.
using FloatControl = uint64_t;
// Of it what has happened so far, and not how to go on.
inline constexpr FloatControl kFloatStatus = 0x3F;
// The calling thread's. To read it takes longer than a call through the gate (6 ns on AMD Zen 4): so the gate is told.
FloatControl ReadFloatControl();
void WriteFloatControl(FloatControl control);

// The call gate, a function of the platform's C convention. Loads every argument register from the frame, calls `entry`
// with an aligned stack, saves all callee-saved registers itself (a trace may change them), stores both result
// registers. al holds 8 for variadic callees. `entry` may change every register but rsp: on return `control` is in
// force, the direction flag and the x87 stack are cleared. The arguments in the frame stay as they are. Any thread,
// nested at will; the frame belongs to the call.
size_t CallGateBytes();
void WriteCallGate(uint8_t* out);
using CallGate = void (*)(const void* entry, CallFrame* frame, FloatControl control);

// Callbacks: machine code calls a thunk, the thunk calls `handler(context, frame)` and returns the frame's results
// as a C function would. The common part is written once per page of thunks; each thunk is one granule. The frame lives
// on the stack until the handler returns, both results are 0 until it sets them, and it must not unwind (no exception,
// no longjmp) through the thunk. The common part is position-independent; a thunk is written for its place.
using CallbackHandler = void (*)(void* context, CallFrame* frame);
size_t CallbackCommonBytes();
void WriteCallbackCommon(uint8_t* out, CallbackHandler handler);
inline constexpr size_t kCallbackThunkBytes = 16;
// `at` is the executable address of the thunk and `common` that of the common part (within ±2 GiB).
void WriteCallbackThunk(uint8_t* out, uint64_t at, uint64_t common, const void* context);

}  // namespace jit_arena::arch
