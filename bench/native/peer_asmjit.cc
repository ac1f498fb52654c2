// asmjit's JitAllocator, the packing allocator that JITs use today: without moving, and W^X only where it maps memory
// twice.
#include "peer.h"

#if JIT_ARENA_BENCH_ASMJIT
#include <asmjit/asmjit.h>

namespace bench {
namespace {

class Asmjit final : public Peer {
 public:
  explicit Asmjit(asmjit::JitAllocatorOptions options) {
    asmjit::JitAllocator::CreateParams params;
    params.options = options;
    allocator_ = std::make_unique<asmjit::JitAllocator>(&params);
  }
  Handle Install(const Bytes& bytes) override {
    void* rx = nullptr;
    void* rw = nullptr;
    if (allocator_->alloc(&rx, &rw, bytes.TotalBytes()) != asmjit::kErrorOk) return 0;
    bytes.CopyTo(static_cast<uint8_t*>(rw));
    asmjit::VirtMem::flushInstructionCache(rx, bytes.TotalBytes());
    return reinterpret_cast<Handle>(rx);
  }
  bool Free(Handle handle) override { return allocator_->release(reinterpret_cast<void*>(handle)) == asmjit::kErrorOk; }
  const uint8_t* Look(Handle handle) override { return reinterpret_cast<const uint8_t*>(handle); }

 private:
  std::unique_ptr<asmjit::JitAllocator> allocator_;
};

}  // namespace

std::unique_ptr<Peer> MakeAsmjitDual(uint64_t) {
  return std::make_unique<Asmjit>(asmjit::JitAllocatorOptions::kUseDualMapping);
}
std::unique_ptr<Peer> MakeAsmjitDualPools(uint64_t) {
  return std::make_unique<Asmjit>(asmjit::JitAllocatorOptions::kUseDualMapping |
                                  asmjit::JitAllocatorOptions::kUseMultiplePools);
}
std::unique_ptr<Peer> MakeAsmjitSingle(uint64_t) {
  return std::make_unique<Asmjit>(asmjit::JitAllocatorOptions::kNone);
}

}  // namespace bench

#else

namespace bench {

std::unique_ptr<Peer> MakeAsmjitDual(uint64_t) { return nullptr; }
std::unique_ptr<Peer> MakeAsmjitDualPools(uint64_t) { return nullptr; }
std::unique_ptr<Peer> MakeAsmjitSingle(uint64_t) { return nullptr; }

}  // namespace bench

#endif
