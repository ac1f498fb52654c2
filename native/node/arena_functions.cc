// The arena's native functions, bound to one arena each. TypeScript (ts/arena.ts) checks types and is the only caller;
// a result of 0 is success, any other number an error to be fetched with lastError().
#include <algorithm>
#include <cstring>

#include "node/arena_handle.h"
#include "node/results.h"

namespace jit_arena::node {
namespace {

// numbers[] as the functions below use them; ts/native.ts names the same positions.
enum Number : int {
  kId = 0,  // in and out
  kCodeBytes = 1,
  kDataBytes = 2,
  kStateBytes = 3,
  kCodeAlign = 4,
  kDataAlign = 5,
  kStateAlign = 6,
  kMovable = 7,
  kEvictable = 9,  // 0, 1, or -1: as the executor's kind says
  kMakesProgress = 10,
  kExits = 11,
  kRelocs = 8,  // how many stand in the reloc buffer
};

struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

Bytes BytesOf(const Napi::Value& value) {
  if (!value.IsTypedArray()) return {};
  Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}

// A whole Float64Array of ids, as a vector since the caller's memory is not ours while the lock is held.
std::vector<ExecutorId> IdsOf(const Napi::Value& value) {
  Napi::Float64Array array = value.As<Napi::Float64Array>();
  std::vector<ExecutorId> ids(array.ElementLength());
  for (size_t i = 0; i < ids.size(); i++) {
    double id = array[i];
    // Anything that is no id names no executor.
    ids[i] = id >= 0 && id <= 9007199254740991.0 && id == static_cast<double>(static_cast<uint64_t>(id))
                 ? static_cast<ExecutorId>(id)
                 : ~uint64_t{0};
  }
  return ids;
}

// That the relocs which numbers[] counts are there: the counts come from lists of the caller's.
Status CheckRelocs(const Environment& environment) {
  double count = environment.mailbox->numbers[kRelocs];
  if (count >= 0 && count <= static_cast<double>(environment.reloc_capacity)) return Status::Ok();
  return Error{ErrorCode::kRelocBounds, "the list of relocs changed its length while it was read"};
}

// arguments: code, data, state (Uint8Array, or undefined: zero, of the size in numbers[]), name (string or undefined),
// entries (Uint32Array or undefined); the rest is in numbers[] and the reloc buffer.
struct SpecArguments {
  explicit SpecArguments(const Napi::CallbackInfo& info, const Environment& environment) {
    const double* numbers = environment.mailbox->numbers;
    for (int section = 0; section < kSections; section++) {
      if (info[section].IsTypedArray()) {
        Bytes bytes = BytesOf(info[section]);
        spec.bytes[section] = bytes.size != 0 ? bytes.data : nullptr;
        spec.sizes[section] = static_cast<uint32_t>(std::min<size_t>(bytes.size, UINT32_MAX));
      } else {
        spec.sizes[section] = static_cast<uint32_t>(numbers[kCodeBytes + section]);
      }
      spec.aligns[section] = static_cast<uint32_t>(numbers[kCodeAlign + section]);
    }
    spec.movable = numbers[kMovable] != 0;
    spec.evictable = static_cast<int8_t>(numbers[kEvictable]);
    spec.makes_progress = numbers[kMakesProgress] != 0;
    spec.exit_count = static_cast<uint32_t>(numbers[kExits]);
    spec.relocs = environment.relocs;
    spec.reloc_count = static_cast<uint32_t>(numbers[kRelocs]);
    if (info[3].IsString()) name = info[3].As<Napi::String>().Utf8Value();
    spec.name = name;
    if (info[4].IsTypedArray()) {
      Napi::Uint32Array array = info[4].As<Napi::Uint32Array>();
      spec.entries = array.Data();
      spec.entry_count = static_cast<uint32_t>(array.ElementLength());
    }
    if (info[5].IsTypedArray()) {
      Napi::Uint32Array array = info[5].As<Napi::Uint32Array>();
      if (array.ElementLength() >= spec.exit_count) spec.exit_tags = array.Data();
    }
  }
  ExecutorSpec spec;
  std::string name;
};

Napi::Value Allocate(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Environment& environment = *handle->environment;
  if (Status missing = CheckRelocs(environment)) return environment.Fail(std::move(missing));
  SpecArguments arguments(info, environment);
  Result<ExecutorId> id = handle->arena->Allocate(arguments.spec);
  if (!id.ok()) return environment.Fail(std::move(id.status()));
  environment.mailbox->numbers[kId] = static_cast<double>(id.value());
  return Napi::Number::New(info.Env(), 0);
}

Napi::Value Install(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Environment& environment = *handle->environment;
  if (Status missing = CheckRelocs(environment)) return environment.Fail(std::move(missing));
  SpecArguments arguments(info, environment);
  ExecutorId id = 0;
  if (Status status = handle->arena->Install(&arguments.spec, 1, &id, handle->pin))
    return environment.Fail(std::move(status));
  environment.mailbox->numbers[kId] = static_cast<double>(id);
  return Napi::Number::New(info.Env(), 0);
}

// installBatch(code, codeOffsets, data, dataOffsets, relocsOfEach, ids): offsets have one entry more than
// there are executors; relocsOfEach counts each executor's relocs, which stand in the reloc buffer one after the other.
Napi::Value InstallBatch(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Environment& environment = *handle->environment;
  Napi::Uint8Array code = info[0].As<Napi::Uint8Array>();
  Napi::Float64Array code_offsets = info[1].As<Napi::Float64Array>();
  Bytes data = BytesOf(info[2]);
  Napi::Float64Array data_offsets = info[3].As<Napi::Float64Array>();
  Napi::Float64Array relocs_of_each = info[4].As<Napi::Float64Array>();
  Napi::Float64Array ids = info[5].As<Napi::Float64Array>();
  uint32_t count = static_cast<uint32_t>(ids.ElementLength());
  std::vector<ExecutorSpec> specs(count);
  const RelocSpec* relocs = environment.relocs;
  if (Status missing = CheckRelocs(environment)) return environment.Fail(std::move(missing));
  // TypeScript has checked that offsets ascend; what `length` said there may not be what the memory is.
  if (code_offsets[count] > static_cast<double>(code.ByteLength()) ||
      data_offsets[count] > static_cast<double>(data.size))
    return environment.Fail(Error{ErrorCode::kSize, "the offsets of the batch reach beyond its bytes"});
  for (uint32_t i = 0; i < count; i++) {
    ExecutorSpec& spec = specs[i];
    spec.bytes[0] = code.Data() + static_cast<size_t>(code_offsets[i]);
    spec.sizes[0] = static_cast<uint32_t>(code_offsets[i + 1] - code_offsets[i]);
    spec.bytes[1] = data.data + static_cast<size_t>(data_offsets[i]);
    spec.sizes[1] = static_cast<uint32_t>(data_offsets[i + 1] - data_offsets[i]);
    spec.relocs = relocs;
    spec.reloc_count = static_cast<uint32_t>(relocs_of_each[i]);
    relocs += spec.reloc_count;
  }
  std::vector<ExecutorId> installed(count);
  if (Status status = handle->arena->Install(specs.data(), count, installed.data(), handle->pin))
    return environment.Fail(std::move(status));
  for (uint32_t i = 0; i < count; i++) ids[i] = static_cast<double>(installed[i]);
  return Napi::Number::New(info.Env(), 0);
}

Napi::Value Write(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Bytes bytes = BytesOf(info[3]);
  return Done(
      info, handle->environment,
      handle->arena->Write(IdOf(info[0]), static_cast<Section>(info[1].As<Napi::Number>().Uint32Value()),
                           info[2].As<Napi::Number>().Uint32Value(), bytes.data, static_cast<uint32_t>(bytes.size)));
}

Napi::Value Read(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Napi::Uint8Array into = info[3].As<Napi::Uint8Array>();
  return Done(info, handle->environment,
              handle->arena->Read(IdOf(info[0]), static_cast<Section>(info[1].As<Napi::Number>().Uint32Value()),
                                  info[2].As<Napi::Number>().Uint32Value(), into.Data(),
                                  static_cast<uint32_t>(into.ByteLength())));
}

Napi::Value AddRelocs(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Environment& environment = *handle->environment;
  if (Status missing = CheckRelocs(environment)) return environment.Fail(std::move(missing));
  return Done(info, &environment,
              handle->arena->AddRelocs(IdOf(info[0]), environment.relocs,
                                       static_cast<uint32_t>(environment.mailbox->numbers[kRelocs])));
}

Napi::Value Freeze(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  std::vector<ExecutorId> ids = IdsOf(info[0]);
  return Done(info, handle->environment,
              handle->arena->Freeze(ids.data(), static_cast<uint32_t>(ids.size()), handle->pin));
}

Napi::Value Free(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  std::vector<ExecutorId> ids = IdsOf(info[0]);
  return Done(info, handle->environment,
              handle->arena->Free(ids.data(), static_cast<uint32_t>(ids.size()), handle->pin));
}

Napi::Value FreeOne(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  ExecutorId id = static_cast<ExecutorId>(handle->environment->mailbox->numbers[kId]);
  return Done(info, handle->environment, handle->arena->Free(&id, 1, handle->pin));
}

Napi::Value Describe(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  Result<ExecutorInfo> described = handle->arena->Describe(IdOf(info[0]));
  if (!described.ok()) return handle->environment->Fail(std::move(described.status()));
  return ToJs(info.Env(), described.value());
}

Napi::Value Executors(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  std::vector<ExecutorId> ids = handle->arena->Executors();
  Napi::Float64Array array = Napi::Float64Array::New(info.Env(), ids.size());
  for (size_t i = 0; i < ids.size(); i++) array[i] = static_cast<double>(ids[i]);
  return array;
}

Napi::Value Find(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  bool lossless = false;
  uint64_t address = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  std::optional<FoundAddress> found = lossless ? handle->arena->Find(address) : std::nullopt;
  return found ? ToJs(info.Env(), *found) : info.Env().Undefined();
}

Napi::Value Pin(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  handle->arena->reclaimer().Enter(*handle->pin);
  return Napi::Number::New(info.Env(), 0);
}

Napi::Value Unpin(const Napi::CallbackInfo& info) {
  auto* handle = static_cast<ArenaHandle*>(info.Data());
  if (handle->pinned()) handle->arena->reclaimer().Leave(*handle->pin);
  return info.Env().Undefined();
}

Napi::Value PlanCompaction(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  if (Status forked = handle->arena->CheckProcess()) return handle->environment->Fail(std::move(forked));
  return ToJs(info.Env(), handle->arena->PlanCompaction());
}

// collect(compact, maxPauseMicros, evictCold)
Napi::Value Collect(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  if (Status forked = handle->arena->CheckProcess()) return handle->environment->Fail(std::move(forked));
  CollectOptions options;
  options.compact = info[0].As<Napi::Boolean>().Value();
  options.max_pause_nanos = static_cast<uint64_t>(info[1].As<Napi::Number>().DoubleValue() * 1000);
  options.evict_cold = info[2].ToBoolean();
  return ToJs(info.Env(), handle->arena->Collect(options, handle->pin));
}

Napi::Value Stats(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return ToJs(info.Env(), handle->arena->Stats());
}

Napi::Value Slabs(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  return ToJs(info.Env(), handle->arena->Slabs());
}

Napi::Value Verify(const Napi::CallbackInfo& info) {
  Napi::Value failed;
  ArenaHandle* handle = HandleOf(info, &failed);
  if (handle == nullptr) return failed;
  if (Status forked = handle->arena->CheckProcess()) return handle->environment->Fail(std::move(forked));
  return ToJs(info.Env(), handle->arena->Verify(), handle->arena->FindBrokenRule());
}

Napi::Value Dispose(const Napi::CallbackInfo& info) {
  auto* handle = static_cast<ArenaHandle*>(info.Data());
  if (handle->arena == nullptr) return Napi::Number::New(info.Env(), 0);
  if (handle->pinned())
    return handle->environment->Fail(Error{ErrorCode::kBusy,
                                           "machine code of the arena is on the stack, or pinned() is: dispose "
                                           "after the call has returned"});
  for (auto& callback : handle->callbacks) callback->function.Reset();
  handle->arena.reset();
  return Napi::Number::New(info.Env(), 0);
}

constexpr struct {
  const char* name;
  Napi::Value (*function)(const Napi::CallbackInfo&);
} kFunctions[] = {
    {"allocate", Allocate},
    {"install", Install},
    {"installBatch", InstallBatch},
    {"write", Write},
    {"read", Read},
    {"addRelocs", AddRelocs},
    {"freeze", Freeze},
    {"free", Free},
    {"freeOne", FreeOne},
    {"describe", Describe},
    {"executors", Executors},
    {"find", Find},
    {"pin", Pin},
    {"unpin", Unpin},
    {"planCompaction", PlanCompaction},
    {"collect", Collect},
    {"stats", Stats},
    {"slabs", Slabs},
    {"verify", Verify},
    {"dispose", Dispose},
    {"bind", Bind},
    {"addCallback", AddCallback},
    {"disposeCallback", DisposeCallback},
    {"link", Link},
    {"unlink", Unlink},
    {"unlinkAll", UnlinkAll},
    {"linkOf", LinkOf},
    {"chainDepth", ChainDepth},
    {"replace", Replace},
    {"invalidate", Invalidate},
    {"setHotStub", SetHotStub},
    {"exitTag", ExitTag},
};

}  // namespace

Napi::Value CreateArena(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  Napi::Object given = info[0].As<Napi::Object>();
  ArenaOptions options;
  options.max_bytes = static_cast<uint64_t>(given.Get("maxBytes").ToNumber().DoubleValue());
  int writer = given.Get("writer").ToNumber().Int32Value();
  if (writer >= 0) options.writer = static_cast<os::WriterKind>(writer);
  options.apart = given.Get("apart").ToBoolean();
  options.max_retired_bytes = static_cast<uint64_t>(given.Get("maxRetiredBytes").ToNumber().DoubleValue());
  if (given.Has("exitThreshold")) {
    options.exit_threshold = given.Get("exitThreshold").ToNumber().Uint32Value();
    options.exit_growth = given.Get("exitGrowth").ToNumber().DoubleValue();
    options.max_chain_depth = given.Get("maxChainDepth").ToNumber().Uint32Value();
  }
  options.full_records = given.Get("fullRecords").ToBoolean();
  options.name = given.Get("name").ToString().Utf8Value();
  Result<std::unique_ptr<Arena>> arena = Arena::Create(options);
  if (!arena.ok()) return environment->Fail(std::move(arena.status()));

  auto owned = std::make_unique<ArenaHandle>(environment, std::move(arena.value()));
  ArenaHandle* handle = owned.get();
  environment->arenas.push_back(std::move(owned));
  Napi::Object functions = Napi::Object::New(info.Env());
  for (const auto& entry : kFunctions)
    functions.Set(entry.name, Napi::Function::New(info.Env(), entry.function, entry.name, handle));
  functions.Set("run", Napi::Value(info.Env(), [&] {
                  napi_value run = nullptr;
                  napi_create_function(info.Env(), "run", NAPI_AUTO_LENGTH, Run, handle, &run);
                  return run;
                }()));
  functions.Set("writer", os::WriterName(handle->arena->writer()));
  functions.AddFinalizer(
      [](Napi::Env, ArenaHandle* collected) {
        // Nothing in JavaScript can reach the arena any more. One that was not disposed of stays: see ArenaHandle.
        if (collected->arena != nullptr) return;
        auto& arenas = collected->environment->arenas;
        for (auto& held : arenas) {
          if (held.get() != collected) continue;
          std::swap(held, arenas.back());
          arenas.pop_back();
          return;
        }
      },
      handle);
  return functions;
}

}  // namespace jit_arena::node
