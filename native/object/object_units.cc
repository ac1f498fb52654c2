#include "object/object_units.h"

#include <algorithm>
#include <map>

#include "base/bits.h"
#include "object/object_calls.h"
#include "object/object_escapes.h"
#include "object/object_groups.h"
#include "object/object_limits.h"
#include "object/object_roles.h"

namespace jit_arena {
namespace {

bool UsesSlot(const ObjectReloc& reloc) { return reloc.got == GotUse::kSlot || reloc.got == GotUse::kSlotFromBase; }

class UnitMaker {
 public:
  explicit UnitMaker(const ObjectFile& file)
      : file_(file), place_(file.sections.size()), asked_of_symbol_(file.symbols.size(), kNoIndex), escapes_(file) {}

  Status Make(ObjectUnits* units) {
    units_ = units;
    SectionGroups groups = GroupSections(file_);
    units_->units.resize(groups.units);
    for (size_t i = 0; i < place_.size(); i++) place_[i].unit = groups.unit_of[i];
    if (Status failed = Place()) return failed;
    if (Status failed = AddSymbols()) return failed;
    if (Status failed = AddCalls()) return failed;
    if (Status failed = AddRelocs()) return failed;
    if (Status failed = CheckNeeds(file_, escapes_.count())) return failed;
    AddReasons();
    StayWithSuspendedStacks();
    StayWithTypesOfOneAddress();
    return AddFrames();
  }

 private:
  struct Placed {
    uint32_t unit = kNoIndex;
    uint32_t offset = 0;
  };
  bool IsLoaded(uint32_t section) const { return jit_arena::IsLoaded(file_.sections[section].role); }

  // ---- Where each section lies in its unit.

  Status Place() {
    if (units_->units.empty()) return Status::Ok();
    // Sections without bytes come last, so that what is zero is a tail.
    for (bool zero : {false, true}) {
      for (uint32_t i = 0; i < file_.sections.size(); i++) {
        const ObjectSection& section = file_.sections[i];
        if (!IsLoaded(i) || (section.bytes == nullptr) != zero) continue;
        ObjectUnit& unit = units_->units[place_[i].unit];
        int in = static_cast<int>(SectionOfRole(section.role));
        uint64_t offset = AlignUp(unit.sizes[in], section.align);
        if (offset + section.size > kMaxObjectBytes)
          return Error{ErrorCode::kObject, "the sections are larger than any arena"};
        place_[i].offset = static_cast<uint32_t>(offset);
        unit.sizes[in] = static_cast<uint32_t>(offset + section.size);
        unit.aligns[in] = std::max(unit.aligns[in], section.align);
        if (zero || section.size == 0) continue;
        unit.bytes[in].resize(offset, section.role == ObjectRole::kCode ? arch::kPoisonByte : 0);
        unit.bytes[in].insert(unit.bytes[in].end(), section.bytes, section.bytes + section.size);
        if (unit.name.empty() && section.role == ObjectRole::kCode) unit.name = section.name.substr(0, 80);
      }
    }
    for (ObjectUnit& unit : units_->units) {
      if (unit.sizes[0] != 0) continue;
      unit.bytes[0].push_back(arch::kPoisonByte);
      unit.sizes[0] = 1;
    }
    return Status::Ok();
  }

  // ---- Symbols

  Status AddSymbols() {
    for (uint32_t i = 1; i < file_.symbols.size(); i++) {
      const ObjectSymbol& symbol = file_.symbols[i];
      if (!symbol.global || symbol.place != ObjectSymbol::Place::kSection || !IsLoaded(symbol.section)) continue;
      if (place_[symbol.section].unit == kNoIndex) continue;
      const Placed& placed = place_[symbol.section];
      const ObjectSection& section = file_.sections[symbol.section];
      ObjectExport exported{symbol.name,
                            placed.unit,
                            SectionOfRole(section.role),
                            placed.offset + static_cast<uint32_t>(symbol.value),
                            symbol.size,
                            kNoIndex,
                            symbol.weak};
      // A function at the very end has no code: what compilers make of one that is never reached.
      if (section.role == ObjectRole::kCode && symbol.value < section.size) {
        std::vector<uint32_t>& entries = units_->units[placed.unit].entries;
        exported.entry = static_cast<uint32_t>(entries.size());
        entries.push_back(exported.offset);
        ObjectUnit& unit = units_->units[placed.unit];
        if (entries.size() == 1) unit.name = symbol.name.substr(0, 80);
      }
      units_->exports.push_back(exported);
    }
    for (ObjectUnit& unit : units_->units)
      if (unit.entries.empty()) unit.entries.push_back(0);
    return CheckNames();
  }

