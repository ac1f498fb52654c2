// The address range and its slabs over a scripted OS: what is asked of it and when, and what happens when it refuses.
// Most addresses are made up; tests that write bytes say `real`.
#include "core/code_space.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arch/arch.h"
#include "base/bits.h"
#include "support/fake_memory.h"
#include "test.h"

using namespace jit_arena;

namespace {

constexpr uint32_t kSlab = kSlabBytes;

struct Rig {
  explicit Rig(FakeMemory::Options options = {}, uint64_t bytes = 8 * kSlab, uint32_t slab_bytes = kSlab) {
    options.page_bytes = os::PageBytes();
    auto owned = std::make_unique<FakeMemory>(options);
    memory = owned.get();
    space = std::make_unique<CodeSpace>(std::move(owned), bytes, slab_bytes);
    reserved = space->Reserve(bytes);
    memory->ClearLog();
  }
  ~Rig() { CheckRules(); }

  // 0 when refused.
  SpanId Allocate(uint32_t bytes, Zone zone = Zone::kState, uint32_t align = 16) {
    Result<SpanId> span = space->Allocate(zone, bytes, align, 1, Section::kCode);
    error = span.ok() ? ErrorCode::kOk : span.status().code();
    return span.ok() ? span.value() : 0;
  }
  // As a freeze would: the bytes are in place and the span is in use.
  SpanId AllocateAndFill(uint32_t bytes, Zone zone = Zone::kCode, uint8_t fill = 0x90) {
    SpanId span = Allocate(bytes, zone);
    CHECK(span != 0);
    WriteScope scope(*space, "test");
    CHECK(scope.Open(span).ok());
    std::memset(scope.Fill(span, 0, bytes), fill, bytes);
    space->SetState(span, SpanState::kLive);
    return span;
  }
  void CheckRules() {
    CHECK_EQ(space->FindBrokenRule(), "");
    CHECK_EQ(memory->violations(), "");
  }
  size_t Calls(const char* name) {
    return static_cast<size_t>(std::count_if(memory->log().begin(), memory->log().end(),
                                             [&](const std::string& entry) { return entry.rfind(name, 0) == 0; }));
  }

  std::unique_ptr<CodeSpace> space;
  FakeMemory* memory;
  Status reserved;
  ErrorCode error = ErrorCode::kOk;
};

// Everything that a refused call must leave alone.
struct Figures {
  explicit Figures(Rig& rig)
      : slabs(rig.space->slab_count()),
        committed(rig.space->CommittedBytes()),
        commits(rig.memory->live_commits()),
        punched(rig.memory->punched_bytes()),
        windows(rig.memory->open_windows()) {
    rig.space->ForEachSlab([&](const Slab& slab) { used += slab.used_granules(); });
  }
  bool operator==(const Figures&) const = default;

  uint32_t slabs;
  uint64_t committed;
  size_t commits, punched, windows;
  uint64_t used = 0;
};

constexpr os::WriterKind kWriters[] = {os::WriterKind::kAlias, os::WriterKind::kProcmem, os::WriterKind::kFlip};

}  // namespace

TEST(code_space_reserves_whole_slabs_between_two_guard_pages) {
  Rig rig({}, 3 * kSlab - 5);
  CHECK(rig.reserved.ok());
  CHECK_EQ(rig.space->bytes(), 3 * kSlab);
  CHECK_EQ(rig.space->base(), FakeMemory::kFakeBase + os::PageBytes());
  CHECK(rig.space->Contains(rig.space->base()));
  CHECK(rig.space->Contains(rig.space->end() - 1));
  CHECK(!rig.space->Contains(rig.space->base() - 1));
  CHECK(!rig.space->Contains(rig.space->end()));
  CHECK_EQ(rig.memory->live_commits(), 0);
}

TEST(code_space_reserves_less_where_the_system_refuses_more) {
  FakeMemory::Options options;
  options.script = "xx.";
  Rig rig(options, 64 * kSlab);
  CHECK(rig.reserved.ok());
  CHECK_EQ(rig.space->bytes(), 16 * kSlab);
  CHECK_EQ(rig.memory->live_reservations(), 1);
}

TEST(code_space_gives_up_reserving_below_four_slabs) {
  FakeMemory::Options options;
  options.script = "xxxxxxxx";
  Rig rig(options, 64 * kSlab);
  CHECK(rig.reserved.code() == ErrorCode::kNoMemory);
  CHECK_EQ(rig.memory->fallible_calls(), 5);  // 64, 32, 16, 8, 4 slabs
  Rig small(options, 2 * kSlab);              // one that was asked for less is not made smaller
  CHECK(small.reserved.code() == ErrorCode::kNoMemory);
  CHECK_EQ(small.memory->fallible_calls(), 1);
}

