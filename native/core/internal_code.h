// The arena's own machine code: the call gate, the stubs that traces leave through, and veneers to thunks. It never
// moves and lasts as long as the arena; Verify reads it like that of executors.
//
// Every method: under the arena's lock. Those that write are called when no other thread stands in the writer's way
// (Arena::CloseGateToWrite).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"
#include "core/checksum.h"
#include "core/code_space.h"
#include "core/frame_tables.h"

namespace jit_arena {

class InternalCode {
 public:
  explicit InternalCode(CodeSpace& space) : space_(space) {}

  // Once, before any executor. ERR_ARENA_NO_MEMORY, as from all that adds.
  Status AddGateAndStubs();
  // A hop to an address that branches of the arena do not reach; its own address.
  Result<uint64_t> AddVeneer(uint64_t target);

  arch::CallGate call_gate() const { return call_gate_; }  // also without the lock
  uint64_t exit_stub() const { return exit_stub_; }        // where cold exits go
  uint64_t done_stub() const { return done_stub_; }        // where a trace goes that is done

  // The call gate's frame, unless the unwinder knows it.
  void StageFrames(FrameTables& frames) const;

  // The address to which the exit stub sends hot exits; 0: they return to the dispatcher, as at first. A thread that
  // finds its exit hot meanwhile goes the old way or the new one. Fails when the system refuses the write window.
  Status SetHotTarget(uint64_t target);

  size_t count() const { return pieces_.size(); }  // of spans, each with SpanState::kInternal
  // Calls visit(expected, found), both checksums, for what is not as it was written.
  template <class Visit>
  void ForEachChanged(Visit visit) const {
    for (const Piece& piece : pieces_) {
      uint64_t found = ChecksumOf(piece.span, piece.fixed_bytes);
      if (found != piece.checksum) visit(piece.checksum, found);
    }
  }
  size_t MetadataBytes() const { return pieces_.capacity() * sizeof(Piece); }

 private:
  struct Piece {
    SpanId span;
    uint32_t fixed_bytes;  // that never change; behind them may be a slot that does
    uint64_t checksum;     // of those
  };
  template <class WriteBytes>
  Result<uint64_t> Add(size_t bytes, size_t fixed_bytes, WriteBytes write);
  uint64_t ChecksumOf(SpanId span, uint32_t bytes) const {
    return Checksum(0, reinterpret_cast<const uint8_t*>(space_.AddressOf(span)), bytes);
  }

  CodeSpace& space_;
  std::vector<Piece> pieces_;
  arch::CallGate call_gate_ = nullptr;
  uint64_t done_stub_ = 0;
  uint64_t hot_return_ = 0;
  uint64_t exit_stub_ = 0;
};

}  // namespace jit_arena
