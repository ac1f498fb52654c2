#include "core/arena.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bits.h"

namespace jit_arena {
namespace {

// How long a flip writer waits for other threads to leave before it says ERR_ARENA_BUSY.
constexpr uint64_t kGateBoundNanos = 100'000'000;

#if JIT_ARENA_DEBUG
constexpr bool kDebug = true;
#else
constexpr bool kDebug = false;
#endif

unsigned long long Wide(uint64_t value) { return value; }

Error WithExecutor(ErrorCode code, ExecutorId id, std::string message) {
  Error error{code, std::move(message)};
  error.executor = id;
  return error;
}

// Names the position of the executor in the caller's list, where there is a list.
Status WithIndex(Status failed, uint32_t position, uint32_t count) {
  if (count > 1 && !failed.error().index) failed.error().index = position;
  return failed;
}

}  // namespace

Arena::Arena(const ArenaOptions& options, std::unique_ptr<os::Memory> memory)
    : fork_generation_(os::ForkGeneration()),
      name_(options.name),
      apart_(options.apart),
      max_retired_bytes_(options.max_retired_bytes),
      space_(std::move(memory), options.max_bytes),
      // An executor takes a granule at least, and a direct reference four bytes.
      table_(static_cast<uint32_t>(AlignUp(options.max_bytes, kSlabBytes) / kGranuleBytes) + 1),
      linker_(space_, table_, static_cast<uint32_t>(AlignUp(options.max_bytes, kSlabBytes) / 4),
              options.full_records || kDebug),
      collector_(space_, table_, linker_, reclaimer_) {}

Arena::~Arena() {
  if (!CheckProcess().ok()) space_.Disown();
}

Status Arena::CheckProcess() const {
  if (in_own_process()) return Status::Ok();
  return Error{ErrorCode::kForked,
               "this process is a fork of the one that made the arena; the arena's memory was not "
               "inherited: make an arena of its own in the child"};
}

Result<std::unique_ptr<Arena>> Arena::Create(const ArenaOptions& options, std::unique_ptr<os::Memory> memory) {
  if (options.max_bytes == 0 || options.max_bytes > arch::kMaxArenaBytes)
    return Error{ErrorCode::kSize, Format("maxBytes is %llu; direct branches of %s reach at most %llu bytes",
                                          Wide(options.max_bytes), arch::kCpuName, Wide(arch::kMaxArenaBytes))};
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
      else
        reasons += (reasons.empty() ? "" : "; ") + opened.status().error().message;
    }
    if (memory == nullptr) return Error{ErrorCode::kNoExec, "no writer works here: " + reasons};
  }

  std::unique_ptr<Arena> arena(new Arena(options, std::move(memory)));
  if (Status failed = arena->space_.Reserve(options.max_bytes)) return failed;
  if (arena->max_retired_bytes_ == 0) arena->max_retired_bytes_ = arena->space_.bytes() / 4;
  Result<uint64_t> gate = arena->AddInternal(static_cast<uint32_t>(arch::CallGateBytes()),
                                             [](uint8_t* bytes, uint64_t) { arch::WriteCallGate(bytes); });
  if (!gate.ok()) return std::move(gate.status());
  arena->call_gate_ = reinterpret_cast<arch::CallGate>(gate.value());
  return arena;
}

// ---- Writable executors

Status Arena::CheckSpec(const ExecutorSpec& spec, ExecutorId id) const {
  uint64_t total = 0;
  for (int section = 0; section < kSections; section++) {
    if (!IsPowerOfTwo(spec.aligns[section]) || spec.aligns[section] > space_.page_bytes())
      return WithExecutor(ErrorCode::kAlignment, id,
                          Format("the alignment %u of %s is not a power of two up to a page (%u)", spec.aligns[section],
                                 SectionName(static_cast<Section>(section)), space_.page_bytes()));
    total += AlignUp(spec.sizes[section], std::max(spec.aligns[section], kGranuleBytes));
  }
  if (spec.sizes[0] == 0) return WithExecutor(ErrorCode::kSize, id, "an executor has at least one byte of code");
  if (total > space_.bytes())
    return WithExecutor(
        ErrorCode::kSize, id,
        Format("an executor of %llu bytes is larger than the arena's %llu", Wide(total), Wide(space_.bytes())));
  for (uint32_t i = 0; i < spec.entry_count; i++)
    if (spec.entries[i] >= spec.sizes[0])
      return WithExecutor(
          ErrorCode::kBounds, id,
          Format("entry %u at offset %u lies outside the %u bytes of code", i, spec.entries[i], spec.sizes[0]));
  return linker_.CheckShape(spec, id);
}