  Status CheckNames() const {
    std::vector<std::string_view> names;
    names.reserve(units_->exports.size());
    for (const ObjectExport& exported : units_->exports) names.push_back(exported.name);
    std::sort(names.begin(), names.end());
    auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return Status::Ok();
    return Error{ErrorCode::kObject, Format("the object defines '%s' twice", Shown(*twice).c_str())};
  }

  // Constructors and destructors are entries of their units, behind those of global functions.
  Status AddCalls() {
    Result<ObjectCalls> calls = ReadCalls(file_);
    if (!calls.ok()) return std::move(calls.status());
    if (Status failed = AddCalls(calls.value().constructors, &units_->constructors)) return failed;
    if (Status failed = AddCalls(calls.value().destructors, &units_->destructors)) return failed;
    if (file_.dso_handle != kNoIndex && place_[file_.dso_handle].unit != kNoIndex)
      units_->dso_handle = PlaceInState(file_.dso_handle, 0);
    return AddIfuncs();
  }

  Status AddCalls(const std::vector<ObjectCall>& calls, std::vector<CalledEntry>* called) {
    for (const ObjectCall& call : calls) {
      const ObjectSymbol& symbol = file_.symbols[call.symbol];
      bool known = symbol.place == ObjectSymbol::Place::kSection;
      Result<CalledEntry> entry =
          AddEntry(known ? symbol.section : 0, symbol.value, call.addend, symbol.name, "a constructor or destructor");
      if (!entry.ok()) return std::move(entry.status());
      called->push_back(entry.value());
    }
    return Status::Ok();
  }

  Result<CalledEntry> AddEntry(uint32_t section, uint64_t value, int64_t addend, std::string_view name,
                               const char* what) {
    uint64_t offset = value + static_cast<uint64_t>(addend);
    if (!IsCodeOfUnit(file_.sections[section]) || offset >= file_.sections[section].size)
      return Error{ErrorCode::kObject, Format("%s, '%s' + %lld, is no function of the object", what,
                                              Shown(name).c_str(), static_cast<long long>(addend))};
    const Placed& placed = place_[section];
    std::vector<uint32_t>& entries = units_->units[placed.unit].entries;
    entries.push_back(placed.offset + static_cast<uint32_t>(offset));
    return CalledEntry{placed.unit, static_cast<uint32_t>(entries.size() - 1)};
  }

  StatePlace PlaceInState(uint32_t section, uint32_t offset) const {
    return {place_[section].unit, place_[section].offset + offset};
  }

  Status AddIfuncs() {
    for (uint32_t i = 0; i < file_.ifuncs.size(); i++) {
      const ObjectFile::Ifunc& ifunc = file_.ifuncs[i];
      Result<CalledEntry> resolver = AddEntry(ifunc.section, ifunc.value, 0, ifunc.name, "the resolver of an IFUNC");
      if (!resolver.ok()) return std::move(resolver.status());
      units_->ifuncs.push_back({ifunc.name, resolver.value(), PlaceInState(file_.ifunc_slots, i * kSlotBytes)});
    }
    return Status::Ok();
  }

  // A symbol's name is looked up once, however many relocs refer to it.
  uint32_t AskedOf(uint32_t index) {
    if (asked_of_symbol_[index] == kNoIndex) asked_of_symbol_[index] = AskedOfName(file_.symbols[index]);
    return asked_of_symbol_[index];
  }

  uint32_t AskedOfName(const ObjectSymbol& symbol) {
    auto [found, is_new] = asked_of_.emplace(symbol.name, static_cast<uint32_t>(units_->asked.size()));
    bool defined = symbol.place == ObjectSymbol::Place::kSection;
    if (is_new) units_->asked.push_back({symbol.name, symbol.weak, defined});
    // A strong use is enough.
    else if (!symbol.weak)
      units_->asked[found->second].weak = false;
    return found->second;
  }

  // ---- Relocs

