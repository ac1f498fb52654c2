// Ordinary memory: the floor for allocate + copy. It cannot be executed, so these peers pay nothing for W^X.
//
// mimalloc and jemalloc are loaded without their symbols being seen by anybody else, so that each peer is measured
// beside the others and the program's own malloc stays the C library's. jemalloc wants more static thread-local storage
// than a loaded library gets by default: start the program with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=16384.
#include <dlfcn.h>

#include <cstdlib>

#include "peer.h"

namespace bench {
namespace {

class MallocPeer final : public Peer {
 public:
  using Malloc = void* (*)(size_t);
  using FreeFunction = void (*)(void*);
  MallocPeer(Malloc allocate, FreeFunction free) : allocate_(allocate), free_(free) {}

  Handle Install(const Bytes& bytes) override {
    auto* at = static_cast<uint8_t*>(allocate_(bytes.TotalBytes()));
    if (at != nullptr) bytes.CopyTo(at);
    return reinterpret_cast<Handle>(at);
  }
  bool Free(Handle handle) override {
    free_(reinterpret_cast<void*>(handle));
    return true;
  }
  const uint8_t* Look(Handle handle) override { return reinterpret_cast<const uint8_t*>(handle); }

 private:
  Malloc allocate_;
  FreeFunction free_;
};

std::unique_ptr<Peer> Load(const char* library, const char* allocate, const char* free) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return nullptr;
  void* symbols[] = {dlsym(handle, allocate), dlsym(handle, free)};
  if (symbols[0] == nullptr || symbols[1] == nullptr) return nullptr;
  return std::make_unique<MallocPeer>(reinterpret_cast<MallocPeer::Malloc>(symbols[0]),
                                      reinterpret_cast<MallocPeer::FreeFunction>(symbols[1]));
}

}  // namespace

std::unique_ptr<Peer> MakeMalloc(uint64_t) { return std::make_unique<MallocPeer>(std::malloc, std::free); }
std::unique_ptr<Peer> MakeMimalloc(uint64_t) { return Load("libmimalloc.so.2", "mi_malloc", "mi_free"); }
std::unique_ptr<Peer> MakeJemalloc(uint64_t) { return Load("libjemalloc.so.2", "malloc", "free"); }

}  // namespace bench
