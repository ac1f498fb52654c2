// The arena's native functions, bound to one handle each; what they return, arena_handle.h says.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "node/objects.h"
#include "node/results.h"
#include "node/specs.h"

namespace jit_arena::node {
namespace {

// A whole Float64Array of ids, as a vector since the caller's memory is not ours while the lock is held.
std::vector<ExecutorId> IdsOf(const Napi::Value& value) {
  Elements<double> array = ElementsOf<double>(value);
  std::vector<ExecutorId> ids(array.count);
  for (size_t i = 0; i < ids.size(); i++) {
    double id = array[i];
    // Anything that is no id names no executor.
    ids[i] = id >= 0 && id <= 9007199254740991.0 && id == static_cast<double>(static_cast<uint64_t>(id))
                 ? static_cast<ExecutorId>(id)
                 : ~uint64_t{0};
  }
  return ids;
}

Section SectionOf(const Napi::Value& value) { return static_cast<Section>(Uint32Of(value)); }

Status Write(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[3]);
  return handle.arena->Write(IdOf(info[0]), SectionOf(info[1]), Uint32Of(info[2]), bytes.data,
                             static_cast<uint32_t>(std::min<size_t>(bytes.count, UINT32_MAX)));
}

Status Read(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Elements<uint8_t> into = ElementsOf<uint8_t>(info[3]);
  return handle.arena->Read(IdOf(info[0]), SectionOf(info[1]), Uint32Of(info[2]), into.data,
                            static_cast<uint32_t>(into.count));
}

Status AddRelocs(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Environment& environment = *handle.environment;
  if (Status missing = CheckRelocs(environment)) return missing;
  return handle.arena->AddRelocs(IdOf(info[0]), environment.relocs,
                                 static_cast<uint32_t>(environment.mailbox->numbers[kRelocs]));
}

Status Freeze(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  std::vector<ExecutorId> ids = IdsOf(info[0]);
  return handle.arena->Freeze(ids.data(), static_cast<uint32_t>(ids.size()), handle.pin);
}

Status Free(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  std::vector<ExecutorId> ids = IdsOf(info[0]);
  return WakeOthers(handle, handle.arena->Free(ids.data(), static_cast<uint32_t>(ids.size()), handle.pin));
}

Status FreeOne(ArenaHandle& handle, const Napi::CallbackInfo&) {
  ExecutorId id = static_cast<ExecutorId>(handle.environment->mailbox->numbers[kId]);
  return WakeOthers(handle, handle.arena->Free(&id, 1, handle.pin));
}

Result<Napi::Value> Describe(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  Result<ExecutorInfo> described = handle.arena->Describe(IdOf(info[0]));
  if (!described.ok()) return std::move(described.status());
  return Napi::Value(ToJs(info.Env(), described.value()));
}

Result<Napi::Value> Executors(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  std::vector<ExecutorId> ids = handle.arena->Executors();
  Napi::Float64Array array = Napi::Float64Array::New(info.Env(), ids.size());
  if (array.IsEmpty()) return Napi::Value();  // the worker is being terminated
  for (size_t i = 0; i < ids.size(); i++) array[i] = static_cast<double>(ids[i]);
  return Napi::Value(array);
}

Result<Napi::Value> Find(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  bool lossless = false;
  uint64_t address = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  std::optional<FoundAddress> found = lossless ? handle.arena->Find(address) : std::nullopt;
  return found ? Napi::Value(ToJs(info.Env(), *found)) : info.Env().Undefined();
}

Result<Napi::Value> PlanCompaction(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  return Napi::Value(ToJs(info.Env(), handle.arena->PlanCompaction()));
}

// collect(compact, maxPauseMicros, evictCold, followLinks)
Result<Napi::Value> Collect(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  CollectOptions options;
  options.compact = info[0].As<Napi::Boolean>().Value();
  // 0 is no limit; any other is one, however small.
  options.max_pause_nanos = static_cast<uint64_t>(std::ceil(info[1].As<Napi::Number>().DoubleValue() * 1000));
  options.evict_cold = info[2].As<Napi::Boolean>().Value();
  options.follow_links = info[3].As<Napi::Boolean>().Value();
  CollectResult collected = handle.arena->Collect(options, handle.pin);
  handle.shared()->WakeOthers(handle.listening.get());
  return Napi::Value(ToJs(info.Env(), collected));
}

Result<Napi::Value> Stats(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return Napi::Value(ToJs(info.Env(), handle.arena->Stats()));
}

Result<Napi::Value> Slabs(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  return Napi::Value(ToJs(info.Env(), handle.arena->Slabs()));
}

Result<Napi::Value> Verify(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  return Napi::Value(ToJs(info.Env(), handle.arena->Verify(), handle.arena->FindBrokenRule()));
}

// Whether other threads may use the arena.
Status CheckShareable(ArenaHandle& handle, const Napi::CallbackInfo&) {
  if (Status forked = handle.arena->CheckProcess()) return forked;
  if (handle.arena->writer() != os::WriterKind::kFlip) return Status::Ok();
  return Error{ErrorCode::kWriterUnshareable,
               "the flip writer takes execution away from code while it writes, and other threads would have to wait "
               "for it: an arena with this writer stays with the thread that made it"};
}

// Silent when repeated.
Status Dispose(ArenaHandle& handle, const Napi::CallbackInfo&) {
  if (handle.pinned())
    return Error{ErrorCode::kBusy,
                 "machine code of the arena is on the stack, or pinned() is: dispose after the call has returned"};
  if (const uint32_t pins = handle.CountPins(); pins != 0)
    return Error{ErrorCode::kBusy, Format("%u of the pins of this Arena object have not been released", pins)};
  handle.End();
  return Status::Ok();
}

// A native function around one of those above: the handle, unless its arena was disposed of, and the result.
template <auto kFunction, bool kSilent = false>
Napi::Value WithHandle(const Napi::CallbackInfo& info) {
  auto& handle = *static_cast<ArenaHandle*>(info.Data());
  if (handle.arena == nullptr) {
    return kSilent ? Napi::Number::New(info.Env(), 0) : handle.environment->Fail(DisposedError());
  }
  return handle.environment->OrFail([&]() -> Napi::Value {
    auto result = kFunction(handle, info);
    if constexpr (std::is_same_v<decltype(result), Status>)
      return result.ok() ? Napi::Number::New(info.Env(), 0) : handle.environment->Fail(std::move(result));
    else
      return result.ok() ? result.value() : handle.environment->Fail(std::move(result.status()));
  });
}

constexpr struct {
  const char* name;
  Napi::Value (*function)(const Napi::CallbackInfo&);
} kFunctions[] = {
    {"allocate", WithHandle<Allocate>},
    {"install", WithHandle<Install>},
    {"beginSpecs", WithHandle<BeginSpecs>},
    {"addSpec", WithHandle<AddSpec>},
    {"installSpecs", WithHandle<InstallSpecs>},
    {"endSpecs", WithHandle<EndSpecs, true>},
    {"installBatch", WithHandle<InstallBatch>},
    {"installObject", WithHandle<InstallObject>},
    {"runResolver", WithHandle<RunResolver>},
    {"runConstructor", WithHandle<RunConstructor>},
    {"runAtEnd", WithHandle<RunAtEnd, true>},
    {"freeObject", WithHandle<FreeObject>},
    {"write", WithHandle<Write>},
    {"read", WithHandle<Read>},
    {"addRelocs", WithHandle<AddRelocs>},
    {"freeze", WithHandle<Freeze>},
    {"free", WithHandle<Free>},
    {"freeOne", WithHandle<FreeOne>},
    {"describe", WithHandle<Describe>},
    {"executors", WithHandle<Executors>},
    {"find", WithHandle<Find>},
    {"pinned", WithHandle<CallPinned>},
    {"pin", WithHandle<Pin>},
    {"unpin", WithHandle<Unpin, true>},
    {"planCompaction", WithHandle<PlanCompaction>},
    {"collect", WithHandle<Collect>},
    {"stats", WithHandle<Stats>},
    {"slabs", WithHandle<Slabs>},
    {"verify", WithHandle<Verify>},
    {"checkShareable", WithHandle<CheckShareable>},
    {"dispose", WithHandle<Dispose, true>},
    {"bind", WithHandle<Bind>},
    {"addCallback", WithHandle<AddCallback>},
    {"disposeCallback", WithHandle<DisposeCallback, true>},
    {"entryOffset", WithHandle<EntryOffset>},
    {"link", WithHandle<Link>},
    {"unlink", WithHandle<Unlink>},
    {"unlinkAll", WithHandle<UnlinkAll>},
    {"linkOf", WithHandle<LinkOf>},
    {"chainDepth", WithHandle<ChainDepth>},
    {"replace", WithHandle<Replace>},
    {"invalidate", WithHandle<Invalidate>},
    {"setHotStub", WithHandle<SetHotStub>},
    {"exitTag", WithHandle<ExitTag>},
    {"listen", WithHandle<Listen>},
    {"noted", WithHandle<Noted>},
};

// The object of functions for a new user of an arena.
Napi::Object MakeHandle(Environment* environment, std::shared_ptr<SharedArena> shared) {
  Napi::Env env = environment->env;
  Napi::Object functions = Napi::Object::New(env);
  functions.Set("writer", os::WriterName(shared->arena().writer()));
  functions.Set("name", shared->arena().name());
  functions.Set("token", shared->token());

  auto owned = std::make_unique<ArenaHandle>(environment, std::move(shared));
  ArenaHandle* handle = owned.get();
  // A number that has become free is used again: who has it has the object, too, and that was collected.
  auto& arenas = environment->arenas;
  auto place = std::find(arenas.begin(), arenas.end(), nullptr);
  functions.Set("number", Napi::Number::New(env, static_cast<double>(place - arenas.begin())));
  if (place == arenas.end()) place = arenas.insert(place, nullptr);
  *place = std::move(owned);
  for (const auto& entry : kFunctions)
    functions.Set(entry.name, Napi::Function::New(env, entry.function, entry.name, handle));
  functions.AddFinalizer(
      [](Napi::Env, ArenaHandle* collected) {
        // Nothing in JavaScript can reach the handle any more. One that was not disposed of stays: see ArenaHandle.
        if (collected->arena != nullptr) return;
        auto& arenas = collected->environment->arenas;
        auto held = std::find_if(arenas.begin(), arenas.end(), [&](const auto& at) { return at.get() == collected; });
        if (held != arenas.end()) held->reset();
      },
      handle);
  return functions;
}

}  // namespace

