// The module: what JavaScript gets from the binary before there is an arena.
#include <napi.h>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "node/objects.h"
#include "node/results.h"
#include "node/specs.h"
#include "node/stencils.h"

namespace jit_arena::node {
namespace {

// setMailbox(ArrayBuffer): memory that both sides see; TypeScript makes it and never lets it out.
Napi::Value SetMailbox(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  JIT_ARENA_CHECK(buffer.ByteLength() >= sizeof(Mailbox));
  environment->mailbox = static_cast<Mailbox*>(buffer.Data());
  environment->mailbox_reference = Napi::Reference<Napi::ArrayBuffer>::New(buffer, 1);
  return info.Env().Undefined();
}

// setRelocBuffer(Uint8Array): where TypeScript encodes relocs; called again when it grows.
Napi::Value SetRelocBuffer(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  Elements<uint8_t> buffer = ElementsOf<uint8_t>(info[0]);
  environment->relocs = reinterpret_cast<const RelocSpec*>(buffer.data);
  environment->reloc_capacity = buffer.count / sizeof(RelocSpec);
  environment->relocs_reference = Napi::Reference<Napi::Uint8Array>::New(info[0].As<Napi::Uint8Array>(), 1);
  return info.Env().Undefined();
}

Napi::Value LastError(const Napi::CallbackInfo& info) {
  Environment* environment = Environment::Of(info.Env());
  if (environment->last_error.ok()) return info.Env().Undefined();
  return ToJs(info.Env(), std::exchange(environment->last_error, {}).error());
}

Napi::Value Probe(const Napi::CallbackInfo& info) {
  std::vector<os::ProbeResult> results = os::Probe();
  Napi::Array array = Napi::Array::New(info.Env(), results.size());
  for (uint32_t i = 0; i < results.size(); i++) {
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("writer", os::WriterName(results[i].writer));
    object.Set("available", results[i].available);
    if (!results[i].available) object.Set("reason", results[i].reason);
    array.Set(i, object);
  }
  return array;
}

// symbolAddress(name) → address, or undefined.
Napi::Value SymbolAddress(const Napi::CallbackInfo& info) {
  const void* symbol = os::FindSymbol(info[0].As<Napi::String>().Utf8Value().c_str());
  if (symbol == nullptr) return info.Env().Undefined();
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(symbol)));
}

// addressOf(view) → address of its first byte.
Napi::Value AddressOf(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(AddressOfView(info[0]))));
}

// endLoops(): before the process ends.
void EndLoops(const Napi::CallbackInfo&) { SharedArena::EndLoops(); }

