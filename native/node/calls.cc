// Calls into machine code: a function without arguments, since every argument of a Node-API call costs as much as the
// call of a small executor. TypeScript puts the arguments into the mailbox's call frame and takes the result out.
#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

struct CallTarget {
  ArenaHandle* handle;
  ExecutorId executor;
  uint32_t entry_offset;
};

// Returns undefined when the call was made (a null napi_value costs nothing), otherwise the error's number.
napi_value Call(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  const CallTarget& target = *static_cast<CallTarget*>(data);
  ArenaHandle& handle = *target.handle;
  Environment& environment = *handle.environment;
  // A callback may not dispose of the arena, since this thread is pinned.
  Arena* arena = handle.arena;
  if (arena == nullptr) return environment.Fail(DisposedError());

  Reclaimer& reclaimer = arena->reclaimer();
  reclaimer.Enter(*handle.pin);
  uint64_t entry = arena->in_own_process() ? arena->EntryOf(target.executor) : 0;
  if (entry != 0)
    arena->call_gate()(reinterpret_cast<const void*>(entry + target.entry_offset), &environment.mailbox->call);
  reclaimer.Leave(*handle.pin);
  if (entry == 0) return environment.Fail(CannotEnter(*arena, target.executor));

  return TakeWrongThread(environment);
}

}  // namespace

Status CannotEnter(Arena& arena, ExecutorId id) {
  if (Status failed = arena.CheckProcess()) return failed;
  Result<ExecutorInfo> described = arena.Describe(id);
  if (!described.ok()) return std::move(described.status());
  return ExecutorError(ErrorCode::kNotFrozen, id,
                       Format("executor %llu is still writable: freeze it before it is called", Wide(id)));
}

napi_value TakeWrongThread(Environment& environment) {
  std::atomic<bool>& wrong_thread = environment.thread->wrong_thread;
  if (!wrong_thread.load(std::memory_order_relaxed)) return nullptr;
  wrong_thread.store(false, std::memory_order_relaxed);
  return environment.Fail(
      Error{ErrorCode::kWrongThread, "machine code called a callback on another thread than the one that made it"});
}

Result<Napi::Value> Bind(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  ExecutorId id = IdOf(info[0]);
  if (handle.arena->IsTrace(id))
    return ExecutorError(
        ErrorCode::kTraceAbi, id,
        Format("executor %llu has exits or a done target and follows the trace ABI: run it with a runner", Wide(id)));
  Result<uint32_t> offset = handle.arena->EntryOffset(id, Uint32Of(info[1]));
  if (!offset.ok()) return std::move(offset.status());
  auto* target = new CallTarget{&handle, id, offset.value()};
  napi_value function = nullptr;
  napi_status status = napi_create_function(info.Env(), "call", NAPI_AUTO_LENGTH, Call, target, &function);
  if (status == napi_ok)
    status = napi_add_finalizer(
        info.Env(), function, target, [](napi_env, void* data, void*) { delete static_cast<CallTarget*>(data); },
        nullptr, nullptr);
  if (status == napi_ok) return Napi::Value(info.Env(), function);
  delete target;
  return Error{ErrorCode::kNoMemory, "the function could not be made"};
}

// Native, and not a pair of functions around a `finally`, which does not run when a worker is terminated.
Result<Napi::Value> Pinned(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Arena& arena = *handle.arena;
  napi_value undefined = info.Env().Undefined();
  arena.reclaimer().Enter(*handle.pin);
  napi_status status = napi_call_function(info.Env(), undefined, info[0], 0, nullptr, nullptr);
  arena.reclaimer().Leave(*handle.pin);
  // What the function threw is pending, and is thrown when this returns.
  return status == napi_ok ? Napi::Value(Napi::Number::New(info.Env(), 0)) : Napi::Value();
}

}  // namespace jit_arena::node
