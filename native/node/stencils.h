// Stencils for TypeScript; what can fail returns an error's number, as all native functions do. Sets and traces are
// handles, which the functions below take first; ts/native.ts has their types.
#pragma once

#include <napi.h>

namespace jit_arena::node {

Napi::Value StencilsOfObject(const Napi::CallbackInfo& info);
Napi::Value LoadStencils(const Napi::CallbackInfo& info);
Napi::Value SaveStencils(const Napi::CallbackInfo& info);
Napi::Value NamesOfStencils(const Napi::CallbackInfo& info);
Napi::Value DescribeStencil(const Napi::CallbackInfo& info);
Napi::Value PartsOfStencil(const Napi::CallbackInfo& info);

Napi::Value BeginTrace(const Napi::CallbackInfo& info);
Napi::Value EmitStencil(const Napi::CallbackInfo& info);
Napi::Value FillHole(const Napi::CallbackInfo& info);
Napi::Value BuildTrace(const Napi::CallbackInfo& info);

}  // namespace jit_arena::node
