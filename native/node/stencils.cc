#include "node/stencils.h"

#include <algorithm>
#include <string>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "node/results.h"
#include "object/stencils.h"
#include "object/trace_builder.h"

namespace jit_arena::node {
namespace {

// In these functions an array has no memory when the worker is being terminated; nobody will see it.

const StencilSet& SetOf(const Napi::Value& handle) { return *handle.As<Napi::External<StencilSet>>().Data(); }
TraceBuilder& TraceOf(const Napi::Value& handle) { return *handle.As<Napi::External<TraceBuilder>>().Data(); }
const Stencil& StencilOf(const Napi::CallbackInfo& info) { return SetOf(info[0]).stencils()[Uint32Of(info[1])]; }

Napi::Value BytesOf(Napi::Env env, const std::vector<uint8_t>& bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, bytes.size());
  if (!array.IsEmpty()) std::copy(bytes.begin(), bytes.end(), array.Data());
  return array;
}

Napi::Value HandleOf(Napi::Env env, Result<StencilSet> made) {
  if (!made.ok()) return Environment::Of(env)->Fail(std::move(made.status()));
  return Napi::External<StencilSet>::New(env, new StencilSet(std::move(made.value())),
                                         [](Napi::Env, StencilSet* set) { delete set; });
}

Napi::Object ToJs(Napi::Env env, const StencilPart& part) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("section", SectionName(part.section));
  object.Set("align", ToNumber(env, part.align));
  object.Set("size", ToNumber(env, part.size));
  object.Set("bytes", BytesOf(env, part.bytes));
  return object;
}

Napi::Object ToJs(Napi::Env env, const TraceReloc& reloc) {
  const RelocSpec& spec = reloc.spec;
  Napi::Object object = Napi::Object::New(env);
  object.Set("section", SectionName(spec.section));
  object.Set("offset", ToNumber(env, spec.offset));
  object.Set("kind", arch::FindKind(spec.kind)->name);
  object.Set("addend", Napi::BigInt::New(env, spec.addend));
  if (reloc.host_target) {
    object.Set("target", ToNumber(env, *reloc.host_target));
    return object;
  }
  Napi::Object target = Napi::Object::New(env);
  if (spec.target_kind == TargetKind::kAddress) {
    target.Set("address", Napi::BigInt::New(env, spec.target));
  } else {
    target.Set("own", SectionName(static_cast<Section>(spec.target_kind)));
    target.Set("offset", ToNumber(env, spec.target));
  }
  object.Set("target", target);
  return object;
}

TraceBuilder::HostBytes HostBytesOf(const Napi::Value& given) {
  if (given.IsNumber()) return {nullptr, Uint32Of(given)};
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(given);
  // The size that TypeScript allows; what is larger fails as it is placed.
  return {bytes.data, static_cast<uint32_t>(std::min<size_t>(bytes.count, UINT32_MAX))};
}

}  // namespace

Napi::Value StencilsOfObject(const Napi::CallbackInfo& info) {
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  return HandleOf(info.Env(), StencilSet::FromObject(bytes.data, bytes.count));
}

Napi::Value LoadStencils(const Napi::CallbackInfo& info) {
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  return HandleOf(info.Env(), StencilSet::Load(bytes.data, bytes.count));
}

Napi::Value SaveStencils(const Napi::CallbackInfo& info) { return BytesOf(info.Env(), SetOf(info[0]).Save()); }

Napi::Value NamesOfStencils(const Napi::CallbackInfo& info) {
  const std::vector<Stencil>& stencils = SetOf(info[0]).stencils();
  Napi::Array names = Napi::Array::New(info.Env(), stencils.size());
  for (uint32_t i = 0; i < stencils.size(); i++) {
    Napi::HandleScope scope(info.Env());
    names.Set(i, stencils[i].name);
  }
  return names;
}

