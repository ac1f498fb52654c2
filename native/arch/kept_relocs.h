// The relocs that a move must rewrite, packed.
//
// A move computes a field anew from its old bits and the old and new addresses of its two ends (arch::Shift). For that
// a record needs neither target nor addend, only where the site is, the field's class, with which part of the executor
// the target moves, and of some classes a few bits of the target's distance from there: the *rest*. Records that no
// move can change are not kept.
//
// A record is a LEB128 number, 1.25 bytes on average in recorded workloads (docs/bench.md, T10). Its lower two bits say
// what the others are:
//   0  class 0 to state (an exit's record, a flag): the distance from the end of the last field
//   1  class 0 to what stays (a helper, a far slot): the same
//   2  how many more records are as the last one, distance included, as the exits of a trace are
//   3  any other: the anchor in two bits, the class in as many as the CPU says, the rest, and above them the distance
#pragma once

#include <cstdint>
#include <span>
#include <utility>
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
  arch::FieldClass field;
  Anchor anchor;
  uint32_t rest = 0;  // arch::Shift
};

// That an executor has no more keeps its records below 2^23 bytes: room for the count is dear (LockedExecutor). Eight
// bytes each they would need only if every one were far from the last, and the distances add up to less than 2^32.
inline constexpr uint32_t kMaxRelocs = 1u << 20;

namespace kept {

inline constexpr uint32_t kRepeated = 2, kOther = 3;
inline constexpr int kAnchorShift = 2, kClassShift = 4;
// What a record of class 0 that begins with 0 or 1 is to.
inline constexpr uint32_t kFirstShort = static_cast<uint32_t>(Anchor::kState);
static_assert(kFirstShort + 1 == static_cast<uint32_t>(Anchor::kFixed));

}  // namespace kept

// Begin, Add for each, End; then packed() until the next Begin.
class KeptRelocWriter {
 public:
  // Throws std::bad_alloc where there is no memory for `most` records.
  void Begin(uint32_t most) {
    if (packed_.size() < most * kMostRecordBytes) packed_.resize(most * kMostRecordBytes);
    to_ = packed_.data();
    end_ = count_ = repeated_ = 0;
  }
  // Sites ascend, and fields do not overlap.
  void Add(const KeptReloc& reloc) {
    const arch::FieldInfo& field = arch::FieldOf(reloc.field);
    uint32_t anchor = static_cast<uint32_t>(reloc.anchor);
    uint64_t distance = reloc.site - end_;
    end_ = reloc.site + field.bytes;
    uint64_t value = ((distance << field.rest_bits | reloc.rest) << arch::kFieldClassBits | reloc.field)
                         << kept::kClassShift |
                     anchor << kept::kAnchorShift | kept::kOther;
    if (reloc.field == 0 && field.rest_bits == 0 && anchor >= kept::kFirstShort)
      value = distance << 2 | (anchor - kept::kFirstShort);
    if (count_++ != 0 && value == last_) {
      repeated_++;
      return;
    }
    EndRepetition();
    Put(value);
    last_ = value;
  }
  void End() { EndRepetition(); }
  std::span<const uint8_t> packed() const { return {packed_.data(), to_}; }
  uint32_t count() const { return count_; }

 private:
  void EndRepetition() {
    if (repeated_ != 0) Put(uint64_t{repeated_} << 2 | kept::kRepeated);
    repeated_ = 0;
  }
  void Put(uint64_t value) {
    for (; value >= 0x80; value >>= 7) *to_++ = static_cast<uint8_t>(value | 0x80);
    *to_++ = static_cast<uint8_t>(value);
  }

  // A distance of 32 bits, a rest of 12 at most, class, anchor and head: below 2^56. A repetition counts what has not
  // been put.
  static constexpr size_t kMostRecordBytes = 8;
  std::vector<uint8_t> packed_;  // as long as the longest so far
  uint8_t* to_ = nullptr;        // behind what is put
  uint32_t end_ = 0;             // of the last field
  uint32_t count_ = 0;
  uint64_t last_ = 0;
  uint32_t repeated_ = 0;  // records like the last, not yet put
};

// Calls visit(KeptReloc) for each record.
template <class Visit>
void ForEachKept(const uint8_t* packed, uint32_t bytes, Visit visit) {
  const uint8_t* end = packed + bytes;
  const int class_bits = arch::kFieldClassBits;
  KeptReloc kept{0, 0, Anchor::kFixed};
  uint32_t field_bytes = 0;
  uint32_t field_end = 0;  // of the last one
  uint32_t distance = 0;
  while (packed < end) {
    uint64_t value = 0;
    int shift = 0;
    do value |= uint64_t{*packed & 0x7fu} << shift, shift += 7;
    while (*packed++ & 0x80);
    uint32_t head = value & 3;
    uint32_t times = 1;
    if (head == kept::kRepeated) {
      times = static_cast<uint32_t>(value >> 2);
    } else {
      uint64_t above = value >> 2;
      kept.field = 0;
      kept.anchor = static_cast<Anchor>(kept::kFirstShort + head);
      kept.rest = 0;
      if (head == kept::kOther) {
        kept.anchor = static_cast<Anchor>(above & 3);
        above = value >> kept::kClassShift;
        kept.field = static_cast<arch::FieldClass>(above & ((1u << class_bits) - 1));
        int rest_bits = arch::FieldOf(kept.field).rest_bits;
        above >>= class_bits;
        kept.rest = static_cast<uint32_t>(above & ((uint64_t{1} << rest_bits) - 1));
        above >>= rest_bits;
      }
      distance = static_cast<uint32_t>(above);
      field_bytes = arch::FieldOf(kept.field).bytes;
    }
    for (; times != 0; times--) {
      kept.site = field_end + distance;
      field_end = kept.site + field_bytes;
      visit(std::as_const(kept));
    }
  }
}

}  // namespace jit_arena
