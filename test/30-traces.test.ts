// Traces: how they are entered and left, what their exits say, and when an exit is hot. docs/traces.md has the rules.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Arena, type Executor, type ExecutorSpec, type RelocTarget } from 'jit-arena';
import { Code } from './support/assembler.js';
import { runChild } from './support/child.js';
import { detach } from './support/memory.js';
import { peek, peekBytes } from './support/peek.js';
import { skip } from './support/skip.js';
import { exitsToTake, Runs, step, stepThatCalls } from './support/trace-code.js';
import { assertSound, withEachWriter } from './support/writers.js';
import { constant, toI32, toU64 } from './support/x64.js';

describe('a run', () => {
  let arena: Arena;
  let runs: Runs;
  beforeEach(() => {
    arena = new Arena();
    runs = new Runs(arena);
  });
  afterEach(() => {
    assertSound(arena);
    arena.dispose();
  });

  it('returns 0 when the trace was done, and else a number above 0 that exitOf takes', () => {
    const code = new Code();
    for (const n of [0, 1, 2]) code.put(0x48, 0x83, 0x3f, n, 0x75, 10).exit(n); // cmp qword [rdi], n; jne over; exit
    const trace = arena.install(code.done().spec());
    assert.equal(trace.exits, 3);
    const context = new BigInt64Array(1);
    const run = arena.runner(context);
    for (const exit of [0, 1, 2]) {
      context[0] = BigInt(exit);
      const token = run(trace);
      assert.ok(token > 0);
      assert.deepEqual(arena.exitOf(token), { executor: trace.id, exit, hot: false });
    }
    context[0] = 3n;
    assert.equal(run(trace), 0);
  });

  it('gives the trace the address of the context, which may be any view of any buffer', () => {
    const trace = arena.install(step(7));
    const shared = new SharedArrayBuffer(32);
    const view = new DataView(new ArrayBuffer(40), 8);
    for (const context of [
      new BigInt64Array(2),
      new Uint8Array(new ArrayBuffer(64), 16),
      new BigInt64Array(shared),
      view,
    ]) {
      const words = new BigInt64Array(context.buffer, context.byteOffset, 2);
      assert.equal(arena.runner(context)(trace), 0);
      assert.equal(words[0], 7n);
    }
  });

  it('refuses a context that is no view, or whose memory is gone', () => {
    const trace = arena.install(step(7));
    for (const wrong of [undefined, null, {}, new ArrayBuffer(8), [1]]) {
      assert.throws(() => arena.runner(wrong as never), TypeError);
    }
    assert.throws(() => arena.runner(detach(new Uint8Array(8))), { code: 'ERR_ARENA_DETACHED' });
    for (const context of [new Uint8Array(16), new DataView(new ArrayBuffer(16))]) {
      const run = arena.runner(context);
      assert.equal(run(trace), 0);
      detach(context);
      assert.throws(() => run(trace), { code: 'ERR_ARENA_DETACHED' });
    }
  });

  it('refuses executors that are writable, retired, of another arena, or no traces', () => {
    const run = arena.runner(new BigInt64Array(2));
    using other = new Arena();
    const retired = arena.install(step(1));
    assert.equal(run(retired), 0);
    retired.free();
    assert.throws(() => run(retired), { code: 'ERR_ARENA_STALE_EXECUTOR', executor: retired.id });
    const neverRun = arena.install(step(1));
    neverRun.free();
    assert.throws(() => run(neverRun), { code: 'ERR_ARENA_STALE_EXECUTOR', executor: neverRun.id });
    const writable = arena.allocate(step(2));
    assert.throws(() => run(writable), { code: 'ERR_ARENA_NOT_FROZEN', executor: writable.id });
    arena.freeze(writable);
    assert.equal(run(writable), 0);
    const foreign = other.install(step(3));
    assert.throws(() => run(foreign), { code: 'ERR_ARENA_FOREIGN_EXECUTOR', executor: foreign.id });
    const plain = arena.install({ code: constant(1) });
    assert.throws(() => run(plain), { code: 'ERR_ARENA_TRACE_ABI', executor: plain.id });
    for (const wrong of [undefined, null, 1, {}, { id: '1' }]) {
      assert.throws(() => run(wrong as never), { name: 'TypeError', message: 'expected an Executor' });
    }
    const disposed = new Arena();
    const gone = disposed.install(step(4));
    const runGone = disposed.runner(new BigInt64Array(2));
    assert.equal(runGone(gone), 0);
    disposed.dispose();
    assert.throws(() => runGone(gone), { code: 'ERR_ARENA_DISPOSED' });
  });

  it('enters at entry 0, wherever that is, or at the entry that is asked for', () => {
    const part = (digit: number) => new Code().mark(digit).done();
    const size = part(1).size;
    const both = part(1).mark(2).done();
    const entries = [size, 0, size];
    for (const [given, trails] of [
      [entries, [2, 1, 2]],
      [undefined, [1]],
      [
        [0, size],
        [1, 2],
      ],
    ] as const) {
      const trace = arena.install(both.spec(given === undefined ? {} : { entries: given }));
      assert.deepEqual(
        trails.map((_, entry) => runs.from(trace, 0, entry).trail),
        trails,
      );
      assert.equal(runs.from(trace, 0).trail, trails[0]);
      for (const entry of [trails.length, 2 ** 32, -1, 0.5]) {
        assert.throws(
          () => runs.from(trace, 0, entry),
          (error: { code?: string }) => error instanceof TypeError || error.code === 'ERR_ARENA_BOUNDS',
        );
      }
    }
  });

  it('throws what a callback of the trace threw, and the trace ends as usual', () => {
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      throw new Error('thrown by the host');
    });
    const trace = arena.install(stepThatCalls(4, host));
    assert.throws(() => runs.from(trace, 1), /thrown by the host/);
    assert.equal(runs.context[0], 44n);
    assert.equal(runs.context[exitsToTake], 0n);
  });

  it('makes no objects', () => {
    runChild(
      `
      const { Arena } = require('jit-arena');
      const { step } = require('./dist-test/support/trace-code.js');
      const arena = new Arena({ exitThreshold: 7 });
      const traces = [arena.install(step(1)), arena.install(step(2))];
      arena.link(traces[0], 0, traces[1]);
      const context = new Int32Array(16);
      const run = arena.runner(context);
      const counts = { done: 0, cold: 0, hot: 0 };
      function runMany(times) {
        for (let i = 0; i < times; i++) {
          context[2] = i & 3;
          const token = run(traces[i & 1]);
          if (token === 0) counts.done++;
          else if (token > 0) counts.cold++;
          else counts.hot++;
        }
      }
      runMany(20000);
      gc();
      const before = process.memoryUsage().heapUsed;
      runMany(1e6);
      const grown = process.memoryUsage().heapUsed - before;
      require('node:assert').ok(counts.done > 1e5 && counts.cold > 1e5 && counts.hot > 10, JSON.stringify(counts));
      // An object of 16 bytes per run would be 16 MB. The young generation may hold most of that: it is not collected.
      require('node:assert').ok(grown < 2e6, 'the heap has grown by ' + grown);`,
      { nodeArgs: ['--expose-gc', '--max-semi-space-size=64', '--min-semi-space-size=64'] },
    );
  });
});

