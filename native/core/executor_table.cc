#include "core/executor_table.h"

#include <cstdlib>
#include <cstring>

namespace jit_arena {

ExecutorTable::~ExecutorTable() {
  for (uint32_t index = 1; index < executors_.size(); index++)
    if (executors_[index].kept_bytes > sizeof executors_[index].kept_inline) std::free(executors_[index].kept_heap);
}

uint32_t ExecutorTable::Add() {
  uint32_t index = free_;
  if (index != 0) {
    free_ = executors_[index].code_span;
    executors_[index].code_span = 0;
  } else {
    index = executors_.Add();
    if (index == 0) return 0;
  }
  Executor& executor = executors_[index];
  // Only written under the lock: no atomic addition is needed.
  executor.generation_and_kind.store(executor.Generation() + 1, std::memory_order_relaxed);
  executor.SetState(ExecutorState::kWritable);
  return index;
}

void ExecutorTable::Recycle(uint32_t index) {
  Executor& executor = executors_[index];
  uint32_t generation = executor.Generation();
  DropKept(executor);
  if (executor.has_notes) notes_.erase(index);
  executor.Clear();
  if (generation == kMaxGeneration) return;  // exhausted: an id is never given twice
  executor.code_span = free_;
  free_ = index;
}

void ExecutorTable::FreeKept(Executor& executor) {
  std::free(executor.kept_heap);
  kept_heap_bytes_ -= executor.kept_bytes;
}

void ExecutorTable::SetKept(Executor& executor, const std::vector<uint8_t>& packed) {
  DropKept(executor);
  JIT_ARENA_CHECK(packed.size() < 1u << 24);
  executor.kept_bytes = static_cast<uint32_t>(packed.size()) & 0xffffff;
  uint8_t* to = executor.kept_inline;
  if (packed.size() > sizeof executor.kept_inline) {
    to = executor.kept_heap = static_cast<uint8_t*>(std::malloc(packed.size()));
    JIT_ARENA_CHECK(to != nullptr);
    kept_heap_bytes_ += packed.size();
  }
  if (!packed.empty()) std::memcpy(to, packed.data(), packed.size());
}

Notes& ExecutorTable::NotesOf(uint32_t index) {
  executors_[index].has_notes = 1;
  return notes_[index];
}

const Notes* ExecutorTable::FindNotes(uint32_t index) const {
  auto found = notes_.find(index);
  return found == notes_.end() ? nullptr : &found->second;
}

std::optional<uint32_t> ExecutorTable::EntryOffset(uint32_t index, uint32_t entry) const {
  const Notes* notes = executors_[index].has_notes ? FindNotes(index) : nullptr;
  if (notes == nullptr || notes->entries.empty()) return entry == 0 ? std::optional(0u) : std::nullopt;
  return entry < notes->entries.size() ? std::optional(notes->entries[entry]) : std::nullopt;
}

size_t ExecutorTable::MetadataBytes() const {
  return executors_.MetadataBytes() + kept_heap_bytes_ + notes_.size() * (sizeof(Notes) + 4 * sizeof(void*));
}

}  // namespace jit_arena
