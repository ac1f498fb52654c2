// Failures are values: every operation that can fail returns a Status or a Result.
//
// A Status is one pointer, null when all went well, so that success costs a test of a register. The codes are stable
// and stand in one table; messages may change.
//
// The standard library's containers throw one exception, std::bad_alloc, and native code throws no other. It passes
// through every function that has changed nothing yet; a function that has something to undo turns it into a Status
// with OrOutOfMemory and undoes it. The C API and the addon turn what reaches them into ERR_ARENA_NO_MEMORY.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace jit_arena {

// One row per error: enumerator, public code, what it means (docs/errors.md has a heading for each).
#define JIT_ARENA_ERRORS(ROW)                                                                                  \
  ROW(kFull, "ERR_ARENA_FULL", "no room for the executor in the arena")                                        \
  ROW(kNoMemory, "ERR_ARENA_NO_MEMORY", "the operating system refused memory or address space")                \
  ROW(kNoExec, "ERR_ARENA_NO_EXEC", "the operating system refused executable memory")                          \
  ROW(kWriterUnavailable, "ERR_ARENA_WRITER_UNAVAILABLE", "the requested writer does not work here")           \
  ROW(kDisposed, "ERR_ARENA_DISPOSED", "the arena has been disposed of")                                       \
  ROW(kForked, "ERR_ARENA_FORKED", "the arena belongs to another process")                                     \
  ROW(kBusy, "ERR_ARENA_BUSY", "machine code of the arena is being executed")                                  \
  ROW(kRetiredLimit, "ERR_ARENA_RETIRED_LIMIT", "too many retired bytes wait for a pin to end")                \
  ROW(kStaleExecutor, "ERR_ARENA_STALE_EXECUTOR", "the executor is gone")                                      \
  ROW(kForeignExecutor, "ERR_ARENA_FOREIGN_EXECUTOR", "the executor belongs to another arena")                 \
  ROW(kDuplicateExecutor, "ERR_ARENA_DUPLICATE_EXECUTOR", "the executor is named twice")                       \
  ROW(kNotWritable, "ERR_ARENA_NOT_WRITABLE", "the executor is frozen")                                        \
  ROW(kNotFrozen, "ERR_ARENA_NOT_FROZEN", "the executor is still writable")                                    \
  ROW(kReferenced, "ERR_ARENA_REFERENCED", "another executor refers to it directly")                           \
  ROW(kSize, "ERR_ARENA_SIZE", "a size is out of range")                                                       \
  ROW(kAlignment, "ERR_ARENA_ALIGNMENT", "an alignment is not a power of two or too large")                    \
  ROW(kBounds, "ERR_ARENA_BOUNDS", "an offset lies outside its section")                                       \
  ROW(kRelocKind, "ERR_ARENA_RELOC_KIND", "the reloc kind does not exist on this CPU")                         \
  ROW(kRelocBounds, "ERR_ARENA_RELOC_BOUNDS", "a reloc's site lies outside its section")                       \
  ROW(kRelocOverlap, "ERR_ARENA_RELOC_OVERLAP", "two relocs share a byte")                                     \
  ROW(kRelocRange, "ERR_ARENA_RELOC_RANGE", "the value does not fit the reloc's field")                        \
  ROW(kRelocTarget, "ERR_ARENA_RELOC_TARGET", "a reloc's target cannot be used")                               \
  ROW(kRelocSite, "ERR_ARENA_RELOC_SITE", "a reloc's site could not follow a move of its target")              \
  ROW(kExit, "ERR_ARENA_EXIT", "the executor has no such exit, or the exit code is no longer valid")           \
  ROW(kTraceAbi, "ERR_ARENA_TRACE_ABI",                                                                        \
      "the executor follows the trace ABI and is no C function, or the other way round")                       \
  ROW(kChainDepth, "ERR_ARENA_CHAIN_DEPTH", "the link would make a chain that is too deep without progress")   \
  ROW(kMovable, "ERR_ARENA_MOVABLE", "the executor must not be movable for this use")                          \
  ROW(kImmortal, "ERR_ARENA_IMMORTAL", "the executor lives as long as the arena")                              \
  ROW(kSignature, "ERR_ARENA_SIGNATURE", "the signature cannot be called")                                     \
  ROW(kDetached, "ERR_ARENA_DETACHED", "an ArrayBuffer is detached")                                           \
  ROW(kResizable, "ERR_ARENA_RESIZABLE", "an ArrayBuffer could change its size")                               \
  ROW(kSymbol, "ERR_ARENA_SYMBOL", "the process has no such symbol")                                           \
  ROW(kObject, "ERR_ARENA_OBJECT", "the bytes are no relocatable object that can be read")                     \
  ROW(kObjectUnsupported, "ERR_ARENA_OBJECT_UNSUPPORTED", "the object needs what an arena does not have")      \
  ROW(kStencil, "ERR_ARENA_STENCIL", "a stencil, its holes or the stencils' file cannot be used")              \
  ROW(kWrongThread, "ERR_ARENA_WRONG_THREAD", "a callback was called on another thread or stack than its own") \
  ROW(kWriterUnshareable, "ERR_ARENA_WRITER_UNSHAREABLE", "the writer serves one thread only")                 \
  ROW(kException, "ERR_ARENA_EXCEPTION", "machine code threw a C++ exception that it did not catch")

