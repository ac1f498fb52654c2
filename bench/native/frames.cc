// T20: executors that exceptions pass, with a table for the unwinder each, against the same without.
#include <memory>

#include "core/frame_tables.h"
#include "os/unwinder.h"
#include "programs.h"

namespace bench {

using namespace jit_arena;

namespace {

constexpr uint32_t kCodeBytes = 400;

int Throw(int n) { throw n; }

// sub rsp, 8; mov rax, Throw; call rax; add rsp, 8; ret, and a constant.
Assembler CodeThatThrows() {
  Assembler code;
  code.Put({0x48, 0x83, 0xEC, 0x08, 0x48, 0xB8});
  const auto at = reinterpret_cast<uint64_t>(&Throw);
  code.Put32(static_cast<uint32_t>(at)).Put32(static_cast<uint32_t>(at >> 32));
  code.Put({0xFF, 0xD0, 0x48, 0x83, 0xC4, 0x08, 0xC3});
  return code.Pad(kCodeBytes);
}

// Two functions, as a small object has them: CFA = rsp + 8, from byte 4 of the first on rsp + 16.
std::shared_ptr<const FrameTable> Frames() {
  BENCH_CHECK(os::FindUnwinder());
  FrameTable table;
  table.bytes = {0x14, 0,    0, 0,    0,    0,    0, 0, 1, 'z', 'R',  0, 1, 0x78, 16,   1, 0, 0x0C, 7, 8, 0x90, 1, 0,
                 0,    0x1C, 0, 0,    0,    0x1C, 0, 0, 0, 0,   0,    0, 0, 0,    0,    0, 0, 21,   0, 0, 0,    0, 0,
                 0,    0,    0, 0x44, 0x0E, 16,   0, 0, 0, 0,   0x1C, 0, 0, 0,    0x3C, 0, 0, 0,    0, 0, 0,    0, 0,
                 0,    0,    0, 0x10, 1,    0,    0, 0, 0, 0,   0,    0, 0, 0,    0,    0, 0, 0,    0, 0, 0,    0, 0};
  table.fixups = {{32, Section::kCode, 0}, {64, Section::kCode, 24}};
  return std::make_shared<const FrameTable>(std::move(table));
}

}  // namespace

void Frames(const Settings& settings) {
  const uint32_t live = settings.Size(100'000u, 1'000u);
  const Assembler code = CodeThatThrows();
  const uint64_t constant[12] = {};
  std::vector<double> installs[2], frees[2], throws;
  std::vector<ExecutorId> ids(live);
  for (int run = -1; run < settings.runs; run++) {
    for (bool with : {false, true}) {
      ExecutorSpec spec = code.Spec();
      spec.bytes[1] = reinterpret_cast<const uint8_t*>(constant);
      spec.sizes[1] = sizeof constant;
      spec.name = "f";  // as the loader of objects gives one
      if (with) spec.frames = Frames();
      OwnArena own(uint64_t{live} * 1024 + (4 << 20));
      Random random(settings.seed);
      uint64_t begin = NowNanos();
      for (ExecutorId& id : ids) CheckOk(own.arena->Install(&spec, 1, &id, own.self));
      uint64_t installed = NowNanos();
      random.Shuffle(&ids);
      if (with) {
        // The first sorts what is new.
        constexpr uint32_t kThrows = 1000;
        uint64_t first = 0;
        for (uint32_t i = 0; i <= kThrows; i++) {
          if (i == 1) first = NowNanos();
          try {
            reinterpret_cast<int (*)(int)>(own.arena->EntryOf(ids[i % live]))(static_cast<int>(i));
            BENCH_CHECK(false);
          } catch (int value) {
            BENCH_CHECK(value == static_cast<int>(i));
          }
        }
        if (run >= 0) throws.push_back(static_cast<double>(NowNanos() - first) / kThrows);
      }
      uint64_t before = NowNanos();
      for (ExecutorId id : ids) CheckOk(own.arena->Free(&id, 1, own.self));
      uint64_t freed = NowNanos();
      if (run < 0) continue;
      installs[with].push_back(static_cast<double>(installed - begin) / live);
      frees[with].push_back(static_cast<double>(freed - before) / live);
    }
  }
  Report("T20", "install without frames", live, "ns", installs[0]);
  Report("T20", "install", live, "ns", installs[1]);
  Report("T20", "free without frames", live, "ns", frees[0]);
  Report("T20", "free", live, "ns", frees[1]);
  Report("T20", "throw", live, "ns", throws);
}

}  // namespace bench
