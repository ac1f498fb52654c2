// Puts stencils one after the other into one executor: sizes first, then one pass that copies bodies and fills holes.
//
// Bodies follow each other in the order of the emits, without padding, since their alignment is for speed alone and a
// trace is entered at its first byte. Other code comes behind them; data and state have the host's own first, and what
// is all zero last, so that nobody need copy it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/spec.h"
#include "object/stencils.h"

namespace jit_arena {

// What a hole is filled with.
struct HoleFilling {
  enum class Kind : uint8_t {
    kNext,    // the stencil that is emitted next: for CONTINUE alone
    kEmit,    // the body of emit `value`
    kNumber,  // `value` itself
    kTarget,  // what the host calls `value`: a reloc says so
  };
  Kind kind = Kind::kNext;
  uint64_t value = 0;
};

struct TraceReloc {
  RelocSpec spec;
  std::optional<uint64_t> host_target{};  // takes the place of the spec's target
};

struct BuiltTrace {
  std::vector<uint8_t> bytes[kSections];  // none: the section is zero
  uint32_t sizes[kSections] = {};
  uint32_t aligns[kSections] = {1, 1, 1};
  std::vector<TraceReloc> relocs;
  std::vector<uint32_t> bodies;  // their offsets in code, by emit
  uint64_t zero_bytes = 0;       // of data and state, which nobody copied
  uint64_t elided_bytes = 0;     // of jumps to CONTINUE that would have gone to the next byte
};

class TraceBuilder {
 public:
  // Data or state of the host's own: bytes, or so many zero ones.
  struct HostBytes {
    const uint8_t* bytes = nullptr;
    uint32_t size = 0;
  };

  // The set outlives the builder. Holes by their positions in Stencil::holes.
  void Emit(const StencilSet& set, uint32_t stencil);
  // A hole of the last emit; all but CONTINUE are filled.
  void Fill(uint32_t hole, HoleFilling filling) { emits_.back().fillings[hole] = filling; }

  // ERR_ARENA_STENCIL when the last stencil continues, or a number is asked for in a slot; ERR_ARENA_RELOC_RANGE when
  // one does not fit its field; ERR_ARENA_SIZE.
  Result<BuiltTrace> Build(const HostBytes& data, const HostBytes& state);

 private:
  struct Emitted {
    const StencilSet* set;
    const Stencil* stencil;
    std::vector<HoleFilling> fillings;  // by Stencil::holes
  };
  // A part at its place; private parts belong to an emit.
  struct PlacedPart {
    const StencilPart* part;
    uint32_t emit;
    uint32_t offset;
    uint32_t size;  // that is used: less than the part's where the ending jump is left out
  };

  Status Place();
  Status PlacePart(const StencilPart& part, uint32_t emit, uint32_t size, bool aligned);
  void Copy(const HostBytes& data, const HostBytes& state);
  Status FillPart(const PlacedPart& placed);
  Status FillHole(const PlacedPart& placed, const StencilReloc& reloc, RelocSpec spec);
  Status PutNumber(uint64_t number, const std::string& what, const RelocSpec& spec);
  const HoleFilling& FillingOf(const Emitted& emitted, uint32_t hole) const;
  bool ContinuesAtOnce(uint32_t emit) const;

  std::vector<Emitted> emits_;
  // Of the build that is under way.
  BuiltTrace trace_;
  std::vector<PlacedPart> placed_;
  std::map<std::pair<uint64_t, const StencilPart*>, uint32_t> place_of_;  // by emit + 1, or 0 for what a trace has once
  uint64_t filled_[kSections] = {};  // up to where there is anything but zeros and what relocs write
};

}  // namespace jit_arena
