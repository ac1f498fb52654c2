// Arenas and threads: their beginnings and ends, pins, and runs.
//
// An arena that has been disposed of stays in memory until its last thread has detached. So a thread that enters needs
// no lock to know that its arena is there: it pins, and then looks whether the arena has been disposed of meanwhile.
#include <new>

#include "base/bits.h"
#include "capi/handle.h"

using namespace jit_arena;
using namespace jit_arena::capi;

namespace jit_arena::capi {
namespace {

thread_local ja_thread* threads_here = nullptr;  // the calling thread's places, one per arena
thread_local const Notification* notifying = nullptr;

// Before the handle's lock is taken, by whoever takes it: in a forked child a thread that is not there may have held
// it, and of the parent's threads the child has one.
void Inherit(ja_arena* handle) {
  uint64_t now = os::ForkGeneration();
  uint64_t made = handle->generation.load(std::memory_order_acquire);
  if (made == now) return;
  if (made != ja_arena::kInheriting && handle->generation.compare_exchange_strong(made, ja_arena::kInheriting)) {
    new (&handle->lock) std::mutex;
    // The slots of the others were let go around the fork.
    handle->attached = static_cast<uint32_t>(handle->arena->reclaimer().CountAttached());
    // Release: other threads of the child find the handle in order.
    handle->generation.store(now, std::memory_order_release);
  }
  while (handle->generation.load(std::memory_order_acquire) != now) std::this_thread::yield();
}

// Takes one thread off the arena, and the arena out of memory when it was the last of a disposed one.
void Release(ja_arena* handle) {
  bool last;
  {
    std::lock_guard guard(handle->lock);
    last = --handle->attached == 0 && handle->life.load(std::memory_order_relaxed) == ja_arena::kDisposed;
  }
  if (last) delete handle;
}

void Drop(ja_thread* thread) {
  Inherit(thread->handle);
  for (ja_thread** link = &threads_here; *link != nullptr; link = &(*link)->next) {
    if (*link != thread) continue;
    *link = thread->next;
    break;
  }
  if (thread->arena->in_own_process()) thread->arena->reclaimer().Detach(thread->pin);
  Release(thread->handle);
  delete thread;
}

// Detaches a thread that ends. What it was executing is gone with its stack.
struct Farewell {
  bool needed = false;
  ~Farewell() {
    while (threads_here != nullptr) {
      ja_thread* thread = threads_here;
      if (thread->pin->depth != 0) {
        thread->pin->depth = 1;
        thread->arena->reclaimer().Leave(*thread->pin);
      }
      Drop(thread);
    }
  }
};
thread_local Farewell farewell;

ja_status FailDisposed() { return Fail(JA_ERR_DISPOSED, "the arena has been disposed of"); }

ja_status FailForked(const Arena& arena) { return Finish(arena.CheckProcess()); }

ja_status FailNotifying() {
  return Fail(JA_ERR_BUSY, "the arena's move callback is running on this thread, and may not call the arena");
}

// That the calling thread is the one whose place this is.
ja_status CheckThread(const ja_thread* thread) {
  if (thread == nullptr) return FailArgument("the thread is null");
  if (thread->owner == std::this_thread::get_id()) return JA_OK;
  return Fail(JA_ERR_WRONG_THREAD, "the ja_thread belongs to another thread: each attaches for itself");
}

// Pins, for a thread that has passed CheckThread.
ja_status Enter(ja_thread* thread) {
  Arena& arena = *thread->arena;
  if (!arena.in_own_process()) return FailForked(arena);
  if (thread->notifying) return FailNotifying();
  for (;;) {
    arena.reclaimer().Enter(*thread->pin);
    // The pin is there, with a full fence, before this load; dispose stores before it looks for pins: one sees the
    // other. Nothing below a pin that was there before can have been disposed of.
    uint32_t life = thread->handle->life.load(std::memory_order_seq_cst);
    if (life == ja_arena::kAlive || thread->pin->depth > 1) return JA_OK;
    arena.reclaimer().Leave(*thread->pin);
    if (life == ja_arena::kDisposed) return FailDisposed();
    std::this_thread::yield();
  }
}

ja_status FailEntry(ja_executor id) {
  return Fail(JA_ERR_STALE_EXECUTOR, Format("executor %llu is gone, or still writable", Wide(id)), id);
}

}  // namespace

ja_thread* ThreadIn(const ja_arena* arena) {
  for (ja_thread* thread = threads_here; thread != nullptr; thread = thread->next)
    if (thread->handle == arena) return thread;
  return nullptr;
}

ja_status Admit(const ja_arena* arena) {
  if (arena == nullptr) return FailArgument("the arena is null");
  if (arena->life.load(std::memory_order_acquire) == ja_arena::kDisposed) return FailDisposed();
  if (!arena->arena->in_own_process()) return FailForked(*arena->arena);
  if (Notification::IsInside(arena)) return FailNotifying();
  return JA_OK;
}

Notification::Notification(const ja_arena* arena) : arena_(arena), outer_(notifying), thread_(ThreadIn(arena)) {
  notifying = this;
  if (thread_ != nullptr) thread_->notifying = true;
}

Notification::~Notification() {
  if (thread_ != nullptr) thread_->notifying = false;
  notifying = outer_;
}

bool Notification::IsInside(const ja_arena* arena) {
  for (const Notification* at = notifying; at != nullptr; at = at->outer_)
    if (at->arena_ == arena) return true;
  return false;
}

}  // namespace jit_arena::capi

