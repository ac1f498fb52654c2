// Threads: their places in arenas, pins, and runs; and pins of no thread.
#include "base/bits.h"
#include "capi/handle.h"
#include "os/fork.h"
#include "os/thread_end.h"

using namespace jit_arena;
using namespace jit_arena::capi;

namespace jit_arena::capi {

constinit HandleTable<Place> places;
constinit HandleTable<HeldPin> pins;

namespace {

thread_local Place* places_here = nullptr;  // the calling thread's, one per arena

// The place is no more: its handle has ended.
void End(Place& place) {
  place.owner.store({}, std::memory_order_relaxed);
  places.End(place);
  if (places.LetGo(place)) places.PutBack(place);
}

void Detach(Place& place) {
  for (Place** link = &places_here; *link != nullptr; link = &(*link)->next) {
    if (*link != &place) continue;
    *link = place.next;
    break;
  }
  if (place.arena->in_own_process()) place.arena->reclaimer().Detach(place.pin);
  LetGo(*place.attached_to);
  End(place);
}

// Detaches a thread that ends. What it was executing is gone with its stack.
void DetachThread() {
  while (places_here != nullptr) {
    Place& place = *places_here;
    if (place.pin->depth != 0) {
      place.pin->depth = 1;
      place.arena->reclaimer().Leave(*place.pin);
    }
    Detach(place);
  }
}

// In the thread that has forked, in the child: the other threads are not there, and another may get the id of one of
// them. Their slots in the arenas were let go around the fork.
void EndPlacesOfOthers() {
  places.ForEach([](Place& place) {
    if (place.given() && place.owner.load(std::memory_order_relaxed) != std::this_thread::get_id()) End(place);
  });
}

[[maybe_unused]] const bool ends_places = os::AtFork(nullptr, nullptr, &EndPlacesOfOthers);

ja_status FailThread(ja_thread* thread) {
  if (thread == nullptr) return FailArgument("the thread is null");
  if (places.Find(NumberOf(thread)) != nullptr)
    return Fail(JA_ERR_WRONG_THREAD, "the ja_thread belongs to another thread: each attaches for itself");
  if (!places.HasEnded(NumberOf(thread))) return FailArgument("the thread is none that ja_attach has given");
  return Fail(JA_ERR_ENDED, "the ja_thread has ended: its thread has detached, or ends");
}

// The place that a handle names, if it is the calling thread's; else null.
inline Place* PlaceOf(ja_thread* thread) {
  Place* place = places.Find(NumberOf(thread));
  if (place == nullptr) return nullptr;
  return place->owner.load(std::memory_order_relaxed) == std::this_thread::get_id() ? place : nullptr;
}

ja_status FailForked(const Arena& arena) { return Finish(arena.CheckProcess()); }

// Pins the calling thread.
ja_status Enter(Place& place) {
  Arena& arena = *place.arena;
  if (!arena.in_own_process()) return FailForked(arena);
  if (place.notifying) return FailNotifying();
  for (;;) {
    arena.reclaimer().Enter(*place.pin);
    // The pin is there, with a full fence, before this load; dispose stores before it looks for pins: one sees the
    // other. Nothing below a pin that was there before can have been disposed of.
    uint32_t life = place.attached_to->life.load(std::memory_order_seq_cst);
    if (life == AttachableArena::kAlive || place.pin->depth > 1) return JA_OK;
    arena.reclaimer().Leave(*place.pin);
    if (life == AttachableArena::kDisposed) return FailDisposed();
    std::this_thread::yield();
  }
}

ja_status FailEntry(ja_executor id) {
  return Fail(JA_ERR_STALE_EXECUTOR, Format("executor %llu is gone, or still writable", Wide(id)), id);
}

}  // namespace

Place* PlaceIn(const AttachableArena& arena) {
  for (Place* place = places_here; place != nullptr; place = place->next)
    if (place->attached_to == &arena) return place;
  return nullptr;
}

uint32_t CountPins(const AttachableArena& arena) {
  uint32_t count = 0;
  pins.ForEach([&](const HeldPin& pinned) {
    count += pinned.given() && pinned.arena.load(std::memory_order_relaxed) == &arena;
  });
  return count;
}

}  // namespace jit_arena::capi

ja_status ja_attach(ja_arena* arena, ja_thread** thread) {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (thread == nullptr) return FailArgument("the place for the thread is null");
  if (Place* here = PlaceIn(call.arena())) {
    here->attachments++;
    *thread = here->handle;
    return JA_OK;
  }
  switch (os::WatchThread(&DetachThread)) {
    case os::ThreadWatch::kWatched:
      break;
    case os::ThreadWatch::kEnded:
      return Fail(JA_ERR_ENDED, "the thread ends: it has been detached from all arenas");
    case os::ThreadWatch::kRefused:
      return Fail(JA_ERR_NO_MEMORY, "the system has no room for one more thread-specific key or value");
  }
  PinSlot* pin = call->reclaimer().Attach();
  if (pin == nullptr) return FailMemory("a thread's pin");
  Place* place = places.Take();
  if (place == nullptr) {
    call->reclaimer().Detach(pin);
    return FailMemory("a thread's place");
  }
  arenas.HoldAgain(call.arena());
  place->owner.store(std::this_thread::get_id(), std::memory_order_relaxed);
  place->attached_to = &call.arena();
  place->arena = call.arena().arena.get();
  place->pin = pin;
  place->attachments = 1;
  place->notifying = false;
  place->next = places_here;
  places_here = place;
  place->handle = *thread = reinterpret_cast<ja_thread*>(places.Give(*place));
  return JA_OK;
}

