#include "core/internal_code.h"

#include "base/room.h"

namespace jit_arena {

// `write(bytes)` fills `bytes` bytes. Their address.
template <class WriteBytes>
Result<uint64_t> InternalCode::Add(size_t bytes, size_t fixed_bytes, WriteBytes write) {
  if (Status failed = MakeRoom(pieces_, 1)) return failed;
  const auto size = static_cast<uint32_t>(bytes), fixed = static_cast<uint32_t>(fixed_bytes);
  Result<SpanId> span = space_.Allocate(Zone::kFixedCode, size, kGranuleBytes, 0, Section::kCode);
  if (!span.ok()) return std::move(span.status());
  WriteScope scope(space_, "the arena's own code");
  if (Status failed = scope.Open(span.value())) {
    space_.Abandon(span.value());
    return failed;
  }
  write(scope.Fill(span.value(), 0, size));
  space_.SetState(span.value(), SpanState::kInternal);
  scope.Finish();
  pieces_.push_back({span.value(), fixed, ChecksumOf(span.value(), fixed)});
  return space_.AddressOf(span.value());
}

Status InternalCode::AddGateAndStubs() {
  Status failed;
  auto add = [&](size_t bytes, size_t fixed_bytes, auto write) -> uint64_t {
    if (!failed.ok()) return 0;
    Result<uint64_t> address = Add(bytes, fixed_bytes, write);
    if (address.ok()) return address.value();
    failed = std::move(address.status());
    return 0;
  };
  auto add_fixed = [&](size_t bytes, void (*write)(uint8_t*)) { return add(bytes, bytes, write); };
  call_gate_ = reinterpret_cast<arch::CallGate>(add_fixed(arch::CallGateBytes(), &arch::WriteCallGate));
  done_stub_ = add_fixed(arch::DoneStubBytes(), &arch::WriteDoneStub);
  hot_return_ = add_fixed(arch::HotReturnBytes(), &arch::WriteHotReturn);
  exit_stub_ = add(arch::ExitStubBytes(), arch::kHotSlotOffset,
                   [&](uint8_t* bytes) { arch::WriteExitStub(bytes, hot_return_); });
  return failed;
}

Result<uint64_t> InternalCode::AddVeneer(uint64_t target) {
  return Add(arch::kFarSlotBytes, arch::kFarSlotBytes, [&](uint8_t* bytes) { arch::WriteFarSlot(bytes, target); });
}

void InternalCode::StageFrames(FrameTables& frames) const {
  const auto gate = reinterpret_cast<uint64_t>(call_gate_);
  const uint64_t slab = space_.SlabOf(pieces_.front().span).first();
  if (frames.Knows(slab, gate)) return;
  FrameTable table;
  table.bytes.resize(arch::CallGateFramesBytes());
  arch::WriteCallGateFrames(table.bytes.data(), gate);
  frames.Stage(slab, &table, gate, gate);
}

Status InternalCode::SetHotTarget(uint64_t target) {
  if (target == 0) target = hot_return_;
  SpanId stub = space_.FindSpan(exit_stub_);
  WriteScope scope(space_, "hot slot");
  if (Status failed = scope.Open(stub)) return failed;
  scope.Patch(stub, arch::kHotSlotOffset, reinterpret_cast<const uint8_t*>(&target), sizeof target);
  return Status::Ok();
}

}  // namespace jit_arena
