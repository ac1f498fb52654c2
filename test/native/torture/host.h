// The arena as the torture uses it: the one file that knows by which API.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "core/arena.h"
#include "torture/program.h"

namespace torture {

using jit_arena::ErrorCode;
using jit_arena::ExecutorId;

struct HostOptions {
  uint64_t max_bytes;
  uint64_t max_retired_bytes;  // 0: the default
  jit_arena::os::WriterKind writer;
  bool apart;
  bool without_barrier;
};

struct Taken {
  ExecutorId executor;  // 0: done
  uint32_t exit;
};

struct Collected {
  bool done;
  uint64_t moved;
  std::vector<ExecutorId> evicted;
};

// Errors are codes, kOk for none; the last message of the calling thread is kept.
class Host {
 public:
  using Thread = jit_arena::PinSlot;

  explicit Host(const HostOptions& options);

  // Once per thread, which keeps it to itself.
  Thread* Attach() { return arena_->reclaimer().Attach(); }
  void Detach(Thread* thread) { arena_->reclaimer().Detach(thread); }
  void Enter(Thread* thread) { arena_->reclaimer().Enter(*thread); }
  void Leave(Thread* thread) { arena_->reclaimer().Leave(*thread); }
  // Under a pin; 0 when the id is stale.
  uint64_t Entry(Thread*, ExecutorId id) { return arena_->EntryOf(id); }

  // Under pins of their own. False: the id is stale.
  bool Run(Thread* thread, ExecutorId id, Context* context, Taken* taken);
  bool Call(Thread* thread, ExecutorId id, Context* context, uint64_t* result);

  ErrorCode Install(Thread* thread, const std::vector<Program>& programs, ExecutorId* ids);
  // Each by itself: allocate, then freeze. Programs that refer to others of a list cannot do so.
  ErrorCode AllocateAndFreeze(Thread* thread, const std::vector<Program>& programs, ExecutorId* ids);
  ErrorCode Free(Thread* thread, const std::vector<ExecutorId>& ids);
  ErrorCode Invalidate(Thread* thread, ExecutorId id);
  ErrorCode Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry);
  ErrorCode Unlink(ExecutorId source, uint32_t exit);
  ErrorCode UnlinkAll();
  ErrorCode Replace(ExecutorId old_id, ExecutorId new_id);
  Collected Collect(Thread* thread, bool slice, bool evict_cold);
  void Plan() { arena_->PlanCompaction(); }

  // kOk, or what the exit of a stale or live executor says; 0 when it says nothing.
  ErrorCode ExitTag(ExecutorId id, uint32_t exit, uint32_t* tag);
  uint64_t ReadState(ExecutorId id, uint32_t offset);
  uint64_t retired_bytes() { return arena_->Stats().retired_bytes; }
  bool Contains(uint64_t address) const { return arena_->Contains(address); }
  // The first broken invariant in words, or empty.
  std::string FindBroken() { return arena_->CheckInvariants(); }

 private:
  std::unique_ptr<jit_arena::Arena> arena_;
};

// Of the calling thread's last failure.
const std::string& LastMessage();

}  // namespace torture
