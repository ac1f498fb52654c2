#include "core/thunks.h"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/bits.h"
#include "base/room.h"
#include "core/code_space.h"
#include "os/fork.h"
#include "os/memory.h"

namespace jit_arena {
namespace {

// Room for 63 000 thunks of one granule. Address space only: memory comes page by page.
constexpr uint64_t kRegionBytes = uint64_t{1} << 20;
// Addends, and the ends of instructions.
constexpr uint64_t kSlack = uint64_t{1} << 16;

// Of a branch, less the slack.
uint64_t BranchReach() { return arch::kMaxArenaBytes - kSlack; }

// Whether all between `low` and `high` reaches all of a region there.
bool Reach(uint64_t low, uint64_t high, uint64_t region) {
  const uint64_t end = region + kRegionBytes;
  return (high <= region || high - region < BranchReach()) && (end <= low || end - low < BranchReach());
}

// A piece of address space that thunks are in. A page of it is the part that they have in common and a thunk for each
// granule behind that. It is written as a whole before anybody has an address in it, and never again: so a writer that
// takes execution away meanwhile (flip) takes it from nobody.
class Region {
 public:
  // At `wish`, or elsewhere if there is no room.
  static Result<std::unique_ptr<Region>> Make(std::unique_ptr<os::Memory> memory, uint64_t wish);

  bool ReachedFrom(uint64_t low, uint64_t high) const { return Reach(low, high, space_.base()); }
  // ERR_ARENA_FULL when the region is.
  Result<Thunk> Take(arch::CallbackHandler handler, uint64_t low, uint64_t high);

 private:
  explicit Region(std::unique_ptr<os::Memory> memory)
      : space_(std::move(memory), kRegionBytes, static_cast<uint32_t>(os::PageBytes())) {}
  Status AddPage(arch::CallbackHandler handler);

