#include "core/references.h"

namespace jit_arena {
namespace {

// Walks every list, and counts.
class ListCheck {
 public:
  ListCheck(const References& references, const ExecutorTable& table) : references_(references), table_(table) {}

  void WalkInbound(uint32_t first, uint32_t target, bool is_slot) {
    uint32_t previous = 0;
    for (uint32_t id = first; id != 0; previous = id, id = references_[id].next_inbound) {
      const Reference& reference = references_[id];
      inbound_++;
      if (reference.target != target || reference.target_is_slot() != is_slot || reference.previous_inbound != previous)
        broken = "an inbound list is not the list of its target";
    }
  }

  void WalkOutbound(uint32_t first, uint32_t source, bool is_slot) {
    for (uint32_t id = first; id != 0; id = references_[id].next_outbound) {
      const Reference& reference = references_[id];
      outbound_++;
      if (reference.source != source || reference.source_is_slot() != is_slot)
        broken = "an outbound list is not the list of its source";
      if (reference.has_field() && !table_[source].holds_addresses)
        broken = "an executor holds an address that it does not know of";
      if (!reference.target_is_slot() && table_[reference.target].State() != ExecutorState::kFrozen)
        broken = "a reference to an executor that is not frozen";
    }
  }

  void Compare() {
    if (inbound_ != outbound_) broken = "inbound and outbound references differ in number";
  }

  std::string broken;

 private:
  const References& references_;
  const ExecutorTable& table_;
  uint64_t outbound_ = 0, inbound_ = 0;
};

}  // namespace

Status References::Add(const Reference& reference) {
  uint32_t id = free_;
  if (id != 0)
    free_ = references_[id].next_outbound;
  else if (id = references_.Add(); id == 0)
    return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Reference& added = references_[id] = reference;
  uint32_t& outbound = OutboundOf(added);
  uint32_t& inbound = InboundOf(added);
  added.next_outbound = outbound;
  added.next_inbound = inbound;
  added.previous_inbound = added.previous_outbound = 0;
  if (outbound != 0) references_[outbound].previous_outbound = id;
  if (inbound != 0) references_[inbound].previous_inbound = id;
  outbound = inbound = id;
  if (added.has_field()) table_[added.source].holds_addresses = 1;
  return Status::Ok();
}

void References::Remove(uint32_t id) {
  const Reference& reference = references_[id];
  if (reference.next_outbound != 0)
    references_[reference.next_outbound].previous_outbound = reference.previous_outbound;
  if (reference.previous_outbound != 0)
    references_[reference.previous_outbound].next_outbound = reference.next_outbound;
  else
    OutboundOf(reference) = reference.next_outbound;
  RemoveInbound(id);
}

void References::RemoveInbound(uint32_t id) {
  Reference& reference = references_[id];
  if (reference.next_inbound != 0) references_[reference.next_inbound].previous_inbound = reference.previous_inbound;
  if (reference.previous_inbound != 0)
    references_[reference.previous_inbound].next_inbound = reference.next_inbound;
  else
    InboundOf(reference) = reference.next_inbound;
  reference = Reference{};
  reference.next_outbound = free_;
  free_ = id;
}

void References::DropUse(uint32_t user, uint32_t slot) {
  // The index may be another executor's before the far slot is looked at again.
  if (far_slots_[slot].last_user == user) far_slots_[slot].last_user = 0;
  if (far_slots_[slot].inbound == 0) DropFarSlot(slot);
}

void References::DropFarSlot(uint32_t slot) {
  if (far_slots_[slot].outbound != 0) RemoveInbound(far_slots_[slot].outbound);
  far_slots_.Drop(slot);
}

uint32_t References::FindLink(uint32_t source, uint32_t exit) const {
  for (uint32_t id = table_[source].outbound; id != 0; id = references_[id].next_outbound)
    if (references_[id].kind == ReferenceKind::kExit && references_[id].site == exit) return id;
  return 0;
}

uint32_t References::FindUnmarkedSource(uint32_t index) const {
  for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
    const Reference& reference = references_[id];
    if (reference.kind == ReferenceKind::kExit) continue;
    if (!reference.source_is_slot()) {
      if (!table_[reference.source].marked) return reference.source;
      continue;
    }
    for (uint32_t use = far_slots_[reference.source].inbound; use != 0; use = references_[use].next_inbound)
      if (!table_[references_[use].source].marked) return references_[use].source;
  }
  return 0;
}

std::string References::FindBrokenRule() const {
  ListCheck check(*this, table_);
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.State() != ExecutorState::kFrozen) {
      if (executor.inbound != 0 || executor.outbound != 0)
        check.broken = "references of an executor that is not frozen";
      continue;
    }
    check.WalkOutbound(executor.outbound, index, false);
    check.WalkInbound(executor.inbound, index, false);
  }
  far_slots_.ForEach([&](uint32_t slot) {
    check.WalkOutbound(far_slots_[slot].outbound, slot, true);
    check.WalkInbound(far_slots_[slot].inbound, slot, true);
    if (far_slots_[slot].inbound == 0) check.broken = "a far slot that nobody uses";
  });
  check.Compare();
  return std::move(check.broken);
}

}  // namespace jit_arena
