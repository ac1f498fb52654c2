// The arena as the torture uses it: the C API, with C++ around the structures.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "capi/jit_arena.h"
#include "torture/program.h"

namespace torture {

struct HostOptions {
  uint64_t max_bytes;
  uint64_t max_retired_bytes;  // 0: the default
  ja_writer writer;
  bool apart;
  bool without_barrier;  // as on a kernel that has no membarrier; the C API has no such option
};

struct CollectRequest {
  uint64_t max_pause_nanos = 0;
  bool evict_cold = false;
  bool follow_links = false;
};

struct Collected {
  bool done;
  uint64_t moved;
  std::vector<ja_executor> evicted;
};

// What returns a ja_status leaves the reason in ja_last_error.
class Host {
 public:
  explicit Host(const HostOptions& options);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Around the life of each thread that executes; Attach gives what the next ones take.
  ja_thread* Attach();
  void Detach(ja_thread* thread);
  void Enter(ja_thread* thread);
  void Leave(ja_thread* thread);
  // Under a pin.
  bool IsStale(ja_thread* thread, ja_executor id);

  // Under pins of their own. False: the id is stale.
  bool Run(ja_thread* thread, ja_executor id, uint32_t entry, Context* context, ja_taken* taken);
  bool Call(ja_thread* thread, ja_executor id, Context* context, uint64_t* result);

  ja_status Install(const std::vector<Program>& programs, ja_executor* ids);
  // For programs that do not refer to each other.
  ja_status AllocateAndFreeze(const std::vector<Program>& programs, ja_executor* ids);
  ja_status Free(const std::vector<ja_executor>& ids) { return ja_free(arena_, ids.data(), ids.size()); }
  ja_status Invalidate(ja_executor id) { return ja_invalidate(arena_, id); }
  ja_status Link(ja_executor source, uint32_t exit, ja_executor target, uint32_t entry) {
    return ja_link(arena_, source, exit, target, entry);
  }
  ja_status Unlink(ja_executor source, uint32_t exit) { return ja_unlink(arena_, source, exit); }
  ja_status UnlinkAll() { return ja_unlink_all(arena_); }
  ja_status Replace(ja_executor old_id, ja_executor new_id) { return ja_replace(arena_, old_id, new_id); }
  ja_status ExitTag(ja_executor id, uint32_t exit, uint32_t* tag) { return ja_exit_tag(arena_, id, exit, tag); }
  Collected Collect(const CollectRequest& request = {});
  void Plan();

  uint64_t ReadState(ja_executor id, uint32_t offset);
  uint64_t RetiredBytes();
  // From a signal handler, too.
  bool Contains(uint64_t address) const;
  // The first broken invariant in words, or empty.
  std::string FindBroken();

 private:
  ja_arena* arena_ = nullptr;
};

}  // namespace torture
