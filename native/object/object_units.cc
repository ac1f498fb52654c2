#include "object/object_units.h"

#include <algorithm>
#include <functional>
#include <map>
#include <unordered_map>

#include "base/bits.h"
#include "object/object_calls.h"
#include "object/object_limits.h"

namespace jit_arena {
namespace {

// The function's name in a code section's name, empty for .text and its like. Compilers put a function's rarely
// executed part into .text.unlikely.f. In the large code model, clang 18 and later write .ltext for .text.
std::string_view FunctionOfSection(std::string_view name) {
  constexpr std::string_view kText = ".text", kLargeText = ".ltext";
  std::string_view text = name.substr(0, kLargeText.size()) == kLargeText ? kLargeText : kText;
  if (name.substr(0, text.size()) != text) return name;
  name.remove_prefix(text.size());
  if (name.empty()) return name;
  if (name[0] != '.') return name;
  name.remove_prefix(1);
  for (std::string_view part : {"unlikely", "hot", "startup", "exit", "split", "cold", "unknown"}) {
    if (name.substr(0, part.size()) != part) continue;
    if (name.size() == part.size()) return {};
    if (name[part.size()] == '.') return name.substr(part.size() + 1);
  }
  return name;
}

// Whether a function of this name goes on on another stack, or prepares one: those of <ucontext.h>, and what the common
// fiber libraries have in their names (boost.context, libco, minicoro, libaco, libcoro). One too many costs moves, one
// too few a crash.
bool SwitchesStacks(std::string_view name) {
  for (std::string_view part : {"swapcontext", "makecontext", "setcontext", "getcontext", "_fcontext", "fiber", "Fiber",
                                "coro", "Coro", "co_switch", "mco_", "aco_"})
    if (name.find(part) != std::string_view::npos) return true;
  return false;
}

// From the field to the symbol itself.
bool IsDistance(const ObjectReloc& reloc) {
  const arch::KindInfo& info = *arch::FindKind(reloc.kind);
  return reloc.got == GotUse::kNone && !info.through_slot && arch::FieldOf(info.field).relative;
}

bool UsesSlot(const ObjectReloc& reloc) { return reloc.got == GotUse::kSlot || reloc.got == GotUse::kSlotFromBase; }

class UnitMaker {
 public:
  explicit UnitMaker(const ObjectFile& file)
      : file_(file),
        group_(file.sections.size()),
        place_(file.sections.size()),
        asked_of_symbol_(file.symbols.size(), kNoIndex) {}

  Status Make(ObjectUnits* units) {
    units_ = units;
    Group();
    if (Status failed = Place()) return failed;
    if (Status failed = AddSymbols()) return failed;
    if (Status failed = AddCalls()) return failed;
    if (Status failed = AddRelocs()) return failed;
    if (Status failed = CheckNeeds(file_, escapes_.size())) return failed;
    AddReasons();
    StayWithSuspendedStacks();
    StayForUnwinder();
    return Status::Ok();
  }

 private:
  struct Placed {
    uint32_t unit = kNoIndex;
    uint32_t offset = 0;
  };
  // One reason: every use of the same kind of the same symbol by the same section.
  struct Escape {
    uint32_t section;
    uint32_t symbol;
    SiteUse use;
    bool operator<(const Escape& other) const {
      if (section != other.section) return section < other.section;
      return symbol != other.symbol ? symbol < other.symbol : use < other.use;
    }
  };
  struct Places {
    uint32_t first_offset;
    uint32_t count;
    uint32_t order;
    uint32_t unit;
  };

  bool IsLoaded(uint32_t section) const { return jit_arena::IsLoaded(file_.sections[section].role); }

  template <class Visit>
  void ForEachTarget(uint32_t section, Visit visit) const {
    const ObjectSection& from = file_.sections[section];
    for (uint32_t i = from.first_reloc; i < from.first_reloc + from.reloc_count; i++) {
      const ObjectSymbol& symbol = file_.symbols[file_.relocs[i].symbol];
      if (symbol.place == ObjectSymbol::Place::kSection) visit(file_.relocs[i], symbol.section);
    }
  }