Napi::Value DescribeStencil(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const StencilSet& set = SetOf(info[0]);
  const Stencil& stencil = StencilOf(info);
  Napi::Array holes = Napi::Array::New(env, stencil.holes.size());
  for (uint32_t i = 0; i < stencil.holes.size(); i++) holes.Set(i, set.holes()[stencil.holes[i]]);
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", stencil.name);
  object.Set("holes", holes);
  object.Set("codeBytes", ToNumber(env, set.parts()[stencil.body].size));
  object.Set("jumpBytes", ToNumber(env, stencil.jump_bytes));
  return object;
}

Napi::Value PartsOfStencil(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const StencilSet& set = SetOf(info[0]);
  const Stencil& stencil = StencilOf(info);
  auto list = [&](const std::vector<uint32_t>& parts) {
    Napi::Array array = Napi::Array::New(env, parts.size());
    for (uint32_t i = 0; i < parts.size(); i++) array.Set(i, ToJs(env, set.parts()[parts[i]]));
    return array;
  };
  Napi::Object object = Napi::Object::New(env);
  object.Set("body", ToJs(env, set.parts()[stencil.body]));
  object.Set("shared", list(stencil.shared));
  object.Set("own", list(stencil.own));
  return object;
}

Napi::Value BeginTrace(const Napi::CallbackInfo& info) {
  return Napi::External<TraceBuilder>::New(info.Env(), new TraceBuilder,
                                           [](Napi::Env, TraceBuilder* trace) { delete trace; });
}

Napi::Value EmitStencil(const Napi::CallbackInfo& info) {
  TraceOf(info[0]).Emit(SetOf(info[1]), Uint32Of(info[2]));
  return info.Env().Undefined();
}

Napi::Value FillHole(const Napi::CallbackInfo& info) {
  std::string what = info[2].As<Napi::String>().Utf8Value();
  HoleFilling filling;
  filling.kind = what == "emit"     ? HoleFilling::Kind::kEmit
                 : what == "number" ? HoleFilling::Kind::kNumber
                                    : HoleFilling::Kind::kTarget;
  bool lossless = false;
  filling.value = info[3].As<Napi::BigInt>().Uint64Value(&lossless);
  TraceOf(info[0]).Fill(Uint32Of(info[1]), filling);
  return info.Env().Undefined();
}

Napi::Value BuildTrace(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Result<BuiltTrace> made = TraceOf(info[0]).Build(HostBytesOf(info[1]), HostBytesOf(info[2]));
  if (!made.ok()) return Environment::Of(env)->Fail(std::move(made.status()));
  const BuiltTrace& trace = made.value();
  Napi::Object object = Napi::Object::New(env);
  Napi::Array aligns = Napi::Array::New(env, kSections);
  for (int in = 0; in < kSections; in++) {
    bool zero = in != 0 && trace.bytes[in].empty();
    object.Set(SectionName(static_cast<Section>(in)),
               zero ? Napi::Value(ToNumber(env, trace.sizes[in])) : BytesOf(env, trace.bytes[in]));
    aligns.Set(static_cast<uint32_t>(in), ToNumber(env, trace.aligns[in]));
  }
  object.Set("aligns", aligns);
  Napi::Array relocs = Napi::Array::New(env, trace.relocs.size());
  for (uint32_t i = 0; i < trace.relocs.size(); i++) {
    Napi::HandleScope scope(env);
    relocs.Set(i, ToJs(env, trace.relocs[i]));
  }
  object.Set("relocs", relocs);
  Napi::Uint32Array bodies = Napi::Uint32Array::New(env, trace.bodies.size());
  if (!bodies.IsEmpty()) std::copy(trace.bodies.begin(), trace.bodies.end(), bodies.Data());
  object.Set("bodies", bodies);
  Napi::Object statistics = Napi::Object::New(env);
  statistics.Set("codeBytes", ToNumber(env, trace.sizes[0]));
  statistics.Set("dataBytes", ToNumber(env, trace.sizes[1]));
  statistics.Set("stateBytes", ToNumber(env, trace.sizes[2]));
  statistics.Set("zeroBytes", ToNumber(env, trace.zero_bytes));
  statistics.Set("elidedBytes", ToNumber(env, trace.elided_bytes));
  object.Set("statistics", statistics);
  return object;
}

}  // namespace jit_arena::node
