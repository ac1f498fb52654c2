#include "core/far_slots.h"

#include "base/bits.h"

namespace jit_arena {

Result<uint32_t> FarSlots::Make(const FarAddress& address) {
  uint32_t slot = free_;
  if (slot != 0)
    free_ = slots_[slot].inbound;
  else if (slot = slots_.Add(); slot == 0)
    return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Result<SpanId> span = space_.Allocate(Zone::kFixedCode, arch::kFarSlotBytes, kGranuleBytes, 0, Section::kCode);
  if (!span.ok()) {
    Recycle(slot);
    return std::move(span.status());
  }
  Status failed = Write(span.value(), address);
  if (failed.ok()) failed = OrOutOfMemory([&] { slot_of_.try_emplace(address, slot); });
  if (!failed.ok()) {
    space_.Free(span.value());
    Recycle(slot);
    return failed;
  }
  slots_[slot] = FarSlot{};
  slots_[slot].span = span.value();
  slots_[slot].address = address;
  space_.SetState(span.value(), SpanState::kInternal);
  return slot;
}

Status FarSlots::Write(SpanId span, const FarAddress& address) {
  WriteScope scope(space_, "far slot");
  if (Status failed = scope.Open(span)) return failed;
  arch::WriteFarSlot(scope.Fill(span, 0, arch::kFarSlotBytes), Resolve(address));
  return Status::Ok();
}

void FarSlots::Verify(std::vector<Problem>* problems) const {
  for (const auto& [address, slot] : slot_of_) {
    uint64_t expected = Resolve(address);
    uint64_t found = LoadAs<uint64_t>(reinterpret_cast<const uint8_t*>(GotAddress(slot)));
    if (found != expected)
      problems->push_back({address.owner != 0 ? table_.IdOf(address.owner) : 0, Section::kCode, -1, expected, found,
                           "the address in a far slot"});
  }
}

}  // namespace jit_arena
