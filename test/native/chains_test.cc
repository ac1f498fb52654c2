// Chains of links as pure graphs: what is found must be what a slow and plain search finds, in graphs of every small
// size.
#include "core/chains.h"

#include <cstdint>
#include <random>
#include <vector>

#include "test.h"

using namespace jit_arena;
using chains::Direction;
using chains::kEndless;

namespace {

struct Graph {
  struct Edge {
    uint32_t source, target;
    bool link;
  };
  uint32_t nodes;
  std::vector<Edge> edges;     // by number - 1
  std::vector<bool> progress;  // by node
  std::vector<uint32_t> successor;

  uint32_t size() const { return nodes + 1; }
  uint32_t First(uint32_t node, Direction direction) const { return After(0, node, direction); }
  uint32_t Next(uint32_t edge, Direction direction) const {
    const Edge& at = edges[edge - 1];
    return After(edge, direction == Direction::kBack ? at.target : at.source, direction);
  }
  uint32_t EndOf(uint32_t edge, Direction direction) const {
    const Edge& at = edges[edge - 1];
    return !at.link ? 0 : direction == Direction::kBack ? at.source : at.target;
  }
  bool MakesProgress(uint32_t node) const { return progress[node]; }
  bool CanLead(uint32_t node) const { return node % 7 != 0; }
  uint32_t Successor(uint32_t node) const { return successor[node]; }

  uint32_t After(uint32_t edge, uint32_t node, Direction direction) const {
    for (uint32_t next = edge + 1; next <= edges.size(); next++)
      if ((direction == Direction::kBack ? edges[next - 1].target : edges[next - 1].source) == node) return next;
    return 0;
  }
  bool Reaches(uint32_t from, uint32_t to, std::vector<bool> seen) const {
    if (seen[from]) return false;
    seen[from] = true;
    for (const Edge& edge : edges)
      if (edge.link && edge.source == from && (edge.target == to || Reaches(edge.target, to, seen))) return true;
    return false;
  }
  bool Reaches(uint32_t from, uint32_t to) const { return Reaches(from, to, std::vector<bool>(size())); }
  // By the words of Exits::ChainDepth.
  uint32_t Depth(uint32_t node, std::vector<bool> path) const {
    if (path[node]) return kEndless;
    path[node] = true;
    if (progress[node]) return 0;
    uint32_t depth = 0;
    for (const Edge& edge : edges) {
      if (!edge.link || edge.target != node) continue;
      uint32_t before = Depth(edge.source, path);
      if (before == kEndless) return kEndless;
      depth = std::max(depth, before + 1);
    }
    return depth;
  }
  uint32_t Depth(uint32_t node) const { return Depth(node, std::vector<bool>(size())); }
  // Links on from a node, up to those that make progress.
  uint32_t Behind(uint32_t node, std::vector<bool> path) const {
    if (path[node]) return kEndless;
    path[node] = true;
    uint32_t length = 0;
    for (const Edge& edge : edges) {
      if (!edge.link || edge.source != node || progress[edge.target]) continue;
      uint32_t further = Behind(edge.target, path);
      if (further == kEndless) return kEndless;
      length = std::max(length, further + 1);
    }
    return length;
  }
  uint32_t Behind(uint32_t node) const { return Behind(node, std::vector<bool>(size())); }
};

Graph Random(std::mt19937& random, uint32_t nodes, uint32_t edges) {
  Graph graph{nodes, {}, std::vector<bool>(nodes + 1), std::vector<uint32_t>(nodes + 1)};
  auto node = [&] { return static_cast<uint32_t>(1 + random() % nodes); };
  for (uint32_t i = 0; i < edges; i++) graph.edges.push_back({node(), node(), random() % 5 != 0});
  for (uint32_t i = 1; i <= nodes; i++) {
    graph.progress[i] = random() % 4 == 0;
    if (uint32_t next = node(); next != i && graph.CanLead(next) && random() % 3 != 0) graph.successor[i] = next;
  }
  return graph;
}

// Calls body(graph) for many, some with hardly a link and some with more than two for each node.
template <class Body>
void WithGraphs(Body body) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; round++) {
    uint32_t nodes = 1 + random() % 8;
    body(Random(random, nodes, random() % (2 * nodes + 2)));
  }
}

}  // namespace

