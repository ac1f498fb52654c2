// x86-64: reloc kinds restated from the psABI, and the machine code of native/arch executed for real.
#include <elf.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "base/bits.h"
#include "test.h"

namespace jit_arena::arch {
namespace {

// ---- reloc kinds ----

// The table of the psABI once more; the numbers are those of the system's <elf.h>.
enum class Field { kAny64, kSigned32, kUnsigned32 };
struct Expected {
  int number;
  const char* name;
  const char* expression;
  Field field;
  bool is_branch;
};
const Expected kExpected[] = {
    {R_X86_64_64, "R_X86_64_64", "S + A", Field::kAny64, false},
    {R_X86_64_PC32, "R_X86_64_PC32", "S + A - P", Field::kSigned32, false},
    {R_X86_64_PLT32, "R_X86_64_PLT32", "S + A - P", Field::kSigned32, true},
    {R_X86_64_GOTPCREL, "R_X86_64_GOTPCREL", "G + A - P", Field::kSigned32, false},
    {R_X86_64_32, "R_X86_64_32", "S + A", Field::kUnsigned32, false},
    {R_X86_64_32S, "R_X86_64_32S", "S + A", Field::kSigned32, false},
    {R_X86_64_PC64, "R_X86_64_PC64", "S + A - P", Field::kAny64, false},
    {R_X86_64_GOTPCRELX, "R_X86_64_GOTPCRELX", "G + A - P", Field::kSigned32, false},
    {R_X86_64_REX_GOTPCRELX, "R_X86_64_REX_GOTPCRELX", "G + A - P", Field::kSigned32, false},
};

const KindInfo& InfoOf(const Expected& expected) { return *FindKind(static_cast<RelocKind>(expected.number)); }

size_t BytesOf(const Expected& expected) { return expected.field == Field::kAny64 ? 8 : 4; }

const char* ExpressionOf(Shape shape) {
  switch (shape) {
    case Shape::kAbsolute:
      return "S + A";
    case Shape::kRelative:
      return "S + A - P";
    case Shape::kGot:
      return "G + A - P";
  }
  return "?";
}

bool Fits(Field field, uint64_t value) {
  switch (field) {
    case Field::kAny64:
      return true;
    case Field::kSigned32:  // -2^31 .. 2^31 - 1
      return value < 0x80000000 || value >= 0xFFFFFFFF80000000;
    case Field::kUnsigned32:
      return value < 0x100000000;
  }
  return false;
}

// Every value at which a field's range begins or ends, with its neighbours on both sides.
std::vector<uint64_t> Boundaries() {
  std::vector<uint64_t> values;
  for (int bit : {7, 8, 15, 16, 31, 32, 33, 47, 63}) {
    const uint64_t power = uint64_t{1} << bit;
    for (uint64_t near : {power - 1, power, power + 1}) {
      values.push_back(near);
      values.push_back(0 - near);
    }
  }
  values.push_back(0);
  values.push_back(0x123456789ABCDEF0);
  return values;
}

TEST(arch_kinds_are_those_of_the_psabi) {
  size_t count = 0;
  const KindInfo* kinds = Kinds(&count);
  CHECK_EQ(count, std::size(kExpected));
  std::set<const KindInfo*> listed;
  for (size_t i = 0; i < count; i++) listed.insert(&kinds[i]);
  CHECK_EQ(listed.size(), count);

  for (const Expected& expected : kExpected) {
    const KindInfo* info = FindKind(static_cast<RelocKind>(expected.number));
    CHECK(info != nullptr);
    CHECK(FindKind(std::string_view(expected.name)) == info);
    CHECK(listed.count(info) == 1);
    CHECK_EQ(info->kind, expected.number);
    CHECK_EQ(std::string(info->name), expected.name);
    CHECK_EQ(std::string(ExpressionOf(info->shape)), expected.expression);
    CHECK_EQ(info->field_bytes, BytesOf(expected));
    CHECK_EQ(info->is_branch, expected.is_branch);
  }
}

TEST(arch_unknown_kinds_are_null) {
  std::set<int> known;
  for (const Expected& expected : kExpected) known.insert(expected.number);
  for (int number = 0; number < 256; number++) {
    CHECK_EQ(FindKind(static_cast<RelocKind>(number)) != nullptr, known.count(number) == 1);
  }
  for (const char* name : {"", "R_X86_64_", "R_X86_64_NONE", "R_X86_64_PC3", "R_X86_64_PC322", "r_x86_64_pc32", "PC32",
                           "R_X86_64_PC32 ", "R_AARCH64_CALL26"}) {
    CHECK(FindKind(std::string_view(name)) == nullptr);
  }
  // A view need not end in a zero byte.
  CHECK(FindKind(std::string_view("R_X86_64_PC32_and_more", 13)) == FindKind(RelocKind{R_X86_64_PC32}));
}

TEST(arch_check_knows_both_ends_of_each_range) {
  for (const Expected& expected : kExpected) {
    for (uint64_t value : Boundaries()) {
      CHECK_EQ(Check(InfoOf(expected), value), Fits(expected.field, value));
    }
  }
  // The ones that matter most, spelled out.
  const KindInfo& pc32 = *FindKind(RelocKind{R_X86_64_PC32});
  CHECK(Check(pc32, 0x7FFFFFFF));
  CHECK(!Check(pc32, 0x80000000));
  CHECK(Check(pc32, static_cast<uint64_t>(-0x80000000LL)));
  CHECK(!Check(pc32, static_cast<uint64_t>(-0x80000001LL)));
  const KindInfo& abs32 = *FindKind(RelocKind{R_X86_64_32});
  CHECK(Check(abs32, 0xFFFFFFFF));
  CHECK(!Check(abs32, 0x100000000));
  CHECK(!Check(abs32, static_cast<uint64_t>(-1LL)));
}

// The field's bytes, put together one by one.
uint64_t FieldAt(const uint8_t* site, Field field) {
  const int bytes = field == Field::kAny64 ? 8 : 4;
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; i--) value = value * 256 + site[i];
  if (field == Field::kSigned32 && value >= 0x80000000) value += 0xFFFFFFFF00000000;
  return value;
}

TEST(arch_apply_is_idempotent_and_keeps_to_its_field) {
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    for (size_t offset = 0; offset < 8; offset++) {  // every alignment
      for (uint64_t first : Boundaries()) {
        for (uint64_t second : Boundaries()) {
          if (!Fits(expected.field, first) || !Fits(expected.field, second)) continue;
          uint8_t fresh[16], used[16];
          std::memset(fresh, 0xA5, sizeof fresh);
          std::memset(used, 0xA5, sizeof used);
          Apply(info, fresh + offset, second);
          Apply(info, used + offset, first);
          CHECK_EQ(Read(info, used + offset), first);
          Apply(info, used + offset, second);
          CHECK_EQ(Read(info, used + offset), second);
          CHECK_EQ(FieldAt(used + offset, expected.field), second);
          CHECK(std::memcmp(fresh, used, sizeof fresh) == 0);
          for (size_t i = 0; i < sizeof used; i++) {
            CHECK((i >= offset && i < offset + BytesOf(expected)) || used[i] == 0xA5);
          }
        }
      }
    }
  }
}

