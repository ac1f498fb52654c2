#include "core/arena.h"

#include <algorithm>
#include <bit>
#include <thread>

#include "base/bits.h"
#include "base/room.h"

namespace jit_arena {
namespace {

// How long a write that needs the gate waits for other threads to leave before it says ERR_ARENA_BUSY.
constexpr uint64_t kGateBoundNanos = 100'000'000;

#if JIT_ARENA_DEBUG
constexpr bool kDebug = true;
#else
constexpr bool kDebug = false;
#endif

// At least 16 pages, so that a page more or less in use is worth little of a slab.
uint32_t SlabBytes(const ArenaOptions& options) {
  if (options.huge_pages && os::HugePageBytes() != 0) return static_cast<uint32_t>(os::HugePageBytes());
  return static_cast<uint32_t>(std::max<uint64_t>(kSlabBytes, 16 * os::PageBytes()));
}

// With a slab more for the arena's own code, so that the host has all that it asked for.
uint64_t BytesToReserve(const ArenaOptions& options) {
  return std::min(AlignUp(options.max_bytes + SlabBytes(options), SlabBytes(options)), arch::kMaxArenaBytes);
}

}  // namespace

Arena::Arena(const ArenaOptions& options, std::unique_ptr<os::Memory> memory)
    : fork_generation_(os::ForkGeneration()),
      fork_(options.fork),
      name_(options.name),
      apart_(options.apart),
      max_retired_bytes_(options.max_retired_bytes),
      space_(std::move(memory), BytesToReserve(options), SlabBytes(options)),
      // An executor takes a granule at least, and a direct reference four bytes.
      table_(static_cast<uint32_t>(BytesToReserve(options) / kGranuleBytes) + 1),
      linker_(space_, table_, static_cast<uint32_t>(BytesToReserve(options) / 4), options.full_records || kDebug),
      collector_(space_, table_, linker_.relocator, linker_.exits, reclaimer_, frames_, events_),
      own_code_(space_),
      max_chain_depth_(options.max_chain_depth),
      gated_writes_(space_.memory().writer() == os::WriterKind::kFlip || options.without_barrier ||
                    !os::SynchroniseCores()) {
  stats_.size_classes.reserve(kSizeClasses);
}

Arena::~Arena() {
  Unregister();
  if (in_own_process()) return;
  space_.Disown();
  frames_.Disown();
}

Result<std::unique_ptr<Arena>> Arena::Create(const ArenaOptions& options, std::unique_ptr<os::Memory> memory) {
  if (options.max_bytes == 0 || options.max_bytes > arch::kMaxArenaBytes)
    return Error{ErrorCode::kSize, Format("maxBytes is %llu; direct branches of %s reach at most %llu bytes",
                                          Wide(options.max_bytes), arch::kCpuName, Wide(arch::kMaxArenaBytes))};
  if (options.exit_threshold < 1 || options.exit_threshold > 4096 || !(options.exit_growth >= 1))
    return Error{ErrorCode::kSize, Format("the exit threshold is %u and its growth %g; 1 to 4096, and 1 or more",
                                          options.exit_threshold, options.exit_growth)};
  if (memory == nullptr && options.writer) {
    Result<std::unique_ptr<os::Memory>> opened = os::OpenMemory(*options.writer);
    if (!opened.ok()) return std::move(opened.status());
    memory = std::move(opened.value());
  }
  if (memory == nullptr) {
    // The first writer that works, in the order of preference; the reasons of all, when none does.
    std::string reasons;
    for (int kind = 0; kind < os::kWriterKinds && memory == nullptr; kind++) {
      Result<std::unique_ptr<os::Memory>> opened = os::OpenMemory(static_cast<os::WriterKind>(kind));
      if (opened.ok())
        memory = std::move(opened.value());
      else if (opened.status().out_of_memory())
        return std::move(opened.status());
      else
        reasons += (reasons.empty() ? "" : "; ") + opened.status().error().message;
    }
    if (memory == nullptr) return Error{ErrorCode::kNoExec, "no writer works here: " + reasons};
  }

  memory->SetForkMode(options.fork);
  std::unique_ptr<Arena> arena(new Arena(options, std::move(memory)));
  if (Status failed = arena->space_.Reserve(BytesToReserve(options))) return failed;
  if (arena->max_retired_bytes_ == 0) arena->max_retired_bytes_ = arena->space_.bytes() / 4;
  if (Status failed = arena->own_code_.AddGateAndStubs()) return failed;
  arena->linker_.exits.SetStubs(arena->own_code_.exit_stub(), arena->own_code_.done_stub(), options.exit_threshold,
                                options.exit_growth);
  arena->Register();
  return arena;
}

Result<Executor*> Arena::FindExecutor(ExecutorId id) {
  Executor* executor = table_.Find(id);
  if (executor != nullptr) return executor;
  bool known = IndexOf(id) != 0 && IndexOf(id) < table_.size() && GenerationOf(id) != 0 &&
               GenerationOf(id) <= table_[IndexOf(id)].Generation();
  return ExecutorError(ErrorCode::kStaleExecutor, id,
                       known ? Format("executor %llu is gone: it has been freed", Wide(id))
                             : Format("executor %llu never existed in this arena", Wide(id)));
}

Status Arena::Place(uint32_t index, const ExecutorSpec& spec) {
  Executor& executor = table_[index];
  auto allocate = [&](Zone zone, uint32_t bytes, uint32_t align, Section section, SpanId* span) {
    Result<SpanId> allocated = space_.Allocate(zone, bytes, align, index, section);
    if (!allocated.ok()) {
      allocated.status().SetExecutor(table_.IdOf(index));
      return std::move(allocated.status());
    }
    *span = allocated.value();
    return Status::Ok();
  };
  uint32_t code_bytes = spec.sizes[0];
  uint32_t code_align = spec.aligns[0];
  if (!executor.apart() && spec.sizes[1] != 0) {
    code_bytes = executor.DataOffset() + spec.sizes[1];
    code_align = std::max(code_align, spec.aligns[1]);
    executor.align_log2 = static_cast<uint8_t>(std::countr_zero(code_align)) & 15;
  }
  if (Status failed = allocate(spec.movable ? Zone::kCode : Zone::kFixedCode, code_bytes, code_align, Section::kCode,
                               &executor.code_span))
    return failed;
  if (executor.apart())
    if (Status failed = allocate(spec.movable ? Zone::kData : Zone::kFixedData, spec.sizes[1], spec.aligns[1],
                                 Section::kData, &executor.data_span))
      return failed;
  if (executor.StateSpanBytes() != 0)
    if (Status failed = allocate(executor.StateMoves() ? Zone::kState : Zone::kFixedState, executor.StateSpanBytes(),
                                 spec.aligns[2], Section::kState, &executor.state_span))
      return failed;
  return Status::Ok();
}

void Arena::Unplace(uint32_t index, bool written) {
  Executor& executor = table_[index];
  for (SpanId* span : {&executor.code_span, &executor.data_span, &executor.state_span}) {
    if (*span != 0) written ? space_.Free(*span) : space_.Abandon(*span);
    *span = 0;
  }
}

// Every reloc of all of them.
Status Arena::CheckBatch(const ExecutorSpec* specs) {
  uint32_t count = static_cast<uint32_t>(batch_.size());
  checks_.assign(count, 0);
  linker_.reloc_check.BeginFreeze();
  for (uint32_t i = 0; i < count; i++) {
    Result<size_t> check = linker_.reloc_check.Check(batch_[i], specs[i], batch_);
    if (!check.ok()) return AtPosition(std::move(check.status()), i, count);
    checks_[i] = check.value();
  }
  return Status::Ok();
}

Status Arena::Publish(const ExecutorSpec* specs, const PinSlot* self) {
  uint32_t count = static_cast<uint32_t>(batch_.size());
  bool has_relocs = false;
  ClosedGate gate;
  Status failed = CloseGateToWrite(gate, self);

  // Plan: a place for each.
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    failed = Place(batch_[i], specs[i]);
    if (!failed.ok()) failed = AtPosition(std::move(failed), i, count);
    has_relocs |= specs[i].reloc_count != 0;
  }
  if (has_relocs && failed.ok()) {
    for (uint32_t index : batch_) table_[index].marked = 1;
    failed = OrOutOfMemory([&] { return CheckBatch(specs); });
    for (uint32_t index : batch_) table_[index].marked = 0;
  }
  if (failed.ok()) failed = events_.Prepare(EventKind::kPublished, count);

