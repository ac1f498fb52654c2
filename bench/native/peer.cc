#include "peer.h"

#include <cstring>

#include "bench.h"

namespace bench {

void Bytes::CopyTo(uint8_t* to) const {
  std::memcpy(to, code, code_bytes);
  if (data_bytes != 0) std::memcpy(to + DataOffset(), data, data_bytes);
}

const std::vector<PeerKind>& PeerKinds() {
  static const std::vector<PeerKind> kinds = {
      {"arena", true, MakeArenaPeer},
      {"malloc", false, MakeMalloc},
      {"mimalloc", false, MakeMimalloc},
      {"jemalloc", false, MakeJemalloc},
      {"asmjit dual", true, MakeAsmjitDual},
      {"asmjit dual, pools", true, MakeAsmjitDualPools},
      {"asmjit single (RWX)", true, MakeAsmjitSingle},
      {"page per trace", true, MakePagePerTrace},
  };
  return kinds;
}

const PeerKind& PeerKindNamed(const std::string& name) {
  for (const PeerKind& kind : PeerKinds())
    if (name == kind.name) return kind;
  Fail(__FILE__, __LINE__, "no such peer: " + name);
}

OwnArena::OwnArena(uint64_t max_bytes, bool huge_pages) {
  jit_arena::ArenaOptions options;
  options.huge_pages = huge_pages;
  options.max_bytes = std::min(max_bytes, jit_arena::arch::kMaxArenaBytes - jit_arena::kSlabBytes);
  auto made = jit_arena::Arena::Create(options);
  CheckOk(made.status());
  arena = std::move(made.value());
  self = arena->reclaimer().Attach();
}

std::unique_ptr<Peer> MakeArenaPeer(uint64_t max_bytes) { return std::make_unique<ArenaPeer>(max_bytes); }

Peer::Handle ArenaPeer::Install(const Bytes& bytes) {
  jit_arena::ExecutorSpec spec;
  spec.bytes[0] = bytes.code;
  spec.sizes[0] = bytes.code_bytes;
  spec.bytes[1] = bytes.data;
  spec.sizes[1] = bytes.data_bytes;
  jit_arena::ExecutorId id = 0;
  if (staged_) {
    auto allocated = arena().Allocate(spec);
    if (allocated.ok()) id = allocated.value();
    return allocated.ok() && arena().Freeze(&id, 1, own_.self).ok() ? id : 0;
  }
  return arena().Install(&spec, 1, &id, own_.self).ok() ? id : 0;
}

bool IsIntact(Peer* peer, Peer::Handle handle, const Bytes& bytes) {
  const uint8_t* at = peer->Look(handle);
  return at != nullptr && std::memcmp(at, bytes.code, bytes.code_bytes) == 0 &&
         std::memcmp(at + bytes.DataOffset(), bytes.data, bytes.data_bytes) == 0;
}

}  // namespace bench
