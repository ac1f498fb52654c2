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
  Arena* arena = handle.arena.get();
  if (arena == nullptr) return environment.Fail(Error{ErrorCode::kDisposed, "the arena has been disposed of"});

  Reclaimer& reclaimer = arena->reclaimer();
  reclaimer.Enter(*handle.pin);
  uint64_t entry = arena->in_own_process() ? arena->EntryOf(target.executor) : 0;
  if (entry != 0)
    arena->call_gate()(reinterpret_cast<const void*>(entry + target.entry_offset), &environment.mailbox->call);
  reclaimer.Leave(*handle.pin);
  if (entry == 0) return environment.Fail(CannotEnter(*arena, target.executor));

  return TakeWrongThread(handle);
}

}  // namespace

Status CannotEnter(Arena& arena, ExecutorId id) {
  if (Status failed = arena.CheckProcess()) return failed;
  Result<ExecutorInfo> described = arena.Describe(id);
  if (!described.ok()) return std::move(described.status());
  return ExecutorError(ErrorCode::kNotFrozen, id,
                       Format("executor %llu is still writable: freeze it before it is called", Wide(id)));
}

napi_value TakeWrongThread(ArenaHandle& handle) {
  Environment& environment = *handle.environment;
  if (handle.pin->depth != 0 || !environment.wrong_thread.load(std::memory_order_relaxed)) return nullptr;
  environment.wrong_thread.store(false, std::memory_order_relaxed);
  return environment.Fail(
      Error{ErrorCode::kWrongThread, "machine code called a callback on another thread than the one that made it"});
}

Napi::Value Bind(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  ExecutorId id = IdOf(info[0]);
  if (handle->arena->IsTrace(id))
    return handle->environment->Fail(ExecutorError(
        ErrorCode::kTraceAbi, id,
        Format("executor %llu has exits or a done target and follows the trace ABI: run it with a runner", Wide(id))));
  Result<uint32_t> offset = handle->arena->EntryOffset(id, info[1].As<Napi::Number>().Uint32Value());
  if (!offset.ok()) return handle->environment->Fail(std::move(offset.status()));
  auto* target = new CallTarget{handle, id, offset.value()};
  napi_value function = nullptr;
  napi_status status = napi_create_function(info.Env(), "call", NAPI_AUTO_LENGTH, Call, target, &function);
  if (status == napi_ok)
    status = napi_add_finalizer(
        info.Env(), function, target, [](napi_env, void* data, void*) { delete static_cast<CallTarget*>(data); },
        nullptr, nullptr);
  if (status == napi_ok) return Napi::Value(info.Env(), function);
  delete target;
  return handle->environment->Fail(Error{ErrorCode::kNoMemory, "the function could not be made"});
}

}  // namespace jit_arena::node