Napi::Value CreateArena(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  // In a worker that is being terminated nothing can be read: then it is undefined, and a number of it 0.
  auto get = [&](const char* name) {
    napi_value value = nullptr;
    if (napi_get_named_property(info.Env(), info[0], name, &value) != napi_ok) return info.Env().Undefined();
    return Napi::Value(info.Env(), value);
  };
  auto number = [&](const char* name) { return get(name).As<Napi::Number>(); };
  ArenaOptions options;
  options.max_bytes = static_cast<uint64_t>(number("maxBytes").DoubleValue());
  int writer = number("writer").Int32Value();
  if (writer >= 0) options.writer = static_cast<os::WriterKind>(writer);
  options.apart = get("apart").As<Napi::Boolean>().Value();
  options.max_retired_bytes = static_cast<uint64_t>(number("maxRetiredBytes").DoubleValue());
  options.exit_threshold = number("exitThreshold").Uint32Value();
  options.exit_growth = number("exitGrowth").DoubleValue();
  options.max_chain_depth = number("maxChainDepth").Uint32Value();
  if (get("forkCopy").As<Napi::Boolean>().Value()) options.fork = os::ForkMode::kCopy;
  options.huge_pages = get("hugePages").As<Napi::Boolean>().Value();
  options.full_records = get("fullRecords").As<Napi::Boolean>().Value();
  options.name = get("name").As<Napi::String>().Utf8Value();
  Result<std::unique_ptr<Arena>> arena = Arena::Create(options);
  if (!arena.ok()) return environment->Fail(std::move(arena.status()));
  std::string token = get("token").As<Napi::String>().Utf8Value();
  return MakeHandle(environment, SharedArena::Make(std::move(arena.value()), std::move(token)));
}

Napi::Value OpenArena(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  std::shared_ptr<SharedArena> shared = SharedArena::Find(info[0].As<Napi::String>().Utf8Value());
  if (shared != nullptr) return MakeHandle(environment, std::move(shared));
  return environment->Fail(Error{ErrorCode::kDisposed,
                                 "the token is of no arena that is there: a token keeps none, and the last that used "
                                 "this one has disposed of it or has ended"});
}

}  // namespace jit_arena::node
