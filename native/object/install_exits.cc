#include "object/install_exits.h"

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "os/fork.h"

namespace jit_arena {
namespace {

struct ExitCalls {
  std::vector<RegisteredCall> registered;
  size_t destructors = 0;  // that have been called
};

struct Installs {
  std::mutex lock;
  uint64_t last = 0;
  // Some are of installs that have ended without a word, until there are many of those.
  std::unordered_map<uint64_t, std::weak_ptr<ExitCalls>> exits;
  size_t many = 64;
};

// Never destroyed: code of an object may run until the process is gone.
Installs& All() {
  static auto* installs = new Installs;
  return *installs;
}

// A child goes on with what its parent had registered: where it has a copy of the code, that is there as well.
[[maybe_unused]] const bool forks =
    os::AtFork([] { All().lock.lock(); }, [] { All().lock.unlock(); }, [] { All().lock.unlock(); });

template <class Use>
auto With(uint64_t install, Use use) -> decltype(use(std::declval<ExitCalls&>())) {
  std::lock_guard guard(All().lock);
  auto found = All().exits.find(install);
  std::shared_ptr<ExitCalls> exits = found != All().exits.end() ? found->second.lock() : nullptr;
  if (exits == nullptr) return {};
  return use(*exits);
}

}  // namespace

InstallExits BeginInstallExits() {
  auto exits = std::make_shared<ExitCalls>();
  std::lock_guard guard(All().lock);
  if (All().exits.size() >= All().many) {
    std::erase_if(All().exits, [](const auto& entry) { return entry.second.expired(); });
    All().many = 64 + 2 * All().exits.size();
  }
  All().exits.emplace(++All().last, exits);
  return {All().last, std::move(exits)};
}

void EndInstallExits(uint64_t install) {
  std::lock_guard guard(All().lock);
  All().exits.erase(install);
}

int RegisterInstallExit(void (*function)(void*), void* argument, const uint64_t* dso_handle) {
  bool known = false;
  // Nothing may be thrown into the code that calls this.
  Status failed = OrOutOfMemory([&] {
    known = dso_handle != nullptr && With(*dso_handle, [&](ExitCalls& exits) {
              exits.registered.push_back({reinterpret_cast<uint64_t>(function), reinterpret_cast<uint64_t>(argument)});
              return true;
            });
  });
  return failed.ok() && known ? 0 : -1;
}

std::optional<RegisteredCall> TakeInstallExit(uint64_t install) {
  return With(install, [](ExitCalls& exits) -> std::optional<RegisteredCall> {
    if (exits.registered.empty()) return std::nullopt;
    RegisteredCall call = exits.registered.back();
    exits.registered.pop_back();
    return call;
  });
}

std::optional<size_t> TakeInstallDestructor(uint64_t install, size_t count) {
  return With(install, [&](ExitCalls& exits) -> std::optional<size_t> {
    if (exits.destructors == count) return std::nullopt;
    return exits.destructors++;
  });
}

}  // namespace jit_arena