  CodeSpace space_;
  std::vector<std::unique_ptr<ThunkContext[]>> contexts_;  // of each page
  // Those of the newest page that nobody has yet.
  uint64_t next_ = 0;
  uint32_t left_ = 0;
  ThunkContext* next_context_ = nullptr;
};

// Flip and procmem before alias: their memory is private, so that a forked child has a copy.
Result<std::unique_ptr<os::Memory>> OpenMemory() {
  Status failed;
  for (os::WriterKind kind : {os::WriterKind::kFlip, os::WriterKind::kProcmem, os::WriterKind::kAlias}) {
    Result<std::unique_ptr<os::Memory>> opened = os::OpenMemory(kind);
    if (!opened.ok()) {
      failed = std::move(opened.status());
      continue;
    }
    opened.value()->SetForkMode(os::ForkMode::kCopy);
    return opened;
  }
  return failed;
}

// Where there is room for a region within reach; 0 where none was found. Looks below first: there the system has most
// of its room as a rule.
uint64_t FindRoom(os::Memory& memory, uint64_t low, uint64_t high) {
  if (high - low >= BranchReach() - kRegionBytes) return 0;
  const uint64_t bytes = kRegionBytes + 2 * os::PageBytes();
  for (uint64_t away = 0; away < BranchReach(); away = away == 0 ? kRegionBytes : 2 * away) {
    for (uint64_t wish : {low - 2 * kRegionBytes - away, high + kRegionBytes + away}) {
      wish = AlignDown(wish, os::PageBytes());
      Result<uint8_t*> reserved = memory.ReserveNear(reinterpret_cast<uint8_t*>(wish), bytes);
      if (!reserved.ok()) return 0;
      memory.Unreserve(reserved.value(), bytes);
      const auto base = reinterpret_cast<uint64_t>(reserved.value());
      if (Reach(low, high, base + os::PageBytes())) return base;
    }
  }
  return 0;
}

Result<std::unique_ptr<Region>> Region::Make(std::unique_ptr<os::Memory> memory, uint64_t wish) {
  std::unique_ptr<Region> made(new Region(std::move(memory)));
  if (Status failed = made->space_.Reserve(kRegionBytes, wish)) return failed;
  return made;
}

Result<Thunk> Region::Take(arch::CallbackHandler handler, uint64_t low, uint64_t high) {
  if (left_ == 0)
    if (Status failed = AddPage(handler)) return failed;
  Thunk thunk{next_, next_context_, ReachedFrom(low, high)};
  next_ += arch::kCallbackThunkBytes;
  next_context_++;
  left_--;
  return thunk;
}

Status Region::AddPage(arch::CallbackHandler handler) {
  const auto bytes = static_cast<uint32_t>(os::PageBytes());
  const uint32_t common_bytes = GranulesFor(static_cast<uint32_t>(arch::CallbackCommonBytes())) * kGranuleBytes;
  const auto count = static_cast<uint32_t>((bytes - common_bytes) / arch::kCallbackThunkBytes);
  std::unique_ptr<ThunkContext[]> contexts(new (std::nothrow) ThunkContext[count]);
  if (contexts == nullptr) return Error{ErrorCode::kNoMemory, "there is no memory for more callbacks"};
  if (Status failed = MakeRoom(contexts_, 1)) return failed;
  Result<SpanId> page = space_.Allocate(Zone::kFixedCode, bytes, kGranuleBytes, 0, Section::kCode);
  if (!page.ok()) return std::move(page.status());
  const uint64_t common = space_.AddressOf(page.value());
  {
    WriteScope scope(space_, "a page of thunks");
    if (Status failed = scope.Open(page.value())) {
      space_.Abandon(page.value());
      return failed;
    }
    uint8_t* out = scope.Fill(page.value(), 0, bytes);
    std::memset(out, arch::kPoisonByte, bytes);
    arch::WriteCallbackCommon(out, handler);
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t offset = common_bytes + i * static_cast<uint32_t>(arch::kCallbackThunkBytes);
      arch::WriteCallbackThunk(out + offset, common + offset, common, &contexts[i]);
    }
    space_.SetState(page.value(), SpanState::kInternal);
  }
  next_ = common + common_bytes;
  left_ = count;
  next_context_ = contexts.get();
  contexts_.push_back(std::move(contexts));
  return Status::Ok();
}

// All of a process. Never destroyed, nor is any region.
struct ProcessThunks {
  const uint32_t generation = os::ForkGeneration();
  std::mutex lock;
  std::vector<std::unique_ptr<Region>> regions;
};

constinit std::atomic<ProcessThunks*> current{nullptr};

// A forked child begins anew: another thread may have held the parent's lock, or been in the middle of a page.
ProcessThunks& ThunksOfThisProcess() {
  // Acquire, and release below: who finds them finds them made.
  ProcessThunks* thunks = current.load(std::memory_order_acquire);
  while (thunks == nullptr || thunks->generation != os::ForkGeneration()) {
    auto made = std::make_unique<ProcessThunks>();
    if (current.compare_exchange_strong(thunks, made.get(), std::memory_order_acq_rel, std::memory_order_acquire))
      thunks = made.release();
  }
  return *thunks;
}

}  // namespace

Result<Thunk> MakeThunk(arch::CallbackHandler handler, uint64_t low, uint64_t high) {
  ProcessThunks& thunks = ThunksOfThisProcess();
  std::lock_guard guard(thunks.lock);
  // From a region that is there already: the newest first, since the others are full as a rule.
  auto take = [&](bool from_any) -> Result<Thunk> {
    for (size_t i = thunks.regions.size(); i-- > 0;) {
      Region& region = *thunks.regions[i];
      if (!from_any && !region.ReachedFrom(low, high)) continue;
      Result<Thunk> taken = region.Take(handler, low, high);
      if (taken.ok() || taken.status().code() != ErrorCode::kFull) return taken;
    }
    return Error{ErrorCode::kFull, "all thunks are taken"};
  };
  Result<Thunk> taken = take(false);
  if (taken.ok() || taken.status().code() != ErrorCode::kFull) return taken;
  Result<std::unique_ptr<os::Memory>> memory = OpenMemory();
  if (!memory.ok()) return std::move(memory.status());
  const uint64_t wish = FindRoom(*memory.value(), low, high);
  if (wish == 0) {
    taken = take(true);
    if (taken.ok() || taken.status().code() != ErrorCode::kFull) return taken;
  }
  Result<std::unique_ptr<Region>> made = Region::Make(std::move(memory.value()), wish);
  if (!made.ok()) return std::move(made.status());
  thunks.regions.push_back(std::move(made.value()));
  return thunks.regions.back()->Take(handler, low, high);
}

}  // namespace jit_arena
