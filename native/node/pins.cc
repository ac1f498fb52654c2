// Pins that JavaScript holds for as long as it likes.
#include <algorithm>

#include "node/arena_handle.h"

namespace jit_arena::node {

Status Pin(ArenaHandle& handle, const Napi::CallbackInfo&) {
  auto& pins = handle.pins;
  auto place = std::find(pins.begin(), pins.end(), nullptr);
  auto pin = std::make_unique<LoosePin>();
  if (Status failed = handle.arena->Begin(*pin, handle.pin)) return failed;
  if (place == pins.end()) place = pins.insert(place, nullptr);
  *place = std::move(pin);
  handle.environment->mailbox->numbers[0] = static_cast<double>(place - pins.begin());
  return Status::Ok();
}

// Of a number that Pin gave, once.
Status Unpin(ArenaHandle& handle, const Napi::CallbackInfo& info) {
  const uint32_t number = Uint32Of(info[0]);
  if (number >= handle.pins.size() || handle.pins[number] == nullptr) return Status::Ok();
  handle.arena->End(*handle.pins[number]);
  handle.pins[number].reset();
  return Status::Ok();
}

}  // namespace jit_arena::node
