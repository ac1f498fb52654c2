// What is common to all operating systems: names, the probe, and the trial that both it and OpenMemory rest on.
#include "os/memory.h"

#include <atomic>
#include <cstring>
#include <new>

#include "arch/arch.h"
#include "os/trial.h"

namespace jit_arena::os {

const char* WriterName(WriterKind kind) {
  switch (kind) {
    case WriterKind::kAlias:
      return "alias";
    case WriterKind::kProcmem:
      return "procmem";
    case WriterKind::kFlip:
      return "flip";
  }
  return "?";
}

namespace trials {
namespace {

// Writers that have passed a thorough trial in this process. Relaxed: two threads may both do one, and agree.
constinit std::atomic<bool> passed[kWriterKinds] = {};

Result<std::unique_ptr<Memory>> Open(WriterKind kind, Trial trial) {
  Result<std::unique_ptr<Memory>> opened = OpenWriter(kind, trial);
  if (opened.ok()) passed[static_cast<int>(kind)].store(true, std::memory_order_relaxed);
  return opened;
}

}  // namespace
}  // namespace trials

Result<std::unique_ptr<Memory>> OpenMemory(WriterKind kind) {
  bool passed = trials::passed[static_cast<int>(kind)].load(std::memory_order_relaxed);
  Result<std::unique_ptr<Memory>> opened = trials::Open(kind, passed ? Trial::kQuick : Trial::kThorough);
  if (opened.ok() || opened.status().out_of_memory()) return opened;
  return Error{ErrorCode::kWriterUnavailable, std::string("the writer '") + WriterName(kind) +
                                                  "' does not work here: " + opened.status().error().message};
}

std::vector<ProbeResult> Probe() {
  std::vector<ProbeResult> results;
  for (int kind = 0; kind < kWriterKinds; ++kind) {
    WriterKind writer = static_cast<WriterKind>(kind);
    Result<std::unique_ptr<Memory>> opened = trials::Open(writer, Trial::kThorough);
    // That says nothing of the writer.
    if (!opened.ok() && opened.status().out_of_memory()) throw std::bad_alloc();
    results.push_back({writer, opened.ok(), opened.ok() ? Words() : opened.status().error().message});
  }
  return results;
}

namespace trials {
namespace {

// The scratch pages of a trial: two of code, one of data, one of state, given back at the end of the scope.
class Scratch {
 public:
  explicit Scratch(Memory& memory) : memory_(memory) {}
  ~Scratch() {
    if (base_ == nullptr) return;
    for (const Piece& piece : pieces_) {
      if (piece.committed) memory_.DecommitForGood(piece.access, At(piece), piece.pages * PageBytes(), piece.view);
    }
    memory_.Unreserve(base_, kPages * PageBytes());
  }

  Status Make() {
    Result<uint8_t*> reserved = memory_.Reserve(kPages * PageBytes());
    if (!reserved.ok()) return std::move(reserved.status());
    base_ = reserved.value();
    for (Piece& piece : pieces_) {
      Result<uint8_t*> view = memory_.Commit(piece.access, At(piece), piece.pages * PageBytes());
      if (!view.ok()) return std::move(view.status());
      piece.committed = true;
      piece.view = view.value();
    }
    return Status::Ok();
  }

  uint8_t* code() { return base_; }
  uint8_t* code_view() { return pieces_[0].view; }
  uint8_t* data() { return At(pieces_[1]); }
  uint8_t* data_view() { return pieces_[1].view; }
  uint8_t* state() { return At(pieces_[2]); }

  // Nothing of the scratch is writable and executable, views included.
  Status CheckMappings() {
    size_t page = PageBytes(), found = 0, more = 0;
    bool known = CountWritableExecutable(base_, kPages * page, &found);
    for (const Piece& piece : pieces_) {
      if (piece.view == nullptr || piece.access == Access::kState) continue;
      if (CountWritableExecutable(piece.view, piece.pages * page, &more)) found += more;
    }
    if (!known || found == 0) return Status::Ok();
    return Error{ErrorCode::kNoExec,
                 "memory that was asked for as writable came out executable as well: the process runs with "
                 "READ_IMPLIES_EXEC (`setarch -X`, an executable stack) or under an emulator"};
  }

