// The operating system's side of executable memory: one class per writer, one file per OS.
//
// A *writer* is the way in which bytes reach memory that is executable (or read-only), and it decides the kind of
// memory. No value of Access is both writable and executable, so no caller can ask for such a mapping.
//
// Calls on one Memory are serialised by its owner. Ranges passed in are page-aligned, lie in one reservation and were
// committed in the same pieces, unless a declaration says otherwise. Nothing here allocates from the arena, takes the
// arena's lock or knows about executors.
//
// In a forked child a Memory of the parent is dead: what can fail is ERR_ARENA_FORKED, Decommit and Unreserve do
// nothing, and Write must not be called. With ForkMode::kDrop (the default) that stays so, since the child has none of
// the mappings. With kCopy it is the child's own after EnterChild; where it is shared(), the child then commits anew
// what it keeps, which takes the place of what it has inherited.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "os/fork.h"

namespace jit_arena::os {

enum class Access : uint8_t {
  kCode,   // read + execute
  kData,   // read only
  kState,  // read + write, private to the process, never executable
};

enum class WriterKind : uint8_t { kAlias, kProcmem, kFlip };
inline constexpr int kWriterKinds = 3;
const char* WriterName(WriterKind kind);  // "alias", "procmem", "flip"

// Bytes of an OS page.
size_t PageBytes();
// Bytes behind one entry of the second level of page tables (2 MiB with pages of 4 KiB), or 0 where that is too much to
// be of use.
size_t HugePageBytes();

class Memory {
 public:
  virtual ~Memory() = default;

  virtual WriterKind writer() const = 0;

  // Reserves address space without access, at a base that the kernel chooses. ERR_ARENA_NO_MEMORY when refused.
  virtual Result<uint8_t*> Reserve(size_t bytes) = 0;
  // What the kernel does not take back stays, inaccessible, and is tried again at the next Reserve of the process.
  virtual void Unreserve(uint8_t* base, size_t bytes) = 0;
  // Reserve, at `wish` (a multiple of a page) if the kernel can; it may choose another base.
  virtual Result<uint8_t*> ReserveNear(uint8_t* /*wish*/, size_t bytes) { return Reserve(bytes); }

  // Backs [at, at + bytes) with zeroed memory that is born with its access; pages become resident on first touch.
  // Returns the writer's view: for kState `at` itself; for kCode and kData a second, writable address of the same
  // memory (alias), or null (procmem, flip). On failure the range is to be taken for reserved: what could not be undone
  // has no memory, and the next Commit there takes its place.
  // ERR_ARENA_NO_MEMORY, ERR_ARENA_NO_EXEC.
  virtual Result<uint8_t*> Commit(Access access, uint8_t* at, size_t bytes) = 0;

  // The reverse of Commit, for the whole of what one Commit made; nobody uses the memory any more. When the kernel
  // refuses, it keeps the memory, and the same call may be made again. `*view`: as Commit returned it, null once it is
  // gone.
  virtual Status Decommit(Access access, uint8_t* at, size_t bytes, uint8_t** view) = 0;
  // The last Decommit before Unreserve: what is refused goes with the reservation, and a view, which lies elsewhere, as
  // Unreserve has it.
  void DecommitForGood(Access access, uint8_t* at, size_t bytes, uint8_t* view) {
    if (!Decommit(access, at, bytes, &view).ok() && view != nullptr && view != at) Unreserve(view, bytes);
  }

  // Gives the pages of part of one commit back and takes their access away: punched memory is never left mapped
  // executable. Splits mappings, so the caller limits how many holes it makes. On failure nothing has changed.
  // `view` is the view of `at`. False when the access is gone and the kernel has kept the pages, which are zero:
  // PunchAgain tries to give back such a range.
  virtual Result<bool> Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) = 0;
  virtual bool PunchAgain(Access /*access*/, uint8_t* /*at*/, size_t /*bytes*/, uint8_t* /*view*/) { return true; }

