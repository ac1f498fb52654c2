// What a freeze checks of relocs before it writes a byte.
//
// CheckShape asks what can be known without addresses: whether the kinds exist, and whether the sites lie within their
// sections and do not overlap. Check has the final addresses. It takes each reloc through four steps, each of which may
// refuse it:
//
//   target  which executor or address the reloc names, where that is now, and with what it moves
//   site    whether the field may stand where it does, and where the field can ever be
//   way     straight to the target, or through a far slot (core/far_slots.h) when the field cannot reach
//   record  the value that Write inserts, and what a move needs: a reference to another executor, or a kept record
//
// A relative field is checked for every place that its two ends can ever have: a move must not change whether the value
// fits.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "arch/kept_relocs.h"
#include "base/status.h"
#include "core/code_space.h"
#include "core/executor_table.h"
#include "core/exits.h"
#include "core/far_slots.h"
#include "core/references.h"
#include "core/spec.h"

namespace jit_arena {

// A reloc that has passed its check: what a freeze inserts.
struct CheckedReloc {
  const arch::KindInfo* info;
  uint64_t value;   // what the field says
  uint64_t normal;  // the same in normal form
  uint32_t offset;  // in its section
  Section section;
  bool moves;  // a move may change what the field says; else both are the same
};

// The relocs of a spec in the order of their sites. Hosts give them sorted as a rule; then there is nothing to sort.
class SortedRelocs {
 public:
  // `order` is scratch that lives as long as this.
  SortedRelocs(const ExecutorSpec& spec, std::vector<uint32_t>& order) : relocs_(spec.relocs) {
    uint64_t last = 0;
    bool sorted = true;
    for (uint32_t i = 0; i < spec.reloc_count; i++) {
      uint64_t key = Key(relocs_[i]);
      sorted &= last <= key;
      last = key;
    }
    if (!sorted) Sort(spec, order);
  }
  uint32_t PositionOf(uint32_t i) const { return order_ != nullptr ? order_[i] : i; }
  const RelocSpec& operator[](uint32_t i) const { return relocs_[PositionOf(i)]; }

 private:
  static uint64_t Key(const RelocSpec& reloc) {
    return uint64_t{static_cast<uint8_t>(reloc.section)} << 32 | reloc.offset;
  }
  void Sort(const ExecutorSpec& spec, std::vector<uint32_t>& order);

  const RelocSpec* relocs_;
  const uint32_t* order_ = nullptr;
};

// Under the arena's lock.
class RelocCheck {
 public:
  // `full_records`, for debugging: every reloc is kept as the host gave it.
  RelocCheck(const CodeSpace& space, ExecutorTable& table, References& references, FarSlots& far_slots,
             const Exits& exits, bool full_records)
      : space_(space),
        table_(table),
        references_(references),
        far_slots_(far_slots),
        exits_(exits),
        full_records_(full_records) {}

  Status CheckShape(const ExecutorSpec& spec, ExecutorId id) const;

  // Ends what the checks of the last freeze said.
  void BeginFreeze() { checked_.clear(); }
  // Checks every reloc of an executor, and makes its references, far slots and kept records. The executor has its
  // spans, and so have the executors of `batch`, which freeze with it and are `marked`. Returns the number of the
  // check. When it fails, Linker::Forget takes back what it has made.
  Result<size_t> Check(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch);
  // Of a check in this freeze: its relocs, as many as the spec has, in the order of their sites.
  const CheckedReloc* Checked(size_t check) const { return checked_.data() + check; }

  // The executor dies.
  void ForgetKept(uint32_t index);
  void ForgetFullRecord(uint32_t index) {
    if (full_records_) records_.erase(index);
  }
  // The executor's relocs as the host gave them; null without full records.
  const std::vector<RelocSpec>* FindFullRecord(uint32_t index) const;

  uint64_t kept_relocs() const { return kept_count_; }
  // The first broken rule of the kept records, in words, or empty.
  std::string FindBrokenRule() const;
  size_t MetadataBytes() const;  // beside this object

 private:
  void KeepFullRecord(uint32_t index, const ExecutorSpec& spec, const std::vector<uint32_t>& batch);

  const CodeSpace& space_;
  ExecutorTable& table_;
  References& references_;
  FarSlots& far_slots_;
  const Exits& exits_;
  uint64_t kept_count_ = 0;
  bool full_records_;
  std::unordered_map<uint32_t, std::vector<RelocSpec>> records_;

  // Scratch of one operation, kept to save allocations.
  mutable std::vector<uint32_t> order_;  // relocs by site, where the host gave them otherwise
  std::vector<CheckedReloc> checked_;
  KeptRelocWriter kept_writer_;
};

}  // namespace jit_arena
