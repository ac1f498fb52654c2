#include "object/loaded_object.h"

#include <algorithm>

#include "base/bits.h"
#include "object/object_escapes.h"
#include "os/memory.h"
#include "os/unwinder.h"

namespace jit_arena {

Result<std::unique_ptr<LoadedObject>> LoadedObject::Read(const uint8_t* bytes, size_t size) {
  Result<ObjectFile> file = ReadObject(bytes, size, ReadFor::kExecutors);
  if (!file.ok()) return std::move(file.status());
  Result<ObjectUnits> units = MakeUnits(file.value());
  if (!units.ok()) return std::move(units.status());
  return std::unique_ptr<LoadedObject>(new LoadedObject(std::move(units.value())));
}

LoadedObject::LoadedObject(ObjectUnits units) : units_(std::move(units)), answers_(units_.asked.size()) {
  KeepNames();
  by_name_.resize(units_.exports.size());
  for (uint32_t i = 0; i < by_name_.size(); i++) by_name_[i] = i;
  std::sort(by_name_.begin(), by_name_.end(),
            [&](uint32_t a, uint32_t b) { return units_.exports[a].name < units_.exports[b].name; });
  for (uint32_t i = 0; i < units_.asked.size(); i++)
    if (!units_.asked[i].defined) needed_.push_back(i);
}

// The names are views of the object's bytes, which the caller keeps no longer.
void LoadedObject::KeepNames() {
  auto for_each = [&](auto visit) {
    for (ObjectUnit& unit : units_.units) visit(unit.name);
    for (ObjectExport& exported : units_.exports) visit(exported.name);
    for (AskedSymbol& asked : units_.asked) visit(asked.name);
    for (IfuncPlace& ifunc : units_.ifuncs) visit(ifunc.name);
    visit(units_.compared_by_address);
  };
  size_t bytes = 0;
  for_each([&](std::string_view& name) { bytes += name.size() + 1; });
  names_.reserve(bytes);
  for_each([&](std::string_view& name) {
    size_t at = names_.size();
    names_.append(name).push_back(0);
    name = std::string_view(names_).substr(at, name.size());
  });
}

size_t LoadedObject::kept_bytes() const {
  size_t bytes = names_.size() + symbol_count() * sizeof(ObjectExport) + answers_.size() * sizeof(Answered);
  for (const ObjectUnit& unit : units_.units) {
    bytes += sizeof unit + unit.relocs.size() * sizeof(UnitReloc);
    for (const std::vector<uint8_t>& section : unit.bytes) bytes += section.size();
    bytes += unit.frames.bytes.size();
  }
  for (const ImmovableReason& reason : units_.reasons) bytes += sizeof reason + reason.text.size();
  return bytes;
}

void LoadedObject::Answer(uint32_t asked, const SymbolTarget& target) { answers_[asked] = {true, target}; }

Status LoadedObject::Resolve() {
  for (uint32_t i : needed_) {
    const AskedSymbol& asked = units_.asked[i];
    if (answers_[i].given) continue;
    if (asked.name == "__cxa_atexit") {
      registers_calls_ = true;
      Answer(i, {TargetKind::kAddress, reinterpret_cast<uintptr_t>(&RegisterInstallExit)});
      continue;
    }
    const void* found = os::FindSymbol(asked.name.data());
    if (found == nullptr && !asked.weak)
      return Error{ErrorCode::kSymbol, "the object needs the symbol '" + std::string(asked.name) +
                                           "', which neither resolve() nor the process has"};
    Answer(i, {TargetKind::kAddress, reinterpret_cast<uintptr_t>(found)});
  }
  return MakeFrames();
}

// A table has no address of the arena but those of the unit's own code and data, so that every install shares it.
Status LoadedObject::MakeFrames() {
  auto has_frames = [](const ObjectUnit& unit) { return !unit.frames.bytes.empty(); };
  if (std::none_of(units_.units.begin(), units_.units.end(), has_frames)) return Status::Ok();
  if (!os::FindUnwinder()) {
    if (!units_.needs_unwinder) return Status::Ok();
    return Error{ErrorCode::kObjectUnsupported,
                 "the object throws or handles exceptions, and the process has no unwinder that can be told of it: "
                 "compile with -fno-exceptions"};
  }
  frames_.resize(units_.units.size());
  for (size_t i = 0; i < frames_.size(); i++) {
    ObjectUnit& unit = units_.units[i];
    if (!has_frames(unit)) continue;
    for (const ObjectUnit::AskedOfFrames& asks : unit.frames_ask) {
      const SymbolTarget& target = answers_[asks.asked].target;
      if (target.kind != TargetKind::kAddress)
        return Error{ErrorCode::kObjectUnsupported, "'" + std::string(units_.asked[asks.asked].name) +
                                                        "' handles exceptions for the object: resolve() has to answer "
                                                        "with an address outside of the arena"};
      if (target.target == 0)  // a weak one: without it the handlers would be passed over
        return Error{ErrorCode::kSymbol, "'" + std::string(units_.asked[asks.asked].name) +
                                             "' handles exceptions for the object, and nobody has it"};
      StoreAs<uint64_t>(unit.frames.bytes.data() + asks.at, target.target + static_cast<uint64_t>(asks.addend));
    }
    frames_[i] = std::make_shared<const FrameTable>(std::move(unit.frames));
  }
  return Status::Ok();
}

LoadedSymbol LoadedObject::Symbol(size_t i) const {
  if (i < units_.exports.size()) return {units_.exports[i].name, units_.exports[i].weak, &units_.exports[i]};
  const AskedSymbol& asked = units_.asked[needed_[i - units_.exports.size()]];
  return {asked.name, asked.weak, nullptr};
}

Result<const ObjectExport*> LoadedObject::Find(std::string_view name) const {
  auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                [&](uint32_t i, std::string_view sought) { return units_.exports[i].name < sought; });
  if (found != by_name_.end() && units_.exports[*found].name == name) return &units_.exports[*found];
  constexpr size_t kShown = 20;
  std::string known;
  for (size_t i = 0; i < units_.exports.size() && i < kShown; i++)
    known.append(i == 0 ? "" : ", ").append(units_.exports[i].name);
  return Error{ErrorCode::kSymbol, "the object defines no global symbol '" + std::string(name) + "', but " +
                                       (known.empty() ? "no global symbols" : known)};
}