describe('exit codes', () => {
  it('are those of the last run: any other number is ERR_ARENA_EXIT, any other type a TypeError', () => {
    using arena = new Arena();
    const run = arena.runner(BigInt64Array.of(0n, 1n));
    const trace = arena.install(step(1));
    const token = run(trace);
    assert.deepEqual(arena.exitOf(token), { executor: trace.id, exit: 0, hot: false });
    for (const wrong of [0, token + 1, -token, NaN, 0.5, Infinity]) {
      assert.throws(() => arena.exitOf(wrong), { code: 'ERR_ARENA_EXIT' });
      assert.throws(() => arena.exitTag(wrong), { code: 'ERR_ARENA_EXIT' });
    }
    for (const wrong of ['1', 1n, undefined, null, trace]) assert.throws(() => arena.exitOf(wrong as never), TypeError);
    assert.equal(run(trace), 0);
    assert.throws(() => arena.exitOf(token), { code: 'ERR_ARENA_EXIT' });
  });

  it('are of the arena whose trace ran', () => {
    using arena = new Arena();
    using other = new Arena();
    other.install(step(1, { exitTags: [99] }));
    const token = arena.runner(BigInt64Array.of(0n, 1n))(arena.install(step(1, { exitTags: [5] })));
    assert.equal(arena.exitTag(token), 5);
    assert.throws(() => other.exitOf(token), { code: 'ERR_ARENA_EXIT' });
    assert.throws(() => other.exitTag(token), { code: 'ERR_ARENA_EXIT' });
  });

  it('are a copy: what a host does with it changes no later one', () => {
    using arena = new Arena();
    const token = arena.runner(BigInt64Array.of(0n, 1n))(arena.install(step(1)));
    const before = arena.exitOf(token);
    arena.exitOf(token).exit = 77;
    assert.deepEqual(arena.exitOf(token), before);
  });

  it("have the host's tag for the exit, or its number where the host gave none", () => {
    using arena = new Arena();
    const exits = () => {
      const code = new Code();
      for (const n of [0, 1, 2]) code.put(0x48, 0x83, 0x3f, n, 0x75, 10).exit(n); // cmp qword [rdi], n; jne over; exit
      return code.done();
    };
    const tags = [2 ** 32 - 1, 0, 77];
    const tagged = arena.install(exits().spec({ exitTags: tags }));
    const staged = arena.allocate(exits().spec({ exitTags: Uint32Array.from(tags) }));
    arena.freeze(staged);
    const untagged = arena.install(exits().spec());
    const context = new BigInt64Array(1);
    const run = arena.runner(context);
    for (const exit of [0, 1, 2]) {
      context[0] = BigInt(exit);
      assert.equal(arena.exitTag(run(tagged)), tags[exit]);
      assert.equal(arena.exitTag(run(staged)), tags[exit]);
      assert.equal(arena.exitTag(run(untagged)), exit);
    }
    assert.throws(() => arena.install(exits().spec({ exitTags: [1, 2] })), TypeError);
    assert.throws(() => arena.install(exits().spec({ exitTags: [1, 2, -1] })), { code: 'ERR_ARENA_EXIT' });
    assert.throws(() => arena.install(exits().spec({ exitTags: [1, 2, 2 ** 32] })), { code: 'ERR_ARENA_EXIT' });
  });

  it('after a nested run are those of the outer run, once that has returned', () => {
    using arena = new Arena();
    const runs = new Runs(arena);
    const inner = arena.install(step(5));
    let seen: unknown;
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      seen = new Runs(arena).from(inner, 1);
    });
    const outer = arena.install(stepThatCalls(3, host));
    assert.deepEqual(runs.from(outer, 1), { trail: 33, exit: { executor: outer.id, exit: 0, hot: false } });
    assert.deepEqual(seen, { trail: 5, exit: { executor: inner.id, exit: 0, hot: false } });
    assert.equal(runs.from(outer, 0).exit, undefined);
  });
});

