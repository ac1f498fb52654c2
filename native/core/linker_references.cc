// The linker's references: who refers to whom, and far slots for targets out of reach.
#include "core/linker.h"

namespace jit_arena {

Status Linker::AddReference(const Reference& reference) {
  uint32_t id = free_reference_;
  if (id != 0)
    free_reference_ = references_[id].next_outbound;
  else if (id = references_.Add(); id == 0)
    return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Reference& added = references_[id] = reference;
  uint32_t& outbound = added.source_is_link() ? links_[added.source].outbound : table_[added.source].outbound;
  uint32_t& inbound = added.target_is_link() ? links_[added.target].inbound : table_[added.target].inbound;
  added.next_outbound = outbound;
  added.next_inbound = inbound;
  added.previous_inbound = added.previous_outbound = 0;
  if (outbound != 0) references_[outbound].previous_outbound = id;
  if (inbound != 0) references_[inbound].previous_inbound = id;
  outbound = inbound = id;
  if (added.has_field()) table_[added.source].holds_addresses = 1;
  return Status::Ok();
}

void Linker::RemoveInbound(uint32_t id) {
  Reference& reference = references_[id];
  uint32_t& inbound = reference.target_is_link() ? links_[reference.target].inbound : table_[reference.target].inbound;
  if (reference.next_inbound != 0) references_[reference.next_inbound].previous_inbound = reference.previous_inbound;
  if (reference.previous_inbound != 0)
    references_[reference.previous_inbound].next_inbound = reference.next_inbound;
  else
    inbound = reference.next_inbound;
  reference = Reference{};
  reference.next_outbound = free_reference_;
  free_reference_ = id;
}

Result<uint32_t> Linker::AcquireLink(uint32_t user, uint32_t owner, uint64_t target) {
  uint32_t link = 0;
  auto found = link_of_.find(LinkKey{target, owner});
  if (found != link_of_.end()) {
    link = found->second;
    if (links_[link].last_user == user) return link;
  } else {
    Result<uint32_t> made = MakeLink(owner, target);
    if (!made.ok()) return made;
    link = made.value();
  }
  Reference use;
  use.source = user;
  use.target = link;
  use.kind = ReferenceKind::kLinkUse;
  if (Status failed = AddReference(use)) {
    if (links_[link].inbound == 0) ReleaseLink(link);
    return failed;
  }
  links_[link].last_user = user;
  return link;
}

// Nobody knows of a new link yet: its bytes may be written before the freeze is certain.
Result<uint32_t> Linker::MakeLink(uint32_t owner, uint64_t target) {
  uint32_t link = free_link_;
  if (link != 0)
    free_link_ = links_[link].inbound;
  else if (link = links_.Add(); link == 0)
    return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  links_[link] = FarSlot{};
  Result<SpanId> span = space_.Allocate(Zone::kFixedCode, arch::kFarSlotBytes, 16, 0, Section::kCode);
  Status failed = std::move(span.status());
  if (failed.ok()) {
    WriteScope scope(space_, "far slot");
    failed = scope.Open(span.value());
    if (failed.ok())
      arch::WriteFarSlot(scope.Fill(span.value(), 0, arch::kFarSlotBytes),
                         owner != 0 ? CodeAddress(owner) + target : target);
  }
  if (failed.ok()) failed = OrOutOfMemory([&] { link_of_.try_emplace(LinkKey{target, owner}, link); });
  if (failed.ok() && owner != 0) {
    Reference reference;
    reference.source = link;
    reference.kind = ReferenceKind::kSlot;
    reference.target = owner;
    failed = AddReference(reference);
    if (!failed.ok()) link_of_.erase(LinkKey{target, owner});
  }
  if (!failed.ok()) {
    if (span.ok()) space_.Free(span.value());
    FreeLink(link);
    return failed;
  }
  space_.SetState(span.value(), SpanState::kInternal);
  links_[link].span = span.value();
  links_[link].target = target;
  links_[link].owner = owner;
  return link;
}

void Linker::ReleaseLink(uint32_t link) {
  FarSlot& released = links_[link];
  if (released.outbound != 0) RemoveInbound(released.outbound);
  link_of_.erase(LinkKey{released.target, released.owner});
  released.inbound = std::exchange(unused_link_, link);
}

void Linker::ForgetReferences(uint32_t index) {
  Executor& executor = table_[index];
  for (uint32_t id = executor.outbound; id != 0;) {
    Reference reference = references_[id];
    RemoveInbound(id);
    // Who is still in the executor leaves it at its next exit.
    if (reference.kind == ReferenceKind::kExit) MakeCold(RecordOf(index, reference.site));
    if (reference.target_is_link()) {
      FarSlot& link = links_[reference.target];
      if (link.last_user == index) link.last_user = 0;
      if (link.inbound == 0) ReleaseLink(reference.target);
    }
    id = reference.next_outbound;
  }
  executor.outbound = 0;
  executor.holds_addresses = 0;
  UnlinkInbound(index);
  ForEachKept(executor.kept(), executor.kept_bytes, [&](const KeptReloc&) { kept_count_--; });
  table_.DropKept(executor);
}

uint32_t Linker::FindUnmarkedSource(uint32_t index) const {
  for (uint32_t id = table_[index].inbound; id != 0; id = references_[id].next_inbound) {
    const Reference& reference = references_[id];
    if (reference.kind == ReferenceKind::kExit) continue;
    if (!reference.source_is_link()) {
      if (!table_[reference.source].marked) return reference.source;
      continue;
    }
    for (uint32_t use = links_[reference.source].inbound; use != 0; use = references_[use].next_inbound)
      if (!table_[references_[use].source].marked) return references_[use].source;
  }
  return 0;
}

void Linker::RemoveReference(uint32_t id) {
  const Reference& reference = references_[id];
  uint32_t& outbound =
      reference.source_is_link() ? links_[reference.source].outbound : table_[reference.source].outbound;
  if (reference.next_outbound != 0)
    references_[reference.next_outbound].previous_outbound = reference.previous_outbound;
  if (reference.previous_outbound != 0)
    references_[reference.previous_outbound].next_outbound = reference.next_outbound;
  else
    outbound = reference.next_outbound;
  RemoveInbound(id);
}

}  // namespace jit_arena
