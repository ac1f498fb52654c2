// Machine code calls JavaScript. TypeScript's wrapper converts arguments and result and catches exceptions; here
// frames are carried to it and back.
#include <algorithm>

#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

// JavaScript computes in its own way, and machine code goes on in its own.
class JavaScriptFloats {
 public:
  explicit JavaScriptFloats(arch::FloatControl control) { arch::WriteFloatControl(control); }
  ~JavaScriptFloats() { arch::WriteFloatControl(machine_code_); }
  JavaScriptFloats(const JavaScriptFloats&) = delete;
  JavaScriptFloats& operator=(const JavaScriptFloats&) = delete;

 private:
  const arch::FloatControl machine_code_ = arch::ReadFloatControl();
};

// Never unwinds: on return the machine code goes on, whatever happened in JavaScript. On any thread.
void HandleCallback(void* context, arch::CallFrame* frame) {
  Callback& callback = *static_cast<Callback*>(context);
  frame->integer_result = 0;
  frame->float_result = 0;
  Environment* environment = callback.environment.load(std::memory_order_relaxed);
  if (environment == nullptr) return;
  ScriptThread* here = ScriptThread::Current();
  if (here != callback.thread.get()) {
    // The call is this thread's, and so is the error. A thread without JavaScript has no call to return from.
    ScriptThread& told = here != nullptr ? *here : *callback.thread;
    told.wrong_thread.store(true, std::memory_order_relaxed);
    return;
  }
  // As after an exception, callbacks return at once until the call has thrown: so it is this call that throws, and not
  // one that a later callback makes.
  if (here->wrong_thread.load(std::memory_order_relaxed)) return;
  JavaScriptFloats floats(environment->float_control);
  napi_env env = environment->env;
  Napi::HandleScope scope(env);
  environment->mailbox->callback = *frame;
  environment->mailbox->callback.integer_result = 0;
  environment->mailbox->callback.float_result = 0;
  napi_value undefined = nullptr;
  napi_value function = nullptr;
  napi_value result = nullptr;
  napi_get_undefined(env, &undefined);
  napi_get_reference_value(env, callback.function, &function);
  // The wrapper lets no exception through. It fails before it begins when the stack is full, and then the exception
  // stays pending in the environment: later callbacks fail at once, and the call that entered the machine code throws
  // it on return. Or no JavaScript can run any more (a terminated worker), and so it goes on.
  if (napi_call_function(env, undefined, function, 0, nullptr, &result) != napi_ok) return;
  // The wrapper wrote the result last, so no inner callback has overwritten it.
  frame->integer_result = environment->mailbox->callback.integer_result;
  frame->float_result = environment->mailbox->callback.float_result;
}

}  // namespace

Result<Napi::Value> AddCallback(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<Callback*> added = handle.shared()->AddCallback(handle.environment, HandleCallback, handle.pin);
  if (!added.ok()) return std::move(added.status());
  Callback& callback = *added.value();
  napi_create_reference(info.Env(), info[0], 1, &callback.function);
  handle.callbacks.push_back(&callback);
  return Napi::Value(Napi::BigInt::New(info.Env(), callback.address));
}

// The JavaScript function is let go; the thunk stays and answers 0, since frozen code may hold its address.
Status DisposeCallback(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  bool lossless = false;
  uint64_t address = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  auto found = std::find_if(handle.callbacks.begin(), handle.callbacks.end(),
                            [&](const Callback* callback) { return callback->address == address; });
  if (found == handle.callbacks.end()) return Status::Ok();
  (*found)->environment.store(nullptr, std::memory_order_relaxed);
  napi_delete_reference(info.Env(), (*found)->function);
  handle.callbacks.erase(found);
  return Status::Ok();
}

}  // namespace jit_arena::node
