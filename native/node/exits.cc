// Runs of traces, exits and links.
#include <limits>

#include "node/arena_handle.h"

namespace jit_arena::node {

napi_value Run(napi_env env, napi_callback_info) {
  return EnterMachineCode(env, [](Environment& environment, Arena& arena, const void* entry) {
    Mailbox& mailbox = *environment.mailbox;
    const uint32_t* halves = mailbox.entered.context;
    // The frame is this run's own, since a callback may run another trace.
    arch::CallFrame frame;
    frame.integers[0] = uint64_t{halves[1]} << 32 | halves[0];
    arena.call_gate()(entry, &frame, environment.float_control);
    const uint64_t left = frame.integer_result;
    // Written afterwards, since a callback may have run another trace.
    mailbox.left.exit_code = 0;
    if (left == 0) return;
    const ExitTaken taken = arena.ResolveExit(left);
    const int32_t number = static_cast<int32_t>(taken.exit) + 1;
    mailbox.left.exit_code = taken.hot ? -number : number;
    mailbox.left.executor = static_cast<double>(static_cast<int64_t>(taken.executor));
  });
}

// entryOffset(id, entry): numbers[0] receives it.
Status EntryOffset(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> offset = handle.arena->EntryOffset(IdOf(info[0]), Uint32Of(info[1]));
  if (!offset.ok()) return std::move(offset.status());
  handle.environment->mailbox->numbers[0] = offset.value();
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

// chainDepth(id): numbers[0] receives it, Infinity for a cycle without progress.
Status ChainDepth(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> depth = handle.arena->ChainDepth(IdOf(info[0]));
  if (!depth.ok()) return std::move(depth.status());
  handle.environment->mailbox->numbers[0] =
      depth.value() == Exits::kEndless ? std::numeric_limits<double>::infinity() : depth.value();
  return Status::Ok();
}

Status Replace(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->Replace(IdOf(info[0]), IdOf(info[1]));
}

Status Invalidate(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return WakeOthers(handle, handle.arena->Invalidate(IdOf(info[0]), handle.pin));
}

Status SetHotStub(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return handle.arena->SetHotStub(IdOf(info[0]), handle.pin);
}

// exitTag(id, exit): numbers[0] receives it.
Status ExitTag(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<uint32_t> tag = handle.arena->ExitTag(IdOf(info[0]), Uint32Of(info[1]));
  if (!tag.ok()) return std::move(tag.status());
  handle.environment->mailbox->numbers[0] = tag.value();
  return Status::Ok();
}

}  // namespace jit_arena::node
