// What is particular to a CPU: reloc kinds, how each field is checked, applied and shifted, and the few pieces of
// machine code that the arena itself owns. The files of arch/<cpu> implement this header, those named for a C
// convention where that decides too; nothing above has an #ifdef.
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

// psABI number of a reloc kind (R_X86_64_PC32 = 2, R_AARCH64_CALL26 = 283).
using RelocKind = uint16_t;

// What a field is to whoever moves code: which bits of the site hold the value, and how the value follows from the
// addresses of target and site. Numbers are the CPU's own. Those that a move may rewrite come first, and class 0 is the
// commonest (arch/kept_relocs.h).
using FieldClass = uint8_t;

struct FieldInfo {
  uint8_t bytes;      // of the site, which lies within 8 bytes
  bool relative;      // the value counts from the site
  bool follows;       // the target may move; not where the field is too narrow for an arena's addresses
  uint8_t rest_bits;  // of the target's address, the lowest: a move needs them, and the field does not say them
  // Whether one store may change the field while other cores execute what it is in.
  bool changes_beside_others = true;
};
extern const FieldInfo kFields[];
// Bits for the number of a class that a move may rewrite.
extern const int kFieldClassBits;
inline const FieldInfo& FieldOf(FieldClass field) { return kFields[field]; }

struct KindInfo {
  RelocKind kind;
  const char* name;  // "R_X86_64_PC32"
  FieldClass field;
  bool through_slot;       // the field is for G, the address of a slot that holds S (the psABI's G + GOT), instead of S
  bool is_branch;          // the target may be reached through a veneer
  int8_t branch_bias = 0;  // a branch goes to S + A + branch_bias: a rel32 counts from its end (docs/relocs.md)
  bool slot_holds_sum = false;  // the slot holds S + A, and the field is for G alone
};

// All kinds.
const KindInfo* Kinds(size_t* count);
// Null for a kind that this CPU does not have. By number: one array lookup. By name: a search.
const KindInfo* FindKind(RelocKind kind);
inline const KindInfo* FindKind(std::string_view name) {
  size_t count;
  const KindInfo* kinds = Kinds(&count);
  for (const KindInfo* info = kinds; info != kinds + count; info++)
    if (name == info->name) return info;
  return nullptr;
}

// For messages: what reaches far, in words, and the kind that reaches within an arena.
extern const char* const kFarKinds;
extern const char* const kNearKind;

// What a field at `site` says of `target` (S + A or G + A): S + A, S + A - P and the like, modulo 2^64.
uint64_t ValueOf(FieldClass field, uint64_t target, uint64_t site);
// True when the value fits the field. It fits everywhere between two places of an end when it fits at both.
bool Check(const KindInfo& kind, uint64_t value);
// Clears the field at `site`, which may be unaligned, and inserts `value`; touches the field's bytes alone, never an
// opcode. Idempotent; Check's twin: `value` passed it.
void Apply(const KindInfo& kind, uint8_t* site, uint64_t value);
// What Apply inserted, sign- or zero-extended to 64 bits as the kind says.
uint64_t Read(const KindInfo& kind, const uint8_t* site);

// A value's bits that the field has no room for. There are some only in *normal form*: when what the target moves with
// and the site's section are taken to begin at address 0.
uint64_t Beyond(FieldClass field, uint64_t value);

// The ends of a field: the address of what the target moves with, and the site's.
struct Ends {
  uint64_t target;
  uint64_t site;
};
// Rewrites a field that is right for `from`, or was inserted in normal form and `from` is that, so that it is right for
// `to`, or in normal form: the twin of Check and Apply for a move, which cannot change whether the value fits. `rest`
// is the lowest FieldInfo::rest_bits of the target's distance from what it moves with. Where there are none, and where
// the target stays, only how far target and site have moved matters. Returns what the new value has beyond the field,
// where the old one had nothing.
uint64_t Shift(FieldClass field, uint8_t* site, uint32_t rest, const Ends& from, const Ends& to);

// Makes this core's instruction fetch see what other cores have written and published. Nothing on x86-64: instruction
// caches are coherent there, and a core notices by physical address that what it has fetched was written. arm64: isb.
void SynchroniseThisCore();

// Makes bytes that this core has written visible to instruction fetch of this core at the address where they execute.
void MakeFetchable(const uint8_t* at, size_t bytes);

// Tells the core that it is waiting in a loop.
void Pause();

