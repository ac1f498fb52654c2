// The reloc kinds of the test CPU, in the place of native/arch/<cpu>/relocs.cc: whatever that defines is defined here,
// so that the linker takes nothing of it from the library. Stubs and the gate stay those of the CPU that executes the
// tests.
#include "base/bits.h"
#include "fake_cpu/kinds.h"

namespace jit_arena::arch {

const char* const kCpuName = "a test CPU";
const uint64_t kMaxArenaBytes = 128 * uint64_t{kMiB};
const char* const kFarKinds = "SLOT_PAGE and SLOT_IN_PAGE, or BRANCH";
const char* const kNearKind = "PAGE and IN_PAGE";

namespace {

enum Field : FieldClass { kBranchField, kInPageField, kPageField, kAddressField };

constexpr KindInfo kKinds[] = {
    {fake_cpu::kAddress, "ADDRESS", kAddressField, false, false},
    {fake_cpu::kBranch, "BRANCH", kBranchField, false, true},
    {fake_cpu::kPage, "PAGE", kPageField, false, false},
    {fake_cpu::kInPage, "IN_PAGE", kInPageField, false, false},
    {fake_cpu::kSlotPage, "SLOT_PAGE", kPageField, true, false},
    {fake_cpu::kSlotInPage, "SLOT_IN_PAGE", kInPageField, true, false},
};

constexpr int kPageBits = 12;
constexpr uint64_t kInPageMask = 0xFFF;

// Bits of the value from 0 on, or for pages from bit 12 on.
int ValueBits(FieldClass field) { return field == kBranchField ? 28 : field == kPageField ? 33 : 64; }

uint64_t SignExtend(uint64_t value, int bits) {
  return static_cast<uint64_t>(static_cast<int64_t>(value << (64 - bits)) >> (64 - bits));
}

// Both halves of a field in two pieces: `low` bits of the value from `from` on lie at `low_at`, the other `high` at
// `high_at`.
struct Pieces {
  int from, low, low_at, high, high_at;
};
constexpr Pieces kBranchPieces{0, 12, 20, 16, 4}, kPagePieces{kPageBits, 2, 29, 19, 5};

uint32_t MaskOf(int bits) { return (1u << bits) - 1; }

void InsertPieces(const Pieces& pieces, uint8_t* site, uint64_t value) {
  uint32_t word = LoadAs<uint32_t>(site);
  word &= ~(MaskOf(pieces.low) << pieces.low_at | MaskOf(pieces.high) << pieces.high_at);
  word |= (static_cast<uint32_t>(value >> pieces.from) & MaskOf(pieces.low)) << pieces.low_at;
  word |= (static_cast<uint32_t>(value >> (pieces.from + pieces.low)) & MaskOf(pieces.high)) << pieces.high_at;
  StoreAs(site, word);
}

uint64_t ExtractPieces(const Pieces& pieces, const uint8_t* site) {
  uint32_t word = LoadAs<uint32_t>(site);
  uint64_t low = word >> pieces.low_at & MaskOf(pieces.low);
  uint64_t high = word >> pieces.high_at & MaskOf(pieces.high);
  return SignExtend((high << pieces.low | low) << pieces.from, pieces.from + pieces.low + pieces.high);
}

void Insert(FieldClass field, uint8_t* site, uint64_t value) {
  switch (field) {
    case kBranchField:
      return InsertPieces(kBranchPieces, site, value);
    case kPageField:
      return InsertPieces(kPagePieces, site, value);
    case kInPageField:
      return StoreAs(site, (LoadAs<uint32_t>(site) & ~(0xFFFu << 10)) | static_cast<uint32_t>(value) << 10);
    default:
      return StoreAs(site, value);
  }
}

uint64_t Extract(FieldClass field, const uint8_t* site) {
  switch (field) {
    case kBranchField:
      return ExtractPieces(kBranchPieces, site);
    case kPageField:
      return ExtractPieces(kPagePieces, site);
    case kInPageField:
      return LoadAs<uint32_t>(site) >> 10 & kInPageMask;
    default:
      return LoadAs<uint64_t>(site);
  }
}

}  // namespace

const FieldInfo kFields[] = {
    // bytes, relative, follows, rest
    {4, true, true, 0},          // kBranchField
    {4, false, true, 0},         // kInPageField
    {4, true, true, kPageBits},  // kPageField
    {8, false, true, 0},         // kAddressField
};
const int kFieldClassBits = 2;

const KindInfo* FindKind(RelocKind kind) {
  for (const KindInfo& info : kKinds)
    if (info.kind == kind) return &info;
  return nullptr;
}

const KindInfo* Kinds(size_t* count) {
  *count = std::size(kKinds);
  return kKinds;
}

uint64_t ValueOf(FieldClass field, uint64_t target, uint64_t site) {
  switch (field) {
    case kBranchField:
      return target - site;
    case kPageField:
      return (target & ~kInPageMask) - (site & ~kInPageMask);
    case kInPageField:
      return target & kInPageMask;
    default:
      return target;
  }
}

bool Check(const KindInfo& kind, uint64_t value) {
  return kind.field == kInPageField || SignExtend(value, ValueBits(kind.field)) == value;
}

void Apply(const KindInfo& kind, uint8_t* site, uint64_t value) { Insert(kind.field, site, value); }

uint64_t Read(const KindInfo& kind, const uint8_t* site) { return Extract(kind.field, site); }

uint64_t Beyond(FieldClass field, uint64_t value) {
  return field == kBranchField || field == kPageField ? value >> (ValueBits(field) - 1) >> 1 : 0;
}

uint64_t Shift(FieldClass field, uint8_t* site, uint32_t rest, const Ends& from, const Ends& to) {
  uint64_t value = Extract(field, site);
  const uint64_t target_moved = to.target - from.target;
  switch (field) {
    case kBranchField:
      value += target_moved - (to.site - from.site);
      break;
    case kPageField: {
      const uint64_t page = value + (from.site & ~kInPageMask);
      value = ValueOf(field, page + ((from.target + rest) & kInPageMask) + target_moved, to.site);
      break;
    }
    case kInPageField:
      value = (value + target_moved) & kInPageMask;
      break;
    default:
      value += target_moved;
  }
  Insert(field, site, value);
  return Beyond(field, value);
}

}  // namespace jit_arena::arch