describe('func', () => {
  it('refuses traces, which are no C functions', () => {
    using arena = new Arena();
    const refusals: ExecutorSpec[] = [
      step(1),
      { code: constant(1), exits: 1 },
      new Code().done().spec(),
      new Code().exit(0).spec(),
    ];
    for (const spec of refusals) {
      const trace = arena.install(spec);
      assert.throws(() => trace.func(toI32), { code: 'ERR_ARENA_TRACE_ABI', executor: trace.id });
      assert.throws(() => arena.allocate(spec).func(toI32), { code: 'ERR_ARENA_TRACE_ABI' });
    }
    const later = arena.allocate({ code: new Code().done().spec().code });
    later.addRelocs([{ offset: 1, kind: 'R_X86_64_PLT32', target: 'done', addend: -4 }]);
    arena.freeze(later);
    assert.throws(() => later.func(toI32), { code: 'ERR_ARENA_TRACE_ABI' });
    assert.equal(arena.runner(new Uint8Array(8))(later), 0);
  });

  it('takes functions with a warm or a valid byte', () => {
    using arena = new Arena();
    const code = new Code().warm().put(...constant(6));
    assert.equal(arena.install(code.spec()).func(toI32)(), 6);
    // movzx eax, byte [rip + valid]; ret
    const valid = new Code().put(0x0f, 0xb6, 0x05).refer({ own: 'valid' }).put(0xc3);
    assert.equal(arena.install(valid.spec()).func(toI32)(), 1);
  });
});

// Everything but rsp: flags, all registers, the control words of SSE and x87, eight values on the x87 stack.
function clobber(code: Code): Code {
  const junk = (opcode: number[], n: number) => code.put(...opcode, n, 0xad, 0xde, 0xef); // mov register, a negative number
  [0xc0, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7].forEach((modrm, n) => void junk([0x48, 0xc7, modrm], n)); // all but rsp
  for (let n = 0; n < 8; n++) junk([0x49, 0xc7, 0xc0 + n], 16 + n); // r8 to r15
  for (let n = 0; n < 8; n++) code.put(0x66, 0x0f, 0x76, 0xc0 + 9 * n); // pcmpeqd xmm0, xmm0 to xmm7
  for (let n = 0; n < 8; n++) code.put(0x66, 0x45, 0x0f, 0x76, 0xc0 + 9 * n); // xmm8 to xmm15: NaN
  code.put(0x0f, 0xae, 0x15).refer({ own: 'data' }); // ldmxcsr
  code.put(0xdb, 0xe3, 0xd9, 0x2d).refer({ own: 'data', offset: 4 }); // fninit: old exceptions would be raised; fldcw
  for (let n = 0; n < 8; n++) code.put(0xd9, 0xe8); // fld1
  return code.put(0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0x9e, 0xfd); // mov rax, -1; sahf: all flags; std: backwards
}
// mxcsr: denormals are zeroes, rounding to zero, no exception masked; x87: single precision, rounding to zero, the same.
const controlWords = Uint8Array.of(0x40, 0xe0, 0, 0, 0x40, 0x0c, 0, 0);

