// What the handles of jit_arena.h stand for, and what every function of it begins and ends with.
//
// A function that takes memory is a try block: C sees ERR_ARENA_NO_MEMORY where the core throws std::bad_alloc.
//
// ja_arena and ja_thread are never defined: a pointer to one is a handle (capi/handles.h), and what it names is an
// AttachableArena or a Place.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>

#include "capi/handles.h"
#include "capi/jit_arena.h"
#include "core/arena.h"

namespace jit_arena::capi {

// Each remembers the error for ja_last_error and returns its number.
ja_status Fail(ja_status status, std::string_view message, ja_executor executor = 0, int64_t index = -1);
ja_status Fail(const Error& error);
inline ja_status Finish(const Status& status) { return status.ok() ? JA_OK : Fail(status.error()); }
ja_status FailArgument(std::string_view what);
ja_status FailMemory(const char* what = "what the call needs");
ja_status FailDisposed();
ja_status FailNotifying();
// The error that has just been remembered, with another index.
ja_status FailAt(ja_status status, int64_t index);

// An arena as handles name it. It ends when nobody holds it any more: not the host, which holds it until it disposes,
// nor a thread that is attached, nor a call that is under way.
struct AttachableArena : HandleSlot {
  enum Life : uint32_t {
    kAlive,
    kDeciding,  // dispose is looking for pins: who enters now waits for what comes of it
    kDisposed,
  };
  std::unique_ptr<Arena> arena;
  std::atomic<uint32_t> life{kAlive};
  std::atomic<uint32_t> glances{0};        // under way
  std::atomic<uint32_t> move_listener{0};  // that ja_set_move_callback has added; 0: none
};

// One thread's place in one arena; made, used and ended by that thread alone. Lines of their own, since threads look at
// theirs all the time.
struct alignas(64) Place : HandleSlot {
  std::atomic<std::thread::id> owner{};  // others look at it to be told that they are not
  ja_thread* handle = nullptr;
  AttachableArena* attached_to = nullptr;
  Arena* arena = nullptr;
  PinSlot* pin = nullptr;
  uint32_t attachments = 0;  // ja_attach less ja_detach
  bool notifying = false;    // inside a listener of the arena
  Place* next = nullptr;     // of the same thread
};

// A pin of no thread.
struct HeldPin : HandleSlot {
  std::atomic<AttachableArena*> arena{nullptr};
  LoosePin pin;
};

extern constinit HandleTable<AttachableArena> arenas;
extern constinit HandleTable<Place> places;
extern constinit HandleTable<HeldPin> pins;

inline uint64_t NumberOf(const void* handle) { return reinterpret_cast<uint64_t>(handle); }

// The first handle of an arena; null when memory for it is refused.
ja_arena* NameArena(std::unique_ptr<Arena> arena);
// One holder less; the arena goes with its last.
void LetGo(AttachableArena& arena);

// The calling thread's place in the arena, or null.
Place* PlaceIn(const AttachableArena& arena);
// Pins of no thread in the arena. In a forked child, where nobody changes them.
uint32_t CountPins(const AttachableArena& arena);

// One call of a function with an arena: holds the arena for as long, when the calling thread may use it now.
class Call {
 public:
  explicit Call(ja_arena* handle);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // JA_OK, or the error that the function returns.
  ja_status refused() const { return refused_; }
  Arena* operator->() const { return arena_->arena.get(); }
  AttachableArena& arena() const { return *arena_; }
  // The calling thread's pin, which never stands in its own way; null when it is not attached.
  const PinSlot* self() const {
    Place* place = PlaceIn(*arena_);
    return place != nullptr ? place->pin : nullptr;
  }

  // Calls of the calling thread that are under way in an arena.
  static uint32_t CountHere(const AttachableArena& arena);

 private:
  ja_status Admit() const;

