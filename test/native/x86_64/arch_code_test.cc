// x86-64: the machine code of native/arch executed for real.
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "arch/arch.h"
#include "base/bits.h"
#include "test.h"

namespace jit_arena::arch {
namespace {

// Memory that is filled once, then executable and no longer writable.
class ArchTestCode {
 public:
  ArchTestCode() : bytes_(static_cast<uint8_t*>(Map())) {}
  ~ArchTestCode() { munmap(bytes_, kBytes); }

  // Room for `bytes`, 16-aligned, to be filled before Seal.
  uint8_t* Reserve(size_t bytes) {
    uint8_t* at = bytes_ + used_;
    used_ += AlignUp(bytes, kGranuleBytes);
    CHECK(used_ <= kBytes);
    return at;
  }
  uint8_t* Append(std::initializer_list<uint8_t> bytes) {
    uint8_t* at = Reserve(bytes.size());
    std::memcpy(at, bytes.begin(), bytes.size());
    return at;
  }
  CallGate AppendGate() {
    uint8_t* at = Reserve(CallGateBytes());
    WriteCallGate(at);
    return reinterpret_cast<CallGate>(at);
  }
  uint8_t* AppendFarSlot(uint64_t address) {
    uint8_t* at = Reserve(kFarSlotBytes);
    WriteFarSlot(at, address);
    return at;
  }
  uint8_t* AppendCommon(CallbackHandler handler) {
    uint8_t* at = Reserve(CallbackCommonBytes());
    WriteCallbackCommon(at, handler);
    return at;
  }
  uint8_t* AppendThunk(const uint8_t* common, const void* context) {
    uint8_t* at = Reserve(kCallbackThunkBytes);
    WriteCallbackThunk(at, reinterpret_cast<uint64_t>(at), reinterpret_cast<uint64_t>(common), context);
    return at;
  }
  void Seal() { CHECK(mprotect(bytes_, kBytes, PROT_READ | PROT_EXEC) == 0); }

 private:
  static constexpr size_t kBytes = 4096;
  static void* Map() { return mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

  uint8_t* bytes_;
  size_t used_ = 0;
};

template <class Function>
const void* EntryOf(Function* function) {
  return reinterpret_cast<const void*>(function);
}

uint64_t BitsOf(double value) { return std::bit_cast<uint64_t>(value); }
double DoubleOf(uint64_t bits) { return std::bit_cast<double>(bits); }

// Integers 1 to 6 and floats 1.5 to 8.5: a frame in which every register differs.
CallFrame NumberedFrame() {
  CallFrame frame{};
  for (int i = 0; i < 6; i++) frame.integers[i] = static_cast<uint64_t>(i + 1);
  for (int i = 0; i < 8; i++) frame.floats[i] = BitsOf(i + 1.5);
  return frame;
}

uint64_t SixIntegers(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

double EightFloats(double a, double b, double c, double d, double e, double f, double g, double h) {
  return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g + 10000000 * h;
}

double Mixed(int a, double p, int64_t b, double q, uint32_t c, double r, int8_t d, double s, uint64_t e, double t,
             int f, double u, double v, double w) {
  return EightFloats(p, q, r, s, t, u, v, w) +
         static_cast<double>(SixIntegers(static_cast<uint64_t>(a), static_cast<uint64_t>(b), c,
                                         static_cast<uint64_t>(d), e, static_cast<uint64_t>(f)));
}

float OneFloat(float a) { return a * 2; }

TEST(arch_gate_passes_arguments_and_results) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();

  CallFrame frame = NumberedFrame();
  gate(EntryOf(SixIntegers), &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 654321);
  CHECK(frame.integers[0] == 1 && frame.integers[5] == 6);  // the gate writes results only

  frame.integers[0] = 0xFFFFFFFFFFFFFFFF;  // all 64 bits pass
  gate(EntryOf(SixIntegers), &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 654319);

  frame = NumberedFrame();
  gate(EntryOf(EightFloats), &frame, ReadFloatControl());
  CHECK(DoubleOf(frame.float_result) == EightFloats(1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5));

  gate(EntryOf(Mixed), &frame, ReadFloatControl());
  CHECK(DoubleOf(frame.float_result) == Mixed(1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7.5, 8.5));

  const float single = 1.25F;
  frame.floats[0] = std::bit_cast<uint32_t>(single);
  gate(EntryOf(OneFloat), &frame, ReadFloatControl());
  CHECK(std::bit_cast<float>(static_cast<uint32_t>(frame.float_result)) == 2.5F);
}

TEST(arch_gate_calls_variadic_functions) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  const uint8_t* return_al = code.Append({0x0F, 0xB6, 0xC0, 0xC3});  // movzx eax, al; ret
  code.Seal();