  // ---- Which sections go together: sets of sections, found by their lowest section.

  uint32_t GroupOf(uint32_t section) {
    while (group_[section] != section) section = group_[section] = group_[group_[section]];
    return section;
  }

  void Join(uint32_t a, uint32_t b) {
    a = GroupOf(a);
    b = GroupOf(b);
    group_[std::max(a, b)] = std::min(a, b);
  }

  // One base for all code of the object that counts from one: whichever of its functions takes the base, and whichever
  // it is handed to in a register, both mean the same.
  void JoinUsersOfBase() {
    uint32_t first = kNoIndex;
    for (uint32_t i = 0; i < file_.sections.size(); i++) {
      auto from = file_.relocs.begin() + file_.sections[i].first_reloc;
      auto counts = [](const ObjectReloc& reloc) { return CountsFromBase(reloc.got); };
      if (std::none_of(from, from + file_.sections[i].reloc_count, counts)) continue;
      if (first == kNoIndex) first = i;
      Join(i, first);
    }
  }

  void Group() {
    uint32_t count = static_cast<uint32_t>(file_.sections.size());
    for (uint32_t i = 0; i < count; i++) group_[i] = i;
    std::map<std::string_view, uint32_t> section_of_function;
    for (uint32_t i = 0; i < count; i++) {
      if (!IsCodeOfUnit(i)) continue;
      auto [found, is_new] = section_of_function.emplace(FunctionOfSection(file_.sections[i].name), i);
      if (!is_new) Join(i, found->second);
    }
    JoinUsersOfBase();
    for (uint32_t i = 0; i < count; i++) {
      if (file_.sections[i].role != ObjectRole::kData) continue;
      ForEachTarget(i, [&](const ObjectReloc& reloc, uint32_t target) {
        if (IsDistance(reloc) && file_.sections[target].role != ObjectRole::kState) Join(i, target);
      });
    }

    // Groups with code are units. Each takes what it uses and nobody had before.
    std::vector<std::vector<uint32_t>> members(count);
    for (uint32_t i = 0; i < count; i++)
      if (IsLoaded(i)) members[GroupOf(i)].push_back(i);
    std::vector<bool> owned(count);  // by group, as they are now
    std::vector<uint32_t> roots;
    for (uint32_t i = 0; i < count; i++) {
      if (!IsCodeOfUnit(i) || owned[GroupOf(i)]) continue;
      owned[GroupOf(i)] = true;
      roots.push_back(GroupOf(i));
    }
    std::vector<uint32_t> owner(count, kNoIndex);
    for (uint32_t root : roots) owner[root] = root;
    for (uint32_t root : roots) {
      std::vector<uint32_t> waiting = {root};
      while (!waiting.empty()) {
        uint32_t group = waiting.back();
        waiting.pop_back();
        for (uint32_t section : members[group])
          ForEachTarget(section, [&](const ObjectReloc&, uint32_t target) {
            uint32_t other = GroupOf(target);
            if (owner[other] != kNoIndex) return;
            owner[other] = root;
            waiting.push_back(other);
          });
      }
    }
    // What nobody uses: with the first unit, which is made up when there is no code.
    unit_of_root_.clear();
    for (uint32_t root : roots) {
      unit_of_root_[root] = static_cast<uint32_t>(units_->units.size());
      units_->units.emplace_back();
    }
    for (uint32_t i = 0; i < count; i++) {
      if (!IsLoaded(i)) continue;
      uint32_t root = owner[GroupOf(i)];
      place_[i].unit = root == kNoIndex ? 0 : unit_of_root_[root];
      if (root == kNoIndex && units_->units.empty() && file_.sections[i].size != 0) units_->units.emplace_back();
    }
  }

  // Empty sections, such as .text where every function has its own, make no unit.
  bool IsCodeOfUnit(uint32_t section) const {
    return file_.sections[section].role == ObjectRole::kCode && file_.sections[section].size != 0;
  }

  // ---- Where each section lies in its unit.