// A table record for a spec that has passed its checks.
Result<uint32_t> Arena::AddExecutor(const ExecutorSpec& spec) {
  uint32_t index = table_.Add();
  if (index == 0) return Error{ErrorCode::kNoMemory, "no memory for the arena's tables"};
  Executor& executor = table_[index];
  executor.code_bytes = spec.sizes[0];
  executor.data_bytes = spec.sizes[1];
  executor.state_bytes = spec.sizes[2];
  executor.movable = spec.movable;
  executor.apart = apart_ && spec.sizes[1] != 0;
  executor.align_log2 = static_cast<uint8_t>(std::countr_zero(spec.aligns[0])) & 15;
  executor.data_align_log2 = static_cast<uint8_t>(std::countr_zero(spec.aligns[1])) & 15;
  if (!spec.name.empty()) table_.NotesOf(index).name = spec.name;
  if (spec.entry_count != 0) table_.NotesOf(index).entries.assign(spec.entries, spec.entries + spec.entry_count);
  stats_.executors++;
  return index;
}

Result<Executor*> Arena::FindExecutor(ExecutorId id) {
  Executor* executor = table_.Find(id);
  if (executor != nullptr) return executor;
  bool known = IndexOf(id) != 0 && IndexOf(id) < table_.size() && GenerationOf(id) != 0 &&
               GenerationOf(id) <= table_[IndexOf(id)].generation.load(std::memory_order_relaxed);
  return WithExecutor(ErrorCode::kStaleExecutor, id,
                      known ? Format("executor %llu is gone: it has been freed", Wide(id))
                            : Format("executor %llu never existed in this arena", Wide(id)));
}

ExecutorSpec Arena::Staged::Spec() const {
  ExecutorSpec spec;
  for (int section = 0; section < kSections; section++) {
    spec.bytes[section] = bytes[section].empty() ? nullptr : bytes[section].data();
    spec.sizes[section] = sizes[section];
    spec.aligns[section] = aligns[section];
  }
  spec.relocs = relocs.data();
  spec.reloc_count = static_cast<uint32_t>(relocs.size());
  spec.movable = movable;
  return spec;
}

Result<ExecutorId> Arena::Allocate(const ExecutorSpec& spec) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  if (Status failed = CheckSpec(spec, 0)) {
    failed.error().executor.reset();  // it has no id yet
    return failed;
  }
  Result<uint32_t> index = AddExecutor(spec);
  if (!index.ok()) return std::move(index.status());
  Staged& staged = staged_[index.value()];
  for (int section = 0; section < kSections; section++) {
    staged.sizes[section] = spec.sizes[section];
    staged.aligns[section] = spec.aligns[section];
    if (spec.bytes[section] != nullptr)
      staged.bytes[section].assign(spec.bytes[section], spec.bytes[section] + spec.sizes[section]);
  }
  staged.relocs.assign(spec.relocs, spec.relocs + spec.reloc_count);
  staged.movable = spec.movable;
  AfterCall();
  return table_.IdOf(index.value());
}