TEST(code_space_gives_everything_back_at_its_end) {
  auto owned = std::make_unique<FakeMemory>();
  CodeSpace space(nullptr, kSlab);  // never reserved: nothing to give back
  FakeMemory* memory = owned.get();
  // The memory outlives the space, so that it can be asked.
  struct Borrowed final : os::Memory {
    explicit Borrowed(os::Memory& lender) : lender(lender) {}
    os::WriterKind writer() const override { return lender.writer(); }
    Result<uint8_t*> Reserve(size_t bytes) override { return lender.Reserve(bytes); }
    void Unreserve(uint8_t* base, size_t bytes) override { lender.Unreserve(base, bytes); }
    Result<uint8_t*> Commit(os::Access access, uint8_t* at, size_t bytes) override {
      return lender.Commit(access, at, bytes);
    }
    Status Decommit(os::Access access, uint8_t* at, size_t bytes, uint8_t** view) override {
      return lender.Decommit(access, at, bytes, view);
    }
    Result<bool> Punch(os::Access access, uint8_t* at, size_t bytes, uint8_t* view) override {
      return lender.Punch(access, at, bytes, view);
    }
    Status Restore(os::Access access, uint8_t* at, size_t bytes, uint8_t* view) override {
      return lender.Restore(access, at, bytes, view);
    }
    bool CanPunch() const override { return lender.CanPunch(); }
    bool BackByHugePages(uint8_t* at, size_t bytes) override { return lender.BackByHugePages(at, bytes); }
    Status OpenWindow(os::Access access, uint8_t* at, size_t bytes) override {
      return lender.OpenWindow(access, at, bytes);
    }
    void Write(os::Access access, uint8_t* at, const uint8_t* from, size_t bytes) override {
      lender.Write(access, at, from, bytes);
    }
    void CloseWindow(os::Access access, uint8_t* at, size_t bytes) override { lender.CloseWindow(access, at, bytes); }
    os::Memory& lender;
  };
  for (bool disowned : {false, true}) {
    FakeMemory lender;
    {
      CodeSpace used(std::make_unique<Borrowed>(lender), 8 * kSlab);
      CHECK(used.Reserve(8 * kSlab).ok());
      for (Zone zone : {Zone::kCode, Zone::kData, Zone::kState})
        CHECK(used.Allocate(zone, 3 * kSlab / 2, 16, 1, Section::kCode).ok());
      CHECK_EQ(lender.live_commits(), 3);
      if (disowned) used.Disown();  // a forked child has none of it
    }
    CHECK_EQ(lender.live_commits(), disowned ? 3 : 0);
    CHECK_EQ(lender.live_reservations(), disowned ? 1 : 0);
    CHECK_EQ(lender.violations(), "");
  }
  CHECK_EQ(memory->log().size(), 0);
}

TEST(code_space_commits_a_slab_when_the_first_span_needs_it) {
  Rig rig;
  SpanId a = rig.Allocate(100, Zone::kCode);
  CHECK_EQ(rig.memory->log().size(), 1);
  CHECK_EQ(rig.memory->log()[0], Format("commit code 0x%zx+0x%x", os::PageBytes(), kSlab));
  SpanId b = rig.Allocate(100, Zone::kCode);
  CHECK_EQ(rig.memory->log().size(), 1);  // no system call per span
  CHECK_EQ(rig.space->AddressOf(a), rig.space->base());
  CHECK_EQ(rig.space->AddressOf(b), rig.space->base() + 112);
  Span span = rig.space->Describe(b);
  CHECK_EQ(span.rx, rig.space->AddressOf(b));
  CHECK_EQ(span.bytes, 112);
  CHECK_EQ(reinterpret_cast<uint64_t>(span.view), span.rx + FakeMemory::kFakeViewDistance);
  CHECK_EQ(rig.space->CommittedBytes(), 0);  // no page has been written yet
}

TEST(code_space_zones_have_slabs_of_their_own) {
  Rig rig;
  for (Zone zone : {Zone::kCode, Zone::kFixedCode, Zone::kData, Zone::kFixedData, Zone::kState, Zone::kFixedState}) {
    SpanId span = rig.Allocate(100, zone);
    CHECK(rig.space->SlabOf(span).zone() == zone);
  }
  CHECK_EQ(rig.Calls("commit code"), 2);
  CHECK_EQ(rig.Calls("commit data"), 2);
  CHECK_EQ(rig.Calls("commit state"), 2);
}