withEachWriter('the trace ABI', (writer) => {
  /** Where a trace that clobbers goes: to done, to an exit, or to a linked trace that has nothing left of its registers. */
  function install(arena: Arena): Record<'done' | 'exit' | 'link', Executor> {
    const leave = (spec: (code: Code) => Code) =>
      arena.install(spec(clobber(new Code().warm())).spec({ data: controlWords }));
    const traces = {
      done: leave((code) => code.done()),
      exit: leave((code) => code.exit(0)),
      link: leave((code) => code.exit(0)),
    };
    arena.link(traces.link, 0, traces.done);
    return traces;
  }

  it('lets a trace change every register but the stack pointer, and JavaScript goes on as if nothing had been', () => {
    using arena = new Arena({ writer });
    const traces = install(arena);
    const run = arena.runner(new Uint8Array(8));
    const data = Uint8Array.from({ length: 257 }, (_, i) => i);
    // The compiler keeps these in registers; copyWithin and slice move strings of bytes.
    let [integer, double, small] = [0, 1, 2 ** -1040];
    let tokens = 0;
    for (let i = 1; i <= 30_000; i++) {
      tokens += run(traces.done) + 2 * Math.abs(run(traces.exit)) + run(traces.link);
      integer += i;
      double += 1 / i;
      small += 2 ** -1074;
      data.copyWithin(1, 0, 256);
      assert.equal(data[256], Math.max(0, 256 - i));
    }
    assert.equal(tokens, 60_000);
    assert.equal(integer, 450_015_000);
    assert.equal(double - 1, harmonic(30_000));
    assert.equal(small, 2 ** -1040 + 30_000 * 2 ** -1074);
    assertSound(arena);
  });

  it('gives the C code that called the host its callee-saved registers back', () => {
    using arena = new Arena({ writer });
    const traces = install(arena);
    const run = arena.runner(new Uint8Array(8));
    for (const trace of Object.values(traces)) {
      const host = arena.callback({ args: [], returns: 'void' }, () => {
        for (let i = 0; i < 100; i++) run(trace);
      });
      const keeps = arena.install(calleeSaved(host)).func(toU64);
      for (let i = 0; i < 20; i++) assert.equal(keeps(), 0n);
    }
  });

  it('enters with the stack as after a call, and so at each link', () => {
    using arena = new Arena({ writer });
    // mov [rdi + 8 * word], rsp; the exit
    const record = (word: number) =>
      arena.install(
        new Code()
          .put(0x48, 0x89, 0x67, 8 * word)
          .exit(0)
          .spec(),
      );
    const [first, second] = [record(2), record(3)];
    arena.link(first, 0, second);
    const runs = new Runs(arena);
    runs.from(first, 0);
    assert.notEqual(runs.context[2], 0n);
    assert.equal(runs.context[2]! & 15n, 8n);
    assert.equal(runs.context[3], runs.context[2]);
  });
});

function harmonic(n: number): number {
  let sum = 1;
  for (let i = 1; i <= n; i++) sum += 1 / i;
  return sum - 1;
}

