#include "core/frame_tables.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bits.h"
#include "base/test_point.h"

namespace jit_arena {

size_t FrameTables::Group::Find(uint64_t code) const {
  auto found = std::lower_bound(tables.begin(), tables.end(), code,
                                [](const Table& table, uint64_t sought) { return table.code < sought; });
  return static_cast<size_t>(found - tables.begin());
}

bool FrameTables::Group::Knows(uint64_t code) const {
  size_t at = Find(code);
  return at != tables.size() && tables[at].code == code && !tables[at].reclaimed;
}

FrameTables::~FrameTables() {
  if (disowned_) return;
  for (auto& [key, group] : groups_) os::Deregister(*group.registered);
  using Groups = std::unordered_map<uint64_t, Group>;
  groups_.~Groups();
}

std::shared_ptr<uint8_t[]> FrameTables::TakeBytes(size_t size) {
  size = AlignUp(size, sizeof(uint64_t));
  if (chunk_left_ < size) {
    const size_t bytes = std::max(size, kChunkBytes);
    chunk_ = std::make_shared<uint8_t[]>(bytes);
    chunk_end_ = chunk_.get() + bytes;
    chunk_left_ = bytes;
  }
  std::shared_ptr<uint8_t[]> taken(chunk_, chunk_end_ - chunk_left_);
  chunk_left_ -= size;
  return taken;
}

void FrameTables::Stage(uint64_t slab, const FrameTable* table, uint64_t code, uint64_t data) {
  ForgetReclaimed();
  reclaimed_.reserve(kMostReclaimed);
  Staged staged{GroupOf(slab, code), {}};
  if (table != nullptr) {
    const size_t size = table->bytes.size();
    staged.table = {code, TakeBytes(size), static_cast<uint32_t>(size), false};
    std::memcpy(staged.table.bytes.get(), table->bytes.data(), size);
    for (const FrameTable::Fixup& fixup : table->fixups)
      StoreAs<uint64_t>(staged.table.bytes.get() + fixup.at,
                        (fixup.section == Section::kCode ? code : data) + fixup.offset);
  } else if (auto found = groups_.find(staged.group); found == groups_.end() || !found->second.HasReclaimed()) {
    return;
  }
  staged_.push_back(std::move(staged));
}

template <class Visit>
void FrameTables::ForEachStagedGroup(Visit visit) {
  for (auto begin = staged_.begin(); begin != staged_.end();) {
    auto end = std::find_if(begin, staged_.end(), [&](const Staged& staged) { return staged.group != begin->group; });
    visit(begin->group, begin, end);
    begin = end;
  }
}

void FrameTables::Prepare() {
  std::sort(staged_.begin(), staged_.end(), [](const Staged& a, const Staged& b) {
    return a.group != b.group ? a.group < b.group : a.table.code < b.table.code;
  });
  ForEachStagedGroup([&](uint64_t key, auto begin, auto end) {
    Group& group = groups_[key];
    const size_t most = group.tables.size() + static_cast<size_t>(end - begin);
    group.next = std::make_unique<os::UnwinderList>(most);
    if (group.tables.capacity() < most) group.tables.reserve(most + most / 2);
  });
}

void FrameTables::Commit() {
  ForEachStagedGroup([&](uint64_t key, auto begin, auto end) {
    Group& group = groups_.find(key)->second;
    std::unique_ptr<os::UnwinderList> old = std::exchange(group.registered, std::move(group.next));
    const void** next = group.registered->tables.get();
    for (const Table& table : group.tables)
      if (!table.reclaimed) *next++ = table.bytes.get();
    for (auto staged = begin; staged != end; ++staged)
      if (staged->table.bytes != nullptr) *next++ = staged->table.bytes.get();
    TestPoint(TestPointId::kFramesListed);
    os::Register(*group.registered);
    if (old != nullptr) os::Deregister(*old);
    if (group.HasReclaimed()) std::erase_if(group.tables, [](const Table& table) { return table.reclaimed; });
    const auto known = static_cast<ptrdiff_t>(group.tables.size());
    for (auto staged = begin; staged != end; ++staged)
      if (staged->table.bytes != nullptr) group.tables.push_back(std::move(staged->table));
    // Without memory for its buffer it takes longer, and no more than that.
    std::inplace_merge(group.tables.begin(), group.tables.begin() + known, group.tables.end(),
                       [](const Table& a, const Table& b) { return a.code < b.code; });
    group.live = group.tables.size();
  });
  staged_.clear();
}

void FrameTables::Drop() {
  for (const Staged& staged : staged_) {
    auto found = groups_.find(staged.group);
    if (found == groups_.end()) continue;
    found->second.next.reset();
    if (found->second.registered == nullptr) groups_.erase(found);
  }
  staged_.clear();
}

void FrameTables::Group::Forget(const Place* begin, const Place* end) {
  for (size_t at = Find(begin->code); begin != end; ++begin) {
    while (at < tables.size() && tables[at].code < begin->code) at++;
    if (at == tables.size()) return;
    if (tables[at].code != begin->code || tables[at].reclaimed) continue;
    tables[at].reclaimed = true;
    live--;
  }
}

void FrameTables::ForgetReclaimed() {
  // The order of groups is that of their code.
  std::sort(reclaimed_.begin(), reclaimed_.end(), [](const Place& a, const Place& b) { return a.code < b.code; });
  for (const Place *begin = reclaimed_.data(), *end = begin + reclaimed_.size(); begin != end;) {
    const Place* next = std::find_if(begin, end, [&](const Place& place) { return place.group != begin->group; });
    if (auto found = groups_.find(begin->group); found != groups_.end()) {
      found->second.Forget(begin, next);
      if (found->second.live == 0) {
        os::Deregister(*found->second.registered);
        groups_.erase(found);
      }
    }
    begin = next;
  }
  reclaimed_.clear();
}

size_t FrameTables::MetadataBytes() const {
  size_t bytes = reclaimed_.capacity() * sizeof(Place);
  for (const auto& [key, group] : groups_) {
    bytes += sizeof group + sizeof(os::UnwinderList) + group.tables.capacity() * (sizeof(Table) + sizeof(void*));
    for (const Table& table : group.tables) bytes += table.size;
  }
  return bytes;
}

bool FrameTables::Knows(uint64_t slab, uint64_t code) const {
  auto found = groups_.find(GroupOf(slab, code));
  return found != groups_.end() && found->second.Knows(code);
}

size_t FrameTables::tables() const {
  size_t live = 0;
  for (const auto& [key, group] : groups_) live += group.live;
  return live;
}

const char* FrameTables::FindBrokenRule() const {
  for (const auto& [key, group] : groups_) {
    if (group.registered == nullptr || group.live == 0) return "a group of frame tables is not registered";
    size_t live = 0;
    const void* const* listed = group.registered->tables.get();
    for (size_t i = 0; i < group.tables.size(); i++) {
      const Table& table = group.tables[i];
      if (i != 0 && group.tables[i - 1].code >= table.code) return "frame tables are not in the order of their code";
      live += !table.reclaimed;
      const void* const* entry = listed;
      while (*entry != nullptr && *entry != table.bytes.get()) entry++;
      if (*entry == nullptr) return "the unwinder was not told of a frame table";
    }
    if (live != group.live) return "the live frame tables of a group are miscounted";
  }
  return staged_.empty() ? nullptr : "frame tables are staged and neither committed nor dropped";
}

}  // namespace jit_arena
