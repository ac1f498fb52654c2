// Executors by id: one cache line each, in a table whose lines never move.
//
// An id is index + 2^32 * generation. The generation grows each time an index is used again, so that a stale id differs
// from every live one. The table keeps books only; it never touches the memory of an executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/shared.h"
#include "base/status.h"
#include "core/chunked_array.h"
#include "core/span_table.h"

namespace jit_arena {

struct FrameTable;  // core/frame_tables.h

using ExecutorId = uint64_t;
inline constexpr uint32_t kMaxGeneration = (1u << 21) - 1;  // keeps an id a safe integer of JavaScript

constexpr ExecutorId MakeId(uint32_t index, uint32_t generation) { return (uint64_t{generation} << 32) | index; }
constexpr uint32_t IndexOf(ExecutorId id) { return static_cast<uint32_t>(id); }
constexpr uint32_t GenerationOf(ExecutorId id) { return static_cast<uint32_t>(id >> 32); }

enum class ExecutorState : uint8_t {
  kUnused,    // the index is free
  kWritable,  // bytes are staged; no address
  kFrozen,    // executable and immutable
  kRetired,   // freed; the id is stale, the memory waits for pins
};

// The part of a record that only the holder of the arena's lock reads and writes.
struct LockedExecutor {
  // Kept relocs, packed (arch/kept_relocs.h): up to eight bytes here, more on the heap.
  union {
    uint8_t kept_inline[8];
    uint8_t* kept_heap;
  };
  SpanId code_span = 0;  // code, and data behind it unless apart
  SpanId data_span = 0;  // data, when apart
  SpanId state_span = 0;
  uint32_t inbound = 0;   // first of the references that lead to this executor (core/references.h)
  uint32_t outbound = 0;  // first of the references that this executor holds
  uint32_t checksum = 0;  // of the spans of code and data, in normal form
  uint32_t kept_bytes : 23 = 0;
  uint32_t holds_addresses : 1 = 0;  // one of its outbound references has a field
  uint32_t has_flags : 1 = 0;        // has a valid and a warm byte in its state span
  uint32_t makes_progress : 1 = 0;   // the host says that a chain of links through it gets somewhere
  uint32_t immortal : 1 = 0;         // the host's hot stub: not freed before the arena
  // Every bit up to the end has a name. If some had none, clearing a record would load the bits that it must not
  // change, and the load would wait for the stores before it, to single bytes of the record and to cold memory.
  uint32_t state_align_log2 : 4 = 0;
  uint32_t has_warm : 1 = 0;  // its code sets the warm byte
  uint16_t exit_count = 0;
  uint8_t state : 2 = 0;
  uint8_t movable : 1 = 0;
  uint8_t marked : 1 = 0;     // scratch of one operation under the lock: member of the set at hand
  uint8_t has_notes : 1 = 0;  // there are Notes for it
  uint8_t evictable : 1 = 0;
  uint8_t state_fixed : 1 = 0;  // state holds addresses of state, which the code may have copied: it never moves
  uint8_t unlisted : 1 = 0;     // retired, and there was no memory to list it (core/retire.h)
  uint8_t align_log2 : 4 = 0;   // of code
  uint8_t has_frames : 1 = 0;   // its Notes have a table for the unwinder
  uint8_t also_unused : 3 = 0;

  LockedExecutor() : kept_heap(nullptr) {}
};

struct Executor : LockedExecutor {
  Shared<uint32_t> code_bytes;
  Shared<uint32_t> data_bytes;
  Shared<uint32_t> state_bytes;
  // Threads read both without the lock.
  std::atomic<uint32_t> generation_and_kind{0};
  // Address of the first code byte; 0 unless frozen. The store, after the bytes are in place, is a release; a pinned
  // thread loads it with acquire, and may execute the bytes at the address until it unpins.
  std::atomic<uint64_t> entry{0};

  // Above any generation.
  static constexpr uint32_t kTraceBit = 1u << 31;
  static constexpr uint32_t kApartBit = 1u << 30;
  static constexpr int kDataAlignShift = 26;
  static_assert(kMaxGeneration < 1u << kDataAlignShift);
  uint32_t Generation(std::memory_order order = std::memory_order_relaxed) const {
    return generation_and_kind.load(order) & kMaxGeneration;
  }
  // Whether the executor follows the trace ABI: it has exits, or jumps to the done stub. Constant once it is frozen.
  bool IsTrace() const { return (generation_and_kind.load(std::memory_order_relaxed) & kTraceBit) != 0; }
  void SetTrace(bool trace) { SetKind(kTraceBit, trace ? kTraceBit : 0); }
  // Data has a span of its own.
  bool apart() const { return (generation_and_kind.load(std::memory_order_acquire) & kApartBit) != 0; }
  uint32_t data_align_log2() const {
    return generation_and_kind.load(std::memory_order_acquire) >> kDataAlignShift & 15;
  }
  void SetData(bool apart, int align_log2) {
    SetKind(kApartBit | 15u << kDataAlignShift, (apart ? kApartBit : 0) | (static_cast<uint32_t>(align_log2) & 15)
                                                                              << kDataAlignShift);
  }