/** Calls a function; returns 0 when everything that a callee must keep is as it was, the control words as in any process. */
function calleeSaved(target: RelocTarget): ExecutorSpec {
  const pattern = [0x78, 0x56, 0x34, 0x12];
  const code = new Code()
    .push('rbx')
    .push('rbp')
    .put(0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57) // push r12, r13, r14, r15
    .put(0x48, 0x83, 0xec, 24); // sub rsp, 24
  const registers = [
    [0x48, 3],
    [0x48, 5],
    [0x49, 4],
    [0x49, 5],
    [0x49, 6],
    [0x49, 7],
  ] as const;
  for (const [rex, n] of registers) code.put(rex, 0xc7, 0xc0 + n, ...pattern); // mov register, pattern
  code
    .put(0xc7, 0x04, 0x24, 0x80, 0x1f, 0, 0, 0xc7, 0x44, 0x24, 4, 0x7f, 3, 0, 0) // mov dword [rsp], 0x1f80; and [rsp + 4], 0x37f
    .put(0xe8)
    .refer(target, { kind: 'R_X86_64_PLT32' })
    .put(0x31, 0xc0); // xor eax, eax
  for (const [rex, n] of registers) {
    code.put(rex, 0x81, 0xe8 + n, ...pattern); // sub register, pattern
    code.put(rex === 0x48 ? 0x48 : 0x4c, 0x09, 0xc0 + 8 * n); // or rax, register
  }
  return code
    .put(0x0f, 0xae, 0x5c, 0x24, 8, 0x8b, 0x4c, 0x24, 8, 0x33, 0x0c, 0x24) // stmxcsr [rsp + 8]; its difference in ecx
    .put(0x81, 0xe1, 0xc0, 0xff, 0, 0, 0x48, 0x09, 0xc8) // and ecx, 0xffc0: control bits; or rax, rcx
    .put(0xd9, 0x7c, 0x24, 12, 0x0f, 0xb7, 0x4c, 0x24, 12) // fnstcw [rsp + 12]; movzx ecx, word [rsp + 12]
    .put(0x0f, 0xb7, 0x54, 0x24, 4, 0x31, 0xd1, 0x48, 0x09, 0xc8) // movzx edx, word [rsp + 4]; xor ecx, edx; or rax, rcx
    .put(0x9c, 0x59, 0x81, 0xe1, 0, 4, 0, 0, 0x48, 0x09, 0xc8) // pushfq; pop rcx; and ecx, 0x400: direction; or rax, rcx
    .put(0x48, 0x83, 0xc4, 24) // add rsp, 24
    .put(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3) // pops; ret
    .spec();
}

withEachWriter('exit records', (writer) => {
  it('of 512 cold exits and the stub take 16 KiB of memory at most', () => {
    using arena = new Arena({ writer });
    // lea r11, [rip + the first record]; mov rax, [rdi]; shl rax, 4; add r11, rax; jmp [r11]
    const code = new Code().put(0x4c, 0x8d, 0x1d).refer({ exit: 0 });
    code.put(0x48, 0x8b, 0x07, 0x48, 0xc1, 0xe0, 4, 0x49, 0x01, 0xc3, 0x41, 0xff, 0x23);
    const trace = arena.install(code.spec({ exits: 512 }));
    const stats = arena.stats();
    assert.ok(stats.committedBytes <= 16 * 1024, `${stats.committedBytes} bytes`);
    assert.equal(stats.liveBytes, code.size + 512 * 16);
    assert.equal(stats.sizeClasses[0]?.exits, 512);
    const context = new BigInt64Array(1);
    const run = arena.runner(context);
    for (let exit = 0; exit < 512; exit++) {
      context[0] = BigInt(exit);
      assert.deepEqual(arena.exitOf(run(trace)), { executor: trace.id, exit, hot: false });
    }
    assert.deepEqual([arena.stats().executors, arena.stats().farSlots], [1, 0]);
  });

  it('of 512 traces with one exit each, and these traces, add no more than that', () => {
    using arena = new Arena({ writer });
    const empty = arena.stats().committedBytes;
    arena.install(Array.from({ length: 512 }, () => new Code().exit(0).spec()));
    assert.ok(arena.stats().committedBytes - empty <= 16 * 1024);
  });

  it('are {u64 entry, u32 executor, u16 exit, u16 temperature}, side by side, with the one stub as the entry', () => {
    using arena = new Arena({ writer, exitThreshold: 100 });
    /** Traces with the addresses of their records in data. */
    const install = (count: number) => {
      const relocs = Array.from(
        { length: count },
        (_, exit) => ({ section: 'data', offset: 8 * exit, kind: 'R_X86_64_64', target: { exit } }) as const,
      );
      return arena.install(new Code().exit(0).spec({ exits: count, data: 8 * count, relocs }));
    };
    const executors = [install(1), install(7), install(2)];
    const stubs = new Set<bigint>();
    for (const executor of executors) {
      const addresses = [...new BigUint64Array(executor.read('data').buffer)];
      addresses.forEach((address, exit) => {
        assert.equal(address, addresses[0]! + 16n * BigInt(exit));
        assert.equal(address & 15n, 0n);
        stubs.add(peek(address));
        const second = peek(address + 8n);
        assert.equal(Number(second & 0xffff_ffffn), executor.id % 2 ** 32);
        assert.equal(Number((second >> 32n) & 0xffffn), exit);
        assert.equal(Number(second >> 48n), (100 - 1) << 4, 'the count of a new exit, and its backoff');
      });
    }
    assert.equal(stubs.size, 1);
    const [stub] = [...stubs] as [bigint];
    assert.equal(arena.find(stub), undefined, 'the stub is no executor');
    const kind = arena.slabs().find((slab) => stub >= slab.address && stub < slab.address + BigInt(slab.bytes))?.kind;
    assert.equal(kind, 'fixed-code');
    // Nothing that happens to executors changes it.
    const before = peekBytes(stub, 32);
    arena.free(executors);
    arena.collect({ evictCold: true });
    assert.deepEqual(peekBytes(stub, 32), before);
    assert.equal(peek([...new BigUint64Array(install(1).read('data').buffer)][0]!), stub);
  });

  it('are 10 bytes of code each time an exit is taken', () => {
    assert.equal(new Code().exit(0).size, 10);
  });

  it('of an exit that the executor does not have are refused', () => {
    using arena = new Arena({ writer });
    const refused = (exits: number, exit: number, code: string) =>
      assert.throws(() => arena.install(new Code().exit(exit).spec({ exits })), { code });
    refused(0, 0, 'ERR_ARENA_RELOC_TARGET');
    refused(3, 3, 'ERR_ARENA_RELOC_TARGET');
    refused(3, 2 ** 16, 'ERR_ARENA_RELOC_TARGET');
    refused(2 ** 16, 0, 'ERR_ARENA_SIZE');
    refused(-1, 0, 'ERR_ARENA_SIZE');
    assert.equal(arena.install(new Code().exit(65534).spec()).exits, 65535);
    assertSound(arena);
  });
});