TEST(chains_loops_are_what_leads_back) {
  int loops = 0;
  WithGraphs([&](const Graph& graph) {
    std::vector<bool> found = chains::FindLoops(graph);
    CHECK_EQ(found.size(), graph.size());
    for (uint32_t node = 1; node < graph.size(); node++) {
      CHECK_EQ(static_cast<bool>(found[node]), graph.Reaches(node, node));
      loops += found[node];
    }
  });
  CHECK(loops > 1000);
}

TEST(chains_depth_counts_from_the_last_progress) {
  int endless = 0, deep = 0;
  WithGraphs([&](const Graph& graph) {
    for (uint32_t node = 1; node < graph.size(); node++) {
      uint32_t depth = chains::DepthOf(graph, node);
      CHECK_EQ(depth, graph.Depth(node));
      endless += depth == kEndless;
      deep += depth != kEndless && depth >= 3;
    }
  });
  CHECK(endless > 100);
  CHECK(deep > 100);
}

// The depth of a link is that of the longest chain through it, once it is there.
TEST(chains_depth_of_a_link_is_known_before_it_is_made) {
  WithGraphs([&](const Graph& graph) {
    for (uint32_t source = 1; source < graph.size(); source++) {
      for (uint32_t target = 1; target < graph.size(); target++) {
        Graph linked = graph;
        linked.edges.push_back({source, target, true});
        uint32_t before = linked.Depth(source), behind = linked.Behind(target);
        uint32_t through = before == kEndless || behind == kEndless ? kEndless : before + 1 + behind;
        CHECK_EQ(chains::DepthOfLink(graph, source, target), graph.progress[target] ? 0 : through);
      }
    }
  });
}

TEST(chains_order_puts_each_before_its_successor) {
  size_t laid_out = 0;
  WithGraphs([&](const Graph& graph) {
    std::vector<uint32_t> order = chains::FindOrder(graph);
    std::vector<int> times(graph.size());
    for (size_t i = 0; i < order.size(); i++) {
      if (order[i] == 0) {
        CHECK(i >= 2 && order[i - 1] != 0 && order[i - 2] != 0);
        continue;
      }
      times[order[i]]++;
      CHECK(i + 1 < order.size());
      if (order[i + 1] != 0) CHECK_EQ(order[i + 1], graph.Successor(order[i]));
      laid_out++;
    }
    for (uint32_t node = 1; node < graph.size(); node++) {
      CHECK(times[node] <= 1);
      // One that leads on is left out only when its successor stands behind another.
      uint32_t next = graph.Successor(node);
      if (times[node] == 0 && graph.CanLead(node) && next != 0) CHECK_EQ(times[next], 1);
    }
  });
  CHECK(laid_out > 1000);
}

TEST(chains_may_be_long) {
  constexpr uint32_t kNodes = 20'000;
  struct Line {
    uint32_t size() const { return kNodes + 1; }
    uint32_t First(uint32_t node, Direction direction) const {
      return direction == Direction::kBack ? node - 1 : node == kNodes ? 0 : node;
    }
    uint32_t Next(uint32_t, Direction) const { return 0; }
    uint32_t EndOf(uint32_t edge, Direction direction) const { return direction == Direction::kBack ? edge : edge + 1; }
    bool MakesProgress(uint32_t) const { return false; }
    bool CanLead(uint32_t) const { return true; }
    uint32_t Successor(uint32_t node) const { return node == kNodes ? 0 : node + 1; }
  };
  CHECK_EQ(chains::DepthOf(Line{}, kNodes), kNodes - 1);
  CHECK_EQ(chains::DepthOfLink(Line{}, kNodes, 1), kEndless);
  CHECK_EQ(chains::FindOrder(Line{}).size(), kNodes + 1);
  for (bool loop : chains::FindLoops(Line{})) CHECK(!loop);
}
