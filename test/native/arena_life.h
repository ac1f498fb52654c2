// A life of an arena, through the C API, for tests that refuse the library what it asks for: system calls, memory.
// Whatever is refused, what is there is right, and a later try succeeds.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "capi_host.h"

namespace capi_test {

// On in the thread, and for as long, as a call of the library's may be refused something: what the test and its other
// threads ask for is not the library's.
inline thread_local bool hindered = false;

template <class Call>
auto Hindered(Call call) {
  hindered = true;
  auto result = call();
  hindered = false;
  return result;
}

// The code of an executor that returns `number`, of a size that depends on it.
inline Code Returns(uint32_t number) {
  Code code = Code().Move32(x64::kRax, number).Ret();
  code.bytes.resize(64 + number * 37 % 3000, 0xCC);
  return code;
}

// What an executor returns on this thread; ~0 when it has no entry.
inline uint32_t CallOf(ja_thread* thread, ja_executor id) {
  uint64_t address = 0;
  CHECK_OK(ja_enter(thread));
  ja_status status = ja_entry(thread, id, &address);
  uint32_t number = status == JA_OK ? reinterpret_cast<uint32_t (*)()>(address)() : ~0u;
  CHECK_OK(ja_leave(thread));
  return number;
}

class Life {
 public:
  // `may_fail`: what a refusal can mean for a call that takes something; for a collect as well, if `collects_may_fail`.
  Life(ja_writer writer, bool apart, ja_fork fork, std::vector<ja_status> may_fail, bool collects_may_fail = false)
      : may_fail_(std::move(may_fail)), collects_may_fail_(collects_may_fail) {
    options_ = ja_options_init();
    options_.writer = writer;
    options_.layout = apart ? JA_LAYOUT_APART : JA_LAYOUT_TOGETHER;
    options_.fork = fork;
    options_.max_bytes = 3 * kMiB;
  }

