// What the handles of jit_arena.h are, and what every function of it begins and ends with.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>

#include "capi/jit_arena.h"
#include "core/arena.h"

// Outlives its dispose for as long as a thread is attached, so that such a thread may find out at its own pace.
struct ja_arena {
  explicit ja_arena(std::unique_ptr<jit_arena::Arena> arena) : arena(std::move(arena)) {}

  enum Life : uint32_t {
    kAlive,
    kDeciding,  // dispose is looking for pins: who enters now waits for what comes of it
    kDisposed,
  };
  const std::unique_ptr<jit_arena::Arena> arena;
  std::atomic<uint32_t> life{kAlive};
  // Fork generation of the process that has put this in order: see Inherit in threads.cc.
  static constexpr uint64_t kInheriting = ~uint64_t{0};
  std::atomic<uint64_t> generation{jit_arena::os::ForkGeneration()};
  std::mutex lock;        // of `attached`, and of changes of `life`
  uint32_t attached = 0;  // threads
};

// One thread's place in one arena; made, used and dropped by that thread alone.
struct ja_thread {
  ja_arena* handle;
  jit_arena::Arena* arena;
  jit_arena::PinSlot* pin;
  std::thread::id owner;
  uint32_t attachments;  // ja_attach less ja_detach
  bool notifying;        // inside the arena's move callback
  ja_thread* next;       // of the same thread
};

namespace jit_arena::capi {

// Each remembers the error for ja_last_error and returns its number.
ja_status Fail(ja_status status, std::string_view message, ja_executor executor = 0, int64_t index = -1);
ja_status Fail(const Error& error);
inline ja_status Finish(const Status& status) { return status.ok() ? JA_OK : Fail(status.error()); }
ja_status FailArgument(std::string_view what);
// The error that has just been remembered, with another index.
ja_status FailAt(ja_status status, int64_t index);

// The calling thread's place in the arena, or null.
ja_thread* ThreadIn(const ja_arena* arena);
// The same as its pin, which never stands in the thread's own way.
inline const PinSlot* SelfIn(const ja_arena* arena) {
  ja_thread* thread = ThreadIn(arena);
  return thread != nullptr ? thread->pin : nullptr;
}

// JA_OK when the calling thread may use the arena now; the error otherwise. Touches no lock.
ja_status Admit(const ja_arena* arena);

// Lives while the calling thread is inside a move callback of the arena: whoever calls the arena from there would wait
// for itself, and is told so instead. Callbacks of several arenas may be inside each other.
class Notification {
 public:
  explicit Notification(const ja_arena* arena);
  ~Notification();
  Notification(const Notification&) = delete;
  Notification& operator=(const Notification&) = delete;

  static bool IsInside(const ja_arena* arena);

 private:
  const ja_arena* arena_;
  const Notification* outer_;
  ja_thread* thread_;
};

// Structures that grow. When one has grown, its first size takes the place of sizeof here.
inline constexpr size_t kMaxStructBytes = 4096;  // what is larger was never set

template <class T>
ja_status CheckStruct(const T* given, const char* name) {
  if (given == nullptr) return FailArgument(std::string(name) + " is null");
  if (given->struct_size >= sizeof(T) && given->struct_size <= kMaxStructBytes) return JA_OK;
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
