// arm64: the machine code of native/arch executed.
#include <sys/mman.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "base/bits.h"
#include "test.h"

// What machine code is allowed to do: change every register but sp (and x18, which is the platform's), and FPCR, to
// rounding towards zero and flushing to zero.
asm(R"(
  .text
  .globl ArchTestClobberAll, ArchTestWatchedCall, ArchTestSum
  .p2align 4
ArchTestClobberAll:
  bti c
  mov x16, #0x1c00000
  msr fpcr, x16
  mov x0, #-1
  .irp r, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,19,20,21,22,23,24,25,26,27,28,29
  mov x\r, x0
  .endr
  .irp r, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
  movi v\r\().16b, #255
  .endr
  ret

// Calls x0(x1, x2, x3) with known values in all registers that a callee keeps; 0 when they came back.
  .p2align 4
ArchTestWatchedCall:
  stp x29, x30, [sp, #-176]!
  mov x29, sp
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  str x29, [sp, #160]
  .irp r, 19,20,21,22,23,24,25,26,27,28
  mov x\r, #(1000 + \r)
  .endr
  .irp r, 8,9,10,11,12,13,14,15
  mov x9, #(2000 + \r)
  fmov d\r, x9
  .endr
  mov x9, x0
  mov x0, x1
  mov x1, x2
  mov x2, x3
  blr x9
  ldr x0, [sp, #160]
  eor x0, x0, x29
  mov x10, sp
  eor x10, x10, x29
  orr x0, x0, x10
  .irp r, 19,20,21,22,23,24,25,26,27,28
  mov x9, #(1000 + \r)
  eor x9, x9, x\r
  orr x0, x0, x9
  .endr
  .irp r, 8,9,10,11,12,13,14,15
  mov x9, #(2000 + \r)
  fmov x10, d\r
  eor x9, x9, x10
  orr x0, x0, x9
  .endr
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #176
  ret

// The sum of all registers that neither AAPCS64 nor a trace passes anything in.
  .p2align 4
ArchTestSum:
  add x0, x9, x10
  add x0, x0, x15
  add x0, x0, x16
  add x0, x0, x8
  ret
)");

extern "C" void ArchTestClobberAll();
extern "C" void ArchTestSum();

namespace jit_arena::arch {
namespace {

extern "C" uint64_t ArchTestWatchedCall(CallGate, const void*, CallFrame*, FloatControl);

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
  uint8_t* Append(std::initializer_list<uint32_t> words) {
    uint8_t* at = Reserve(4 * words.size());
    std::memcpy(at, words.begin(), 4 * words.size());
    return at;
  }
  CallGate AppendGate() {
    uint8_t* at = Reserve(CallGateBytes());
    WriteCallGate(at);
    return reinterpret_cast<CallGate>(at);
  }
  uint8_t* AppendFarSlot(const void* address) {
    uint8_t* at = Reserve(kFarSlotBytes);
    WriteFarSlot(at, reinterpret_cast<uint64_t>(address));
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
  void Seal() {
    MakeFetchable(bytes_, kBytes);
    CHECK(mprotect(bytes_, kBytes, PROT_READ | PROT_EXEC) == 0);
  }

 private:
  static constexpr size_t kBytes = 65536;  // a page of any size
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

CallFrame NumberedFrame() {
  CallFrame frame{};
  for (int i = 0; i < 6; i++) frame.integers[i] = static_cast<uint64_t>(i + 1);
  for (int i = 0; i < 8; i++) frame.floats[i] = BitsOf(i + 1.5);
  return frame;
}

double Mixed(uint64_t a, double p, uint64_t b, double q, uint64_t c, double r, uint64_t d, double s, uint64_t e,
             double t, uint64_t f, double u, double v, double w) {
  uint64_t integers = a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
  return static_cast<double>(integers) + p + 10 * q + 100 * r + 1000 * s + 10000 * t + 100000 * u + 1000000 * v +
         10000000 * w;
}

uint64_t Six(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

TEST(arch_gate_passes_arguments_and_results) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();
  CallFrame frame = NumberedFrame();
  gate(EntryOf(Six), &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, 654321);
  CHECK(frame.integers[0] == 1 && frame.integers[5] == 6);  // the gate writes results only
  gate(EntryOf(Mixed), &frame, ReadFloatControl());
  CHECK(DoubleOf(frame.float_result) == Mixed(1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7.5, 8.5));
}

TEST(arch_gate_survives_a_callee_that_changes_everything) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  code.Seal();
  const FloatControl before = ReadFloatControl();
  constexpr FloatControl kRoundUp = 1 << 22;
  CallFrame frame = NumberedFrame();
  CHECK_EQ(ArchTestWatchedCall(gate, EntryOf(ArchTestClobberAll), &frame, before), 0);
  CHECK_EQ(frame.integer_result, UINT64_MAX);
  CHECK_EQ(frame.float_result, UINT64_MAX);
  CHECK_EQ(ReadFloatControl(), before);
  gate(EntryOf(ArchTestClobberAll), &frame, kRoundUp);
  const FloatControl told = ReadFloatControl();
  WriteFloatControl(before);
  CHECK_EQ(told, kRoundUp);
  CHECK_EQ(ReadFloatControl(), before);
}

TEST(arch_far_slot_jumps_and_changes_no_register_but_x17) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* original = code.AppendFarSlot(EntryOf(ArchTestSum));
  uint8_t* copy = code.Reserve(kFarSlotBytes);
  std::memcpy(copy, original, kFarSlotBytes);
  uint8_t* entries[] = {nullptr, nullptr};
  for (int i = 0; i < 2; i++) {
    entries[i] = code.Append({
        0xD2800029,  // mov x9, #1
        0xD280004A,  // mov x10, #2
        0xD280008F,  // mov x15, #4
        0xD2800110,  // mov x16, #8
        0xD2800208,  // mov x8, #16
        0x14000000,  // b slot
    });
    uint8_t* site = entries[i] + 20;
    const KindInfo& jump = *FindKind("R_AARCH64_JUMP26");
    Apply(jump, site,
          ValueOf(jump.field, reinterpret_cast<uint64_t>(i == 0 ? original : copy), reinterpret_cast<uint64_t>(site)));
  }
  code.Seal();
  CHECK_EQ(LoadAs<uint64_t>(copy + kFarSlotGotOffset), reinterpret_cast<uint64_t>(&ArchTestSum));
  for (uint8_t* entry : entries) {
    CallFrame frame{};
    gate(entry, &frame, ReadFloatControl());
    CHECK_EQ(frame.integer_result, 31);
  }
}

TEST(arch_trial_function_answers) {
  ArchTestCode code;
  uint8_t* at = code.Reserve(TrialFunctionBytes());
  WriteTrialFunction(at, 0xA7);
  code.Seal();
  CHECK_EQ(reinterpret_cast<uint32_t (*)()>(at)(), 0xA7u);
}

// A trace that keeps nothing, not even the way back, leaves by the stubs.
TEST(arch_exits_and_done) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* done = code.Reserve(DoneStubBytes());
  WriteDoneStub(done);
  uint8_t* hot_return = code.Reserve(HotReturnBytes());
  WriteHotReturn(hot_return);
  uint8_t* stub = code.Reserve(ExitStubBytes());
  WriteExitStub(stub, reinterpret_cast<uint64_t>(hot_return));
  CHECK_EQ(LoadAs<uint64_t>(stub + kHotSlotOffset), reinterpret_cast<uint64_t>(hot_return));
  CHECK_EQ((reinterpret_cast<uint64_t>(stub) + kHotSlotOffset) % 8, 0);
  uint8_t* leave = code.Append({
      0xD503245F,  // bti c
      0xAA0003F0,  // mov x16, x0: the record
      0xD280001E,  // mov x30, #0
      0xF9400211,  // ldr x17, [x16]
      0xD61F0220,  // br x17
  });
  uint8_t* finish = code.Append({
      0xD503245F,  // bti c
      0xD280001E,  // mov x30, #0
      0x14000000,  // b done
  });
  const KindInfo& jump = *FindKind("R_AARCH64_JUMP26");
  Apply(jump, finish + 8,
        ValueOf(jump.field, reinterpret_cast<uint64_t>(done), reinterpret_cast<uint64_t>(finish + 8)));
  code.Seal();

  alignas(16) uint8_t record[kExitRecordBytes] = {};
  StoreAs<uint64_t>(record, reinterpret_cast<uint64_t>(stub));
  StoreAs<uint16_t>(record + kExitRecordTemperatureOffset, 2 << kTemperatureShift | 5);
  CallFrame frame{};
  frame.integers[0] = reinterpret_cast<uint64_t>(record);
  auto temperature = [&] { return LoadAs<uint16_t>(record + kExitRecordTemperatureOffset); };
  for (uint16_t left : {1, 0}) {
    CHECK_EQ(ArchTestWatchedCall(gate, leave, &frame, ReadFloatControl()), 0);
    CHECK_EQ(frame.integer_result, reinterpret_cast<uint64_t>(record));
    CHECK_EQ(temperature(), left << kTemperatureShift | 5);
  }
  gate(leave, &frame, ReadFloatControl());
  CHECK_EQ(frame.integer_result, reinterpret_cast<uint64_t>(record) + 1);  // hot
  CHECK_EQ(temperature(), 0xFFF5);
  CHECK_EQ(ArchTestWatchedCall(gate, finish, &frame, ReadFloatControl()), 0);
  CHECK_EQ(frame.integer_result, 0);
}

// The unwinder finds its way through the gate by the table.
extern "C" void __register_frame(void* table);
extern "C" void __deregister_frame(void* table);

TEST(arch_exceptions_pass_the_gate) {
  ArchTestCode code;
  code.Reserve(64);
  const CallGate gate = code.AppendGate();
  code.Seal();
  std::vector<uint8_t> table(CallGateFramesBytes());
  WriteCallGateFrames(table.data(), reinterpret_cast<uint64_t>(gate));
  __register_frame(table.data());
  for (uint64_t thrown : {7, 11}) {
    CallFrame frame = NumberedFrame();
    frame.integers[0] = thrown;
    volatile double kept[] = {1.25, 2.25, 3.25, 4.25};
    double a = kept[0], b = kept[1], c = kept[2], d = kept[3];  // in registers that a callee keeps
    uint64_t caught = 0;
    try {
      gate(EntryOf(+[](uint64_t value) { throw value; }), &frame, ReadFloatControl());
    } catch (uint64_t value) {
      caught = value;
    }
    CHECK_EQ(caught, thrown);
    CHECK(a + 10 * b + 100 * c + 1000 * d == 1.25 + 22.5 + 325 + 4250);
  }
  __deregister_frame(table.data());
}

// ---- callbacks ----

struct CallbackRecord {
  uint64_t integer_result = 0;
  double float_result = 0;
  int depth = 0;
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
  CHECK(second.aligned);
}

// gate → thunk, and through x29 back again to the caller of the gate; and once more from inside a callback.
TEST(arch_frame_records_lead_out_of_a_callback) {
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
  CHECK(returns_into(2, EntryOf(ArchTestWatchedCall), 512));
}

}  // namespace
}  // namespace jit_arena::arch