describe('a cold exit', () => {
  /** The crossings, from 1 on, at which the exit was reported to be hot. */
  function hotAt(crossings: number, options: { exitThreshold?: number; exitGrowth?: number }): number[] {
    using arena = new Arena(options);
    const trace = arena.install(step(1));
    const context = new BigInt64Array(2);
    const run = arena.runner(context);
    const hot: number[] = [];
    for (let crossing = 1; crossing <= crossings; crossing++) {
      context[exitsToTake] = 1n;
      const token = run(trace);
      assert.equal(arena.exitOf(token).hot, token < 0);
      if (token < 0) hot.push(crossing);
    }
    return hot;
  }

  it('is hot the first time after the threshold, then after that times the growth, and so on', () => {
    assert.deepEqual(hotAt(1 + 2 + 4 + 8, { exitThreshold: 1 }), [1, 3, 7, 15]);
    assert.deepEqual(hotAt(100, { exitThreshold: 10, exitGrowth: 3 }), [10, 40]);
    assert.deepEqual(hotAt(50, { exitThreshold: 10, exitGrowth: 1 }), [10, 20, 30, 40, 50]);
    assert.deepEqual(hotAt(40, { exitThreshold: 4, exitGrowth: 1.5 }), [4, 10, 19, 32]);
    assert.deepEqual(hotAt(4096, {}), [1024, 3072]);
  });

  it('is hot after 4096 crossings at the latest', () => {
    assert.deepEqual(hotAt(3 * 4096, { exitThreshold: 4096 }), [4096, 8192, 12288]);
    assert.deepEqual(hotAt(2 * 4096 + 3, { exitThreshold: 3, exitGrowth: 1e300 }), [3, 4099, 8195]);
    assert.deepEqual(hotAt(4096 + 1, { exitThreshold: 1, exitGrowth: Infinity }), [1, 4097]);
  });

  it('takes no other options', () => {
    for (const exitThreshold of [0, 4097, -1, 0.5, NaN]) {
      assert.throws(() => new Arena({ exitThreshold }), { code: 'ERR_ARENA_SIZE' });
    }
    for (const exitGrowth of [0, 0.99, -1, NaN])
      assert.throws(() => new Arena({ exitGrowth }), { code: 'ERR_ARENA_SIZE' });
    for (const wrong of ['2', null, {}, 2n]) {
      assert.throws(() => new Arena({ exitGrowth: wrong as never }), TypeError);
      assert.throws(() => new Arena({ exitThreshold: wrong as never }), TypeError);
    }
  });

  it('has a count of its own', () => {
    using arena = new Arena({ exitThreshold: 3 });
    const runs = new Runs(arena);
    const traces = [arena.install(step(1)), arena.install(step(2))];
    const hot = [0, 0, 1, 1, 0, 1].map((n) => runs.from(traces[n]!, 1).exit?.hot);
    assert.deepEqual(hot, [false, false, false, false, true, true]);
  });

  it('does not count while it is linked, and is as new when it is unlinked', () => {
    using arena = new Arena({ exitThreshold: 3 });
    const runs = new Runs(arena);
    const [trace, target] = [arena.install(step(1)), arena.install(step(2))];
    const crossings = () => {
      for (let crossing = 1; ; crossing++) if (runs.from(trace, 1).exit!.hot) return crossing;
    };
    assert.deepEqual([crossings(), crossings()], [3, 6]);
    runs.from(trace, 1);
    arena.link(trace, 0, target);
    for (let i = 0; i < 100; i++) assert.equal(runs.from(trace, 1).trail, 12);
    arena.unlink(trace, 0);
    assert.deepEqual([crossings(), crossings()], [3, 6]);
    runs.from(trace, 1);
    arena.unlink(trace, 0); // it is not linked: nothing happens
    assert.equal(crossings(), 11);
    arena.link(trace, 0, target);
    arena.unlinkAll();
    assert.equal(crossings(), 3);
    arena.link(trace, 0, target);
    target.free();
    assert.equal(crossings(), 3);
  });
});

