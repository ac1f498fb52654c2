// Executors whose frames exceptions pass: each calls a function of the test's, and brings a table for the unwinder.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/bits.h"
#include "core/frame_tables.h"
#include "os/unwinder.h"
#include "support/x64.h"

// Calls `function` with its own argument, and returns what that returns; 22 bytes.
inline x64::Assembler CallWithFrame(int (*function)(int)) {
  return x64::Assembler()
      .Put({0x48, 0x83, 0xEC, 0x08})  // sub rsp, 8
      .MoveAddress(x64::kRax, x64::Outside(function))
      .Put({0xFF, 0xD0})              // call rax
      .Put({0x48, 0x83, 0xC4, 0x08})  // add rsp, 8
      .Ret();
}

// Of such code: CFA = rsp + 8, from byte 4 on rsp + 16.
inline std::shared_ptr<const jit_arena::FrameTable> FramesOfCall() {
  CHECK(jit_arena::os::FindUnwinder());
  jit_arena::FrameTable table;
  table.bytes = {0x14, 0, 0, 0, 0,    0, 0, 0, 1,    'z',  'R',  0,  1, 0x78, 16, 1, 0, 0x0C, 7, 8,
                 0x90, 1, 0, 0, 0x1C, 0, 0, 0, 0x1C, 0,    0,    0,  0, 0,    0,  0, 0, 0,    0, 0,
                 21,   0, 0, 0, 0,    0, 0, 0, 0,    0x44, 0x0E, 16, 0, 0,    0,  0, 0, 0,    0, 0};
  table.fixups = {{32, jit_arena::Section::kCode, 0}};
  return std::make_shared<const jit_arena::FrameTable>(std::move(table));
}

// What the executor at `entry` throws, if it throws an int.
inline std::optional<int> ThrownBy(uint64_t entry, int argument) {
  try {
    reinterpret_cast<int (*)(int)>(entry)(argument);
    return std::nullopt;
  } catch (int value) {
    return value;
  }
}

// Whether the unwinder knows a frame for the address.
extern "C" const void* _Unwind_Find_FDE(const void* code, void** bases);
inline bool UnwinderKnows(uint64_t address) {
  void* bases[3];
  return _Unwind_Find_FDE(reinterpret_cast<const void*>(address), bases) != nullptr;
}
