// Statuses and the last error of each thread.
#include <algorithm>
#include <cstdio>

#include "arch/arch.h"
#include "capi/handle.h"

using namespace jit_arena;

namespace jit_arena::capi {
namespace {

// One number for one error, in both tables.
#define SAME(core, c) static_assert(static_cast<int>(ErrorCode::k##core) == JA_ERR_##c)
SAME(Full, FULL);
SAME(NoMemory, NO_MEMORY);
SAME(NoExec, NO_EXEC);
SAME(WriterUnavailable, WRITER_UNAVAILABLE);
SAME(Disposed, DISPOSED);
SAME(Forked, FORKED);
SAME(Busy, BUSY);
SAME(RetiredLimit, RETIRED_LIMIT);
SAME(StaleExecutor, STALE_EXECUTOR);
SAME(ForeignExecutor, FOREIGN_EXECUTOR);
SAME(DuplicateExecutor, DUPLICATE_EXECUTOR);
SAME(NotWritable, NOT_WRITABLE);
SAME(NotFrozen, NOT_FROZEN);
SAME(Referenced, REFERENCED);
SAME(Size, SIZE);
SAME(Alignment, ALIGNMENT);
SAME(Bounds, BOUNDS);
SAME(RelocKind, RELOC_KIND);
SAME(RelocBounds, RELOC_BOUNDS);
SAME(RelocOverlap, RELOC_OVERLAP);
SAME(RelocRange, RELOC_RANGE);
SAME(RelocTarget, RELOC_TARGET);
SAME(RelocSite, RELOC_SITE);
SAME(Exit, EXIT);
SAME(TraceAbi, TRACE_ABI);
SAME(ChainDepth, CHAIN_DEPTH);
SAME(Movable, MOVABLE);
SAME(Immortal, IMMORTAL);
SAME(Signature, SIGNATURE);
SAME(Detached, DETACHED);
SAME(Resizable, RESIZABLE);
SAME(Symbol, SYMBOL);
SAME(Object, OBJECT);
SAME(ObjectUnsupported, OBJECT_UNSUPPORTED);
SAME(Stencil, STENCIL);
SAME(WrongThread, WRONG_THREAD);
SAME(WriterUnshareable, WRITER_UNSHAREABLE);
SAME(Exception, EXCEPTION);
#undef SAME

struct Meaning {
  const char* name;
  const char* text;
};

// By ErrorCode.
constexpr Meaning kMeanings[] = {{"OK", "no error"},
#define ROW(name, code, meaning) {code, meaning},
                                 JIT_ARENA_ERRORS(ROW)
#undef ROW
};
static_assert(std::size(kMeanings) == JA_ERR_EXCEPTION + 1, "an error is missing in jit_arena.h");

// Of this API alone: -1, -2, ….
constexpr Meaning kOwnMeanings[] = {
    {"ERR_ARENA_ARGUMENT", "a null pointer, a size, a count or an enumerator that cannot be meant"},
    {"ERR_ARENA_NOT_PINNED", "the thread is not between ja_enter and ja_leave"},
    {"ERR_ARENA_ENDED", "what the handle named has ended: the thread has detached, or it ends"},
};

const Meaning* FindMeaning(int status) {
  if (status >= 0 && status < static_cast<int>(std::size(kMeanings))) return &kMeanings[status];
  if (status < 0 && status >= -static_cast<int>(std::size(kOwnMeanings))) return &kOwnMeanings[-(status + 1)];
  return nullptr;
}

// Plain bytes without a destructor: a thread's other destructors may still fail and ask why.
struct LastError {
  ja_error error;
  char message[512];
  char kind[40];
};
thread_local LastError last = {{JA_OK, "", 0, -1, -1, nullptr, -1}, {}, {}};

template <size_t kBytes>
const char* Keep(std::string_view text, char (&into)[kBytes]) {
  size_t count = std::min(text.size(), kBytes - 1);
  std::memcpy(into, text.data(), count);
  into[count] = 0;
  return into;
}

}  // namespace

ja_status Fail(ja_status status, std::string_view message, ja_executor executor, int64_t index) {
  // Without memory for its own words an error has the general ones.
  if (message.empty()) message = FindMeaning(status)->text;
  last.error = {status, Keep(message, last.message), executor, -1, -1, nullptr, index};
  return status;
}

ja_status Fail(const Error& error) {
  Fail(static_cast<ja_status>(error.code), error.message, error.executor.value_or(0));
  if (error.section) last.error.section = static_cast<ja_section>(*error.section);
  if (error.offset) last.error.offset = *error.offset;
  if (error.index) last.error.index = static_cast<int64_t>(*error.index);
  if (!error.kind.empty()) last.error.kind = Keep(error.kind, last.kind);
  return last.error.status;
}

ja_status FailArgument(std::string_view what) { return Fail(JA_ERR_ARGUMENT, what); }

ja_status FailMemory(const char* what) { return Fail(JA_ERR_NO_MEMORY, Format("no memory for %s", what)); }

ja_status FailDisposed() { return Fail(JA_ERR_DISPOSED, "the arena has been disposed of"); }

ja_status FailNotifying() {
  return Fail(JA_ERR_BUSY, "a listener of the arena is running on this thread, and may not call the arena");
}

ja_status FailAt(ja_status status, int64_t index) {
  last.error.index = index;
  return status;
}

}  // namespace jit_arena::capi

using namespace jit_arena::capi;

const ja_error* ja_last_error(void) { return &last.error; }

const char* ja_status_name(int status) {
  const Meaning* meaning = FindMeaning(status);
  return meaning != nullptr ? meaning->name : nullptr;
}

const char* ja_status_text(int status) {
  const Meaning* meaning = FindMeaning(status);
  return meaning != nullptr ? meaning->text : nullptr;
}

uint32_t ja_version(void) { return JA_VERSION_MAJOR * 1000000 + JA_VERSION_MINOR * 1000 + JA_VERSION_PATCH; }

const char* ja_reloc_name(uint32_t kind) {
  const arch::KindInfo* info = kind <= UINT16_MAX ? arch::FindKind(static_cast<arch::RelocKind>(kind)) : nullptr;
  return info != nullptr ? info->name : nullptr;
}

uint32_t ja_reloc_kind(const char* name) {
  const arch::KindInfo* info = name != nullptr ? arch::FindKind(std::string_view(name)) : nullptr;
  return info != nullptr ? info->kind : 0;
}
