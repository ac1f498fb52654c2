/* A small JIT host in C: builds a chain of traces, links them as their exits become hot, and runs the chain from two
 * threads while a third keeps moving its code. What the host knows of addresses follows through the move callback.
 * x86-64, and any system that jit-arena knows. See docs/c-api.md. */
#include <jit_arena.h>

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { kTraces = 100, kFillers = 300, kRounds = 60, kMaxExecutors = 1 << 16 };

/* Whatever goes wrong ends the program: a host would fall back to its interpreter. */
static void check(ja_status status, const char* what) {
  if (status == JA_OK) return;
  const ja_error* error = ja_last_error();
  fprintf(stderr, "%s: %s: %s (executor %llu, offset %lld)\n", what, ja_status_name(status), error->message,
          (unsigned long long)error->executor, (long long)error->offset);
  exit(1);
}

static void expect(bool right, const char* what) {
  if (right) return;
  fprintf(stderr, "wrong: %s\n", what);
  exit(1);
}

/* ---- What machine code works on ---- */

typedef struct context {
  uint64_t sum;
  uint64_t calls;
} context;

/* Called by every trace: a C function of the host's. */
static void note_call(context* context) { context->calls++; }

/* ---- Traces ---- */

/* Trace n adds n + 1, which lies in its data, twice, calls note_call, and leaves: through exit 0, or done. */
static ja_executor install_trace(ja_arena* arena, uint32_t n) {
  static const uint8_t code[] = {
      0xC6, 0x05, 0,    0, 0, 0, 1,          /* 00  mov byte [rip + warm], 1 */
      0x48, 0x8B, 0x05, 0, 0, 0, 0,          /* 07  mov rax, [rip + data] */
      0x48, 0x01, 0x07,                      /* 0E  add [rdi], rax */
      0x48, 0xB8, 0,    0, 0, 0, 0, 0, 0, 0, /* 11  mov rax, address of data */
      0x48, 0x8B, 0x00,                      /* 1B  mov rax, [rax] */
      0x48, 0x01, 0x07,                      /* 1E  add [rdi], rax */
      0x57,                                  /* 21  push rdi: keeps it, and aligns the stack for the call */
      0xE8, 0,    0,    0, 0,                /* 22  call note_call */
      0x5F,                                  /* 27  pop rdi */
      0x4C, 0x8D, 0x1D, 0, 0, 0, 0,          /* 28  lea r11, [rip + record of exit 0], or jmp done and two nops */
      0x41, 0xFF, 0x23,                      /* 2F  jmp [r11] */
  };
  bool last = n + 1 == kTraces;
  uint8_t bytes[sizeof code];
  memcpy(bytes, code, sizeof code);
  if (last) memcpy(bytes + 0x28, (const uint8_t[]){0xE9, 0, 0, 0, 0, 0x90, 0x90}, 7);
  const ja_reloc relocs[] = {
      {.offset = 0x02, .kind = JA_R_X86_64_PC32, .target_kind = JA_TARGET_WARM, .addend = -5},
      {.offset = 0x0A, .kind = JA_R_X86_64_PC32, .target_kind = JA_TARGET_OWN_DATA, .addend = -4},
      {.offset = 0x13, .kind = JA_R_X86_64_64, .target_kind = JA_TARGET_OWN_DATA},
      {.offset = 0x23,
       .kind = JA_R_X86_64_PLT32,
       .target_kind = JA_TARGET_ADDRESS,
       .target = (uint64_t)(uintptr_t)note_call,
       .addend = -4},
      {.offset = last ? 0x29 : 0x2B,
       .kind = last ? JA_R_X86_64_PLT32 : JA_R_X86_64_PC32,
       .target_kind = last ? JA_TARGET_DONE : JA_TARGET_EXIT,
       .addend = -4},
  };
  const uint64_t value = n + 1;
  const ja_spec spec = {
      .struct_size = sizeof spec,
      .code = {bytes, sizeof bytes, 0},
      .data = {&value, sizeof value, 0},
      .relocs = relocs,
      .reloc_count = sizeof relocs / sizeof *relocs,
      .exits = last ? 0 : 1,
      .exit_tags = last ? NULL : &(uint32_t){n + 1}, /* what comes next in the program */
      .name = "a step",
  };
  ja_executor id;
  check(ja_install(arena, &spec, 1, &id), "install");
  return id;
}

/* A function of the given size that nobody calls. */
static ja_executor install_filler(ja_arena* arena, size_t size) {
  const ja_spec spec = {.struct_size = sizeof spec, .code = {NULL, size, 0}};
  ja_executor id;
  ja_status status;
  /* A thread that sleeps inside machine code keeps everything that was freed meanwhile: that has a limit. */
  while ((status = ja_install(arena, &spec, 1, &id)) == JA_ERR_RETIRED_LIMIT) sched_yield();
  check(status, "install a filler");
  return id;
}

/* ---- What the host knows of addresses: kept up to date by the arena ---- */

typedef struct symbols {
  uint64_t address[kMaxExecutors]; /* by the id's lower half, which is a small number */
  uint64_t moves;
} symbols;

static void on_move(void* user, ja_executor id, uint64_t old_address, uint64_t new_address) {
  symbols* known = user;
  uint32_t index = (uint32_t)id;
  if (known->address[index] == 0) return; /* a filler */
  expect(known->address[index] == old_address, "the old address is the one that the host knows");
  known->address[index] = new_address;
  known->moves++;
}

/* ---- Threads ---- */

typedef struct host {
  ja_arena* arena;
  ja_executor traces[kTraces];
  symbols known;
  atomic_bool stop;
  atomic_ullong runs;
} host;

