// Arenas: their beginnings and ends, and who holds one meanwhile.
//
// An arena that has been disposed of stays in memory until its last thread has detached and its last call has returned.
// So a thread that enters needs no lock to know that its arena is there: it pins, and then looks whether the arena has
// been disposed of meanwhile.
#include <thread>
#include <utility>

#include "capi/handle.h"
#include "os/fork.h"

using namespace jit_arena;
using namespace jit_arena::capi;

namespace jit_arena::capi {

constinit HandleTable<AttachableArena> arenas;

namespace {

thread_local const Call* calls_here = nullptr;  // the calling thread's, the innermost first
thread_local const Notification* notifying = nullptr;

// In the thread that has forked, in the child, where it is the only one: what others held is theirs no more, and what
// they were deciding is open again.
void InheritArenas() {
  arenas.ForEach([](AttachableArena& arena) {
    arena.glances.store(0, std::memory_order_relaxed);
    if (!arena.given() && arena.holders() == 0) return;
    uint64_t holders = arena.given() + (PlaceIn(arena) != nullptr) + Call::CountHere(arena) + CountPins(arena);
    arena.word.store(uint64_t{arena.generation()} << 32 | holders, std::memory_order_relaxed);
    if (arena.life.load(std::memory_order_relaxed) == AttachableArena::kDeciding)
      arena.life.store(AttachableArena::kAlive, std::memory_order_relaxed);
  });
}

[[maybe_unused]] const bool inherits_arenas = os::AtFork(nullptr, nullptr, &InheritArenas);

// The one that ends the life of an arena, or says why it may not.
ja_status EndLife(AttachableArena& arena) {
  if (!arena.arena->in_own_process()) {
    // No thread of this process is pinned in it, and after a fork without handlers another may have been deciding.
    uint32_t before = arena.life.exchange(AttachableArena::kDisposed, std::memory_order_acq_rel);
    return before == AttachableArena::kDisposed ? FailDisposed() : JA_OK;
  }
  uint32_t alive = AttachableArena::kAlive;
  // Pairs with the load behind the pin in Enter.
  while (!arena.life.compare_exchange_weak(alive, AttachableArena::kDeciding, std::memory_order_seq_cst)) {
    if (alive == AttachableArena::kDisposed) return FailDisposed();
    if (alive == AttachableArena::kDeciding) std::this_thread::yield();
    alive = AttachableArena::kAlive;
  }
  bool pinned = arena.arena->reclaimer().AnyPinned();
  arena.life.store(pinned ? AttachableArena::kAlive : AttachableArena::kDisposed, std::memory_order_release);
  return pinned ? Fail(JA_ERR_BUSY, "a thread is pinned, or a ja_pin has not ended: dispose when all have left")
                : JA_OK;
}

}  // namespace

ja_arena* NameArena(std::unique_ptr<Arena> arena) {
  AttachableArena* named = arenas.Take();
  if (named == nullptr) return nullptr;
  named->arena = std::move(arena);
  named->life.store(AttachableArena::kAlive, std::memory_order_relaxed);
  return reinterpret_cast<ja_arena*>(arenas.Give(*named));
}

void LetGo(AttachableArena& arena) {
  if (!arenas.LetGo(arena)) return;
  // Acquire: what they read was read before it goes. None begins any more.
  while (arena.glances.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
  arena.arena.reset();
  arenas.PutBack(arena);
}

Call::Call(ja_arena* handle) {
  if (handle == nullptr) {
    refused_ = FailArgument("the arena is null");
    return;
  }
  arena_ = arenas.Hold(NumberOf(handle));
  if (arena_ == nullptr) {
    refused_ =
        arenas.HasEnded(NumberOf(handle)) ? FailDisposed() : FailArgument("the arena is none that ja_create has made");
    return;
  }
  outer_ = calls_here;
  calls_here = this;
  refused_ = Admit();
}

Call::~Call() {
  if (arena_ == nullptr) return;
  calls_here = outer_;
  LetGo(*arena_);
}

ja_status Call::Admit() const {
  if (Notification::IsInside(*arena_)) return FailNotifying();
  if (arena_->life.load(std::memory_order_acquire) == AttachableArena::kDisposed) return FailDisposed();
  return Finish(arena_->arena->CheckProcess());
}

uint32_t Call::CountHere(const AttachableArena& arena) {
  uint32_t count = 0;
  for (const Call* at = calls_here; at != nullptr; at = at->outer_) count += at->arena_ == &arena;
  return count;
}

Notification::Notification(const AttachableArena& arena) : arena_(arena), outer_(notifying), place_(PlaceIn(arena)) {
  notifying = this;
  if (place_ != nullptr) place_->notifying = true;
}

Notification::~Notification() {
  if (place_ != nullptr) place_->notifying = false;
  notifying = outer_;
}

bool Notification::IsInside(const AttachableArena& arena) {
  for (const Notification* at = notifying; at != nullptr; at = at->outer_)
    if (&at->arena_ == &arena) return true;
  return false;
}

}  // namespace jit_arena::capi

ja_status ja_create(const ja_options* given, ja_arena** arena) try {
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
  ja_arena* handle = NameArena(std::move(made.value()));
  if (handle == nullptr) return FailMemory("an arena");
  *arena = handle;
  return JA_OK;
} catch (const std::bad_alloc&) {
  return FailMemory();
}
static_assert(static_cast<int>(os::WriterKind::kAlias) == JA_WRITER_ALIAS - JA_WRITER_ALIAS);
static_assert(static_cast<int>(os::WriterKind::kProcmem) == JA_WRITER_PROCMEM - JA_WRITER_ALIAS);
static_assert(static_cast<int>(os::WriterKind::kFlip) == JA_WRITER_FLIP - JA_WRITER_ALIAS);

ja_status ja_dispose(ja_arena* handle) {
  Call call(handle);
  // A child ends what its parent has made, too.
  if (call.refused() && call.refused() != JA_ERR_FORKED) return call.refused();
  if (ja_status failed = EndLife(call.arena())) return failed;
  arenas.End(call.arena());
  // What the handle held; the call itself still holds the arena, and so do threads that are attached.
  LetGo(call.arena());
  return JA_OK;
}

ja_status ja_probe(ja_writer writer) try {
  if (writer < JA_WRITER_AUTO || writer > JA_WRITER_FLIP) return FailArgument(Format("there is no writer %d", writer));
  std::string reasons;
  for (const os::ProbeResult& result : os::Probe()) {
    if (writer != JA_WRITER_AUTO && static_cast<int>(result.writer) != writer - JA_WRITER_ALIAS) continue;
    if (result.available) return JA_OK;
    reasons += (reasons.empty() ? "" : "; ") + result.reason;
  }
  return Fail(JA_ERR_WRITER_UNAVAILABLE, reasons);
} catch (const std::bad_alloc&) {
  return FailMemory();
}
