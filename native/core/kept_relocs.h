// The relocs that a move must rewrite, packed.
//
// A move computes a field's new value from its old one: new = old + (how far the target moved) - (how far the site
// moved, if the field is relative). For that a record needs no target and no addend, only where the site is, how wide
// the field is, and with which part of the executor the target moves: its *class*. A record is the LEB128 of
// (distance from the last site << 4 | class), about two bytes. Records that no move can change are not kept.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/arch.h"
#include "base/status.h"

namespace jit_arena {

// What a kept reloc's target moves with.
enum class Anchor : uint8_t { kCode, kData, kState, kFixed };
inline constexpr int kAnchors = 4;

// A kept record, unpacked. Sites count through code and then data: data byte d is site code_bytes + d.
struct KeptReloc {
  uint32_t site;
  uint8_t field_bytes;  // 4 or 8
  bool relative;
  Anchor anchor;
};

// That an executor has no more keeps their records below 2^23 bytes, six each at most: room for the count is dear
// (LockedExecutor).
inline constexpr uint32_t kMaxRelocs = 1u << 20;

class KeptRelocWriter {
 public:
  // Sites ascend.
  void Add(const KeptReloc& reloc) {
    uint64_t value = uint64_t{reloc.site - last_site_} << 4 | uint64_t{reloc.field_bytes == 8} << 3 |
                     uint64_t{reloc.relative} << 2 | static_cast<uint64_t>(reloc.anchor);
    last_site_ = reloc.site;
    for (; value >= 0x80; value >>= 7) packed_.push_back(static_cast<uint8_t>(value | 0x80));
    packed_.push_back(static_cast<uint8_t>(value));
    count_++;
  }
  void Clear() {
    packed_.clear();
    last_site_ = count_ = 0;
  }
  const std::vector<uint8_t>& packed() const { return packed_; }
  uint32_t count() const { return count_; }

 private:
  std::vector<uint8_t> packed_;
  uint32_t last_site_ = 0;
  uint32_t count_ = 0;
};

// Calls visit(KeptReloc) for each record.
template <class Visit>
void ForEachKept(const uint8_t* packed, uint32_t bytes, Visit visit) {
  const uint8_t* end = packed + bytes;
  uint32_t site = 0;
  while (packed < end) {
    uint64_t value = 0;
    int shift = 0;
    do value |= uint64_t{*packed & 0x7fu} << shift, shift += 7;
    while (*packed++ & 0x80);
    site += static_cast<uint32_t>(value >> 4);
    visit(KeptReloc{site, static_cast<uint8_t>(value & 8 ? 8 : 4), (value & 4) != 0, static_cast<Anchor>(value & 3)});
  }
}

}  // namespace jit_arena