  // Undoes Punch: the pages are zero and have their access again. Fails where MDWE forbids it (then CanPunch is
  // false from the start) or at the mapping limit; on failure the range stays punched.
  virtual Status Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) = 0;
  virtual bool CanPunch() const = 0;

  // Puts a huge page behind each HugePageBytes() of committed memory, so that executing needs fewer entries of the
  // processor's translation buffers. `at` and `bytes` are multiples of HugePageBytes(); copies the memory, while other
  // threads may execute it (they wait). False, with nothing changed that anyone sees, where the system does not.
  virtual bool BackByHugePages(uint8_t* at, size_t bytes) = 0;

  // A write window over committed code or data for writers without a view.
  //   OpenWindow: may be called for a range that is open already (counted). Flip makes it RW; procmem nothing. Both
  //               first try on a scratch page what Write and CloseWindow will do: ERR_ARENA_WRITER_UNAVAILABLE when
  //               the writer has stopped working.
  //   Write:      copies `bytes` bytes into an open window. Cannot fail.
  //   CloseWindow: the memory has its access back. Cannot fail.
  // Where the kernel refuses either of the last two all the same, there is a second way (linux_pages::Replace). Only
  // when both are refused between OpenWindow and CloseWindow the process ends, since code is half written.
  // With a view (alias) the caller writes through it and none of the three is called.
  virtual Status OpenWindow(Access access, uint8_t* at, size_t bytes) = 0;
  virtual void Write(Access access, uint8_t* at, const uint8_t* from, size_t bytes) = 0;
  virtual void CloseWindow(Access access, uint8_t* at, size_t bytes) = 0;

  // Forks (docs/fork.md). As they stand here they are right for memory that the kernel copies for a child.

  // Before the first Reserve; kDrop unless called.
  virtual void SetForkMode(ForkMode) {}
  // True when code and data lie in memory that a child shares with its parent. The child inherits them without the
  // writer's view. Before their bytes change, by a write or by Punch, the owner waits for children that still copy them
  // (ForkHandshake); Decommit changes nothing for a child.
  virtual bool shared() const { return false; }
  // In a forked child, first: with kDrop gives up what reaches into the parent's memory; with kCopy the Memory is this
  // process's from now on. On failure (ERR_ARENA_FORKED, ERR_ARENA_NO_MEMORY) it is dead here.
  virtual Status EnterChild() { return Status::Ok(); }
};

// A Memory with the given writer, which has been tried (0.1 ms); ERR_ARENA_WRITER_UNAVAILABLE with the reason when it
// does not work here.
Result<std::unique_ptr<Memory>> OpenMemory(WriterKind kind);

// What each writer does on this machine, found by trying it: write a function, execute it, rewrite it, execute it.
struct ProbeResult {
  WriterKind writer;
  bool available;
  std::string reason;  // empty when available
};
std::vector<ProbeResult> Probe();

// Makes bytes just written at the executable address `at` visible to instruction fetch of this core.
void FlushInstructionCache(const uint8_t* at, size_t bytes);

// Makes every core that runs a thread of this process execute a core-serialising instruction before it goes on:
// membarrier(PRIVATE_EXPEDITED_SYNC_CORE), registered once per process. False where the kernel has none.
bool SynchroniseCores();

// Monotonic time in nanoseconds.
uint64_t NowNanos();

// The calling thread's stack, from its lowest address to behind its highest; everything where the system does not say.
struct StackBounds {
  uintptr_t low;
  uintptr_t high;
};
StackBounds ThisThreadsStack();

// Address of a symbol of the process (dlsym), or null.
const void* FindSymbol(const char* name);

// Counts the mappings of this process that are writable and executable and share an address with [base, base + bytes);
// (nullptr, SIZE_MAX) is the whole process. For invariants and tests. False when the system does not say.
bool CountWritableExecutable(const uint8_t* base, size_t bytes, size_t* found);

}  // namespace jit_arena::os