  char text[200];
  CallFrame frame = NumberedFrame();
  frame.integers[0] = reinterpret_cast<uint64_t>(text);
  frame.integers[1] = sizeof text;
  frame.integers[2] = reinterpret_cast<uint64_t>("%d %s %d: %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f");
  frame.integers[3] = 42;
  frame.integers[4] = reinterpret_cast<uint64_t>("words");
  gate(EntryOf(snprintf), &frame, ReadFloatControl());
  const std::string expected = "42 words 6: 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5";
  CHECK_EQ(std::string(text), expected);
  CHECK_EQ(static_cast<size_t>(static_cast<int>(frame.integer_result)), expected.size());

  // Any value but 0 would do for glibc; the psABI wants an upper bound of the floating registers in use.
  gate(return_al, &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 8);
}

// movaps faults unless the stack was aligned when this was called.
extern "C" __attribute__((naked)) void ArchTestAlignedStore() {
  asm("sub $24, %rsp\n"
      "movaps %xmm0, (%rsp)\n"
      "mov (%rsp), %rax\n"
      "add $24, %rsp\n"
      "ret\n");
}

TEST(arch_gate_aligns_the_stack) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();
  CallFrame frame = NumberedFrame();
  gate(EntryOf(ArchTestAlignedStore), &frame, ReadFloatControl());
  CHECK(DoubleOf(frame.integer_result) == 1.5);
}

// What machine code is allowed to do: change every register but rsp, every control bit, and leave the x87 stack full.
extern "C" __attribute__((naked)) void ArchTestClobberAll() {
  asm("movl $0xFFC0, -8(%rsp)\n"  // round towards zero, flush to zero, denormals are zero; all masked
      "ldmxcsr -8(%rsp)\n"
      "movw $0x0C7F, -8(%rsp)\n"  // round towards zero, single precision; all masked
      "fldcw -8(%rsp)\n"
      "fldz; fldz; fldz; fldz; fldz; fldz; fldz; fldz\n"
      "pcmpeqd %xmm0, %xmm0\n"
      "movaps %xmm0, %xmm1; movaps %xmm0, %xmm2; movaps %xmm0, %xmm3; movaps %xmm0, %xmm4; movaps %xmm0, %xmm5\n"
      "movaps %xmm0, %xmm6; movaps %xmm0, %xmm7; movaps %xmm0, %xmm8; movaps %xmm0, %xmm9; movaps %xmm0, %xmm10\n"
      "movaps %xmm0, %xmm11; movaps %xmm0, %xmm12; movaps %xmm0, %xmm13; movaps %xmm0, %xmm14; movaps %xmm0, %xmm15\n"
      "mov $-1, %rax\n"
      "mov %rax, %rbx; mov %rax, %rcx; mov %rax, %rdx; mov %rax, %rsi; mov %rax, %rdi; mov %rax, %rbp\n"
      "mov %rax, %r8; mov %rax, %r9; mov %rax, %r10; mov %rax, %r11\n"
      "mov %rax, %r12; mov %rax, %r13; mov %rax, %r14; mov %rax, %r15\n"
      "std\n"
      "ret\n");
}

// Calls gate(entry, frame, control) with known values in all registers that a callee keeps; 0 when they came back.
extern "C" __attribute__((naked)) uint64_t ArchTestWatchedCall(CallGate, const void*, CallFrame*, FloatControl) {
  asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
      "mov %rdi, %rax; mov %rsi, %rdi; mov %rdx, %rsi; mov %rcx, %rdx\n"
      "mov $0x1111, %ebx; mov $0x2222, %ebp; mov $0x3333, %r12d; mov $0x4444, %r13d; mov $0x5555, %r14d\n"
      "lea 0(%rsp), %r15\n"
      "call *%rax\n"
      "xor %rsp, %r15; xor $0x1111, %rbx; xor $0x2222, %rbp; xor $0x3333, %r12; xor $0x4444, %r13; xor $0x5555, %r14\n"
      "mov %r15, %rax; or %rbx, %rax; or %rbp, %rax; or %r12, %rax; or %r13, %rax; or %r14, %rax\n"
      "add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
      "ret\n");
}