withEachWriter('the hot stub', (writer) => {
  /** A stub that leaves what it found in r11 in word 4 of the context. */
  const stub = (leave: (code: Code) => Code) => leave(new Code().put(0x4c, 0x89, 0x5f, 32)).spec({ movable: false }); // mov [rdi + 32], r11

  it('is entered instead of returning to the runner, with the exit record in r11', () => {
    using arena = new Arena({ writer, exitThreshold: 2 });
    const runs = new Runs(arena);
    const relocs = [{ section: 'data', offset: 0, kind: 'R_X86_64_64', target: { exit: 0 } }] as const;
    const trace = arena.install(step(1, { data: 8, relocs }));
    const [record] = new BigInt64Array(trace.read('data').buffer);
    const done = arena.install(stub((code) => code.mark(9).done()));
    arena.setHotStub(done);
    assert.deepEqual(runs.from(trace, 1), { trail: 1, exit: { executor: trace.id, exit: 0, hot: false } });
    assert.deepEqual(runs.from(trace, 1), { trail: 19, exit: undefined });
    assert.equal(runs.context[4], record);
    // The count has begun again at its largest value: the host has not said otherwise.
    for (let i = 1; i < 4096; i++) assert.notEqual(runs.from(trace, 1).exit, undefined);
    assert.deepEqual(runs.from(trace, 1), { trail: 19, exit: undefined });

    // Back to the exit, which is cold again: the runner gets the record.
    const back = arena.install(stub((code) => code.put(0x41, 0xff, 0x23).done())); // jmp [r11]
    arena.setHotStub(back);
    arena.link(trace, 0, trace);
    arena.unlink(trace, 0);
    for (let i = 0; i < 2; i++) assert.deepEqual(runs.from(trace, 1).exit, { executor: trace.id, exit: 0, hot: false });
    assert.equal(runs.context[4], record);

    arena.setHotStub(undefined);
    arena.link(trace, 0, trace);
    arena.unlink(trace, 0);
    assert.deepEqual(
      [1, 2].map(() => runs.from(trace, 1).exit?.hot),
      [false, true],
    );
    assertSound(arena);
  });

  it('begins at entry 0', () => {
    using arena = new Arena({ writer, exitThreshold: 1 });
    const first = new Code().mark(8).done();
    const entries = [first.size];
    const trace = arena.install(step(1));
    arena.setHotStub(arena.install(first.mark(9).done().spec({ movable: false, entries })));
    assert.equal(new Runs(arena).from(trace, 1).trail, 19);
  });

  it('is a frozen, immovable trace of the same arena', () => {
    using arena = new Arena({ writer, exitThreshold: 1 });
    using other = new Arena();
    const refused = (executor: Executor, code: string) => assert.throws(() => arena.setHotStub(executor), { code });
    refused(arena.install(step(1)), 'ERR_ARENA_MOVABLE');
    refused(arena.install({ code: constant(1), movable: false }), 'ERR_ARENA_TRACE_ABI');
    refused(arena.allocate(step(1, { movable: false })), 'ERR_ARENA_NOT_FROZEN');
    refused(other.install(step(1, { movable: false })), 'ERR_ARENA_FOREIGN_EXECUTOR');
    const gone = arena.install(step(1, { movable: false }));
    gone.free();
    refused(gone, 'ERR_ARENA_STALE_EXECUTOR');
    assert.deepEqual(new Runs(arena).from(arena.install(step(1)), 1).exit?.hot, true, 'nothing has changed');
    assertSound(arena);
  });

  it('is immortal, also when it is the hot stub no more', () => {
    using arena = new Arena({ writer, exitThreshold: 1 });
    const hotStub = arena.install(stub((code) => code.warm().mark(9).done()));
    arena.setHotStub(hotStub);
    const kept = () => {
      assert.throws(() => hotStub.free(), { code: 'ERR_ARENA_IMMORTAL', executor: hotStub.id });
      assert.throws(() => arena.invalidate(hotStub), { code: 'ERR_ARENA_IMMORTAL' });
      assert.throws(() => arena.free([hotStub]), { code: 'ERR_ARENA_IMMORTAL' });
      for (let i = 0; i < 3; i++) assert.deepEqual(arena.collect({ evictCold: true }).evictedIds, []);
      assert.equal(hotStub.state, 'frozen');
    };
    kept();
    arena.setHotStub(undefined);
    kept();
  });
});

