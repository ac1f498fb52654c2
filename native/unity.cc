// The whole addon as one translation unit, for binding.gyp. CMake compiles the same files one by one; a test compares
// the two lists as they were really compiled.
#include "base/status.cc"

#if defined(__linux__)
#include "os/linux_alias.cc"
#include "os/linux_flip.cc"
#include "os/linux_fork.cc"
#include "os/linux_memory.cc"
#include "os/linux_pages.cc"
#include "os/linux_process.cc"
#include "os/linux_procmem.cc"
#include "os/linux_thread_end.cc"
#endif
#include "os/memory.cc"

#if defined(__x86_64__)
#include "arch/x86_64_code.cc"
#include "arch/x86_64_relocs.cc"
#endif

#include "core/arena.cc"
#include "core/arena_collect.cc"
#include "core/arena_exits.cc"
#include "core/arena_fork.cc"
#include "core/arena_look.cc"
#include "core/arena_writable.cc"
#include "core/code_space.cc"
#include "core/code_space_fork.cc"
#include "core/collector.cc"
#include "core/executor_table.cc"
#include "core/hole_bins.cc"
#include "core/linker.cc"
#include "core/linker_exits.cc"
#include "core/linker_moves.cc"
#include "core/linker_references.cc"
#include "core/linker_verify.cc"
#include "core/lock.cc"
#include "core/reclaimer.cc"
#include "core/slab.cc"
#include "core/thunks.cc"

#include "object/loaded_object.cc"
#include "object/object_file.cc"
#include "object/object_limits.cc"
#include "object/object_units.cc"
#if defined(__x86_64__)
#include "object/x86_64_object.cc"
#endif

#include "node/addon.cc"
#include "node/arena_functions.cc"
#include "node/arena_handle.cc"
#include "node/callbacks.cc"
#include "node/calls.cc"
#include "node/environment.cc"
#include "node/exits.cc"
#include "node/objects.cc"
#include "node/pins.cc"
#include "node/results.cc"
#include "node/shared_arena.cc"