  // Commit: nothing is published before all of it is written and seen.
  if (failed.ok()) {
    WriteScope scope(space_, "freeze");
    for (uint32_t i = 0; i < count && failed.ok(); i++) failed = linker_.relocator.Open(scope, batch_[i]);
    for (uint32_t i = 0; i < count && failed.ok(); i++)
      linker_.relocator.Write(scope, batch_[i], specs[i], has_relocs ? checks_[i] : 0);
  }
  TestPoint(TestPointId::kFreezeWritten);
  bool written = failed.ok();
  if (failed.ok()) failed = OrOutOfMemory([&] { StageFramesOfBatch(); });
  if (failed.ok() && !Synchronise(self)) failed = CloseGate(gate, self);
  if (!failed.ok()) {
    frames_.Drop();
    for (uint32_t index : batch_) linker_.Forget(index);
    linker_.far_slots.TakeUnused([&](SpanId span) { space_.Free(span); });
    for (uint32_t index : batch_) Unplace(index, written);
    return failed;
  }
  frames_.Commit();
  for (uint32_t index : batch_) {
    Executor& executor = table_[index];
    for (SpanId span : {executor.code_span, executor.data_span, executor.state_span})
      if (span != 0) space_.SetState(span, SpanState::kLive);
    executor.SetState(ExecutorState::kFrozen);
    stats_.live_bytes += executor.LiveBytes();
    SizeClassOf(stats_, executor);  // listed from now on, also when nobody is left in it
    // Release: pairs with EntryOf; whoever finds the entry finds the bytes.
    executor.entry.store(space_.AddressOf(executor.code_span), std::memory_order_release);
    events_.Tell(EventKind::kPublished, {table_.IdOf(index), 0, space_.AddressOf(executor.code_span)});
  }
  events_.Flush();
  return Status::Ok();
}

