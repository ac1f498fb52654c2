// What CPython's JIT does: mmap for each trace, copy, mprotect to read and execute, munmap.
#include <sys/mman.h>

#include <unordered_map>

#include "base/bits.h"
#include "peer.h"

namespace bench {
namespace {

class PagePerTrace final : public Peer {
 public:
  ~PagePerTrace() override {
    for (auto [handle, bytes] : sizes_) munmap(reinterpret_cast<void*>(handle), bytes);
  }
  Handle Install(const Bytes& bytes) override {
    size_t size = jit_arena::AlignUp(bytes.TotalBytes(), jit_arena::os::PageBytes());
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return 0;
    bytes.CopyTo(static_cast<uint8_t*>(at));
    if (mprotect(at, size, PROT_READ | PROT_EXEC) != 0) {
      munmap(at, size);
      return 0;
    }
    sizes_[reinterpret_cast<Handle>(at)] = size;
    return reinterpret_cast<Handle>(at);
  }
  bool Free(Handle handle) override {
    auto found = sizes_.find(handle);
    if (munmap(reinterpret_cast<void*>(handle), found->second) != 0) return false;
    sizes_.erase(found);
    return true;
  }
  const uint8_t* Look(Handle handle) override { return reinterpret_cast<const uint8_t*>(handle); }

 private:
  std::unordered_map<Handle, size_t> sizes_;
};

}  // namespace

std::unique_ptr<Peer> MakePagePerTrace(uint64_t) { return std::make_unique<PagePerTrace>(); }

}  // namespace bench