// Where things stand in the mailbox and in an encoded reloc, so that only C++ knows the layout.
Napi::Object Layout(Napi::Env env) {
  Napi::Object layout = Napi::Object::New(env);
  layout.Set("mailboxBytes", Napi::Number::New(env, sizeof(Mailbox)));
  layout.Set("call", Napi::Number::New(env, offsetof(Mailbox, call)));
  layout.Set("callback", Napi::Number::New(env, offsetof(Mailbox, callback)));
  layout.Set("enteredExecutor", Napi::Number::New(env, offsetof(Mailbox, entered.executor)));
  layout.Set("enteredArena", Napi::Number::New(env, offsetof(Mailbox, entered.arena)));
  layout.Set("enteredOffset", Napi::Number::New(env, offsetof(Mailbox, entered.offset)));
  layout.Set("enteredContext", Napi::Number::New(env, offsetof(Mailbox, entered.context)));
  layout.Set("leftExecutor", Napi::Number::New(env, offsetof(Mailbox, left.executor)));
  layout.Set("leftExitCode", Napi::Number::New(env, offsetof(Mailbox, left.exit_code)));
  layout.Set("numbers", Napi::Number::New(env, offsetof(Mailbox, numbers)));
  layout.Set("frameBytes", Napi::Number::New(env, sizeof(arch::CallFrame)));
  layout.Set("frameIntegers", Napi::Number::New(env, offsetof(arch::CallFrame, integers)));
  layout.Set("frameFloats", Napi::Number::New(env, offsetof(arch::CallFrame, floats)));
  layout.Set("frameIntegerResult", Napi::Number::New(env, offsetof(arch::CallFrame, integer_result)));
  layout.Set("frameFloatResult", Napi::Number::New(env, offsetof(arch::CallFrame, float_result)));
  layout.Set("relocBytes", Napi::Number::New(env, sizeof(RelocSpec)));
  layout.Set("relocSection", Napi::Number::New(env, offsetof(RelocSpec, section)));
  layout.Set("relocKind", Napi::Number::New(env, offsetof(RelocSpec, kind)));
  layout.Set("relocTargetKind", Napi::Number::New(env, offsetof(RelocSpec, target_kind)));
  layout.Set("relocOffset", Napi::Number::New(env, offsetof(RelocSpec, offset)));
  layout.Set("relocTarget", Napi::Number::New(env, offsetof(RelocSpec, target)));
  layout.Set("relocAddend", Napi::Number::New(env, offsetof(RelocSpec, addend)));
  layout.Set("relocTargetSection", Napi::Number::New(env, offsetof(RelocSpec, target_section)));
  layout.Set("relocTargetOffset", Napi::Number::New(env, offsetof(RelocSpec, target_offset)));
  return layout;
}

// Positions in numbers[].
Napi::Object Positions(Napi::Env env) {
  Napi::Object positions = Napi::Object::New(env);
  positions.Set("id", Napi::Number::New(env, kId));
  positions.Set("sizes", Napi::Number::New(env, kCodeBytes));
  positions.Set("aligns", Napi::Number::New(env, kCodeAlign));
  positions.Set("movable", Napi::Number::New(env, kMovable));
  positions.Set("relocs", Napi::Number::New(env, kRelocs));
  positions.Set("evictable", Napi::Number::New(env, kEvictable));
  positions.Set("makesProgress", Napi::Number::New(env, kMakesProgress));
  positions.Set("exits", Napi::Number::New(env, kExits));
  return positions;
}

// What arenas and executors are unless somebody says otherwise: core's word.
Napi::Object Defaults(Napi::Env env) {
  const ArenaOptions options;
  const ExecutorSpec spec;
  Napi::Object defaults = Napi::Object::New(env);
  defaults.Set("maxBytes", Napi::Number::New(env, static_cast<double>(options.max_bytes)));
  defaults.Set("maxRetiredBytes", Napi::Number::New(env, static_cast<double>(options.max_retired_bytes)));
  defaults.Set("exitThreshold", Napi::Number::New(env, options.exit_threshold));
  defaults.Set("exitGrowth", Napi::Number::New(env, options.exit_growth));
  defaults.Set("maxChainDepth", Napi::Number::New(env, options.max_chain_depth));
  defaults.Set("align", Napi::Number::New(env, spec.aligns[0]));
  defaults.Set("dataAlign", Napi::Number::New(env, spec.aligns[1]));
  defaults.Set("stateAlign", Napi::Number::New(env, spec.aligns[2]));
  defaults.Set("exits", Napi::Number::New(env, spec.exit_count));
  defaults.Set("movable", Napi::Boolean::New(env, spec.movable));
  defaults.Set("makesProgress", Napi::Boolean::New(env, spec.makes_progress));
  return defaults;
}

Napi::Object Machine(Napi::Env env) {
  Napi::Object machine = Napi::Object::New(env);
  machine.Set("cpu", arch::kCpuName);
  machine.Set("pageBytes", Napi::Number::New(env, static_cast<double>(os::PageBytes())));
  machine.Set("granuleBytes", Napi::Number::New(env, kGranuleBytes));
  machine.Set("slabBytes", Napi::Number::New(env, static_cast<double>(kSlabBytes)));
  machine.Set("maxArenaBytes", Napi::Number::New(env, static_cast<double>(arch::kMaxArenaBytes)));
  return machine;
}

