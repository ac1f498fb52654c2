// A time by which work in steps should have ended.
#pragma once

#include <algorithm>
#include <cstdint>

#include "os/memory.h"

namespace jit_arena {

class Deadline {
 public:
  explicit Deadline(uint64_t end_nanos) : end_(end_nanos) {}  // os::NowNanos(); 0: there is none

  // To be asked before each step. True when the next one, if it takes as long as the longest so far, ends too late.
  bool IsUp() {
    if (end_ == 0) return false;
    uint64_t now = os::NowNanos();
    if (last_ != 0) longest_ = std::max(longest_, now - last_);
    last_ = now;
    return now + longest_ >= end_;
  }
  uint64_t end_nanos() const { return end_; }

 private:
  uint64_t end_;
  uint64_t last_ = 0;  // when a step began
  uint64_t longest_ = 0;
};

}  // namespace jit_arena