  AttachableArena* arena_ = nullptr;
  const Call* outer_ = nullptr;  // of the same thread
  ja_status refused_;
};

// A call in a signal handler: it can neither wait nor end an arena. So who ends one waits for the glances at it.
class Glance {
 public:
  explicit Glance(ja_arena* handle) : arena_(arenas.At(NumberOf(handle))) {
    // The glance is counted before this looks whether the handle still names the arena, and an arena is ended before
    // glances are counted: one sees the other.
    if (arena_ != nullptr) arena_->glances.fetch_add(1, std::memory_order_seq_cst);
    if (arenas.Find(NumberOf(handle)) == nullptr)
      refused_ = arenas.HasEnded(NumberOf(handle)) ? JA_ERR_DISPOSED : JA_ERR_ARGUMENT;
    else if (!arena_->arena->in_own_process())
      refused_ = JA_ERR_FORKED;
  }
  ~Glance() {
    if (arena_ != nullptr) arena_->glances.fetch_sub(1, std::memory_order_release);
  }
  Glance(const Glance&) = delete;
  Glance& operator=(const Glance&) = delete;

  ja_status refused() const { return refused_; }
  const Arena* operator->() const { return arena_->arena.get(); }

 private:
  AttachableArena* arena_;
  ja_status refused_ = JA_OK;
};

// Lives while the calling thread is inside a listener of the arena: whoever calls the arena from there would wait
// for itself, and is told so instead. Callbacks of several arenas may be inside each other.
class Notification {
 public:
  explicit Notification(const AttachableArena& arena);
  ~Notification();
  Notification(const Notification&) = delete;
  Notification& operator=(const Notification&) = delete;

  static bool IsInside(const AttachableArena& arena);

 private:
  const AttachableArena& arena_;
  const Notification* outer_;
  Place* place_;
};

// Structures that grow. When one has grown, its first size takes the place of sizeof here.
inline constexpr size_t kMaxStructBytes = 4096;  // what is larger was never set

template <class T>
bool FitsStruct(const T& given) {
  return given.struct_size >= sizeof(T) && given.struct_size <= kMaxStructBytes;
}

template <class T>
ja_status CheckStruct(const T* given, const char* name) {
  if (given == nullptr) return FailArgument(std::string(name) + " is null");
  if (FitsStruct(*given)) return JA_OK;
  return FailArgument(
      Format("the struct_size of %s is %llu and not sizeof(%s), %zu", name, Wide(given->struct_size), name, sizeof(T)));
}

// Copies what the caller knows; what the caller knows and the library does not has to be zero.
template <class T>
ja_status TakeStruct(const T* given, const char* name, T* taken) {
  if (ja_status failed = CheckStruct(given, name)) return failed;
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < given->struct_size; i++)
    if (bytes[i] != 0) return FailArgument(Format("%s asks for what this version of the library does not have", name));
  std::memcpy(taken, given, sizeof(T));
  return JA_OK;
}

// For a result that has passed CheckStruct.
template <class T>
void GiveStruct(const T& value, T* to) {
  static_assert(std::is_trivially_copyable_v<T>);
  size_t size = to->struct_size;
  std::memset(to, 0, size);
  std::memcpy(to, &value, sizeof(T));
  to->struct_size = size;
}

// A list of the caller's: null only when empty, and no longer than the core counts.
inline ja_status CheckList(const void* list, size_t count, const char* name) {
  if (list == nullptr && count != 0) return FailArgument(Format("%s is null and its count is %zu", name, count));
  if (count > UINT32_MAX / 2) return FailArgument(Format("the count of %s is %zu", name, count));
  return JA_OK;
}

inline ja_status CheckSection(ja_section section) {
  if (section >= JA_CODE && section <= JA_STATE) return JA_OK;
  return FailArgument(Format("there is no section %d", section));
}

inline ja_status CheckChoice(ja_choice choice, const char* name) {
  if (choice >= JA_NO && choice <= JA_YES) return JA_OK;
  return FailArgument(Format("%s is %d; JA_DEFAULT, JA_YES or JA_NO", name, choice));
}

}  // namespace jit_arena::capi
