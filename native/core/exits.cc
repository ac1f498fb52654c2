#include "core/exits.h"

#include <algorithm>

#include "core/placement.h"

namespace jit_arena {
namespace {

// The temperature's count has 12 bits and is hot when it runs below 0.
constexpr uint32_t kLargestCount = 0xfff;
constexpr uint32_t kLargestBackoff = 0xf;

uint16_t Temperature(double crossings, uint32_t backoff) {
  double count = std::clamp(crossings - 1, 0.0, double{kLargestCount});
  return static_cast<uint16_t>(static_cast<uint32_t>(count) << arch::kTemperatureShift | backoff);
}

}  // namespace

void Exits::SetStubs(uint64_t exit_stub, uint64_t done_stub, uint32_t exit_threshold, double exit_growth) {
  exit_stub_ = exit_stub;
  done_stub_ = done_stub;
  exit_threshold_ = exit_threshold;
  exit_growth_ = exit_growth;
}

void Exits::MakeCold(ExitRecord& record) const {
  record.temperature.store(Temperature(exit_threshold_, 0), std::memory_order_relaxed);
  // Release: a thread that takes the exit from now on reaches the stub; a thread that has taken it is pinned.
  record.entry.store(exit_stub_, std::memory_order_release);
}

void Exits::Backoff(ExitRecord& record) const {
  uint32_t temperature = record.temperature.load(std::memory_order_relaxed);
  uint32_t backoff = std::min<uint32_t>((temperature & kLargestBackoff) + 1u, kLargestBackoff);
  double threshold = exit_threshold_;
  for (uint32_t i = 0; i < backoff; i++) threshold *= exit_growth_;
  record.temperature.store(Temperature(threshold, backoff), std::memory_order_relaxed);
}

void Exits::Initialise(uint32_t index, uint8_t* state) const {
  const Executor& executor = table_[index];
  if (executor.has_flags) {
    state[executor.ValidOffset()] = 1;
    state[executor.WarmOffset()] = 1;  // a new executor is not cold
  }
  for (uint32_t exit = 0; exit < executor.exit_count; exit++) {
    auto* record = reinterpret_cast<ExitRecord*>(state + executor.RecordsOffset()) + exit;
    record->executor = index;
    record->exit = static_cast<uint16_t>(exit);
    MakeCold(*record);
  }
}

ExitRecord& Exits::RecordOf(uint32_t index, uint32_t exit) const {
  const Executor& executor = table_[index];
  return reinterpret_cast<ExitRecord*>(space_.AddressOf(executor.state_span) + executor.RecordsOffset())[exit];
}

std::atomic<uint8_t>* Exits::ValidByte(uint32_t index) const {
  const Executor& executor = table_[index];
  if (!executor.has_flags) return nullptr;
  return reinterpret_cast<std::atomic<uint8_t>*>(space_.AddressOf(executor.state_span) + executor.ValidOffset());
}

std::atomic<uint8_t>* Exits::WarmByte(uint32_t index) const {
  const Executor& executor = table_[index];
  if (!executor.has_warm) return nullptr;
  return reinterpret_cast<std::atomic<uint8_t>*>(space_.AddressOf(executor.state_span) + executor.WarmOffset());
}

Exits::LinkedTo Exits::FindLink(uint32_t source, uint32_t exit) const {
  uint32_t id = references_.FindLink(source, exit);
  if (id == 0) return {0, 0};
  return {references_[id].target, references_[id].entry};
}

Status Exits::Link(uint32_t source, uint32_t exit, uint32_t target, uint32_t entry) {
  uint32_t earlier = references_.FindLink(source, exit);
  Reference reference;
  reference.kind = ReferenceKind::kExit;
  reference.source = source;
  reference.target = target;
  reference.site = exit;
  reference.entry = entry;
  if (Status failed = references_.Add(reference)) return failed;
  if (earlier != 0) references_.Remove(earlier);
  // Release: a thread that follows the exit finds the target's bytes.
  RecordOf(source, exit).entry.store(EntryAddress(space_, table_, target, entry), std::memory_order_release);
  return Status::Ok();
}

void Exits::Unlink(uint32_t source, uint32_t exit) {
  uint32_t id = references_.FindLink(source, exit);
  if (id == 0) return;
  references_.Remove(id);
  MakeCold(RecordOf(source, exit));
}

void Exits::UnlinkAll() {
  for (uint32_t index = 1; index < table_.size(); index++)
    if (table_[index].State() == ExecutorState::kFrozen) UnlinkInbound(index);
}

void Exits::UnlinkInbound(uint32_t target) {
  for (uint32_t id = table_[target].inbound; id != 0;) {
    Reference reference = references_[id];
    if (reference.kind == ReferenceKind::kExit) {
      references_.Remove(id);
      MakeCold(RecordOf(reference.source, reference.site));
    }
    id = reference.next_inbound;
  }
}

uint32_t Exits::FindSuccessor(uint32_t index) const {
  uint32_t linked = 0, branched = 0;
  for (uint32_t id = table_[index].outbound; id != 0; id = references_[id].next_outbound) {
    const Reference& reference = references_[id];
    if (reference.target_is_slot() || reference.target == index || !table_[reference.target].movable) continue;
    // The list begins with the last one that was made; the exit that was hot first was linked first.
    if (reference.kind == ReferenceKind::kExit) linked = reference.target;
    bool branch =
        reference.has_field() && arch::FieldOf(reference.field).relative && reference.target_section == Section::kCode;
    if (branch) branched = reference.target;
  }
  return linked != 0 ? linked : branched;
}

// The executors as nodes, and the references between them as edges: those that are exits are links.
struct Exits::Graph {
  using Direction = chains::Direction;
  const Exits& exits;

