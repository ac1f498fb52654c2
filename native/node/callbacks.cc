// Machine code calls JavaScript. TypeScript's wrapper converts arguments and result and catches exceptions; here
// frames are carried to it and back.
#include "node/callbacks.h"

#include <memory>
#include <utility>

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

// Never unwinds: on return the machine code goes on, whatever happened in JavaScript. On any thread and at any moment,
// also while environments end and static objects are destroyed: so only the owner's thread goes beyond the context and
// ScriptThreads, neither of which is ever freed.
void HandleCallback(void* data, arch::CallFrame* frame) {
  const ThunkContext& context = *static_cast<ThunkContext*>(data);
  frame->integer_result = 0;
  frame->float_result = 0;
  auto* owner = static_cast<ScriptThread*>(context.owner.load(std::memory_order_acquire));
  if (owner == nullptr) return;
  ScriptThread* here = ScriptThread::Current();
  if (here != owner) {
    // The call is this thread's, and so is the error. A thread without JavaScript has no call to return from.
    ScriptThread& told = here != nullptr ? *here : *owner;
    told.wrong_thread.store(true, std::memory_order_relaxed);
    return;
  }
  // A forked child has this thread and none of V8's.
  if (here->fork_generation != os::ForkGeneration()) return;
  // As after an exception, callbacks return at once until the call has thrown: so it is this call that throws, and not
  // one that a later callback makes.
  if (here->wrong_thread.load(std::memory_order_relaxed)) return;
  // JavaScript may dispose of the callback.
  const Callback& callback = *static_cast<Callback*>(context.callback);
  Environment* const environment = callback.environment();
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
  napi_get_reference_value(env, callback.wrapper(), &function);
  // The wrapper lets no exception through. It fails before it begins when the stack is full, and then the exception
  // stays pending in the environment: later callbacks fail at once, and the call that entered the machine code throws
  // it on return. Or no JavaScript can run any more (a terminated worker), and so it goes on.
  if (napi_call_function(env, undefined, function, 0, nullptr, &result) != napi_ok) return;
  // The wrapper wrote the result last, so no inner callback has overwritten it.
  frame->integer_result = environment->mailbox->callback.integer_result;
  frame->float_result = environment->mailbox->callback.float_result;
}

}  // namespace

Callback::Callback(Environment* environment, const Thunk& thunk, napi_value wrapper)
    : environment_(environment), thunk_(thunk) {
  napi_create_reference(environment->env, wrapper, 1, &wrapper_);
  thunk_.context->callback = this;
  thunk_.context->owner.store(environment->thread, std::memory_order_release);
}

Callback::~Callback() {
  thunk_.context->owner.store(nullptr, std::memory_order_release);
  napi_delete_reference(environment_->env, wrapper_);
}

Result<Napi::Value> AddCallback(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<Thunk> thunk = handle.arena->AddThunk(HandleCallback, handle.pin);
  if (!thunk.ok()) return std::move(thunk.status());
  handle.callbacks.push_back(std::make_unique<Callback>(handle.environment, thunk.value(), info[0]));
  return Napi::Value(Napi::BigInt::New(info.Env(), thunk.value().address));
}

// The JavaScript function is let go; the thunk stays and answers 0, since somebody may hold its address.
Status DisposeCallback(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  bool lossless = false;
  uint64_t address = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  std::erase_if(handle.callbacks, [&](const auto& callback) { return callback->address() == address; });
  return Status::Ok();
}

}  // namespace jit_arena::node
