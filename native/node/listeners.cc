#include "node/listeners.h"

#include <algorithm>

#include "base/room.h"
#include "node/arena_handle.h"

namespace jit_arena::node {
namespace {

// The core's end of a Listening, which may end before the core lets go of this.
class Noting : public Listener {
 public:
  explicit Noting(std::shared_ptr<NotedIds> noted) : noted_(std::move(noted)) {}
  Status Prepare(EventKind kind, uint32_t count) override { return noted_->Prepare(PlaceOf(kind), count); }
  void Tell(EventKind kind, const Event* events, uint32_t count) override {
    noted_->Note(PlaceOf(kind), events, count);
  }

 private:
  static int PlaceOf(EventKind kind) {
    return static_cast<int>(std::find(std::begin(kNotedKinds), std::end(kNotedKinds), kind) - std::begin(kNotedKinds));
  }
  std::shared_ptr<NotedIds> noted_;
};

// Node would only warn of what a threadsafe function throws.
void CallWake(napi_env env, napi_value wake, void*, void*) {
  if (env == nullptr) return;
  napi_value receiver = nullptr, error = nullptr;
  napi_get_undefined(env, &receiver);
  if (napi_call_function(env, receiver, wake, 0, nullptr, nullptr) != napi_pending_exception) return;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

uint32_t EventBits(uint32_t kinds) {
  uint32_t bits = 0;
  for (int kind = 0; kind < kNoted; kind++)
    if ((kinds >> kind & 1) != 0) bits |= EventBit(kNotedKinds[kind]);
  return bits;
}

}  // namespace

Status NotedIds::Prepare(int kind, uint32_t count) {
  std::lock_guard guard(lock_);
  return MakeRoom(ids_[kind], count);
}

void NotedIds::Note(int kind, const Event* events, uint32_t count) {
  std::lock_guard guard(lock_);
  for (uint32_t i = 0; i < count; i++) ids_[kind].push_back(events[i].executor);
}

std::vector<ExecutorId> NotedIds::Take(int kind) {
  std::lock_guard guard(lock_);
  // A copy: the room stays for what is about to be told.
  std::vector<ExecutorId> taken = ids_[kind];
  ids_[kind].clear();
  return taken;
}

bool NotedIds::empty() {
  std::lock_guard guard(lock_);
  return std::all_of(std::begin(ids_), std::end(ids_), [](const auto& ids) { return ids.empty(); });
}

Result<std::unique_ptr<Listening>> Listening::Begin(ArenaHandle& handle, uint32_t kinds, const Napi::Function& wake) {
  std::unique_ptr<Listening> listening(new Listening(handle));
  napi_env env = handle.environment->env;
  Napi::String name = Napi::String::New(env, "jit-arena listener");
  // Of one place: who is woken fetches everything.
  if (napi_create_threadsafe_function(env, wake, nullptr, name, 1, 1, nullptr, nullptr, nullptr, CallWake,
                                      &listening->wake_) != napi_ok)
    return Error{ErrorCode::kNoMemory, "no memory to wake this thread's listeners"};
  // A listener keeps no process alive.
  napi_unref_threadsafe_function(env, listening->wake_);
  // Added behind the function, whose own hook ends it: so this one is called before.
  napi_add_env_cleanup_hook(env, EndWaking, listening.get());
  handle.shared()->AddListening(listening.get());
  Result<uint32_t> number = handle.arena->AddListener(std::make_unique<Noting>(listening->noted_), EventBits(kinds));
  if (!number.ok()) return std::move(number.status());
  listening->number_ = number.value();
  return listening;
}

void Listening::EndWaking(void* self) {
  auto* listening = static_cast<Listening*>(self);
  listening->handle_.shared()->RemoveListening(listening);
  listening->wake_ = nullptr;
}

Listening::~Listening() {
  if (number_ != 0) handle_.arena->RemoveListener(number_);
  if (wake_ == nullptr) return;
  napi_remove_env_cleanup_hook(handle_.environment->env, EndWaking, this);
  napi_threadsafe_function wake = wake_;
  EndWaking(this);
  napi_release_threadsafe_function(wake, napi_tsfn_abort);
}

void Listening::SetKinds(uint32_t kinds) { handle_.arena->SetListenerKinds(number_, EventBits(kinds)); }

void Listening::Wake() {
  if (!noted_->empty()) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

Status WakeOthers(ArenaHandle& handle, Status done) {
  handle.shared()->WakeOthers(handle.listening.get());
  return done;
}

Status Listen(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  uint32_t kinds = Uint32Of(info[0]);
  if (kinds == 0) {
    handle.listening.reset();
  } else if (handle.listening != nullptr) {
    handle.listening->SetKinds(kinds);
  } else {
    Result<std::unique_ptr<Listening>> begun = Listening::Begin(handle, kinds, info[1].As<Napi::Function>());
    if (!begun.ok()) return std::move(begun.status());
    handle.listening = std::move(begun.value());
  }
  return Status::Ok();
}

Result<Napi::Value> Noted(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (handle.listening == nullptr) return info.Env().Undefined();
  std::vector<ExecutorId> ids = handle.listening->noted().Take(static_cast<int>(Uint32Of(info[0])));
  if (ids.empty()) return info.Env().Undefined();
  Napi::Float64Array array = Napi::Float64Array::New(info.Env(), ids.size());
  for (size_t i = 0; i < ids.size(); i++) array[i] = static_cast<double>(ids[i]);
  return Napi::Value(array);
}

}  // namespace jit_arena::node
