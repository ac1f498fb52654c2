// What has happened to executors, told to whoever listens.
//
// Listeners are told one after the other, in the order in which they were added, of everything in the order in which it
// happened; of up to kMostEvents of one kind at a time. They are told under the arena's lock, on the thread whose call
// did it, when it has been done: it cannot be refused any more.
//
// What a listener may do: read the bytes at the addresses that it is told of, change what is its own, take locks that
// nobody holds while he calls the arena, wake other threads. It may not call the arena, except for what takes no lock,
// nor make, dispose of or fork anything, nor throw, nor fail: memory that it needs it takes in Prepare.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "core/executor_table.h"

namespace jit_arena {

enum class EventKind : uint8_t {
  kPublished,  // frozen: may be entered, at `to`
  kMoved,      // its code, from `from` to `to`: both may still be executed and read
  kEvicted,    // cold: it is about to be retired
  kRetired,  // freed, evicted or invalidated: its id is stale; threads may still execute it at `from` (0: never frozen)
  kReclaimed,  // nobody executes what was at `from` any more, and something else may be there soon; executor 0: it was
               // the old copy of one that moved
  kForkedChild,  // this process is a forked child that has got a copy of the arena; no executor
};
inline constexpr int kEventKinds = 6;
constexpr uint32_t EventBit(EventKind kind) { return 1u << static_cast<int>(kind); }

struct Event {
  ExecutorId executor = 0;
  uint64_t from = 0;
  uint64_t to = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;
  // Before anything has changed: room for being told of `count` more. ERR_ARENA_NO_MEMORY, and nothing changes. Not
  // asked before what no call can refuse: kReclaimed, kForkedChild.
  virtual Status Prepare(EventKind, uint32_t /*count*/) { return Status::Ok(); }
  virtual void Tell(EventKind kind, const Event* events, uint32_t count) = 0;
};

// Everything under the arena's lock.
class Events {
 public:
  static constexpr uint32_t kMostEvents = 256;

  // `kinds`: EventBits. Its number, for Remove. ERR_ARENA_NO_MEMORY.
  Result<uint32_t> Add(std::unique_ptr<Listener> listener, uint32_t kinds);
  // What a listener is told of from now on.
  void SetKinds(uint32_t number, uint32_t kinds);
  // The listener, to be ended without the lock; null when there is none of this number.
  std::unique_ptr<Listener> Remove(uint32_t number);

  // What nobody wants costs one test.
  bool Wants(EventKind kind) const { return (wanted_ & EventBit(kind)) != 0; }
  Status Prepare(EventKind kind, uint32_t count) { return Wants(kind) ? PrepareAll(kind, count) : Status::Ok(); }
  void Tell(EventKind kind, const Event& event) {
    if (Wants(kind)) Append(kind, event);
  }
  // Tells what has not been told yet: at the end of each step, before what it is about can change again.
  void Flush() {
    if (count_ != 0) TellAll();
  }

 private:
  struct Entry {
    std::unique_ptr<Listener> listener;
    uint32_t kinds;
    uint32_t number;
  };

  void CountKinds();
  Status PrepareAll(EventKind kind, uint32_t count);
  void Append(EventKind kind, const Event& event);
  void TellAll();

  uint32_t wanted_ = 0;  // EventBits of all listeners
  uint32_t count_ = 0;   // of batch_, not told yet, all of kind_
  EventKind kind_ = EventKind::kPublished;
  std::unique_ptr<Event[]> batch_;  // there from the first listener on
  std::vector<Entry> listeners_;
  uint32_t last_number_ = 0;
};

}  // namespace jit_arena
