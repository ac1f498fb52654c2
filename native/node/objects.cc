#include "node/objects.h"

#include <algorithm>
#include <cstring>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "object/object_file.h"
#include "object/object_units.h"

namespace jit_arena::node {
namespace {

// Relocs as columns, since an object has many. ts/objects.ts names the same positions.
enum RelocField : size_t {
  kFieldSection,
  kFieldKind,
  kFieldTargetKind,
  kFieldOffset,
  kFieldTargetSection,
  kFieldTargetOffset,
  kFieldAsked,
  kFieldTakesAddress,
  kRelocFields
};

// In these functions an array has no memory when the worker is being terminated; nobody will see it.

Napi::Uint8Array CopyOf(Napi::Env env, const uint8_t* bytes, size_t count) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, count);
  if (count != 0 && !array.IsEmpty()) std::memcpy(array.Data(), bytes, count);
  return array;
}

Napi::Number NumberOf(Napi::Env env, uint64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

Napi::Value IndexOrNone(Napi::Env env, uint32_t index) {
  return index == kNoIndex ? Napi::Number::New(env, -1) : NumberOf(env, index);
}

Napi::Object RelocsOf(Napi::Env env, const std::vector<UnitReloc>& relocs) {
  Napi::Int32Array fields = Napi::Int32Array::New(env, relocs.size() * kRelocFields);
  Napi::BigUint64Array targets = Napi::BigUint64Array::New(env, relocs.size());
  Napi::BigInt64Array addends = Napi::BigInt64Array::New(env, relocs.size());
  if (fields.IsEmpty() || targets.IsEmpty() || addends.IsEmpty()) return Napi::Object();
  for (size_t i = 0; i < relocs.size(); i++) {
    const RelocSpec& spec = relocs[i].spec;
    int32_t* field = fields.Data() + i * kRelocFields;
    field[kFieldSection] = static_cast<int32_t>(spec.section);
    field[kFieldKind] = spec.kind;
    field[kFieldTargetKind] = static_cast<int32_t>(spec.target_kind);
    // Offsets are below kMaxObjectBytes, and so is the number of symbols.
    field[kFieldOffset] = static_cast<int32_t>(spec.offset);
    field[kFieldTargetSection] = static_cast<int32_t>(spec.target_section);
    field[kFieldTargetOffset] = static_cast<int32_t>(spec.target_offset);
    field[kFieldAsked] = static_cast<int32_t>(relocs[i].asked);
    field[kFieldTakesAddress] = relocs[i].takes_address;
    targets[i] = spec.target;
    addends[i] = spec.addend;
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("fields", fields);
  object.Set("targets", targets);
  object.Set("addends", addends);
  return object;
}

Napi::Object UnitOf(Napi::Env env, const ObjectUnit& unit) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", unit.name);
  object.Set("movable", unit.movable);
  Napi::Array bytes = Napi::Array::New(env, kSections);
  Napi::Array sizes = Napi::Array::New(env, kSections);
  Napi::Array aligns = Napi::Array::New(env, kSections);
  for (uint32_t i = 0; i < kSections; i++) {
    bytes.Set(i, CopyOf(env, unit.bytes[i].data(), unit.bytes[i].size()));
    sizes.Set(i, NumberOf(env, unit.sizes[i]));
    aligns.Set(i, NumberOf(env, unit.aligns[i]));
  }
  object.Set("bytes", bytes);
  object.Set("sizes", sizes);
  object.Set("aligns", aligns);
  Napi::Uint32Array entries = Napi::Uint32Array::New(env, unit.entries.size());
  if (!entries.IsEmpty()) std::copy(unit.entries.begin(), unit.entries.end(), entries.Data());
  object.Set("entries", entries);
  object.Set("relocs", RelocsOf(env, unit.relocs));
  return object;
}

const char* RoleName(ObjectRole role) {
  return role == ObjectRole::kCode ? "code" : role == ObjectRole::kData ? "data" : "state";
}

}  // namespace

