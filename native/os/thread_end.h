// The end of a thread, for what a library keeps for each thread that uses it.
#pragma once

namespace jit_arena::os {

enum class ThreadWatch {
  kWatched,
  kEnded,    // `end` has been called in this thread, and would not be called again
  kRefused,  // the system has no room to remember the thread
};

// Has `end` called when the calling thread ends, once: behind the destructors of its thread_local objects, and in the
// last round but one of those of keys. So these may use what `end` ends, in whichever order they run. It is not called
// when the process exits, nor in a thread that was not watched before its keys' destructors began and is in the last
// rounds of them. Every call in a process names the same function.
ThreadWatch WatchThread(void (*end)());

}  // namespace jit_arena::os
