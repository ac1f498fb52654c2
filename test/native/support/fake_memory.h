// A scripted os::Memory for unit tests of everything above the OS: it makes any call fail, and it notices misuse.
//
//   FakeMemory memory({.script = ".x"});        // the first call that may fail succeeds, the second fails, the rest
//   succeed memory.Reserve(64 * kKiB); … CHECK_EQ(memory.violations(), "");
//
// By default its addresses are made up and must not be dereferenced, so that a test may use a reservation of any size;
// with `real` they are ordinary memory that bytes can be written to and compared in (never executed).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "os/memory.h"

class FakeMemory : public jit_arena::os::Memory {
 public:
  using Access = jit_arena::os::Access;
  using Status = jit_arena::Status;
  template <class T>
  using Result = jit_arena::Result<T>;

  struct Options {
    // One letter per call that may fail (Reserve, Commit, Punch, Restore, OpenWindow; not Decommit), in the order of
    // the calls: '.' succeeds, 'x' fails with ERR_ARENA_NO_MEMORY, 'e' with ERR_ARENA_NO_EXEC. Calls beyond the script
    // succeed.
    std::string script = {};
    jit_arena::os::WriterKind writer = jit_arena::os::WriterKind::kAlias;
    bool real = false;
    bool can_punch = true;
    size_t page_bytes = 4096;
  };

  // Where made-up addresses begin, and how far the writer's view of a made-up address is from it. Real memory is its
  // own view.
  static constexpr uintptr_t kFakeBase = 0x10'0000'0000;
  static constexpr uintptr_t kFakeViewDistance = 0x1000'0000'0000;

  FakeMemory() : FakeMemory(Options{}) {}
  explicit FakeMemory(Options options) : options_(std::move(options)) {}
  ~FakeMemory() override;
  FakeMemory(const FakeMemory&) = delete;
  FakeMemory& operator=(const FakeMemory&) = delete;

  jit_arena::os::WriterKind writer() const override { return options_.writer; }
  Result<uint8_t*> Reserve(size_t bytes) override;
  void Unreserve(uint8_t* base, size_t bytes) override;
  Result<uint8_t*> Commit(Access access, uint8_t* at, size_t bytes) override;
  Status Decommit(Access access, uint8_t* at, size_t bytes, uint8_t** view) override;
  Result<bool> Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  bool PunchAgain(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  Status Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) override;
  bool CanPunch() const override { return options_.can_punch; }
  bool BackByHugePages(uint8_t* at, size_t bytes) override;
  Status OpenWindow(Access access, uint8_t* at, size_t bytes) override;
  void Write(Access access, uint8_t* at, const uint8_t* from, size_t bytes) override;
  void CloseWindow(Access access, uint8_t* at, size_t bytes) override;

  // While true: Decommit is refused; Punch takes the access and keeps the pages.
  bool refuse_decommit = false;
  bool keep_punched = false;

  // Starts another script with the next call.
  void SetScript(std::string script);
  // Calls so far that could have failed: "fail the Nth until it passes" stops when a run stays below N.
  size_t fallible_calls() const { return fallible_calls_; }

  // One entry per call, such as "commit code 0x0+0x40000" or "punch code 0x2000+0x1000 failed"; addresses are relative
  // to the first reservation.
  const std::vector<std::string>& log() const { return log_; }
  void ClearLog() { log_.clear(); }

  size_t live_reservations() const { return reservations_.size(); }
  size_t live_commits() const { return commits_.size(); }
  size_t committed_bytes() const;  // without what is punched
  size_t punched_bytes() const;
  size_t open_windows() const;

  // What the caller did against the rules of os/memory.h, one line each; empty when nothing.
  const std::string& violations() const { return violations_; }

 private:
  struct Window {
    size_t bytes;
    int count;
  };
  struct Piece {
    Access access;
    size_t bytes;
    uint8_t* view;
    std::vector<bool> punched;  // per page
    std::map<uint8_t*, Window> windows;
  };

  bool Fails(jit_arena::ErrorCode* code);
  Status Logged(const char* call, const char* what, const uint8_t* at, size_t bytes, bool may_fail);
  void Violation(const char* call, const uint8_t* at, size_t bytes, const char* rule);
  bool Aligned(const char* call, const uint8_t* at, size_t bytes);
  Piece* FindPiece(const char* call, Access access, uint8_t* at, size_t bytes, uint8_t** base);
  bool CheckView(const char* call, const Piece& piece, uint8_t* base, uint8_t* at, size_t bytes, uint8_t* view);
  bool HasView(Access access) const;

  const Options options_;
  std::string script_ = options_.script;
  size_t script_next_ = 0;
  size_t fallible_calls_ = 0;
  uintptr_t next_base_ = kFakeBase;
  uint8_t* origin_ = nullptr;
  std::map<uint8_t*, size_t> reservations_;
  std::map<uint8_t*, Piece> commits_;
  std::vector<std::string> log_;
  std::string violations_;
};