  Status AddRelocs() {
    for (const ObjectReloc& reloc : file_.relocs) takes_base_ = takes_base_ || reloc.got == GotUse::kBase;
    ReserveRelocs();
    for (uint32_t i = 0; i < file_.sections.size(); i++) {
      const ObjectSection& section = file_.sections[i];
      if (!IsLoaded(i)) continue;
      for (uint32_t n = section.first_reloc; n < section.first_reloc + section.reloc_count; n++)
        if (Status failed = AddReloc(i, file_.relocs[n])) return failed;
      if (section.role == ObjectRole::kCode && section.bytes != nullptr) escapes_.AddOwnAddresses(i);
    }
    for (ObjectUnit& unit : units_->units)
      std::stable_sort(unit.relocs.begin(), unit.relocs.end(), [](const UnitReloc& a, const UnitReloc& b) {
        return a.spec.section != b.spec.section ? a.spec.section < b.spec.section : a.spec.offset < b.spec.offset;
      });
    return Status::Ok();
  }

  // The relocs are most of what an object needs: a vector that grows would need thrice their memory.
  void ReserveRelocs() {
    std::vector<size_t> counts(units_->units.size());
    for (uint32_t i = 0; i < file_.sections.size(); i++) {
      const ObjectSection& section = file_.sections[i];
      if (!IsLoaded(i)) continue;
      for (uint32_t n = section.first_reloc; n < section.first_reloc + section.reloc_count; n++)
        counts[place_[i].unit] += UsesSlot(file_.relocs[n]) ? 2 : 1;
    }
    for (size_t i = 0; i < counts.size(); i++) units_->units[i].relocs.reserve(counts[i]);
  }

  Status AddReloc(uint32_t section_index, const ObjectReloc& reloc) {
    const ObjectSection& section = file_.sections[section_index];
    const ObjectSymbol& symbol = file_.symbols[reloc.symbol];
    const Placed& placed = place_[section_index];
    ObjectUnit& unit = units_->units[placed.unit];
    SiteUse use = UseOf(section, reloc);

    UnitReloc made;
    made.spec = RelocSpec{SectionOfRole(section.role),  reloc.kind, TargetKind::kAddress,
                          placed.offset + reloc.offset, 0,          reloc.addend};
    made.takes_address = use == SiteUse::kAddress || use == SiteUse::kUnknown;
    if (symbol.place == ObjectSymbol::Place::kSection) {
      NameTarget(placed.unit, symbol.section, static_cast<uint32_t>(symbol.value), &made.spec);
      if (symbol.weak && !symbol.name.empty()) made.asked = AskedOf(reloc.symbol);
      bool to_code = file_.sections[symbol.section].role == ObjectRole::kCode;
      // A branch into data is none that a compiler makes.
      if (made.takes_address || (use == SiteUse::kBranch && !to_code)) escapes_.Add(section_index, reloc, use);
    } else if (symbol.place == ObjectSymbol::Place::kUndefined && reloc.symbol != 0) {
      made.asked = AskedOf(reloc.symbol);
    } else {
      made.spec.target = symbol.value;
    }
    if (UsesSlot(reloc))
      if (Status failed = UseSlot(placed.unit, reloc.symbol, &made)) return failed;
    if (CountsFromBase(reloc.got))
      if (Status failed = CountFromBase(section_index, reloc, &made)) return failed;
    unit.relocs.push_back(made);
    return Status::Ok();
  }

  // The base of the GOT is the first byte of the unit's code. So GOT = P - offset of the site in the code, and what
  // counts from the base is a distance from the site with that offset in its addend.
  //
  // Code takes the base with an instruction that counts from rip, loads a distance from another field, and adds. When
  // the code moves between the two, the thread goes on in the old copy, and base and distance are both the old copy's.
  // When the target moves, the field is rewritten at once (docs/moving.md), so the sum leads to the target's old copy
  // or to its new one; the thread's pin keeps the old one. The base by itself leads nowhere that anybody would keep,
  // the sum is an address in a register: that counts as taking the symbol's.
  Status CountFromBase(uint32_t section, const ObjectReloc& reloc, UnitReloc* made) {
    if (reloc.got == GotUse::kBase) {
      made->spec.target_kind = TargetKind::kOwnCode;
      made->takes_address = false;
      return Status::Ok();
    }
    if (!takes_base_) {
      const char* name = ObjectKindName(reloc.number);
      Error error{ErrorCode::kRelocKind,
                  Format("the reloc at section %u '%s' + %#x is %s (%u), which counts from the base of a GOT, and no "
                         "code of the object takes the base",
                         section, Shown(file_.sections[section].name).c_str(), reloc.offset, name, reloc.number)};
      error.kind = name;
      return error;
    }
    uint64_t addend = static_cast<uint64_t>(made->spec.addend) + made->spec.offset;
    made->spec.addend = static_cast<int64_t>(addend);
    return Status::Ok();
  }

