// Listeners of C: what the core tells, as callbacks of the host's.
#include "base/bits.h"
#include "capi/handle.h"

using namespace jit_arena;
using namespace jit_arena::capi;

static_assert(EventBit(EventKind::kPublished) == JA_EVENT_PUBLISHED && EventBit(EventKind::kMoved) == JA_EVENT_MOVED);
static_assert(EventBit(EventKind::kEvicted) == JA_EVENT_EVICTED && EventBit(EventKind::kRetired) == JA_EVENT_RETIRED);
static_assert(EventBit(EventKind::kReclaimed) == JA_EVENT_RECLAIMED);
static_assert(EventBit(EventKind::kForkedChild) == JA_EVENT_FORKED_CHILD && kEventKinds == 6);
static_assert(Events::kMostEvents == JA_MOST_EVENTS);

namespace {

constexpr uint32_t kAllEvents = (1u << kEventKinds) - 1;

class HostListener : public Listener {
 public:
  HostListener(const AttachableArena& arena, ja_listener listener, void* user)
      : arena_(arena), listener_(listener), user_(user) {}
  void Tell(EventKind kind, const Event* events, uint32_t count) override {
    ja_event told[Events::kMostEvents];
    for (uint32_t i = 0; i < count; i++) told[i] = {events[i].executor, events[i].from, events[i].to};
    Notification inside(arena_);
    listener_(user_, static_cast<ja_event_kind>(EventBit(kind)), told, count);
  }

 private:
  const AttachableArena& arena_;
  ja_listener listener_;
  void* user_;
};

class MoveListener : public Listener {
 public:
  MoveListener(const AttachableArena& arena, ja_move_callback callback, void* user)
      : arena_(arena), callback_(callback), user_(user) {}
  void Tell(EventKind, const Event* events, uint32_t count) override {
    Notification inside(arena_);
    for (uint32_t i = 0; i < count; i++) callback_(user_, events[i].executor, events[i].from, events[i].to);
  }

 private:
  const AttachableArena& arena_;
  ja_move_callback callback_;
  void* user_;
};

}  // namespace

ja_status ja_add_listener(ja_arena* arena, uint32_t kinds, ja_listener listener, void* user, uint32_t* number) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (listener == nullptr) return FailArgument("the listener is null");
  if (number == nullptr) return FailArgument("there is nowhere to put the listener's number");
  if (kinds == 0 || (kinds & ~kAllEvents) != 0)
    return FailArgument(Format("the kinds of events are %#x; one at least of %#x", kinds, kAllEvents));
  Result<uint32_t> added = call->AddListener(std::make_unique<HostListener>(call.arena(), listener, user), kinds);
  if (!added.ok()) return Finish(added.status());
  *number = added.value();
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_remove_listener(ja_arena* arena, uint32_t number) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (call->RemoveListener(number)) return JA_OK;
  return FailArgument(Format("the arena has no listener %u", number));
} catch (const std::bad_alloc&) {
  return FailMemory();
}

ja_status ja_set_move_callback(ja_arena* arena, ja_move_callback callback, void* user) try {
  Call call(arena);
  if (call.refused()) return call.refused();
  uint32_t number = 0;
  if (callback != nullptr) {
    Result<uint32_t> added =
        call->AddListener(std::make_unique<MoveListener>(call.arena(), callback, user), EventBit(EventKind::kMoved));
    if (!added.ok()) return Finish(added.status());
    number = added.value();
  }
  // The earlier one hears of what is moved between the two: better twice than not at all.
  if (uint32_t earlier = call.arena().move_listener.exchange(number)) call->RemoveListener(earlier);
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}
