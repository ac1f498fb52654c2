// Machine code calls JavaScript. TypeScript's wrapper converts arguments and result and catches exceptions; here
// frames are carried to it and back.
#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

// Never unwinds: on return the machine code goes on, whatever happened in JavaScript.
void HandleCallback(void* context, arch::CallFrame* frame) {
  Callback& callback = *static_cast<Callback*>(context);
  Environment& environment = *callback.handle->environment;
  frame->integer_result = 0;
  frame->float_result = 0;
  if (std::this_thread::get_id() != environment.thread) {
    environment.wrong_thread.store(true, std::memory_order_relaxed);
    return;
  }
  if (callback.disposed) return;
  napi_env env = environment.env;
  Napi::HandleScope scope(env);
  environment.mailbox->callback = *frame;
  environment.mailbox->callback.integer_result = 0;
  environment.mailbox->callback.float_result = 0;
  napi_value undefined = nullptr;
  napi_value result = nullptr;
  napi_get_undefined(env, &undefined);
  // The wrapper lets no exception through. It fails before it begins when the stack is full, and then the exception
  // stays pending in the environment: later callbacks fail at once, and the call that entered the machine code throws
  // it on return. Or no JavaScript can run any more (a terminated worker), and so it goes on.
  if (napi_call_function(env, undefined, callback.function.Value(), 0, nullptr, &result) != napi_ok) return;
  // The wrapper wrote the result last, so no inner callback has overwritten it.
  frame->integer_result = environment.mailbox->callback.integer_result;
  frame->float_result = environment.mailbox->callback.float_result;
}

}  // namespace

Napi::Value AddCallback(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Result<uint64_t> common = handle->arena->EnsureCallbackCommon(HandleCallback, handle->pin);
  if (!common.ok()) return handle->environment->Fail(std::move(common.status()));
  auto callback = std::make_unique<Callback>();
  callback->handle = handle;
  Callback* context = callback.get();
  Result<uint64_t> thunk = handle->arena->AddInternal(
      arch::kCallbackThunkBytes, handle->pin,
      [&](uint8_t* bytes, uint64_t address) { arch::WriteCallbackThunk(bytes, address, common.value(), context); });
  if (!thunk.ok()) return handle->environment->Fail(std::move(thunk.status()));
  callback->address = thunk.value();
  callback->function = Napi::Persistent(info[0].As<Napi::Function>());
  callback->function.SuppressDestruct();
  handle->callbacks.push_back(std::move(callback));
  return Napi::BigInt::New(info.Env(), thunk.value());
}

// The JavaScript function is let go; the thunk stays and answers 0, since frozen code may hold its address.
Napi::Value DisposeCallback(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return info.Env().Undefined();
  bool lossless = false;
  uint64_t address = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  for (auto& callback : handle->callbacks) {
    if (callback->address != address || callback->disposed) continue;
    callback->disposed = true;
    callback->function.Reset();
  }
  return info.Env().Undefined();
}

}  // namespace jit_arena::node
