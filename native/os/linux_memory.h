// Linux: what the three writers share.
//
// Memory comes in two kinds. *Private* anonymous memory (procmem, flip, and every writer's state) is replaced as a
// whole by one mmap(MAP_FIXED), which is at once atomic and allowed under MDWE, since what it makes is born with its
// access. *Shared* memory (alias) has a second view and is therefore never replaced while it lives: see linux_alias.cc.
//
// Every mapping is MADV_DONTFORK: a child has none of them, and what the kernel puts there in the child belongs to the
// child. So in a child Decommit and Unreserve do nothing, Write aborts (an inherited /proc/self/mem writes into the
// parent), and the rest is ERR_ARENA_FORKED. (A fork by another thread between a mmap and its madvise lets one new slab
// through; nothing in the child uses it.)
//
// Calls on one Memory are serialised by its owner (the arena's lock); different ones may be used at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "os/memory.h"
#include "os/trial.h"

namespace jit_arena::os {

class LinuxMemory : public Memory {
 public:
  Result<uint8_t*> Reserve(size_t bytes) override;
  void Unreserve(uint8_t* base, size_t bytes) override;

  // For private memory; LinuxAlias overrides them for code and data.
  Result<uint8_t*> Commit(Access access, uint8_t* at, size_t bytes) override;
  void Decommit(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  Status Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  Status Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  bool CanPunch() const override { return true; }

 protected:
  // True in a child of the process that made this.
  bool Forked() const { return ForkGeneration() != generation_; }
  // ERR_ARENA_FORKED in a child.
  Status CheckOwner() const;

 private:
  const uint32_t generation_ = ForkGeneration();
};

// Where an alias gets its shared memory: see linux_alias.cc.
enum class AliasSource : uint8_t { kAnonymous, kMemfd };

// OpenWriter for each writer.
Result<std::unique_ptr<Memory>> OpenAlias(Trial trial);
Result<std::unique_ptr<Memory>> OpenAliasFrom(AliasSource source, Trial trial);
Result<std::unique_ptr<Memory>> OpenProcmem(Trial trial);
Result<std::unique_ptr<Memory>> OpenFlip(Trial trial);

namespace linux_pages {

int Protection(Access access);  // PROT_*

// Maps [at, at + bytes) anew over whatever is there (`flags`: MAP_PRIVATE or MAP_SHARED with MAP_ANONYMOUS, or a file),
// DONTFORK and named. On failure the range is inaccessible and reserved again.
Status MapOver(Access access, uint8_t* at, size_t bytes, int flags, int fd);

// Makes the range inaccessible and gives its pages back. False with errno when the kernel refuses.
bool MapNone(uint8_t* at, size_t bytes);

// DONTFORK and a name in /proc/PID/maps. False with errno when DONTFORK is refused.
bool Adopt(const uint8_t* at, size_t bytes, const char* name);

// The Status of a refused call: what was attempted, the errno, what usually forbids it and what of that is in force.
Status Refused(const char* what, size_t bytes, bool executable, int error);

// True when /proc/self/maps shows the page at `at` as executable, or cannot be read.
bool IsExecutable(const uint8_t* at);

}  // namespace linux_pages

}  // namespace jit_arena::os