// What the CPU computes from the field must be the address that the record asks for.
TEST(arch_fields_lead_to_their_targets) {
  const uint64_t kSite = 0x7F0000001003, kTarget = 0x7F0000400010, kSlot = 0x7EFFFFFFF008, kLow = 0x401000;
  for (const Expected& expected : kExpected) {
    const KindInfo& info = InfoOf(expected);
    const bool low = expected.number == R_X86_64_32 || expected.number == R_X86_64_32S;
    for (int64_t addend : {-4, 0, 4, 0x1000, -0x1000}) {
      const uint64_t target = low ? kLow : kTarget;
      const uint64_t added = static_cast<uint64_t>(addend);
      uint64_t value = 0;
      switch (info.shape) {
        case Shape::kAbsolute:
          value = target + added;
          break;
        case Shape::kRelative:
          value = target + added - kSite;
          break;
        case Shape::kGot:
          value = kSlot + added - kSite;
          break;
      }
      CHECK(Check(info, value));
      uint8_t bytes[8] = {};
      Apply(info, bytes, value);
      const uint64_t field = FieldAt(bytes, expected.field);
      switch (expected.number) {
        case R_X86_64_64:
        case R_X86_64_32:
        case R_X86_64_32S:
          CHECK(field - added == target);
          break;
        case R_X86_64_PC32:
        case R_X86_64_PLT32:
        case R_X86_64_PC64:
          CHECK(kSite + field - added == target);
          break;
        default:  // the GOTPCREL kinds: the address of the slot
          CHECK(kSite + field - added == kSlot);
      }
    }
  }
}

