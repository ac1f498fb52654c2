// The torture's executors for x86-64.
//
// rdi is the context, rax the sum. A function is entered at its first byte by the host (System V: the sum is in the
// context and is returned), and kInnerEntry bytes further on by its family, with the sum in rax.
#include <cstddef>
#include <initializer_list>

#include "base/bits.h"
#include "torture/program.h"

namespace torture {
namespace {

using jit_arena::Section;
using jit_arena::StoreAs;
using jit_arena::TargetKind;

enum : uint8_t { k64 = 1, kPc32 = 2, kPlt32 = 4, kGotPcRelX = 41 };

constexpr uint32_t kInnerEntry = 3;  // behind mov rax, [rdi]
// Data: two constants, the helper's address, the function's address.
constexpr uint32_t kSecondConstant = 8, kHelperAddress = 16, kFunctionAddress = 24, kDataBytes = 32;
// State: the counter and a constant.
constexpr uint32_t kStateConstant = 8, kStateBytes = 16;

static_assert(offsetof(Context, sum) == 0 && offsetof(Context, fuel) == 8 && offsetof(Context, log) == 16);

struct Assembler {
  Program& program;
  std::vector<uint8_t>& code = program.sections[0];

  uint32_t here() const { return static_cast<uint32_t>(code.size()); }
  void Put(std::initializer_list<int> bytes) {
    for (int byte : bytes) code.push_back(static_cast<uint8_t>(byte));
  }
  template <class T>
  void PutAs(uint64_t value) {
    code.resize(code.size() + sizeof(T));
    StoreAs<T>(code.data() + code.size() - sizeof(T), static_cast<T>(value));
  }
  jit_arena::RelocSpec& Reloc(Section section, uint32_t offset, uint8_t kind, TargetKind target_kind, uint64_t target,
                              int64_t addend) {
    program.relocs.push_back({section, kind, target_kind, offset, target, addend});
    return program.relocs.back();
  }
  // A rel32 field, with `behind` bytes of the instruction after it.
  jit_arena::RelocSpec& Relative(TargetKind target_kind, uint64_t target, int behind = 0, uint8_t kind = kPc32) {
    jit_arena::RelocSpec& reloc = Reloc(Section::kCode, here(), kind, target_kind, target, -4 - behind);
    PutAs<uint32_t>(0);
    return reloc;
  }
  // A branch within the code, to be bound to a later place.
  uint32_t Forward32() {
    PutAs<uint32_t>(0);
    return here();
  }
  void Bind32(uint32_t end) { StoreAs<uint32_t>(code.data() + end - 4, here() - end); }
  // So that a field which begins `before` bytes from here lies within 8 aligned bytes, or across them.
  void AlignField(uint32_t before, bool across) {
    while (((here() + before) % 8 > 4) != across) Put({0x90});
  }
  void LeaveThrough(uint64_t exit) {
    Put({0x4C, 0x8D, 0x1D});  // lea r11, [rip + record]
    Relative(TargetKind::kExit, exit);
    Put({0x41, 0xFF, 0x23});  // jmp [r11]
  }
  void SetWarm() {
    Put({0xC6, 0x05});  // mov byte [rip + warm], 1
    Relative(TargetKind::kWarm, 0, 1);
    Put({1});
  }
  void LoadSumAndKey(uint64_t key) {
    Put({0x48, 0x8B, 0x07});  // mov rax, [rdi]
    Put({0x48, 0xB9});        // mov rcx, key
    PutAs<uint64_t>(key);
  }
};

}  // namespace

Program Program::Filler(uint32_t bytes, uint64_t ledger) {
  Program program;
  program.sections[0].resize(bytes, 0xCC);
  program.sections[1].resize(bytes, 0x55);
  program.sections[2].resize(bytes, 0x33);
  Assembler at{program};
  constexpr uint32_t kMostSites = 64;
  for (uint32_t offset = 0; offset + 8 <= bytes && offset < 8 * kMostSites; offset += 8)
    at.Reloc(Section::kData, offset, k64, TargetKind::kExecutor, ledger, 0).target_section = Section::kState;
  return program;
}

Program Program::Of(uint64_t key, CallKind call, uint64_t ledger) {
  Program program;
  Assembler at{program};
  uint64_t life = LifeOf(key);
  bool trace = (key & kFunction) == 0;
  uint64_t shape = Mix(life + 9);
  program.sections[1].resize(kDataBytes + (shape & 15) * 16 + ((shape >> 4 & 31) == 0 ? 3000 : 0),
                             static_cast<uint8_t>(shape));
  program.sections[2].resize(kStateBytes + ((shape >> 16 & 7) == 0 ? 1000 : 0), static_cast<uint8_t>(shape));
  program.aligns[0] = 16u << (shape >> 10 & 3);
  StoreAs<uint64_t>(program.sections[1].data(), Mix(life + 1));
  StoreAs<uint64_t>(program.sections[1].data() + kSecondConstant, Mix(life + 2));
  StoreAs<uint64_t>(program.sections[2].data(), 0);
  StoreAs<uint64_t>(program.sections[2].data() + kStateConstant, Mix(life + 5));

  uint32_t dead = 0;
  if (trace) {
    program.exits = kExits;
    for (uint32_t exit = 0; exit < kExits; exit++) program.exit_tags.push_back(ExitTagOf(key, exit));
    at.SetWarm();
    at.Put({0x80, 0x3D});  // cmp byte [rip + valid], 0
    at.Relative(TargetKind::kValid, 0, 1);
    at.Put({0, 0x0F, 0x84});  // je dead
    dead = at.Forward32();
  }
  at.LoadSumAndKey(key);
  if (trace) {
    at.Put({0xE9});  // jmp begin
    uint32_t begin = at.Forward32();
    program.entries = {0, at.here()};
    at.SetWarm();
    at.LoadSumAndKey(key | kSecondEntry);
    at.Bind32(begin);
  }
  // begin:
  at.Put({0x4C, 0x8B, 0x57, 0x10});        // mov r10, [rdi + 16]
  at.Put({0x49, 0x89, 0x0A});              // mov [r10], rcx
  at.Put({0x48, 0x83, 0x47, 0x10, 0x08});  // add qword [rdi + 16], 8
  at.Put({0x48, 0x69, 0xC0});              // imul rax, rax, constant
  at.PutAs<uint32_t>(Mix(life) | 1);
  at.Put({0x48, 0x03, 0x05});  // add rax, [rip + constant]
  at.Relative(TargetKind::kOwnData, 0);
  at.Put({0x49, 0xBA});  // mov r10, address of the second constant
  at.Reloc(Section::kCode, at.here(), k64, TargetKind::kOwnData, kSecondConstant, 0);
  at.PutAs<uint64_t>(0);
  at.Put({0x49, 0x33, 0x02});  // xor rax, [r10]
  at.Put({0xFF, 0x15});        // call [rip + helper's address]
  at.Relative(TargetKind::kOwnData, kHelperAddress);
  at.Put({0xBA});  // mov edx, rounds
  at.PutAs<uint32_t>((Mix(life + 6) & 15) + 1);
  uint32_t loop = at.here();
  at.Put({0x48, 0x05});  // loop: add rax, constant
  at.PutAs<uint32_t>(Mix(life + 4));
  at.Put({0x48, 0xC1, 0xC0, 0x07});  // rol rax, 7
  at.Put({0xFF, 0xCA});              // dec edx
  at.Put({0x75, static_cast<int>(loop - (at.here() + 2))});
  at.Put({0x48, 0x01, 0xC8});  // add rax, rcx
  at.Put({0x48, 0x03, 0x05});  // add rax, [rip + constant in state]
  at.Relative(TargetKind::kOwnState, kStateConstant);
  at.Put({0xF0, 0x48, 0xFF, 0x05});  // lock inc qword [rip + counter]
  at.Relative(TargetKind::kOwnState, 0);
  at.Put({0xF0, 0x48, 0xFF, 0x05});  // lock inc qword [rip + the ledger's counter]
  jit_arena::RelocSpec& counter = at.Relative(TargetKind::kExecutor, ledger);
  counter.target_section = Section::kState;

  if (OutsideKind outside = OutsideOf(key); outside != OutsideKind::kNone) {
    at.Put({0x55});                    // push rbp
    at.Put({0x48, 0x89, 0xE5});        // mov rbp, rsp
    at.Put({0x57});                    // push rdi
    at.Put({0x48, 0x83, 0xE4, 0xF0});  // and rsp, -16
    at.Put({0x48, 0x89, 0xC6});        // mov rsi, rax
    bool branch = outside == OutsideKind::kBranch;
    branch ? at.Put({0xE8}) : at.Put({0xFF, 0x15});  // call TortureOutside, or call [rip + slot]
    at.Relative(TargetKind::kAddress, reinterpret_cast<uint64_t>(&TortureOutside), 0, branch ? kPlt32 : kGotPcRelX);
    at.Put({0x48, 0x8B, 0x7D, 0xF8});  // mov rdi, [rbp - 8]
    at.Put({0x48, 0x89, 0xEC});        // mov rsp, rbp
    at.Put({0x5D});                    // pop rbp
  }

  if (key & kCalls) {
    switch (call) {
      case CallKind::kBranch:
      case CallKind::kUnalignedBranch:
        at.AlignField(1, call == CallKind::kUnalignedBranch);
        at.Put({0xE8});  // call function
        at.Relative(TargetKind::kBatchMember, 0, 0, kPlt32).target_offset = kInnerEntry;
        break;
      case CallKind::kPointer:
        at.Put({0xFF, 0x15});  // call [rip + function's address]
        at.Relative(TargetKind::kOwnData, kFunctionAddress);
        at.Reloc(Section::kData, kFunctionAddress, k64, TargetKind::kBatchMember, 0, 0).target_offset = kInnerEntry;
        break;
      case CallKind::kImmediate:
        while ((at.here() + 2) % 8 == 0) at.Put({0x90});
        at.Put({0x49, 0xBA});  // mov r10, function
        at.Reloc(Section::kCode, at.here(), k64, TargetKind::kBatchMember, 0, 0).target_offset = kInnerEntry;
        at.PutAs<uint64_t>(0);
        at.Put({0x41, 0xFF, 0xD2});  // call r10
        break;
      case CallKind::kSlot:
        at.Put({0xFF, 0x15});  // call [rip + slot]
        at.Relative(TargetKind::kBatchMember, 0, 0, kGotPcRelX).target_offset = kInnerEntry;
        break;
    }
  }

  if (trace) {
    at.Put({0x48, 0x89, 0x07});        // mov [rdi], rax
    at.Put({0x48, 0xFF, 0x4F, 0x08});  // dec qword [rdi + 8]
    at.Put({0x0F, 0x84});              // je the done stub
    at.Relative(TargetKind::kDone, 0, 0, kPlt32);
    if (key & kJumps) {
      at.AlignField(1, call == CallKind::kUnalignedBranch);
      at.Put({0xE9});  // jmp the next member
      at.Relative(TargetKind::kBatchMember, MemberOf(key) + 1, 0, kPlt32);
    } else {
      at.Put({0xA8, 0x01});  // test al, 1
      at.Put({0x75, 0x0A});  // jnz over the next two
      at.LeaveThrough(0);
      at.LeaveThrough(1);
    }
    at.Bind32(dead);
    at.LeaveThrough(kDeadExit);
  } else {
    at.Put({0xC3});  // ret
  }
  at.Reloc(Section::kData, kHelperAddress, k64, TargetKind::kOwnCode, at.here(), 0);
  at.Put({0x48, 0x05});  // helper: add rax, constant
  at.PutAs<uint32_t>(Mix(life + 3));
  at.Put({0xC3});  // ret
  return program;
}

}  // namespace torture
