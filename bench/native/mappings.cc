// T9: executors by the hundred thousand, every second one freed. A process has 65 530 mappings (vm.max_map_count), and
// an allocator that gives each executor one of its own runs out of them, in free of all places.
#include "base/bits.h"
#include "population.h"

namespace bench {
namespace {

// Mappings that the peer has added, for each slab.
double PerSlab(uint64_t mappings, uint64_t before, Peer* peer) {
  auto slabs = static_cast<double>(static_cast<ArenaPeer*>(peer)->arena().Stats().slabs);
  return slabs == 0 ? 0 : static_cast<double>(mappings - std::min(mappings, before)) / slabs;
}

// Fills, frees every second one, collects. What cannot be freed is not freed at the end either.
void FreeEverySecond(const PeerKind& kind, uint32_t count, const TinyWorkload& workload) {
  uint64_t before = MappingCount();
  std::unique_ptr<Peer> peer = kind.make(uint64_t{count} * 8192 + (16 << 20));
  if (peer == nullptr) return ReportMissing("T9", std::string(kind.name) + ": refused", count, "not installed");
  Population population(std::move(peer), workload, count);
  population.Fill();
  bool is_arena = kind.make == MakeArenaPeer;
  double per_slab = is_arena ? PerSlab(MappingCount(), before, &population.peer()) : 0;
  population.FreeEverySecond();
  uint64_t refused = population.refused();
  uint64_t most = MappingCount();
  if (is_arena) {
    per_slab = std::max(per_slab, PerSlab(MappingCount(), before, &population.peer()));
    static_cast<ArenaPeer&>(population.peer()).Collect();
    most = std::max(most, MappingCount());
    per_slab = std::max(per_slab, PerSlab(MappingCount(), before, &population.peer()));
    population.CheckIntact(10'000);
    Report("T9", "arena: mappings per slab", count, "mappings", {per_slab});
  }
  Report("T9", std::string(kind.name) + ": refused", count, "refused", {static_cast<double>(refused)});
  Report("T9", std::string(kind.name) + ": mappings", count, "mappings", {static_cast<double>(most - before)});
}

// An arena at its maximum size, full; then holes of whole pages everywhere, and a collect that may punch them.
void Largest(const Settings& settings) {
  uint64_t max_bytes = settings.Size<uint64_t>(jit_arena::arch::kMaxArenaBytes, 16 << 20);
  uint64_t before = MappingCount();
  ArenaPeer peer(max_bytes);
  std::vector<uint8_t> code(16 * 1024 - 64, 0xC3);
  const uint8_t constants[48] = {1, 2, 3};
  Bytes bytes{code.data(), static_cast<uint32_t>(code.size()), constants, sizeof constants};
  std::vector<Peer::Handle> handles;
  for (Peer::Handle handle; (handle = peer.Install(bytes)) != 0;) handles.push_back(handle);
  uint64_t capacity = peer.arena().Stats().reserved_bytes;
  BENCH_CHECK(handles.size() * uint64_t{16 * 1024} > capacity - 4 * jit_arena::kSlabBytes);
  double per_slab = PerSlab(MappingCount(), before, &peer);
  uint64_t refused = 0;
  for (size_t i = 1; i < handles.size(); i += 2) refused += !peer.Free(handles[i]);
  per_slab = std::max(per_slab, PerSlab(MappingCount(), before, &peer));
  peer.Collect();
  per_slab = std::max(per_slab, PerSlab(MappingCount(), before, &peer));
  for (size_t i = 0; i < handles.size(); i += 2) BENCH_CHECK(IsIntact(&peer, handles[i], bytes));
  for (size_t i = 0; i < handles.size(); i += 2) refused += !peer.Free(handles[i]);
  Report("T9", "largest arena: mappings per slab", capacity, "mappings", {per_slab});
  Report("T9", "largest arena: refused", capacity, "refused", {static_cast<double>(refused)});
}

}  // namespace

void Mappings(const Settings& settings) {
  TinyWorkload workload(settings.seed);
  uint32_t count = settings.Size(140'000u, 2'000u);
  FreeEverySecond(PeerKindNamed("arena"), count, workload);
  FreeEverySecond(PeerKindNamed("page per trace"), count, workload);
  Largest(settings);
}

}  // namespace bench
