#include "node/objects.h"

#include <string>
#include <string_view>
#include <vector>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "node/results.h"
#include "object/loaded_object.h"

namespace jit_arena::node {
namespace {

Napi::String TextOf(Napi::Env env, std::string_view text) { return Napi::String::New(env, text.data(), text.size()); }

const LoadedObject& ObjectOf(const Napi::Value& handle) { return *handle.As<Napi::External<LoadedObject>>().Data(); }

// The ids that InstallObject has given, which are as many as the object has executors.
std::vector<ExecutorId> IdsOf(const LoadedObject& object, const Napi::Value& value) {
  Elements<double> given = ElementsOf<double>(value);
  std::vector<ExecutorId> ids(object.executor_count());
  for (size_t i = 0; i < ids.size() && i < given.count; i++) ids[i] = static_cast<ExecutorId>(given[i]);
  return ids;
}

// Calls what `find()` names, as call() does: under the thread's pin. True when it names something; or an error's
// number.
template <class Find>
Napi::Value CallUnderPin(ArenaHandle& handle, arch::CallFrame* frame, Find find) {
  Environment& environment = *handle.environment;
  Arena& arena = *handle.arena;
  uint64_t function = 0;
  Status thrown;
  {
    Pinned pinned(arena.reclaimer(), *handle.pin);
    function = find();
    if (function != 0) {
      thrown = CallMachineCode(environment, [&] {
        arena.call_gate()(reinterpret_cast<const void*>(function), frame, environment.float_control);
      });
    }
  }
  if (napi_value failed = AfterMachineCode(environment, std::move(thrown))) return {environment.env, failed};
  return Napi::Boolean::New(environment.env, function != 0);
}

}  // namespace

Napi::Value ReadLoadedObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  Result<std::unique_ptr<LoadedObject>> read = LoadedObject::Read(bytes.data, bytes.count);
  if (!read.ok()) return Environment::Of(env)->Fail(std::move(read.status()));
  // The garbage collector sees a small handle, and is told of what is behind it.
  const auto kept_bytes = static_cast<int64_t>(read.value()->kept_bytes());
  Napi::MemoryManagement::AdjustExternalMemory(env, kept_bytes);
  return Napi::External<LoadedObject>::New(env, read.value().release(),
                                           [kept_bytes](Napi::Env of, LoadedObject* object) {
                                             Napi::MemoryManagement::AdjustExternalMemory(of, -kept_bytes);
                                             delete object;
                                           });
}

Napi::Value CountsOfObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const LoadedObject& object = ObjectOf(info[0]);
  Napi::Object counts = Napi::Object::New(env);
  counts.Set("symbols", ToNumber(env, object.symbol_count()));
  counts.Set("asked", ToNumber(env, object.asked().size()));
  counts.Set("resolvers", ToNumber(env, object.resolver_count()));
  counts.Set("constructors", ToNumber(env, object.constructor_count()));
  counts.Set("reasons", ToNumber(env, object.reasons().size()));
  return counts;
}

Napi::Value AskedOfObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const AskedSymbol& symbol = ObjectOf(info[0]).asked()[Uint32Of(info[1])];
  Napi::Object asked = Napi::Object::New(env);
  asked.Set("name", TextOf(env, symbol.name));
  asked.Set("weak", symbol.weak);
  asked.Set("defined", symbol.defined);
  return asked;
}

Napi::Value AnswerForObject(const Napi::CallbackInfo& info) {
  LoadedObject& object = *info[0].As<Napi::External<LoadedObject>>().Data();
  SymbolTarget target;
  if (info[2].IsBigInt()) {
    bool lossless = false;
    target.target = info[2].As<Napi::BigInt>().Uint64Value(&lossless);
  } else {
    target = {TargetKind::kExecutor, IdOf(info[2]), static_cast<Section>(Uint32Of(info[3])), Uint32Of(info[4])};
  }
  object.Answer(Uint32Of(info[1]), target);
  return info.Env().Undefined();
}

Napi::Value ResolveObject(const Napi::CallbackInfo& info) {
  Status failed = info[0].As<Napi::External<LoadedObject>>().Data()->Resolve();
  return failed.ok() ? Napi::Number::New(info.Env(), 0) : Environment::Of(info.Env())->Fail(std::move(failed));
}

