// A small assembler for x86-64: the instructions that tests are made of, a function each, and the relocs of their
// fields. Operands are 64 bits wide where a name does not say 32. Who derives from Instructions says what a reloc is:
// Assembler that of the core, capi_test::Code that of the C API.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "base/bits.h"
#include "core/spec.h"

namespace x64 {

enum Register : uint8_t { kRax, kRcx, kRdx, kRbx, kRsp, kRbp, kRsi, kRdi, kR8, kR9, kR10, kR11 };

enum Kind : uint8_t { k64 = 1, kPc32 = 2, kPlt32 = 4, kGotPcRelX = 41, kRexGotPcRelX = 42 };

// What a field refers to.
struct To {
  jit_arena::TargetKind kind;
  uint64_t target = 0;
  jit_arena::Section section = jit_arena::Section::kCode;  // of another executor
  uint32_t offset = 0;
};

inline To OwnCode(uint64_t offset) { return {jit_arena::TargetKind::kOwnCode, offset}; }
inline To OwnData(uint64_t offset) { return {jit_arena::TargetKind::kOwnData, offset}; }
inline To OwnState(uint64_t offset) { return {jit_arena::TargetKind::kOwnState, offset}; }
inline To Outside(uint64_t address) { return {jit_arena::TargetKind::kAddress, address}; }
template <class Result, class... Arguments>
To Outside(Result (*function)(Arguments...)) {
  return Outside(reinterpret_cast<uint64_t>(function));
}
inline To Another(uint64_t id) { return {jit_arena::TargetKind::kExecutor, id}; }
inline To StateOf(uint64_t id) { return {jit_arena::TargetKind::kExecutor, id, jit_arena::Section::kState}; }
inline To ExitRecord(uint64_t number) { return {jit_arena::TargetKind::kExit, number}; }
inline constexpr To kDone{jit_arena::TargetKind::kDone};
inline constexpr To kValid{jit_arena::TargetKind::kValid};
inline constexpr To kWarm{jit_arena::TargetKind::kWarm};

template <class Self>
struct Instructions {
  std::vector<uint8_t> bytes;

  uint32_t here() const { return static_cast<uint32_t>(bytes.size()); }

  Self& Put(std::initializer_list<int> more) {
    for (int byte : more) bytes.push_back(static_cast<uint8_t>(byte));
    return self();
  }
  Self& Put32(uint64_t value) { return PutAs<uint32_t>(value); }
  Self& Put64(uint64_t value) { return PutAs<uint64_t>(value); }
  Self& Fill(size_t count, uint8_t byte) { return bytes.insert(bytes.end(), count, byte), self(); }

  // A field of 4 bytes that counts from the end of its instruction, of which `behind` bytes follow; and one of 8 bytes.
  Self& Relative(const To& to, int behind = 0, uint8_t kind = kPc32) {
    self().Refer(here(), kind, to, -4 - behind);
    return Put32(0);
  }
  Self& Absolute(const To& to) {
    self().Refer(here(), k64, to, 0);
    return Put64(0);
  }

  Self& Nop(size_t count) { return Fill(count, 0x90); }
  Self& Ret() { return Put({0xC3}); }
  Self& Push(Register r) { return Put({0x50 + r}); }
  Self& Pop(Register r) { return Put({0x58 + r}); }
  Self& Move(Register to, Register from) { return Put({0x48, 0x89, 0xC0 + 8 * from + to}); }
  Self& Move32(Register to, Register from) { return Put({0x89, 0xC0 + 8 * from + to}); }
  Self& Move32(Register to, uint64_t constant) { return Put({0xB8 + to}).Put32(constant); }
  Self& Move64(Register to, uint64_t constant) { return Wide(to).Put64(constant); }
  Self& MoveAddress(Register to, const To& of) { return Wide(to).Absolute(of); }
  Self& Add32(Register to, Register from) { return Put({0x01, 0xC0 + 8 * from + to}); }