ja_status ja_create(const ja_options* given, ja_arena** arena) {
  ja_options options = ja_options_init();
  if (given != nullptr)
    if (ja_status failed = TakeStruct(given, "ja_options", &options)) return failed;
  if (arena == nullptr) return FailArgument("the place for the arena is null");
  if (options.writer < JA_WRITER_AUTO || options.writer > JA_WRITER_FLIP)
    return FailArgument(Format("there is no writer %d", options.writer));
  if (options.layout != JA_LAYOUT_TOGETHER && options.layout != JA_LAYOUT_APART)
    return FailArgument(Format("there is no layout %d", options.layout));
  if (options.fork != JA_FORK_DROP && options.fork != JA_FORK_COPY)
    return FailArgument(Format("there is no fork mode %d", options.fork));
  if (ja_status failed = CheckChoice(options.full_records, "full_records")) return failed;
  if (ja_status failed = CheckChoice(options.huge_pages, "huge_pages")) return failed;
  ArenaOptions of_arena;
  if (options.max_bytes != 0) of_arena.max_bytes = options.max_bytes;
  if (options.writer != JA_WRITER_AUTO) of_arena.writer = static_cast<os::WriterKind>(options.writer - JA_WRITER_ALIAS);
  of_arena.fork = options.fork == JA_FORK_COPY ? os::ForkMode::kCopy : os::ForkMode::kDrop;
  of_arena.apart = options.layout == JA_LAYOUT_APART;
  of_arena.max_retired_bytes = options.max_retired_bytes;
  if (options.exit_threshold != 0) of_arena.exit_threshold = options.exit_threshold;
  if (options.exit_growth != 0) of_arena.exit_growth = options.exit_growth;
  if (options.max_chain_depth != 0) of_arena.max_chain_depth = options.max_chain_depth;
  of_arena.full_records = options.full_records == JA_YES;
  of_arena.huge_pages = options.huge_pages == JA_YES;
  if (options.name != nullptr) of_arena.name = options.name;
  Result<std::unique_ptr<Arena>> made = Arena::Create(of_arena);
  if (!made.ok()) return Finish(made.status());
  auto* handle = new (std::nothrow) ja_arena(std::move(made.value()));
  if (handle == nullptr) return Fail(JA_ERR_NO_MEMORY, "no memory for an arena");
  *arena = handle;
  return JA_OK;
}
static_assert(static_cast<int>(os::WriterKind::kAlias) == JA_WRITER_ALIAS - JA_WRITER_ALIAS);
static_assert(static_cast<int>(os::WriterKind::kProcmem) == JA_WRITER_PROCMEM - JA_WRITER_ALIAS);
static_assert(static_cast<int>(os::WriterKind::kFlip) == JA_WRITER_FLIP - JA_WRITER_ALIAS);

