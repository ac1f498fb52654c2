// Executors end: what nothing that is published leads to any more is freed now, or retired until nobody can be in it.
#include "core/arena.h"

namespace jit_arena {

Status Arena::Free(const ExecutorId* ids, uint32_t count, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = Retire(ids, count)) return failed;
  Reclaim(self);
  AfterCall();
  return Status::Ok();
}

Status Arena::Retire(const ExecutorId* ids, uint32_t count) {
  Status failed;
  uint32_t marked = 0;
  for (; marked < count; marked++) {
    Executor* found = table_.Find(ids[marked]);
    if (found == nullptr)
      failed = std::move(FindExecutor(ids[marked]).status());
    else if (found->marked)
      failed = ExecutorError(ErrorCode::kDuplicateExecutor, ids[marked],
                             Format("executor %llu is named twice", Wide(ids[marked])));
    else if (found->immortal)
      failed = ExecutorError(
          ErrorCode::kImmortal, ids[marked],
          Format("executor %llu is or was the hot stub and lives as long as the arena", Wide(ids[marked])));
    if (!failed.ok()) break;
    found->marked = 1;
    if (uint64_t entry = found->entry.load(std::memory_order_relaxed); entry != 0)
      space_.PrefetchForFree(found->code_span, entry);
  }
  uint32_t position = marked;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    uint32_t source = linker_.references.FindUnmarkedSource(IndexOf(ids[i]));
    if (source == 0) continue;
    failed =
        ExecutorError(ErrorCode::kReferenced, ids[i],
                      Format("executor %llu is the target of a direct reloc of executor %llu: free both in one call",
                             Wide(ids[i]), Wide(table_.IdOf(source))));
    position = i;
  }
  for (uint32_t i = 0; i < marked; i++) table_[IndexOf(ids[i])].marked = 0;
  if (!failed.ok()) return AtPosition(std::move(failed), position, count);

  if (Status refused = events_.Prepare(EventKind::kRetired, count)) return refused;
  // Entries first: no later pin finds one. Then the references, then the memory.
  for (uint32_t i = 0; i < count; i++) {
    Executor& executor = table_[IndexOf(ids[i])];
    executor.entry.store(0, std::memory_order_release);
    if (executor.State() != ExecutorState::kFrozen) continue;
    // Traces that are entered through a jump they made before look here.
    if (executor.has_flags) linker_.exits.ValidByte(IndexOf(ids[i]))->store(0, std::memory_order_release);
  }
  TestPoint(TestPointId::kFreeUnpublished);
  for (uint32_t i = 0; i < count; i++)
    if (table_[IndexOf(ids[i])].State() == ExecutorState::kFrozen) linker_.Forget(IndexOf(ids[i]));
  if (events_.Wants(EventKind::kRetired)) {
    for (uint32_t i = 0; i < count; i++) {
      SpanId code = table_[IndexOf(ids[i])].code_span;
      events_.Tell(EventKind::kRetired, {ids[i], code != 0 ? space_.AddressOf(code) : 0, 0});
    }
  }
  // Where nobody is pinned, nobody can get to it any more.
  bool at_once = writer() != os::WriterKind::kFlip && !reclaimer_.AnyPinned();
  for (uint32_t i = 0; i < count; i++) {
    uint32_t index = IndexOf(ids[i]);
    Executor& executor = table_[index];
    stats_.executors--;
    if (executor.State() == ExecutorState::kWritable) {
      staged_.Remove(index);
      table_.Recycle(index);
      continue;
    }
    stats_.live_bytes -= executor.LiveBytes();
    executor.SetState(ExecutorState::kRetired);
    LetGo({{executor.code_span, executor.data_span, executor.state_span}, index, 0}, at_once);
  }
  // Old copies that are still executing may leave through a far slot: it retires after them.
  linker_.far_slots.TakeUnused([&](SpanId span) { LetGo({{span, 0, 0}, 0, 0}, at_once); });
  if (!at_once) reclaimer_.Stamp();
  events_.Flush();
  return Status::Ok();
}

void Arena::LetGo(const Retired& retired, bool at_once) {
  if (at_once)
    FreeRetired(space_, table_, frames_, events_, retired);
  else
    jit_arena::Retire(space_, table_, reclaimer_, retired);
}

void Arena::Reclaim(const PinSlot* self) {
  if (reclaimer_.retired_bytes() == 0) return;
  // Poison is a write: where the flip writer cannot write now, what is due waits for the next call.
  ClosedGate gate;
  if (writer() == os::WriterKind::kFlip && !gate.Close(reclaimer_, self, 0)) return;
  FreeDue(space_, table_, frames_, events_, reclaimer_);
  events_.Flush();
}

}  // namespace jit_arena
