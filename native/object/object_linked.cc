#include "object/object_linked.h"

#include <algorithm>
#include <map>
#include <utility>

#include "object/object_roles.h"

namespace jit_arena {

Status DefineSectionEnds(ObjectFile* file, uint32_t sections) {
  auto unsupported = [](std::string message) { return Error{ErrorCode::kObjectUnsupported, std::move(message)}; };
  std::map<std::string_view, uint32_t> by_name;
  bool known = false;
  for (ObjectSymbol& symbol : file->symbols) {
    constexpr std::string_view kStart = "__start_", kStop = "__stop_";
    if (symbol.place != ObjectSymbol::Place::kUndefined) continue;
    bool start = StartsWith(symbol.name, kStart);
    if (!start && !StartsWith(symbol.name, kStop)) continue;
    if (!known)
      for (uint32_t i = 1; i < sections; i++)
        if (IsLoaded(file->sections[i].role)) {
          auto [found, is_new] = by_name.emplace(file->sections[i].name, i);
          if (!is_new) found->second = 0;  // more than one
        }
    known = true;
    auto found = by_name.find(symbol.name.substr((start ? kStart : kStop).size()));
    if (found == by_name.end()) continue;
    uint32_t index = found->second;
    if (index == 0)
      return unsupported(
          Format("the object uses '%.*s' and has more than one section of that name: link them into one "
                 "with ld -r",
                 static_cast<int>(std::min<size_t>(symbol.name.size(), 80)), symbol.name.data()));
    symbol.place = ObjectSymbol::Place::kSection;
    symbol.section = index;
    symbol.value = start ? 0 : file->sections[index].size;
    symbol.global = symbol.weak = false;  // the object's own, and nothing that it offers
  }
  return Status::Ok();
}

void DefineDsoHandle(ObjectFile* file) {
  auto index = static_cast<uint32_t>(file->sections.size());
  bool needed = std::any_of(file->sections.begin(), file->sections.end(), [](const ObjectSection& section) {
    return section.role == ObjectRole::kCalls && section.size != 0;
  });
  for (ObjectSymbol& symbol : file->symbols) {
    if (symbol.place != ObjectSymbol::Place::kUndefined || symbol.name != "__dso_handle") continue;
    symbol.place = ObjectSymbol::Place::kSection;
    symbol.section = index;
    symbol.global = symbol.weak = false;  // nothing that it offers
    needed = true;
  }
  if (!needed) return;
  ObjectSection section;
  section.name = "__dso_handle";
  section.role = ObjectRole::kState;
  section.size = section.align = 8;
  file->sections.push_back(section);
  file->dso_handle = index;
}

}  // namespace jit_arena
