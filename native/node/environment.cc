#include "node/environment.h"

#include "node/arena_handle.h"

namespace jit_arena::node {

Environment::~Environment() {
  // Machine code may still be on the stack when process.exit() was called from a callback: then its arena stays.
  for (auto& handle : arenas)
    if (handle->pinned()) handle.release();
}

Napi::Value Environment::Fail(Status failed) {
  last_error = std::make_unique<Error>(std::move(failed.error()));
  return Napi::Number::New(env, static_cast<int>(last_error->code));
}

}  // namespace jit_arena::node
