// Linux: what the three writers share.
//
// Memory comes in two kinds. *Private* anonymous memory (procmem, flip, and every writer's state) is replaced as a
// whole by one mmap(MAP_FIXED), which is at once atomic and allowed under MDWE, since what it makes is born with its
// access. *Shared* memory (alias) has a second view and is therefore never replaced while it lives: see linux_alias.cc.
//
// With ForkMode::kDrop every mapping is MADV_DONTFORK: a child has none of them, and what the kernel puts there in the
// child belongs to the child. So in a child Decommit and Unreserve do nothing, Write aborts, and the rest is
// ERR_ARENA_FORKED. With kCopy the kernel copies private memory for the child, and shared memory is inherited until the
// child replaces it; a writer's second view never is, so that no child can write into its parent's code.
// (A fork between a mmap and its madvise would let one new slab through. Arenas keep their lock around fork().)
//
// Calls on one Memory are serialised by its owner (the arena's lock); different ones may be used at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "os/memory.h"
#include "os/trial.h"

namespace jit_arena::os {

class LinuxMemory : public Memory {
 public:
  ~LinuxMemory() override;
  Result<uint8_t*> Reserve(size_t bytes) override { return LinuxMemory::ReserveNear(nullptr, bytes); }
  Result<uint8_t*> ReserveNear(uint8_t* wish, size_t bytes) override;
  void Unreserve(uint8_t* base, size_t bytes) override;

  // For private memory; LinuxAlias overrides them for code and data.
  Result<uint8_t*> Commit(Access access, uint8_t* at, size_t bytes) override;
  Status Decommit(Access access, uint8_t* at, size_t bytes, uint8_t** view) override;
  Result<bool> Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  Status Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  bool CanPunch() const override { return true; }
  bool BackByHugePages(uint8_t* at, size_t bytes) override;
  void SetForkMode(ForkMode mode) override { fork_mode_ = mode; }
  Status EnterChild() override;

 protected:
  ForkMode fork_mode() const { return fork_mode_; }
  // True in a child of the process that this belongs to.
  bool Forked() const { return ForkGeneration() != generation_; }
  // ERR_ARENA_FORKED in a child.
  Status CheckOwner() const;
  // A page of code on which a writer tries what it is about to do. It lives as long as the memory.
  Status MakeScratch();
  uint8_t* scratch() const { return scratch_; }
  // The error of a writer that worked once.
  Status Stopped(const std::string& why) const;

 private:
  uint8_t* scratch_ = nullptr;
  uint32_t generation_ = ForkGeneration();
  ForkMode fork_mode_ = ForkMode::kDrop;
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
// adopted. On failure the range is inaccessible and reserved again, or, where the kernel refuses even that, as it was
// or without pages: the next MapOver takes its place.
Status MapOver(Access access, uint8_t* at, size_t bytes, int flags, int fd, ForkMode mode);

// A memfd of that size, or -1 with errno.
int OpenMemfd(size_t bytes);

// A second way to change private memory of a writer that has no view, for when the first is refused in the middle: puts
// new pages in the place of those that hold [at, at + bytes), with `from` there and what they held around it (all of it
// when `from` is null), born with the access. Others may execute meanwhile. False with errno when this is refused too.
bool Replace(Access access, uint8_t* at, const uint8_t* from, size_t bytes, ForkMode mode);

// munmap. What the kernel keeps is remembered, up to a limit, and tried again at each later call (`at` null: nothing
// else).
void Unmap(void* at, size_t bytes);

// Makes the range inaccessible and gives its pages back. False with errno when the kernel refuses.
bool MapNone(uint8_t* at, size_t bytes, ForkMode mode);

// A name in /proc/PID/maps and, with kDrop, DONTFORK. False with errno when DONTFORK is refused.
bool Adopt(const uint8_t* at, size_t bytes, const char* name, ForkMode mode);

// The Status of a refused call: what was attempted, the errno, what usually forbids it and what of that is in force.
Status Refused(const char* what, size_t bytes, bool executable, int error);

// True when /proc/self/maps shows the page at `at` as executable, or cannot be read.
bool IsExecutable(const uint8_t* at);

}  // namespace linux_pages

}  // namespace jit_arena::os
