// Linux: reservations and private memory.
#include "os/linux_memory.h"

#include <errno.h>
#include <sys/mman.h>

#include <utility>

namespace jit_arena::os {

Result<std::unique_ptr<Memory>> OpenWriter(WriterKind kind, Trial trial) {
  switch (kind) {
    case WriterKind::kAlias:
      return OpenAlias(trial);
    case WriterKind::kProcmem:
      return OpenProcmem(trial);
    case WriterKind::kFlip:
      return OpenFlip(trial);
  }
  return Error{ErrorCode::kWriterUnavailable, "no such writer"};
}

Status LinuxMemory::CheckOwner() const {
  if (!Forked()) return Status::Ok();
  return Error{ErrorCode::kForked, "the memory of the arena belongs to the process that this one was forked from"};
}

LinuxMemory::~LinuxMemory() {
  if (scratch_ != nullptr && !Forked()) linux_pages::Unmap(scratch_, PageBytes());
}

Status LinuxMemory::MakeScratch() {
  Result<uint8_t*> reserved = Reserve(PageBytes());
  if (!reserved.ok()) return std::move(reserved.status());
  scratch_ = reserved.value();
  // Not for children: each makes its own.
  return linux_pages::MapOver(Access::kCode, scratch_, PageBytes(), MAP_PRIVATE | MAP_ANONYMOUS, -1, ForkMode::kDrop);
}

Status LinuxMemory::Stopped(const std::string& why) const {
  return Error{ErrorCode::kWriterUnavailable,
               Format("the writer '%s' has stopped working in this process: %s", WriterName(writer()), why.c_str())};
}

Status LinuxMemory::EnterChild() {
  if (fork_mode_ == ForkMode::kCopy) generation_ = ForkGeneration();
  if (Status forked = CheckOwner()) return forked;
  // The parent's was not inherited.
  return std::exchange(scratch_, nullptr) == nullptr ? Status::Ok() : MakeScratch();
}

Result<uint8_t*> LinuxMemory::ReserveNear(uint8_t* wish, size_t bytes) {
  if (Status forked = CheckOwner()) return forked;
  linux_pages::Unmap(nullptr, 0);
  void* base = mmap(wish, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return linux_pages::Refused("reserving address space", bytes, false, errno);
  if (!linux_pages::Adopt(static_cast<uint8_t*>(base), bytes, "jit-arena reserved", fork_mode_)) {
    int error = errno;
    linux_pages::Unmap(base, bytes);
    return linux_pages::Refused("keeping reserved address space out of forked children", bytes, false, error);
  }
  return static_cast<uint8_t*>(base);
}

void LinuxMemory::Unreserve(uint8_t* base, size_t bytes) {
  // Two reservations side by side are one mapping to the kernel, and cutting one out of the middle can fail at the
  // mapping limit.
  if (!Forked()) linux_pages::Unmap(base, bytes);
}

Result<uint8_t*> LinuxMemory::Commit(Access access, uint8_t* at, size_t bytes) {
  if (Status forked = CheckOwner()) return forked;
  if (Status failed = linux_pages::MapOver(access, at, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, fork_mode_))
    return failed;
  return access == Access::kState ? at : nullptr;
}

Status LinuxMemory::Decommit(Access, uint8_t* at, size_t bytes, uint8_t** view) {
  // The kernel merges neighbouring private mappings, so that releasing a slab may have to split one, which fails at the
  // mapping limit.
  if (!Forked() && !linux_pages::MapNone(at, bytes, fork_mode_))
    return linux_pages::Refused("giving back a slab", bytes, false, errno);
  *view = nullptr;
  return Status::Ok();
}

Result<bool> LinuxMemory::Punch(Access, uint8_t* at, size_t bytes, uint8_t*) {
  if (Status forked = CheckOwner()) return forked;
  if (linux_pages::MapNone(at, bytes, fork_mode_)) return true;
  return linux_pages::Refused("giving back pages inside a slab", bytes, false, errno);
}

Status LinuxMemory::Restore(Access access, uint8_t* at, size_t bytes, uint8_t*) {
  if (Status forked = CheckOwner()) return forked;
  return linux_pages::MapOver(access, at, bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1, fork_mode_);
}

bool LinuxMemory::BackByHugePages(uint8_t* at, size_t bytes) {
  if (Forked()) return false;
  // Newer than the headers of some systems that we build on; Linux 6.1.
  constexpr int kMadvCollapse = 25;
  // EINVAL where nothing has been read through this mapping yet: it has no page table.
  for (size_t offset = 0; offset < bytes; offset += HugePageBytes())
    (void)*const_cast<const volatile uint8_t*>(at + offset);
  return madvise(at, bytes, kMadvCollapse) == 0;
}

}  // namespace jit_arena::os