Status Arena::Write(ExecutorId id, Section section, uint32_t offset, const uint8_t* bytes, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  Executor& executor = *found.value();
  uint32_t sizes[kSections] = {executor.code_bytes, executor.data_bytes, executor.state_bytes};
  uint32_t size = sizes[static_cast<int>(section)];
  auto failed = [&](ErrorCode code, std::string message) {
    Error error = WithExecutor(code, id, std::move(message));
    error.section = section;
    error.offset = offset;
    return Status(std::move(error));
  };
  bool frozen = executor.State() == ExecutorState::kFrozen;
  if (frozen && section != Section::kState)
    return failed(ErrorCode::kNotWritable,
                  Format("%s of executor %llu is frozen and cannot be written", SectionName(section), Wide(id)));
  if (offset > size || count > size - offset)
    return failed(ErrorCode::kBounds, Format("%u bytes at %s + %u do not lie within its %u bytes", count,
                                             SectionName(section), offset, size));
  if (count == 0) return Status::Ok();
  if (frozen) {
    std::memcpy(reinterpret_cast<uint8_t*>(space_.AddressOf(executor.state_span)) + offset, bytes, count);
    return Status::Ok();
  }
  std::vector<uint8_t>& staged = staged_[IndexOf(id)].bytes[static_cast<int>(section)];
  if (staged.empty()) staged.resize(size);
  std::memcpy(staged.data() + offset, bytes, count);
  return Status::Ok();
}

Status Arena::AddRelocs(ExecutorId id, const RelocSpec* relocs, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  if (found.value()->State() != ExecutorState::kWritable)
    return WithExecutor(ErrorCode::kNotWritable, id, Format("executor %llu is frozen: relocs come before", Wide(id)));
  Staged& staged = staged_[IndexOf(id)];
  size_t before = staged.relocs.size();
  staged.relocs.insert(staged.relocs.end(), relocs, relocs + count);
  if (Status failed = linker_.CheckShape(staged.Spec(), id)) {
    staged.relocs.resize(before);
    // The index counts in the caller's list.
    std::optional<uint64_t>& index = failed.error().index;
    if (index && *index >= before) *index -= before;
    return failed;
  }
  return Status::Ok();
}

// ---- Freeze

Status Arena::Place(uint32_t index, const ExecutorSpec& spec) {
  Executor& executor = table_[index];
  auto allocate = [&](Zone zone, uint32_t bytes, uint32_t align, Section section, SpanId* span) {
    Result<SpanId> allocated = space_.Allocate(zone, bytes, align, index, section);
    if (!allocated.ok()) {
      allocated.status().error().executor = table_.IdOf(index);
      return std::move(allocated.status());
    }
    *span = allocated.value();
    return Status::Ok();
  };
  uint32_t code_bytes = spec.sizes[0];
  uint32_t code_align = spec.aligns[0];
  if (!executor.apart && spec.sizes[1] != 0) {
    code_bytes = executor.DataOffset() + spec.sizes[1];
    code_align = std::max(code_align, spec.aligns[1]);
    executor.align_log2 = static_cast<uint8_t>(std::countr_zero(code_align)) & 15;
  }
  if (Status failed = allocate(spec.movable ? Zone::kCode : Zone::kFixedCode, code_bytes, code_align, Section::kCode,
                               &executor.code_span))
    return failed;
  if (executor.apart)
    if (Status failed = allocate(spec.movable ? Zone::kData : Zone::kFixedData, spec.sizes[1], spec.aligns[1],
                                 Section::kData, &executor.data_span))
      return failed;
  if (spec.sizes[2] != 0)
    if (Status failed = allocate(Zone::kState, spec.sizes[2], spec.aligns[2], Section::kState, &executor.state_span))
      return failed;
  return Status::Ok();
}

void Arena::Unplace(uint32_t index) {
  Executor& executor = table_[index];
  for (SpanId* span : {&executor.code_span, &executor.data_span, &executor.state_span}) {
    if (*span != 0) space_.Abandon(*span);
    *span = 0;
  }
}

void Arena::Count(const Executor& executor, int sign) {
  uint64_t step = static_cast<uint64_t>(int64_t{sign});
  uint64_t code_and_data = uint64_t{executor.code_bytes} + executor.data_bytes;
  stats_.live_bytes += step * (code_and_data + executor.state_bytes);
  stats_.page_per_executor_bytes += step * AlignUp(code_and_data, space_.page_bytes());
}