  void Live() {
    Try("create", [&] { return ja_create(&options_, &arena_); });
    if (arena_ == nullptr) CHECK_OK(ja_create(&options_, &arena_));
    if (arena_ == nullptr) return;
    Try("attach", [&] { return ja_attach(arena_, &thread_); });
    if (thread_ == nullptr) CHECK_OK(ja_attach(arena_, &thread_));
    for (uint32_t i = 0; i < 6; i++) InstallOne(i);
    InstallMany();
    for (uint32_t i = 0; i < 150; i++) InstallOne(100 + i);
    Check();
    InstallInSteps(90);
    Link();
    EvictTraces();
    Look();
    FreeMost();
    Check();
    Collect(0);
    Check();
    for (uint32_t i = 0; i < 80; i++) InstallOne(400 + i);
    FreeMost();
    StartRunning();
    for (int slices = 0; slices < 30 && !Collect(100'000); slices++) {
    }
    Collect(0);
    InstallOne(700);
    StopRunning();
    Check();
    if (options_.fork == JA_FORK_COPY) Fork();
    Free(0, ids_.size());
    Collect(0);
    TryAgain();
    CHECK_OK(ja_detach(thread_));
    TryToGo("dispose", [&] { return ja_dispose(arena_); });
  }

 private:
  void Fail(const char* what, ja_status status) {
    test::Fail(__FILE__, __LINE__, std::string(what) + ": " + Name(status) + ", " + ja_last_error()->message);
  }

  // A call that takes something. True when it succeeds.
  template <class Call>
  bool Try(const char* what, Call call) {
    ja_status status = Hindered(call);
    bool expected = status == JA_OK;
    for (ja_status allowed : may_fail_) expected |= status == allowed;
    if (!expected) Fail(what, status);
    if (status != JA_OK) CHECK(std::string(ja_last_error()->message).size() > 20);
    return status == JA_OK;
  }
  // A call that gives back, or takes nothing: it never fails.
  template <class Call>
  void TryToGo(const char* what, Call call) {
    ja_status status = Hindered(call);
    if (status != JA_OK) Fail(what, status);
  }

  void InstallOne(uint32_t number) {
    Code code = Returns(number);
    if (number % 3 == 0) code.spec.state.size = 40;
    if (number % 4 == 0) code.spec.data.size = 24;
    if (number % 5 == 0) code.spec.name = "an executor that has a name";
    if (number % 11 == 0) code.spec.movable = JA_NO;
    ja_executor id = 0;
    const ja_spec* spec = code.Spec();
    if (Try("install", [&] { return ja_install(arena_, spec, 1, &id); })) Add(id, number);
  }

  void InstallMany() {
    std::vector<Code> codes;
    std::vector<ja_spec> specs;
    for (uint32_t i = 0; i < 20; i++) codes.push_back(Returns(20 + i));
    // A direct use of another, and one of something far away, through a far slot.
    codes[3].relocs.push_back({JA_CODE, 20, JA_R_X86_64_PC32, JA_TARGET_BATCH_MEMBER, 7, -4, JA_CODE, 0});
    codes[5].relocs.push_back({JA_CODE, 20, JA_R_X86_64_GOTPCREL, JA_TARGET_ADDRESS, 0x1234'5678'9000, -4, JA_CODE, 0});
    // So many kept records that they need memory of their own.
    for (uint32_t at = 20; at + 8 <= codes[6].bytes.size() && at < 400; at += 8 + at % 3)
      codes[6].relocs.push_back({JA_CODE, at, JA_R_X86_64_64, JA_TARGET_OWN_CODE, 0, 0, JA_CODE, 0});
    for (Code& code : codes) specs.push_back(*code.Spec());
    std::vector<ja_executor> ids(specs.size());
    if (!Try("install of many", [&] { return ja_install(arena_, specs.data(), specs.size(), ids.data()); })) return;
    many_at_ = ids_.size();
    many_ = ids.size();
    for (uint32_t i = 0; i < 20; i++) Add(ids[i], 20 + i);
  }

  void InstallInSteps(uint32_t number) {
    Code code = Returns(number);
    const ja_spec* spec = code.Spec();
    ja_executor id = 0;
    uint8_t zeroes[16] = {};
    const ja_reloc reloc = {JA_CODE, 40, JA_R_X86_64_64, JA_TARGET_OWN_CODE, 0, 0, JA_CODE, 0};
    if (!Try("allocate", [&] { return ja_allocate(arena_, spec, &id); })) return;
    bool frozen = Try("write", [&] { return ja_write(arena_, id, JA_CODE, 20, zeroes, sizeof zeroes); }) &&
                  Try("add_relocs", [&] { return ja_add_relocs(arena_, id, &reloc, 1); }) &&
                  Try("freeze", [&] { return ja_freeze(arena_, &id, 1); });
    if (frozen)
      Add(id, number);
    else
      TryToGo("free of a writable executor", [&] { return ja_free(arena_, &id, 1); });
  }

  void Link() {
    Code trace = Trace(2);
    const ja_spec* spec = trace.Spec();
    ja_executor ids[2] = {};
    for (ja_executor& id : ids) Try("install of a trace", [&] { return ja_install(arena_, spec, 1, &id); });
    if (ids[0] != 0 && ids[1] != 0) {
      uint32_t depth = 0;
      uint64_t context[3] = {0, 1, 0};
      ja_taken taken;
      bool linked = Try("link", [&] { return ja_link(arena_, ids[0], 0, ids[1], 0); });
      Try("chain depth", [&] { return ja_chain_depth(arena_, ids[0], &depth); });
      TryToGo("run", [&] { return ja_run(thread_, ids[0], 0, context, &taken); });
      CHECK_EQ(context[0], linked ? 2u : 1u);
    }
    for (ja_executor id : ids)
      if (id != 0) TryToGo("free of a trace", [&] { return ja_free(arena_, &id, 1); });
  }

  // Two traces that have not run since the last pass; both die, or, without memory, neither.
  void EvictTraces() {
    Code trace = Trace(2);
    ja_executor ids[2] = {};
    for (ja_executor& id : ids) CHECK_OK(ja_install(arena_, trace.Spec(), 1, &id));
    CHECK_OK(ja_link(arena_, ids[0], 0, ids[1], 0));
    ja_collect_options options = ja_collect_options_init();
    options.evict_cold = JA_YES;
    options.follow_links = JA_YES;
    CHECK_OK(ja_collect(arena_, &options, nullptr));
    ja_collect_result result = ja_collect_result_init();
    bool evicted = Try("collect with eviction", [&] { return ja_collect(arena_, &options, &result); });
    if (evicted) CHECK_EQ(result.evicted, 2u);
    if (!evicted) CHECK_OK(ja_free(arena_, ids, 2));
  }

  void Look() {
    size_t count = 0;
    ja_stats_result stats = ja_stats_result_init();
    ja_plan_result plan = ja_plan_result_init();
    ja_info info = ja_info_init();
    ja_found found = ja_found_init();
    Try("stats", [&] { return ja_stats(arena_, &stats); });
    Try("plan", [&] { return ja_plan(arena_, &plan); });
    Try("executors", [&] { return ja_executors(arena_, nullptr, 0, &count); });
    Try("verify", [&] { return ja_verify(arena_, nullptr, nullptr, &count); });
    Try("slabs", [&] {
      return ja_slabs(
          arena_, [](void*, const ja_slab*) {}, nullptr);
    });
    Try("probe", [&] { return ja_probe(options_.writer); });
    if (!ids_.empty()) Try("describe", [&] { return ja_describe(arena_, ids_[0], &info); });
    TryToGo("find", [&] { return ja_find(arena_, info.address, &found); });
  }

  void Add(ja_executor id, uint32_t number) {
    ids_.push_back(id);
    numbers_.push_back(number);
  }

  void Free(size_t first, size_t count) {
    if (count == 0) return;
    TryToGo("free", [&] { return ja_free(arena_, ids_.data() + first, count); });
    auto erase = [&](auto& from) {
      from.erase(from.begin() + static_cast<ptrdiff_t>(first), from.begin() + static_cast<ptrdiff_t>(first + count));
    };
    erase(ids_);
    erase(numbers_);
  }

  void FreeMost() {
    // Those that refer to each other go together.
    Free(many_at_, std::exchange(many_, 0));
    for (size_t at = 0; at + 4 < ids_.size(); at++) Free(at, 4);
  }

  bool Collect(uint64_t pause_nanos) {
    ja_collect_options options = ja_collect_options_init();
    options.max_pause_nanos = pause_nanos;
    ja_collect_result result = ja_collect_result_init();
    auto collect = [&] { return ja_collect(arena_, &options, &result); };
    if (collects_may_fail_) return Try("collect", collect) && result.done != 0;
    TryToGo("collect", collect);
    return result.done != 0;
  }

  // The invariants, every function, and what the figures say.
  void Check() {
    size_t problems = 99;
    CHECK_OK(ja_verify(
        arena_, [](void*, const ja_problem* problem) { std::printf("  %s\n", problem->what); }, nullptr, &problems));
    CHECK_EQ(problems, 0u);
    for (size_t i = 0; i < ids_.size(); i++) CHECK_EQ(CallOf(thread_, ids_[i]), numbers_[i]);
    CHECK_EQ(Stats().executors, ids_.size());
  }

  ja_stats_result Stats() {
    ja_stats_result stats = ja_stats_result_init();
    CHECK_OK(ja_stats(arena_, &stats));
    return stats;
  }

  void StartRunning() {
    stop_ = false;
    running_ = std::thread([this, ids = ids_, numbers = numbers_] {
      ja_thread* thread = nullptr;
      CHECK_OK(ja_attach(arena_, &thread));
      while (!stop_.load(std::memory_order_relaxed))
        for (size_t i = 0; i < ids.size(); i++) wrong_ += CallOf(thread, ids[i]) != numbers[i];
      CHECK_OK(ja_detach(thread));
    });
  }

  void StopRunning() {
    stop_ = true;
    running_.join();
    CHECK_EQ(wrong_, 0);
  }

  // The child has all of it, or is told that it has nothing.
  void Fork() {
    std::fflush(stdout);
    pid_t child = Hindered([] { return fork(); });
    if (child == 0) {
      int failed = test::failed_checks;
      InstallInChild();
      if (ja_verify(arena_, nullptr, nullptr, nullptr) != JA_ERR_FORKED) Check();
      _exit(test::failed_checks == failed ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
  }

  void InstallInChild() {
    ja_executor id = 0;
    Code code = Returns(900);
    const ja_spec* spec = code.Spec();
    if (Hindered([&] { return ja_install(arena_, spec, 1, &id); }) == JA_OK) Add(id, 900);
  }

  // What was refused is tried again, and succeeds: nothing is lost any more.
  void TryAgain() {
    CHECK_OK(ja_collect(arena_, nullptr, nullptr));
    CHECK_EQ(Stats().lost_bytes, 0u);
    CHECK_EQ(Stats().retired_bytes, 0u);
    CHECK(Stats().committed_bytes <= 2 * kMiB);
    for (uint32_t i = 0; i < 200; i++) {
      Code code = Returns(1000 + i);
      ja_executor id = 0;
      CHECK_OK(ja_install(arena_, code.Spec(), 1, &id));
      Add(id, 1000 + i);
    }
    Check();
    CHECK_OK(ja_free(arena_, ids_.data(), ids_.size()));
    ids_.clear();
    numbers_.clear();
    CHECK_OK(ja_collect(arena_, nullptr, nullptr));
    CHECK_EQ(Stats().lost_bytes, 0u);
  }

  std::vector<ja_status> may_fail_;
  bool collects_may_fail_;
  ja_options options_;
  ja_arena* arena_ = nullptr;
  ja_thread* thread_ = nullptr;
  std::vector<ja_executor> ids_;
  std::vector<uint32_t> numbers_;
  size_t many_at_ = 0, many_ = 0;  // those of InstallMany
  std::thread running_;
  std::atomic<bool> stop_{false};
  std::atomic<int> wrong_{0};
};

}  // namespace capi_test