// From the first table on the unwinder also knows the call gate, since an exception may leave the call.
void Arena::StageFramesOfBatch() {
  bool any = std::any_of(batch_.begin(), batch_.end(), [&](uint32_t index) { return table_[index].has_frames; });
  if (!any && frames_.empty()) return;
  if (any) own_code_.StageFrames(frames_);
  for (uint32_t index : batch_)
    StageFrames(space_, table_, frames_, index, table_[index].code_span, table_[index].data_span);
  frames_.Prepare();
}

// What is due gives room; ERR_ARENA_RETIRED_LIMIT when too much still waits.
Status Arena::ReclaimForFreeze(const PinSlot* self) {
  Reclaim(self);
  if (reclaimer_.retired_bytes() >= max_retired_bytes_)
    return Error{
        ErrorCode::kRetiredLimit,
        Format("%llu retired bytes wait for a thread to leave machine code; the limit is %llu: let "
               "the call or pinned() that is under way return, or make the arena with a larger maxRetiredBytes",
               Wide(reclaimer_.retired_bytes()), Wide(max_retired_bytes_))};
  return Status::Ok();
}

Status Arena::Freeze(const ExecutorId* ids, uint32_t count, const PinSlot* self) {
  Staged::Ended done;  // ends after the lock is given back
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = ReclaimForFreeze(self)) return failed;
  batch_.clear();
  std::vector<ExecutorSpec> specs;
  batch_.reserve(count);
  specs.reserve(count);
  done.reserve(count);
  Status failed;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    Result<Executor*> found = FindExecutor(ids[i]);
    if (!found.ok())
      failed = std::move(found.status());
    else if (found.value()->State() != ExecutorState::kWritable)
      failed = ExecutorError(ErrorCode::kNotWritable, ids[i], Format("executor %llu is frozen already", Wide(ids[i])));
    else if (found.value()->marked)
      failed =
          ExecutorError(ErrorCode::kDuplicateExecutor, ids[i], Format("executor %llu is named twice", Wide(ids[i])));
    if (!failed.ok()) {
      failed = AtPosition(std::move(failed), i, count);
      break;
    }
    found.value()->marked = 1;
    batch_.push_back(IndexOf(ids[i]));
    specs.push_back(staged_[IndexOf(ids[i])].Spec());
  }
  for (uint32_t index : batch_) table_[index].marked = 0;
  if (failed.ok()) failed = Publish(specs.data(), self);
  if (failed.ok())
    for (uint32_t index : batch_) staged_.Take(index, done);
  AfterCall();
  return failed;
}