// That an executor whose address is taken, and could be kept, never moves.
Status LoadedObject::CheckStays(uint32_t asked, Arena& arena) const {
  ExecutorId id = answers_[asked].target.target;
  Result<ExecutorInfo> described = arena.Describe(id);
  if (!described.ok()) return std::move(described.status());
  if (!described.value().movable) return Status::Ok();
  return ExecutorError(
      ErrorCode::kMovable, id,
      "the object takes the address of '" + std::string(units_.asked[asked].name) + "', which is in executor " +
          std::to_string(id) +
          ", and that can move: install it with movable: false, or this object with movable: true, which promises that "
          "it keeps no address longer than a call");
}

Status LoadedObject::SpecOf(const UnitReloc& reloc, Arena& arena, bool promised, std::vector<bool>& stays,
                            RelocSpec* spec) const {
  *spec = reloc.spec;
  if (reloc.asked == kNoIndex || !answers_[reloc.asked].given) return Status::Ok();
  const SymbolTarget& target = answers_[reloc.asked].target;
  spec->target_kind = target.kind;
  spec->target = target.target;
  spec->target_section = target.section;
  spec->target_offset = target.offset;
  if (target.kind != TargetKind::kExecutor || !reloc.takes_address || promised || stays[reloc.asked])
    return Status::Ok();
  stays[reloc.asked] = true;
  return CheckStays(reloc.asked, arena);
}

Status LoadedObject::Install(Arena& arena, const ObjectInstall& how, ExecutorId* ids, const PinSlot* self) const {
  if (Status failed = CheckCalls(how)) return failed;
  size_t reloc_count = 0;
  for (const ObjectUnit& unit : units_.units) reloc_count += unit.relocs.size();
  std::vector<RelocSpec> relocs(reloc_count);
  RelocSpec* next = relocs.data();
  std::vector<ExecutorSpec> specs(units_.units.size());
  std::vector<bool> stays(answers_.size());  // seen to once
  InstallExits exits;
  if (units_.dso_handle) exits = BeginInstallExits();
  for (size_t i = 0; i < specs.size(); i++) {
    const ObjectUnit& unit = units_.units[i];
    ExecutorSpec& spec = specs[i];
    for (int section = 0; section < kSections; section++) {
      const std::vector<uint8_t>& bytes = unit.bytes[section];
      spec.bytes[section] = bytes.empty() ? nullptr : bytes.data();
      spec.sizes[section] = unit.sizes[section];
      spec.zero_tails[section] = unit.sizes[section] - static_cast<uint32_t>(bytes.size());
      spec.aligns[section] = unit.aligns[section];
    }
    spec.relocs = next;
    spec.reloc_count = static_cast<uint32_t>(unit.relocs.size());
    for (const UnitReloc& reloc : unit.relocs)
      if (Status failed = SpecOf(reloc, arena, how.movable == true, stays, next++)) return failed;
    spec.movable = how.movable.value_or(unit.movable);
    spec.name = how.name.value_or(unit.name);
    spec.entries = unit.entries.data();
    spec.entry_count = static_cast<uint32_t>(unit.entries.size());
    spec.keeps = exits.list;
    if (!frames_.empty()) spec.frames = frames_[i];
  }
  if (Status failed = arena.Install(specs.data(), static_cast<uint32_t>(specs.size()), ids, self)) return failed;
  if (!units_.dso_handle) return Status::Ok();
  // From here on there is something to undo.
  Status failed = OrOutOfMemory([&] {
    return arena.Write(ids[units_.dso_handle->unit], Section::kState, units_.dso_handle->offset,
                       reinterpret_cast<const uint8_t*>(&exits.number), sizeof exits.number);
  });
  if (failed.ok()) return failed;
  arena.Free(ids, static_cast<uint32_t>(specs.size()), self).Ignore();  // the first failure is told
  return failed;
}

