// Retiring and reclaiming, as the books of spans and executors see them.
//
// The Reclaimer lists what is retired, and a list takes memory; but a free cannot fail. What there was no memory to
// list is marked instead, where it lies, and found by a look at every span once it is due.
#pragma once

#include "core/code_space.h"
#include "core/events.h"
#include "core/executor_table.h"
#include "core/frame_tables.h"
#include "core/reclaimer.h"

namespace jit_arena {

// Nothing that is published leads to it any more; pins up to now may still use it. Until Reclaimer::Stamp it has no
// date.
inline void Retire(CodeSpace& space, ExecutorTable& table, Reclaimer& reclaimer, const Retired& retired) {
  uint64_t bytes = 0;
  for (SpanId span : retired.spans)
    if (span != 0) bytes += uint64_t{space[span].granules} * kGranuleBytes;
  const bool listed = reclaimer.Retire(retired, bytes);
  for (SpanId span : retired.spans)
    if (span != 0) space.SetState(span, listed ? SpanState::kRetired : SpanState::kUnlisted);
  if (!listed && retired.executor_index != 0) table[retired.executor_index].unlisted = 1;
}

// Of the code of an executor, or the old copy of one that moved; the arena's own, such as a far slot, is
// nobody's.
inline void TellReclaimed(const CodeSpace& space, const ExecutorTable& table, Events& events, SpanId span) {
  const SpanNode& node = space[span];
  if (node.Owner() == 0 || static_cast<Section>(node.Section()) != Section::kCode) return;
  bool is_copy = table[node.Owner()].code_span != span;
  events.Tell(EventKind::kReclaimed, {is_copy ? 0 : table.IdOf(node.Owner()), space.AddressOf(span), 0});
}

// To what nobody can get any more.
inline void FreeRetired(CodeSpace& space, ExecutorTable& table, FrameTables& frames, Events& events,
                        const Retired& retired) {
  if (events.Wants(EventKind::kReclaimed)) TellReclaimed(space, table, events, retired.spans[0]);
  ForgetFrames(space, frames, retired.spans[0]);
  for (SpanId span : retired.spans)
    if (span != 0) space.Free(span);
  if (retired.executor_index != 0) table.Recycle(retired.executor_index);
}

// Frees what is due.
inline void FreeDue(CodeSpace& space, ExecutorTable& table, FrameTables& frames, Events& events, Reclaimer& reclaimer) {
  space.HoldPoison();
  reclaimer.Reclaim([&](const Retired& retired) { FreeRetired(space, table, frames, events, retired); });
  if (reclaimer.TakeUnlisted()) {
    space.FreeUnlisted([&](SpanId span) {
      ForgetFrames(space, frames, span);
      if (events.Wants(EventKind::kReclaimed)) TellReclaimed(space, table, events, span);
    });
    for (uint32_t index = 1; index < table.size(); index++)
      if (table[index].unlisted) table.Recycle(index);
  }
  space.PoisonHeld();
}

}  // namespace jit_arena