ja_status ja_detach(ja_thread* thread) {
  Place* place = PlaceOf(thread);
  // Nothing is left to do where the thread, or an earlier call, has ended the place.
  if (place == nullptr) return places.HasEnded(NumberOf(thread)) ? JA_OK : FailThread(thread);
  if (place->notifying) return FailNotifying();
  if (place->attachments > 1) {
    place->attachments--;
    return JA_OK;
  }
  if (place->pin->depth != 0) return Fail(JA_ERR_BUSY, "the thread is pinned: leave before it detaches");
  Detach(*place);
  return JA_OK;
}

ja_status ja_enter(ja_thread* thread) {
  Place* place = PlaceOf(thread);
  if (place == nullptr) return FailThread(thread);
  return Enter(*place);
}

ja_status ja_leave(ja_thread* thread) {
  Place* place = PlaceOf(thread);
  if (place == nullptr) return FailThread(thread);
  if (place->pin->depth == 0) return Fail(JA_ERR_NOT_PINNED, "the thread has left as often as it has entered");
  place->arena->reclaimer().Leave(*place->pin);
  return JA_OK;
}

ja_status ja_entry(ja_thread* thread, ja_executor id, uint64_t* address) {
  Place* place = PlaceOf(thread);
  if (place == nullptr) return FailThread(thread);
  if (address == nullptr) return FailArgument("the place for the address is null");
  if (place->pin->depth == 0) return Fail(JA_ERR_NOT_PINNED, "an address is good under a pin only: enter first", id);
  if (!place->arena->in_own_process()) return FailForked(*place->arena);
  uint64_t entry = place->arena->EntryOf(id);
  if (entry == 0) return FailEntry(id);
  *address = entry;
  return JA_OK;
}

ja_status ja_run(ja_thread* thread, ja_executor id, uint32_t entry_offset, void* context, ja_taken* taken) {
  Place* place = PlaceOf(thread);
  if (place == nullptr) return FailThread(thread);
  if (taken == nullptr) return FailArgument("the place for the exit taken is null");
  if (ja_status failed = Enter(*place)) return failed;
  Arena& arena = *place->arena;
  uint64_t entry = arena.EntryOf(id);
  ja_status status = JA_OK;
  if (entry == 0) {
    status = FailEntry(id);
  } else if (!arena.IsPinnedTrace(id)) {
    status = Fail(JA_ERR_TRACE_ABI,
                  Format("executor %llu has neither exits nor a done target: it is called, and not run", Wide(id)), id);
  } else {
    arch::CallFrame frame;
    frame.integers[0] = reinterpret_cast<uint64_t>(context);
    arena.call_gate()(reinterpret_cast<const void*>(entry + entry_offset), &frame, arch::ReadFloatControl());
    ExitTaken exit = arena.ResolveExit(frame.integer_result);
    *taken = {exit.executor, exit.exit, exit.hot};
  }
  arena.reclaimer().Leave(*place->pin);
  return status;
}

ja_status ja_pin(ja_arena* arena, ja_pinned** pin) {
  Call call(arena);
  if (call.refused()) return call.refused();
  if (pin == nullptr) return FailArgument("the place for the pin is null");
  HeldPin* pinned = pins.Take();
  if (pinned == nullptr) return FailMemory("a pin");
  ja_status failed;
  for (;;) {
    failed = Finish(call->Begin(pinned->pin, call.self()));
    if (failed) break;
    // As in Enter. Under the pin of this thread it cannot be disposed of.
    uint32_t life = call.arena().life.load(std::memory_order_seq_cst);
    if (life == AttachableArena::kAlive || (call.self() != nullptr && call.self()->depth != 0)) break;
    call->End(pinned->pin);
    if (life == AttachableArena::kDisposed) failed = FailDisposed();
    if (failed) break;
    std::this_thread::yield();
  }
  if (failed) {
    if (pins.LetGo(*pinned)) pins.PutBack(*pinned);
    return failed;
  }
  arenas.HoldAgain(call.arena());
  pinned->arena.store(&call.arena(), std::memory_order_relaxed);
  *pin = reinterpret_cast<ja_pinned*>(pins.Give(*pinned));
  return JA_OK;
}

ja_status ja_unpin(ja_pinned* pin) {
  if (pin == nullptr) return FailArgument("the pin is null");
  // Its slot is never freed: at worst this is the arena of a later pin.
  if (HeldPin* named = pins.Find(NumberOf(pin)))
    if (Notification::IsInside(*named->arena.load(std::memory_order_relaxed))) return FailNotifying();
  HeldPin* pinned = pins.EndOnce(NumberOf(pin));
  if (pinned == nullptr)
    return pins.HasEnded(NumberOf(pin)) ? Fail(JA_ERR_ENDED, "the pin has ended already")
                                        : FailArgument("the pin is none that ja_pin has made");
  AttachableArena& arena = *pinned->arena.load(std::memory_order_relaxed);
  arena.arena->End(pinned->pin);
  LetGo(arena);
  if (pins.LetGo(*pinned)) pins.PutBack(*pinned);
  return JA_OK;
}