Napi::Value SymbolOfObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  LoadedSymbol symbol = ObjectOf(info[0]).Symbol(Uint32Of(info[1]));
  const ObjectExport* defined = symbol.defined;
  const char* kind = defined == nullptr                   ? "undefined"
                     : defined->section == Section::kCode ? "function"
                                                          : SectionName(defined->section);
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", TextOf(env, symbol.name));
  object.Set("kind", kind);
  object.Set("bytes", ToNumber(env, defined != nullptr ? defined->size : 0));
  object.Set("weak", symbol.weak);
  if (defined != nullptr) object.Set("executor", ToNumber(env, defined->unit));
  return object;
}

Napi::Value ReasonOfObject(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), ObjectOf(info[0]).reasons()[Uint32Of(info[1])].text);
}

Napi::Value FindInObject(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Result<const ObjectExport*> found = ObjectOf(info[0]).Find(info[1].As<Napi::String>().Utf8Value());
  if (!found.ok()) return Environment::Of(env)->Fail(std::move(found.status()));
  const ObjectExport& defined = *found.value();
  Napi::Object place = Napi::Object::New(env);
  place.Set("executor", ToNumber(env, defined.unit));
  place.Set("section", SectionName(defined.section));
  place.Set("offset", ToNumber(env, defined.offset));
  if (defined.entry != kNoIndex) place.Set("entry", ToNumber(env, defined.entry));
  return place;
}

Result<Napi::Value> InstallObject(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  const LoadedObject& object = ObjectOf(info[0]);
  ObjectInstall how;
  if (info[1].IsBoolean()) how.movable = info[1].As<Napi::Boolean>().Value();
  how.constructors = info[3].As<Napi::Boolean>().Value();
  std::string name;
  if (info[2].IsString()) how.name = name = info[2].As<Napi::String>().Utf8Value();
  std::vector<ExecutorId> ids(object.executor_count());
  if (Status failed = object.Install(*handle.arena, how, ids.data(), handle.pin)) return failed;
  Napi::Float64Array array = Napi::Float64Array::New(info.Env(), ids.size());
  if (array.IsEmpty()) return Napi::Value();  // the worker is being terminated
  for (size_t i = 0; i < ids.size(); i++) array[i] = static_cast<double>(ids[i]);
  return Napi::Value(array);
}

Result<Napi::Value> RunResolver(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  const LoadedObject& object = ObjectOf(info[0]);
  std::vector<ExecutorId> ids = IdsOf(object, info[1]);
  const uint32_t i = Uint32Of(info[2]);
  arch::CallFrame frame{};
  Napi::Value called = CallUnderPin(handle, &frame, [&] { return object.Resolver(*handle.arena, ids.data(), i); });
  if (!called.IsBoolean()) return called;
  if (Status failed = object.SetResolved(*handle.arena, ids.data(), i, frame.integer_result)) return failed;
  return called;
}

Result<Napi::Value> RunConstructor(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  const LoadedObject& object = ObjectOf(info[0]);
  std::vector<ExecutorId> ids = IdsOf(object, info[1]);
  static const void* const none = nullptr;
  arch::CallFrame frame{};
  frame.integers[1] = frame.integers[2] = reinterpret_cast<uint64_t>(&none);
  return CallUnderPin(handle, &frame, [&] { return object.Constructor(*handle.arena, ids.data(), Uint32Of(info[2])); });
}

Result<Napi::Value> RunAtEnd(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return Napi::Value(Napi::Boolean::New(info.Env(), false));
  const LoadedObject& object = ObjectOf(info[0]);
  std::vector<ExecutorId> ids = IdsOf(object, info[1]);
  arch::CallFrame frame{};
  return CallUnderPin(handle, &frame, [&]() -> uint64_t {
    std::optional<RegisteredCall> call = object.TakeEndCall(*handle.arena, ids.data());
    if (!call) return 0;
    frame.integers[0] = call->argument;
    return call->function;
  });
}

Status FreeObject(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  const LoadedObject& object = ObjectOf(info[0]);
  return object.Free(*handle.arena, IdsOf(object, info[1]).data(), handle.pin);
}

}  // namespace jit_arena::node
