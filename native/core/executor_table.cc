#include "core/executor_table.h"

#include <cstdlib>
#include <cstring>

namespace jit_arena {

ExecutorTable::~ExecutorTable() {
  for (uint32_t index = 1; index < executors_.size(); index++)
    if (executors_[index].kept_bytes > sizeof executors_[index].kept_inline) std::free(executors_[index].kept_heap);
}

void ExecutorTable::FreeKept(Executor& executor) {
  std::free(executor.kept_heap);
  kept_heap_bytes_ -= executor.kept_bytes;
}

Status ExecutorTable::SetKept(Executor& executor, std::span<const uint8_t> packed) {
  DropKept(executor);
  JIT_ARENA_CHECK(packed.size() < 1u << 23);
  uint8_t* to = executor.kept_inline;
  if (packed.size() > sizeof executor.kept_inline) {
    to = executor.kept_heap = static_cast<uint8_t*>(std::malloc(packed.size()));
    if (to == nullptr) return Status::OutOfMemory();
    kept_heap_bytes_ += packed.size();
  }
  executor.kept_bytes = static_cast<uint32_t>(packed.size()) & 0x7fffff;
  if (!packed.empty()) std::memcpy(to, packed.data(), packed.size());
  return Status::Ok();
}

Notes& ExecutorTable::NotesOf(uint32_t index) {
  Notes& notes = notes_[index];
  executors_[index].has_notes = 1;
  return notes;
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
