/* jit-arena for native hosts: an arena of machine code that is packed, linked, freed and moved while other threads
 * execute it. Plain C11; valid C++ as well. docs/c-api.md is the guide, docs/glossary.md has the words.
 *
 *   ja_arena *arena;
 *   ja_options options = {.struct_size = sizeof options};              zero in a field means its default
 *   ja_create(&options, &arena);
 *   ja_spec spec = {.struct_size = sizeof spec, .code = {bytes, size, 0}};
 *   ja_executor id;
 *   ja_install(arena, &spec, 1, &id);
 *
 *   ja_thread *thread;                                                  once per thread
 *   ja_attach(arena, &thread);
 *   uint64_t address;
 *   ja_enter(thread);                                                   around each call into machine code
 *   if (ja_entry(thread, id, &address) == JA_OK) result = ((int (*)(int, int))address)(2, 3);
 *   ja_leave(thread);
 *
 * Threads. Any function may be called by any thread at any time, unless its comment says otherwise. Most take the
 * arena's one lock for their duration. ja_enter, ja_leave, ja_entry and ja_run take no lock; they wait only while the
 * arena's gate is closed, which is rare and bounded (docs/moving.md). No lock is held while machine code runs, so C
 * functions that machine code calls may use the arena, also to free or move the code that called them.
 *
 * Errors. A function that can fail returns a ja_status; on failure nothing has changed and nothing has been written to
 * results, unless its comment says otherwise, and ja_last_error has the details. What a comment lists are the errors
 * that the function adds to these, which every function with an arena or a thread may return:
 *
 *   JA_ERR_ARGUMENT   a null pointer where none may be, a struct_size or an enumerator that does not exist, a count
 *                     that no memory could hold; nothing is done
 *   JA_ERR_DISPOSED   the arena has been disposed of
 *   JA_ERR_ENDED      the ja_thread has been detached, or its thread ends; the pin has ended; the ja_object has been
 *                     unloaded
 *   JA_ERR_FORKED     the arena was made by a parent process and was not inherited
 *   JA_ERR_BUSY       the call was made from inside a listener of the arena
 *   JA_ERR_NO_MEMORY  the process has no memory for what the call needs; never from ja_free, ja_invalidate, ja_unpin,
 *                     ja_detach and ja_dispose. ja_collect is JA_OK, with done = 0, when it has moved or evicted
 *                     something before memory ran out
 *
 * Handles. A ja_arena*, a ja_thread*, a ja_pinned* and a ja_object* are names and no addresses: nothing can be read
 * through them. A name is never given twice; so a function that gets one too late, after ja_dispose, ja_detach or in a
 * destructor at a thread's end, says so and touches nothing.
 *
 * An executor is named by its id, in its own arena: another arena may have given the same id to another executor. An id
 * that the arena never gave, or that is gone, is JA_ERR_STALE_EXECUTOR, never a corruption. What an address points at
 * may move at any ja_collect of any thread: no address of code, data or state outlives the pin (ja_enter to ja_leave)
 * under which it was taken, unless the executor is not movable.
 *
 * Structures whose first field is struct_size may grow: the caller stores the size that it was compiled with, by
 * `.struct_size = sizeof s` or the _init functions. New fields are at the end and mean the old behaviour when zero. A
 * structure larger than the library's is accepted when all that the library does not know is zero; of results the
 * library fills what both know, and clears the rest.
 *
 * Sizes, counts and offsets are bytes unless a name says otherwise. */
#ifndef JIT_ARENA_H
#define JIT_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define JA_API __attribute__((visibility("default")))
#else
#define JA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define JA_VERSION_MAJOR 0
#define JA_VERSION_MINOR 1
#define JA_VERSION_PATCH 0

/* ---- Words ---------------------------------------------------------------------------------------------------- */

/* One reserved range of addresses and everything in it. */
typedef struct ja_arena ja_arena;

/* A thread's place in an arena: its pin. Belongs to the thread that attached it. */
typedef struct ja_thread ja_thread;

/* A pin that belongs to no thread. */
typedef struct ja_pinned ja_pinned;

/* A relocatable object, read and resolved, for any number of installs. */
typedef struct ja_object ja_object;

/* One trace or function: code, data, state, relocs and exits. An index and a generation, below 2^53; 0 names none. */
typedef uint64_t ja_executor;