// A far slot: one granule that holds a veneer and a GOT slot for one far address. Branches go to the veneer, which
// jumps through the GOT slot and changes no register but one that a psABI keeps for this (x17 on arm64); loads read the
// GOT slot. Position-independent: it may be copied.
// It begins with a granule, so that the GOT slot is naturally aligned.
inline constexpr size_t kFarSlotBytes = 16;
inline constexpr size_t kFarSlotGotOffset = 8;  // the 8-byte address, naturally aligned
void WriteFarSlot(uint8_t* out, uint64_t address);

// Exits (docs/traces.md). A trace leaves by loading an exit record's address into the exit register and jumping through
// the record's first word: on x86-64 `lea r11, [rip + record]; jmp [r11]`, on arm64 with the record in x16.
inline constexpr size_t kExitRecordBytes = 16;
inline constexpr size_t kExitRecordTemperatureOffset = 14;
// The temperature counts down in its upper 12 bits; the lower four are the host side's, for backoff.
inline constexpr int kTemperatureShift = 4;

// The exit stub, where cold exits go: counts the record's temperature down and returns the record's address to the
// call gate; when the count was used up, it jumps to the address in its hot slot instead, with the record in the exit
// register and every other register as the trace left it, but for the one that a far slot changes.
size_t ExitStubBytes();
extern const uint32_t kHotSlotOffset;  // 8 bytes, aligned
void WriteExitStub(uint8_t* out, uint64_t hot);
// What the hot slot holds unless the host has a stub of its own: returns the record's address + 1.
size_t HotReturnBytes();
void WriteHotReturn(uint8_t* out);
// Where a trace jumps when it is done: returns 0.
size_t DoneStubBytes();
void WriteDoneStub(uint8_t* out);

// A function without arguments that returns `answer`, with which a writer is tried (os/trial.h). Position-independent.
size_t TrialFunctionBytes();
inline constexpr size_t kMostTrialFunctionBytes = 16;
inline constexpr uint32_t kMostTrialAnswer = 0xFF;
void WriteTrialFunction(uint8_t* out, uint32_t answer);

// Registers as the call gate and callback thunks exchange them with C++. All of the argument registers of the System
// V psABI (§3.2.3): 6 integer, 8 floating; values in the low bytes. Further arguments would be on the stack and cannot
// pass. AAPCS64 has two more integer ones; no CPU takes what another does not.
struct CallFrame {
  uint64_t integers[6];
  uint64_t integer_result;
  uint64_t float_result;  // bits of xmm0, d0
  uint64_t floats[8];     // bits of xmm0..xmm7, d0..d7
};

// How a thread computes with floating-point numbers: on x86-64 mxcsr in the lower half, the x87 control word above it;
// on arm64 FPCR.
using FloatControl = uint64_t;
// Of it what has happened so far, and not how to go on.
extern const FloatControl kFloatStatus;
// The calling thread's. To read it takes longer than a call through the gate (6 ns on AMD Zen 4): so the gate is told.
FloatControl ReadFloatControl();
void WriteFloatControl(FloatControl control);

// The call gate, a function of the platform's C convention. Loads every argument register from the frame, calls `entry`
// with an aligned stack, saves all callee-saved registers itself (a trace may change them), stores both result
// registers. On x86-64 al holds 8 for variadic callees. `entry` may change every register but the stack pointer: on
// return `control` is in force, and x86-64's direction flag and x87 stack are cleared. The arguments in the frame stay
// as they are. Any thread, nested at will; the frame belongs to the call.
size_t CallGateBytes();
void WriteCallGate(uint8_t* out);
using CallGate = void (*)(const void* entry, CallFrame* frame, FloatControl control);

// The gate's table for the unwinder, in the form of .eh_frame with absolute addresses and a 0 at its end: an exception
// passes the gate as it passes a C function.
size_t CallGateFramesBytes();
void WriteCallGateFrames(uint8_t* out, uint64_t gate);

// Callbacks: machine code calls a thunk, the thunk calls `handler(context, frame)` and returns the frame's results
// as a C function would. The common part is written once per page of thunks; a thunk is whole granules. The frame lives
// on the stack until the handler returns, both results are 0 until it sets them, and it must not unwind (no exception,
// no longjmp) through the thunk. The common part is position-independent; a thunk is written for its place.
using CallbackHandler = void (*)(void* context, CallFrame* frame);
size_t CallbackCommonBytes();
void WriteCallbackCommon(uint8_t* out, CallbackHandler handler);
extern const size_t kCallbackThunkBytes;
// `at` is the executable address of the thunk and `common` that of the common part, on the same page.
void WriteCallbackThunk(uint8_t* out, uint64_t at, uint64_t common, const void* context);

}  // namespace jit_arena::arch