  void NameTarget(uint32_t unit, uint32_t section, uint32_t offset, RelocSpec* spec) const {
    const Placed& target = place_[section];
    Section in = SectionOfRole(file_.sections[section].role);
    if (target.unit == unit) {
      spec->target_kind = in == Section::kCode   ? TargetKind::kOwnCode
                          : in == Section::kData ? TargetKind::kOwnData
                                                 : TargetKind::kOwnState;
      spec->target = target.offset + offset;
    } else {
      spec->target_kind = TargetKind::kBatchMember;
      spec->target = target.unit;
      spec->target_section = in;
      spec->target_offset = target.offset + offset;
    }
  }

  // Turns a use of a slot that holds the symbol into a use of the unit's own data: there the slot is, a constant beside
  // the code, which may hold the address of anything.
  Status UseSlot(uint32_t unit_index, uint32_t symbol, UnitReloc* use) {
    ObjectUnit& unit = units_->units[unit_index];
    auto [found, is_new] = slots_.emplace((uint64_t{unit_index} << 32) | symbol, unit.relocs.size());
    if (is_new) {
      uint32_t& size = unit.sizes[static_cast<int>(Section::kData)];
      uint64_t offset = AlignUp(size, 8);
      if (offset + 8 > kMaxObjectBytes) return Error{ErrorCode::kObject, "the sections are larger than any arena"};
      size = static_cast<uint32_t>(offset + 8);
      UnitReloc slot = *use;
      slot.spec.section = Section::kData;
      slot.spec.kind = kObjectAbsolute64;
      slot.spec.offset = static_cast<uint32_t>(offset);
      slot.spec.addend = 0;
      unit.relocs.push_back(slot);
    }
    UnitReloc& slot = unit.relocs[found->second];
    slot.takes_address = slot.takes_address || use->takes_address;
    int64_t addend = use->spec.addend;
    const arch::KindInfo& info = *arch::FindKind(use->spec.kind);
    arch::RelocKind kind = info.through_slot ? KindOfSlotBeside(info.kind) : info.kind;
    // Compilers put a sum into no slot.
    if (info.slot_holds_sum && addend != 0) return Error{ErrorCode::kObject, "a GOT slot for a symbol with an addend"};
    *use =
        UnitReloc{RelocSpec{use->spec.section, kind, TargetKind::kOwnData, use->spec.offset, slot.spec.offset, addend}};
    return Status::Ok();
  }

  // ---- Reasons

  void AddReasons() {
    for (Escapes::Reason& reason : escapes_.Reasons()) {
      uint32_t unit = place_[reason.section].unit;
      units_->units[unit].movable = false;
      units_->reasons.push_back({unit, std::move(reason.text)});
    }
  }

  void StayAll(std::string reason) {
    for (ObjectUnit& unit : units_->units) unit.movable = false;
    units_->reasons.push_back({0, std::move(reason)});
  }

  // A stack that is left in the middle of a call and gone on with in a later one has return addresses into the object,
  // and no pin keeps what they lead to. Any function of the object may be on it.
  void StayWithSuspendedStacks() {
    std::string_view name = FindStackSwitch(file_);
    if (!units_->units.empty() && !name.empty())
      StayAll(Format("'%s' can suspend a stack that has return addresses into the object", Shown(name).c_str()));
  }

  // Itanium C++ ABI 2.9.1: the name of a type that is local to the object begins with '*' where gcc makes it, and the
  // C++ library compares such names by address. While a thread is inside, an object that moves has two of each.
  void StayWithTypesOfOneAddress() {
    for (const ObjectSymbol& symbol : file_.symbols) {
      if (symbol.place != ObjectSymbol::Place::kSection || !StartsWith(symbol.name, "_ZTS")) continue;
      const ObjectSection& section = file_.sections[symbol.section];
      if (section.role != ObjectRole::kData || section.bytes == nullptr || symbol.value >= section.size ||
          section.bytes[symbol.value] != '*')
        continue;
      units_->compared_by_address = symbol.name;
      return StayAll(Format("'%s' is the name of a type that is compared by its address", Shown(symbol.name).c_str()));
    }
  }

  // ---- Frames