TEST(code_space_keeps_one_empty_slab_per_zone) {
  Rig rig;
  std::vector<SpanId> spans;
  for (int i = 0; i < 3; i++) spans.push_back(rig.Allocate(kSlab));
  CHECK_EQ(rig.space->slab_count(), 3);
  rig.memory->ClearLog();
  rig.space->Free(spans[0]);
  CHECK_EQ(rig.memory->log().size(), 0);  // kept
  rig.space->Free(spans[1]);
  CHECK_EQ(rig.Calls("decommit"), 1);
  CHECK_EQ(rig.space->slab_count(), 2);
  // At the edge of a slab, neither a free nor an allocation costs a system call.
  rig.memory->ClearLog();
  for (int i = 0; i < 5; i++) rig.space->Free(rig.Allocate(kSlab));
  CHECK_EQ(rig.memory->log().size(), 0);
  CHECK_EQ(rig.space->Trim(), 0);
  CHECK_EQ(rig.Calls("decommit"), 1);
  CHECK_EQ(rig.space->slab_count(), 1);
  CHECK(rig.Allocate(16) != 0);
}

TEST(code_space_gives_a_large_executor_a_run_of_slabs) {
  Rig rig;
  SpanId small = rig.Allocate(16);
  SpanId large = rig.Allocate(2 * kSlab + 16);
  CHECK_EQ(rig.Calls("commit"), 2);
  CHECK_EQ(rig.memory->log()[1], Format("commit state 0x%zx+0x%x", os::PageBytes() + kSlab, 3 * kSlab));
  CHECK_EQ(rig.space->slab_count(), 2);
  CHECK_EQ(rig.space->AddressOf(large), rig.space->base() + kSlab);
  for (uint64_t at : {uint64_t{0}, uint64_t{kSlab}, uint64_t{2} * kSlab + 15})
    CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(large) + at), large);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(large) + 2 * kSlab + 16), 0);
  // What is left of its last slab is as good as any other hole.
  SpanId behind = rig.Allocate(kSlab - 16);
  CHECK_EQ(rig.space->AddressOf(behind), rig.space->AddressOf(large) + 2 * kSlab + 16);
  rig.space->Free(large);
  CHECK_EQ(rig.Calls("decommit"), 0);
  rig.CheckRules();
  rig.space->Free(behind);
  rig.space->Free(small);
  CHECK_EQ(rig.Calls("decommit"), 1);  // one of the two is kept
  rig.space->Trim();
  CHECK_EQ(rig.memory->live_commits(), 0);
}

TEST(code_space_says_when_it_is_full_and_changes_nothing) {
  Rig rig({}, 4 * kSlab);
  std::vector<SpanId> spans;
  for (int i = 0; i < 4; i++) spans.push_back(rig.Allocate(kSlab - 64));
  Figures before(rig);
  for (uint32_t bytes : {80u, kSlab, 5 * kSlab}) {
    CHECK_EQ(rig.Allocate(bytes), 0);
    CHECK(rig.error == ErrorCode::kFull);
    CHECK(Figures(rig) == before);
  }
  CHECK_EQ(rig.Allocate(16, Zone::kCode), 0);  // every unit is a state slab
  CHECK(rig.error == ErrorCode::kFull);
  CHECK(rig.Allocate(64) != 0);  // what fits still does
  // Room for two slabs is no room when they do not adjoin.
  rig.space->Free(spans[0]);
  rig.space->Free(spans[2]);
  rig.space->Trim();
  CHECK_EQ(rig.Allocate(kSlab + 16), 0);
  CHECK(rig.error == ErrorCode::kFull);
  rig.space->Free(spans[1]);
  rig.space->Trim();
  CHECK(rig.Allocate(kSlab + 16) != 0);
}

TEST(code_space_aligns_up_to_a_page) {
  Rig rig;
  for (uint32_t align = 1; align <= os::PageBytes(); align *= 2) {
    rig.Allocate(16);
    SpanId span = rig.Allocate(40, Zone::kState, align);
    CHECK_EQ(rig.space->AddressOf(span) % std::max(16u, align), 0);
  }
  CHECK_EQ(rig.space->slab_count(), 1);
}

TEST(code_space_a_refused_commit_changes_nothing) {
  for (char letter : {'x', 'e'}) {
    Rig rig;
    SpanId span = rig.Allocate(kSlab, Zone::kCode);
    Figures before(rig);
    rig.memory->SetScript(std::string(1, letter));
    CHECK_EQ(rig.Allocate(kSlab, Zone::kCode), 0);
    CHECK(rig.error == (letter == 'x' ? ErrorCode::kNoMemory : ErrorCode::kNoExec));
    CHECK(Figures(rig) == before);
    rig.CheckRules();
    CHECK(rig.Allocate(kSlab, Zone::kCode) != 0);  // and the next one may succeed
    CHECK_EQ(rig.space->FindSpan(rig.space->base()), span);
  }
}

