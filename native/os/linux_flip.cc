// Linux, writer `flip`: private memory whose access changes between RX and RW. The writer of last resort: nobody may
// execute the slab while a window is open, and MDWE forbids it.
#include <errno.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "base/room.h"
#include "os/linux_memory.h"

namespace jit_arena::os {
namespace linux_flip {
namespace {

class LinuxFlip final : public LinuxMemory {
 public:
  WriterKind writer() const override { return WriterKind::kFlip; }

  Status OpenWindow(Access access, uint8_t* at, size_t bytes) override {
    if (Status forked = CheckOwner()) return forked;
    if (Window* open = Find(at, bytes)) {
      ++open->count;
      return Status::Ok();
    }
    if (Status failed = MakeRoom(windows_, 1)) return failed;
    if (Status failed = TryFlipping()) return Stopped(failed.error().message);
    if (mprotect(at, bytes, PROT_READ | PROT_WRITE) != 0) {
      Status refused = linux_pages::Refused("making a slab writable", bytes, access == Access::kCode, errno);
      // Of several mappings some may be writable now, and nobody could execute them.
      MakeAsItWas(access, at, bytes);
      return refused;
    }
    windows_.push_back({at, bytes, 1});
    return Status::Ok();
  }

  void Write(Access, uint8_t* at, const uint8_t* from, size_t bytes) override { std::memcpy(at, from, bytes); }

  void CloseWindow(Access access, uint8_t* at, size_t bytes) override {
    Window* open = Find(at, bytes);
    if (open == nullptr) Die(__FILE__, __LINE__, "CloseWindow of a window that is not open");
    if (--open->count != 0) return;
    *open = windows_.back();
    windows_.pop_back();
    if (!Forked()) MakeAsItWas(access, at, bytes);
  }

  Status Start() {
    if (Status failed = MakeScratch()) return failed;
    return TryFlipping(false);
  }

 private:
  void MakeAsItWas(Access access, uint8_t* at, size_t bytes) {
    if (mprotect(at, bytes, linux_pages::Protection(access)) == 0) return;
    if (!linux_pages::Replace(access, at, nullptr, bytes, fork_mode()))
      Die(__FILE__, __LINE__, "mprotect at the end of a write window, and mmap of new pages in the place of its own");
  }

  // Makes scratch code writable and executable again, since CloseWindow may not fail: in the second way where the first
  // is refused.
  Status TryFlipping(bool second_way = true) {
    size_t page = PageBytes();
    if (mprotect(scratch(), page, PROT_READ | PROT_WRITE) != 0)
      return linux_pages::Refused("making code writable (mprotect)", page, true, errno);
    if (mprotect(scratch(), page, linux_pages::Protection(Access::kCode)) == 0) return Status::Ok();
    int error = errno;
    if (second_way && linux_pages::Replace(Access::kCode, scratch(), nullptr, page, fork_mode())) return Status::Ok();
    return linux_pages::Refused("making written memory executable (mprotect)", page, true, error);
  }

  struct Window {
    uint8_t* at;
    size_t bytes;
    uint32_t count;
  };

  // The open window over exactly this range, or null. Windows that overlap in part are our bug: closing one would take
  // the other's access away.
  Window* Find(const uint8_t* at, size_t bytes) {
    for (Window& window : windows_) {
      if (window.at == at && window.bytes == bytes) return &window;
      JIT_ARENA_CHECK(at + bytes <= window.at || window.at + window.bytes <= at);
    }
    return nullptr;
  }

  std::vector<Window> windows_;  // a handful: those open now
};

}  // namespace
}  // namespace linux_flip

Result<std::unique_ptr<Memory>> OpenFlip(Trial trial) {
  auto memory = std::make_unique<linux_flip::LinuxFlip>();
  if (Status failed = memory->Start()) return failed;
  if (Status failed = TryMemory(*memory, trial, linux_pages::IsExecutable)) return failed;
  return std::unique_ptr<Memory>(std::move(memory));
}

}  // namespace jit_arena::os