  Status Place() {
    if (units_->units.empty()) {
      // Nothing is loaded; symbols of empty sections, if any, have no place.
      for (Placed& placed : place_) placed.unit = kNoIndex;
      return Status::Ok();
    }
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
    if (!IsCodeOfUnit(section) || offset >= file_.sections[section].size)
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
      if (section.role == ObjectRole::kCode && section.bytes != nullptr) AddOwnAddresses(i);
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
      if (symbol.weak && !symbol.name.empty() && section_index != file_.unwind) made.asked = AskedOf(reloc.symbol);
      bool to_code = file_.sections[symbol.section].role == ObjectRole::kCode;
      // A branch into data is none that a compiler makes.
      if (section_index == file_.unwind) {
        // Nobody but the unwinder has these addresses.
      } else if (made.takes_address || (use == SiteUse::kBranch && !to_code))
        AddEscape(section_index, reloc, use);
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
    arch::RelocKind kind = arch::FindKind(use->spec.kind)->through_slot ? kObjectRelative32 : use->spec.kind;
    *use =
        UnitReloc{RelocSpec{use->spec.section, kind, TargetKind::kOwnData, use->spec.offset, slot.spec.offset, addend}};
    return Status::Ok();
  }

  // ---- Reasons

  static SiteUse UseOf(const ObjectSection& section, const ObjectReloc& reloc) {
    if (section.role == ObjectRole::kCode) return UseOfCodeSite(reloc.kind, section.bytes, section.size, reloc.offset);
    // A distance in data is of use only to who has the data's address.
    return IsDistance(reloc) ? SiteUse::kAccess : SiteUse::kAddress;
  }

  void AddEscape(uint32_t section, const ObjectReloc& reloc, SiteUse use) {
    uint32_t unit = place_[file_.symbols[reloc.symbol].section].unit;
    units_->units[unit].movable = false;
    auto [found, is_new] = escapes_.emplace(Escape{section, reloc.symbol, use},
                                            Places{reloc.offset, 0, static_cast<uint32_t>(escapes_.size()), unit});
    found->second.count++;
  }

  // Addresses that code takes of its own section, for which there is no reloc.
  void AddOwnAddresses(uint32_t index) {
    const ObjectSection& section = file_.sections[index];
    auto first = file_.relocs.begin() + section.first_reloc;
    auto end = first + section.reloc_count;
    uint32_t target = 0;
    for (uint32_t site = 0; FindOwnAddress(section.bytes, section.size, &site, &target); site++) {
      auto reloc =
          std::lower_bound(first, end, site, [](const ObjectReloc& r, uint32_t offset) { return r.offset < offset; });
      if (reloc != end && reloc->offset == site) continue;
      units_->units[place_[index].unit].movable = false;
      auto [found, is_new] =
          escapes_.emplace(Escape{index, SymbolAt(index, target), SiteUse::kAddress},
                           Places{site, 0, static_cast<uint32_t>(escapes_.size()), place_[index].unit});
      found->second.count++;
    }
  }

  // A symbol with a name for this place, or 0.
  uint32_t SymbolAt(uint32_t section, uint32_t offset) {
    auto key = [&](uint32_t i) { return std::pair(file_.symbols[i].section, file_.symbols[i].value); };
    if (by_place_.empty()) {
      for (uint32_t i = 1; i < file_.symbols.size(); i++)
        if (file_.symbols[i].place == ObjectSymbol::Place::kSection && !file_.symbols[i].is_section &&
            !file_.symbols[i].name.empty())
          by_place_.push_back(i);
      by_place_.push_back(0);
      std::stable_sort(by_place_.begin(), by_place_.end(), [&](uint32_t a, uint32_t b) { return key(a) < key(b); });
    }
    std::pair<uint32_t, uint64_t> sought(section, offset);
    auto found = std::lower_bound(by_place_.begin(), by_place_.end(), sought,
                                  [&](uint32_t i, const auto& place) { return key(i) < place; });
    return found != by_place_.end() && key(*found) == sought ? *found : 0;
  }