struct ControlState {
  uint32_t mxcsr;  // control bits; the psABI gives the status bits (0 to 5) to the callee
  uint16_t x87_control;
  uint16_t x87_tags;  // 0xFFFF: the x87 stack is empty
  bool direction;
};

ControlState ReadControlState() {
  uint32_t mxcsr;
  uint32_t environment[7];
  uint64_t flags;
  asm volatile("stmxcsr %0" : "=m"(mxcsr));
  asm volatile("fnstenv %0; fldenv %0" : "=m"(environment));
  asm volatile("lea -128(%%rsp), %%rsp; pushfq; pop %0; lea 128(%%rsp), %%rsp" : "=r"(flags));
  return {mxcsr & ~0x3Fu, static_cast<uint16_t>(environment[0]), static_cast<uint16_t>(environment[2]),
          (flags & 0x400) != 0};
}

TEST(arch_gate_survives_a_callee_that_changes_everything) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();

  const ControlState before = ReadControlState();
  CallFrame frame = NumberedFrame();
  const uint64_t changed = ArchTestWatchedCall(gate, EntryOf(ArchTestClobberAll), &frame, ReadFloatControl());
  const ControlState after = ReadControlState();

  CHECK_EQ(changed, 0);
  CHECK_EQ(frame.integer_result, UINT64_MAX);
  CHECK_EQ(frame.float_result, UINT64_MAX);
  CHECK_EQ(after.mxcsr, before.mxcsr);
  CHECK_EQ(after.x87_control, before.x87_control);
  CHECK_EQ(after.x87_tags, 0xFFFF);
  CHECK(!after.direction);
}

TEST(arch_gate_leaves_the_control_words_that_it_was_told) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();

  constexpr uint32_t kFlushToZero = 1 << 15;
  constexpr uint16_t kSinglePrecision = 0x007F;
  const FloatControl before = ReadFloatControl();
  CallFrame frame = NumberedFrame();
  gate(EntryOf(ArchTestClobberAll), &frame, (before & UINT32_MAX) | kFlushToZero | uint64_t{kSinglePrecision} << 32);
  const ControlState told = ReadControlState();
  gate(EntryOf(ArchTestClobberAll), &frame, before);

  CHECK_EQ(told.mxcsr, (before & ~0x3Fu & UINT32_MAX) | kFlushToZero);
  CHECK_EQ(told.x87_control, kSinglePrecision);
  CHECK_EQ(ReadFloatControl(), before);
}

TEST(arch_far_slot_jumps_and_holds_its_address) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* original = code.AppendFarSlot(reinterpret_cast<uint64_t>(&SixIntegers));
  uint8_t* copy = code.Reserve(kFarSlotBytes);
  std::memcpy(copy, original, kFarSlotBytes);
  code.Seal();

  for (const uint8_t* at : {original, copy}) {
    const uint8_t* slot = at + kFarSlotGotOffset;
    CHECK_EQ(reinterpret_cast<uint64_t>(slot) % 8, 0);
    CHECK_EQ(LoadAs<uint64_t>(slot), reinterpret_cast<uint64_t>(&SixIntegers));
    CallFrame frame = NumberedFrame();
    gate(at, &frame, ReadFloatControl());
    CHECK_EQ(frame.integer_result, 654321);
  }
}

// A veneer may stand between an exit and its stub, so the registers that no convention passes must survive it.
extern "C" __attribute__((naked)) void ArchTestSumR10R11Rax() {
  asm("lea (%r10,%r11), %r10\n"
      "add %r10, %rax\n"
      "ret\n");
}

