#include "object/object_escapes.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "object/object_groups.h"

namespace jit_arena {
namespace {

// Whether a function of this name goes on on another stack, or prepares one: those of <ucontext.h>, and what the common
// fiber libraries have in their names (boost.context, libco, minicoro, libaco, libcoro). One too many costs moves, one
// too few a crash.
bool SwitchesStacks(std::string_view name) {
  for (std::string_view part : {"swapcontext", "makecontext", "setcontext", "getcontext", "_fcontext", "fiber", "Fiber",
                                "coro", "Coro", "co_switch", "mco_", "aco_"})
    if (name.find(part) != std::string_view::npos) return true;
  return false;
}

}  // namespace

SiteUse UseOf(const ObjectSection& section, const ObjectReloc& reloc) {
  if (section.role == ObjectRole::kCode) return UseOfCodeSite(reloc.kind, section.bytes, section.size, reloc.offset);
  // A distance in data is of use only to code that has the data's address; a table of handlers only to the unwinder.
  bool harmless = IsDistance(reloc) || HoldsHandlers(section.name);
  return harmless ? SiteUse::kAccess : SiteUse::kAddress;
}

void Escapes::Add(const Escape& escape, uint32_t offset, uint32_t target) {
  auto [found, is_new] = escapes_.emplace(escape, Places{offset, 0, static_cast<uint32_t>(escapes_.size()), target});
  found->second.count++;
}

void Escapes::Add(uint32_t section, const ObjectReloc& reloc, SiteUse use) {
  Add({section, reloc.symbol, use}, reloc.offset, file_.symbols[reloc.symbol].section);
}

void Escapes::AddOwnAddresses(uint32_t index) {
  const ObjectSection& section = file_.sections[index];
  uint32_t target = 0;
  for (uint32_t site = 0; FindOwnAddress(section.bytes, section.size, &site, &target); site++) {
    if (FindReloc(file_, index, site, uint64_t{site} + 1) != nullptr) continue;
    Add({index, SymbolAt(index, target), SiteUse::kAddress}, site, index);
  }
}

// A symbol with a name for this place, or 0.
uint32_t Escapes::SymbolAt(uint32_t section, uint32_t offset) {
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

std::vector<Escapes::Reason> Escapes::Reasons() const {
  std::vector<std::pair<Escape, Places>> in_order(escapes_.begin(), escapes_.end());
  std::sort(in_order.begin(), in_order.end(),
            [](const auto& a, const auto& b) { return a.second.order < b.second.order; });
  std::vector<Reason> reasons;
  for (const auto& [escape, places] : in_order) reasons.push_back({places.target, TextOf(escape, places)});
  return reasons;
}

std::string Escapes::TextOf(const Escape& escape, const Places& places) const {
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

std::string_view FindStackSwitch(const ObjectFile& file) {
  // Names may share bytes: of those that end in one place the longest has all that the others have.
  std::vector<std::string_view> names;
  for (const ObjectSymbol& symbol : file.symbols)
    if (!symbol.is_section && !symbol.name.empty()) names.push_back(symbol.name);
  std::sort(names.begin(), names.end(), [](auto a, auto b) { return std::less<>()(a.data(), b.data()); });
  const char* end = nullptr;
  for (std::string_view name : names) {
    if (name.data() + name.size() == end) continue;
    end = name.data() + name.size();
    if (SwitchesStacks(name)) return name;
  }
  return {};
}

}  // namespace jit_arena