  // Makes the record as new, except for the generation.
  void Clear() {
    static_cast<LockedExecutor&>(*this) = LockedExecutor();
    code_bytes = 0;
    data_bytes = 0;
    state_bytes = 0;
    entry.store(0, std::memory_order_relaxed);
    SetKind(~kMaxGeneration, 0);
  }

  ExecutorState State() const { return static_cast<ExecutorState>(state); }
  void SetState(ExecutorState to) { state = static_cast<uint8_t>(to); }
  bool StateMoves() const { return movable && !state_fixed; }
  // Where data begins within the code span; meaningless when apart.
  uint32_t DataOffset() const {
    uint32_t align = 1u << data_align_log2();
    return (code_bytes + align - 1) & ~(align - 1);
  }
  // The state span: state, the two flags, exit records.
  uint32_t ValidOffset() const { return state_bytes; }
  uint32_t WarmOffset() const { return state_bytes + 1; }
  uint32_t RecordsOffset() const { return (state_bytes + 2 * has_flags + 15) & ~15u; }
  uint32_t StateSpanBytes() const {
    return exit_count != 0 ? RecordsOffset() + 16 * exit_count : state_bytes + 2 * has_flags;
  }
  uint32_t BytesOf(Section section) const {
    return section == Section::kCode ? code_bytes : section == Section::kData ? data_bytes : state_bytes;
  }
  uint64_t LiveBytes() const { return uint64_t{code_bytes} + data_bytes + state_bytes + 16u * exit_count; }
  const uint8_t* kept() const { return kept_bytes > sizeof kept_inline ? kept_heap : kept_inline; }

 private:
  // Only the lock's holder writes: no atomic exchange is needed. Release: as in base/shared.h.
  void SetKind(uint32_t mask, uint32_t bits) {
    uint32_t others = generation_and_kind.load(std::memory_order_relaxed) & ~mask;
    generation_and_kind.store(others | bits, std::memory_order_release);
  }
};
static_assert(sizeof(Executor) == 64, "one cache line per executor");

// Facts that only some executors have.
struct Notes {
  std::string name;
  std::vector<uint32_t> entries;    // offsets of its entries; none: one, at offset 0
  std::vector<uint32_t> exit_tags;  // the host's number for each exit
  std::shared_ptr<const FrameTable> frames;
  std::shared_ptr<const void> keeps;
};

class ExecutorTable {
 public:
  explicit ExecutorTable(uint32_t max_executors) : executors_(max_executors) {}
  ~ExecutorTable();

  // A new writable executor's index; 0 when out of memory. Under the arena's lock.
  uint32_t Add() {
    uint32_t index = free_;
    if (index == 0) index = executors_.Add();
    if (index == 0) return 0;
    Executor& executor = executors_[index];
    if (index == free_) {
      free_ = executor.code_span;
      executor.code_span = 0;
    }
    // Only the lock's holder writes: no atomic addition is needed.
    executor.generation_and_kind.store(executor.Generation() + 1, std::memory_order_release);
    executor.SetState(ExecutorState::kWritable);
    return index;
  }
  // Ends a record whose executor's memory has been reclaimed. The index may be used again, unless its generations are
  // exhausted.
  void Recycle(uint32_t index) {
    Executor& executor = executors_[index];
    uint32_t generation = executor.Generation();
    DropKept(executor);
    if (executor.has_notes) notes_.erase(index);
    executor.Clear();
    if (generation == kMaxGeneration) return;  // exhausted: an id is never given twice
    executor.code_span = free_;
    free_ = index;
  }

  Executor& operator[](uint32_t index) { return executors_[index]; }
  const Executor& operator[](uint32_t index) const { return executors_[index]; }
  ExecutorId IdOf(uint32_t index) const { return MakeId(index, executors_[index].Generation()); }
  // The executor with this id, if it is writable or frozen; else null.
  Executor* Find(ExecutorId id) {
    uint32_t index = IndexOf(id);
    if (index == 0 || index >= executors_.size()) return nullptr;
    Executor& executor = executors_[index];
    if (executor.Generation() != GenerationOf(id)) return nullptr;
    bool there = executor.State() == ExecutorState::kWritable || executor.State() == ExecutorState::kFrozen;
    return there ? &executor : nullptr;
  }

  // One past the highest index ever used.
  uint32_t size() const { return executors_.size(); }

  // ERR_ARENA_NO_MEMORY; the executor has no kept relocs then.
  Status SetKept(Executor& executor, std::span<const uint8_t> packed);
  void DropKept(Executor& executor) {
    if (executor.kept_bytes > sizeof executor.kept_inline) FreeKept(executor);
    executor.kept_bytes = 0;
  }

  // The notes are created on first use.
  Notes& NotesOf(uint32_t index);
  const Notes* FindNotes(uint32_t index) const;
  // Offset in code of entry n, if there is one.
  std::optional<uint32_t> EntryOffset(uint32_t index, uint32_t entry) const;

  size_t MetadataBytes() const;
  uint64_t kept_heap_bytes() const { return kept_heap_bytes_; }

 private:
  void FreeKept(Executor& executor);

  ChunkedArray<Executor> executors_;
  uint32_t free_ = 0;  // chain through code_span of unused records
  std::unordered_map<uint32_t, Notes> notes_;
  uint64_t kept_heap_bytes_ = 0;
};

}  // namespace jit_arena
