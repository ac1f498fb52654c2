// The relocs that a move must rewrite, packed.
//
// A move computes a field's new value from its old one: new = old + (how far the target moved) - (how far the site
// moved, if the field is relative). For that a record needs no target and no addend, only where the site is, how wide
// the field is, and with which part of the executor the target moves: its *class*. Records that no move can change are
// not kept.
//
// A record is a LEB128 number, 1.25 bytes on average in recorded workloads (docs/bench.md, T10). Its lower two bits say
// what the others are:
//   0  a rel32 to state (an exit's record, a flag): the distance from the end of the last field
//   1  a rel32 to what stays (a helper, a link): the same
//   2  how many more records are as the last one, distance included, as the exits of a trace are
//   3  any other: the class in four bits, and above it the distance
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

// That an executor has no more keeps its records below 2^23 bytes, six each at most: room for the count is dear
// (LockedExecutor).
inline constexpr uint32_t kMaxRelocs = 1u << 20;

namespace kept {

inline constexpr uint32_t kRepeated = 2, kOther = 3;
// As a class of four bits: field_bytes == 8, relative, anchor. That of a record that begins with 0 or 1 is this, plus 0
// or 1.
inline constexpr uint32_t kFirstShort = 4 | static_cast<uint32_t>(Anchor::kState);
static_assert(kFirstShort + 1 == (4 | static_cast<uint32_t>(Anchor::kFixed)));

}  // namespace kept

class KeptRelocWriter {
 public:
  // Sites ascend, and fields do not overlap.
  void Add(const KeptReloc& reloc) {
    uint32_t field_class =
        uint32_t{reloc.field_bytes == 8} << 3 | uint32_t{reloc.relative} << 2 | static_cast<uint32_t>(reloc.anchor);
    uint64_t distance = reloc.site - end_;
    end_ = reloc.site + reloc.field_bytes;
    uint64_t value = distance << 6 | field_class << 2 | kept::kOther;
    if (field_class - kept::kFirstShort <= 1) value = distance << 2 | (field_class - kept::kFirstShort);
    if (count_++ != 0 && value == last_) {
      repeated_++;
      return;
    }
    EndRepetition();
    Put(value);
    last_ = value;
  }
  void Clear() {
    packed_.clear();
    end_ = count_ = repeated_ = 0;
  }
  // Until the next Add.
  const std::vector<uint8_t>& packed() {
    EndRepetition();
    return packed_;
  }
  uint32_t count() const { return count_; }

 private:
  void EndRepetition() {
    if (repeated_ != 0) Put(uint64_t{repeated_} << 2 | kept::kRepeated);
    repeated_ = 0;
  }
  void Put(uint64_t value) {
    for (; value >= 0x80; value >>= 7) packed_.push_back(static_cast<uint8_t>(value | 0x80));
    packed_.push_back(static_cast<uint8_t>(value));
  }

  std::vector<uint8_t> packed_;
  uint32_t end_ = 0;  // of the last field
  uint32_t count_ = 0;
  uint64_t last_ = 0;
  uint32_t repeated_ = 0;  // records like the last, not yet put
};

// Calls visit(KeptReloc) for each record.
template <class Visit>
void ForEachKept(const uint8_t* packed, uint32_t bytes, Visit visit) {
  const uint8_t* end = packed + bytes;
  uint32_t field_end = 0;  // of the last one
  uint32_t distance = 0, field_class = 0;
  while (packed < end) {
    uint64_t value = 0;
    int shift = 0;
    do value |= uint64_t{*packed & 0x7fu} << shift, shift += 7;
    while (*packed++ & 0x80);
    uint32_t head = value & 3;
    uint32_t times = 1;
    if (head == kept::kRepeated) {
      times = static_cast<uint32_t>(value >> 2);
    } else if (head == kept::kOther) {
      field_class = value >> 2 & 15;
      distance = static_cast<uint32_t>(value >> 6);
    } else {
      field_class = kept::kFirstShort + head;
      distance = static_cast<uint32_t>(value >> 2);
    }
    const uint8_t field_bytes = field_class & 8 ? 8 : 4;
    for (; times != 0; times--) {
      uint32_t site = field_end + distance;
      field_end = site + field_bytes;
      visit(KeptReloc{site, field_bytes, (field_class & 4) != 0, static_cast<Anchor>(field_class & 3)});
    }
  }
}

}  // namespace jit_arena