enum class ErrorCode : uint8_t {
  kOk,
#define ROW(name, code, meaning) name,
  JIT_ARENA_ERRORS(ROW)
#undef ROW
};

// The public name of a code, such as "ERR_ARENA_FULL".
const char* ErrorCodeName(ErrorCode code);

enum class Section : uint8_t { kCode, kData, kState };
inline constexpr int kSections = 3;
const char* SectionName(Section section);

// The words of an error. Making them cannot fail: without memory there are none.
class Words : public std::string {
 public:
  Words() = default;
  Words(const char* text) noexcept;
  Words(std::string text) noexcept : std::string(std::move(text)) {}
};

// What went wrong and where. Absent fields are unknown or do not apply.
struct Error {
  ErrorCode code;
  Words message;
  std::optional<uint64_t> executor{};  // id: index + 2^32 * generation
  std::optional<Section> section{};
  std::optional<int64_t> offset{};  // bytes from the start of the section
  Words kind{};                     // the reloc kind's psABI name
  std::optional<uint64_t> index{};  // position in the caller's list
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  // OutOfMemory where there is no memory for the error. Not inline: what fails is off the way of what does not.
  Status(Error error) noexcept;

  static Status Ok() { return {}; }
  // Takes no memory.
  static Status OutOfMemory() noexcept;

  bool ok() const { return error_ == nullptr; }
  explicit operator bool() const { return !ok(); }  // `if (Status failed = f()) return failed;`
  const Error& error() const { return *error_; }
  ErrorCode code() const { return error_ ? error_->code : ErrorCode::kOk; }
  // OutOfMemory, which says nothing of what was asked for.
  bool out_of_memory() const;

  // Where a caller knows more of it, or knows that it does not apply. OutOfMemory stays as it is.
  Status& SetExecutor(std::optional<uint64_t> id);
  Status& SetIndex(std::optional<uint64_t> index);

  // For the places that have decided that a failure does not matter; say why beside the call.
  void Ignore() const {}

 private:
  struct Delete {
    void operator()(const Error* error) const noexcept;
  };
  std::unique_ptr<Error, Delete> error_;
};

// A value or the reason why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status failed) : status_(std::move(failed)) {}
  Result(Error error) : status_(std::move(error)) {}

  bool ok() const { return status_.ok(); }
  T& value() { return *value_; }
  const T& value() const { return *value_; }
  Status& status() { return status_; }

 private:
  std::optional<T> value_;
  Status status_;
};

// What `act` returns, a Status or a Result, or Ok where it returns nothing; OutOfMemory where it throws.
template <class Act, class Returned = std::invoke_result_t<Act&>>
std::conditional_t<std::is_void_v<Returned>, Status, Returned> OrOutOfMemory(Act act) noexcept {
  try {
    if constexpr (std::is_void_v<Returned>) {
      act();
      return Status::Ok();
    } else {
      return act();
    }
  } catch (const std::bad_alloc&) {
    return Status::OutOfMemory();
  }
}

// The message in printf style; empty when there is no memory for it.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
Words
Format(const char* format, ...) noexcept;

// For %llu and %llx, which mean the same everywhere.
inline unsigned long long Wide(uint64_t value) { return value; }

// An error about one executor.
inline Error ExecutorError(ErrorCode code, uint64_t id, Words message) {
  Error error{code, std::move(message)};
  error.executor = id;
  return error;
}

// Our own bug, or a failure after the first changed byte, where going on would execute half-written code.
[[noreturn]] void Die(const char* file, int line, const char* what);
#define JIT_ARENA_CHECK(condition) ((condition) ? (void)0 : ::jit_arena::Die(__FILE__, __LINE__, #condition))

}  // namespace jit_arena
