#include "base/status.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace jit_arena {

Status::Status(Error error) : error_(std::make_unique<Error>(std::move(error))) {}

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

std::string Format(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char text[512];
  int length = std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return {};
  if (static_cast<size_t>(length) >= sizeof text) length = sizeof text - 1;
  return std::string(text, static_cast<size_t>(length));
}

void Die(const char* file, int line, const char* what) {
  std::fprintf(stderr, "jit-arena: %s:%d: internal check failed: %s\n", file, line, what);
  std::abort();
}

}  // namespace jit_arena