  void AddReasons() {
    std::vector<std::pair<Escape, Places>> in_order(escapes_.begin(), escapes_.end());
    std::sort(in_order.begin(), in_order.end(),
              [](const auto& a, const auto& b) { return a.second.order < b.second.order; });
    for (const auto& [escape, places] : in_order) units_->reasons.push_back({places.unit, TextOf(escape, places)});
  }

  std::string TextOf(const Escape& escape, const Places& places) const {
    const ObjectSection& section = file_.sections[escape.section];
    const ObjectSymbol& symbol = file_.symbols[escape.symbol];
    // Symbol 0: an unnamed place in the section itself.
    const ObjectSection& target = file_.sections[escape.symbol == 0 ? escape.section : symbol.section];
    std::string what = symbol.name.empty() ? Shown(target.name) : Shown(symbol.name);
    if (!symbol.is_section && !symbol.name.empty()) what = "'" + what + "' (" + Shown(target.name) + ")";
    const char* how = section.role == ObjectRole::kState  ? "a variable holds the address of"
                      : section.role == ObjectRole::kData ? "a constant holds the address of"
                      : escape.use == SiteUse::kAddress   ? "an instruction takes the address of"
                                                          : "an instruction does something unknown with";
    std::string text = Format("%s + %#x: %s %s", Shown(section.name).c_str(), places.first_offset, how, what.c_str());
    if (places.count > 1) text += Format(" (%u times in all)", places.count);
    return text;
  }

  void StayForUnwinder() {
    if (file_.unwind == kNoIndex) return;
    for (ObjectUnit& unit : units_->units) unit.movable = false;
    units_->reasons.push_back({0, "the unwinder is told where the code is, so that exceptions find their handlers"});
    units_->unwind = {place_[file_.unwind].unit, place_[file_.unwind].offset, file_.sections[file_.unwind].size};
  }

  // A stack that is left in the middle of a call and gone on with in a later one has return addresses into the object,
  // and no pin keeps what they lead to. Any function of the object may be on it.
  void StayWithSuspendedStacks() {
    if (units_->units.empty()) return;
    // Names may share bytes: of those that end in one place the longest has all that the others have.
    std::vector<std::string_view> names;
    for (const ObjectSymbol& symbol : file_.symbols)
      if (!symbol.is_section && !symbol.name.empty()) names.push_back(symbol.name);
    std::sort(names.begin(), names.end(), [](auto a, auto b) { return std::less<>()(a.data(), b.data()); });
    const char* end = nullptr;
    for (std::string_view name : names) {
      if (name.data() + name.size() == end) continue;
      end = name.data() + name.size();
      if (!SwitchesStacks(name)) continue;
      for (ObjectUnit& unit : units_->units) unit.movable = false;
      units_->reasons.push_back(
          {0, Format("'%s' can suspend a stack that has return addresses into the object", Shown(name).c_str())});
      return;
    }
  }

  static std::string Shown(std::string_view name) { return std::string(name.substr(0, 80)); }

  const ObjectFile& file_;
  ObjectUnits* units_ = nullptr;
  std::vector<uint32_t> group_;
  std::vector<Placed> place_;  // by section
  std::unordered_map<uint32_t, uint32_t> unit_of_root_;
  // Not hashed: whoever makes an object can choose names that all have one hash.
  std::map<std::string_view, uint32_t> asked_of_;
  std::vector<uint32_t> asked_of_symbol_;
  std::map<uint64_t, size_t> slots_;  // by unit and symbol: position in the unit's relocs
  std::map<Escape, Places> escapes_;
  bool takes_base_ = false;         // some code of the object
  std::vector<uint32_t> by_place_;  // named symbols in the order of their places, and symbol 0
};

}  // namespace

Result<ObjectUnits> MakeUnits(const ObjectFile& file) {
  if (Status failed = CheckNeeds(file, 0)) return failed;
  ObjectUnits units;
  if (Status failed = UnitMaker(file).Make(&units)) return failed;
  return units;
}

}  // namespace jit_arena