 private:
  struct Piece {
    Access access;
    size_t page, pages;
    bool committed = false;
    uint8_t* view = nullptr;
  };
  static constexpr size_t kPages = 4;

  uint8_t* At(const Piece& piece) { return base_ + piece.page * PageBytes(); }

  Memory& memory_;
  uint8_t* base_ = nullptr;
  Piece pieces_[3] = {{Access::kCode, 0, 2}, {Access::kData, 2, 1}, {Access::kState, 3, 1}};
};

// Puts the bytes at code + offset, through the view or a window; a thorough trial looks at the mappings just then.
Status Put(Memory& memory, Scratch& scratch, size_t offset, const uint8_t* bytes, size_t size, Trial trial) {
  Status failed;
  if (scratch.code_view() != nullptr) {
    std::memcpy(scratch.code_view() + offset, bytes, size);
    if (trial == Trial::kThorough) failed = scratch.CheckMappings();
  } else {
    failed = memory.OpenWindow(Access::kCode, scratch.code(), 2 * PageBytes());
    if (failed) return failed;
    memory.Write(Access::kCode, scratch.code() + offset, bytes, size);
    if (trial == Trial::kThorough) failed = scratch.CheckMappings();
    memory.CloseWindow(Access::kCode, scratch.code(), 2 * PageBytes());
  }
  FlushInstructionCache(scratch.code() + offset, size);
  return failed;
}

// Writes the function with `answer` there and executes it.
Status WriteAndCall(Memory& memory, Scratch& scratch, size_t offset, uint32_t answer, Trial trial = Trial::kQuick) {
  uint8_t bytes[arch::kMostTrialFunctionBytes];
  arch::WriteTrialFunction(bytes, answer);
  if (Status failed = Put(memory, scratch, offset, bytes, arch::TrialFunctionBytes(), trial)) return failed;

  const uint8_t* volatile entry = scratch.code() + offset;  // volatile: the compiler must not know where this goes
  uint32_t got = reinterpret_cast<uint32_t (*)()>(reinterpret_cast<uintptr_t>(entry))();
  if (got == answer) return Status::Ok();
  return Error{ErrorCode::kNoExec,
               Format("a function just written to return %u returned %u: what is written is not what "
                      "is executed",
                      answer, got)};
}

Status TryPunching(Memory& memory, Scratch& scratch) {
  size_t page = PageBytes();
  uint8_t* view = scratch.code_view() == nullptr ? nullptr : scratch.code_view() + page;
  Result<bool> punched = memory.Punch(Access::kCode, scratch.code() + page, page, view);
  if (!punched.ok()) return std::move(punched.status());
  if (Status failed = memory.Restore(Access::kCode, scratch.code() + page, page, view)) return failed;
  for (size_t i = 0; i < page; ++i) {
    if (scratch.code()[page + i] == 0) continue;
    return Error{ErrorCode::kNoMemory, "pages given back to the system were not zero when they came again"};
  }
  return Status::Ok();
}

}  // namespace
}  // namespace trials

Status TryMemory(Memory& memory, Trial trial, bool (*executable)(const uint8_t* at)) {
  trials::Scratch scratch(memory);
  if (Status failed = scratch.Make()) return failed;
  if (trial == Trial::kThorough && executable != nullptr && !executable(scratch.code())) {
    return Error{ErrorCode::kNoExec, "the system granted executable memory, but what it mapped is not executable"};
  }
  scratch.state()[0] = 1;
  if (scratch.data_view() != nullptr) {
    scratch.data_view()[0] = 7;
    if (*const_cast<const volatile uint8_t*>(scratch.data()) != 7) {
      return Error{ErrorCode::kNoMemory, "the two views of one memory differ"};
    }
  }
  size_t second = PageBytes();
  if (Status failed = trials::WriteAndCall(memory, scratch, 0, 42, trial)) return failed;
  if (Status failed = trials::WriteAndCall(memory, scratch, 0, 7)) return failed;
  if (!memory.CanPunch()) return Status::Ok();
  if (Status failed = trials::WriteAndCall(memory, scratch, second, 21)) return failed;
  if (Status failed = trials::TryPunching(memory, scratch)) return failed;
  return trials::WriteAndCall(memory, scratch, second, 63);
}

}  // namespace jit_arena::os