ja_status ja_dispose(ja_arena* arena) {
  if (arena == nullptr) return FailArgument("the arena is null");
  if (Notification::IsInside(arena)) return FailNotifying();
  bool own = arena->arena->in_own_process();
  Inherit(arena);
  bool last;
  {
    std::lock_guard guard(arena->lock);
    if (arena->life.load(std::memory_order_relaxed) == ja_arena::kDisposed) return FailDisposed();
    // Pairs with the load behind the pin in Enter.
    arena->life.store(ja_arena::kDeciding, std::memory_order_seq_cst);
    if (own && arena->arena->reclaimer().AnyPinned()) {
      arena->life.store(ja_arena::kAlive, std::memory_order_release);
      return Fail(JA_ERR_BUSY, "a thread is pinned: dispose when all have left");
    }
    arena->life.store(ja_arena::kDisposed, std::memory_order_release);
    // Where a thread is attached, the handle is its own from here on.
    last = arena->attached == 0;
  }
  if (last) delete arena;
  return JA_OK;
}

ja_status ja_probe(ja_writer writer) {
  if (writer < JA_WRITER_AUTO || writer > JA_WRITER_FLIP) return FailArgument(Format("there is no writer %d", writer));
  std::string reasons;
  for (const os::ProbeResult& result : os::Probe()) {
    if (writer != JA_WRITER_AUTO && static_cast<int>(result.writer) != writer - JA_WRITER_ALIAS) continue;
    if (result.available) return JA_OK;
    reasons += (reasons.empty() ? "" : "; ") + result.reason;
  }
  return Fail(JA_ERR_WRITER_UNAVAILABLE, reasons);
}

ja_status ja_attach(ja_arena* arena, ja_thread** thread) {
  if (ja_status refused = Admit(arena)) return refused;
  if (thread == nullptr) return FailArgument("the place for the thread is null");
  if (ja_thread* here = ThreadIn(arena)) {
    here->attachments++;
    *thread = here;
    return JA_OK;
  }
  Inherit(arena);
  auto* place = new (std::nothrow) ja_thread;
  if (place == nullptr) return Fail(JA_ERR_NO_MEMORY, "no memory for a thread's place");
  {
    std::lock_guard guard(arena->lock);
    arena->attached++;
  }
  *place = {arena, arena->arena.get(), arena->arena->reclaimer().Attach(), std::this_thread::get_id(), 1,
            false, threads_here};
  threads_here = place;
  farewell.needed = true;  // makes the thread run its destructor
  *thread = place;
  return JA_OK;
}

ja_status ja_detach(ja_thread* thread) {
  if (ja_status failed = CheckThread(thread)) return failed;
  if (thread->notifying) return FailNotifying();
  if (thread->attachments > 1) {
    thread->attachments--;
    return JA_OK;
  }
  if (thread->pin->depth != 0) return Fail(JA_ERR_BUSY, "the thread is pinned: leave before it detaches");
  Drop(thread);
  return JA_OK;
}

ja_status ja_enter(ja_thread* thread) {
  if (ja_status failed = CheckThread(thread)) return failed;
  return Enter(thread);
}

ja_status ja_leave(ja_thread* thread) {
  if (ja_status failed = CheckThread(thread)) return failed;
  if (thread->pin->depth == 0) return Fail(JA_ERR_NOT_PINNED, "the thread has left as often as it has entered");
  thread->arena->reclaimer().Leave(*thread->pin);
  return JA_OK;
}

ja_status ja_entry(ja_thread* thread, ja_executor id, uint64_t* address) {
  if (ja_status failed = CheckThread(thread)) return failed;
  if (address == nullptr) return FailArgument("the place for the address is null");
  if (thread->pin->depth == 0) return Fail(JA_ERR_NOT_PINNED, "an address is good under a pin only: enter first", id);
  if (!thread->arena->in_own_process()) return FailForked(*thread->arena);
  uint64_t entry = thread->arena->EntryOf(id);
  if (entry == 0) return FailEntry(id);
  *address = entry;
  return JA_OK;
}

ja_status ja_run(ja_thread* thread, ja_executor id, uint32_t entry_offset, void* context, ja_taken* taken) {
  if (ja_status failed = CheckThread(thread)) return failed;
  if (taken == nullptr) return FailArgument("the place for the exit taken is null");
  if (ja_status failed = Enter(thread)) return failed;
  Arena& arena = *thread->arena;
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
  arena.reclaimer().Leave(*thread->pin);
  return status;
}
