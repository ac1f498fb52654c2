#include "node/objects.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "object/loaded_object.h"
#include "object/object_file.h"
#include "object/object_limits.h"

namespace jit_arena::node {
namespace {

// Those of stencils: ts/stencils.ts.
enum PartRelocField : size_t { kPartRelocOffset, kPartRelocKind, kPartRelocSymbol, kPartRelocFields };
// In these functions an array has no memory when the worker is being terminated; nobody will see it.

Napi::Number NumberOf(Napi::Env env, uint64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

Napi::String TextOf(Napi::Env env, std::string_view text) { return Napi::String::New(env, text.data(), text.size()); }

const LoadedObject& ObjectOf(const Napi::Value& handle) { return *handle.As<Napi::External<LoadedObject>>().Data(); }

const char* RoleName(ObjectRole role) {
  return role == ObjectRole::kCode ? "code" : role == ObjectRole::kData ? "data" : "state";
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
  counts.Set("symbols", NumberOf(env, object.symbol_count()));
  counts.Set("asked", NumberOf(env, object.asked().size()));
  counts.Set("reasons", NumberOf(env, object.reasons().size()));
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
  object.Set("bytes", NumberOf(env, defined != nullptr ? defined->size : 0));
  object.Set("weak", symbol.weak);
  if (defined != nullptr) object.Set("executor", NumberOf(env, defined->unit));
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
  place.Set("executor", NumberOf(env, defined.unit));
  place.Set("section", SectionName(defined.section));
  place.Set("offset", NumberOf(env, defined.offset));
  if (defined.entry != kNoIndex) place.Set("entry", NumberOf(env, defined.entry));
  return place;
}

Result<Napi::Value> InstallObject(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  const LoadedObject& object = ObjectOf(info[0]);
  ObjectInstall how;
  if (info[1].IsBoolean()) how.movable = info[1].As<Napi::Boolean>().Value();
  std::string name;
  if (info[2].IsString()) how.name = name = info[2].As<Napi::String>().Utf8Value();
  std::vector<ExecutorId> ids(object.executor_count());
  if (Status failed = object.Install(*handle.arena, how, ids.data(), handle.pin)) return failed;
  Napi::Float64Array array = Napi::Float64Array::New(info.Env(), ids.size());
  if (array.IsEmpty()) return Napi::Value();  // the worker is being terminated
  for (size_t i = 0; i < ids.size(); i++) array[i] = static_cast<double>(ids[i]);
  return Napi::Value(array);
}

Napi::Value ReadSections(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Environment* environment = Environment::Of(env);
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  // A stencil is put together from parts, and which of them a base would lie in, nobody says.
  Result<ObjectFile> read = ReadObject(bytes.data, bytes.count, GotKinds::kRefused);
  if (!read.ok()) return environment->Fail(std::move(read.status()));
  const ObjectFile& file = read.value();
  if (Status failed = CheckNeeds(file, 0)) return environment->Fail(std::move(failed));

  size_t total = 0;
  for (const ObjectSection& section : file.sections)
    if (section.bytes != nullptr) total += section.size;
  Napi::Uint8Array all_bytes = Napi::Uint8Array::New(env, total);
  Napi::Uint32Array reloc_fields = Napi::Uint32Array::New(env, file.relocs.size() * kPartRelocFields);
  Napi::BigInt64Array addends = Napi::BigInt64Array::New(env, file.relocs.size());
  if (all_bytes.IsEmpty() || reloc_fields.IsEmpty() || addends.IsEmpty()) return Napi::Object();
  uint8_t* next_byte = all_bytes.Data();
  size_t next_reloc = 0;
  Napi::Array sections = Napi::Array::New(env);
  for (uint32_t i = 0; i < file.sections.size(); i++) {
    const ObjectSection& section = file.sections[i];
    if (section.role == ObjectRole::kIgnored) continue;
    Napi::Object item = Napi::Object::New(env);
    item.Set("index", NumberOf(env, i));
    item.Set("section", RoleName(section.role));
    item.Set("size", NumberOf(env, section.size));
    item.Set("align", NumberOf(env, section.align));
    size_t byte_count = section.bytes != nullptr ? section.size : 0;
    next_byte = std::copy(section.bytes, section.bytes + byte_count, next_byte);
    item.Set("bytes", NumberOf(env, byte_count));
    item.Set("relocs", NumberOf(env, section.reloc_count));
    for (uint32_t n = 0; n < section.reloc_count; n++) {
      const ObjectReloc& reloc = file.relocs[section.first_reloc + n];
      uint32_t* field = reloc_fields.Data() + next_reloc * kPartRelocFields;
      field[kPartRelocOffset] = reloc.offset;
      field[kPartRelocKind] = reloc.kind;
      field[kPartRelocSymbol] = reloc.symbol;
      addends[next_reloc++] = reloc.addend;
    }
    sections.Set(sections.Length(), item);
  }
  Napi::Array symbols = Napi::Array::New(env, file.symbols.size());
  for (uint32_t i = 0; i < file.symbols.size(); i++) {
    const ObjectSymbol& symbol = file.symbols[i];
    Napi::Object item = Napi::Object::New(env);
    bool undefined = symbol.place == ObjectSymbol::Place::kUndefined && i != 0;
    item.Set("name", std::string(symbol.global || undefined ? symbol.name : std::string_view()));
    item.Set("section", NumberOf(env, symbol.place == ObjectSymbol::Place::kSection ? symbol.section : 0));
    item.Set("value", Napi::BigInt::New(env, symbol.value));
    item.Set("global", symbol.global);
    item.Set("undefined", undefined);
    symbols.Set(i, item);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("sections", sections);
  object.Set("bytes", all_bytes);
  object.Set("relocs", reloc_fields);
  object.Set("addends", addends);
  object.Set("symbols", symbols);
  return object;
}

}  // namespace jit_arena::node
