#include "core/events.h"

#include <algorithm>

namespace jit_arena {

Result<uint32_t> Events::Add(std::unique_ptr<Listener> listener, uint32_t kinds) {
  if (batch_ == nullptr) batch_ = std::make_unique<Event[]>(kMostEvents);
  listeners_.push_back({std::move(listener), kinds, last_number_ + 1});
  wanted_ |= kinds;
  return ++last_number_;
}

std::unique_ptr<Listener> Events::Remove(uint32_t number) {
  auto found =
      std::find_if(listeners_.begin(), listeners_.end(), [&](const Entry& entry) { return entry.number == number; });
  if (found == listeners_.end()) return nullptr;
  std::unique_ptr<Listener> removed = std::move(found->listener);
  listeners_.erase(found);
  CountKinds();
  return removed;
}

void Events::SetKinds(uint32_t number, uint32_t kinds) {
  for (Entry& entry : listeners_)
    if (entry.number == number) entry.kinds = kinds;
  CountKinds();
}

void Events::CountKinds() {
  wanted_ = 0;
  for (const Entry& entry : listeners_) wanted_ |= entry.kinds;
}

Status Events::PrepareAll(EventKind kind, uint32_t count) {
  for (const Entry& entry : listeners_)
    if ((entry.kinds & EventBit(kind)) != 0)
      if (Status failed = entry.listener->Prepare(kind, count)) return failed;
  return Status::Ok();
}

void Events::Append(EventKind kind, const Event& event) {
  if (count_ == kMostEvents || kind != kind_) Flush();
  kind_ = kind;
  batch_[count_++] = event;
}

void Events::TellAll() {
  for (const Entry& entry : listeners_)
    if ((entry.kinds & EventBit(kind_)) != 0) entry.listener->Tell(kind_, batch_.get(), count_);
  count_ = 0;
}

}  // namespace jit_arena
