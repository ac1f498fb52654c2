// Writable executors: the copies of their specs, by index, until they are frozen or freed.
//
// A name, entries, exit tags, frames and what the executor keeps never change. The executor's record and notes hold
// them, and the copies are without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "core/spec.h"
#include "core/spec_copy.h"

namespace jit_arena {

class Staged {
  using Copies = std::unordered_map<uint32_t, SpecCopy>;

 public:
  // Copies that are staged no more. Their memory goes with this: best without the arena's lock.
  using Ended = std::vector<Copies::node_type>;

  // Takes as long as the bytes are many, and needs no lock. Every other method: under the arena's.
  static SpecCopy CopyOf(const ExecutorSpec& spec);

  // ERR_ARENA_NO_MEMORY.
  Status Add(uint32_t index, SpecCopy copy) {
    return OrOutOfMemory([&] { copies_.emplace(index, std::move(copy)); });
  }
  void Remove(uint32_t index) { copies_.erase(index); }
  // Remove, for later: `ended` has room for one more.
  void Take(uint32_t index, Ended& ended) { ended.push_back(copies_.extract(index)); }

  bool Has(uint32_t index) const { return copies_.find(index) != copies_.end(); }
  SpecCopy& operator[](uint32_t index) { return copies_.find(index)->second; }  // of a writable executor
  size_t MetadataBytes() const {
    size_t bytes = 0;
    for (const auto& [index, copy] : copies_) bytes += copy.MemoryBytes();
    return bytes;
  }

 private:
  Copies copies_;
};

}  // namespace jit_arena
