// Exits, links and the hot stub: checks and order of calls; core/exits.h does the stores.
#include "core/arena.h"

namespace jit_arena {

Result<uint32_t> Arena::FindFrozen(ExecutorId id) {
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  if (found.value()->State() == ExecutorState::kFrozen) return IndexOf(id);
  return ExecutorError(ErrorCode::kNotFrozen, id, Format("executor %llu is still writable: freeze it first", Wide(id)));
}

Result<uint32_t> Arena::FindExit(ExecutorId id, uint32_t exit) {
  Result<uint32_t> index = FindFrozen(id);
  if (!index.ok()) return index;
  uint32_t count = table_[index.value()].exit_count;
  if (exit < count) return index;
  Error error =
      ExecutorError(ErrorCode::kExit, id, Format("executor %llu has %u exits and no exit %u", Wide(id), count, exit));
  error.index = exit;
  return error;
}

Status Arena::Link(ExecutorId source_id, uint32_t exit, ExecutorId target_id, uint32_t entry) {
  std::lock_guard guard(lock_);
  Result<uint32_t> source = FindExit(source_id, exit);
  if (!source.ok()) return std::move(source.status());
  Result<uint32_t> target = FindFrozen(target_id);
  if (!target.ok()) return std::move(target.status());
  if (Status failed = CheckTrace(target.value())) return failed;
  Result<uint32_t> offset = EntryOffsetOf(target.value(), entry);
  if (!offset.ok()) return std::move(offset.status());
  if (Status failed = CheckChain(source.value(), target.value())) return failed;
  if (Status failed = linker_.exits.Link(source.value(), exit, target.value(), entry)) return failed;
  AfterCall();
  return Status::Ok();
}

// The trace ABI is no C calling convention: what was not made for it cannot be entered from an exit.
Status Arena::CheckTrace(uint32_t index) const {
  if (table_[index].IsTrace()) return Status::Ok();
  ExecutorId id = table_.IdOf(index);
  return ExecutorError(
      ErrorCode::kTraceAbi, id,
      Format("executor %llu has neither exits nor a done target: an exit cannot lead to it", Wide(id)));
}

Status Arena::CheckChain(uint32_t source, uint32_t target) const {
  if (max_chain_depth_ == Exits::kEndless) return Status::Ok();
  uint32_t depth = linker_.exits.DepthOfLink(source, target);
  if (depth <= max_chain_depth_) return Status::Ok();
  ExecutorId id = table_.IdOf(target);
  return ExecutorError(ErrorCode::kChainDepth, id,
                       depth == Exits::kEndless
                           ? Format("linking to executor %llu would close a cycle that makes no progress", Wide(id))
                           : Format("linking to executor %llu would make a chain of %u links without progress; the "
                                    "limit is %u",
                                    Wide(id), depth, max_chain_depth_));
}

Status Arena::Unlink(ExecutorId source_id, uint32_t exit) {
  std::lock_guard guard(lock_);
  Result<uint32_t> source = FindExit(source_id, exit);
  if (!source.ok()) return std::move(source.status());
  linker_.exits.Unlink(source.value(), exit);
  AfterCall();
  return Status::Ok();
}

Status Arena::UnlinkAll() {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  linker_.exits.UnlinkAll();
  AfterCall();
  return Status::Ok();
}

Result<Arena::LinkedTo> Arena::LinkOf(ExecutorId source_id, uint32_t exit) {
  std::lock_guard guard(lock_);
  Result<uint32_t> source = FindExit(source_id, exit);
  if (!source.ok()) return std::move(source.status());
  Exits::LinkedTo linked = linker_.exits.FindLink(source.value(), exit);
  if (linked.target == 0) return LinkedTo{0, 0};
  return LinkedTo{table_.IdOf(linked.target), linked.entry};
}

Result<uint32_t> Arena::ChainDepth(ExecutorId id) {
  std::lock_guard guard(lock_);
  Result<uint32_t> index = FindFrozen(id);
  if (!index.ok()) return index;
  return linker_.exits.ChainDepth(index.value());
}

Status Arena::Replace(ExecutorId old_id, ExecutorId new_id) {
  std::lock_guard guard(lock_);
  Result<uint32_t> from = FindFrozen(old_id);
  if (!from.ok()) return std::move(from.status());
  Result<uint32_t> to = FindFrozen(new_id);
  if (!to.ok()) return std::move(to.status());
  if (from.value() == to.value()) return Status::Ok();
  if (Status failed = CheckTrace(to.value())) return failed;
  // Check: every entry that is linked to must be there.
  Status failed;
  linker_.exits.ForEachLinkTo(from.value(), [&](uint32_t source, uint32_t, uint32_t entry) {
    Result<uint32_t> offset = EntryOffsetOf(to.value(), entry);
    if (failed.ok() && !offset.ok()) failed = std::move(offset.status());
    if (failed.ok()) failed = CheckChain(source, to.value());
  });
  if (!failed.ok()) return failed;
  // Only the first can fail for want of memory: it gives the place of the old link to the next.
  linker_.exits.ForEachLinkTo(from.value(), [&](uint32_t source, uint32_t exit, uint32_t entry) {
    if (failed.ok()) failed = linker_.exits.Link(source, exit, to.value(), entry);
  });
  AfterCall();
  return failed;
}

Status Arena::SetHotStub(ExecutorId id, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  uint64_t target = 0;
  if (id != 0) {
    Result<uint32_t> index = FindFrozen(id);
    if (!index.ok()) return std::move(index.status());
    if (table_[index.value()].movable)
      return ExecutorError(ErrorCode::kMovable, id,
                           Format("executor %llu is movable, and a hot stub stays where it is: allocate it with "
                                  "movable: false",
                                  Wide(id)));
    if (Status failed = CheckTrace(index.value())) return failed;
    target = space_.AddressOf(table_[index.value()].code_span) + EntryOffsetOf(index.value(), 0).value();
  }
  ClosedGate gate;
  if (Status busy = CloseGateToWrite(gate, self, true)) return busy;
  if (Status failed = own_code_.SetHotTarget(target)) return failed;
  if (id != 0) table_[IndexOf(id)].immortal = 1;
  return Status::Ok();
}

Result<uint32_t> Arena::ExitTag(ExecutorId id, uint32_t exit) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  uint32_t index = IndexOf(id);
  // Also of a trace that died while it ran and took the exit: what it knows stays until it is reclaimed.
  bool retired = index != 0 && index < table_.size() && table_.IdOf(index) == id &&
                 table_[index].State() == ExecutorState::kRetired && exit < table_[index].exit_count;
  if (!retired) {
    Result<uint32_t> found = FindExit(id, exit);
    if (!found.ok()) return found;
  }
  const Notes* notes = table_.FindNotes(index);
  return notes != nullptr && exit < notes->exit_tags.size() ? notes->exit_tags[exit] : exit;
}

bool Arena::IsTrace(ExecutorId id) {
  std::lock_guard guard(lock_);
  Executor* executor = table_.Find(id);
  return executor != nullptr && executor->IsTrace();
}

ExitTaken Arena::ResolveExit(uint64_t returned) const {
  if (returned == 0) return {0, 0, false};
  bool hot = returned & 1;
  auto& record = *reinterpret_cast<ExitRecord*>(returned & ~uint64_t{1});
  // Acquire: pairs with the release that made the record cold or linked it. The trace itself came here through an entry
  // that it loaded; this is the same order in words that a compiler knows.
  record.entry.load(std::memory_order_acquire);
  if (hot) linker_.exits.Backoff(record);
  // Under the pin neither the record nor the index is used again, also when the executor has been freed meanwhile.
  return {table_.IdOf(record.executor), record.exit, hot};
}

}  // namespace jit_arena