Napi::Value ReadUnits(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Environment* environment = Environment::Of(env);
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  Result<ObjectFile> file = ReadObject(bytes.data, bytes.count, GotKinds::kReplaced);
  if (!file.ok()) return environment->Fail(std::move(file.status()));
  Result<ObjectUnits> made = MakeUnits(file.value());
  if (!made.ok()) return environment->Fail(std::move(made.status()));
  const ObjectUnits& units = made.value();

  Napi::Object object = Napi::Object::New(env);
  Napi::Array array = Napi::Array::New(env, units.units.size());
  for (uint32_t i = 0; i < units.units.size(); i++) array.Set(i, UnitOf(env, units.units[i]));
  object.Set("units", array);
  array = Napi::Array::New(env, units.exports.size());
  for (uint32_t i = 0; i < units.exports.size(); i++) {
    const ObjectExport& exported = units.exports[i];
    Napi::Object item = Napi::Object::New(env);
    item.Set("name", exported.name);
    item.Set("unit", NumberOf(env, exported.unit));
    item.Set("section", SectionName(exported.section));
    item.Set("offset", NumberOf(env, exported.offset));
    item.Set("bytes", NumberOf(env, exported.size));
    item.Set("entry", IndexOrNone(env, exported.entry));
    item.Set("weak", exported.weak);
    array.Set(i, item);
  }
  object.Set("exports", array);
  array = Napi::Array::New(env, units.asked.size());
  for (uint32_t i = 0; i < units.asked.size(); i++) {
    Napi::Object item = Napi::Object::New(env);
    item.Set("name", units.asked[i].name);
    item.Set("weak", units.asked[i].weak);
    item.Set("defined", units.asked[i].defined);
    array.Set(i, item);
  }
  object.Set("asked", array);
  array = Napi::Array::New(env, units.reasons.size());
  for (uint32_t i = 0; i < units.reasons.size(); i++) array.Set(i, units.reasons[i].text);
  object.Set("reasons", array);
  return object;
}

Napi::Value ReadSections(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Environment* environment = Environment::Of(env);
  Elements<uint8_t> bytes = ElementsOf<uint8_t>(info[0]);
  // A stencil is put together from parts, and which of them a base would lie in, nobody says.
  Result<ObjectFile> read = ReadObject(bytes.data, bytes.count, GotKinds::kRefused);
  if (!read.ok()) return environment->Fail(std::move(read.status()));
  const ObjectFile& file = read.value();

  Napi::Array sections = Napi::Array::New(env);
  for (uint32_t i = 0; i < file.sections.size(); i++) {
    const ObjectSection& section = file.sections[i];
    if (section.role == ObjectRole::kIgnored) continue;
    Napi::Object item = Napi::Object::New(env);
    item.Set("index", NumberOf(env, i));
    item.Set("name", std::string(section.name));
    item.Set("section", RoleName(section.role));
    item.Set("size", NumberOf(env, section.size));
    item.Set("align", NumberOf(env, section.align));
    item.Set("bytes", CopyOf(env, section.bytes, section.bytes != nullptr ? section.size : 0));
    Napi::Array relocs = Napi::Array::New(env, section.reloc_count);
    for (uint32_t n = 0; n < section.reloc_count; n++) {
      const ObjectReloc& reloc = file.relocs[section.first_reloc + n];
      Napi::Object made = Napi::Object::New(env);
      made.Set("offset", NumberOf(env, reloc.offset));
      made.Set("kind", arch::FindKind(reloc.kind)->name);
      made.Set("symbol", NumberOf(env, reloc.symbol));
      made.Set("addend", Napi::BigInt::New(env, reloc.addend));
      relocs.Set(n, made);
    }
    item.Set("relocs", relocs);
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
  object.Set("symbols", symbols);
  return object;
}

}  // namespace jit_arena::node
