#include "support/fake_memory.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "base/bits.h"

using jit_arena::Error;
using jit_arena::ErrorCode;
using jit_arena::Format;
using jit_arena::os::WriterKind;

namespace {

// What real memory holds where nobody may look: a test that compares bytes sees it.
constexpr uint8_t kReserved = 0xDD, kPunched = 0xEE;

const char* AccessName(FakeMemory::Access access) {
  switch (access) {
    case FakeMemory::Access::kCode:
      return " code";
    case FakeMemory::Access::kData:
      return " data";
    case FakeMemory::Access::kState:
      return " state";
  }
  return " ?";
}

}  // namespace

FakeMemory::~FakeMemory() {
  if (!options_.real) return;
  for (const auto& [base, bytes] : reservations_) std::free(base);
}

void FakeMemory::SetScript(std::string script) {
  script_ = std::move(script);
  script_next_ = 0;
}

bool FakeMemory::Fails(ErrorCode* code) {
  ++fallible_calls_;
  char letter = script_next_ < script_.size() ? script_[script_next_++] : '.';
  *code = letter == 'e' ? ErrorCode::kNoExec : ErrorCode::kNoMemory;
  return letter != '.';
}

FakeMemory::Status FakeMemory::Logged(const char* call, const char* what, const uint8_t* at, size_t bytes,
                                      bool may_fail) {
  ErrorCode code = ErrorCode::kOk;
  bool failed = may_fail && Fails(&code);
  log_.push_back(
      Format("%s%s 0x%zx+0x%zx%s", call, what, static_cast<size_t>(at - origin_), bytes, failed ? " failed" : ""));
  if (!failed) return Status::Ok();
  return Error{code, std::string("the script of the fake memory says so: ") + call};
}

void FakeMemory::Violation(const char* call, const uint8_t* at, size_t bytes, const char* rule) {
  violations_ += Format("%s 0x%zx+0x%zx: %s\n", call, static_cast<size_t>(at - origin_), bytes, rule);
}

bool FakeMemory::Aligned(const char* call, const uint8_t* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % options_.page_bytes == 0 && bytes % options_.page_bytes == 0 && bytes != 0) {
    return true;
  }
  Violation(call, at, bytes, "not whole pages");
  return false;
}

bool FakeMemory::HasView(Access access) const {
  return access == Access::kState || options_.writer == WriterKind::kAlias;
}

// The commit with that access in which the range lies, or null after recording why there is none.
FakeMemory::Piece* FakeMemory::FindPiece(const char* call, Access access, uint8_t* at, size_t bytes, uint8_t** base) {
  auto after = commits_.upper_bound(at);
  if (after == commits_.begin()) {
    Violation(call, at, bytes, "not committed");
    return nullptr;
  }
  auto& [start, piece] = *std::prev(after);
  if (static_cast<size_t>(at - start) >= piece.bytes) {
    Violation(call, at, bytes, "not committed");
  } else if (bytes > piece.bytes - static_cast<size_t>(at - start)) {
    Violation(call, at, bytes, "goes beyond its commit");
  } else if (piece.access != access) {
    Violation(call, at, bytes, "committed with another access");
  } else {
    *base = start;
    return &piece;
  }
  return nullptr;
}

bool FakeMemory::CheckView(const char* call, const Piece& piece, uint8_t* base, uint8_t* at, size_t bytes,
                           uint8_t* view) {
  uint8_t* expected = piece.view == nullptr ? nullptr : piece.view + (at - base);
  if (view == expected) return true;
  Violation(call, at, bytes, "with another view than Commit returned");
  return false;
}

FakeMemory::Result<uint8_t*> FakeMemory::Reserve(size_t bytes) {
  uint8_t* base = nullptr;
  ErrorCode code;
  bool failed = Fails(&code);
  if (!failed && bytes % options_.page_bytes == 0 && bytes != 0) {
    if (options_.real) {
      void* memory = nullptr;
      if (posix_memalign(&memory, options_.page_bytes, bytes) != 0) std::abort();
      std::memset(memory, kReserved, bytes);
      base = static_cast<uint8_t*>(memory);
    } else {
      base = reinterpret_cast<uint8_t*>(next_base_);
      next_base_ += bytes + 16 * options_.page_bytes;
    }
  }
  log_.push_back(Format("reserve 0x%zx%s", bytes, failed ? " failed" : ""));
  if (failed) return Error{code, "the script of the fake memory says so: reserve"};
  if (base == nullptr) {
    violations_ += Format("reserve 0x%zx: not whole pages\n", bytes);
    return Error{ErrorCode::kNoMemory, "not whole pages"};
  }
  if (origin_ == nullptr) origin_ = base;
  reservations_[base] = bytes;
  return base;
}

