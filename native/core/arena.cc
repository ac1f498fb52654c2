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

uint32_t SlabBytes(const ArenaOptions& options) {
  return options.huge_pages && os::HugePageBytes() != 0 ? static_cast<uint32_t>(os::HugePageBytes()) : kSlabBytes;
}

// With a slab more for the arena's own code, so that the host has all that it asked for.
uint64_t BytesToReserve(const ArenaOptions& options) {
  return std::min(AlignUp(options.max_bytes + SlabBytes(options), SlabBytes(options)), arch::kMaxArenaBytes);
}

// Names the position of the executor in the caller's list, where there is a list.
Status WithIndex(Status failed, uint32_t position, uint32_t count) {
  if (count > 1) failed.SetIndex(position);
  return failed;
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
      collector_(space_, table_, linker_, reclaimer_, events_),
      max_chain_depth_(options.max_chain_depth),
      gated_writes_(space_.memory().writer() == os::WriterKind::kFlip || options.without_barrier ||
                    !os::SynchroniseCores()) {
  stats_.size_classes.reserve(kSizeClasses);
}

Arena::~Arena() {
  Unregister();
  if (!in_own_process()) space_.Disown();
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
  Result<uint64_t> call_gate = arena->AddInternal(static_cast<uint32_t>(arch::CallGateBytes()), nullptr,
                                                  [](uint8_t* bytes, uint64_t) { arch::WriteCallGate(bytes); });
  if (!call_gate.ok()) return std::move(call_gate.status());
  arena->call_gate_ = reinterpret_cast<arch::CallGate>(call_gate.value());
  if (Status failed = arena->AddStubs(options)) return failed;
  arena->Register();
  return arena;
}

// The stubs that traces leave through: made with the arena, immortal, gone with it.
Status Arena::AddStubs(const ArenaOptions& options) {
  Result<uint64_t> done = AddInternal(static_cast<uint32_t>(arch::DoneStubBytes()), nullptr,
                                      [](uint8_t* bytes, uint64_t) { arch::WriteDoneStub(bytes); });
  if (!done.ok()) return std::move(done.status());
  Result<uint64_t> hot = AddInternal(static_cast<uint32_t>(arch::HotReturnBytes()), nullptr,
                                     [](uint8_t* bytes, uint64_t) { arch::WriteHotReturn(bytes); });
  if (!hot.ok()) return std::move(hot.status());
  hot_return_ = hot.value();
  Result<uint64_t> exit = AddInternal(
      static_cast<uint32_t>(arch::ExitStubBytes()), nullptr,
      [&](uint8_t* bytes, uint64_t) { arch::WriteExitStub(bytes, hot_return_); }, arch::kHotSlotOffset);
  if (!exit.ok()) return std::move(exit.status());
  exit_stub_ = exit.value();
  linker_.SetStubs(exit.value(), done.value(), options.exit_threshold, options.exit_growth);
  return Status::Ok();
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

// ---- Freeze

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
  linker_.BeginFreeze();
  for (uint32_t i = 0; i < count; i++) {
    Result<size_t> check = linker_.Check(batch_[i], specs[i], batch_);
    if (!check.ok()) return WithIndex(std::move(check.status()), i, count);
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
    if (!failed.ok()) failed = WithIndex(std::move(failed), i, count);
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
    for (uint32_t i = 0; i < count && failed.ok(); i++) failed = linker_.Open(scope, batch_[i]);
    for (uint32_t i = 0; i < count && failed.ok(); i++)
      linker_.Write(scope, batch_[i], specs[i], has_relocs ? checks_[i] : 0);
  }
  TestPoint(TestPointId::kFreezeWritten);
  bool written = failed.ok();
  if (written && !Synchronise(self)) failed = CloseGate(gate, self);
  if (!failed.ok()) {
    for (uint32_t index : batch_) linker_.Forget(index);
    linker_.TakeUnusedLinks([&](SpanId link) { space_.Free(link); });
    for (uint32_t index : batch_) Unplace(index, written);
    return failed;
  }
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
  std::vector<decltype(staged_)::node_type> done;  // ends after the lock is given back
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
      failed = WithIndex(std::move(failed), i, count);
      break;
    }
    found.value()->marked = 1;
    batch_.push_back(IndexOf(ids[i]));
    specs.push_back(StagedOf(ids[i]).Spec());
  }
  for (uint32_t index : batch_) table_[index].marked = 0;
  if (failed.ok()) failed = Publish(specs.data(), self);
  if (failed.ok())
    for (uint32_t index : batch_) done.push_back(staged_.extract(index));
  AfterCall();
  return failed;
}

