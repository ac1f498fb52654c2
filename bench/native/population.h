// Executors of the tiny workload that live in one peer, as the benches fill, churn and thin them out.
#pragma once

#include <memory>
#include <vector>

#include "bench.h"
#include "peer.h"
#include "tiny.h"

namespace bench {

class Population {
 public:
  Population(std::unique_ptr<Peer> peer, const TinyWorkload& workload, uint32_t count)
      : peer_(std::move(peer)), workload_(workload) {
    lives_.assign(count, {});  // touched now: what is measured afterwards is the peer's memory
  }
  ~Population() { FreeAll(); }

  Peer& peer() { return *peer_; }
  uint64_t live_bytes() const;
  uint64_t refused() const { return refused_; }  // installs and frees
  uint32_t size() const { return static_cast<uint32_t>(lives_.size()); }

  // Installs what is missing.
  void Fill();
  // Frees a random one and installs another, `operations` times; the same random ones for every peer with this seed.
  void Churn(uint64_t operations, uint64_t seed);
  // Frees a random share, and those at odd positions.
  void ThinOut(double share, uint64_t seed);
  void FreeEverySecond();
  void FreeAll();
  // Looks at up to `count` of those that live, spread evenly: every byte is as installed.
  void CheckIntact(uint32_t count);

 private:
  struct Live {
    Peer::Handle handle = 0;
    uint64_t number = 0;  // in the workload
  };
  void Install(Live* live, uint64_t number);
  void Free(Live* live);

  std::unique_ptr<Peer> peer_;
  const TinyWorkload& workload_;
  std::vector<Live> lives_;
  uint64_t next_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace bench
