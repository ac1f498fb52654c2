// Exits and links (DESIGN §7): where each exit goes, and how often it went there cold.
//
// A link is one aligned store into the record of the exit; no code is written. So linking, unlinking and the moves of
// a target need no write scope and reach threads that are executing at their next exit.
#include <algorithm>
#include <cmath>

#include "core/linker.h"

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

void Linker::SetStubs(uint64_t exit_stub, uint64_t done_stub, uint32_t exit_threshold, double exit_growth) {
  exit_stub_ = exit_stub;
  done_stub_ = done_stub;
  exit_threshold_ = exit_threshold;
  exit_growth_ = exit_growth;
}

uint16_t Linker::FirstTemperature() const { return Temperature(exit_threshold_, 0); }

void Linker::MakeCold(ExitRecord& record) const {
  record.temperature.store(FirstTemperature(), std::memory_order_relaxed);
  // Release: a thread that takes the exit from now on reaches the stub; who has taken it is under its pin.
  record.entry.store(exit_stub_, std::memory_order_release);
}

void Linker::Backoff(ExitRecord& record) const {
  uint32_t temperature = record.temperature.load(std::memory_order_relaxed);
  uint32_t backoff = std::min<uint32_t>((temperature & kLargestBackoff) + 1u, kLargestBackoff);
  double threshold = exit_threshold_;
  for (uint32_t i = 0; i < backoff; i++) threshold *= exit_growth_;
  record.temperature.store(Temperature(threshold, backoff), std::memory_order_relaxed);
}

// Fills what stands behind the state in its span.
void Linker::InitialiseExits(uint32_t index, uint8_t* state) {
  const Executor& executor = table_[index];
  if (executor.has_flags) {
    state[executor.ValidOffset()] = 1;
    state[executor.WarmOffset()] = 1;  // one that is new is not cold
  }
  for (uint32_t exit = 0; exit < executor.exit_count; exit++) {
    auto* record = reinterpret_cast<ExitRecord*>(state + executor.RecordsOffset()) + exit;
    record->executor = index;
    record->exit = static_cast<uint16_t>(exit);
    MakeCold(*record);
  }
}

ExitRecord& Linker::RecordOf(uint32_t index, uint32_t exit) const {
  const Executor& executor = table_[index];
  return reinterpret_cast<ExitRecord*>(space_.AddressOf(executor.state_span) + executor.RecordsOffset())[exit];
}

std::atomic<uint8_t>* Linker::ValidByte(uint32_t index) const {
  const Executor& executor = table_[index];
  if (!executor.has_flags) return nullptr;
  return reinterpret_cast<std::atomic<uint8_t>*>(space_.AddressOf(executor.state_span) + executor.ValidOffset());
}

std::atomic<uint8_t>* Linker::WarmByte(uint32_t index) const {
  const Executor& executor = table_[index];
  if (!executor.has_warm) return nullptr;
  return reinterpret_cast<std::atomic<uint8_t>*>(space_.AddressOf(executor.state_span) + executor.WarmOffset());
}

uint32_t Linker::FindExitReference(uint32_t source, uint32_t exit) const {
  for (uint32_t id = table_[source].outbound; id != 0; id = references_[id].next_outbound)
    if (references_[id].kind == ReferenceKind::kExit && references_[id].site == exit) return id;
  return 0;
}

Linker::LinkedTo Linker::FindLink(uint32_t source, uint32_t exit) const {
  uint32_t id = FindExitReference(source, exit);
  if (id == 0) return {0, 0};
  return {references_[id].target, references_[id].entry};
}

Status Linker::Link(uint32_t source, uint32_t exit, uint32_t target, uint32_t entry) {
  uint32_t earlier = FindExitReference(source, exit);
  Reference reference;
  reference.kind = ReferenceKind::kExit;
  reference.source = source;
  reference.target = target;
  reference.site = exit;
  reference.entry = entry;
  if (Status failed = AddReference(reference)) return failed;
  if (earlier != 0) RemoveReference(earlier);
  // Release: whoever follows the exit finds the target's bytes.
  RecordOf(source, exit).entry.store(EntryAddress(target, entry), std::memory_order_release);
  return Status::Ok();
}