  uint32_t size() const { return exits.table_.size(); }
  // An executor without exits has no links.
  uint32_t First(uint32_t node, Direction direction) const {
    const Executor& executor = exits.table_[node];
    if (direction == Direction::kBack) return executor.inbound;
    return executor.exit_count != 0 ? executor.outbound : 0;
  }
  uint32_t Next(uint32_t edge, Direction direction) const {
    const Reference& reference = exits.references_[edge];
    return direction == Direction::kBack ? reference.next_inbound : reference.next_outbound;
  }
  uint32_t EndOf(uint32_t edge, Direction direction) const {
    const Reference& reference = exits.references_[edge];
    if (reference.kind != ReferenceKind::kExit) return 0;
    return direction == Direction::kBack ? reference.source : reference.target;
  }
  bool MakesProgress(uint32_t node) const { return exits.table_[node].makes_progress; }
  bool CanLead(uint32_t node) const {
    const Executor& executor = exits.table_[node];
    return executor.State() == ExecutorState::kFrozen && executor.movable && executor.outbound != 0;
  }
  uint32_t Successor(uint32_t node) const { return exits.FindSuccessor(node); }
};

std::vector<bool> Exits::FindLoops() const { return chains::FindLoops(Graph{*this}); }

std::vector<uint32_t> Exits::FindChains() const { return chains::FindOrder(Graph{*this}); }

uint32_t Exits::ChainDepth(uint32_t index) const { return chains::DepthOf(Graph{*this}, index); }

uint32_t Exits::DepthOfLink(uint32_t source, uint32_t target) const {
  return chains::DepthOfLink(Graph{*this}, source, target);
}

void Exits::Verify(uint32_t index, std::vector<Problem>* problems) const {
  const Executor& executor = table_[index];
  std::vector<uint32_t> reference_of(executor.exit_count);
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound)
    if (references_[id].kind == ReferenceKind::kExit) reference_of[references_[id].site] = id;
  for (uint32_t exit = 0; exit < executor.exit_count; exit++) {
    const ExitRecord& record = RecordOf(index, exit);
    uint32_t id = reference_of[exit];
    uint64_t expected =
        id != 0 ? EntryAddress(space_, table_, references_[id].target, references_[id].entry) : exit_stub_;
    uint64_t found = record.entry.load(std::memory_order_relaxed);
    int64_t offset = static_cast<int64_t>(executor.RecordsOffset() + arch::kExitRecordBytes * exit);
    if (found != expected)
      problems->push_back({table_.IdOf(index), Section::kState, offset, expected, found, "an exit record's entry"});
    if (record.executor != index || record.exit != exit)
      problems->push_back({table_.IdOf(index), Section::kState, offset + 8, index, record.executor, "an exit record"});
  }
}

}  // namespace jit_arena