Status Arena::Publish(const ExecutorSpec* specs, const PinSlot* self) {
  uint32_t count = static_cast<uint32_t>(batch_.size());
  checks_.resize(count);
  uint32_t checked = 0;
  FlipGate gate(*this, self);
  Status failed = gate.Busy();

  // Plan: a place for each.
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    failed = Place(batch_[i], specs[i]);
    if (!failed.ok()) failed = WithIndex(std::move(failed), i, count);
  }
  // Check: every reloc of all of them.
  for (uint32_t index : batch_) table_[index].marked = 1;
  linker_.BeginFreeze();
  for (; checked < count && failed.ok(); checked++) {
    Result<size_t> check = linker_.Check(batch_[checked], specs[checked], batch_);
    if (check.ok())
      checks_[checked] = check.value();
    else
      failed = std::move(check.status());
  }
  for (uint32_t index : batch_) table_[index].marked = 0;

  // Commit: from the first write on nothing can fail.
  if (failed.ok()) {
    WriteScope scope(space_, "freeze");
    for (uint32_t i = 0; i < count && failed.ok(); i++) failed = linker_.Open(scope, batch_[i]);
    for (uint32_t i = 0; i < count && failed.ok(); i++) linker_.Write(scope, batch_[i], specs[i], checks_[i]);
  }
  if (!failed.ok()) {
    std::vector<SpanId> links;
    for (uint32_t i = 0; i < checked; i++) linker_.Forget(batch_[i], &links);
    for (SpanId link : links) space_.Free(link);
    for (uint32_t index : batch_) Unplace(index);
    return failed;
  }
  Synchronise(self);
  for (uint32_t index : batch_) {
    Executor& executor = table_[index];
    for (SpanId span : {executor.code_span, executor.data_span, executor.state_span})
      if (span != 0) space_.SetState(span, SpanState::kLive);
    executor.SetState(ExecutorState::kFrozen);
    Count(executor, 1);
    // Release: pairs with EntryOf; whoever finds the entry finds the bytes.
    executor.entry.store(space_.AddressOf(executor.code_span), std::memory_order_release);
  }
  return Status::Ok();
}

Status Arena::Freeze(const ExecutorId* ids, uint32_t count, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Reclaim(self);
  if (reclaimer_.retired_bytes() >= max_retired_bytes_)
    return Error{ErrorCode::kRetiredLimit,
                 Format("%llu retired bytes wait for a thread to leave machine code; the limit is %llu",
                        Wide(reclaimer_.retired_bytes()), Wide(max_retired_bytes_))};
  batch_.clear();
  std::vector<ExecutorSpec> specs;
  Status failed;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    Result<Executor*> found = FindExecutor(ids[i]);
    if (!found.ok())
      failed = std::move(found.status());
    else if (found.value()->State() != ExecutorState::kWritable)
      failed = WithExecutor(ErrorCode::kNotWritable, ids[i], Format("executor %llu is frozen already", Wide(ids[i])));
    else if (found.value()->marked)
      failed =
          WithExecutor(ErrorCode::kDuplicateExecutor, ids[i], Format("executor %llu is named twice", Wide(ids[i])));
    if (!failed.ok()) {
      failed = WithIndex(std::move(failed), i, count);
      break;
    }
    found.value()->marked = 1;
    batch_.push_back(IndexOf(ids[i]));
    specs.push_back(staged_[IndexOf(ids[i])].Spec());
  }
  for (uint32_t index : batch_) table_[index].marked = 0;
  if (failed.ok()) failed = Publish(specs.data(), self);
  if (failed.ok())
    for (uint32_t index : batch_) staged_.erase(index);
  AfterCall();
  return failed;
}

Status Arena::Install(const ExecutorSpec* specs, uint32_t count, ExecutorId* ids, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Reclaim(self);
  if (reclaimer_.retired_bytes() >= max_retired_bytes_)
    return Error{ErrorCode::kRetiredLimit,
                 Format("%llu retired bytes wait for a thread to leave machine code; the limit is %llu",
                        Wide(reclaimer_.retired_bytes()), Wide(max_retired_bytes_))};
  batch_.clear();
  Status failed;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    failed = CheckSpec(specs[i], 0);
    if (!failed.ok()) {
      failed.error().executor.reset();
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
    failed.error().executor.reset();
    for (uint32_t index : batch_) table_.Recycle(index);
    stats_.executors -= batch_.size();
  }
  AfterCall();
  return failed;
}