TEST(arch_far_slot_changes_no_register) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* entry = code.Append({
      0x41, 0xBA, 0x64, 0x00, 0x00, 0x00,  // mov r10d, 100
      0x41, 0xBB, 0x14, 0x00, 0x00, 0x00,  // mov r11d, 20
      0xB8, 0x03, 0x00, 0x00, 0x00,        // mov eax, 3
      0xE9, 0x00, 0x00, 0x00, 0x00,        // jmp slot
  });
  uint8_t* slot = code.AppendFarSlot(reinterpret_cast<uint64_t>(&ArchTestSumR10R11Rax));
  uint8_t* site = entry + 18;
  Apply(*FindKind("R_X86_64_PLT32"), site, reinterpret_cast<uint64_t>(slot) - 4 - reinterpret_cast<uint64_t>(site));
  code.Seal();

  CallFrame frame{};
  gate(entry, &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 123);
}

// The kinds as compilers use them, decoded by the CPU.
TEST(arch_relocated_code_runs) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* entry = code.Append({
      0x48, 0x83, 0xEC, 0x08,                                            // sub rsp, 8
      0x48, 0x8B, 0x05, 0x00, 0x00, 0x00, 0x00,                          // mov rax, [rip + slot]      site 7
      0xFF, 0xD0,                                                        // call rax
      0x48, 0x8D, 0x0D, 0x00, 0x00, 0x00, 0x00,                          // lea rcx, [rip + data]      site 16
      0x48, 0x03, 0x01,                                                  // add rax, [rcx]
      0x48, 0x69, 0x0D, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00,  // imul rcx, [rip + data + 8], 3   site 26
      0x48, 0x01, 0xC8,                                                  // add rax, rcx
      0x48, 0xB9, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,        // mov rcx, data + 8          site 39
      0x48, 0x03, 0x01,                                                  // add rax, [rcx]
      0xB9, 0x00, 0x00, 0x00, 0x00,                                      // mov ecx, 0x90000000        site 51
      0x48, 0x01, 0xC8,                                                  // add rax, rcx
      0x48, 0xC7, 0xC1, 0x00, 0x00, 0x00, 0x00,                          // mov rcx, -0x10000000       site 61
      0x48, 0x01, 0xC8,                                                  // add rax, rcx
      0x48, 0x83, 0xC4, 0x08,                                            // add rsp, 8
      0xC3,                                                              // ret
  });
  uint8_t* data = code.Append({1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0});
  uint8_t* slot = code.AppendFarSlot(reinterpret_cast<uint64_t>(&SixIntegers));

  auto address = [](const uint8_t* at) { return reinterpret_cast<uint64_t>(at); };
  auto apply = [&](const char* kind, size_t offset, uint64_t value) {
    const KindInfo& info = *FindKind(std::string_view(kind));
    if (FieldOf(info.field).relative) value -= address(entry + offset);
    CHECK(Check(info, value));
    Apply(info, entry + offset, value);
  };
  apply("R_X86_64_REX_GOTPCRELX", 7, address(slot + kFarSlotGotOffset) - 4);
  apply("R_X86_64_PC32", 16, address(data) - 4);
  apply("R_X86_64_PC32", 26, address(data) + 8 - 8);
  apply("R_X86_64_64", 39, address(data) + 8);
  apply("R_X86_64_32", 51, 0x90000000);
  apply("R_X86_64_32S", 61, static_cast<uint64_t>(-0x10000000LL));
  code.Seal();

  CallFrame frame = NumberedFrame();
  gate(entry, &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 654321 + 1 + 2 * 3 + 2 + 0x80000000);
}

// ---- callbacks ----

struct CallbackRecord {
  // What the handler returns, and how many frames it may follow through rbp.
  uint64_t integer_result = 0;
  double float_result = 0;
  int depth = 0;
  // What it saw.
  int calls = 0;
  CallFrame seen{};
  bool aligned = false;
  std::vector<uint64_t> return_addresses{};
};

void RecordCall(void* context, CallFrame* frame) {
  auto* record = static_cast<CallbackRecord*>(context);
  record->calls++;
  record->seen = *frame;
  auto* base = static_cast<uint64_t*>(__builtin_frame_address(0));
  record->aligned = reinterpret_cast<uint64_t>(base) % 16 == 0 && reinterpret_cast<uint64_t>(frame) % 16 == 0;
  for (int depth = 0; depth < record->depth; depth++) {
    record->return_addresses.push_back(base[1]);
    base = reinterpret_cast<uint64_t*>(base[0]);
  }
  frame->integer_result = record->integer_result;
  frame->float_result = BitsOf(record->float_result);
}