void Linker::Unlink(uint32_t source, uint32_t exit) {
  uint32_t id = FindExitReference(source, exit);
  if (id == 0) return;
  RemoveReference(id);
  MakeCold(RecordOf(source, exit));
}

void Linker::UnlinkAll() {
  for (uint32_t index = 1; index < table_.size(); index++)
    if (table_[index].State() == ExecutorState::kFrozen) UnlinkInbound(index);
}

void Linker::UnlinkInbound(uint32_t target) {
  for (uint32_t id = table_[target].inbound; id != 0;) {
    Reference reference = references_[id];
    if (reference.kind == ReferenceKind::kExit) {
      RemoveReference(id);
      MakeCold(RecordOf(reference.source, reference.site));
    }
    id = reference.next_inbound;
  }
}

// Executors that links lead back to: Tarjan's strongly connected components, without recursion, since chains may be
// long. Only executors with links are looked at.
std::vector<bool> Linker::FindLoops() const {
  std::vector<bool> loops(table_.size());
  struct Node {
    uint32_t order;   // in which it was found
    uint32_t lowest;  // order of the earliest one on the path that it leads back to
    bool closed;      // its component is known
  };
  struct Frame {
    uint32_t index;
    uint32_t next;  // reference at which its walk stands
  };
  std::unordered_map<uint32_t, Node> nodes;
  std::vector<Frame> path;
  std::vector<uint32_t> open;  // found, of no known component
  auto enter = [&](uint32_t at) {
    uint32_t order = static_cast<uint32_t>(nodes.size());
    nodes[at] = {order, order, false};
    open.push_back(at);
    path.push_back({at, table_[at].outbound});
  };
  for (uint32_t root = 1; root < table_.size(); root++) {
    if (table_[root].outbound == 0 || table_[root].exit_count == 0 || nodes.count(root) != 0) continue;
    enter(root);
    while (!path.empty()) {
      auto [index, next] = path.back();
      Node& node = nodes[index];
      if (next != 0) {
        const Reference& reference = references_[next];
        path.back().next = reference.next_outbound;
        if (reference.kind != ReferenceKind::kExit) continue;
        if (reference.target == index) loops[index] = true;
        auto seen = nodes.find(reference.target);
        if (seen == nodes.end())
          enter(reference.target);
        else if (!seen->second.closed)
          node.lowest = std::min(node.lowest, seen->second.order);
        continue;
      }
      path.pop_back();
      if (!path.empty()) {
        Node& before = nodes[path.back().index];
        before.lowest = std::min(before.lowest, node.lowest);
      }
      if (node.lowest != node.order) continue;
      // The first of its component: the others were found after it.
      bool several = open.back() != index;
      for (uint32_t member = 0; member != index;) {
        member = open.back();
        open.pop_back();
        nodes[member].closed = true;
        if (several) loops[member] = true;
      }
    }
  }
  return loops;
}

uint32_t Linker::FindSuccessor(uint32_t index) const {
  uint32_t linked = 0, branched = 0;
  for (uint32_t id = table_[index].outbound; id != 0; id = references_[id].next_outbound) {
    const Reference& reference = references_[id];
    if (reference.target_is_link() || reference.target == index || !table_[reference.target].movable) continue;
    // The list begins with the last one that was made; the exit that was hot first was linked first.
    if (reference.kind == ReferenceKind::kExit) linked = reference.target;
    bool branch =
        reference.has_field() && arch::FieldOf(reference.field).relative && reference.target_section == Section::kCode;
    if (branch) branched = reference.target;
  }
  return linked != 0 ? linked : branched;
}

