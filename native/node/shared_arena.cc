#include "node/shared_arena.h"

#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "node/listeners.h"

namespace jit_arena::node {
namespace {

// The arenas of the process.
struct Registry {
  std::mutex lock;
  std::unordered_map<std::string, std::weak_ptr<SharedArena>> arenas;  // by token
  // The thread that ends the process. Set once, before any arena that could be missed by EndLoops is made.
  std::atomic<std::thread::id> ending{};
};

// Never destroyed: workers may still be running when static objects are.
Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

}  // namespace

SharedArena::SharedArena(std::unique_ptr<Arena> arena, std::string token)
    : arena_(std::move(arena)), token_(std::move(token)) {}

std::shared_ptr<SharedArena> SharedArena::Make(std::unique_ptr<Arena> arena, std::string token) {
  std::shared_ptr<SharedArena> shared(new SharedArena(std::move(arena), std::move(token)));
  Registry& registry = TheRegistry();
  std::lock_guard guard(registry.lock);
  registry.arenas.emplace(shared->token_, shared);
  return shared;
}

SharedArena::~SharedArena() {
  Registry& registry = TheRegistry();
  std::lock_guard guard(registry.lock);
  registry.arenas.erase(token_);
}

std::shared_ptr<SharedArena> SharedArena::Find(const std::string& token) {
  Registry& registry = TheRegistry();
  std::lock_guard guard(registry.lock);
  auto found = registry.arenas.find(token);
  return found != registry.arenas.end() ? found->second.lock() : nullptr;
}

void SharedArena::EndLoops() {
  Registry& registry = TheRegistry();
  std::vector<std::shared_ptr<SharedArena>> arenas;
  {
    std::lock_guard guard(registry.lock);
    registry.ending.store(std::this_thread::get_id(), std::memory_order_relaxed);
    for (auto& [token, arena] : registry.arenas)
      if (auto shared = arena.lock()) arenas.push_back(std::move(shared));
  }
  for (auto& shared : arenas) {
    // Under the lock, a link is either there already or finds that the process is ending.
    std::lock_guard guard(shared->lock_);
    // An arena of the parent process has nothing to unlink here.
    shared->arena_->UnlinkAll().Ignore();
  }
}

void SharedArena::AddListening(Listening* listening) {
  std::lock_guard guard(listening_lock_);
  listening_.push_back(listening);
  anybody_listens_.store(true, std::memory_order_relaxed);
}

void SharedArena::RemoveListening(Listening* listening) {
  std::lock_guard guard(listening_lock_);
  std::erase(listening_, listening);
  anybody_listens_.store(!listening_.empty(), std::memory_order_relaxed);
}

void SharedArena::WakeOthers(const Listening* own) {
  if (!anybody_listens_.load(std::memory_order_relaxed)) return;
  std::lock_guard guard(listening_lock_);
  for (Listening* listening : listening_)
    if (listening != own) listening->Wake();
}

Status SharedArena::Link(ExecutorId source, uint32_t exit, ExecutorId target, uint32_t entry) {
  std::lock_guard guard(lock_);
  std::thread::id ending = TheRegistry().ending.load(std::memory_order_relaxed);
  if (ending != std::thread::id() && ending != std::this_thread::get_id())
    return Error{ErrorCode::kDisposed, "the process is ending: no more links are made"};
  return arena_->Link(source, exit, target, entry);
}

}  // namespace jit_arena::node