// The numbers of docs/relocs.md.
TEST(arch_worked_example_of_the_docs) {
  const KindInfo& pc32 = *FindKind("R_X86_64_PC32");
  const KindInfo& got = *FindKind("R_X86_64_GOTPCREL");
  uint8_t lea[] = {0x48, 0x8D, 0x0D, 0, 0, 0, 0};
  uint8_t load[] = {0x48, 0x8B, 0x05, 0, 0, 0, 0};
  const uint64_t kTable = 0x7F2000002000, kLink = 0x7F2000000200, kFar = 0x7FFFF7E4A1B0;
  auto bytes = [](const uint8_t* from, std::initializer_list<uint8_t> expected) {
    return std::memcmp(from, expected.begin(), expected.size()) == 0;
  };

  const uint64_t kFrom = 0x7F2000000400;
  Apply(pc32, lea + 3, kTable - 4 - (kFrom + 0x13));
  Apply(got, load + 3, kLink + kExternalLinkSlotOffset - 4 - (kFrom + 0x23));
  CHECK(bytes(lea, {0x48, 0x8D, 0x0D, 0xE9, 0x1B, 0x00, 0x00}));
  CHECK(bytes(load, {0x48, 0x8B, 0x05, 0xE1, 0xFD, 0xFF, 0xFF}));
  uint8_t link[kExternalLinkBytes];
  WriteExternalLink(link, kFar);
  CHECK(bytes(link, {0xFF, 0x25, 0x02, 0, 0, 0, 0x0F, 0x0B, 0xB0, 0xA1, 0xE4, 0xF7, 0xFF, 0x7F, 0, 0}));

  // The executor moves 0x1000 up; table and link stay. Only the old bytes and the distance are needed.
  Apply(pc32, lea + 3, Read(pc32, lea + 3) - 0x1000);
  Apply(got, load + 3, Read(got, load + 3) - 0x1000);
  CHECK(bytes(lea, {0x48, 0x8D, 0x0D, 0xE9, 0x0B, 0x00, 0x00}));
  CHECK(bytes(load, {0x48, 0x8B, 0x05, 0xE1, 0xED, 0xFF, 0xFF}));
}

TEST(arch_constants) {
  CHECK_EQ(std::string(kCpuName), "x64");
  CHECK_EQ(kPoisonByte, 0xCC);
  // From the end of an instruction at one end of an arena to the other end.
  const KindInfo& branch = *FindKind(RelocKind{R_X86_64_PLT32});
  CHECK(Check(branch, 0 - kMaxArenaBytes));
  CHECK(Check(branch, kMaxArenaBytes - 1));
}

// ---- machine code ----

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
  uint8_t* AppendLink(uint64_t address) {
    uint8_t* at = Reserve(kExternalLinkBytes);
    WriteExternalLink(at, address);
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

TEST(arch_external_link_jumps_and_holds_its_address) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* link = code.AppendLink(reinterpret_cast<uint64_t>(&SixIntegers));
  uint8_t* copy = code.Reserve(kExternalLinkBytes);
  std::memcpy(copy, link, kExternalLinkBytes);
  code.Seal();

  for (const uint8_t* at : {link, copy}) {
    const uint8_t* slot = at + kExternalLinkSlotOffset;
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

TEST(arch_external_link_changes_no_register) {
  ArchTestCode code;
  const CallGate gate = code.AppendGate();
  uint8_t* entry = code.Append({
      0x41, 0xBA, 0x64, 0x00, 0x00, 0x00,  // mov r10d, 100
      0x41, 0xBB, 0x14, 0x00, 0x00, 0x00,  // mov r11d, 20
      0xB8, 0x03, 0x00, 0x00, 0x00,        // mov eax, 3
      0xE9, 0x00, 0x00, 0x00, 0x00,        // jmp link
  });
  uint8_t* link = code.AppendLink(reinterpret_cast<uint64_t>(&ArchTestSumR10R11Rax));
  uint8_t* site = entry + 18;
  Apply(*FindKind("R_X86_64_PLT32"), site, reinterpret_cast<uint64_t>(link) - 4 - reinterpret_cast<uint64_t>(site));
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
  uint8_t* link = code.AppendLink(reinterpret_cast<uint64_t>(&SixIntegers));

  auto address = [](const uint8_t* at) { return reinterpret_cast<uint64_t>(at); };
  auto apply = [&](const char* kind, size_t offset, uint64_t value) {
    const KindInfo& info = *FindKind(std::string_view(kind));
    if (info.shape != Shape::kAbsolute) value -= address(entry + offset);
    CHECK(Check(info, value));
    Apply(info, entry + offset, value);
  };
  apply("R_X86_64_REX_GOTPCRELX", 7, address(link + kExternalLinkSlotOffset) - 4);
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
