// Numbers of 64-bit ELF that say what a symbol is, and how large each record of a file is. Those of sections are in
// object_roles.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jit_arena {

// Section indexes, symbol types and bindings: gABI figures 4-7 and 4-16 to 4-19.
enum : uint16_t {
  kElfUndefined = 0,
  kElfReserved = 0xFF00,
  kElfAbsolute = 0xFFF1,
  kElfCommon = 0xFFF2,
};
enum : uint8_t { kElfLocal = 0, kElfGlobal = 1, kElfWeak = 2, kElfUnique = 10 };
enum : uint8_t { kElfFunction = 2, kElfSectionSymbol = 3, kElfTls = 6, kElfIfunc = 10 };

inline constexpr size_t kElfHeaderBytes = 64;
inline constexpr size_t kElfSectionHeaderBytes = 64;
inline constexpr size_t kElfSymbolBytes = 24;
inline constexpr size_t kElfRelaBytes = 24;

}  // namespace jit_arena