static void* run_chain(void* argument) {
  host* host = argument;
  ja_thread* thread;
  check(ja_attach(host->arena, &thread), "attach");
  while (!atomic_load(&host->stop)) {
    context context = {0, 0};
    ja_taken taken;
    check(ja_run(thread, host->traces[0], 0, &context, &taken), "run");
    expect(taken.executor == 0, "the linked chain runs to its end");
    expect(context.sum == (uint64_t)kTraces * (kTraces + 1), "the sum of a run");
    expect(context.calls == kTraces, "the calls of a run");
    atomic_fetch_add(&host->runs, 1);
  }
  check(ja_detach(thread), "detach");
  return NULL;
}

/* Fills the arena and empties it again, so that what lives is sparse, and compacts it. */
static void* churn(void* argument) {
  host* host = argument;
  ja_executor fillers[kFillers];
  ja_executor kept = 0;
  for (int round = 0; round < kRounds; round++) {
    for (int i = 0; i < kFillers; i++)
      fillers[i] = install_filler(host->arena, 1000 + (size_t)(i * 37 + round * 101) % 3000);
    if (kept != 0) check(ja_free(host->arena, &kept, 1), "free");
    kept = fillers[kFillers - 1]; /* at the end of what is sparse now */
    check(ja_free(host->arena, fillers, kFillers - 1), "free");
    ja_collect_result result = ja_collect_result_init();
    check(ja_collect(host->arena, NULL, &result), "collect");
  }
  return NULL;
}

int main(void) {
  static host host;
  const ja_options options = {
      .struct_size = sizeof options, .max_bytes = 8 << 20, .exit_threshold = 3, .name = "from C"};
  check(ja_create(&options, &host.arena), "create");
  ja_thread* thread;
  check(ja_attach(host.arena, &thread), "attach");
  for (uint32_t n = 0; n < kTraces; n++) host.traces[n] = install_trace(host.arena, n);

  /* A dispatcher: runs trace after trace, and links an exit once it is hot. */
  int links = 0;
  context context;
  do {
    context.sum = context.calls = 0;
    uint32_t next = 0;
    for (;;) {
      ja_taken taken;
      check(ja_run(thread, host.traces[next], 0, &context, &taken), "run");
      if (taken.executor == 0) break;
      check(ja_exit_tag(host.arena, taken.executor, taken.exit, &next), "exit tag");
      if (!taken.hot) continue;
      check(ja_link(host.arena, taken.executor, taken.exit, host.traces[next], 0), "link");
      links++;
    }
  } while (links < kTraces - 1);
  printf("a chain of %d traces: sum %llu, %llu calls of C, %d hot exits linked\n", kTraces,
         (unsigned long long)context.sum, (unsigned long long)context.calls, links);

  /* What the host keeps of addresses: read once, under a pin, and from then on told of every move. */
  check(ja_enter(thread), "enter");
  for (uint32_t n = 0; n < kTraces; n++)
    check(ja_entry(thread, host.traces[n], &host.known.address[(uint32_t)host.traces[n]]), "entry");
  check(ja_leave(thread), "leave");
  check(ja_set_move_callback(host.arena, on_move, &host.known), "set the move callback");

  pthread_t threads[3];
  pthread_create(&threads[0], NULL, run_chain, &host);
  pthread_create(&threads[1], NULL, run_chain, &host);
  pthread_create(&threads[2], NULL, churn, &host);
  pthread_join(threads[2], NULL);
  atomic_store(&host.stop, true);
  pthread_join(threads[0], NULL);
  pthread_join(threads[1], NULL);
  expect(atomic_load(&host.runs) > 0, "the chain ran meanwhile");
  expect(host.known.moves >= kTraces, "the traces were moved");
  printf("two threads ran it, a third moved its traces again and again: every result right\n");

  int right = 0;
  for (uint32_t n = 0; n < kTraces; n++) {
    ja_info info = ja_info_init();
    check(ja_describe(host.arena, host.traces[n], &info), "describe");
    right += info.address == host.known.address[(uint32_t)host.traces[n]];
  }
  printf("addresses that the move callback kept right: %d of %d\n", right, kTraces);
  expect(right == kTraces, "addresses");

  size_t problems;
  check(ja_verify(host.arena, NULL, NULL, &problems), "verify");
  printf("problems that the arena finds in itself: %zu\n", problems);
  expect(problems == 0, "verify");

  check(ja_invalidate(host.arena, host.traces[kTraces / 2]), "invalidate");
  ja_taken taken;
  context.sum = context.calls = 0;
  check(ja_run(thread, host.traces[0], 0, &context, &taken), "run");
  printf("with trace %d invalid the chain leaves trace %d after %llu calls\n", kTraces / 2, kTraces / 2 - 1,
         (unsigned long long)context.calls);
  expect(taken.executor == host.traces[kTraces / 2 - 1] && context.calls == kTraces / 2, "the exit before it");

  /* The numbers change from run to run, and so go elsewhere. */
  ja_stats_result stats = ja_stats_result_init();
  check(ja_stats(host.arena, &stats), "stats");
  fprintf(stderr, "runs: %llu; moves of traces: %llu; all moves: %llu in %llu pauses, the longest %llu us\n",
          (unsigned long long)atomic_load(&host.runs), (unsigned long long)host.known.moves,
          (unsigned long long)stats.moves, (unsigned long long)stats.pauses,
          (unsigned long long)stats.max_pause_nanos / 1000);
  check(ja_detach(thread), "detach");
  check(ja_dispose(host.arena), "dispose");
  return 0;
}
