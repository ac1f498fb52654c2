// What links make of traces: loops, chains, how deep the chains are, and in which order they are laid out. This file
// sees graphs of numbers; it touches no memory of an executor.
//
// A graph has nodes from 1 to size() - 1, and edges whose numbers begin at 1. It answers:
// - First(node, direction), Next(edge, direction): the edges that lead on from a node, or back from it; 0: no more
// - EndOf(edge, direction): the node at the far end; 0: the edge is no link
// - MakesProgress(node): whether a chain through the node gets somewhere
// - CanLead(node): for the order alone, whether a chain may go through the node
// - Successor(node): for the order alone, where a chain goes on from the node; 0: nowhere
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace jit_arena::chains {

enum class Direction : uint8_t { kBack, kForth };

// The depth of a cycle without progress.
inline constexpr uint32_t kEndless = ~0u;

// By node: whether links lead from it back to it. Tarjan's strongly connected components, without recursion, since
// chains may be long. Only nodes with links are looked at.
template <class Graph>
class LoopFinder {
 public:
  explicit LoopFinder(const Graph& graph) : graph_(graph), loops_(graph.size()) {}

  std::vector<bool> Find() {
    for (uint32_t root = 1; root < graph_.size(); root++) {
      if (graph_.First(root, Direction::kForth) == 0 || nodes_.count(root) != 0) continue;
      Enter(root);
      while (!path_.empty()) Step();
    }
    return std::move(loops_);
  }

 private:
  struct Node {
    uint32_t order;   // in which it was found
    uint32_t lowest;  // order of the earliest one on the path that it leads back to
    bool closed;      // its component is known
  };
  struct Frame {
    uint32_t node;
    uint32_t next;  // edge at which its walk stands
  };

  void Enter(uint32_t at) {
    uint32_t order = static_cast<uint32_t>(nodes_.size());
    nodes_[at] = {order, order, false};
    open_.push_back(at);
    path_.push_back({at, graph_.First(at, Direction::kForth)});
  }

  void Step() {
    const auto [at, edge] = path_.back();
    Node& node = nodes_[at];
    if (edge == 0) return Leave(at, node);
    path_.back().next = graph_.Next(edge, Direction::kForth);
    uint32_t target = graph_.EndOf(edge, Direction::kForth);
    if (target == 0) return;
    if (target == at) loops_[at] = true;
    auto seen = nodes_.find(target);
    if (seen == nodes_.end())
      Enter(target);
    else if (!seen->second.closed)
      node.lowest = std::min(node.lowest, seen->second.order);
  }

  void Leave(uint32_t at, const Node& node) {
    path_.pop_back();
    if (!path_.empty()) {
      Node& before = nodes_[path_.back().node];
      before.lowest = std::min(before.lowest, node.lowest);
    }
    if (node.lowest != node.order) return;
    // The first of its component: the others were found after it.
    bool several = open_.back() != at;
    for (uint32_t member = 0; member != at;) {
      member = open_.back();
      open_.pop_back();
      nodes_[member].closed = true;
      if (several) loops_[member] = true;
    }
  }

  const Graph& graph_;
  std::vector<bool> loops_;
  std::unordered_map<uint32_t, Node> nodes_;
  std::vector<Frame> path_;
  std::vector<uint32_t> open_;  // found, of no known component
};

template <class Graph>
std::vector<bool> FindLoops(const Graph& graph) {
  return LoopFinder(graph).Find();
}

// The longest path of links through nodes that make no progress: back to the last that does, or forth to the last
// before one that does. Endless when it is a cycle, or comes to `end`. Without recursion: chains may be long.
template <class Graph>
uint32_t LongestChain(const Graph& graph, uint32_t node, Direction direction, uint32_t end) {
  bool back = direction == Direction::kBack;
  // A frame is a node and the edge at which its walk stands.
  struct Frame {
    uint32_t node;
    uint32_t next;
    uint32_t length;
  };
  constexpr uint32_t kOnPath = kEndless - 1;
  std::unordered_map<uint32_t, uint32_t> known;  // lengths; kOnPath: on the path just now
  std::vector<Frame> path;
  auto enter = [&](uint32_t at) {
    known[at] = kOnPath;
    bool ends = back && graph.MakesProgress(at);
    path.push_back({at, ends ? 0 : graph.First(at, direction), 0});
  };
  enter(node);
  for (;;) {
    Frame& frame = path.back();
    if (frame.next == 0) {
      uint32_t length = frame.length;
      known[frame.node] = length;
      path.pop_back();
      if (path.empty()) return length;
      path.back().length = std::max(path.back().length, length + 1);
      continue;
    }
    uint32_t other = graph.EndOf(frame.next, direction);
    frame.next = graph.Next(frame.next, direction);
    if (other == 0 || (!back && graph.MakesProgress(other))) continue;
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

// Links from the last node that makes progress, or that nothing links to.
template <class Graph>
uint32_t DepthOf(const Graph& graph, uint32_t node) {
  return LongestChain(graph, node, Direction::kBack, 0);
}

// The depth of the deepest node that a link from `source` to `target` would add to; 0 when it adds to none.
template <class Graph>
uint32_t DepthOfLink(const Graph& graph, uint32_t source, uint32_t target) {
  bool gets_on = graph.MakesProgress(source);
  if (graph.MakesProgress(target)) return 0;
  if (source == target && !gets_on) return kEndless;
  uint32_t before = DepthOf(graph, source);
  uint32_t behind = LongestChain(graph, target, Direction::kForth, gets_on ? 0 : source);
  return before == kEndless || behind == kEndless ? kEndless : before + 1 + behind;
}

// Each node in front of its successor, as far as it has not been laid out already. 0 ends a chain; a chain has two
// nodes at least.
template <class Graph>
std::vector<uint32_t> FindOrder(const Graph& graph) {
  std::vector<uint32_t> order;
  std::vector<bool> taken(graph.size()), followed(graph.size());
  for (uint32_t node = 1; node < graph.size(); node++)
    if (graph.CanLead(node)) followed[graph.Successor(node)] = true;
  // From those that nobody leads to; what is left then are loops, which begin anywhere.
  for (bool heads : {true, false}) {
    for (uint32_t head = 1; head < graph.size(); head++) {
      if (taken[head] || !graph.CanLead(head) || (heads && followed[head])) continue;
      size_t begin = order.size();
      for (uint32_t node = head; node != 0 && !taken[node]; node = graph.Successor(node)) {
        taken[node] = true;
        order.push_back(node);
      }
      if (order.size() - begin < 2)
        order.resize(begin);
      else
        order.push_back(0);
    }
  }
  return order;
}

}  // namespace jit_arena::chains
