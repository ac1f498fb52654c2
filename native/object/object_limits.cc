#include "object/object_limits.h"

namespace jit_arena {
namespace {

// Measured with test/75-object-sizes.test.ts, rounded up: records of ObjectFile and units, and what an install and
// JavaScript make of them.
constexpr uint64_t kNeedsOfByte = 3;
constexpr uint64_t kNeedsOfReloc = 192;
constexpr uint64_t kNeedsOfSymbol = 256;
constexpr uint64_t kNeedsOfNameByte = 3;
constexpr uint64_t kNeedsOfReason = 640;  // two names of 80 bytes in three copies

}  // namespace

Status CheckNeeds(const ObjectFile& file, size_t reasons) {
  uint64_t bytes = file.frames.bytes.size(), names = 0;
  for (const ObjectSection& section : file.sections)
    if (section.bytes != nullptr) bytes += section.size;
  for (const ObjectSymbol& symbol : file.symbols)
    if (symbol.global || symbol.place == ObjectSymbol::Place::kUndefined) names += symbol.name.size();
  uint64_t needs = bytes * kNeedsOfByte + (file.relocs.size() + file.frames.relocs.size()) * kNeedsOfReloc +
                   file.symbols.size() * kNeedsOfSymbol + names * kNeedsOfNameByte + reasons * kNeedsOfReason;
  if (needs <= kMaxObjectNeeds) return Status::Ok();
  return Error{
      ErrorCode::kObject,
      Format("loading the object would need about %llu MiB of memory, and may need %llu: it has %llu bytes in "
             "sections, %zu relocs, %zu symbols with names of %llu bytes, and %zu addresses that are taken; split it",
             Wide(needs >> 20), Wide(kMaxObjectNeeds >> 20), Wide(bytes), file.relocs.size(), file.symbols.size(),
             Wide(names), reasons)};
}

}  // namespace jit_arena
