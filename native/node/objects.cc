#include "node/objects.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "node/arena_handle.h"
#include "node/elements.h"
#include "object/object_file.h"
#include "object/object_limits.h"
#include "object/object_units.h"

namespace jit_arena::node {
namespace {

// Units, symbols and relocs are columns, since an object has many. ts/object-units.ts names the same positions.
enum UnitField : size_t {
  kUnitSizes,                            // of its sections
  kUnitAligns = kUnitSizes + kSections,  // of its sections
  kUnitBytes = kUnitAligns + kSections,  // that its sections begin with: the rest is zero
  kUnitEntries = kUnitBytes + kSections,
  kUnitRelocs,
  kUnitMovable,
  kUnitFields
};
enum ExportField : size_t {
  kExportUnit,
  kExportSection,
  kExportOffset,
  kExportBytes,
  kExportEntry,  // -1 unless it is a function
  kExportWeak,
  kExportFields
};
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
// Those of stencils: ts/stencils.ts.
enum PartRelocField : size_t { kPartRelocOffset, kPartRelocKind, kPartRelocSymbol, kPartRelocFields };
enum AskedFlag : uint8_t { kAskedWeak = 1, kAskedDefined = 2 };

// In these functions an array has no memory when the worker is being terminated; nobody will see it.

Napi::Number NumberOf(Napi::Env env, uint64_t value) { return Napi::Number::New(env, static_cast<double>(value)); }

// Many texts as one: their bytes, and where each ends. JavaScript decodes those that it is asked for.
template <class TextOf>
Napi::Object TextsOf(Napi::Env env, size_t count, TextOf text_of) {
  size_t total = 0;
  for (size_t i = 0; i < count; i++) total += text_of(i).size();
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, total);
  Napi::Float64Array ends = Napi::Float64Array::New(env, count);
  if (bytes.IsEmpty() || ends.IsEmpty()) return Napi::Object();
  size_t end = 0;
  for (size_t i = 0; i < count; i++) {
    std::string_view text = text_of(i);
    std::copy(text.begin(), text.end(), bytes.Data() + end);
    end += text.size();
    ends[i] = static_cast<double>(end);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytes", bytes);
  object.Set("ends", ends);
  return object;
}

Napi::Object RelocsOf(Napi::Env env, const std::vector<ObjectUnit>& units) {
  size_t count = 0;
  for (const ObjectUnit& unit : units) count += unit.relocs.size();
  Napi::Int32Array fields = Napi::Int32Array::New(env, count * kRelocFields);
  Napi::BigUint64Array targets = Napi::BigUint64Array::New(env, count);
  Napi::BigInt64Array addends = Napi::BigInt64Array::New(env, count);
  if (fields.IsEmpty() || targets.IsEmpty() || addends.IsEmpty()) return Napi::Object();
  size_t i = 0;
  for (const ObjectUnit& unit : units) {
    for (const UnitReloc& reloc : unit.relocs) {
      const RelocSpec& spec = reloc.spec;
      int32_t* field = fields.Data() + i * kRelocFields;
      field[kFieldSection] = static_cast<int32_t>(spec.section);
      field[kFieldKind] = spec.kind;
      field[kFieldTargetKind] = static_cast<int32_t>(spec.target_kind);
      // Offsets are below kMaxObjectBytes, and so is the number of symbols.
      field[kFieldOffset] = static_cast<int32_t>(spec.offset);
      field[kFieldTargetSection] = static_cast<int32_t>(spec.target_section);
      field[kFieldTargetOffset] = static_cast<int32_t>(spec.target_offset);
      field[kFieldAsked] = static_cast<int32_t>(reloc.asked);
      field[kFieldTakesAddress] = reloc.takes_address;
      targets[i] = spec.target;
      addends[i] = spec.addend;
      i++;
    }
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("fields", fields);
  object.Set("targets", targets);
  object.Set("addends", addends);
  return object;
}

// The units' sections and entries one behind the other, and what each unit has of them.
void SetUnits(Napi::Env env, const std::vector<ObjectUnit>& units, Napi::Object object) {
  size_t total = 0, entry_count = 0;
  for (const ObjectUnit& unit : units) {
    for (const std::vector<uint8_t>& bytes : unit.bytes) total += bytes.size();
    entry_count += unit.entries.size();
  }
  Napi::Float64Array fields = Napi::Float64Array::New(env, units.size() * kUnitFields);
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, total);
  Napi::Uint32Array entries = Napi::Uint32Array::New(env, entry_count);
  if (fields.IsEmpty() || bytes.IsEmpty() || entries.IsEmpty()) return;
  uint8_t* next_byte = bytes.Data();
  uint32_t* next_entry = entries.Data();
  double* field = fields.Data();
  for (const ObjectUnit& unit : units) {
    for (uint32_t i = 0; i < kSections; i++) {
      field[kUnitSizes + i] = unit.sizes[i];
      field[kUnitAligns + i] = unit.aligns[i];
      field[kUnitBytes + i] = static_cast<double>(unit.bytes[i].size());
      next_byte = std::copy(unit.bytes[i].begin(), unit.bytes[i].end(), next_byte);
    }
    field[kUnitEntries] = static_cast<double>(unit.entries.size());
    field[kUnitRelocs] = static_cast<double>(unit.relocs.size());
    field[kUnitMovable] = unit.movable;
    next_entry = std::copy(unit.entries.begin(), unit.entries.end(), next_entry);
    field += kUnitFields;
  }
  object.Set("units", fields);
  object.Set("unitNames", TextsOf(env, units.size(), [&](size_t i) { return units[i].name; }));
  object.Set("bytes", bytes);
  object.Set("entries", entries);
  object.Set("relocs", RelocsOf(env, units));
}

void SetExports(Napi::Env env, const std::vector<ObjectExport>& exports, Napi::Object object) {
  Napi::Float64Array fields = Napi::Float64Array::New(env, exports.size() * kExportFields);
  if (fields.IsEmpty()) return;
  double* field = fields.Data();
  for (const ObjectExport& exported : exports) {
    field[kExportUnit] = exported.unit;
    field[kExportSection] = static_cast<double>(exported.section);
    field[kExportOffset] = exported.offset;
    field[kExportBytes] = static_cast<double>(exported.size);
    field[kExportEntry] = exported.entry == kNoIndex ? -1 : static_cast<double>(exported.entry);
    field[kExportWeak] = exported.weak;
    field += kExportFields;
  }
  object.Set("exports", fields);
  object.Set("exportNames", TextsOf(env, exports.size(), [&](size_t i) { return exports[i].name; }));
}

void SetAsked(Napi::Env env, const std::vector<AskedSymbol>& asked, Napi::Object object) {
  Napi::Uint8Array flags = Napi::Uint8Array::New(env, asked.size());
  if (flags.IsEmpty()) return;
  for (size_t i = 0; i < asked.size(); i++)
    flags[i] = static_cast<uint8_t>((asked[i].weak ? kAskedWeak : 0) | (asked[i].defined ? kAskedDefined : 0));
  object.Set("asked", flags);
  object.Set("askedNames", TextsOf(env, asked.size(), [&](size_t i) { return asked[i].name; }));
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
  SetUnits(env, units.units, object);
  SetExports(env, units.exports, object);
  SetAsked(env, units.asked, object);
  object.Set("reasons",
             TextsOf(env, units.reasons.size(), [&](size_t i) { return std::string_view(units.reasons[i].text); }));
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
