// The torture's executors for x86-64.
//
// rdi is the context, rax the sum. A function is entered at its first byte by the host (System V: the sum is in the
// context and is returned), and kInnerEntry bytes further on by its family, with the sum in rax.
#include <cstddef>
#include <utility>

#include "base/bits.h"
#include "support/x64.h"
#include "torture/program.h"

namespace torture {
namespace {

using jit_arena::Section;
using jit_arena::StoreAs;
using jit_arena::TargetKind;
using namespace x64;

constexpr uint32_t kInnerEntry = 3;  // behind mov rax, [rdi]
// Data: two constants, the helper's address, the function's address.
constexpr uint32_t kSecondConstant = 8, kHelperAddress = 16, kFunctionAddress = 24, kDataBytes = 32;
// State: the counter and a constant.
constexpr uint32_t kStateConstant = 8, kStateBytes = 16;

static_assert(offsetof(Context, sum) == 0 && offsetof(Context, fuel) == 8 && offsetof(Context, log) == 16);

// The code of a program, whose relocs are the program's.
struct Maker : Instructions<Maker> {
  Program& program;
  explicit Maker(Program& program) : program(program) {}

  void Refer(uint32_t offset, uint8_t kind, const To& to, int64_t addend) {
    Refer(Section::kCode, offset, kind, to, addend);
  }
  void Refer(Section section, uint32_t offset, uint8_t kind, const To& to, int64_t addend = 0) {
    program.relocs.push_back({section, kind, to.kind, offset, to.target, addend, to.section, to.offset});
  }
  // A branch within the code, to be bound to a later place.
  uint32_t Forward32() { return Put32(0).here(); }
  void Bind32(uint32_t end) { StoreAs<uint32_t>(bytes.data() + end - 4, here() - end); }
  // So that a field which begins `before` bytes from here lies within 8 aligned bytes, or across them.
  void AlignField(uint32_t before, bool across) {
    while (((here() + before) % 8 > 4) != across) Nop(1);
  }
  void LoadSumAndKey(uint64_t key) { Put({0x48, 0x8B, 0x07}).Move64(kRcx, key); }  // mov rax, [rdi]
};

}  // namespace

Program Program::Filler(uint32_t bytes, uint64_t ledger) {
  Program program;
  program.sections[0].resize(bytes, 0xCC);
  program.sections[1].resize(bytes, 0x55);
  program.sections[2].resize(bytes, 0x33);
  Maker at(program);
  constexpr uint32_t kMostSites = 64;
  for (uint32_t offset = 0; offset + 8 <= bytes && offset < 8 * kMostSites; offset += 8)
    at.Refer(Section::kData, offset, k64, StateOf(ledger));
  return program;
}

Program Program::Of(uint64_t key, CallKind call, uint64_t ledger) {
  Program program;
  Maker at(program);
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
    at.Put({0x80, 0x3D}).Relative(kValid, 1);  // cmp byte [rip + valid], 0
    at.Put({0, 0x0F, 0x84});                   // je dead
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
  at.Put32(Mix(life) | 1);
  at.Add(kRax, OwnData(0));
  at.MoveAddress(kR10, OwnData(kSecondConstant)).Put({0x49, 0x33, 0x02});  // xor rax, [r10]
  at.CallThrough(OwnData(kHelperAddress));
  at.Move32(kRdx, (Mix(life + 6) & 15) + 1);
  uint32_t loop = at.here();
  at.Put({0x48, 0x05}).Put32(Mix(life + 4));  // loop: add rax, constant
  at.Put({0x48, 0xC1, 0xC0, 0x07});           // rol rax, 7
  at.Put({0xFF, 0xCA});                       // dec edx
  at.Put({0x75, static_cast<int>(loop - (at.here() + 2))});
  at.Put({0x48, 0x01, 0xC8});  // add rax, rcx
  at.Add(kRax, OwnState(kStateConstant));
  at.LockedIncrement(OwnState(0)).LockedIncrement(StateOf(ledger));

  if (OutsideKind outside = OutsideOf(key); outside != OutsideKind::kNone) {
    at.Push(kRbp).Move(kRbp, kRsp).Push(kRdi);
    at.Put({0x48, 0x83, 0xE4, 0xF0});  // and rsp, -16
    at.Move(kRsi, kRax);
    To torture_outside = Outside(&TortureOutside);
    outside == OutsideKind::kBranch ? at.Call(torture_outside) : at.CallThrough(torture_outside, kGotPcRelX);
    at.Put({0x48, 0x8B, 0x7D, 0xF8});  // mov rdi, [rbp - 8]
    at.Move(kRsp, kRbp).Pop(kRbp);
  }

  if (key & kCalls) {
    const To function{TargetKind::kBatchMember, 0, Section::kCode, kInnerEntry};
    switch (call) {
      case CallKind::kBranch:
      case CallKind::kUnalignedBranch:
        at.AlignField(1, call == CallKind::kUnalignedBranch);
        at.Call(function);
        break;
      case CallKind::kPointer:
        at.CallThrough(OwnData(kFunctionAddress));
        at.Refer(Section::kData, kFunctionAddress, k64, function);
        break;
      case CallKind::kImmediate:
        while ((at.here() + 2) % 8 == 0) at.Nop(1);
        at.MoveAddress(kR10, function).Call(kR10);
        break;
      case CallKind::kSlot:
        at.CallThrough(function, kGotPcRelX);
        break;
    }
  }

  if (trace) {
    at.Put({0x48, 0x89, 0x07});                       // mov [rdi], rax
    at.Put({0x48, 0xFF, 0x4F, 0x08});                 // dec qword [rdi + 8]
    at.Put({0x0F, 0x84}).Relative(kDone, 0, kPlt32);  // je the done stub
    if (key & kJumps) {
      at.AlignField(1, call == CallKind::kUnalignedBranch);
      at.Jump({TargetKind::kBatchMember, MemberOf(key) + 1});
    } else {
      at.Put({0xA8, 0x01});  // test al, 1
      at.Put({0x75, 0x0A});  // jnz over the next two
      at.LeaveThrough(0);
      at.LeaveThrough(1);
    }
    at.Bind32(dead);
    at.LeaveThrough(kDeadExit);
  } else {
    at.Ret();
  }
  at.Refer(Section::kData, kHelperAddress, k64, OwnCode(at.here()));
  at.Put({0x48, 0x05}).Put32(Mix(life + 3)).Ret();  // helper: add rax, constant
  program.sections[0] = std::move(at.bytes);
  return program;
}

}  // namespace torture