/* The numbers are stable. ja_status_name gives the names that the documentation uses (ERR_ARENA_FULL, …). */
typedef enum ja_status {
  JA_OK = 0,
  JA_ERR_FULL = 1,                /* no room for the executor in the arena */
  JA_ERR_NO_MEMORY = 2,           /* the operating system refused memory or address space */
  JA_ERR_NO_EXEC = 3,             /* the operating system refused executable memory */
  JA_ERR_WRITER_UNAVAILABLE = 4,  /* the requested writer does not work here */
  JA_ERR_DISPOSED = 5,            /* the arena has been disposed of */
  JA_ERR_FORKED = 6,              /* the arena belongs to the parent process */
  JA_ERR_BUSY = 7,                /* machine code of the arena is being executed, or the arena is locked */
  JA_ERR_RETIRED_LIMIT = 8,       /* too many retired bytes wait for a pin to end */
  JA_ERR_STALE_EXECUTOR = 9,      /* the executor is gone */
  JA_ERR_FOREIGN_EXECUTOR = 10,   /* the executor belongs to another arena; not returned: ids do not say */
  JA_ERR_DUPLICATE_EXECUTOR = 11, /* the executor is named twice */
  JA_ERR_NOT_WRITABLE = 12,       /* the executor is frozen */
  JA_ERR_NOT_FROZEN = 13,         /* the executor is still writable */
  JA_ERR_REFERENCED = 14,         /* another executor refers to it directly */
  JA_ERR_SIZE = 15,               /* a size is out of range */
  JA_ERR_ALIGNMENT = 16,          /* an alignment is not a power of two or too large */
  JA_ERR_BOUNDS = 17,             /* an offset lies outside its section */
  JA_ERR_RELOC_KIND = 18,         /* the reloc kind does not exist on this CPU */
  JA_ERR_RELOC_BOUNDS = 19,       /* a reloc's site lies outside its section */
  JA_ERR_RELOC_OVERLAP = 20,      /* two relocs share a byte */
  JA_ERR_RELOC_RANGE = 21,        /* the value does not fit the reloc's field */
  JA_ERR_RELOC_TARGET = 22,       /* a reloc's target cannot be used */
  JA_ERR_RELOC_SITE = 23,         /* a reloc's site could not follow a move of its target */
  JA_ERR_EXIT = 24,               /* the executor has no such exit */
  JA_ERR_TRACE_ABI = 25,          /* the executor is no trace where one is needed, or the other way round */
  JA_ERR_CHAIN_DEPTH = 26,        /* the link would make a chain that is too deep without progress */
  JA_ERR_MOVABLE = 27,            /* the executor must not be movable for this use */
  JA_ERR_IMMORTAL = 28,           /* the executor lives as long as the arena */
  JA_ERR_SIGNATURE = 29,          /* 29 to 31: not returned by functions in this header */
  JA_ERR_DETACHED = 30,
  JA_ERR_RESIZABLE = 31,
  JA_ERR_SYMBOL = 32,             /* nobody has a symbol of this name */
  JA_ERR_OBJECT = 33,             /* the bytes are no relocatable object that can be read */
  JA_ERR_OBJECT_UNSUPPORTED = 34, /* the object needs what an arena does not have */
  JA_ERR_STENCIL = 35,            /* not returned by functions in this header */
  JA_ERR_WRONG_THREAD = 36,       /* a ja_thread was used by another thread than its own */
  JA_ERR_WRITER_UNSHAREABLE = 37, /* not returned by functions in this header */
  JA_ERR_EXCEPTION = 38,          /* a constructor, destructor or resolver of an object threw a C++ exception */
  /* Of this API alone. */
  JA_ERR_ARGUMENT = -1,   /* a null pointer, a size, a count or an enumerator that cannot be meant */
  JA_ERR_NOT_PINNED = -2, /* the thread is not between ja_enter and ja_leave */
  JA_ERR_ENDED = -3,      /* what the handle named has ended: the thread has detached, or the object was unloaded */
} ja_status;

/* Enumerators travel as plain integers, so that a value that does not exist is an error and nothing worse. */

typedef int32_t ja_section;
enum {
  JA_CODE = 0,  /* machine code */
  JA_DATA = 1,  /* constants: read-only once frozen */
  JA_STATE = 2, /* bytes that the code may write; never executable */
};

typedef int32_t ja_choice;
enum {
  JA_DEFAULT = 0,
  JA_YES = 1,
  JA_NO = -1,
};

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

/* What went wrong and where. */
typedef struct ja_error {
  ja_status status;
  const char* message;  /* a sentence for people; may change between versions */
  ja_executor executor; /* 0: none */
  ja_section section;   /* -1: none */
  int64_t offset;       /* in the section; -1: none */
  const char* kind;     /* of a reloc: its psABI name; null: none */
  int64_t index;        /* position in the caller's list; -1: none */
} ja_error;

/* The last failure of a function of this header on the calling thread, whatever succeeded since; status JA_OK when
 * nothing has failed. Never null. It and its strings are good until the next failure on this thread, and the thread's
 * end. Any thread; no lock. */
JA_API const ja_error* ja_last_error(void);

/* "OK", "ERR_ARENA_FULL", …; null when there is no such status. Any thread; no lock. */
JA_API const char* ja_status_name(int status);

/* What it means, in a few words; null when there is no such status. Any thread; no lock. */
JA_API const char* ja_status_text(int status);

/* JA_VERSION_MAJOR × 1 000 000 + JA_VERSION_MINOR × 1 000 + JA_VERSION_PATCH of the library, which may be newer than
 * this header. Any thread; no lock. */
JA_API uint32_t ja_version(void);

/* ---- Arenas ---------------------------------------------------------------------------------------------------- */

/* How bytes reach memory that is executable (docs/writers.md). */
typedef int32_t ja_writer;
enum {
  JA_WRITER_AUTO = 0, /* the first of these that works here */
  JA_WRITER_ALIAS = 1,
  JA_WRITER_PROCMEM = 2,
  JA_WRITER_FLIP = 3,
};

typedef int32_t ja_layout;
enum {
  JA_LAYOUT_TOGETHER = 0, /* data behind its code, in executable pages */
  JA_LAYOUT_APART = 1,    /* data in read-only, non-executable slabs of its own */
};

/* What a child process finds of the arena. */
typedef int32_t ja_fork;
enum {
  JA_FORK_DROP = 0, /* nothing: every call there is JA_ERR_FORKED */
  JA_FORK_COPY = 1, /* a copy of its own: same ids, addresses, links and state; docs/fork.md says what it costs */
};

typedef struct ja_options {
  size_t struct_size;
  uint64_t max_bytes;         /* of executors; 0: 64 MiB. At most one direct branch's reach (2 GiB on x86-64) */
  uint64_t max_retired_bytes; /* waiting for pins before freeze refuses and collect stops; 0: a quarter of max_bytes */
  ja_writer writer;
  ja_layout layout;
  ja_fork fork;
  uint32_t exit_threshold;  /* crossings of a cold exit until it is hot, 1 to 4096; 0: 1024 */
  double exit_growth;       /* factor for each time it has been hot, 1 or more; 0: 2 */
  uint32_t max_chain_depth; /* links that would pass it are refused; 0: no limit */
  ja_choice full_records;   /* JA_YES: keep every reloc, so that ja_verify names a wrong field; default no */
  const char* name;         /* of the arena, for tools; copied; null: none */
  ja_choice huge_pages;     /* JA_YES: slabs of a huge page's size (2 MiB); ja_collect without max_pause_nanos puts huge
                               pages behind full ones, some 5 ms each, where the system can. Default no */
} ja_options;

