// A growing array whose elements never move and are found by a 32-bit index: the tables of spans, executors and
// references. Grows a chunk at a time, so that capacity never runs far ahead of use, and elements may be read by
// threads that hold no lock while the array grows.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <type_traits>

namespace jit_arena {

// T may be trivially destructible only. Index 0 is never handed out: it means "none".
// Add and Recycle: under the arena's lock. Reading an element that has been added: any thread.
template <class T, uint32_t kChunkElements = 1024>
class ChunkedArray {
  static_assert(std::is_trivially_destructible_v<T>);
  static_assert((kChunkElements & (kChunkElements - 1)) == 0);

 public:
  explicit ChunkedArray(uint32_t max_elements)
      : chunks_capacity_(max_elements / kChunkElements + 1),
        chunks_(static_cast<std::atomic<T*>*>(std::calloc(chunks_capacity_, sizeof(std::atomic<T*>)))) {
    if (chunks_ == nullptr) throw std::bad_alloc();
  }

  ~ChunkedArray() {
    for (uint32_t i = 0; i < chunks_capacity_; i++) std::free(chunks_[i].load(std::memory_order_relaxed));
    std::free(chunks_);
  }

  ChunkedArray(const ChunkedArray&) = delete;
  ChunkedArray& operator=(const ChunkedArray&) = delete;

  T& operator[](uint32_t index) {
    return chunks_[index / kChunkElements].load(std::memory_order_acquire)[index % kChunkElements];
  }
  const T& operator[](uint32_t index) const {
    return chunks_[index / kChunkElements].load(std::memory_order_acquire)[index % kChunkElements];
  }

  // The index of a new element, or 0 when memory or the limit is reached. Its value is T{}.
  uint32_t Add() {
    uint32_t index = size_.load(std::memory_order_relaxed);
    uint32_t chunk = index / kChunkElements;
    if (chunk >= chunks_capacity_) return 0;
    if (chunks_[chunk].load(std::memory_order_relaxed) == nullptr) {
      void* memory = std::aligned_alloc(64, (kChunkElements * sizeof(T) + 63) / 64 * 64);
      if (memory == nullptr) return 0;
      // Release: a thread that finds the chunk finds its elements initialised.
      chunks_[chunk].store(new (memory) T[kChunkElements], std::memory_order_release);
      chunk_count_++;
    }
    // Release: who finds an index below the size finds its chunk.
    size_.store(index + 1, std::memory_order_release);
    return index;
  }

  // One past the highest index handed out; indexes below it (but 0) may be read.
  uint32_t size() const { return size_.load(std::memory_order_acquire); }

  size_t MetadataBytes() const {
    // Of the directory only what has been touched has memory: calloc maps large blocks and leaves them to first use.
    return size_t{chunk_count_} * (kChunkElements * sizeof(T) + sizeof(T*));
  }

 private:
  std::atomic<uint32_t> size_{1};
  uint32_t chunk_count_ = 0;
  uint32_t chunks_capacity_;
  std::atomic<T*>* chunks_;
};

}  // namespace jit_arena