  Status AddFrames() {
    units_->needs_unwinder = file_.frames.needed;
    const std::vector<ObjectFile::Frames::Entry>& entries = file_.frames.entries;
    // By unit and entry: where what functions have in common lies in the unit's table.
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> common_at;
    constexpr uint64_t kMostCommonTimes = 8;
    uint64_t common_bytes = 0;
    for (const ObjectFile::Frames::Entry& entry : entries) {
      if (entry.common == kNoIndex) continue;
      const uint32_t index = place_[entry.section].unit;
      ObjectUnit& unit = units_->units[index];
      auto [common, is_new] = common_at.try_emplace({index, entry.common}, 0);
      if (is_new) {
        // Compilers make a few dozen bytes of it, so that it takes less than the functions do.
        common_bytes += entries[entry.common].size;
        if (common_bytes > kMostCommonTimes * file_.frames.bytes.size())
          return Error{ErrorCode::kObject, "'.eh_frame' has larger entries in common than any compiler makes"};
        if (Status failed = AddEntry(entries[entry.common], index, &common->second)) return failed;
      }
      uint32_t at = 0;
      if (Status failed = AddEntry(entry, index, &at)) return failed;
      StoreAs<uint32_t>(unit.frames.bytes.data() + at + 4, at + 4 - common->second);
    }
    for (ObjectUnit& unit : units_->units)
      if (!unit.frames.bytes.empty()) unit.frames.bytes.resize(unit.frames.bytes.size() + 4);
    return Status::Ok();
  }

  Status AddEntry(const ObjectFile::Frames::Entry& entry, uint32_t index, uint32_t* at) {
    ObjectUnit& unit = units_->units[index];
    std::vector<uint8_t>& bytes = unit.frames.bytes;
    *at = static_cast<uint32_t>(bytes.size());
    auto from = file_.frames.bytes.begin() + entry.at;
    bytes.insert(bytes.end(), from, from + entry.size);
    for (uint32_t i = entry.first_reloc; i < entry.first_reloc + entry.reloc_count; i++) {
      const ObjectReloc& reloc = file_.frames.relocs[i];
      const ObjectSymbol& symbol = file_.symbols[reloc.symbol];
      const uint32_t site = *at + reloc.offset - entry.at;
      if (symbol.place == ObjectSymbol::Place::kUndefined && reloc.symbol != 0) {
        unit.frames_ask.push_back({site, AskedOf(reloc.symbol), reloc.addend});
      } else if (symbol.place != ObjectSymbol::Place::kSection) {
        StoreAs<uint64_t>(bytes.data() + site, symbol.value + static_cast<uint64_t>(reloc.addend));
      } else if (Status failed = AddFrameFixup(reloc, symbol, index, site)) {
        return failed;
      }
    }
    return Status::Ok();
  }

  // The tables of a place follow its code and data, and nothing else that may move.
  Status AddFrameFixup(const ObjectReloc& reloc, const ObjectSymbol& symbol, uint32_t unit, uint32_t site) {
    const ObjectSection& section = file_.sections[symbol.section];
    const Placed& placed = place_[symbol.section];
    if ((section.role != ObjectRole::kCode && section.role != ObjectRole::kData) || placed.unit != unit)
      return Error{ErrorCode::kObjectUnsupported, "'.eh_frame' refers to '" + Shown(section.name) +
                                                      "', which does not lie beside the code: handlers and their "
                                                      "personality routine must"};
    uint64_t offset = symbol.value + static_cast<uint64_t>(reloc.addend);
    if (offset > section.size)
      return Error{ErrorCode::kObject, "'.eh_frame' refers to a place beyond '" + Shown(section.name) + "'"};
    units_->units[unit].frames.fixups.push_back({site, SectionOfRole(section.role), placed.offset + offset});
    return Status::Ok();
  }

  const ObjectFile& file_;
  ObjectUnits* units_ = nullptr;
  std::vector<Placed> place_;  // by section
  // Not hashed: whoever makes an object can choose names that all have one hash.
  std::map<std::string_view, uint32_t> asked_of_;
  std::vector<uint32_t> asked_of_symbol_;
  std::map<uint64_t, size_t> slots_;  // by unit and symbol: position in the unit's relocs
  Escapes escapes_;
  bool takes_base_ = false;  // some code of the object
};

}  // namespace

Result<ObjectUnits> MakeUnits(const ObjectFile& file) {
  if (Status failed = CheckNeeds(file, 0)) return failed;
  ObjectUnits units;
  if (Status failed = UnitMaker(file).Make(&units)) return failed;
  return units;
}

}  // namespace jit_arena