static inline ja_options ja_options_init(void) {
  ja_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

/* Makes an arena: reserves addresses, commits what its own code needs. `options` may be null: all defaults.
 * JA_ERR_SIZE (max_bytes, exit_threshold, exit_growth), JA_ERR_NO_MEMORY, JA_ERR_NO_EXEC, JA_ERR_WRITER_UNAVAILABLE. */
JA_API ja_status ja_create(const ja_options* options, ja_arena** arena);

/* Ends the arena and everything in it. JA_ERR_BUSY while any thread is pinned, the calling one included; nothing has
 * changed then. Afterwards every call with it is JA_ERR_DISPOSED, on every thread. The memory goes back when the calls
 * that are under way have returned and the last attached thread has detached or ended. In a forked child it frees the
 * child's bookkeeping and never touches the parent.
 * Invalidates: every id, every address, the handle. Null is JA_ERR_ARGUMENT. */
JA_API ja_status ja_dispose(ja_arena* arena);

/* Whether a writer works on this machine, found by trying it: JA_OK, or JA_ERR_WRITER_UNAVAILABLE with the reason as
 * the message. JA_WRITER_AUTO asks whether any does. Any thread; no lock; some 0.1 ms the first time. */
JA_API ja_status ja_probe(ja_writer writer);

/* ---- Executors ------------------------------------------------------------------------------------------------- */

/* Reloc kinds by their psABI numbers (docs/relocs.md). A rel32 counts from the end of its field: addend -4, less what
 * follows the field in its instruction. */
enum {
  JA_R_X86_64_64 = 1,         /* S + A, 8 bytes */
  JA_R_X86_64_PC32 = 2,       /* S + A - P, 4 bytes: code or data near by */
  JA_R_X86_64_PLT32 = 4,      /* S + A - P, 4 bytes: call and jmp; reaches everywhere, through a veneer if it must */
  JA_R_X86_64_GOTPCREL = 9,   /* G + A - P, 4 bytes: loads an address from a slot of the arena's */
  JA_R_X86_64_32 = 10,        /* S + A, 4 bytes, zero-extended */
  JA_R_X86_64_32S = 11,       /* S + A, 4 bytes, sign-extended */
  JA_R_X86_64_PC64 = 24,      /* S + A - P, 8 bytes */
  JA_R_X86_64_GOTPCRELX = 41, /* as GOTPCREL; never relaxed */
  JA_R_X86_64_REX_GOTPCRELX = 42, /* as GOTPCREL; never relaxed */
  /* arm64: docs/relocs.md has their fields. */
  JA_R_AARCH64_ABS64 = 257,
  JA_R_AARCH64_PREL64 = 260,
  JA_R_AARCH64_PREL32 = 261,
  JA_R_AARCH64_MOVW_UABS_G0 = 263,
  JA_R_AARCH64_MOVW_UABS_G0_NC = 264,
  JA_R_AARCH64_MOVW_UABS_G1 = 265,
  JA_R_AARCH64_MOVW_UABS_G1_NC = 266,
  JA_R_AARCH64_MOVW_UABS_G2 = 267,
  JA_R_AARCH64_MOVW_UABS_G2_NC = 268,
  JA_R_AARCH64_MOVW_UABS_G3 = 269,
  JA_R_AARCH64_LD_PREL_LO19 = 273,
  JA_R_AARCH64_ADR_PREL_LO21 = 274,
  JA_R_AARCH64_ADR_PREL_PG_HI21 = 275,
  JA_R_AARCH64_ADR_PREL_PG_HI21_NC = 276,
  JA_R_AARCH64_ADD_ABS_LO12_NC = 277,
  JA_R_AARCH64_LDST8_ABS_LO12_NC = 278,
  JA_R_AARCH64_TSTBR14 = 279,
  JA_R_AARCH64_CONDBR19 = 280,
  JA_R_AARCH64_JUMP26 = 282,
  JA_R_AARCH64_CALL26 = 283,
  JA_R_AARCH64_LDST16_ABS_LO12_NC = 284,
  JA_R_AARCH64_LDST32_ABS_LO12_NC = 285,
  JA_R_AARCH64_LDST64_ABS_LO12_NC = 286,
  JA_R_AARCH64_LDST128_ABS_LO12_NC = 299,
  JA_R_AARCH64_ADR_GOT_PAGE = 311,
  JA_R_AARCH64_LD64_GOT_LO12_NC = 312,
};

/* What a reloc refers to: its S. */
typedef int32_t ja_target;
enum {
  JA_TARGET_OWN_CODE = 0,     /* `target` bytes into the executor's own code */
  JA_TARGET_OWN_DATA = 1,     /* … its data */
  JA_TARGET_OWN_STATE = 2,    /* … its state */
  JA_TARGET_ADDRESS = 3,      /* the absolute address `target`, of a C function for example */
  JA_TARGET_EXECUTOR = 4,     /* `target` is an id; the address is `target_offset` bytes into its `target_section` */
  JA_TARGET_BATCH_MEMBER = 5, /* the same; `target` is a position in the list that this ja_install installs */
  JA_TARGET_EXIT = 6,         /* the exit record of exit `target` */
  JA_TARGET_DONE = 7,         /* the stub that ends a run */
  JA_TARGET_VALID = 8,        /* the byte that is 1 until the executor is freed or invalidated */
  JA_TARGET_WARM = 9,         /* the byte that a trace sets to 1 at its start, for evict_cold */
};

/* A field that depends on addresses. Kept by the arena as far as a move can change it. This structure does not grow. */
typedef struct ja_reloc {
  ja_section section; /* where the field is */
  uint32_t offset;    /* of the field in its section */
  uint32_t kind;      /* JA_R_… */
  ja_target target_kind;
  uint64_t target;
  int64_t addend;
  ja_section target_section; /* JA_TARGET_EXECUTOR, _BATCH_MEMBER */
  uint32_t target_offset;    /* the same */
} ja_reloc;

/* The bytes of one section. */
typedef struct ja_content {
  const void* bytes; /* copied by the call; null: `size` zero bytes */
  size_t size;
  uint32_t align; /* a power of two up to a page; 0: 16 for code and state, 8 for data */
} ja_content;

/* What an executor is to be. In a list, all have the struct_size of the first. */
typedef struct ja_spec {
  size_t struct_size;
  ja_content code; /* one byte at least */
  ja_content data;
  ja_content state;
  const ja_reloc* relocs;    /* no two share a byte */
  size_t reloc_count;        /* at most 2^20 */
  const uint32_t* exit_tags; /* one number of the host's per exit, or null: the exit's number */
  const uint32_t* entries;   /* offsets in code; null: one entry, at offset 0 */
  size_t entry_count;
  uint32_t exits;           /* at most 65535; exits make it a trace (docs/traces.md), and so does a DONE reloc */
  ja_choice movable;        /* JA_NO: its addresses may escape and stay; default yes */
  ja_choice evictable;      /* by evict_cold; default: what has exits or a WARM or DONE reloc */
  ja_choice makes_progress; /* a chain of links through it gets somewhere (ja_chain_depth); default no */
  const char* name;         /* for tools; copied; null: none */
} ja_spec;

static inline ja_spec ja_spec_init(void) {
  ja_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.struct_size = sizeof spec;
  return spec;
}

/* Makes `count` executors, writes their final bytes once and makes them executable, all or none; `ids` receives as many
 * ids. They may refer to each other (JA_TARGET_BATCH_MEMBER). It never collects and never evicts.
 * JA_ERR_FULL, JA_ERR_RETIRED_LIMIT, JA_ERR_SIZE, JA_ERR_ALIGNMENT, JA_ERR_BOUNDS (entries), JA_ERR_RELOC_KIND,
 * _BOUNDS, _OVERLAP, _RANGE, _TARGET (stale and writable ones included), _SITE; JA_ERR_BUSY (flip: another thread
 * stays in machine code for 100 ms). The error's index says which of the list, when there are several; else which
 * reloc. */
JA_API ja_status ja_install(ja_arena* arena, const ja_spec* specs, size_t count, ja_executor* ids);

/* The same in two steps: the executor is writable, its bytes are staged in ordinary memory, and it has no address until
 * ja_freeze. JA_ERR_SIZE, JA_ERR_ALIGNMENT, JA_ERR_BOUNDS, JA_ERR_RELOC_KIND, _BOUNDS, _OVERLAP, _TARGET. */
JA_API ja_status ja_allocate(ja_arena* arena, const ja_spec* spec, ja_executor* id);

/* Overwrites `count` bytes of a section of a writable executor; state also of a frozen one, which machine code may be
 * reading at the same time. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_WRITABLE, JA_ERR_BOUNDS. */
JA_API ja_status ja_write(ja_arena* arena, ja_executor id, ja_section section, uint32_t offset, const void* bytes,
                          size_t count);

/* Adds relocs to a writable executor, all or none. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_WRITABLE, JA_ERR_RELOC_KIND,
 * _BOUNDS, _OVERLAP, _TARGET. */
JA_API ja_status ja_add_relocs(ja_arena* arena, ja_executor id, const ja_reloc* relocs, size_t count);

/* Makes writable executors executable and immutable, all or none; they may refer to each other. It never collects.
 * JA_ERR_STALE_EXECUTOR, JA_ERR_DUPLICATE_EXECUTOR, JA_ERR_NOT_WRITABLE (frozen already), and as ja_install. */
JA_API ja_status ja_freeze(ja_arena* arena, const ja_executor* ids, size_t count);

/* Ends executors, all or none. No run, link or jump enters them again; who is inside goes on to the next exit or
 * return. Exits linked to them go back to the exit stub. Their memory is used again when nobody can be inside any more.
 * A target of somebody's reloc ends only together with its sources: JA_ERR_REFERENCED. JA_ERR_STALE_EXECUTOR,
 * JA_ERR_DUPLICATE_EXECUTOR, JA_ERR_IMMORTAL.
 * Invalidates: the ids, and every address in them when the calling thread's pin ends, or at once without one. */
JA_API ja_status ja_free(ja_arena* arena, const ja_executor* ids, size_t count);

/* ja_free of one executor, for when an assumption of its code has failed. */
JA_API ja_status ja_invalidate(ja_arena* arena, ja_executor id);

/* Copies `count` bytes of a section out: staged bytes of a writable executor, memory of a frozen one, with relocs
 * applied for where it lies now. JA_ERR_STALE_EXECUTOR, JA_ERR_BOUNDS. */
JA_API ja_status ja_read(ja_arena* arena, ja_executor id, ja_section section, uint32_t offset, void* bytes,
                         size_t count);

typedef struct ja_info {
  size_t struct_size;
  uint64_t address; /* of its code; 0 while writable. Until any thread collects, or the calling thread's pin ends */
  uint32_t code_size;
  uint32_t data_size;
  uint32_t state_size;
  uint32_t exits;
  uint32_t first_entry; /* offset in code of entry 0 */
  uint8_t frozen;       /* 0: writable */
  uint8_t movable;
  uint8_t evictable;
  uint8_t makes_progress;
  uint8_t trace; /* follows the trace ABI: ja_run, and not a C call */
  char name[64]; /* empty: none; cut to what fits */
} ja_info;

static inline ja_info ja_info_init(void) {
  ja_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  return info;
}

/* What the arena knows of an executor. JA_ERR_STALE_EXECUTOR. */
JA_API ja_status ja_describe(ja_arena* arena, ja_executor id, ja_info* info);

/* Offset in code of an entry of a frozen executor; never changes while the id is good. JA_ERR_STALE_EXECUTOR,
 * JA_ERR_NOT_FROZEN, JA_ERR_BOUNDS (no such entry). */
JA_API ja_status ja_entry_offset(ja_arena* arena, ja_executor id, uint32_t entry, uint32_t* offset);

/* Ids of all writable and frozen executors: `*count` receives how many there are, `ids` the first `capacity` of them
 * (null with capacity 0 asks for the number). Others may come and go before the call returns. */
JA_API ja_status ja_executors(ja_arena* arena, ja_executor* ids, size_t capacity, size_t* count);

typedef struct ja_found {
  size_t struct_size;
  ja_executor executor; /* 0: the address lies in no executor. With `retired` the id may be stale */
  ja_section section;
  uint32_t offset; /* in the section */
  uint8_t retired; /* in an old copy, or in what has been freed: still there for those who are inside */
} ja_found;

static inline ja_found ja_found_init(void) {
  ja_found found;
  memset(&found, 0, sizeof found);
  found.struct_size = sizeof found;
  return found;
}

/* Whose byte lies at an address, such as a program counter from a profiler or an unwinder. Not from a signal handler:
 * it takes the lock. Nothing found is no error. */
JA_API ja_status ja_find(ja_arena* arena, uint64_t address, ja_found* found);

/* ja_find for signal handlers, whatever they have interrupted, and for threads that must not wait: no lock, no
 * allocation, some 0.1 us; at most some 10 us, 100 us where slabs are huge. JA_ERR_BUSY: what has been interrupted, or
 * other threads without end, are just putting spans into the arena or taking them out; the next sample will do. It
 * leaves ja_last_error alone, names no ja_thread, and may be called inside a listener. */
JA_API ja_status ja_find_signal_safe(ja_arena* arena, uint64_t address, ja_found* found);

/* "R_X86_64_PC32" for JA_R_X86_64_PC32; null when this CPU has no such kind. And the reverse: 0 when there is none.
 * Any thread; no lock. */
JA_API const char* ja_reloc_name(uint32_t kind);
JA_API uint32_t ja_reloc_kind(const char* name);

/* ---- Objects (docs/objects.md) ----------------------------------------------------------------------------------- */

/* What a symbol refers to. This structure does not grow. */
typedef struct ja_place {
  ja_executor executor; /* of the arena that the object will be installed in; 0: the address is meant */
  ja_section section;   /* of the executor */
  uint32_t offset;      /* in the section */
  uint64_t address;     /* without an executor: absolute, of a C function for example */
} ja_place;

/* Asked for each symbol that the object's code or data refer to and somebody else may have to provide. Not 0: `*place`
 * is the answer. 0: it has none; then an undefined symbol is looked for in the process (`weak`: it is 0 when nobody has
 * it), and of a weak definition (`defined`), such as C++ inline functions, the object's own serves. It may call any
 * function, and may not unwind. */
typedef int (*ja_resolve_callback)(void* user, const char* name, uint8_t weak, uint8_t defined, ja_place* place);

typedef struct ja_object_options {
  size_t struct_size;
  ja_resolve_callback resolve; /* called by ja_load_object alone; null: only the process is asked */
  void* user;
  const char* name; /* of the executors, for tools; copied; null: each has the name of its first function */
} ja_object_options;

static inline ja_object_options ja_object_options_init(void) {
  ja_object_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

/* Reads a relocatable object (ELF64, made by gcc or clang with -c) and resolves what it needs. Nothing outside the
 * bytes is read, and they are not needed afterwards. `options` may be null. Any thread; no arena and no lock.
 * JA_ERR_OBJECT for bytes that are none; JA_ERR_OBJECT_UNSUPPORTED for what would not work (thread-local variables,
 * sections of unknown types, LTO without machine code); JA_ERR_RELOC_KIND;
 * JA_ERR_SYMBOL for a symbol that nobody has. */
JA_API ja_status ja_load_object(const void* bytes, size_t size, const ja_object_options* options, ja_object** object);

/* Lets the object go. What was installed stays. Calls that are under way go on to their end.
 * Invalidates: the handle, names of its symbols, texts of its reasons. JA_ERR_ENDED. No arena and no lock. */
JA_API ja_status ja_unload_object(ja_object* object);

typedef struct ja_object_info {
  size_t struct_size;
  size_t executors; /* one; with -ffunction-sections one per section of code, unless it has handlers or throws */
  size_t symbols;
  size_t reasons; /* why some executors do not move; 0: all of them do */
} ja_object_info;

static inline ja_object_info ja_object_info_init(void) {
  ja_object_info info;
  memset(&info, 0, sizeof info);
  info.struct_size = sizeof info;
  return info;
}

/* How many there are of each. JA_ERR_ENDED. No arena and no lock. */
JA_API ja_status ja_describe_object(ja_object* object, ja_object_info* info);

/* A global symbol: one that the object defines, or one that it needs. */
#define JA_NO_ENTRY UINT32_MAX
typedef struct ja_symbol {
  size_t struct_size;
  const char* name; /* until the object is unloaded */
  uint64_t size;    /* as the object says it; 0 where it says nothing */
  /* What follows is of those that it defines. */
  uint32_t executor; /* position in the ids of ja_install_object */
  ja_section section;
  uint32_t offset; /* in the section, as ja_place and JA_TARGET_EXECUTOR have it */
  uint32_t entry;  /* of a function: number of its entry, for ja_entry_offset; JA_NO_ENTRY: none */
  uint8_t defined; /* 0: the object needs it */
  uint8_t weak;
} ja_symbol;

static inline ja_symbol ja_symbol_init(void) {
  ja_symbol symbol;
  memset(&symbol, 0, sizeof symbol);
  symbol.struct_size = sizeof symbol;
  return symbol;
}

/* The symbol with this index: what the object defines comes first, then what it needs. JA_ERR_ENDED. No arena and no
 * lock. */
JA_API ja_status ja_object_symbol(ja_object* object, size_t index, ja_symbol* symbol);

/* The symbol of this name among those that the object defines. JA_ERR_SYMBOL, JA_ERR_ENDED. No arena and no lock. */
JA_API ja_status ja_find_symbol(ja_object* object, const char* name, ja_symbol* symbol);

/* What takes an address that it could keep, in words that are there until the object is unloaded; and, unless null, the
 * position of the executor that does not move for it. JA_ERR_ENDED. No arena and no lock. */
JA_API ja_status ja_object_reason(ja_object* object, size_t index, uint32_t* executor, const char** reason);

typedef struct ja_install_options {
  size_t struct_size;
  /* For all executors, whatever the object looks like. JA_YES promises that no address of its code, data or state
   * outlives the call in which it was taken; default: those move whose addresses are not taken. */
  ja_choice movable;
  /* JA_YES: ja_install_object calls the object's constructors, and ja_free_object its destructors. An object that has
   * some is refused otherwise (JA_ERR_OBJECT_UNSUPPORTED). */
  ja_choice constructors;
} ja_install_options;

static inline ja_install_options ja_install_options_init(void) {
  ja_install_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

/* Puts the object into an arena, all of its executors or none; `ids` receives as many ids, and `count` says so
 * (ja_describe_object). Each install has variables of its own. They refer to each other: ja_free takes them together.
 * `options` may be null. Resolvers of IFUNC symbols, and then constructors, run on the calling thread, when all of it
 * is installed, under a pin: they may call what other machine code may. JA_ERR_EXCEPTION when one of them throws: what
 * is registered to be called at the end is called, and nothing is installed. JA_ERR_OBJECT_UNSUPPORTED (constructors);
 * JA_ERR_SYMBOL (a resolver gave no function); JA_ERR_MOVABLE when it takes the address of an executor of another
 * object that can move, without the promise of `movable`, and with that promise when it registers destructors or has an
 * IFUNC; JA_ERR_ENDED; and as ja_install. JA_ERR_RELOC_RANGE: an absolute 32-bit field; compile with -fPIC. */
JA_API ja_status ja_install_object(ja_arena* arena, ja_object* object, const ja_install_options* options,
                                   ja_executor* ids, size_t count);

/* Ends an installed object: the ids of one ja_install_object, with the same object, which is still loaded. Before it
 * frees them it calls, on the calling thread, what the object's code has registered to be called at its end
 * (destructors of C++ static variables), the last first, and then its destructors. When freeing fails, they have been
 * called nevertheless, and are not called again. Only objects with constructors, or with static variables that have
 * destructors, need it: for others it is ja_free. JA_ERR_EXCEPTION when one of them throws: all others are called, and
 * the object is freed. JA_ERR_ENDED, and as ja_free. */
JA_API ja_status ja_free_object(ja_arena* arena, ja_object* object, const ja_executor* ids, size_t count);

/* ---- Exits and links (docs/traces.md) --------------------------------------------------------------------------- */

/* The exit jumps straight to an entry of the target from now on, on all threads; an earlier link ends. One aligned
 * store; no code is written. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN, JA_ERR_EXIT, JA_ERR_TRACE_ABI, JA_ERR_BOUNDS (no
 * such entry), JA_ERR_CHAIN_DEPTH. */
JA_API ja_status ja_link(ja_arena* arena, ja_executor source, uint32_t exit, ja_executor target, uint32_t entry);

/* Back to the exit stub; does nothing when it is there. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN, JA_ERR_EXIT. */
JA_API ja_status ja_unlink(ja_arena* arena, ja_executor source, uint32_t exit);

/* Every exit of the arena; loops of links that never leave do so at their next exit. */
JA_API ja_status ja_unlink_all(ja_arena* arena);

/* Where the exit leads: `*target` (0: not linked) and, unless null, the number of its entry. JA_ERR_STALE_EXECUTOR,
 * JA_ERR_NOT_FROZEN, JA_ERR_EXIT. */
JA_API ja_status ja_link_of(ja_arena* arena, ja_executor source, uint32_t exit, ja_executor* target, uint32_t* entry);

/* Links from the last executor that makes progress, or that nothing links to; JA_ENDLESS in a cycle without progress.
 * JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN. */
#define JA_ENDLESS UINT32_MAX
JA_API ja_status ja_chain_depth(ja_arena* arena, ja_executor id, uint32_t* depth);

/* Moves all inbound links to another executor, to the entries of the same numbers, and leaves the old one alive; all or
 * none. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN, JA_ERR_TRACE_ABI, JA_ERR_BOUNDS, JA_ERR_CHAIN_DEPTH. */
JA_API ja_status ja_replace(ja_arena* arena, ja_executor old_id, ja_executor new_id);

/* The host's number for an exit, also of an executor that was freed by this thread's run; the exit's own number when it
 * was given none. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN, JA_ERR_EXIT. */
JA_API ja_status ja_exit_tag(ja_arena* arena, ja_executor id, uint32_t exit, uint32_t* tag);

/* Hot exits jump to this trace, which is not movable and immortal from then on, with the exit record in the exit
 * register; 0: they return from ja_run again. JA_ERR_STALE_EXECUTOR, JA_ERR_NOT_FROZEN, JA_ERR_TRACE_ABI,
 * JA_ERR_MOVABLE, JA_ERR_BUSY (flip). */
JA_API ja_status ja_set_hot_stub(ja_arena* arena, ja_executor id);

/* ---- Threads, pins and executing -------------------------------------------------------------------------------- */

/* Gives the calling thread a place in the arena. A thread that is attached already gets the same place again, and must
 * then call ja_detach once for each ja_attach.
 *
 * When a thread ends, the library detaches it and ends its pin. That happens after the destructors of its C++
 * thread_local objects, and in the last round but one of the destructors of POSIX keys. So such destructors may use the
 * place and may detach it, in any order. The few destructors that run later get JA_ERR_ENDED, from ja_attach as well. A
 * thread that attaches for the first time in the destructor of a key has to detach itself. When the process exits, the
 * library detaches no thread. JA_ERR_ENDED. */
JA_API ja_status ja_attach(ja_arena* arena, ja_thread** thread);

/* Gives the place back. Invalidates: `thread`. A thread calls it after ja_dispose, too, since the arena's memory waits
 * for it. JA_OK if the place has ended already: nothing is left to do. JA_ERR_BUSY while the thread is pinned,
 * JA_ERR_WRONG_THREAD. */
JA_API ja_status ja_detach(ja_thread* thread);

/* Pins the arena. Until the matching ja_leave, everything that this thread can reach stays where it is, mapped and
 * unchanged, even if other threads free or move it. Pins nest, and a nested pin costs nothing. Keep pins short:
 * memory that is freed meanwhile cannot be used again before they end (ja_stats: retired_bytes). Takes no lock; an
 * outermost pin waits while the gate is closed. JA_ERR_WRONG_THREAD, JA_ERR_DISPOSED. */
JA_API ja_status ja_enter(ja_thread* thread);

/* Ends the innermost pin. When the outermost pin ends, every address taken under it is invalid. Takes no lock.
 * JA_ERR_NOT_PINNED if the thread has no pin, JA_ERR_WRONG_THREAD. */
JA_API ja_status ja_leave(ja_thread* thread);

/* Under a pin: the address of an executor's first byte of code. The address is good until the pin ends. Add
 * ja_entry_offset for the executor's other entries. A host may call it as a C function, unless the executor is a trace:
 * ja_run runs traces. Takes no lock.
 * JA_ERR_STALE_EXECUTOR if the executor is gone or not frozen yet, JA_ERR_NOT_PINNED, JA_ERR_WRONG_THREAD. */
JA_API ja_status ja_entry(ja_thread* thread, ja_executor id, uint64_t* address);

/* Makes a pin that belongs to no thread, for machine code on a stack that is left and resumed, such as a fiber's. The
 * pin keeps what the calling thread can reach, like ja_enter. If the thread is pinned already, the new pin keeps all
 * that the thread's pin has kept. So a host takes an address between ja_enter and ja_leave, and makes the pin there.
 * Such pins need not nest, and a pin may end on another thread than the one that made it. While such a pin exists,
 * state does not move, ja_dispose is JA_ERR_BUSY, and with the flip writer every call that writes code is JA_ERR_BUSY.
 * Takes the lock. */
JA_API ja_status ja_pin(ja_arena* arena, ja_pinned** pin);

/* Ends such a pin, on any thread. The host makes sure before that the code that ran under the pin has returned.
 * JA_ERR_ENDED if the pin has ended already. */
JA_API ja_status ja_unpin(ja_pinned* pin);

/* How a run ended. This structure does not grow. */
typedef struct ja_taken {
  ja_executor executor; /* the one that was left; 0: the trace was done. Stale if it has been freed meanwhile */
  uint32_t exit;
  uint32_t hot; /* 1: the exit's count was used up just now: time to compile what follows */
} ja_taken;

/* Runs a trace, under a pin of its own, until the trace is done or takes an exit that is not linked. The trace gets
 * `context` in rdi; the library never looks at it. `entry_offset` is 0 or a number that ja_entry_offset gave for this
 * id; with any other number the CPU executes whatever bytes lie there. `taken` may not be null. Takes no lock.
 * JA_ERR_STALE_EXECUTOR if the executor is gone or not frozen yet, JA_ERR_TRACE_ABI if it is no trace,
 * JA_ERR_WRONG_THREAD. */
JA_API ja_status ja_run(ja_thread* thread, ja_executor id, uint32_t entry_offset, void* context, ja_taken* taken);

/* ---- Collecting ------------------------------------------------------------------------------------------------- */

/* What can happen to executors. A listener is told of the kinds that it has asked for. */
typedef enum ja_event_kind {
  JA_EVENT_PUBLISHED = 1,  /* frozen or installed: may be entered at new_address from now on */
  JA_EVENT_MOVED = 2,      /* its code, from old_address to new_address. Its data lies behind its code and has moved as
                            * far, unless the layout is apart. Of state, which moves by itself, nobody is told */
  JA_EVENT_EVICTED = 4,    /* it was cold, and is about to be retired */
  JA_EVENT_RETIRED = 8,    /* it was freed, invalidated or evicted: its id is stale. Threads may still execute it at
                            * old_address, which is 0 when it was never frozen */
  JA_EVENT_RECLAIMED = 16, /* nobody executes what was at old_address any more, and something else may be there soon.
                            * The executor is 0 when this was the old copy of one that moved */
  JA_EVENT_FORKED_CHILD = 32 /* in a forked child that has got a copy of the arena (JA_FORK_COPY); no executor */
} ja_event_kind;

/* An executor to which it has happened; an address that the kind does not name is 0. This structure does not grow. */
typedef struct ja_event {
  ja_executor executor;
  uint64_t old_address;
  uint64_t new_address;
} ja_event;

/* The most events of one call. */
#define JA_MOST_EVENTS 256

/* Told of `count` executors, 1 to JA_MOST_EVENTS, to all of which the same has happened; everything in the order in
 * which it happened. On the thread whose call did it, under the arena's lock, when it cannot be refused any more: of a
 * move, when the new copy can already be entered and before the old one can be used again, so that both may be read. It
 * may not call the arena, which answers JA_ERR_BUSY, nor unwind or longjmp, and should be quick; the arena waits. Nor
 * may it fork, which takes the locks of all arenas, make or dispose of an arena, or wait for a thread that may be
 * calling this one. */
typedef void (*ja_listener)(void* user, ja_event_kind kind, const ja_event* events, size_t count);

/* Adds a listener for `kinds`, JA_EVENT_… combined with |; several are told one after the other, in the order in which
 * they were added. `number` is for ja_remove_listener. What nobody listens to costs nothing. Takes the lock. */
JA_API ja_status ja_add_listener(ja_arena* arena, uint32_t kinds, ja_listener listener, void* user, uint32_t* number);

/* Ends it: after this returns, it is not running and will not be called. JA_ERR_ARGUMENT when the arena has no listener
 * of this number. Takes the lock. */
JA_API ja_status ja_remove_listener(ja_arena* arena, uint32_t number);

/* Called for each executor that a collection has moved: `old_address` and `new_address` of its code. Its data lies
 * behind its code and has moved as far, unless the layout is apart. Nobody is told of state, which moves by itself. */
typedef void (*ja_move_callback)(void* user, ja_executor id, uint64_t old_address, uint64_t new_address);

/* Sets the callback, or ends it (null): a listener for JA_EVENT_MOVED that is called for each executor, with the rules
 * of ja_listener. Of what is moved while this sets another one, both may be told. After it returns, no earlier callback
 * is running or will be called. Takes the lock. */
JA_API ja_status ja_set_move_callback(ja_arena* arena, ja_move_callback callback, void* user);

typedef struct ja_collect_options {
  size_t struct_size;
  uint64_t max_pause_nanos; /* the call is one slice of about this length; 0: no limit */
  ja_choice compact;        /* move executors together and give pages back; default yes */
  ja_choice follow_links; /* lay each trace in front of the one it leads to, also where no page is freed; default no */
  /* End those whose warm byte has stayed 0 since the last pass; default no. Calls that go on until `done` make one pass
   * together, in the first of them, which takes some time for every executor, also as a slice. */
  ja_choice evict_cold;
  /* Called for each that was evicted, when all is done and no lock is held; its id is stale, and its memory may be
   * somebody else's. A host that keeps addresses asks ja_entry under a pin, or does not evict. May be null. */
  void (*evicted)(void* user, ja_executor id);
  void* user;
} ja_collect_options;

static inline ja_collect_options ja_collect_options_init(void) {
  ja_collect_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

typedef struct ja_collect_result {
  size_t struct_size;
  uint64_t moved; /* executors whose code moved, and executors whose state did */
  uint64_t moved_bytes;
  uint64_t relocs_rewritten;
  uint64_t evicted;
  uint64_t pages_freed;
  uint64_t retired_bytes; /* waiting for pins when the call returned */
  uint64_t pause_nanos;
  uint8_t done; /* 0: call again; time ran out, retired bytes are at their limit, or (flip) a thread stays inside */
} ja_collect_result;

static inline ja_collect_result ja_collect_result_init(void) {
  ja_collect_result result;
  memset(&result, 0, sizeof result);
  result.struct_size = sizeof result;
  return result;
}

/* Moves live executors together where that frees more pages than it needs, and rewrites every reference to them, while
 * other threads execute them. Safe from inside a C function that machine code called; state moves only while nobody is
 * pinned. `options` and `result` may be null. Invalidates: addresses of movable executors, except those taken under
 * pins that have not ended. */
JA_API ja_status ja_collect(ja_arena* arena, const ja_collect_options* options, ja_collect_result* result);

typedef struct ja_plan_result {
  size_t struct_size;
  uint64_t slabs_freed;
  uint64_t pages_freed;
  uint64_t pages_needed;
  uint64_t moved; /* executors */
  uint64_t moved_bytes;
  uint64_t relocs_rewritten;
  uint8_t profitable; /* pages_freed > pages_needed */
} ja_plan_result;

static inline ja_plan_result ja_plan_result_init(void) {
  ja_plan_result result;
  memset(&result, 0, sizeof result);
  result.struct_size = sizeof result;
  return result;
}

/* What ja_collect would do now; changes nothing. */
JA_API ja_status ja_plan(ja_arena* arena, ja_plan_result* plan);

/* ---- Looking ---------------------------------------------------------------------------------------------------- */

typedef struct ja_stats_result {
  size_t struct_size;
  uint64_t executors;       /* writable and frozen */
  uint64_t live_bytes;      /* code + data + state + exit records of frozen executors */
  uint64_t span_bytes;      /* the same in whole granules of 16 bytes, with the arena's own code */
  uint64_t committed_bytes; /* pages with memory behind them */
  uint64_t reserved_bytes;  /* addresses */
  uint64_t retired_bytes;   /* freed or moved away, waiting for pins */
  uint64_t metadata_bytes;  /* the arena's tables, and the staged bytes of writable executors; not the memory of a
                               ja_object, nor the tables that the unwinder was told of for installed objects */
  uint64_t slabs;
  uint64_t page_per_executor_bytes; /* what a mapping of its own for each would take */
  uint64_t moves;                   /* since the arena was made, as all that follow */
  uint64_t moved_bytes;
  uint64_t relocs_rewritten;
  uint64_t evicted;
  uint64_t pauses; /* collections */
  uint64_t pause_nanos;
  uint64_t max_pause_nanos;
  uint64_t kept_relocs;      /* now: records that a move may need */
  uint64_t far_slots;        /* now: veneers and GOT slots */
  ja_writer writer;          /* the one in use */
  uint64_t huge_page_bytes;  /* now: of committed_bytes, with huge pages behind them */
  uint64_t pins;             /* now: of ja_pin */
  uint64_t lost_bytes;       /* now: beside committed_bytes, not used any more and not yet taken back by the system */
  uint64_t kept_reloc_bytes; /* now: of the kept records, packed */
} ja_stats_result;

static inline ja_stats_result ja_stats_result_init(void) {
  ja_stats_result result;
  memset(&result, 0, sizeof result);
  result.struct_size = sizeof result;
  return result;
}

/* The arena's figures. Looks at every link: not for each crossing. */
JA_API ja_status ja_stats(ja_arena* arena, ja_stats_result* stats);

/* Executors by code + data bytes, for a minimum trace length of the host's own. This structure does not grow. */
typedef struct ja_size_class {
  uint64_t up_to; /* bytes; the class begins behind the one before */
  uint64_t count; /* now: live */
  uint64_t bytes; /* now: of code and data */
  uint64_t exits;
  uint64_t loops;           /* of count: links lead from it back to it */
  uint64_t died_cold;       /* evicted since the arena was made */
  uint64_t died_cold_loops; /* of died_cold */
} ja_size_class;

/* Calls visit for each class, the smallest first, as far as there ever were executors; the arena is not locked
 * meanwhile. Looks at every link, as ja_stats does. */
JA_API ja_status ja_size_classes(ja_arena* arena, void (*visit)(void* user, const ja_size_class* size_class),
                                 void* user);

typedef int32_t ja_zone;
enum {
  JA_ZONE_CODE = 0,
  JA_ZONE_FIXED_CODE = 1, /* of executors that do not move, and the arena's own code */
  JA_ZONE_DATA = 2,       /* layout apart */
  JA_ZONE_FIXED_DATA = 3,
  JA_ZONE_STATE = 4,
  JA_ZONE_FIXED_STATE = 5, /* of executors that do not move, or that keeps addresses of state */
};

typedef struct ja_slab {
  ja_zone zone;
  uint32_t pages;
  uint32_t backed_pages; /* with memory behind them */
  uint64_t address;
  uint64_t bytes;
  uint64_t live_bytes;
  uint64_t retired_bytes;
  const uint32_t* live_bytes_per_page; /* `pages` of them, during the visit */
  const uint8_t* backed;               /* the same: 1 where a page has memory behind it */
} ja_slab;

/* Calls visit for each slab, in the order of addresses; the arena is not locked meanwhile, and what is visited is as it
 * was when the call was made. */
JA_API ja_status ja_slabs(ja_arena* arena, void (*visit)(void* user, const ja_slab* slab), void* user);

typedef struct ja_problem {
  ja_executor executor; /* 0: the arena's own books */
  ja_section section;
  int64_t offset; /* -1: somewhere in the section */
  uint64_t expected;
  uint64_t found;
  const char* what; /* during the visit */
} ja_problem;

/* Reads every byte of every frozen executor and all of the arena's books. `*problems` receives how many rules are
 * broken; 0 is a healthy arena. `visit` (may be null) is called for each, as in ja_slabs. */
JA_API ja_status ja_verify(ja_arena* arena, void (*visit)(void* user, const ja_problem* problem), void* user,
                           size_t* problems);

#ifdef __cplusplus
}
#endif

#endif
