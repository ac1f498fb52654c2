// Relocatable objects for TypeScript; both throw nothing and return an error's number, as all native functions do.
#pragma once

#include <napi.h>

namespace jit_arena::node {

// readUnits(bytes) → what ts/objects.ts makes executors of.
Napi::Value ReadUnits(const Napi::CallbackInfo& info);
// readSections(bytes) → what ts/stencils.ts makes stencils of.
Napi::Value ReadSections(const Napi::CallbackInfo& info);

}  // namespace jit_arena::node
