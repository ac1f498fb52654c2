#include "object/object_calls.h"

#include <algorithm>
#include <cstring>

namespace jit_arena {
namespace {

constexpr struct List {
  std::string_view name;
  bool constructors;
  bool backwards;
} kLists[] = {
    {".init_array", true, false}, {".ctors", true, true}, {".fini_array", false, false}, {".dtors", false, true}};

constexpr uint32_t kMaxPriority = 65535;
constexpr uint32_t kEntryBytes = 8;

const List* ListOf(std::string_view name) {
  for (const List& list : kLists)
    if (IsOrIsUnder(name, list.name)) return &list;
  return nullptr;
}

// Without one: behind all that have one.
uint32_t PriorityOf(std::string_view name, const List& list) {
  std::string_view digits = name.substr(std::min(name.size(), list.name.size() + 1));
  if (digits.empty() || digits.size() > 5) return kMaxPriority + 1;
  uint32_t priority = 0;
  for (char digit : digits) {
    if (digit < '0' || digit > '9') return kMaxPriority + 1;
    priority = priority * 10 + static_cast<uint32_t>(digit - '0');
  }
  if (priority > kMaxPriority) return kMaxPriority + 1;
  return list.backwards ? kMaxPriority - priority : priority;
}

Status ReadEntries(const ObjectFile& file, uint32_t index, std::vector<ObjectCall>* calls) {
  const ObjectSection& section = file.sections[index];
  auto malformed = [&](uint32_t offset) {
    return Error{ErrorCode::kObject,
                 Format("section %u '%.80s' has something else than the address of a function at %u", index,
                        std::string(section.name).c_str(), offset)};
  };
  const ObjectReloc* reloc = file.relocs.data() + section.first_reloc;
  const ObjectReloc* end = reloc + section.reloc_count;
  for (uint32_t offset = 0; offset < section.size; offset += kEntryBytes) {
    if (section.size - offset < kEntryBytes || section.bytes == nullptr) return malformed(offset);
    if (reloc != end && reloc->offset == offset && reloc->kind == kObjectAbsolute64) {
      calls->push_back({reloc->symbol, reloc->addend});
      reloc++;
      continue;
    }
    // Older files mark the ends of .ctors with 0 and -1.
    static constexpr uint8_t kMarks[2][kEntryBytes] = {{}, {255, 255, 255, 255, 255, 255, 255, 255}};
    bool is_mark = std::memcmp(section.bytes + offset, kMarks[0], kEntryBytes) == 0 ||
                   std::memcmp(section.bytes + offset, kMarks[1], kEntryBytes) == 0;
    if (!is_mark || (reloc != end && reloc->offset < offset + kEntryBytes)) return malformed(offset);
  }
  return Status::Ok();
}

}  // namespace

bool HasCalls(std::string_view name) { return ListOf(name) != nullptr; }

Result<ObjectCalls> ReadCalls(const ObjectFile& file) {
  ObjectCalls calls;
  for (bool constructors : {true, false}) {
    std::vector<ObjectCall>& all = constructors ? calls.constructors : calls.destructors;
    std::vector<std::pair<uint32_t, uint32_t>> sections;  // priority and index
    for (uint32_t i = 0; i < file.sections.size(); i++) {
      const ObjectSection& section = file.sections[i];
      const List* list = section.role == ObjectRole::kCalls ? ListOf(section.name) : nullptr;
      if (list != nullptr && list->constructors == constructors)
        sections.emplace_back(PriorityOf(section.name, *list), i);
    }
    std::sort(sections.begin(), sections.end());
    for (auto [priority, index] : sections) {
      auto before = static_cast<ptrdiff_t>(all.size());
      if (Status failed = ReadEntries(file, index, &all)) return failed;
      if (ListOf(file.sections[index].name)->backwards) std::reverse(all.begin() + before, all.end());
    }
    if (!constructors) std::reverse(all.begin(), all.end());
  }
  return calls;
}

}  // namespace jit_arena