std::vector<uint32_t> Linker::FindChains() const {
  std::vector<uint32_t> chains;
  std::vector<bool> taken(table_.size()), followed(table_.size());
  auto can_move = [&](uint32_t index) {
    return table_[index].State() == ExecutorState::kFrozen && table_[index].movable;
  };
  for (uint32_t index = 1; index < table_.size(); index++)
    if (can_move(index) && table_[index].outbound != 0) followed[FindSuccessor(index)] = true;
  // From those that nobody leads to; what is left then are loops, which begin anywhere.
  for (bool heads : {true, false}) {
    for (uint32_t head = 1; head < table_.size(); head++) {
      if (taken[head] || !can_move(head) || table_[head].outbound == 0 || (heads && followed[head])) continue;
      size_t begin = chains.size();
      for (uint32_t index = head; index != 0 && !taken[index]; index = FindSuccessor(index)) {
        taken[index] = true;
        chains.push_back(index);
      }
      if (chains.size() - begin < 2)
        chains.resize(begin);
      else
        chains.push_back(0);
    }
  }
  return chains;
}

uint32_t Linker::ChainDepth(uint32_t index) const { return LongestChain(index, Direction::kBack, 0); }

uint32_t Linker::DepthOfLink(uint32_t source, uint32_t target) const {
  if (table_[target].makes_progress) return 0;
  if (source == target && !table_[source].makes_progress) return kEndless;
  uint32_t before = ChainDepth(source);
  uint32_t behind = LongestChain(target, Direction::kForth, table_[source].makes_progress ? 0 : source);
  return before == kEndless || behind == kEndless ? kEndless : before + 1 + behind;
}

// The longest path of links through executors that make no progress: back to the last that does, or forth to the last
// before one that does. Endless when it is a cycle, or comes to `end`. Without recursion: chains may be long.
uint32_t Linker::LongestChain(uint32_t index, Direction direction, uint32_t end) const {
  bool back = direction == Direction::kBack;
  // A frame is an executor and the reference at which its walk stands.
  struct Frame {
    uint32_t index;
    uint32_t next;
    uint32_t length;
  };
  std::unordered_map<uint32_t, uint32_t> known;  // kEndless - 1: on the path just now
  constexpr uint32_t kOnPath = kEndless - 1;
  std::vector<Frame> path;
  auto enter = [&](uint32_t at) {
    known[at] = kOnPath;
    bool ends = back && table_[at].makes_progress;
    path.push_back({at, ends ? 0 : back ? table_[at].inbound : table_[at].outbound, 0});
  };
  enter(index);
  for (;;) {
    Frame& frame = path.back();
    if (frame.next == 0) {
      uint32_t length = frame.length;
      known[frame.index] = length;
      path.pop_back();
      if (path.empty()) return length;
      path.back().length = std::max(path.back().length, length + 1);
      continue;
    }
    const Reference& reference = references_[frame.next];
    frame.next = back ? reference.next_inbound : reference.next_outbound;
    if (reference.kind != ReferenceKind::kExit) continue;
    uint32_t other = back ? reference.source : reference.target;
    if (!back && table_[other].makes_progress) continue;
    if (other == end) return kEndless;
    auto seen = known.find(other);
    if (seen == known.end())
      enter(other);  // `frame` is not valid from here on
    else if (seen->second == kOnPath)
      return kEndless;
    else
      frame.length = std::max(frame.length, seen->second + 1);
  }
}

void Linker::VerifyExits(uint32_t index, std::vector<Problem>* problems) const {
  const Executor& executor = table_[index];
  std::vector<uint32_t> reference_of(executor.exit_count);
  for (uint32_t id = executor.outbound; id != 0; id = references_[id].next_outbound)
    if (references_[id].kind == ReferenceKind::kExit) reference_of[references_[id].site] = id;
  for (uint32_t exit = 0; exit < executor.exit_count; exit++) {
    const ExitRecord& record = RecordOf(index, exit);
    uint32_t id = reference_of[exit];
    uint64_t expected = id != 0 ? EntryAddress(references_[id].target, references_[id].entry) : exit_stub_;
    uint64_t found = record.entry.load(std::memory_order_relaxed);
    int64_t offset = static_cast<int64_t>(executor.RecordsOffset() + arch::kExitRecordBytes * exit);
    if (found != expected)
      problems->push_back({table_.IdOf(index), Section::kState, offset, expected, found, "an exit record's entry"});
    if (record.executor != index || record.exit != exit)
      problems->push_back({table_.IdOf(index), Section::kState, offset + 8, index, record.executor, "an exit record"});
  }
}

}  // namespace jit_arena
