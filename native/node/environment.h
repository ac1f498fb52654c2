// What one JavaScript environment (the main thread or a worker) has of the addon.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"
#include "core/spec.h"

namespace jit_arena::node {

class ArenaHandle;

// Memory that TypeScript and C++ both see, so that arguments and results cross without a Node-API call for each.
// TypeScript is given the offsets (addon.cc exports them), so the layout stands only here.
struct Mailbox {
  arch::CallFrame call;      // arguments and result of a call into machine code
  arch::CallFrame callback;  // the same for machine code's call of JavaScript
  double numbers[16];        // arguments and results of the other functions
};

struct Environment {
  explicit Environment(napi_env env) : env(env), thread(std::this_thread::get_id()) {}
  ~Environment();

  static Environment* Of(napi_env env) { return Napi::Env(env).GetInstanceData<Environment>(); }

  // Remembers why a function failed, for TypeScript to fetch with lastError(); returns what the function returns.
  Napi::Value Fail(Status failed);

  napi_env env;
  std::thread::id thread;
  Mailbox* mailbox = nullptr;  // in an ArrayBuffer that mailbox_reference keeps
  Napi::Reference<Napi::ArrayBuffer> mailbox_reference;
  // Relocs that TypeScript has encoded, in an ArrayBuffer of its own that grows.
  const RelocSpec* relocs = nullptr;
  size_t reloc_capacity = 0;
  Napi::Reference<Napi::Uint8Array> relocs_reference;

  std::vector<std::unique_ptr<ArenaHandle>> arenas;  // not yet both disposed of and collected
  std::unique_ptr<Error> last_error;
  // A callback was called on another thread than this environment's; reported by the next call that returns.
  std::atomic<bool> wrong_thread{false};
};

}  // namespace jit_arena::node