describe('what an arena with traces leaves behind', () => {
  it('is nothing: its stubs go with it', () => {
    const script = `
      const { readFileSync } = require('node:fs');
      const assert = require('node:assert');
      const { Arena, probe } = require('jit-arena');
      const { step, stepThatCalls } = require('./dist-test/support/trace-code.js');
      function live(writer) {
        const arena = new Arena({ writer, maxBytes: 1 << 20, exitThreshold: 1 });
        const host = arena.callback({ args: [], returns: 'void' }, () => {});
        const [a, b, stub] = arena.install([step(1), stepThatCalls(2, host), step(3, { movable: false })]);
        arena.setHotStub(stub);
        arena.link(a, 0, b);
        arena.link(b, 0, a);
        assert.ok(arena.runner(BigInt64Array.of(0n, 5n))(a) === 0);
        arena.collect({ evictCold: true });
        arena.dispose();
      }
      const measure = async () => {
        for (let i = 0; i < 5; i++) { gc(); await new Promise(setImmediate) } // finalizers run in between
        const status = readFileSync('/proc/self/status', 'utf8');
        // Reserved, shared or executable, as those of an arena are; V8's are none of these, and come and go.
        const ours = readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => /^\\S+ (---p|...s|r-x.) /.test(line));
        return { size: Number(/VmSize:\\s+(\\d+) kB/.exec(status)[1]), mappings: ours.length };
      };
      const writers = probe().filter(({ available }) => available).map(({ writer }) => writer);
      const round = () => { for (let i = 0; i < 100; i++) for (const writer of writers) live(writer); };
      (async () => {
        round();
        const before = await measure();
        round();
        const after = await measure();
        // Each arena that stayed would be 1 MiB of addresses, and three mappings.
        assert.ok(after.mappings - before.mappings < 30, JSON.stringify([before, after]));
        assert.ok(after.size - before.size < 30e3, JSON.stringify([before, after]));
      })();`;
    runChild(script, { nodeArgs: ['--expose-gc', '--unhandled-rejections=strict'] });
  });

  it('is nothing that LeakSanitizer finds', function () {
    this.timeout(180_000);
    const root = resolve(__dirname, '..');
    const folder = mkdtempSync(join(tmpdir(), 'jit-arena-leaks-'));
    try {
      const text = `#include "exits_test.cc"
        int main(int argc, char**) {
          if (argc > 1) *static_cast<int* volatile*>(new int*) = new int;
          return test::RunAll({});
        }`;
      const [source, program] = [join(folder, 'leaks.cc'), join(folder, 'leaks')];
      writeFileSync(source, text);
      const flags = ['-std=c++20', '-O0', '-fsanitize=leak', '-Inative', '-Itest/native', '-pthread'];
      // It takes the place of malloc alone, so that the core as it was built will do.
      const args = [...flags, '-o', program, source, 'build/libjit_arena_core.a'];
      const compiled = spawnSync('c++', args, { cwd: root, encoding: 'utf8' });
      if (compiled.error !== undefined) skip(this, 'there is no C++ compiler');
      if (/lsan/.test(compiled.stderr)) skip(this, 'the compiler has no LeakSanitizer');
      assert.equal(compiled.status, 0, compiled.stderr);
      const run = (...args: string[]) => spawnSync(program, args, { encoding: 'utf8' });
      assert.match(run('leak').stderr, /detected memory leaks/, 'LeakSanitizer works here');
      const { status, stdout, stderr } = run();
      assert.equal(status, 0, stdout + stderr);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