TEST(code_space_finds_the_span_of_any_address) {
  Rig rig;
  SpanId a = rig.Allocate(32), b = rig.Allocate(48);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(a)), a);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(a) + 31), a);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(b)), b);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(b) + 47), b);
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(b) + 48), 0);
  CHECK_EQ(rig.space->FindSpan(rig.space->base() + kSlab), 0);  // nothing is committed there
  CHECK_EQ(rig.space->FindSpan(rig.space->base() - 1), 0);
  CHECK_EQ(rig.space->FindSpan(rig.space->end()), 0);
  CHECK_EQ(rig.space->FindSpan(0), 0);
}

// Proves that FindBrokenRule can fail.
TEST(code_space_notices_broken_books) {
  auto broken = [](void (*damage)(Rig&, SpanId)) {
    Rig rig;
    rig.Allocate(100);
    SpanId span = rig.Allocate(100);
    rig.Allocate(100);
    rig.CheckRules();
    SpanNode before = (*rig.space)[span];
    damage(rig, span);
    bool noticed = !rig.space->FindBrokenRule().empty();
    (*rig.space)[span] = before;
    rig.space->SlabOf(span).SetEvacuating(false);
    return noticed;
  };
  CHECK(!broken([](Rig&, SpanId) {}));
  CHECK(broken([](Rig& rig, SpanId span) { (*rig.space)[span].granules = (*rig.space)[span].granules + 1; }));
  CHECK(broken([](Rig& rig, SpanId span) { (*rig.space)[span].start = (*rig.space)[span].start - 1; }));
  CHECK(broken([](Rig& rig, SpanId span) { (*rig.space)[span].hole_granules = 1; }));
  CHECK(broken([](Rig& rig, SpanId span) { rig.space->SlabOf(span).SetEvacuating(true); }));

  // Two holes in one bin: the back link of the second is followed when it leaves.
  Rig rig;
  SpanId spans[5];
  for (SpanId& span : spans) span = rig.Allocate(100);
  for (int i : {1, 3}) rig.space->Free(spans[i]);
  rig.CheckRules();
  (*rig.space)[spans[0]].hole_previous = 0;
  CHECK_EQ(rig.space->FindBrokenRule(), "a bin's list is torn");
  (*rig.space)[spans[0]].hole_previous = spans[2];
  rig.CheckRules();
}

// ---- Writing

TEST(write_scope_puts_bytes_where_each_writer_can) {
  for (os::WriterKind writer : kWriters) {
    Rig rig({.writer = writer, .real = true}, 4 * kSlab);
    SpanId a = rig.Allocate(100, Zone::kCode), b = rig.Allocate(100, Zone::kData), c = rig.Allocate(100);
    rig.memory->ClearLog();
    {
      WriteScope scope(*rig.space, "test");
      for (SpanId span : {a, b, c}) CHECK(scope.Open(span).ok());
      CHECK(scope.Open(a).ok());  // as often as one likes
      uint8_t value = 1;
      for (SpanId span : {a, b, c}) std::memset(scope.Fill(span, 4, 96), value++, 96);
      scope.Finish();
      const uint8_t four[] = {9, 8, 7, 6};
      scope.Patch(a, 10, four, 4);  // within eight aligned bytes
      scope.Patch(a, 22, four, 4);  // across
      scope.Patch(b, 30, four, 4);
    }
    auto at = [&](SpanId span, uint32_t offset) {
      return *reinterpret_cast<const uint8_t*>(rig.space->AddressOf(span) + offset);
    };
    CHECK_EQ(at(a, 4), 1);
    CHECK_EQ(at(a, 99), 1);
    CHECK_EQ(at(b, 4), 2);
    CHECK_EQ(at(c, 99), 3);
    for (uint32_t i = 0; i < 4; i++) {
      CHECK_EQ(at(a, 10 + i), 9 - i);
      CHECK_EQ(at(a, 22 + i), 9 - i);
      CHECK_EQ(at(b, 30 + i), 9 - i);
    }
    for (uint32_t i : {9, 14, 21, 26}) CHECK_EQ(at(a, i), 1);
    // State is ordinary memory; code and data need windows unless there is a view.
    CHECK_EQ(rig.Calls("open"), writer == os::WriterKind::kAlias ? 0 : 2);
    CHECK_EQ(rig.Calls("open state"), 0);
    CHECK_EQ(rig.Calls("close"), rig.Calls("open"));
    CHECK_EQ(rig.Calls("write") != 0, writer == os::WriterKind::kProcmem);
    CHECK_EQ(rig.memory->open_windows(), 0);
  }
}

