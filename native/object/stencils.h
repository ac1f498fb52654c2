// Stencils: pieces of machine code with holes, made by a C compiler, from which a host puts traces together.
//
// A set is a graph of parts, the sections of the object: each stencil has a body of its own, and what that uses,
// directly or not. Where a hole is in a part, or the address of such a part, it differs from one emit to the next, and
// each emit has it anew; other parts are in a trace once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"

namespace jit_arena {

// The hole that stands for the next stencil.
inline constexpr std::string_view kContinueHole = "CONTINUE";

inline constexpr uint32_t kNone = ~uint32_t{0};

// A hole, or a reference to a part: to itself, or to one that is put into the same executor.
struct StencilReloc {
  uint32_t offset;
  arch::RelocKind kind;
  uint32_t hole = kNone;  // in StencilSet::holes(); without one:
  uint32_t part = kNone;  // in StencilSet::parts(); without one the value is `addend`
  uint32_t part_offset = 0;
  int64_t addend = 0;
};

// A section of the object: a stencil's body, or what it uses.
struct StencilPart {
  Section section = Section::kCode;
  uint32_t align = 1;
  uint32_t size = 0;
  std::vector<uint8_t> bytes;        // without the zero tail
  std::vector<StencilReloc> relocs;  // by offset
};

struct Stencil {
  std::string name;
  uint32_t body = 0;
  uint32_t jump_bytes = 0;       // of the jump to CONTINUE that the body ends with; 0: it does not
  std::vector<uint32_t> shared;  // parts that a trace has once
  std::vector<uint32_t> own;     // parts that each emit has
  std::vector<uint32_t> holes;   // sorted by their names
};

class StencilSet {
 public:
  // Of a relocatable object: each global function is a stencil, each undefined symbol a hole. ERR_ARENA_OBJECT…,
  // ERR_ARENA_STENCIL.
  static Result<StencilSet> FromObject(const uint8_t* bytes, size_t size);
  // What Save wrote; ERR_ARENA_STENCIL for anything else. Nothing is believed (stencil_file.cc).
  static Result<StencilSet> Load(const uint8_t* bytes, size_t size);
  std::vector<uint8_t> Save() const;

  const std::vector<Stencil>& stencils() const { return stencils_; }
  const std::vector<StencilPart>& parts() const { return parts_; }
  const std::vector<std::string>& holes() const { return holes_; }

 private:
  class Uses;

  // With parts and holes, and of the stencils the names and bodies.
  Status Complete();
  std::vector<bool> FindPrivateParts() const;
  void FindEndingJumps();
  uint32_t HoleNamed(std::string_view name) const;

  std::vector<StencilPart> parts_;
  std::vector<std::string> holes_;
  std::vector<Stencil> stencils_;
};

}  // namespace jit_arena
