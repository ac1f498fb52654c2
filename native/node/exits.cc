// Runs of traces, exits and links.
#include <limits>

#include "node/arena_handle.h"

namespace jit_arena::node {
// Takes the id and the entry (0: the first byte; n: entry n - 1) from numbers[] and the context from the call frame;
// leaves in numbers[] the executor whose exit was taken (0: done), the exit, and whether it is hot. Returns undefined
// when the run was made.
napi_value Run(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  ArenaHandle& handle = *static_cast<ArenaHandle*>(data);
  Environment& environment = *handle.environment;
  double* numbers = environment.mailbox->numbers;
  Arena* arena = handle.arena.get();
  if (arena == nullptr) return environment.Fail(Error{ErrorCode::kDisposed, "the arena has been disposed of"});
  ExecutorId id = static_cast<ExecutorId>(numbers[kRunId]);
  uint32_t entry_number = static_cast<uint32_t>(numbers[kRunEntry]);
  uint32_t offset = 0;
  if (entry_number != 0) {
    Result<uint32_t> found = arena->EntryOffset(id, entry_number - 1);
    if (!found.ok()) return environment.Fail(std::move(found.status()));
    offset = found.value();
  }
  Reclaimer& reclaimer = arena->reclaimer();
  reclaimer.Enter(*handle.pin);
  uint64_t entry = arena->in_own_process() ? arena->EntryOf(id) : 0;
  ExitTaken taken{};
  if (entry != 0) {
    // The frame is this run's own, since a callback may run another trace.
    arch::CallFrame frame;
    frame.integers[0] = environment.mailbox->call.integers[0];
    arena->call_gate()(reinterpret_cast<const void*>(entry + offset), &frame);
    taken = arena->ResolveExit(frame.integer_result);
  }
  reclaimer.Leave(*handle.pin);
  if (entry == 0) return environment.Fail(CannotEnter(*arena, id));
  numbers[kRunId] = static_cast<double>(taken.executor);
  numbers[kRunExit] = taken.exit;
  numbers[kRunHot] = taken.hot;
  return TakeWrongThread(handle);
}

// link(source, exit, target, entry)
Napi::Value Link(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment,
              handle->arena->Link(IdOf(info[0]), info[1].As<Napi::Number>().Uint32Value(), IdOf(info[2]),
                                  info[3].As<Napi::Number>().Uint32Value()));
}

Napi::Value Unlink(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment,
              handle->arena->Unlink(IdOf(info[0]), info[1].As<Napi::Number>().Uint32Value()));
}

Napi::Value UnlinkAll(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment, handle->arena->UnlinkAll());
}

// linkOf(source, exit) → undefined, or { executor, entry }
Napi::Value LinkOf(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Result<Arena::LinkedTo> linked = handle->arena->LinkOf(IdOf(info[0]), info[1].As<Napi::Number>().Uint32Value());
  if (!linked.ok()) return handle->environment->Fail(std::move(linked.status()));
  if (linked.value().target == 0) return info.Env().Undefined();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("executor", Napi::Number::New(info.Env(), static_cast<double>(linked.value().target)));
  object.Set("entry", Napi::Number::New(info.Env(), linked.value().entry));
  return object;
}

// chainDepth(id): numbers[kRunId] receives it, Infinity for a cycle without progress.
Napi::Value ChainDepth(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Result<uint32_t> depth = handle->arena->ChainDepth(IdOf(info[0]));
  if (!depth.ok()) return handle->environment->Fail(std::move(depth.status()));
  handle->environment->mailbox->numbers[kRunId] =
      depth.value() == Linker::kEndless ? std::numeric_limits<double>::infinity() : depth.value();
  return Napi::Number::New(info.Env(), 0);
}

Napi::Value Replace(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment, handle->arena->Replace(IdOf(info[0]), IdOf(info[1])));
}

Napi::Value Invalidate(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment, handle->arena->Invalidate(IdOf(info[0]), handle->pin));
}

Napi::Value SetHotStub(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return Done(info, handle->environment, handle->arena->SetHotStub(IdOf(info[0]), handle->pin));
}

// exitTag(id, exit): numbers[kRunId] receives it.
Napi::Value ExitTag(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Result<uint32_t> tag = handle->arena->ExitTag(IdOf(info[0]), info[1].As<Napi::Number>().Uint32Value());
  if (!tag.ok()) return handle->environment->Fail(std::move(tag.status()));
  handle->environment->mailbox->numbers[kRunId] = tag.value();
  return Napi::Number::New(info.Env(), 0);
}

}  // namespace jit_arena::node