TEST(write_scope_that_cannot_open_closes_what_it_opened) {
  Rig rig({.writer = os::WriterKind::kFlip, .real = true}, 4 * kSlab);
  SpanId a = rig.Allocate(100, Zone::kCode), b = rig.Allocate(100, Zone::kData);
  rig.memory->SetScript(".x");
  {
    WriteScope scope(*rig.space, "test");
    CHECK(scope.Open(a).ok());
    CHECK(scope.Open(b).code() == ErrorCode::kNoMemory);
    CHECK_EQ(rig.memory->open_windows(), 1);
  }
  CHECK_EQ(rig.memory->open_windows(), 0);
}

TEST(code_space_poisons_freed_code) {
  for (os::WriterKind writer : kWriters) {
    Rig rig({.writer = writer, .real = true}, 4 * kSlab);
    SpanId before = rig.AllocateAndFill(16), span = rig.AllocateAndFill(100), behind = rig.AllocateAndFill(16);
    const uint8_t* at = reinterpret_cast<const uint8_t*>(rig.space->AddressOf(span));
    rig.space->Free(span);
    CHECK_EQ(at[-1], 0x90);
    for (int i = 0; i < 112; i++) CHECK_EQ(at[i], arch::kPoisonByte);
    CHECK_EQ(at[112], 0x90);
    rig.space->Free(before);
    rig.space->Free(behind);
  }
}

// Freeing cannot fail. Where the flip writer is refused its window, poison waits until it gets one.
TEST(code_space_frees_also_when_the_system_refuses_the_window) {
  Rig rig({.writer = os::WriterKind::kFlip, .real = true}, 4 * kSlab);
  SpanId span = rig.AllocateAndFill(100);
  SpanId keeps_the_slab = rig.AllocateAndFill(16);
  const uint8_t* at = reinterpret_cast<const uint8_t*>(rig.space->AddressOf(span));
  rig.memory->SetScript("xx.");
  rig.space->Free(span);
  CHECK_EQ(at[0], 0x90);
  rig.space->Trim();
  CHECK_EQ(at[0], 0x90);  // refused once more
  rig.space->Trim();
  CHECK_EQ(at[0], arch::kPoisonByte);
  CHECK_EQ(at[111], arch::kPoisonByte);
  CHECK_EQ(*reinterpret_cast<const uint8_t*>(rig.space->AddressOf(keeps_the_slab)), 0x90);
}

TEST(code_space_poisons_what_an_evacuation_left_only_where_there_is_memory) {
  Rig rig({.real = true}, 4 * kSlab);
  SpanId moved = rig.AllocateAndFill(3 * 4096);
  SpanId stays = rig.AllocateAndFill(16);
  Slab& slab = rig.space->SlabOf(moved);
  const uint8_t* at = reinterpret_cast<const uint8_t*>(rig.space->AddressOf(moved));
  slab.SetEvacuating(true);
  rig.space->Free(moved);
  CHECK_EQ(at[0], 0x90);
  slab.SetEvacuating(false);
  uint32_t backed = slab.backed_pages();
  rig.space->Trim();
  CHECK_EQ(at[0], arch::kPoisonByte);
  CHECK_EQ(at[3 * 4096 - 1], arch::kPoisonByte);
  CHECK_EQ(at[3 * 4096], 0x90);
  CHECK_EQ(slab.backed_pages(), backed);  // nothing was committed in order to poison it
  CHECK_EQ(rig.space->FindSpan(rig.space->AddressOf(stays)), stays);
}

// ---- Giving pages back

namespace {

// Slabs with one span at each end, and memory behind everything between.
void MakeHollowSlabs(Rig& rig, int count) {
  std::vector<SpanId> middles;
  for (int i = 0; i < count; i++) {
    SpanId front = rig.AllocateAndFill(16);
    middles.push_back(rig.AllocateAndFill(kSlab - 32));
    SpanId back = rig.AllocateAndFill(16);
    CHECK(&rig.space->SlabOf(front) == &rig.space->SlabOf(back));
  }
  for (SpanId middle : middles) rig.space->Free(middle);
}

}  // namespace

