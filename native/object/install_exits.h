// What an installed object has to have called at its end: what it has registered with __cxa_atexit, as C++ does for
// static variables with destructors, and how many of its destructors have been called.
//
// Each install has a number, which stands in 8 bytes of its state that the object knows as __dso_handle. So it need not
// be told who it is, moves as it likes, and a number that has ended leads nowhere. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace jit_arena {

struct RegisteredCall {
  uint64_t function;
  uint64_t argument;
};

// An install's number, which ends with its list: at the latest when nobody can be inside its executors any more.
struct InstallExits {
  uint64_t number = 0;  // that no install has
  std::shared_ptr<const void> list;
};

InstallExits BeginInstallExits();
void EndInstallExits(uint64_t install);

// What loaded objects find under the name __cxa_atexit: 0, or -1 for an install that has ended, and without
// memory. `dso_handle` holds the
// install's number.
int RegisterInstallExit(void (*function)(void*), void* argument, const uint64_t* dso_handle);

// The call that was registered last, once; none when there is none.
std::optional<RegisteredCall> TakeInstallExit(uint64_t install);
// The number of the destructor that is next, which counts up; none behind the last of `count`.
std::optional<size_t> TakeInstallDestructor(uint64_t install, size_t count);

}  // namespace jit_arena
