// A host of the C API for its tests: an arena, code to put into it, and checks of statuses.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "capi/jit_arena.h"
#include "support/x64.h"
#include "test.h"

namespace capi_test {

inline constexpr size_t kMiB = 1 << 20;

// lea eax, [rdi + rsi]; ret
inline constexpr uint8_t kAdd[] = {0x8D, 0x04, 0x37, 0xC3};

inline const char* Name(int status) {
  const char* name = ja_status_name(status);
  return name != nullptr ? name : "no status";
}

// The call's status, by name; and, when it failed, that the last error is of this call.
#define CHECK_STATUS(call, expected)                                                      \
  do {                                                                                    \
    ja_status status_of_call = (call);                                                    \
    CHECK_EQ(std::string(Name(status_of_call)), std::string(Name(expected)));             \
    if (status_of_call != JA_OK) CHECK_EQ(ja_last_error()->status, status_of_call);       \
    if (status_of_call != JA_OK) CHECK(std::string(ja_last_error()->message).size() > 5); \
  } while (false)
#define CHECK_OK(call) CHECK_STATUS(call, JA_OK)

struct Code : x64::Instructions<Code> {
  std::vector<ja_reloc> relocs;
  ja_spec spec = ja_spec_init();

  void Refer(uint32_t offset, uint8_t kind, const x64::To& to, int64_t addend) {
    relocs.push_back({JA_CODE, offset, kind, static_cast<ja_target>(to.kind), to.target, addend,
                      static_cast<ja_section>(to.section), to.offset});
  }
  const ja_spec* Spec() {
    spec.code = {bytes.data(), bytes.size(), 0};
    spec.relocs = relocs.data();
    spec.reloc_count = relocs.size();
    return &spec;
  }
};

// Counts itself in context[0]; takes exit `number` while context[1] is not 0, and counts that down; else is done.
inline Code Trace(uint32_t exits, uint32_t number = 0, uint8_t add = 1) {
  Code code;
  code.spec.exits = exits;
  return code.CountAndLeave(number, add);
}

// An arena with the calling thread attached.
struct Host {
  ja_arena* arena = nullptr;
  ja_thread* thread = nullptr;
  uint64_t context[3] = {0, 0, 0};

  explicit Host(ja_options options = ja_options_init()) {
    if (options.max_bytes == 0) options.max_bytes = 4 * kMiB;
    CHECK_OK(ja_create(&options, &arena));
    CHECK_OK(ja_attach(arena, &thread));
  }
  ~Host() {
    if (arena == nullptr) return;
    CHECK_EQ(Problems(), 0u);
    CHECK_OK(ja_detach(thread));
    CHECK_OK(ja_dispose(arena));
  }
  ja_executor Install(Code code) { return Install(code.Spec()); }
  ja_executor Install(const ja_spec* spec) {
    ja_executor id = 0;
    CHECK_OK(ja_install(arena, spec, 1, &id));
    return id;
  }
  ja_executor InstallZeros(size_t size) {
    ja_spec spec = ja_spec_init();
    spec.code.size = size;
    return Install(&spec);
  }
  ja_executor Allocate(Code code = Code().Ret()) {
    ja_executor id = 0;
    CHECK_OK(ja_allocate(arena, code.Spec(), &id));
    return id;
  }
  ja_taken Run(ja_executor id, uint64_t exits_to_take) {
    context[0] = 0;
    context[1] = exits_to_take;
    ja_taken taken = {1, 2, 3};
    CHECK_OK(ja_run(thread, id, 0, context, &taken));
    return taken;
  }
  uint64_t Address(ja_executor id) {
    ja_info info = ja_info_init();
    CHECK_OK(ja_describe(arena, id, &info));
    return info.address;
  }
  size_t Problems() {
    size_t problems = 99;
    CHECK_OK(ja_verify(
        arena, [](void*, const ja_problem* problem) { std::printf("  %s\n", problem->what); }, nullptr, &problems));
    return problems;
  }
  ja_collect_result Collect(ja_collect_options options = ja_collect_options_init()) {
    ja_collect_result result = ja_collect_result_init();
    CHECK_OK(ja_collect(arena, &options, &result));
    return result;
  }
  // Leaves what was installed before between holes, so that the next collection moves it.
  void MakeSparse() {
    std::vector<ja_executor> filling;
    for (int i = 0; i < 400; i++) filling.push_back(InstallZeros(3000));
    // All but the last, behind which the next ones go.
    CHECK_OK(ja_free(arena, filling.data(), filling.size() - 1));
  }
};

}  // namespace capi_test
