// libFuzzer on the object reader. Needs clang:
//
//   CC=clang CXX=clang++ cmake -S . -B build-fuzz -DJA_ADDON=OFF -DJA_FUZZ=ON && cmake --build build-fuzz
//   build-fuzz/test/object_fuzz -max_total_time=60 CORPUS
//
// CORPUS is a folder of real objects (cc -c test/fixtures/*.c); without it the fuzzer has to find ELF by itself.
#include <cstddef>
#include <cstdint>

#include "object_checks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  // Out of line, so that the sanitizer sees a read behind the end.
  if (const char* broken = test::FindBrokenObjectRule(bytes, size)) {
    std::fprintf(stderr, "%s\n", broken);
    std::abort();
  }
  return 0;
}
