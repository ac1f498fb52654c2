// Machine code calls JavaScript. TypeScript's wrapper converts arguments and result and catches exceptions; here
// frames are carried to it and back, and what it throws is reported when no call of ours can throw it.
#include "node/callbacks.h"

#include <memory>
#include <utility>

#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

// JavaScript inside machine code computes in its own way, and is what is innermost; then machine code goes on in its
// own.
class InJavaScript {
 public:
  InJavaScript(ScriptThread& thread, arch::FloatControl control) : thread_(thread) {
    thread_.in_machine_code = nullptr;
    arch::WriteFloatControl(control);
  }
  ~InJavaScript() {
    arch::WriteFloatControl(machine_code_);
    thread_.in_machine_code = outer_;
  }
  InJavaScript(const InJavaScript&) = delete;
  InJavaScript& operator=(const InJavaScript&) = delete;

 private:
  ScriptThread& thread_;
  Environment* const outer_ = thread_.in_machine_code;
  const arch::FloatControl machine_code_ = arch::ReadFloatControl();
};

// A call of TypeScript's wrapper when no call of ours is innermost: what it throws is an uncaughtException, since
// nobody who could catch it is on the stack. True when the mailbox has the result.
bool CallAlone(napi_env env, napi_value undefined, napi_value wrapper) {
  napi_value alone = nullptr;
  napi_value thrown = nullptr;  // undefined, or an object with the error
  napi_get_boolean(env, true, &alone);
  napi_value error = nullptr;
  if (napi_call_function(env, undefined, wrapper, 1, &alone, &thrown) == napi_ok) {
    napi_valuetype type = napi_undefined;
    napi_typeof(env, thrown, &type);
    if (type == napi_undefined) return true;
    napi_get_named_property(env, thrown, "error", &error);
  } else {
    // It had no stack to begin, or was stopped: JavaScript is being terminated. Then the exception is null, which the
    // wrapper lets no other through as, and V8 goes on with the termination by itself.
    napi_valuetype type = napi_null;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_typeof(env, error, &type);
    if (type == napi_null || type == napi_undefined) return false;
  }
  napi_fatal_exception(env, error);
  return false;
}

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
  if (here != owner || !here->Owns(frame)) {
    // The error is that of the call that this thread is in. Without one it is the owner's, which has calls to come.
    ScriptThread& told = here != nullptr && here->in_machine_code != nullptr ? *here : *owner;
    told.wrong_thread.store(true, std::memory_order_relaxed);
    return;
  }
  // A forked child has this thread and none of V8's.
  if (here->fork_generation != os::ForkGeneration()) return;
  // JavaScript may dispose of the callback.
  const Callback& callback = *static_cast<Callback*>(context.callback);
  Environment* const environment = callback.environment();
  // No call of ours is what is innermost: libuv calls, or another addon that JavaScript has called.
  const bool alone = here->in_machine_code != environment;
  // As after an exception, callbacks return at once until the call has thrown: so it is this call that throws, and not
  // one that a later callback makes.
  if (!alone && here->wrong_thread.load(std::memory_order_relaxed)) return;
  InJavaScript inside(*here, environment->float_control);
  napi_env env = environment->env;
  Napi::HandleScope scope(env);
  napi_value undefined = nullptr;
  napi_value wrapper = nullptr;
  napi_get_undefined(env, &undefined);
  napi_get_reference_value(env, callback.wrapper(), &wrapper);
  // An entry from the event loop: when it is left, promise jobs and what process.nextTick was given run. (Not while
  // other JavaScript is on the stack.)
  napi_callback_scope entry = nullptr;
  if (alone && !callback.OpenEntry(&entry)) return;
  arch::CallFrame& mailbox = environment->mailbox->callback;
  mailbox = *frame;
  // A nested call's wrapper lets no exception through. It fails before it begins when the stack is full, and then the
  // exception stays pending in the environment: later callbacks fail at once, and the call that entered the machine
  // code throws it on return. Or no JavaScript can run any more (a terminated worker), and so it goes on.
  if (alone ? CallAlone(env, undefined, wrapper)
            : napi_call_function(env, undefined, wrapper, 0, nullptr, nullptr) == napi_ok) {
    // The wrapper wrote the result last, so no inner callback has overwritten it.
    frame->integer_result = mailbox.integer_result;
    frame->float_result = mailbox.float_result;
  }
  if (alone) napi_close_callback_scope(env, entry);
}

}  // namespace

Callback::Callback(Environment* environment, const Thunk& thunk, napi_value wrapper)
    : environment_(environment), thunk_(thunk) {
  napi_create_reference(environment->env, wrapper, 1, &wrapper_);
  napi_value name = nullptr;
  napi_create_string_latin1(environment->env, "jit-arena callback", NAPI_AUTO_LENGTH, &name);
  napi_async_init(environment->env, nullptr, name, &async_context_);
  thunk_.context->callback = this;
  thunk_.context->owner.store(environment->thread, std::memory_order_release);
}

bool Callback::OpenEntry(napi_callback_scope* scope) const {
  return async_context_ != nullptr &&
         napi_open_callback_scope(environment_->env, nullptr, async_context_, scope) == napi_ok;
}

Callback::~Callback() {
  thunk_.context->owner.store(nullptr, std::memory_order_release);
  napi_delete_reference(environment_->env, wrapper_);
  // None was made in a worker that is being terminated.
  if (async_context_ != nullptr) napi_async_destroy(environment_->env, async_context_);
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