Napi::Object RelocKinds(Napi::Env env) {
  Napi::Object kinds = Napi::Object::New(env);
  size_t count = 0;
  const arch::KindInfo* infos = arch::Kinds(&count);
  for (size_t i = 0; i < count; i++) kinds.Set(infos[i].name, Napi::Number::New(env, infos[i].kind));
  return kinds;
}

// A function that takes memory, before there is an arena.
template <auto kFunction>
Napi::Value OrFail(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env())->OrFail([&] { return kFunction(info); });
}

// A function without node-addon-api around it, which costs more than a call of machine code.
Napi::Value PlainFunction(Napi::Env env, const char* name, napi_callback function) {
  napi_value made = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &made);
  return {env, made};
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  exports.Set("layout", Layout(env));
  exports.Set("positions", Positions(env));
  exports.Set("defaults", Defaults(env));
  exports.Set("machine", Machine(env));
  exports.Set("relocKinds", RelocKinds(env));
  exports.Set("setMailbox", Napi::Function::New<SetMailbox>(env));
  exports.Set("setRelocBuffer", Napi::Function::New<SetRelocBuffer>(env));
  exports.Set("lastError", Napi::Function::New<LastError>(env));
  exports.Set("probe", Napi::Function::New<OrFail<Probe>>(env));
  exports.Set("symbolAddress", Napi::Function::New<SymbolAddress>(env));
  exports.Set("addressOf", Napi::Function::New<AddressOf>(env));
  exports.Set("readObject", Napi::Function::New<OrFail<ReadLoadedObject>>(env));
  exports.Set("countsOfObject", Napi::Function::New<CountsOfObject>(env));
  exports.Set("askedOfObject", Napi::Function::New<AskedOfObject>(env));
  exports.Set("answerForObject", Napi::Function::New<AnswerForObject>(env));
  exports.Set("resolveObject", Napi::Function::New<OrFail<ResolveObject>>(env));
  exports.Set("symbolOfObject", Napi::Function::New<SymbolOfObject>(env));
  exports.Set("reasonOfObject", Napi::Function::New<ReasonOfObject>(env));
  exports.Set("findInObject", Napi::Function::New<OrFail<FindInObject>>(env));
  exports.Set("stencilsOfObject", Napi::Function::New<OrFail<StencilsOfObject>>(env));
  exports.Set("loadStencils", Napi::Function::New<OrFail<LoadStencils>>(env));
  exports.Set("saveStencils", Napi::Function::New<OrFail<SaveStencils>>(env));
  exports.Set("namesOfStencils", Napi::Function::New<OrFail<NamesOfStencils>>(env));
  exports.Set("describeStencil", Napi::Function::New<OrFail<DescribeStencil>>(env));
  exports.Set("partsOfStencil", Napi::Function::New<OrFail<PartsOfStencil>>(env));
  exports.Set("beginTrace", Napi::Function::New<OrFail<BeginTrace>>(env));
  exports.Set("emitStencil", Napi::Function::New<OrFail<EmitStencil>>(env));
  exports.Set("fillHole", Napi::Function::New<OrFail<FillHole>>(env));
  exports.Set("buildTrace", Napi::Function::New<OrFail<BuildTrace>>(env));
  exports.Set("createArena", Napi::Function::New<OrFail<CreateArena>>(env));
  exports.Set("openArena", Napi::Function::New<OrFail<OpenArena>>(env));
  exports.Set("call", PlainFunction(env, "call", Call));
  exports.Set("run", PlainFunction(env, "run", Run));
  exports.Set("endLoops", Napi::Function::New<EndLoops>(env));
  return exports;
}

NODE_API_MODULE(jit_arena, Init)

}  // namespace
}  // namespace jit_arena::node
