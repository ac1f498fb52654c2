// T19: installs of executors that are full of relocs, as a copy-and-patch compiler makes them: each part of the code
// names the next in 64 bits. Beside them mmap, copy, patch and mprotect, which know where everything goes.
#include <sys/mman.h>

#include "base/bits.h"
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kLive = 64;
constexpr uint32_t kDataBytes = 256;

// Code that adds up the addresses of places in its code and data.
class SummingExecutor {
 public:
  // Of `relocs` every third, if `mixed`, is the distance to a constant; the others are addresses.
  SummingExecutor(uint32_t code_bytes, uint32_t relocs, bool mixed) {
    assembler_.Put({0x31, 0xC0});  // xor eax, eax
    const uint32_t part = (code_bytes - 3) / relocs;
    for (uint32_t i = 0; i < relocs; i++) {
      const bool to_data = i % 3 == 2;
      const uint32_t target = to_data ? i * 8 % kDataBytes : 2 + (i + 1) % relocs * part;
      auto offset = static_cast<uint32_t>(assembler_.code.size());
      if (to_data && mixed) {
        assembler_.Put({0x4C, 0x8D, 0x1D});  // lea r11, [rip + constant]
        assembler_.Relative(TargetKind::kOwnData, target);
      } else {
        assembler_.Put({0x49, 0xBB}).Put32(0).Put32(0);  // movabs r11, place
        assembler_.relocs.push_back(
            {Section::kCode, 1, to_data ? TargetKind::kOwnData : TargetKind::kOwnCode, offset + 2, target, 0});
      }
      assembler_.Put({0x4C, 0x01, 0xD8});  // add rax, r11
      while (assembler_.code.size() < 2 + (i + 1) * part) assembler_.Put({0x90});
      (to_data ? data_sum_ : code_sum_) += target;
      (to_data ? data_places_ : code_places_)++;
    }
    assembler_.Put({0xC3});
    spec_ = assembler_.Spec();
    spec_.bytes[1] = constants_;
    spec_.sizes[1] = kDataBytes;
  }

  const ExecutorSpec& spec() const { return spec_; }
  uint32_t DataOffset() const { return static_cast<uint32_t>(AlignUp(spec_.sizes[0], 8)); }
  void Check(uint64_t at) const {
    uint64_t sum = code_places_ * at + code_sum_ + data_places_ * (at + DataOffset()) + data_sum_;
    BENCH_CHECK(reinterpret_cast<uint64_t (*)()>(at)() == sum);
  }

 private:
  Assembler assembler_;
  ExecutorSpec spec_;
  uint8_t constants_[kDataBytes] = {};
  uint64_t code_places_ = 0, data_places_ = 0, code_sum_ = 0, data_sum_ = 0;
};

// By hand, for pages of its own.
class PagePerExecutor {
 public:
  explicit PagePerExecutor(const SummingExecutor& executor)
      : executor_(executor), bytes_(AlignUp(executor.DataOffset() + kDataBytes, os::PageBytes())) {}
  uint64_t Install() {
    const ExecutorSpec& spec = executor_.spec();
    void* mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    BENCH_CHECK(mapped != MAP_FAILED);
    auto* at = static_cast<uint8_t*>(mapped);
    const auto begin = reinterpret_cast<uint64_t>(at);
    std::memcpy(at, spec.bytes[0], spec.sizes[0]);
    std::memcpy(at + executor_.DataOffset(), spec.bytes[1], spec.sizes[1]);
    for (const RelocSpec* reloc = spec.relocs; reloc != spec.relocs + spec.reloc_count; reloc++) {
      uint64_t target = begin + reloc->target + static_cast<uint64_t>(reloc->addend);
      if (reloc->target_kind == TargetKind::kOwnData) target += executor_.DataOffset();
      if (reloc->kind == 1)
        StoreAs<uint64_t>(at + reloc->offset, target);
      else
        StoreAs<uint32_t>(at + reloc->offset, static_cast<uint32_t>(target - begin - reloc->offset));
    }
    BENCH_CHECK(mprotect(mapped, bytes_, PROT_READ | PROT_EXEC) == 0);
    return begin;
  }
  void Free(uint64_t at) { BENCH_CHECK(munmap(reinterpret_cast<void*>(at), bytes_) == 0); }

 private:
  const SummingExecutor& executor_;
  size_t bytes_;
};

// Each time the executor that has lived longest goes, then another is installed: nanoseconds of an install.
template <class Install, class Free>
double Measure(uint32_t installs, Install install, Free free) {
  std::vector<uint64_t> live(kLive);
  for (uint64_t& one : live) one = install();
  uint64_t nanos = 0;
  for (uint32_t i = 0; i < installs; i++) {
    free(live[i % kLive]);
    uint64_t begin = NowNanos();
    live[i % kLive] = install();
    nanos += NowNanos() - begin;
  }
  for (uint64_t one : live) free(one);
  return static_cast<double>(nanos) / installs;
}

void MeasureShape(const Settings& settings, uint32_t code_bytes, uint32_t relocs, bool mixed) {
  const SummingExecutor executor(code_bytes, relocs, mixed);
  const uint32_t installs = settings.Size(4'000u, 100u);
  const std::string shape = std::to_string(relocs) + (mixed ? " mixed" : " own 64-bit");
  OwnArena own(16 << 20);
  PagePerExecutor pages(executor);
  std::vector<double> ours, without, by_hand;
  for (int run = -1; run < settings.runs; run++) {
    ExecutorSpec bare = executor.spec();
    bare.reloc_count = 0;
    auto install = [&](const ExecutorSpec& spec) {
      ExecutorId id = 0;
      CheckOk(own.arena->Install(&spec, 1, &id, own.self));
      return id;
    };
    auto free = [&](ExecutorId id) { CheckOk(own.arena->Free(&id, 1, own.self)); };
    double nanos[] = {
        Measure(
            installs, [&] { return install(executor.spec()); },
            [&](ExecutorId id) {
              executor.Check(own.arena->EntryOf(id));
              free(id);
            }),
        Measure(
            installs, [&] { return install(bare); }, free),
        Measure(
            installs, [&] { return pages.Install(); },
            [&](uint64_t at) {
              executor.Check(at);
              pages.Free(at);
            }),
    };
    if (run < 0) continue;
    ours.push_back(nanos[0]);
    without.push_back(nanos[1]);
    by_hand.push_back(nanos[2]);
  }
  Report("T19", "arena, " + shape, code_bytes, "ns", ours);
  Report("T19", "arena without relocs, " + shape, code_bytes, "ns", without);
  Report("T19", "mmap + mprotect, " + shape, code_bytes, "ns", by_hand);
}

}  // namespace

void Relocs(const Settings& settings) {
  MeasureShape(settings, 5400, 200, false);
  MeasureShape(settings, 20'000, 300, true);
}

}  // namespace bench