void FakeMemory::Unreserve(uint8_t* base, size_t bytes) {
  Logged("unreserve", "", base, bytes, false).Ignore();  // cannot fail
  auto found = reservations_.find(base);
  if (found == reservations_.end() || found->second != bytes) {
    Violation("unreserve", base, bytes, "not a reservation");
    return;
  }
  auto commit = commits_.lower_bound(base);
  while (commit != commits_.end() && commit->first < base + bytes) {
    Violation("unreserve", commit->first, commit->second.bytes, "still committed");
    commit = commits_.erase(commit);
  }
  reservations_.erase(found);
  if (options_.real) std::free(base);
}

FakeMemory::Result<uint8_t*> FakeMemory::Commit(Access access, uint8_t* at, size_t bytes) {
  if (Status failed = Logged("commit", AccessName(access), at, bytes, true)) return failed;
  Error refused{ErrorCode::kNoMemory, "the fake memory does not allow this commit"};
  if (!Aligned("commit", at, bytes)) return refused;
  auto reservation = reservations_.upper_bound(at);
  if (reservation == reservations_.begin() || (--reservation, at + bytes > reservation->first + reservation->second)) {
    Violation("commit", at, bytes, "not reserved");
    return refused;
  }
  auto next = commits_.lower_bound(at);
  bool overlaps = next != commits_.end() && next->first < at + bytes;
  if (next != commits_.begin() && std::prev(next)->first + std::prev(next)->second.bytes > at) overlaps = true;
  if (overlaps) {
    Violation("commit", at, bytes, "committed already");
    return refused;
  }
  uint8_t* view = nullptr;
  if (HasView(access)) {
    bool itself = options_.real || access == Access::kState;
    view = itself ? at : reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(at) + kFakeViewDistance);
  }
  if (options_.real) std::memset(at, 0, bytes);
  commits_[at] = Piece{access, bytes, view, std::vector<bool>(bytes / options_.page_bytes), {}};
  return view;
}

FakeMemory::Status FakeMemory::Decommit(Access access, uint8_t* at, size_t bytes, uint8_t** view) {
  Logged("decommit", AccessName(access), at, bytes, false).Ignore();
  uint8_t* base;
  Piece* piece = FindPiece("decommit", access, at, bytes, &base);
  Error refused{ErrorCode::kNoMemory, "the fake memory does not allow this decommit"};
  if (piece == nullptr || !CheckView("decommit", *piece, base, at, bytes, *view)) return refused;
  if (base != at || piece->bytes != bytes) {
    Violation("decommit", at, bytes, "only part of what was committed");
    return refused;
  }
  if (!piece->windows.empty()) Violation("decommit", at, bytes, "with an open window");
  if (refuse_decommit) return refused;
  commits_.erase(at);
  *view = nullptr;
  if (options_.real) std::memset(at, kReserved, bytes);
  return Status::Ok();
}

FakeMemory::Result<bool> FakeMemory::Punch(Access access, uint8_t* at, size_t bytes, uint8_t* view) {
  if (Status failed = Logged("punch", AccessName(access), at, bytes, true)) return failed;
  if (!options_.can_punch) Violation("punch", at, bytes, "CanPunch is false");
  uint8_t* base;
  Error refused{ErrorCode::kNoMemory, "the fake memory does not allow this punch"};
  Piece* piece = FindPiece("punch", access, at, bytes, &base);
  if (piece == nullptr || !Aligned("punch", at, bytes)) return refused;
  if (!CheckView("punch", *piece, base, at, bytes, view)) return refused;
  if (!piece->windows.empty()) Violation("punch", at, bytes, "with an open window");
  for (size_t i = 0; i < bytes / options_.page_bytes; ++i) {
    auto page = piece->punched[static_cast<size_t>(at - base) / options_.page_bytes + i];
    if (page) Violation("punch", at, bytes, "punched already");
    page = true;
  }
  if (options_.real) std::memset(at, kPunched, bytes);
  return !keep_punched;
}

