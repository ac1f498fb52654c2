#include "base/status.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace jit_arena {

namespace {

// Never destroyed: other threads may fail while the process exits.
Error& NoMemory() {
  alignas(Error) static unsigned char memory[sizeof(Error)];
  static Error* const error = new (memory)
      Error{ErrorCode::kNoMemory,
            "the process is out of memory: its C library has refused an allocation; what can limit it: `ulimit -v`, "
            "`ulimit -d`, the memory limit of a container or cgroup; a smaller arena needs less"};
  return *error;
}
// Made while there is memory.
[[maybe_unused]] const Error& made = NoMemory();

}  // namespace

Words::Words(const char* text) noexcept {
  try {
    assign(text);
  } catch (const std::bad_alloc&) {
  }
}

Status::Status(Error error) noexcept {
  // Without memory for its words an error could only mislead.
  if (!error.message.empty()) error_.reset(new (std::nothrow) Error(std::move(error)));
  if (error_ == nullptr) error_.reset(&NoMemory());
}

Status Status::OutOfMemory() noexcept {
  Status status;
  status.error_.reset(&NoMemory());
  return status;
}

bool Status::out_of_memory() const { return error_.get() == &NoMemory(); }

void Status::Delete::operator()(const Error* error) const noexcept {
  if (error != &NoMemory()) delete error;
}

Status& Status::SetExecutor(std::optional<uint64_t> id) {
  if (!out_of_memory()) error_->executor = id;
  return *this;
}

Status& Status::SetIndex(std::optional<uint64_t> index) {
  if (!out_of_memory()) error_->index = index;
  return *this;
}

const char* ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kOk:
      return "OK";
#define ROW(name, text, meaning) \
  case ErrorCode::name:          \
    return text;
      JIT_ARENA_ERRORS(ROW)
#undef ROW
  }
  return "ERR_ARENA_UNKNOWN";
}

const char* SectionName(Section section) {
  switch (section) {
    case Section::kCode:
      return "code";
    case Section::kData:
      return "data";
    case Section::kState:
      return "state";
  }
  return "?";
}

Words Format(const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  char text[512];
  int length = std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return {};
  return text;
}

void Die(const char* file, int line, const char* what) {
  std::fprintf(stderr, "jit-arena: %s:%d: internal check failed: %s\n", file, line, what);
  std::abort();
}

}  // namespace jit_arena
