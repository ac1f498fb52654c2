// Runs of traces, exits and links.
#include <limits>

#include "node/arena_handle.h"

namespace jit_arena::node {

// Takes the id and the offset of the entry in code from numbers[] and the context from the call frame; leaves in
// numbers[] the executor whose exit was taken (0: done), the exit, and whether it is hot. Returns undefined when the
// run was made. Without the arena's lock.
napi_value Run(napi_env env, napi_callback_info info) {
  void* data = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  ArenaHandle& handle = *static_cast<ArenaHandle*>(data);
  Environment& environment = *handle.environment;
  double* numbers = environment.mailbox->numbers;
  Arena* arena = handle.arena;
  if (arena == nullptr) return environment.Fail(DisposedError());
  ExecutorId id = static_cast<ExecutorId>(numbers[kRunId]);
  uint32_t offset = static_cast<uint32_t>(numbers[kRunEntry]);
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
  return TakeWrongThread(environment);
}

// entryOffset(id, entry): numbers[kRunId] receives it.
Status EntryOffset(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> offset = handle.arena->EntryOffset(IdOf(info[0]), Uint32Of(info[1]));
  if (!offset.ok()) return std::move(offset.status());
  handle.environment->mailbox->numbers[kRunId] = offset.value();
  return Status::Ok();
}

// link(source, exit, target, entry)
Status Link(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.shared()->Link(IdOf(info[0]), Uint32Of(info[1]), IdOf(info[2]), Uint32Of(info[3]));
}

Status Unlink(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->Unlink(IdOf(info[0]), Uint32Of(info[1]));
}

Status UnlinkAll(ArenaHandle& handle, const Napi::CallbackInfo&) { return handle.arena->UnlinkAll(); }

// linkOf(source, exit) → undefined, or { executor, entry }
Result<Napi::Value> LinkOf(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<Arena::LinkedTo> linked = handle.arena->LinkOf(IdOf(info[0]), Uint32Of(info[1]));
  if (!linked.ok()) return std::move(linked.status());
  if (linked.value().target == 0) return info.Env().Undefined();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("executor", Napi::Number::New(info.Env(), static_cast<double>(linked.value().target)));
  object.Set("entry", Napi::Number::New(info.Env(), linked.value().entry));
  return Napi::Value(object);
}

// chainDepth(id): numbers[kRunId] receives it, Infinity for a cycle without progress.
Status ChainDepth(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> depth = handle.arena->ChainDepth(IdOf(info[0]));
  if (!depth.ok()) return std::move(depth.status());
  handle.environment->mailbox->numbers[kRunId] =
      depth.value() == Linker::kEndless ? std::numeric_limits<double>::infinity() : depth.value();
  return Status::Ok();
}

Status Replace(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->Replace(IdOf(info[0]), IdOf(info[1]));
}

Status Invalidate(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->Invalidate(IdOf(info[0]), handle.pin);
}

Status SetHotStub(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->SetHotStub(IdOf(info[0]), handle.pin);
}

// exitTag(id, exit): numbers[kRunId] receives it.
Status ExitTag(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> tag = handle.arena->ExitTag(IdOf(info[0]), Uint32Of(info[1]));
  if (!tag.ok()) return std::move(tag.status());
  handle.environment->mailbox->numbers[kRunId] = tag.value();
  return Status::Ok();
}

}  // namespace jit_arena::node