Status Arena::Install(const ExecutorSpec* specs, uint32_t count, ExecutorId* ids, const PinSlot* self) {
  if (Status failed = CheckProcess()) return failed;
  for (uint32_t i = 0; i < count; i++)
    if (Status failed = CheckSizes(specs[i])) return AtPosition(std::move(failed), i, count);
  std::lock_guard guard(lock_);
  if (Status failed = ReclaimForFreeze(self)) return failed;
  batch_.clear();
  batch_.reserve(count);
  Status failed;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    failed = OrOutOfMemory([&] { return CheckShape(specs[i]); });
    if (!failed.ok()) {
      failed = AtPosition(std::move(failed), i, count);
      break;
    }
    Result<uint32_t> index = AddExecutor(specs[i]);
    if (index.ok())
      batch_.push_back(index.value());
    else
      failed = std::move(index.status());
  }
  if (failed.ok()) failed = Publish(specs, self);
  if (failed.ok()) {
    for (uint32_t i = 0; i < count; i++) ids[i] = table_.IdOf(batch_[i]);
  } else {
    // The ids that these executors would have had were never given out, so the error names none.
    failed.SetExecutor({});
    for (uint32_t index : batch_) DropExecutor(index);
  }
  AfterCall();
  return failed;
}

Status Arena::CloseGate(ClosedGate& gate, const PinSlot* self) {
  // The calling thread's own frames in machine code stand still meanwhile, so its own pin does not matter.
  if (gate.Close(reclaimer_, self, kGateBoundNanos)) return Status::Ok();
  bool can_write = writer() == os::WriterKind::kAlias;
  return Error{ErrorCode::kBusy,
               Format("another thread stays in machine code, and %s",
                      can_write ? "this kernel has no barrier (membarrier SYNC_CORE) with which it would see what is "
                                  "written meanwhile"
                                : "this writer cannot write beside it")};
}

Status Arena::Begin(LoosePin& pin, const PinSlot* self) {
  std::unique_lock guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  // Only debug builds let go of the lock while it is closed.
  while (reclaimer_.gate_closed()) {
    guard.unlock();
    std::this_thread::yield();
    guard.lock();
  }
  reclaimer_.Begin(pin, self);
  return Status::Ok();
}

void Arena::End(LoosePin& pin) {
  if (!in_own_process()) return;
  std::lock_guard guard(lock_);
  reclaimer_.End(pin);
}

// New bytes at addresses that were executed before must reach threads that are executing now; a thread that pins
// later finds them.
bool Arena::Synchronise(const PinSlot* self) {
  reclaimer_.RaiseCodeEpoch();
  // A sandbox may forbid the barrier long after the start. From then on writing waits, as on kernels that have none.
  if (reclaimer_.OthersPinned(self) && !os::SynchroniseCores()) gated_writes_ = true;
  TestPoint(TestPointId::kSynchronised);
  return !gated_writes_;
}

Result<Thunk> Arena::AddThunk(arch::CallbackHandler handler, const PinSlot* self) {
  if (Status failed = CheckProcess()) return failed;
  Result<Thunk> thunk = MakeThunk(handler, space_.base(), space_.end());
  if (!thunk.ok() || thunk.value().in_reach) return thunk;
  // An arena that is nearly as large as the reach of a branch, or no address space near it.
  std::lock_guard guard(lock_);
  ClosedGate gate;
  if (Status busy = CloseGateToWrite(gate, self)) return busy;
  Result<uint64_t> veneer = own_code_.AddVeneer(thunk.value().address);
  if (!veneer.ok()) return std::move(veneer.status());
  linker_.far_slots.SetThunkVeneer(thunk.value().address, veneer.value());
  return thunk;
}

// In debug builds every change is followed by all the checks.
void Arena::AfterCall() {
  if (!kDebug) return;
  lock_.unlock();
  OrOutOfMemory([&] {
    std::string broken = CheckInvariants();
    if (!broken.empty()) Die(__FILE__, __LINE__, broken.c_str());
  }).Ignore();  // the next call looks again
  lock_.lock();
}

}  // namespace jit_arena
