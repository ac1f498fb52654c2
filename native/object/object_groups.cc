#include "object/object_groups.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <unordered_map>

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

class Grouper {
 public:
  explicit Grouper(const ObjectFile& file) : file_(file), group_(file.sections.size()) {}

  // Sets of sections, found by their lowest section.

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

  // What a table for the unwinder names lies beside its code: handlers, and a personality routine of the object's own.
  void JoinHandlers() {
    const ObjectFile::Frames& frames = file_.frames;
    auto join = [&](uint32_t code, const ObjectFile::Frames::Entry& entry) {
      for (uint32_t i = entry.first_reloc; i < entry.first_reloc + entry.reloc_count; i++) {
        const ObjectSymbol& symbol = file_.symbols[frames.relocs[i].symbol];
        if (symbol.place == ObjectSymbol::Place::kSection) Join(code, symbol.section);
      }
    };
    for (const ObjectFile::Frames::Entry& entry : frames.entries) {
      if (entry.common == kNoIndex) continue;
      join(entry.section, entry);
      join(entry.section, frames.entries[entry.common]);
    }
  }

  void JoinAll() {
    uint32_t count = static_cast<uint32_t>(file_.sections.size());
    for (uint32_t i = 0; i < count; i++) group_[i] = i;
    std::map<std::string_view, uint32_t> section_of_function;
    for (uint32_t i = 0; i < count; i++) {
      if (!IsCodeOfUnit(file_.sections[i])) continue;
      auto [found, is_new] = section_of_function.emplace(FunctionOfSection(file_.sections[i].name), i);
      if (!is_new) Join(i, found->second);
    }
    JoinUsersOfBase();
    JoinHandlers();
    for (uint32_t i = 0; i < count; i++) {
      if (file_.sections[i].role != ObjectRole::kData) continue;
      ForEachTarget(i, [&](const ObjectReloc& reloc, uint32_t target) {
        if (IsDistance(reloc) && file_.sections[target].role != ObjectRole::kState) Join(i, target);
      });
    }
  }

  SectionGroups Own() {
    uint32_t count = static_cast<uint32_t>(file_.sections.size());
    // Groups with code are units. Each takes what it uses and nobody had before.
    std::vector<std::vector<uint32_t>> members(count);
    for (uint32_t i = 0; i < count; i++)
      if (IsLoaded(file_.sections[i].role)) members[GroupOf(i)].push_back(i);
    std::vector<bool> owned(count);  // by group, as they are now
    std::vector<uint32_t> roots;
    for (uint32_t i = 0; i < count; i++) {
      if (!IsCodeOfUnit(file_.sections[i]) || owned[GroupOf(i)]) continue;
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
    SectionGroups groups{std::vector<uint32_t>(count, kNoIndex)};
    std::unordered_map<uint32_t, uint32_t> unit_of_root;
    for (uint32_t root : roots) unit_of_root[root] = groups.units++;
    for (uint32_t i = 0; i < count; i++) {
      if (!IsLoaded(file_.sections[i].role)) continue;
      uint32_t root = owner[GroupOf(i)];
      groups.unit_of[i] = root == kNoIndex ? 0 : unit_of_root[root];
      if (root == kNoIndex && groups.units == 0 && file_.sections[i].size != 0) groups.units = 1;
    }
    // Nothing is loaded; symbols of empty sections, if any, have no place.
    if (groups.units == 0) std::fill(groups.unit_of.begin(), groups.unit_of.end(), kNoIndex);
    return groups;
  }

 private:
  template <class Visit>
  void ForEachTarget(uint32_t section, Visit visit) const {
    const ObjectSection& from = file_.sections[section];
    for (uint32_t i = from.first_reloc; i < from.first_reloc + from.reloc_count; i++) {
      const ObjectSymbol& symbol = file_.symbols[file_.relocs[i].symbol];
      if (symbol.place == ObjectSymbol::Place::kSection) visit(file_.relocs[i], symbol.section);
    }
  }

  const ObjectFile& file_;
  std::vector<uint32_t> group_;
};

}  // namespace

bool IsDistance(const ObjectReloc& reloc) {
  const arch::KindInfo& info = *arch::FindKind(reloc.kind);
  return reloc.got == GotUse::kNone && !info.through_slot && arch::FieldOf(info.field).relative;
}

SectionGroups GroupSections(const ObjectFile& file) {
  Grouper grouper(file);
  grouper.JoinAll();
  return grouper.Own();
}

}  // namespace jit_arena