Status LoadedObject::CheckCalls(const ObjectInstall& how) const {
  if (!how.constructors && (!units_.constructors.empty() || !units_.destructors.empty()))
    return Error{ErrorCode::kObjectUnsupported,
                 "the object has constructors or destructors, which nobody would run: install it with constructors: "
                 "'run' (in C JA_YES), or export a function and call it"};
  if (how.movable == true && registers_calls_)
    return Error{ErrorCode::kMovable,
                 "the object registers destructors with __cxa_atexit, and so keeps addresses that outlive a call: it "
                 "cannot be promised to be movable"};
  if (how.movable == true && !units_.compared_by_address.empty())
    return Error{
        ErrorCode::kMovable,
        Format("'%s' is the name of a type that is compared by its address, which is another in each copy: the "
               "object cannot be promised to be movable unless the type gets out of its anonymous namespace",
               Shown(units_.compared_by_address).c_str())};
  if (how.movable == true && !units_.ifuncs.empty())
    return Error{ErrorCode::kMovable,
                 "the object has an IFUNC, whose resolver gives an address that is kept: it cannot be promised to be "
                 "movable"};
  return Status::Ok();
}

// Of the install with these ids; 0, which no install has, when the object has none or the executors are gone.
uint64_t LoadedObject::InstallNumber(Arena& arena, const ExecutorId* ids) const {
  uint64_t number = 0;
  if (!units_.dso_handle) return number;
  Status failed = arena.Read(ids[units_.dso_handle->unit], Section::kState, units_.dso_handle->offset,
                             reinterpret_cast<uint8_t*>(&number), sizeof number);
  return failed.ok() ? number : 0;
}

Status LoadedObject::Free(Arena& arena, const ExecutorId* ids, const PinSlot* self) const {
  uint64_t number = InstallNumber(arena, ids);
  if (Status failed = arena.Free(ids, static_cast<uint32_t>(executor_count()), self)) return failed;
  EndInstallExits(number);
  return Status::Ok();
}

uint64_t LoadedObject::AddressOf(const CalledEntry& called, Arena& arena, const ExecutorId* ids) const {
  uint64_t entry = arena.EntryOf(ids[called.unit]);
  return entry != 0 ? entry + units_.units[called.unit].entries[called.entry] : 0;
}

uint64_t LoadedObject::Resolver(Arena& arena, const ExecutorId* ids, size_t i) const {
  return AddressOf(units_.ifuncs[i].resolver, arena, ids);
}

Status LoadedObject::SetResolved(Arena& arena, const ExecutorId* ids, size_t i, uint64_t function) const {
  const IfuncPlace& ifunc = units_.ifuncs[i];
  if (function == 0)
    return Error{ErrorCode::kSymbol, "the resolver of '" + std::string(ifunc.name) + "' gave no function"};
  return arena.Write(ids[ifunc.slot.unit], Section::kState, ifunc.slot.offset,
                     reinterpret_cast<const uint8_t*>(&function), sizeof function);
}

uint64_t LoadedObject::Constructor(Arena& arena, const ExecutorId* ids, size_t i) const {
  return AddressOf(units_.constructors[i], arena, ids);
}

std::optional<RegisteredCall> LoadedObject::TakeEndCall(Arena& arena, const ExecutorId* ids) const {
  uint64_t number = InstallNumber(arena, ids);
  if (std::optional<RegisteredCall> registered = TakeInstallExit(number)) return registered;
  std::optional<size_t> next = TakeInstallDestructor(number, units_.destructors.size());
  if (!next) return std::nullopt;
  return RegisteredCall{AddressOf(units_.destructors[*next], arena, ids), 0};
}

}  // namespace jit_arena
