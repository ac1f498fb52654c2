// A JavaScript function that machine code can call.
#pragma once

#include <node_api.h>

#include "core/thunks.h"

namespace jit_arena::node {

struct Environment;

// What the context of its thunk points to, on the environment's own thread. Others come no further than the context, so
// that it may end at any moment: its thunk answers 0 from then on.
class Callback {
 public:
  // On the environment's thread. `wrapper`: TypeScript's; reads arguments from the mailbox, writes the result.
  Callback(Environment* environment, const Thunk& thunk, napi_value wrapper);
  ~Callback();
  Callback(const Callback&) = delete;
  Callback& operator=(const Callback&) = delete;

  uint64_t address() const { return thunk_.address; }
  Environment* environment() const { return environment_; }
  napi_ref wrapper() const { return wrapper_; }
  // Begins a call that comes from the event loop. False when no JavaScript can run any more.
  bool OpenEntry(napi_callback_scope* scope) const;

 private:
  Environment* const environment_;
  const Thunk thunk_;
  napi_ref wrapper_ = nullptr;
  // In which a call from the event loop runs: AsyncLocalStorage and domains as they were when the callback was made.
  napi_async_context async_context_ = nullptr;
};

}  // namespace jit_arena::node