Status Arena::Install(const ExecutorSpec* specs, uint32_t count, ExecutorId* ids, const PinSlot* self) {
  if (Status failed = CheckProcess()) return failed;
  for (uint32_t i = 0; i < count; i++)
    if (Status failed = CheckSizes(specs[i])) return WithIndex(std::move(failed), i, count);
  std::lock_guard guard(lock_);
  if (Status failed = ReclaimForFreeze(self)) return failed;
  batch_.clear();
  batch_.reserve(count);
  Status failed;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    failed = OrOutOfMemory([&] { return CheckShape(specs[i]); });
    if (!failed.ok()) {
      failed = WithIndex(std::move(failed), i, count);
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
    for (uint32_t index : batch_) table_.Recycle(index);
    stats_.executors -= batch_.size();
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

// ---- Free and reclaim

Status Arena::Free(const ExecutorId* ids, uint32_t count, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = Retire(ids, count)) return failed;
  Reclaim(self);
  AfterCall();
  return Status::Ok();
}

Status Arena::Retire(const ExecutorId* ids, uint32_t count) {
  Status failed;
  uint32_t marked = 0;
  for (; marked < count; marked++) {
    Executor* found = table_.Find(ids[marked]);
    if (found == nullptr)
      failed = std::move(FindExecutor(ids[marked]).status());
    else if (found->marked)
      failed = ExecutorError(ErrorCode::kDuplicateExecutor, ids[marked],
                             Format("executor %llu is named twice", Wide(ids[marked])));
    else if (found->immortal)
      failed = ExecutorError(
          ErrorCode::kImmortal, ids[marked],
          Format("executor %llu is or was the hot stub and lives as long as the arena", Wide(ids[marked])));
    if (!failed.ok()) break;
    found->marked = 1;
    if (uint64_t entry = found->entry.load(std::memory_order_relaxed); entry != 0)
      space_.PrefetchForFree(found->code_span, entry);
  }
  uint32_t position = marked;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    uint32_t source = linker_.FindUnmarkedSource(IndexOf(ids[i]));
    if (source == 0) continue;
    failed =
        ExecutorError(ErrorCode::kReferenced, ids[i],
                      Format("executor %llu is the target of a direct reloc of executor %llu: free both in one call",
                             Wide(ids[i]), Wide(table_.IdOf(source))));
    position = i;
  }
  for (uint32_t i = 0; i < marked; i++) table_[IndexOf(ids[i])].marked = 0;
  if (!failed.ok()) return WithIndex(std::move(failed), position, count);

  if (Status refused = events_.Prepare(EventKind::kRetired, count)) return refused;
  // Entries first: no later pin finds one. Then the references, then the memory.
  for (uint32_t i = 0; i < count; i++) {
    Executor& executor = table_[IndexOf(ids[i])];
    executor.entry.store(0, std::memory_order_release);
    if (executor.State() != ExecutorState::kFrozen) continue;
    // Traces that are entered through a jump they made before look here.
    if (executor.has_flags) linker_.ValidByte(IndexOf(ids[i]))->store(0, std::memory_order_release);
  }
  TestPoint(TestPointId::kFreeUnpublished);
  for (uint32_t i = 0; i < count; i++)
    if (table_[IndexOf(ids[i])].State() == ExecutorState::kFrozen) linker_.Forget(IndexOf(ids[i]));
  if (events_.Wants(EventKind::kRetired)) {
    for (uint32_t i = 0; i < count; i++) {
      SpanId code = table_[IndexOf(ids[i])].code_span;
      events_.Tell(EventKind::kRetired, {ids[i], code != 0 ? space_.AddressOf(code) : 0, 0});
    }
  }
  // Where nobody is pinned, nobody can get to it any more.
  bool at_once = writer() != os::WriterKind::kFlip && !reclaimer_.AnyPinned();
  for (uint32_t i = 0; i < count; i++) {
    uint32_t index = IndexOf(ids[i]);
    Executor& executor = table_[index];
    stats_.executors--;
    if (executor.State() == ExecutorState::kWritable) {
      staged_.erase(index);
      table_.Recycle(index);
      continue;
    }
    stats_.live_bytes -= executor.LiveBytes();
    executor.SetState(ExecutorState::kRetired);
    LetGo({{executor.code_span, executor.data_span, executor.state_span}, index, 0}, at_once);
  }
  // Old copies that are still executing may leave through an external link: it retires after them.
  linker_.TakeUnusedLinks([&](SpanId link) { LetGo({{link, 0, 0}, 0, 0}, at_once); });
  if (!at_once) reclaimer_.Stamp();
  events_.Flush();
  return Status::Ok();
}

void Arena::LetGo(const Retired& retired, bool at_once) {
  if (at_once)
    FreeRetired(space_, table_, events_, retired);
  else
    jit_arena::Retire(space_, table_, reclaimer_, retired);
}

void Arena::Reclaim(const PinSlot* self) {
  if (reclaimer_.retired_bytes() == 0) return;
  // Poison is a write: where the flip writer cannot write now, what is due waits for the next call.
  ClosedGate gate;
  if (writer() == os::WriterKind::kFlip && !gate.Close(reclaimer_, self, 0)) return;
  FreeDue(space_, table_, events_, reclaimer_);
  events_.Flush();
}

Result<Thunk> Arena::AddThunk(arch::CallbackHandler handler, const PinSlot* self) {
  if (Status failed = CheckProcess()) return failed;
  Result<Thunk> thunk = MakeThunk(handler, space_.base(), space_.end());
  if (!thunk.ok() || thunk.value().in_reach) return thunk;
  // An arena that is nearly as large as the reach of a branch, or no address space near it.
  Result<uint64_t> veneer = AddInternal(arch::kExternalLinkBytes, self, [&](uint8_t* bytes, uint64_t) {
    arch::WriteExternalLink(bytes, thunk.value().address);
  });
  if (!veneer.ok()) return std::move(veneer.status());
  std::lock_guard guard(lock_);
  linker_.SetVeneer(thunk.value().address, veneer.value());
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
