#include "population.h"

namespace bench {

inline void Population::Install(Live* live, uint64_t number) {
  live->handle = peer_->Install(workload_[number]);
  live->number = number;
  refused_ += live->handle == 0;
}

inline void Population::Free(Live* live) {
  if (live->handle == 0) return;
  if (peer_->Free(live->handle))
    live->handle = 0;
  else
    refused_++;
}

void Population::Fill() {
  for (Live& live : lives_)
    if (live.handle == 0) Install(&live, next_++);
}

void Population::Churn(uint64_t operations, uint64_t seed) {
  Random random(seed, 2);
  for (uint64_t i = 0; i < operations; i++) {
    Live& live = lives_[random.Below(size())];
    Free(&live);
    Install(&live, random.U64());
  }
}

void Population::ThinOut(double share, uint64_t seed) {
  Random random(seed, 3);
  std::vector<uint32_t> order(lives_.size());
  for (uint32_t i = 0; i < order.size(); i++) order[i] = i;
  random.Shuffle(&order);
  order.resize(static_cast<size_t>(share * static_cast<double>(order.size())));
  for (uint32_t i : order) Free(&lives_[i]);
}

void Population::FreeEverySecond() {
  for (size_t i = 1; i < lives_.size(); i += 2) Free(&lives_[i]);
}

void Population::FreeAll() {
  for (Live& live : lives_) Free(&live);
}

uint64_t Population::live_bytes() const {
  uint64_t bytes = 0;
  for (const Live& live : lives_)
    if (live.handle != 0) bytes += workload_[live.number].LiveBytes();
  return bytes;
}

void Population::CheckIntact(uint32_t count) {
  size_t step = std::max<size_t>(1, lives_.size() / count);
  for (size_t i = 0; i < lives_.size(); i += step)
    BENCH_CHECK(lives_[i].handle == 0 || IsIntact(peer_.get(), lives_[i].handle, workload_[lives_[i].number]));
}

}  // namespace bench