Arena::FlipGate::FlipGate(Arena& arena, const PinSlot* self) : arena_(arena) {
  // The calling thread's own frames in machine code stand still meanwhile, so its own pin does not matter.
  if (arena.writer() == os::WriterKind::kFlip && arena.flip_gates_++ == 0)
    closed_ = arena.reclaimer_.CloseGate(self, kGateBoundNanos);
}

Arena::FlipGate::~FlipGate() {
  if (arena_.writer() == os::WriterKind::kFlip && --arena_.flip_gates_ == 0 && closed_) arena_.reclaimer_.OpenGate();
}

Status Arena::FlipGate::Busy() const {
  if (closed_) return Status::Ok();
  return Error{ErrorCode::kBusy, "another thread stays in machine code, and the flip writer cannot write meanwhile"};
}

// New bytes at addresses that were executed before must reach threads that are executing now; a thread that pins
// later finds them.
void Arena::Synchronise(const PinSlot* self) {
  if (reclaimer_.OthersPinned(self)) os::SynchroniseCores();
}

// ---- Free and reclaim

Status Arena::Free(const ExecutorId* ids, uint32_t count, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Status failed;
  uint32_t marked = 0;
  for (; marked < count; marked++) {
    Result<Executor*> found = FindExecutor(ids[marked]);
    if (!found.ok())
      failed = std::move(found.status());
    else if (found.value()->marked)
      failed = WithExecutor(ErrorCode::kDuplicateExecutor, ids[marked],
                            Format("executor %llu is named twice", Wide(ids[marked])));
    if (!failed.ok()) break;
    found.value()->marked = 1;
  }
  uint32_t position = marked;
  for (uint32_t i = 0; i < count && failed.ok(); i++) {
    uint32_t source = linker_.FindUnmarkedSource(IndexOf(ids[i]));
    if (source == 0) continue;
    failed =
        WithExecutor(ErrorCode::kReferenced, ids[i],
                     Format("executor %llu is the target of a direct reloc of executor %llu: free both in one call",
                            Wide(ids[i]), Wide(table_.IdOf(source))));
    position = i;
  }
  for (uint32_t i = 0; i < marked; i++) table_[IndexOf(ids[i])].marked = 0;
  if (!failed.ok()) return WithIndex(std::move(failed), position, count);

  std::vector<SpanId> links;
  // Entries first: no later pin finds one. Then the references, then the memory.
  for (uint32_t i = 0; i < count; i++) table_[IndexOf(ids[i])].entry.store(0, std::memory_order_release);
  for (uint32_t i = 0; i < count; i++)
    if (table_[IndexOf(ids[i])].State() == ExecutorState::kFrozen) linker_.Forget(IndexOf(ids[i]), &links);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t index = IndexOf(ids[i]);
    Executor& executor = table_[index];
    stats_.executors--;
    if (executor.State() == ExecutorState::kWritable) {
      staged_.erase(index);
      table_.Recycle(index);
      continue;
    }
    Count(executor, -1);
    executor.SetState(ExecutorState::kRetired);
    Retired retired{{executor.code_span, executor.data_span, executor.state_span}, index, 0};
    uint64_t bytes = 0;
    for (SpanId span : retired.spans) {
      if (span == 0) continue;
      space_.SetState(span, SpanState::kRetired);
      bytes += uint64_t{space_[span].granules} * kGranuleBytes;
    }
    reclaimer_.Retire(retired, bytes);
  }
  // Old copies that are still executing may leave through an external link: it retires after them.
  for (SpanId link : links) {
    space_.SetState(link, SpanState::kRetired);
    reclaimer_.Retire({{link, 0, 0}, 0, 0}, arch::kExternalLinkBytes);
  }
  Reclaim(self);
  AfterCall();
  return Status::Ok();
}

void Arena::Reclaim(const PinSlot* self) {
  if (reclaimer_.retired_bytes() == 0) return;
  // Poison is a write: where the flip writer cannot write now, what is due waits for the next call.
  FlipGate gate(*this, self);
  if (!gate.closed()) return;
  reclaimer_.Reclaim([&](const Retired& retired) {
    for (SpanId span : retired.spans)
      if (span != 0) space_.Free(span);
    if (retired.executor_index != 0) table_.Recycle(retired.executor_index);
  });
}