  // Of what is at a place beside which the code lies.
  Self& LoadAddress(Register to, const To& of) { return OfPlace(0x8D, to, of); }
  Self& Load(Register to, const To& from, uint8_t kind = kPc32) { return OfPlace(0x8B, to, from, kind); }
  Self& Load32(Register to, const To& from) { return Put({0x8B, 8 * to + 5}).Relative(from); }
  Self& Add(Register to, const To& from) { return OfPlace(0x03, to, from); }
  Self& Add32(Register to, const To& from) { return Put({0x03, 8 * to + 5}).Relative(from); }
  Self& LockedIncrement(const To& place) { return Put({0xF0, 0x48, 0xFF, 0x05}).Relative(place); }

  Self& Call(const To& to) { return Put({0xE8}).Relative(to, 0, kPlt32); }
  Self& Jump(const To& to) { return Put({0xE9}).Relative(to, 0, kPlt32); }
  Self& CallThrough(const To& slot, uint8_t kind = kPc32) { return Put({0xFF, 0x15}).Relative(slot, 0, kind); }
  Self& Call(Register r) { return (r >= kR8 ? Put({0x41}) : self()).Put({0xFF, 0xD0 + (r & 7)}); }
  // A C function, anywhere; what it gets in rdi is there afterwards, and the stack is aligned for it in a trace.
  Self& CallKeepingContext(const To& function) { return Push(kRdi).MoveAddress(kRax, function).Call(kRax).Pop(kRdi); }

  // mov byte [rip + warm], 1
  Self& SetWarm() { return Put({0xC6, 0x05}).Relative(kWarm, 1).Put({1}); }
  // lea r11, [rip + record]; jmp [r11]
  Self& LeaveThrough(uint64_t exit) { return LoadAddress(kR11, ExitRecord(exit)).Put({0x41, 0xFF, 0x23}); }
  Self& Done() { return Jump(kDone); }
  // Counts in context[0]; takes the exit while context[1] is not 0, and counts that down; else is done.
  Self& CountAndLeave(uint64_t exit, uint8_t add) {
    SetWarm().Put({0x48, 0x83, 0x07, add});         // add qword [rdi], add
    Put({0x48, 0x83, 0x7F, 0x08, 0x00, 0x74, 14});  // cmp qword [rdi + 8], 0; je done
    Put({0x48, 0xFF, 0x4F, 0x08});                  // dec qword [rdi + 8]
    return LeaveThrough(exit).Done();
  }

 private:
  Self& self() { return static_cast<Self&>(*this); }
  template <class T>
  Self& PutAs(uint64_t value) {
    bytes.resize(bytes.size() + sizeof(T));
    jit_arena::StoreAs<T>(bytes.data() + bytes.size() - sizeof(T), static_cast<T>(value));
    return self();
  }
  // mov to, imm64
  Self& Wide(Register to) { return Put({to >= kR8 ? 0x49 : 0x48, 0xB8 + (to & 7)}); }
  Self& OfPlace(int opcode, Register to, const To& place, uint8_t kind = kPc32) {
    return Put({to >= kR8 ? 0x4C : 0x48, opcode, 8 * (to & 7) + 5}).Relative(place, 0, kind);
  }
};

// Code for the core.
struct Assembler : Instructions<Assembler> {
  std::vector<jit_arena::RelocSpec> relocs;
  uint32_t exits = 0;

  void Refer(uint32_t offset, uint8_t kind, const To& to, int64_t addend) {
    using jit_arena::Section;
    relocs.push_back({Section::kCode, kind, to.kind, offset, to.target, addend, to.section, to.offset});
  }
  // Valid as long as this is unchanged.
  jit_arena::ExecutorSpec Spec() const {
    jit_arena::ExecutorSpec spec;
    spec.bytes[0] = bytes.data();
    spec.sizes[0] = here();
    spec.relocs = relocs.data();
    spec.reloc_count = static_cast<uint32_t>(relocs.size());
    spec.exit_count = exits;
    return spec;
  }
};

}  // namespace x64
