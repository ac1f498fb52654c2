// Calls into machine code: a function without arguments, since every argument of a Node-API call costs as much as the
// call of a small executor. TypeScript puts the arguments into the mailbox's call frame and takes the result out.
#include "node/arena_handle.h"

namespace jit_arena::node {

napi_value Call(napi_env env, napi_callback_info) {
  return EnterMachineCode(env, [](Environment& environment, Arena& arena, const void* entry) {
    arena.call_gate()(entry, &environment.mailbox->call, environment.float_control);
  });
}

napi_value FailToEnter(Environment& environment, Arena* arena, ExecutorId id) {
  if (arena == nullptr) return environment.Fail(DisposedError());
  if (Status failed = arena->CheckProcess()) return environment.Fail(std::move(failed));
  Result<ExecutorInfo> described = arena->Describe(id);
  if (!described.ok()) return environment.Fail(std::move(described.status()));
  return environment.Fail(ExecutorError(
      ErrorCode::kNotFrozen, id, Format("executor %llu is still writable: freeze it before it is called", Wide(id))));
}

napi_value FailWrongThread(Environment& environment) {
  environment.thread->wrong_thread.store(false, std::memory_order_relaxed);
  return environment.Fail(
      Error{ErrorCode::kWrongThread,
            "machine code called a callback on another thread than the one that made it, or on a stack of its own"});
}

napi_value FailThrown(Environment& environment, Status thrown) {
  // What the gate would have set. And this call has its error: the next one is not to be told of another.
  arch::WriteFloatControl(environment.float_control);
  environment.thread->wrong_thread.store(false, std::memory_order_relaxed);
  return environment.Fail(std::move(thrown));
}

Status Bind(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  ExecutorId id = IdOf(info[0]);
  if (handle.arena->IsTrace(id))
    return ExecutorError(
        ErrorCode::kTraceAbi, id,
        Format("executor %llu has exits or a done target and follows the trace ABI: run it with a runner", Wide(id)));
  return EntryOffset(handle, info);
}

// Native, and not a pair of functions around a `finally`, which does not run when a worker is terminated.
Result<Napi::Value> CallPinned(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  napi_value undefined = info.Env().Undefined();
  napi_status status = napi_ok;
  {
    Pinned pinned(handle.arena->reclaimer(), *handle.pin);
    status = napi_call_function(info.Env(), undefined, info[0], 0, nullptr, nullptr);
  }
  // What the function threw is pending, and is thrown when this returns.
  return status == napi_ok ? Napi::Value(Napi::Number::New(info.Env(), 0)) : Napi::Value();
}

}  // namespace jit_arena::node