Result<uint64_t> Arena::EnsureCallbackCommon(arch::CallbackHandler handler) {
  if (callback_common_ != 0) return callback_common_;
  Result<uint64_t> common = AddInternal(static_cast<uint32_t>(arch::CallbackCommonBytes()),
                                        [&](uint8_t* bytes, uint64_t) { arch::WriteCallbackCommon(bytes, handler); });
  if (common.ok()) callback_common_ = common.value();
  return common;
}

// ---- Looking

Status Arena::Read(ExecutorId id, Section section, uint32_t offset, uint8_t* bytes, uint32_t count) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  const Executor& executor = *found.value();
  uint32_t sizes[kSections] = {executor.code_bytes, executor.data_bytes, executor.state_bytes};
  uint32_t size = sizes[static_cast<int>(section)];
  if (offset > size || count > size - offset) {
    Error error = WithExecutor(
        ErrorCode::kBounds, id,
        Format("%u bytes at %s + %u do not lie within its %u bytes", count, SectionName(section), offset, size));
    error.section = section;
    error.offset = offset;
    return error;
  }
  if (count == 0) return Status::Ok();
  if (executor.State() == ExecutorState::kWritable) {
    const std::vector<uint8_t>& staged = staged_[IndexOf(id)].bytes[static_cast<int>(section)];
    if (staged.empty())
      std::memset(bytes, 0, count);
    else
      std::memcpy(bytes, staged.data() + offset, count);
    return Status::Ok();
  }
  Placement at = linker_.PlacementOf(executor);
  uint64_t from = section == Section::kCode ? at.code : section == Section::kData ? at.data : at.state;
  std::memcpy(bytes, reinterpret_cast<const uint8_t*>(from) + offset, count);
  return Status::Ok();
}

Result<ExecutorInfo> Arena::Describe(ExecutorId id) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  const Executor& executor = *found.value();
  const Notes* notes = table_.FindNotes(IndexOf(id));
  return ExecutorInfo{executor.State(),
                      {executor.code_bytes, executor.data_bytes, executor.state_bytes},
                      executor.movable != 0,
                      notes != nullptr ? std::string_view(notes->name) : std::string_view(),
                      executor.entry.load(std::memory_order_relaxed)};
}

Result<uint32_t> Arena::EntryOffset(ExecutorId id, uint32_t entry) {
  std::lock_guard guard(lock_);
  if (Status failed = CheckProcess()) return failed;
  Result<Executor*> found = FindExecutor(id);
  if (!found.ok()) return std::move(found.status());
  if (found.value()->State() != ExecutorState::kFrozen)
    return WithExecutor(ErrorCode::kNotFrozen, id,
                        Format("executor %llu is still writable: freeze it first", Wide(id)));
  const Notes* notes = table_.FindNotes(IndexOf(id));
  size_t count = notes != nullptr ? notes->entries.size() : 0;
  if (count == 0 && entry == 0) return uint32_t{0};
  if (entry >= count)
    return WithExecutor(
        ErrorCode::kBounds, id,
        Format("executor %llu has %zu entries and no entry %u", Wide(id), std::max<size_t>(count, 1), entry));
  return notes->entries[entry];
}

std::vector<ExecutorId> Arena::Executors() {
  std::lock_guard guard(lock_);
  std::vector<ExecutorId> ids;
  for (uint32_t index = 1; index < table_.size(); index++) {
    ExecutorState state = table_[index].State();
    if (state == ExecutorState::kWritable || state == ExecutorState::kFrozen) ids.push_back(table_.IdOf(index));
  }
  return ids;
}

