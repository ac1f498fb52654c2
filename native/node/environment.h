// What one JavaScript environment (the main thread or a worker) has of the addon.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"
#include "core/reclaimer.h"
#include "core/spec.h"
#include "os/fork.h"
#include "os/memory.h"

namespace jit_arena::node {

class ArenaHandle;
class SharedArena;
struct Environment;

// Memory that TypeScript and C++ both see, so that arguments and results cross without a Node-API call for each.
// TypeScript is given the offsets (addon.cc exports them), so the layout stands only here.
struct Mailbox {
  arch::CallFrame call;      // arguments and result of a call into machine code
  arch::CallFrame callback;  // the same for machine code's call of JavaScript
  struct {
    double executor;      // its id
    uint32_t arena;       // the number of an ArenaHandle
    uint32_t offset;      // of the entry, in code
    uint32_t context[2];  // for run() only: an address, the lower half first. Read as it was written: a core passes
                          // what was stored just now on to a load of the same size only
  } entered;              // where call() and run() go
  struct {
    double executor;    // whose exit was taken, unless the exit code is 0
    int32_t exit_code;  // 0: the trace was done; the exit's number + 1; negative: it is hot
  } left;               // how the last run() ended
  double numbers[16];   // arguments and results of the other functions
};

// A thread that has environments; one for all of them, since a binary that is loaded anew makes another environment on
// the same thread. Never freed: other threads that call a callback may have found it just before its environment ended.
struct ScriptThread {
  // The calling thread's; null when it has no environment.
  static ScriptThread* Current();

  // Made on its own thread. JavaScript runs on that thread's stack only: on another one (of a fiber, or of an addon
  // that calls C functions on a stack of its own) V8 would take it for an overflow.
  bool Owns(const void* on_stack) const {
    const auto at = reinterpret_cast<uintptr_t>(on_stack);
    return at >= stack.low && at < stack.high;
  }

  const uint32_t fork_generation = os::ForkGeneration();
  const os::StackBounds stack = os::ThisThreadsStack();

  // Whose call or run entered the machine code that is innermost on this thread's stack; null when there is none, or
  // when a callback's JavaScript is further in. For the thread itself.
  Environment* in_machine_code = nullptr;

  // Machine code that this thread called has called a callback of another thread's, or one of its own on another stack;
  // or a thread without JavaScript has called one of this thread's. The call of this thread that returns next says so.
  // Relaxed: it publishes only itself.
  std::atomic<bool> wrong_thread{false};
};

// Lives while machine code that the environment has entered is innermost on its thread.
class InMachineCode {
 public:
  explicit InMachineCode(Environment& environment);
  ~InMachineCode() { thread_.in_machine_code = outer_; }
  InMachineCode(const InMachineCode&) = delete;
  InMachineCode& operator=(const InMachineCode&) = delete;

 private:
  ScriptThread& thread_;
  Environment* outer_;
};

struct Environment {
  explicit Environment(napi_env env);
  ~Environment();  // on the environment's thread

  static Environment* Of(napi_env env) { return Napi::Env(env).GetInstanceData<Environment>(); }

  // What `act` returns; where that throws std::bad_alloc, the failure as Fail returns it.
  template <class Act>
  Napi::Value OrFail(Act act) noexcept {
    try {
      return act();
    } catch (const std::bad_alloc&) {
      return Fail(Status::OutOfMemory());
    }
  }
  // Remembers why a function failed, for TypeScript to fetch with lastError(); returns what the function returns.
  Napi::Value Fail(Status failed);

  // The pin of this environment in the arena: one for all of its handles, since a thread's own pin must be known to be
  // its own. Holds the arena, too.
  std::shared_ptr<PinSlot> PinOf(const std::shared_ptr<SharedArena>& shared) const;

  napi_env env;
  ScriptThread* thread;
  // How JavaScript computes on this thread, in callbacks and after machine code: read once, since V8 does not change
  // it.
  const arch::FloatControl float_control = arch::ReadFloatControl() & ~arch::kFloatStatus;
  Mailbox* mailbox = nullptr;  // in an ArrayBuffer that mailbox_reference keeps
  Napi::Reference<Napi::ArrayBuffer> mailbox_reference;
  // Relocs that TypeScript has encoded, in an ArrayBuffer of its own that grows.
  const RelocSpec* relocs = nullptr;
  size_t reloc_capacity = 0;
  Napi::Reference<Napi::Uint8Array> relocs_reference;

  // By number; null when both disposed of and collected.
  std::vector<std::unique_ptr<ArenaHandle>> arenas;
  Status last_error;
};

inline InMachineCode::InMachineCode(Environment& environment)
    : thread_(*environment.thread), outer_(thread_.in_machine_code) {
  thread_.in_machine_code = &environment;
}

}  // namespace jit_arena::node
