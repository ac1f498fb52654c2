#include "core/staged.h"

namespace jit_arena {

SpecCopy Staged::CopyOf(const ExecutorSpec& spec) {
  ExecutorSpec changing = spec;
  changing.name = {};
  changing.entries = nullptr;
  changing.entry_count = 0;
  changing.exit_tags = nullptr;
  changing.frames = nullptr;
  changing.keeps = nullptr;
  return SpecCopy(changing);
}

}  // namespace jit_arena