std::optional<FoundAddress> Arena::Find(uint64_t address) {
  std::lock_guard guard(lock_);
  if (!CheckProcess().ok()) return std::nullopt;
  SpanId span = space_.FindSpan(address);
  if (span == 0 || space_[span].owner_index == 0) return std::nullopt;
  const SpanNode& node = space_[span];
  if (node.State() == SpanState::kReserved) return std::nullopt;
  const Executor& executor = table_[node.owner_index];
  FoundAddress found{table_.IdOf(node.owner_index), static_cast<Section>(node.section),
                     static_cast<uint32_t>(address - space_.AddressOf(span)), node.State() == SpanState::kRetired};
  if (found.section == Section::kCode && found.offset >= executor.code_bytes) {
    // Behind the code lie its padding and, unless apart, the data.
    if (executor.apart || executor.data_bytes == 0 || found.offset < executor.DataOffset()) return std::nullopt;
    found.section = Section::kData;
    found.offset -= executor.DataOffset();
  }
  uint32_t sizes[kSections] = {executor.code_bytes, executor.data_bytes, executor.state_bytes};
  if (found.offset >= sizes[static_cast<int>(found.section)]) return std::nullopt;
  return found;
}

// ---- Collecting

CompactionPlan Arena::PlanCompaction() {
  std::lock_guard guard(lock_);
  return collector_.Plan();
}

CollectResult Arena::Collect(const CollectOptions& options, const PinSlot* self) {
  std::lock_guard guard(lock_);
  if (!CheckProcess().ok()) return {};
  FlipGate gate(*this, self);
  if (!gate.closed()) {
    CollectResult busy;
    busy.done = false;
    busy.retired_bytes = reclaimer_.retired_bytes();
    return busy;
  }
  CollectResult result = collector_.Collect(
      options, max_retired_bytes_, [&] { Reclaim(self); }, [&] { Synchronise(self); });
  stats_.moves += result.moved;
  stats_.moved_bytes += result.moved_bytes;
  stats_.relocs_rewritten += result.relocs_rewritten;
  stats_.pauses.count++;
  stats_.pauses.total_nanos += result.pause_nanos;
  stats_.pauses.max_nanos = std::max(stats_.pauses.max_nanos, result.pause_nanos);
  AfterCall();
  return result;
}

ArenaStats Arena::Stats() {
  std::lock_guard guard(lock_);
  ArenaStats stats = stats_;
  stats.committed_bytes = space_.CommittedBytes();
  stats.reserved_bytes = space_.bytes();
  stats.retired_bytes = reclaimer_.retired_bytes();
  space_.ForEachSlab([&](const Slab& slab) { stats.span_bytes += uint64_t{slab.live_granules()} * kGranuleBytes; });
  size_t staged = 0;
  for (const auto& [index, executor] : staged_) {
    staged += sizeof executor + executor.relocs.capacity() * sizeof(RelocSpec);
    for (const auto& bytes : executor.bytes) staged += bytes.capacity();
  }
  stats.metadata_bytes = sizeof *this + space_.MetadataBytes() + table_.MetadataBytes() + linker_.MetadataBytes() +
                         reclaimer_.MetadataBytes() + staged;
  stats.slabs = space_.slab_count();
  stats.kept_relocs = linker_.kept_relocs();
  stats.external_links = linker_.external_links();
  return stats;
}

std::vector<SlabMap> Arena::Slabs() {
  std::lock_guard guard(lock_);
  std::vector<SlabMap> maps;
  uint32_t page_granules = space_.page_bytes() / kGranuleBytes;
  space_.ForEachSlab([&](const Slab& slab) {
    SlabMap map{slab.zone(),
                space_.Address(slab.first()),
                uint64_t{slab.granules()} * kGranuleBytes,
                uint64_t{slab.live_granules()} * kGranuleBytes,
                uint64_t{slab.retired_granules()} * kGranuleBytes,
                std::vector<uint32_t>(slab.pages()),
                std::vector<bool>(slab.pages())};
    for (uint32_t page = 0; page < slab.pages(); page++) map.backed[page] = slab.PageBacked(page);
    slab.ForEachSpan([&](SpanId span) {
      if (space_[span].State() == SpanState::kRetired) return;
      for (uint32_t granule = space_[span].start; granule < space_[span].End();) {
        uint32_t page = (granule - slab.first()) / page_granules;
        uint32_t end = std::min(space_[span].End(), slab.first() + (page + 1) * page_granules);
        map.live_bytes_per_page[page] += (end - granule) * kGranuleBytes;
        granule = end;
      }
    });
    maps.push_back(std::move(map));
  });
  std::sort(maps.begin(), maps.end(), [](const SlabMap& a, const SlabMap& b) { return a.address < b.address; });
  return maps;
}