TEST(code_space_punches_empty_pages_inside_slabs) {
  for (os::WriterKind writer : kWriters) {
    Rig rig({.writer = writer, .real = true}, 4 * kSlab);
    MakeHollowSlabs(rig, 1);
    uint32_t pages = kSlab / rig.space->page_bytes();
    CHECK_EQ(rig.space->CommittedBytes(), kSlab);
    CHECK_EQ(rig.space->Trim(), pages - 2);
    CHECK_EQ(rig.space->CommittedBytes(), 2 * rig.space->page_bytes());
    CHECK_EQ(rig.memory->punched_bytes(), (pages - 2) * rig.space->page_bytes());
    CHECK_EQ(rig.space->Trim(), 0);  // once is enough
    CHECK_EQ(rig.Calls("punch"), 1);
    // What needs punched pages restores them first.
    SpanId small = rig.Allocate(64, Zone::kCode);  // fits in the first page
    CHECK_EQ(rig.Calls("restore"), 0);
    CHECK_EQ(rig.memory->punched_bytes(), (pages - 2) * rig.space->page_bytes());
    SpanId large = rig.AllocateAndFill(2 * rig.space->page_bytes());
    CHECK_EQ(rig.Calls("restore"), 1);
    CHECK_EQ(rig.memory->punched_bytes(), 0);
    rig.space->Abandon(small);
    rig.space->Free(large);
  }
}

// Windows are for memory that is there: flipping a punched range would leave it executable.
TEST(code_space_opens_no_window_over_punched_pages) {
  for (os::WriterKind writer : {os::WriterKind::kProcmem, os::WriterKind::kFlip}) {
    Rig rig({.writer = writer, .real = true}, 4 * kSlab);
    MakeHollowSlabs(rig, 1);
    rig.space->Trim();
    uint64_t punch = os::PageBytes() + rig.space->page_bytes();  // in the log's terms
    uint64_t punch_end = os::PageBytes() + kSlab - rig.space->page_bytes();
    rig.memory->ClearLog();
    SpanId in_front = rig.AllocateAndFill(64);
    const Slab& slab = rig.space->SlabOf(in_front);
    CHECK(slab.punched());
    {
      WriteScope scope(*rig.space, "both ends of one slab");
      CHECK(scope.Open(slab.tail()).ok());
      CHECK(scope.Open(in_front).ok());
      const uint8_t byte[4] = {1, 2, 3, 4};
      scope.Patch(slab.tail(), 0, byte, 4);
      scope.Patch(in_front, 0, byte, 4);
    }
    CHECK_EQ(LoadAs<uint32_t>(reinterpret_cast<const uint8_t*>(rig.space->AddressOf(slab.tail()))), 0x04030201);
    CHECK_EQ(LoadAs<uint32_t>(reinterpret_cast<const uint8_t*>(rig.space->AddressOf(in_front))), 0x04030201);
    for (const std::string& entry : rig.memory->log()) {
      if (entry.rfind("open", 0) != 0) continue;
      unsigned long long at = 0, bytes = 0;
      CHECK_EQ(std::sscanf(entry.c_str(), "open code %llx+%llx", &at, &bytes), 2);
      CHECK(at + bytes <= punch || at >= punch_end);
    }
    rig.space->Free(in_front);
  }
}

TEST(code_space_limits_how_many_slabs_are_punched) {
  Rig rig({.real = true}, 16 * kSlab);
  MakeHollowSlabs(rig, 12);
  CHECK_EQ(rig.space->slab_count(), 12);
  for (int i = 0; i < 3; i++) rig.space->Trim();
  size_t punched = rig.Calls("punch");
  CHECK(punched >= 6 && punched <= 7);  // every second one: each costs up to two mappings
}

// Those that are refused may not keep a Trim with little time from coming to the others.
TEST(code_space_comes_to_every_slab_however_little_time_it_has) {
  Rig rig({.real = true}, 32 * kSlab);
  MakeHollowSlabs(rig, 24);
  int calls = 0;
  for (bool done = false; !done && calls < 100; calls++) {
    done = true;
    rig.space->Trim(1, &done);
  }
  CHECK(calls > 2 && calls <= 25);
  size_t punched = rig.Calls("punch");
  CHECK(punched >= 12 && punched <= 13);
}

TEST(code_space_does_not_punch_a_few_pages) {
  Rig rig({.real = true}, 4 * kSlab);
  rig.AllocateAndFill(16);
  SpanId hole = rig.AllocateAndFill(4 * rig.space->page_bytes());  // three whole pages
  rig.AllocateAndFill(16);
  rig.space->Free(hole);
  CHECK_EQ(rig.space->Trim(), 0);
  CHECK_EQ(rig.Calls("punch"), 0);
}

TEST(code_space_keeps_pages_where_punching_is_impossible_or_refused) {
  Rig never({.real = true, .can_punch = false}, 4 * kSlab);
  MakeHollowSlabs(never, 1);
  CHECK_EQ(never.space->Trim(), 0);
  CHECK_EQ(never.space->CommittedBytes(), kSlab);

  Rig refused({.real = true}, 4 * kSlab);
  MakeHollowSlabs(refused, 1);
  refused.memory->SetScript("x");
  CHECK_EQ(refused.space->Trim(), 0);
  CHECK_EQ(refused.space->CommittedBytes(), kSlab);
  CHECK(refused.space->Trim() != 0);
  // A refused restore leaves the pages punched and the span unallocated.
  Figures before(refused);
  refused.memory->SetScript("x");
  CHECK_EQ(refused.Allocate(4 * refused.space->page_bytes(), Zone::kCode), 0);
  CHECK(refused.error == ErrorCode::kNoMemory);
  CHECK(Figures(refused) == before);
  CHECK(refused.Allocate(4 * refused.space->page_bytes(), Zone::kCode) != 0);
}