bool FakeMemory::PunchAgain(Access access, uint8_t* at, size_t bytes, uint8_t* view) {
  Logged("again", AccessName(access), at, bytes, false).Ignore();
  uint8_t* base;
  Piece* piece = FindPiece("again", access, at, bytes, &base);
  if (piece == nullptr || !CheckView("again", *piece, base, at, bytes, view)) return false;
  for (size_t i = 0; i < bytes / options_.page_bytes; ++i)
    if (!piece->punched[static_cast<size_t>(at - base) / options_.page_bytes + i])
      Violation("again", at, bytes, "not punched");
  return !keep_punched;
}

bool FakeMemory::BackByHugePages(uint8_t* at, size_t bytes) {
  bool refused = !Logged("huge", "", at, bytes, true).ok();
  size_t huge = jit_arena::os::HugePageBytes();
  if (reinterpret_cast<uintptr_t>(at) % huge != 0 || bytes % huge != 0)
    Violation("huge", at, bytes, "not whole huge pages");
  return !refused;
}

FakeMemory::Status FakeMemory::Restore(Access access, uint8_t* at, size_t bytes, uint8_t* view) {
  if (Status failed = Logged("restore", AccessName(access), at, bytes, true)) return failed;
  uint8_t* base;
  Error refused{ErrorCode::kNoMemory, "the fake memory does not allow this restore"};
  Piece* piece = FindPiece("restore", access, at, bytes, &base);
  if (piece == nullptr || !Aligned("restore", at, bytes)) return refused;
  if (!CheckView("restore", *piece, base, at, bytes, view)) return refused;
  for (size_t i = 0; i < bytes / options_.page_bytes; ++i) {
    auto page = piece->punched[static_cast<size_t>(at - base) / options_.page_bytes + i];
    if (!page) Violation("restore", at, bytes, "not punched");
    page = false;
  }
  if (options_.real) std::memset(at, 0, bytes);
  return Status::Ok();
}

FakeMemory::Status FakeMemory::OpenWindow(Access access, uint8_t* at, size_t bytes) {
  if (Status failed = Logged("open", AccessName(access), at, bytes, true)) return failed;
  uint8_t* base;
  Error refused{ErrorCode::kNoMemory, "the fake memory does not allow this window"};
  Piece* piece = FindPiece("open", access, at, bytes, &base);
  if (piece == nullptr || !Aligned("open", at, bytes)) return refused;
  if (HasView(access)) Violation("open", at, bytes, "memory with a view is written through the view");
  for (const auto& [start, window] : piece->windows) {
    if (start == at && window.bytes == bytes) continue;
    if (start < at + bytes && at < start + window.bytes)
      Violation("open", at, bytes, "overlaps another window in part");
  }
  Window& window = piece->windows[at];
  window.bytes = bytes;
  ++window.count;
  return Status::Ok();
}

void FakeMemory::Write(Access, uint8_t* at, const uint8_t* from, size_t bytes) {
  Logged("write", "", at, bytes, false).Ignore();  // cannot fail
  for (const auto& [base, piece] : commits_) {
    for (const auto& [start, window] : piece.windows) {
      if (at < start || at + bytes > start + window.bytes) continue;
      for (size_t page = static_cast<size_t>(at - base) / options_.page_bytes;
           page * options_.page_bytes < static_cast<size_t>(at - base) + bytes; ++page) {
        if (piece.punched[page]) Violation("write", at, bytes, "punched");
      }
      if (options_.real) std::memcpy(at, from, bytes);
      return;
    }
  }
  Violation("write", at, bytes, "not inside an open window");
}

void FakeMemory::CloseWindow(Access access, uint8_t* at, size_t bytes) {
  Logged("close", AccessName(access), at, bytes, false).Ignore();  // cannot fail
  uint8_t* base;
  Piece* piece = FindPiece("close", access, at, bytes, &base);
  if (piece == nullptr) return;
  auto window = piece->windows.find(at);
  if (window == piece->windows.end() || window->second.bytes != bytes) {
    return Violation("close", at, bytes, "not an open window");
  }
  if (--window->second.count == 0) piece->windows.erase(window);
}

size_t FakeMemory::committed_bytes() const {
  size_t total = 0;
  for (const auto& [base, piece] : commits_) total += piece.bytes;
  return total - punched_bytes();
}

size_t FakeMemory::punched_bytes() const {
  size_t pages = 0;
  for (const auto& [base, piece] : commits_) {
    for (bool punched : piece.punched) pages += punched ? 1 : 0;
  }
  return pages * options_.page_bytes;
}

size_t FakeMemory::open_windows() const {
  size_t total = 0;
  for (const auto& [base, piece] : commits_) total += piece.windows.size();
  return total;
}