TEST(arch_callback_is_a_c_function) {
  ArchTestCode code;
  const uint8_t* common = code.AppendCommon(RecordCall);
  CallbackRecord first, second;
  first.integer_result = 0xFEDCBA9876543210;
  second.float_result = -2.75;
  using AllArguments = uint64_t(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,  //
                                double, double, double, double, double, double, double, double);
  auto* integer = reinterpret_cast<AllArguments*>(code.AppendThunk(common, &first));
  auto* floating = reinterpret_cast<double (*)(double, int)>(code.AppendThunk(common, &second));
  code.Seal();

  CHECK_EQ(integer(11, 12, 13, 14, 15, 16, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5), 0xFEDCBA9876543210);
  for (int i = 0; i < 6; i++) CHECK_EQ(first.seen.integers[i], i + 11);
  for (int i = 0; i < 8; i++) CHECK(DoubleOf(first.seen.floats[i]) == i + 1.5);
  CHECK(first.aligned);
  CHECK_EQ(first.seen.integer_result, 0);
  CHECK_EQ(first.seen.float_result, 0);
  CHECK_EQ(second.calls, 0);  // the context tells the thunks apart

  CHECK(floating(9.25, 77) == -2.75);
  CHECK(DoubleOf(second.seen.floats[0]) == 9.25);
  CHECK_EQ(second.seen.integers[0], 77);
  CHECK(second.aligned);
}

// gate → thunk, and through rbp back again to the caller of the gate.
TEST(arch_frame_pointers_lead_out_of_a_callback) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  const uint8_t* common = code.AppendCommon(RecordCall);
  CallbackRecord record;
  record.depth = 3;
  const uint8_t* thunk = code.AppendThunk(common, &record);
  code.Seal();

  CallFrame frame = NumberedFrame();
  CHECK_EQ(ArchTestWatchedCall(gate, thunk, &frame, ReadFloatControl()), 0);
  auto returns_into = [&](size_t depth, const void* function, size_t bytes) {
    return record.return_addresses[depth] - reinterpret_cast<uint64_t>(function) < bytes;
  };
  CHECK_EQ(record.return_addresses.size(), 3);
  CHECK(returns_into(0, common, CallbackCommonBytes()));
  CHECK(returns_into(1, reinterpret_cast<const void*>(gate), CallGateBytes()));
  CHECK(returns_into(2, EntryOf(ArchTestWatchedCall), 128));
}

struct NestedCall {
  CallGate gate;
  const void* entry;
};

void CallInside(void* context, CallFrame* frame) {
  const auto* nested = static_cast<NestedCall*>(context);
  CallFrame inner = *frame;
  inner.integers[0] += 1;
  nested->gate(nested->entry, &inner, ReadFloatControl());
  frame->integer_result = inner.integer_result + 1000000;
}

TEST(arch_gate_and_callback_nest) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  const uint8_t* common = code.AppendCommon(CallInside);
  NestedCall inner{gate, EntryOf(SixIntegers)};
  const uint8_t* inner_thunk = code.AppendThunk(common, &inner);
  NestedCall outer{gate, inner_thunk};
  const uint8_t* outer_thunk = code.AppendThunk(common, &outer);
  code.Seal();

  CallFrame frame = NumberedFrame();
  CHECK_EQ(ArchTestWatchedCall(gate, outer_thunk, &frame, ReadFloatControl()), 0);
  CHECK_EQ(frame.integer_result, 654321 + 2 + 2000000);
}

// A handler that returns without a result has returned 0.
TEST(arch_callback_result_begins_as_zero) {
  ArchTestCode code;
  const uint8_t* common = code.AppendCommon([](void*, CallFrame*) {});
  const uint8_t* thunk = code.AppendThunk(common, nullptr);
  code.Seal();
  CHECK_EQ(reinterpret_cast<uint64_t (*)(uint64_t)>(const_cast<uint8_t*>(thunk))(5), 0);
  CHECK(reinterpret_cast<double (*)(double)>(const_cast<uint8_t*>(thunk))(5.5) == 0);
}

}  // namespace
}  // namespace jit_arena::arch