// What the system does not take back is counted, is nobody's, and is tried again.
TEST(code_space_keeps_count_of_slabs_that_the_system_does_not_take) {
  Rig rig({.real = true}, 4 * kSlab);
  SpanId spans[4];
  for (SpanId& span : spans) span = rig.AllocateAndFill(kSlab);
  uint64_t base = rig.space->base();
  rig.memory->refuse_decommit = true;
  for (SpanId span : spans) rig.space->Free(span);
  rig.space->Trim();
  CHECK_EQ(rig.space->slab_count(), 0);
  CHECK_EQ(rig.space->CommittedBytes(), 0);
  CHECK_EQ(rig.space->LostBytes(), 4 * kSlab);
  CHECK_EQ(rig.memory->live_commits(), 4);
  rig.CheckRules();
  // Their room is not given out, and no address in them is anybody's.
  CHECK(rig.Allocate(100) == 0 && rig.error == ErrorCode::kFull);
  for (uint64_t at = base; at < base + 4 * kSlab; at += 4096) CHECK_EQ(rig.space->FindSpan(at), 0);
  size_t tried = rig.Calls("decommit");
  rig.space->Trim();
  CHECK_EQ(rig.Calls("decommit"), tried + 1);  // where one is refused, so are the others
  CHECK_EQ(rig.space->LostBytes(), 4 * kSlab);
  // Tried again when room is needed, and by Trim.
  rig.memory->refuse_decommit = false;
  CHECK(rig.Allocate(100) != 0);
  CHECK_EQ(rig.space->LostBytes(), 0);
  CHECK_EQ(rig.memory->live_commits(), 1);
  SpanId one = rig.AllocateAndFill(kSlab);
  rig.AllocateAndFill(kSlab);
  rig.memory->refuse_decommit = true;
  rig.space->Free(one);
  rig.space->Trim();
  CHECK_EQ(rig.space->LostBytes(), kSlab);
  CHECK(rig.Allocate(2 * kSlab, Zone::kCode) == 0);
  rig.memory->refuse_decommit = false;
  rig.space->Trim();
  CHECK_EQ(rig.space->LostBytes(), 0);
  CHECK_EQ(rig.memory->live_commits(), 2);
}

TEST(code_space_keeps_count_of_punched_pages_that_the_system_does_not_take) {
  Rig rig({.real = true}, 4 * kSlab);
  uint32_t page = rig.space->page_bytes();
  rig.AllocateAndFill(page);
  SpanId middle = rig.AllocateAndFill(kSlab - 2 * page);
  rig.AllocateAndFill(page);
  rig.memory->keep_punched = true;
  rig.space->Free(middle);
  rig.space->Trim();
  CHECK_EQ(rig.space->CommittedBytes(), 2 * page);
  CHECK_EQ(rig.space->LostBytes(), kSlab - 2 * page);
  rig.space->Trim();
  CHECK_EQ(rig.Calls("again"), 1);
  CHECK_EQ(rig.space->LostBytes(), kSlab - 2 * page);
  rig.memory->keep_punched = false;
  CHECK_EQ(rig.space->Trim(), kSlab / page - 2);
  CHECK_EQ(rig.space->LostBytes(), 0);
  CHECK_EQ(rig.space->Trim(), 0);
  CHECK_EQ(rig.Calls("again"), 2);
  CHECK_EQ(rig.Calls("punch"), 1);
  // Kept or not, they are used again when there is need of them.
  rig.AllocateAndFill(kSlab - 2 * page);
  CHECK_EQ(rig.space->LostBytes(), 0);
  CHECK_EQ(rig.space->slab_count(), 1);
}