std::vector<Problem> Arena::Verify() {
  std::lock_guard guard(lock_);
  std::vector<Problem> problems;
  if (!CheckProcess().ok()) return problems;
  for (uint32_t index = 1; index < table_.size(); index++)
    if (table_[index].State() == ExecutorState::kFrozen) linker_.Verify(index, &problems);
  linker_.VerifyLinks(&problems);
  return problems;
}

std::string Arena::CheckInvariants() {
  std::vector<Problem> problems = Verify();
  if (problems.empty()) return FindBrokenRule();
  return Format("executor %llu, %s + %lld: expected %#llx, found %#llx (%s)", Wide(problems[0].executor),
                SectionName(problems[0].section), static_cast<long long>(problems[0].offset),
                Wide(problems[0].expected), Wide(problems[0].found), problems[0].what.c_str());
}

std::string Arena::FindBrokenRule() {
  std::lock_guard guard(lock_);
  if (!CheckProcess().ok()) return {};
  if (std::string broken = space_.FindBrokenRule(); !broken.empty()) return broken;
  if (std::string broken = linker_.FindBrokenRule(); !broken.empty()) return broken;

  // Every granule has one owner: spans and executors agree.
  uint64_t owned = 0, internal = 0, retired_bytes = 0, live_bytes = 0, executors = 0;
  std::string broken;
  space_.ForEachSlab([&](const Slab& slab) {
    slab.ForEachSpan([&](SpanId id) {
      const SpanNode& node = space_[id];
      if (node.State() == SpanState::kRetired) retired_bytes += uint64_t{node.granules} * kGranuleBytes;
      if (node.State() == SpanState::kReserved) broken = "a span is left reserved";
      if (node.State() == SpanState::kInternal) internal++;
      if (node.State() != SpanState::kLive) return;
      const Executor& owner = table_[node.owner_index];
      SpanId listed = node.section == 0 ? owner.code_span : node.section == 1 ? owner.data_span : owner.state_span;
      if (owner.State() != ExecutorState::kFrozen || listed != id) broken = "a live span is not its owner's";
      owned++;
    });
  });
  if (!broken.empty()) return broken;
  for (uint32_t index = 1; index < table_.size(); index++) {
    const Executor& executor = table_[index];
    if (executor.marked) return "an executor is left marked";
    if (executor.State() == ExecutorState::kWritable) {
      executors++;
      if (executor.entry.load() != 0 || executor.code_span != 0) return "a writable executor has an address";
      if (staged_.find(index) == staged_.end()) return "a writable executor has no staged bytes";
    }
    if (executor.State() != ExecutorState::kFrozen) continue;
    executors++;
    live_bytes += uint64_t{executor.code_bytes} + executor.data_bytes + executor.state_bytes;
    owned -= uint64_t{1} + (executor.data_span != 0) + (executor.state_span != 0);
  }
  if (owned != 0) return "live spans and frozen executors differ in number";
  if (internal != internal_.size() + linker_.external_links()) return "internal spans are not accounted for";
  if (retired_bytes != reclaimer_.retired_bytes()) return "retired spans and retired bytes differ";
  if (live_bytes != stats_.live_bytes || executors != stats_.executors) return "the figures are wrong";
  size_t writable_executable = 0;
  if (os::CountWritableExecutable(reinterpret_cast<const uint8_t*>(space_.base()), space_.bytes(),
                                  &writable_executable) &&
      writable_executable != 0)
    return "a mapping is writable and executable";
  return {};
}

// In debug builds every change is followed by all the checks.
void Arena::AfterCall() {
  if (!kDebug) return;
  lock_.unlock();
  std::string broken = CheckInvariants();
  lock_.lock();
  if (!broken.empty()) Die(__FILE__, __LINE__, broken.c_str());
}

}  // namespace jit_arena
