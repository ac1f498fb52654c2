// Who is measured side by side: the arena and its peers behind one interface, so that all do the same work in the same
// loop. Install copies the same bytes everywhere; what each can and cannot do (W^X, sharing pages) is in docs/bench.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"

namespace bench {

// What an executor is made of; data lies behind code at a multiple of 8.
struct Bytes {
  const uint8_t* code;
  uint32_t code_bytes;
  const uint8_t* data;
  uint32_t data_bytes;

  uint32_t DataOffset() const { return (code_bytes + 7) & ~7u; }
  uint32_t TotalBytes() const { return data_bytes == 0 ? code_bytes : DataOffset() + data_bytes; }
  uint64_t LiveBytes() const { return uint64_t{code_bytes} + data_bytes; }
  void CopyTo(uint8_t* to) const;
};

class Peer {
 public:
  using Handle = uint64_t;  // 0: refused

  virtual ~Peer() = default;
  // Room for the bytes, the bytes in it, ready to be executed.
  virtual Handle Install(const Bytes& bytes) = 0;
  // False when the memory could not be given back.
  virtual bool Free(Handle handle) = 0;
  // Where the bytes lie now.
  virtual const uint8_t* Look(Handle handle) = 0;
};

struct PeerKind {
  const char* name;
  bool executable;  // what is installed can be executed
  // Null when what it needs is not installed. `max_bytes` bounds what will be live at once.
  std::unique_ptr<Peer> (*make)(uint64_t max_bytes);
};

// The arena first, then malloc.
const std::vector<PeerKind>& PeerKinds();
const PeerKind& PeerKindNamed(const std::string& name);

std::unique_ptr<Peer> MakeArenaPeer(uint64_t max_bytes);
std::unique_ptr<Peer> MakeMalloc(uint64_t max_bytes);
std::unique_ptr<Peer> MakeMimalloc(uint64_t max_bytes);
std::unique_ptr<Peer> MakeJemalloc(uint64_t max_bytes);
std::unique_ptr<Peer> MakePagePerTrace(uint64_t max_bytes);
std::unique_ptr<Peer> MakeAsmjitDual(uint64_t max_bytes);
std::unique_ptr<Peer> MakeAsmjitDualPools(uint64_t max_bytes);
std::unique_ptr<Peer> MakeAsmjitSingle(uint64_t max_bytes);

// An arena with a pin slot for one thread; a copy shares the arena and has a slot of its own.
struct OwnArena {
  explicit OwnArena(uint64_t max_bytes, bool huge_pages = false);
  OwnArena(const OwnArena& other) : arena(other.arena), self(arena->reclaimer().Attach()) {}
  std::shared_ptr<jit_arena::Arena> arena;
  jit_arena::PinSlot* self;
};

class ArenaPeer final : public Peer {
 public:
  explicit ArenaPeer(uint64_t max_bytes) : own_(max_bytes) {}
  // `staged`: Install is allocate, a copy, and then freeze.
  explicit ArenaPeer(const OwnArena& shared, bool staged) : own_(shared), staged_(staged) {}
  Handle Install(const Bytes& bytes) override;
  bool Free(Handle handle) override { return own_.arena->Free(&handle, 1, own_.self).ok(); }
  const uint8_t* Look(Handle handle) override { return reinterpret_cast<const uint8_t*>(arena().EntryOf(handle)); }

  jit_arena::Arena& arena() { return *own_.arena; }
  jit_arena::CollectResult Collect() { return arena().Collect({}, own_.self); }

 private:
  OwnArena own_;
  bool staged_ = false;
};

// Every byte of the executor is what was installed.
bool IsIntact(Peer* peer, Peer::Handle handle, const Bytes& bytes);

}  // namespace bench