TEST(code_space_puts_huge_pages_behind_full_slabs) {
  const uint32_t huge = static_cast<uint32_t>(os::HugePageBytes());
  if (huge == 0) return;
  Rig rig({.real = true}, 8 * huge, huge);
  CHECK_EQ(rig.space->base() % huge, 0);
  SpanId first = rig.AllocateAndFill(huge - huge / 16 - 16);
  rig.AllocateAndFill(huge / 16 + 16);
  rig.AllocateAndFill(huge / 2);
  SpanId last = rig.AllocateAndFill(huge / 2 - 2 * rig.space->page_bytes());  // but for two pages
  SpanId half = rig.AllocateAndFill(huge / 2);
  rig.AllocateAndFill(huge / 2 + huge / 4);
  rig.Allocate(huge, Zone::kState);
  rig.memory->ClearLog();
  rig.memory->SetScript("x");
  rig.space->BackByHugePages();
  CHECK_EQ(rig.space->HugePageBytes(), 0);
  uint64_t committed = rig.space->CommittedBytes();
  rig.space->BackByHugePages();
  CHECK_EQ(rig.Calls("huge"), 3);  // the refused one again
  CHECK_EQ(rig.space->HugePageBytes(), 2 * huge);
  CHECK_EQ(rig.space->CommittedBytes(), committed + 2 * rig.space->page_bytes());
  rig.space->BackByHugePages();
  CHECK_EQ(rig.Calls("huge"), 3);  // once is enough
  // What is punched or ends has none any more.
  rig.space->Free(first);
  rig.space->Trim();
  CHECK_EQ(rig.space->HugePageBytes(), huge);
  rig.space->Free(last);
  rig.space->Free(half);
  rig.space->Trim();
  CHECK_EQ(rig.space->HugePageBytes(), 0);
}

TEST(code_space_copies_go_behind_the_last_span_of_a_slab) {
  Rig rig;
  SpanId original = rig.Allocate(100), hole = rig.Allocate(100), last = rig.Allocate(16);
  rig.space->Free(hole);
  Slab& slab = rig.space->SlabOf(last);
  SpanId copy = rig.space->AllocateIn(slab, original, 64);
  CHECK_EQ(rig.space->AddressOf(copy),
           rig.space->base() + AlignUp(rig.space->AddressOf(last) + 16 - rig.space->base(), 64));
  CHECK_EQ(rig.space->Describe(copy).bytes, rig.space->Describe(original).bytes);
  CHECK_EQ((*rig.space)[copy].Owner(), 1);
  SpanId filler = rig.Allocate(kSlab - 1024);
  CHECK(&rig.space->SlabOf(filler) == &slab);
  SpanId too_large = rig.Allocate(1024);
  CHECK(&rig.space->SlabOf(too_large) != &slab);
  CHECK_EQ(rig.space->AllocateIn(slab, too_large, 16), 0);
}

// ---- Refusals at every point

// A little of everything; every refusal is an answer, never an accident.
static void Exercise(Rig& rig, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<SpanId> spans;
  for (int step = 0; step < 60; step++) {
    Zone zone = static_cast<Zone>(random() % kZones);
    uint32_t bytes = random() % 4 == 0 ? 1 + random() % (2 * kSlab) : 1 + random() % 30000;
    if (random() % 3 != 0) {
      Figures before(rig);
      Result<SpanId> span = rig.space->Allocate(zone, bytes, 16u << random() % 4, 1, Section::kCode);
      if (!span.ok()) {
        CHECK(Figures(rig) == before);
        ErrorCode code = span.status().code();
        CHECK(code == ErrorCode::kNoMemory || code == ErrorCode::kFull);
      } else {
        WriteScope scope(*rig.space, "test");
        if (scope.Open(span.value()).ok()) {
          std::memset(scope.Fill(span.value(), 0, bytes), 0x90, bytes);
          rig.space->SetState(span.value(), SpanState::kLive);
          spans.push_back(span.value());
        } else {
          rig.space->Abandon(span.value());
        }
      }
    } else if (!spans.empty()) {
      size_t at = random() % spans.size();
      rig.space->Free(spans[at]);
      spans[at] = spans.back();
      spans.pop_back();
    }
    if (step % 15 == 14) rig.space->Trim();
    CHECK_EQ(rig.memory->open_windows(), 0);
    rig.CheckRules();
  }
  for (SpanId span : spans) rig.space->Free(span);
  rig.space->Trim();
  CHECK_EQ(rig.memory->live_commits(), 0);
}

TEST(code_space_survives_a_refusal_of_any_one_call) {
  for (os::WriterKind writer : kWriters) {
    for (size_t nth = 0;; nth++) {
      Rig rig({.writer = writer, .real = true}, 12 * kSlab);
      rig.memory->SetScript(std::string(nth, '.') + "x");
      size_t calls = rig.memory->fallible_calls();
      int failed_before = test::failed_checks;
      Exercise(rig, 5);
      if (test::failed_checks != failed_before) {
        std::printf("  call %zu refused, writer %s\n", nth, os::WriterName(writer));
        return;
      }
      if (rig.memory->fallible_calls() - calls <= nth) break;  // the run did not get that far
    }
  }
}
