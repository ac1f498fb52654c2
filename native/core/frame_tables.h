// What the process's unwinder knows of the arena's code: how each frame is left, and where exceptions are handled.
//
// An executor may bring a FrameTable, in the form of .eh_frame (DWARF 4, 6.4.1; LSB 5.0, 10.6). The unwinder reads
// tables with the addresses of one place, at any time, on any thread that throws. So each place of the executor has a
// table of its own: it is made and registered before the first thread can enter the code there, and it is taken back
// when the memory is reclaimed, since then no thread can be inside. A thread that throws in an old copy finds the old
// copy's table.
//
// The tables are memory of the process, not of the arena: a forked child without the arena's memory still has them.
//
// One registration for each executor is not enough. Up to gcc 12 the unwinder goes through its registrations one by
// one. There the tables of a slab are registered as one list, and a change registers a new list before the old one is
// taken back. From gcc 13 on registrations are found by address, and two of them may not overlap for a moment. There
// each table is a registration. os::UnwinderTakesOverlaps tells them apart.
//
// What was reclaimed is noted, and looked up many at a time: a free should not wait for the lines of memory that tell
// which table it was. That table stays in its slab's list until the list changes, which is before anything else is
// published in the slab. So the unwinder may know a frame for somewhat longer than it can be open.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "os/unwinder.h"

namespace jit_arena {

// A table before it has a place. It does not change, and many executors may share it.
struct FrameTable {
  // 8 bytes of the table, which hold the address of a byte of the executor.
  struct Fixup {
    uint32_t at;
    Section section;  // kCode or kData
    uint64_t offset;
  };
  std::vector<uint8_t> bytes;  // ends with 4 zeros
  std::vector<Fixup> fixups;
};

// Under the arena's lock. A change is staged table by table, prepared, and then committed or dropped.
class FrameTables {
 public:
  FrameTables() : groups_() {}
  ~FrameTables();
  FrameTables(const FrameTables&) = delete;
  FrameTables& operator=(const FrameTables&) = delete;

  // Nothing has been registered, or all of it has been taken back.
  bool empty() const { return groups_.empty(); }

  // An executor will be published with its code and data at these addresses. `slab` is the slab of the code. `table` is
  // null for an executor that brings none: the unwinder must not take it for what was at its place before. Throws
  // std::bad_alloc.
  void Stage(uint64_t slab, const FrameTable* table, uint64_t code, uint64_t data);
  // Takes all memory that Commit needs. Throws std::bad_alloc.
  void Prepare();
  // Before anything that was staged is published.
  void Commit();
  void Drop();

  // What was at `code` has been reclaimed. Takes no memory.
  void Reclaimed(uint64_t slab, uint64_t code) {
    reclaimed_.push_back({GroupOf(slab, code), code});
    if (reclaimed_.size() == kMostReclaimed || !os::UnwinderTakesOverlaps()) ForgetReclaimed();
  }
  // Looks up what has been reclaimed since the last time, and ends the registrations that nobody needs any more.
  void ForgetReclaimed();

  // In a forked child that does not have the arena: the unwinder goes on reading what it inherited. Only the destructor
  // may follow.
  void Disown() { disowned_ = true; }
  size_t MetadataBytes() const;
  // Rules: the tables of a group are in order, and registered. The first broken one in words, or empty.
  const char* FindBrokenRule() const;
  // Whether the unwinder knows the place of an executor's code.
  bool Knows(uint64_t slab, uint64_t code) const;
  // For tests.
  size_t registrations() const { return groups_.size(); }
  size_t tables() const;  // but for what has been noted as reclaimed

 private:
  struct Table {
    uint64_t code = 0;
    std::shared_ptr<uint8_t[]> bytes;  // in a chunk
    uint32_t size = 0;
    bool reclaimed = false;
  };
  struct Place {
    uint64_t group;
    uint64_t code;
  };
  struct Staged {
    uint64_t group;
    Table table;  // without bytes: of an executor that brings none
  };
  struct Group {
    std::vector<Table> tables;  // by code; the registered list names all of them
    size_t live = 0;            // of them: not reclaimed
    std::unique_ptr<os::UnwinderList> registered;
    std::unique_ptr<os::UnwinderList> next;  // prepared

    bool HasReclaimed() const { return live != tables.size(); }
    void Forget(const Place* begin, const Place* end);  // that were reclaimed, in order
    size_t Find(uint64_t code) const;                   // the position of the first that is not in front of it
    bool Knows(uint64_t code) const;
  };

  // Memory for a table, beside that of others which are published together: what has a heap block of its own scatters
  // everything else. A chunk ends with its last table, and a collect that moves the code together does so with the
  // tables. Throws std::bad_alloc.
  std::shared_ptr<uint8_t[]> TakeBytes(size_t size);
  // Calls visit(key, begin, end) for what is staged of each group, once it is sorted.
  template <class Visit>
  void ForEachStagedGroup(Visit visit);
  // The same for as long as the process is there, once a table can have been staged: hosts ask os::FindUnwinder before.
  static uint64_t GroupOf(uint64_t slab, uint64_t code) { return os::UnwinderTakesOverlaps() ? slab : code; }

  // In a union, so that disowned groups have no destructor: to move them elsewhere would take memory.
  union {
    std::unordered_map<uint64_t, Group> groups_;
  };
  bool disowned_ = false;
  std::vector<Staged> staged_;
  static constexpr size_t kChunkBytes = 4096;
  std::shared_ptr<uint8_t[]> chunk_;
  uint8_t* chunk_end_ = nullptr;
  size_t chunk_left_ = 0;
  static constexpr size_t kMostReclaimed = 8192;
  std::vector<Place> reclaimed_;  // room for all of them is there once there is a table
};

// The executor's table, if it has one, for a place that its code and data will have. Throws std::bad_alloc.
inline void StageFrames(const CodeSpace& space, const ExecutorTable& table, FrameTables& frames, uint32_t index,
                        SpanId code, SpanId data) {
  const Executor& executor = table[index];
  if (!executor.has_frames && frames.empty()) return;
  const uint64_t at = space.AddressOf(code);
  frames.Stage(space.SlabOf(code).first(), executor.has_frames ? table.FindNotes(index)->frames.get() : nullptr, at,
               data != 0 ? space.AddressOf(data) : at + executor.DataOffset());
}

inline void ForgetFrames(const CodeSpace& space, FrameTables& frames, SpanId code) {
  if (code != 0 && !frames.empty()) frames.Reclaimed(space.SlabOf(code).first(), space.AddressOf(code));
}

}  // namespace jit_arena
