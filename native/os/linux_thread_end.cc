// Linux: the end of a thread, as a POSIX key's destructor sees it.
//
// The system runs the destructors of keys in rounds: who sets a key anew is called again, up to
// PTHREAD_DESTRUCTOR_ITERATIONS times. The order within a round is nobody's to choose. So this one sets its key anew
// until the last round but one; in the last, allocators and sanitizers take away what they keep for the thread. (A
// thread_local object's destructor would be too early: those of all keys come after it.)
#include <limits.h>
#include <pthread.h>

#include <atomic>
#include <cstddef>

#include "os/thread_end.h"

// AddressSanitizer's, where the program has it.
extern "C" __attribute__((weak)) void __asan_unpoison_memory_region(void const volatile* at, size_t bytes);

namespace jit_arena::os {
namespace linux_thread_end {
namespace {

// Without a destructor: it is read until the last of the thread's destructors has run.
struct Ending {
  void (*end)();
  int rounds;  // that have come to this thread's key
  bool ended;
};
thread_local Ending ending = {nullptr, 0, false};

class Key {
 public:
  static Key& Get() {
    static Key key;
    return key;
  }
  ThreadWatch Watch() {
    State state = state_.load(std::memory_order_acquire);
    if (state == kRefused) return ThreadWatch::kRefused;
    if (state == kGone || pthread_getspecific(key_) != nullptr) return ThreadWatch::kWatched;
    return pthread_setspecific(key_, &ending) == 0 ? ThreadWatch::kWatched : ThreadWatch::kRefused;
  }

 private:
  enum State {
    kMade,
    kRefused,
    kGone,  // with the library, or as the process exits: nothing is called at the end of threads any more
  };

  Key() : state_(pthread_key_create(&key_, &Key::OnRound) == 0 ? kMade : kRefused) {}
  ~Key() {
    if (state_.exchange(kGone, std::memory_order_acq_rel) == kMade) pthread_key_delete(key_);
  }

  static void OnRound(void*) {
    if (++ending.rounds < PTHREAD_DESTRUCTOR_ITERATIONS - 1 && pthread_setspecific(Get().key_, &ending) == 0) return;
    ending.ended = true;
    ending.end();
    ForgetFrames();
  }

  // A thread that was cancelled inside machine code whose frames the unwinder does not know left its own without their
  // ends. In an instrumented host these still are marked as guarded, and the sanitizer's own destructor, which comes
  // next, would report itself for touching them: a false alarm.
  static void ForgetFrames() {
    pthread_attr_t attributes;
    if (&__asan_unpoison_memory_region == nullptr || pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    void* stack = nullptr;
    size_t bytes = 0;
    if (pthread_attr_getstack(&attributes, &stack, &bytes) == 0) __asan_unpoison_memory_region(stack, bytes);
    pthread_attr_destroy(&attributes);
  }

  pthread_key_t key_;
  std::atomic<State> state_;
};

}  // namespace
}  // namespace linux_thread_end

ThreadWatch WatchThread(void (*end)()) {
  using namespace linux_thread_end;
  if (ending.ended) return ThreadWatch::kEnded;
  ending.end = end;
  return Key::Get().Watch();
}

}  // namespace jit_arena::os
