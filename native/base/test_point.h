// Places where a test can hold a thread, to run two threads in one particular order.
//
// Stress rarely meets the orders that matter. A build with JIT_ARENA_TEST_POINTS calls the test's handler at each of
// these places (test/native/interleaving_test.cc); in every other build they are nothing.
#pragma once

#include <atomic>

namespace jit_arena {

enum class TestPointId : int {
  kEnterHasEpoch,    // Reclaimer::Enter: the epoch is loaded, the pin not yet visible
  kEnterHasPin,      // Reclaimer::Enter: the pin is visible, the gate not yet looked at
  kEntryLoaded,      // Arena::EntryOf: the entry is loaded, the generation not yet
  kFramesListed,     // FrameTables: a group's new list is complete, and the unwinder still reads the old one
  kMoveCopied,       // Collector: a batch is copied and not published
  kMovePublished,    // Collector: a batch is published, and its old copies are not retired
  kMoveRetired,      // Collector: its old copies are retired and stamped
  kFreezeWritten,    // Arena: executors are written and not published
  kSynchronised,     // Arena: every core will see what has been written; nothing leads to it yet
  kFreeUnpublished,  // Arena: the entries of freed executors are cleared, their memory not retired
};

#if JIT_ARENA_TEST_POINTS
inline std::atomic<void (*)(TestPointId)> test_point_handler{nullptr};
inline void TestPoint(TestPointId id) {
  if (auto* handler = test_point_handler.load(std::memory_order_relaxed)) handler(id);
}
#else
inline void TestPoint(TestPointId) {}
#endif

}  // namespace jit_arena
