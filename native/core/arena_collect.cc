// Collecting: cold executors die, live ones move together.
#include <algorithm>
#include <new>

#include "core/arena.h"

namespace jit_arena {

CompactionPlan Arena::PlanCompaction() {
  std::lock_guard guard(lock_);
  return collector_.Plan();
}

CollectResult Arena::Collect(const CollectOptions& options, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (!CheckProcess().ok()) return {};
  ClosedGate gate;
  if (!CloseGateToWrite(gate, self).ok()) {
    CollectResult busy;
    busy.done = false;
    busy.retired_bytes = reclaimer_.retired_bytes();
    return busy;
  }
  CollectResult result = collector_.Collect(options, {self, max_retired_bytes_, [&] { return EvictCold(); },
                                                      [&] { Reclaim(self); }, [&] { return Synchronise(self); }});
  frames_.ForgetReclaimed();
  stats_.evicted += result.evicted.size();
  stats_.moves += result.moved;
  stats_.moved_bytes += result.moved_bytes;
  stats_.relocs_rewritten += result.relocs_rewritten;
  stats_.pauses.count++;
  stats_.pauses.total_nanos += result.pause_nanos;
  stats_.pauses.max_nanos = std::max(stats_.pauses.max_nanos, result.pause_nanos);
  AfterCall();
  return result;
}

// A clock with two hands in one: an executor whose warm byte is still clear since the last pass is cold; the others'
// bytes are cleared. A target of somebody's direct reloc dies only with its sources.
std::vector<ExecutorId> Arena::EvictCold() {
  auto can_die = [&](const Executor& executor) {
    return executor.State() == ExecutorState::kFrozen && executor.evictable && !executor.immortal;
  };
  // All memory first. No byte becomes clear by itself: there are at most as many as this counts.
  size_t most = 0;
  for (uint32_t index = 1; index < table_.size(); index++) {
    std::atomic<uint8_t>* warm = can_die(table_[index]) ? linker_.exits.WarmByte(index) : nullptr;
    most += warm != nullptr && warm->load(std::memory_order_relaxed) == 0;
  }
  std::vector<ExecutorId> cold;
  std::vector<bool> loops;
  cold.reserve(most);
  for (EventKind kind : {EventKind::kEvicted, EventKind::kRetired})
    if (!events_.Prepare(kind, static_cast<uint32_t>(most)).ok()) throw std::bad_alloc();  // as the lists do
  if (most != 0) loops = linker_.exits.FindLoops();
  for (uint32_t index = 1; index < table_.size(); index++) {
    Executor& executor = table_[index];
    if (!can_die(executor)) continue;
    std::atomic<uint8_t>* warm = linker_.exits.WarmByte(index);
    // A trace that is running now may have set the byte before this pass cleared it and is then taken for cold the next
    // time: it goes on in its retired copy. An executor that has no warm byte tells nothing and is kept.
    if (warm == nullptr || warm->exchange(0, std::memory_order_relaxed) != 0) continue;
    executor.marked = 1;
    cold.push_back(table_.IdOf(index));
  }
  // Taking one out may leave another without one of its sources, until nothing changes.
  for (bool changed = true; changed;) {
    changed = false;
    for (ExecutorId& id : cold) {
      if (id == 0 || linker_.references.FindUnmarkedSource(IndexOf(id)) == 0) continue;
      table_[IndexOf(id)].marked = 0;
      id = 0;
      changed = true;
    }
  }
  cold.erase(std::remove(cold.begin(), cold.end(), 0), cold.end());
  for (ExecutorId id : cold) {
    Executor& executor = table_[IndexOf(id)];
    events_.Tell(EventKind::kEvicted, {id, space_.AddressOf(executor.code_span), 0});
    executor.marked = 0;
    SizeClass& size_class = SizeClassOf(stats_, executor);
    size_class.died_cold++;
    size_class.died_cold_loops += loops[IndexOf(id)];
  }
  if (!cold.empty()) JIT_ARENA_CHECK(Retire(cold.data(), static_cast<uint32_t>(cold.size())).ok());
  return cold;
}

// Classes double from 64 bytes on, as far as there are executors.
SizeClass& Arena::SizeClassOf(ArenaStats& stats, const Executor& executor) {
  uint64_t bytes = uint64_t{executor.code_bytes} + executor.data_bytes;
  size_t position = static_cast<size_t>(std::bit_width((bytes - 1) / 64));
  while (stats.size_classes.size() <= position)
    stats.size_classes.push_back(SizeClass{.up_to = uint64_t{64} << stats.size_classes.size()});
  return stats.size_classes[position];
}

}  // namespace jit_arena
