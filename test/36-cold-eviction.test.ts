// Cold eviction: which executors a pass ends, which it keeps, and what stats() says of them for a host that decides what is
// worth compiling.
import assert from 'node:assert/strict';
import { Arena, type ArenaOptions, type Executor, type ExecutorSpec, machine } from 'jit-arena';
import { Code } from './support/assembler.js';
import { fillWithTraps, Runs, step, stepThatCalls } from './support/trace-code.js';
import { assertSound, withEachWriter } from './support/writers.js';
import { constant, jump, scatter, toI32 } from './support/x64.js';

/** One pass; the ids of those that it ended. */
const pass = (arena: Arena): number[] => {
  const { evicted, evictedIds } = arena.collect({ evictCold: true });
  assert.equal(evicted, evictedIds.length);
  return evictedIds;
};
const idsOf = (...executors: Executor[]) => executors.map(({ id }) => id);

withEachWriter('evictCold', (writer) => {
  let arena: Arena;
  let runs: Runs;
  beforeEach(() => {
    arena = new Arena({ writer });
    runs = new Runs(arena);
  });
  afterEach(() => {
    assertSound(arena);
    arena.dispose();
  });

  it('ends in its second pass what has not run since the first', () => {
    const [cold, warm] = arena.install([step(1), step(2)]) as [Executor, Executor];
    runs.from(cold, 0);
    runs.from(warm, 0);
    assert.deepEqual(pass(arena), []);
    runs.from(warm, 0);
    assert.deepEqual(pass(arena), idsOf(cold));
    assert.deepEqual([cold.state, warm.state], ['retired', 'frozen']);
    assert.throws(() => runs.from(cold, 0), { code: 'ERR_ARENA_STALE_EXECUTOR' });
    assert.equal(runs.from(warm, 0).trail, 2);
    assert.deepEqual(pass(arena), []);
    assert.deepEqual(pass(arena), idsOf(warm));
    assert.deepEqual(pass(arena), []);
    assert.deepEqual([arena.stats().evicted, arena.stats().executors, arena.stats().retiredBytes], [2, 0, 0]);
  });

  it('takes what is freshly frozen for warm, whenever that was', () => {
    assert.deepEqual(pass(arena), []);
    const first = arena.install(step(1));
    const staged = arena.allocate(step(2));
    assert.deepEqual(pass(arena), []);
    const second = arena.install(step(3));
    arena.freeze(staged);
    assert.deepEqual(pass(arena), idsOf(first));
    assert.deepEqual(pass(arena), idsOf(staged, second));
  });

  it('takes a run from another trace, through a link, for one', () => {
    const [a, b, c] = arena.install([step(1), step(2), step(3)]) as [Executor, Executor, Executor];
    arena.link(a, 0, b);
    pass(arena);
    runs.from(a, 1);
    assert.deepEqual(pass(arena), idsOf(c));
    runs.from(a, 0);
    assert.deepEqual(pass(arena), idsOf(b));
    assert.equal(arena.linkOf(a, 0), undefined);
    assert.equal(runs.from(a, 1).exit?.executor, a.id);
  });

  it('keeps executors that are not evictable, and those that have no warm byte to tell by', () => {
    const kept = arena.install([
      step(1, { evictable: false }),
      { code: constant(1) },
      { code: constant(1), evictable: true },
      new Code().exit(0).spec(),
      new Code().done().spec(),
      new Code()
        .warm()
        .put(...constant(1))
        .spec({ evictable: false }),
    ]);
    assert.deepEqual(
      kept.map(({ evictable }) => evictable),
      [false, false, true, true, true, false],
    );
    const writable = arena.allocate(step(2));
    // A plain function with a warm byte is evictable unless the host says otherwise.
    const plain = arena.install(
      new Code()
        .warm()
        .put(...constant(1))
        .spec(),
    );
    const f = plain.func(toI32);
    for (let i = 0; i < 3; i++) assert.deepEqual([f(), pass(arena)], [1, []]);
    assert.deepEqual(pass(arena), idsOf(plain));
    assert.throws(() => f(), { code: 'ERR_ARENA_STALE_EXECUTOR' });
    assert.equal(arena.executors().length, kept.length + 1);
    assert.equal(writable.state, 'writable');
  });

  it('keeps the target of a direct reloc as long as one of its sources', () => {
    const [target] = arena.install([step(3)]) as [Executor];
    const jumpsTo = (executor: Executor, digit: number) =>
      arena.install(new Code().warm().mark(digit).jump(executor).spec({ exits: 1 }));
    const middle = jumpsTo(target, 2);
    const [first, other] = [jumpsTo(middle, 1), jumpsTo(target, 4)];
    const plain = arena.install({
      ...jump({ address: 0n }),
      relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target, addend: -4 }],
    });
    pass(arena);
    // Nobody runs: all of them are cold, but the plain function is kept and keeps its target.
    assert.deepEqual(pass(arena).sort(), idsOf(middle, first, other).sort());
    plain.free();
    assert.deepEqual(pass(arena), idsOf(target));

    const again = arena.install(step(3));
    const [a, b] = [jumpsTo(again, 1), jumpsTo(again, 2)];
    pass(arena);
    for (let round = 0; round < 3; round++) {
      // The jump skips nothing: its target sets its own byte. So the byte is cleared behind it.
      assert.equal(runs.from(b, 0).trail, 23);
      assert.deepEqual(pass(arena), round === 0 ? idsOf(a) : []);
    }
    assert.deepEqual(pass(arena), idsOf(again, b), 'source and target in one pass');
  });

  it('keeps a cold target whose warm source enters it behind its start', () => {
    const target = new Code().warm();
    const entry = target.size;
    const cold = arena.install(target.mark(3).done().spec());
    const source = arena.install(new Code().warm().mark(1).jump({ executor: cold, offset: entry }).spec({ exits: 1 }));
    pass(arena);
    for (let round = 0; round < 3; round++) {
      assert.equal(runs.from(source, 0).trail, 13);
      assert.deepEqual(pass(arena), []);
    }
    assert.deepEqual(pass(arena), idsOf(cold, source));
  });

  it('keeps the target of a source that is not evictable, and what lies behind it', () => {
    const target = arena.install(step(3));
    const middle = arena.install(new Code().warm().jump(target).spec({ exits: 1 }));
    const source = arena.install(new Code().warm().jump(middle).spec({ exits: 1, evictable: false }));
    for (let i = 0; i < 4; i++) assert.deepEqual(pass(arena), []);
    source.free();
    assert.deepEqual(pass(arena), idsOf(target, middle));
  });

  it('ends cycles of links, and of direct jumps', () => {
    const [a, b, self] = arena.install([step(1), step(2), step(3)]) as [Executor, Executor, Executor];
    arena.link(a, 0, b);
    arena.link(b, 0, a);
    arena.link(self, 0, self);
    const jumps = (to: Executor) => new Code().warm().jump(to).spec({ exits: 1 });
    // Two that jump to each other are frozen together.
    const one = arena.allocate({ ...jumps(a), relocs: [] });
    const other = arena.allocate(jumps(one));
    one.addRelocs(jumps(other).relocs!);
    arena.freeze([one, other]);
    assert.deepEqual(pass(arena), []);
    assert.deepEqual(pass(arena).sort(), idsOf(a, b, self, one, other).sort());
    assert.equal(arena.stats().executors, 0);
  });

  it('ends what is running as well, which goes on where it is', () => {
    const seen: number[][] = [];
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      seen.push(pass(arena), pass(arena));
      fillSome(arena);
    });
    const trace = arena.install(stepThatCalls(2, host));
    assert.deepEqual(runs.from(trace, 1), { trail: 22, exit: { executor: trace.id, exit: 0, hot: false } });
    assert.deepEqual(seen, [[], idsOf(trace)]);
  });

  it('keeps the memory of what it ended until the last pin from before has ended', () => {
    const trace = arena.install(step(1, { code: step(1).code as Uint8Array }));
    const { address } = trace;
    pass(arena);
    arena.pinned(() => {
      assert.deepEqual(pass(arena), idsOf(trace));
      assert.deepEqual(arena.find(address)?.retired, true);
      assert.ok(arena.stats().retiredBytes > 0);
    });
    arena.collect();
    assert.equal(arena.find(address), undefined);
    assert.equal(arena.stats().retiredBytes, 0);
  });

  it('runs no foreign code: no callback, and no exit of a trace, as invalidate and replace do not', () => {
    let calls = 0;
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      calls++;
    });
    const [a, b, c] = arena.install([stepThatCalls(1, host), stepThatCalls(2, host), stepThatCalls(3, host)]) as [
      Executor,
      Executor,
      Executor,
    ];
    arena.link(a, 0, b);
    arena.link(b, 0, c);
    arena.link(c, 0, a);
    arena.replace(b, c);
    arena.invalidate(b);
    pass(arena);
    assert.deepEqual(pass(arena), idsOf(a, c));
    assert.equal(calls, 0);
  });

  it('goes with compaction in one call, or without it, and is off unless asked for', () => {
    const scattered = scatter(
      arena,
      Array.from({ length: 20 }, (_, i) => step(1 + (i % 9))),
    );
    assert.deepEqual(arena.collect({ compact: false }).evictedIds, []);
    assert.deepEqual(arena.collect({ evictCold: true, compact: false }).moved, 0);
    const living = scattered.filter((_, i) => i % 2 === 0);
    for (const trace of living) runs.from(trace, 0);
    const { evictedIds, moved } = arena.collect({ evictCold: true });
    assert.deepEqual(evictedIds, idsOf(...scattered.filter((_, i) => i % 2 === 1)));
    assert.equal(moved, living.length, 'only what lives is moved');
    for (const [i, trace] of living.entries()) assert.equal(runs.from(trace, 0).trail, 1 + ((2 * i) % 9));
    assert.throws(() => arena.collect({ evictCold: 1 as never }), TypeError);
  });

  it('makes one pass in all the slices of a round', () => {
    const traces = scatter(
      arena,
      Array.from({ length: 120 }, (_, i) => step(1 + (i % 9))),
    );
    const cold = traces.filter((_, i) => i % 4 === 0);
    pass(arena);
    for (const trace of traces) if (!cold.includes(trace)) runs.from(trace, 0);
    for (const trace of traces.filter((_, i) => i % 4 > 1)) trace.free();
    const round = () => {
      const slices = [];
      do slices.push(arena.collect({ evictCold: true, maxPauseMicros: 1 }));
      while (!slices.at(-1)!.done && slices.length < 1000);
      return slices;
    };
    const slices = round();
    assert.ok(slices.length > 2 && slices.length < 1000, `${slices.length} slices`);
    assert.deepEqual(
      slices.flatMap(({ evictedIds }) => evictedIds),
      idsOf(...cold),
    );
    const left = traces.filter((_, i) => i % 4 === 1);
    assert.deepEqual(
      round().flatMap(({ evictedIds }) => evictedIds),
      idsOf(...left),
      'the next round makes the next pass',
    );
  });

  it('lets a host drop its own references by the ids in the report', () => {
    const traces = new Map(arena.install(Array.from({ length: 500 }, () => step(1))).map((trace) => [trace.id, trace]));
    pass(arena);
    let n = 0;
    for (const trace of traces.values()) if (n++ % 3 === 0) runs.from(trace, 0);
    for (const id of pass(arena)) assert.ok(traces.delete(id));
    assert.deepEqual(
      [...traces.keys()].sort(),
      arena
        .executors()
        .map(({ id }) => id)
        .sort(),
    );
    assert.equal(traces.size, 167);
  });

  it('clears the valid byte of what it ends', () => {
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      pass(arena);
      pass(arena);
    });
    const trace = arena.install(
      new Code().warm().mark(1).callKeepingContext(host).exitIfInvalid(1).exitWhileToTake(0).done().spec(),
    );
    assert.deepEqual(runs.from(trace, 1).exit, { executor: trace.id, exit: 1, hot: false });
  });
});

/** A few traps where memory is free, in code, data and state. */
function fillSome(arena: Arena): void {
  const traps = new Uint8Array(64).fill(0xcc);
  arena.install(Array.from({ length: 100 }, () => ({ code: traps, data: traps, state: traps })));
}

describe('the figures of size classes', () => {
  const classOf = (arena: Arena, bytes: number) => arena.stats().sizeClasses.find(({ upTo }) => bytes <= upTo);
  const trace = (more: Partial<ExecutorSpec> = {}) => step(1, more);
  const sum = (arena: Arena, key: 'count' | 'bytes' | 'exits' | 'loops' | 'diedCold' | 'diedColdLoops') =>
    arena.stats().sizeClasses.reduce((total, sizeClass) => total + sizeClass[key], 0);

  it('begin at 64 bytes of code and data, and double', () => {
    using arena = new Arena();
    assert.deepEqual(arena.stats().sizeClasses, []);
    arena.install({ code: 3000, data: 100 });
    assert.deepEqual(
      arena.stats().sizeClasses.map(({ upTo }) => upTo),
      [64, 128, 256, 512, 1024, 2048, 4096],
    );
    for (const [bytes, upTo] of [
      [1, 64],
      [64, 64],
      [65, 128],
      [128, 128],
      [4096, 4096],
      [4097, 8192],
    ] as const) {
      const before = classOf(arena, bytes)?.count ?? 0;
      const executor = arena.install({ code: bytes });
      assert.equal(classOf(arena, bytes)?.upTo, upTo);
      assert.equal(classOf(arena, bytes)?.count, before + 1);
      executor.free();
      assert.equal(classOf(arena, bytes)?.count, before);
    }
  });

  it('count live executors, their bytes and their exits', () => {
    using arena = new Arena();
    const size = (trace().code as Uint8Array).length;
    const small = arena.install([trace(), trace({ exits: 7 }), { code: 5 }]);
    const large = arena.install(trace({ data: 1000, exits: 3 }));
    arena.allocate(trace()); // not frozen
    assert.deepEqual(classOf(arena, 64), {
      upTo: 64,
      count: 3,
      bytes: 2 * size + 5,
      exits: 8,
      loops: 0,
      diedCold: 0,
      diedColdLoops: 0,
    });
    assert.deepEqual(classOf(arena, 1024 + size), {
      upTo: 2048,
      count: 1,
      bytes: 1000 + size,
      exits: 3,
      loops: 0,
      diedCold: 0,
      diedColdLoops: 0,
    });
    arena.free([...small, large]);
    for (const key of ['count', 'bytes', 'exits'] as const) assert.equal(sum(arena, key), 0);
    assert.equal(sum(arena, 'diedCold'), 0, 'what was freed has not died cold');
  });

  it('count every member of every loop of links, as long as it is one', () => {
    using arena = new Arena();
    const traces = arena.install(Array.from({ length: 7 }, () => trace())) as Executor[];
    const link = (...path: number[]) => {
      for (let i = 1; i < path.length; i++) arena.link(traces[path[i - 1]!]!, 0, traces[path[i]!]!);
    };
    const loops = () => sum(arena, 'loops');
    link(0, 1, 2);
    assert.equal(loops(), 0);
    link(2, 0);
    assert.equal(loops(), 3);
    link(3, 0); // leads into the loop, and is not in it
    assert.equal(loops(), 3);
    link(4, 4);
    link(5, 6, 5);
    assert.equal(loops(), 6);
    arena.unlink(traces[1]!, 0);
    assert.equal(loops(), 3);
    arena.free(traces[6]!);
    assert.equal(loops(), 1);
    arena.unlinkAll();
    assert.equal(loops(), 0);
  });

  it('count loops that share a trace, over exits of any number', () => {
    using arena = new Arena();
    const traces = arena.install(Array.from({ length: 6 }, () => trace({ exits: 3 }))) as Executor[];
    const link = (from: number, exit: number, to: number) => arena.link(traces[from]!, exit, traces[to]!);
    link(0, 0, 1);
    link(0, 1, 2);
    link(1, 2, 0);
    link(2, 1, 3);
    assert.equal(sum(arena, 'loops'), 2);
    link(3, 0, 0);
    link(3, 1, 4);
    link(4, 0, 5);
    assert.equal(sum(arena, 'loops'), 4);
    link(5, 2, 4);
    assert.equal(sum(arena, 'loops'), 6);
    arena.unlink(traces[1]!, 2);
    assert.equal(sum(arena, 'loops'), 5);
  });

  it('agree with a plain search on random links', () => {
    let seed = Number(process.env.JIT_ARENA_SEED ?? Date.now() % 2 ** 31);
    console.log(`      JIT_ARENA_SEED=${seed}`);
    const below = (n: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * n);
    };
    using arena = new Arena();
    const count = 24;
    const traces = arena.install(
      Array.from({ length: count }, (_, i) => trace({ exits: 2, makesProgress: i % 5 === 0 })),
    ) as Executor[];
    const links = new Map<number, number>(); // exit → trace; exit = 2 × trace + number
    const targets = (from: number) => [2 * from, 2 * from + 1].flatMap((exit) => links.get(exit) ?? []);
    const reaches = (from: number, to: number) => {
      const seen = new Set<number>();
      const open = [from];
      for (let at = open.pop(); at !== undefined; at = open.pop()) {
        for (const next of targets(at)) {
          if (next === to) return true;
          if (!seen.has(next)) open.push(next);
          seen.add(next);
        }
      }
      return false;
    };
    const depth = (of: number, path: readonly number[] = []): number => {
      if (of % 5 === 0) return 0;
      if (path.includes(of)) return Infinity;
      const sources = traces.flatMap((_, from) => (targets(from).includes(of) ? [from] : []));
      return Math.max(0, ...sources.map((from) => depth(from, [...path, of]) + 1));
    };
    for (let round = 0; round < 400; round++) {
      const exit = below(2 * count);
      if (below(2) === 0) {
        arena.unlink(traces[exit >> 1]!, exit & 1);
        links.delete(exit);
      } else {
        const to = below(count);
        arena.link(traces[exit >> 1]!, exit & 1, traces[to]!);
        links.set(exit, to);
      }
      const looping = traces.filter((_, i) => reaches(i, i)).length;
      assert.equal(sum(arena, 'loops'), looping, `round ${round}`);
      if (round % 20 !== 0 || links.size > 30) continue;
      assert.deepEqual(
        traces.map((executor) => arena.chainDepth(executor)),
        traces.map((_, i) => depth(i)),
      );
    }
  });

  it('count who died cold, and apart who did so in a loop', () => {
    using arena = new Arena();
    const runs = new Runs(arena);
    const [alone, self, a, b, kept] = arena.install(Array.from({ length: 5 }, () => trace())) as [
      Executor,
      Executor,
      Executor,
      Executor,
      Executor,
    ];
    const large = arena.install(trace({ data: 1000 }));
    arena.link(self, 0, self);
    arena.link(a, 0, b);
    arena.link(b, 0, a);
    pass(arena);
    runs.from(kept, 0);
    assert.deepEqual(pass(arena).sort(), idsOf(alone, self, a, b, large).sort());
    const figures = ({
      count,
      diedCold,
      diedColdLoops,
    }: {
      count: number;
      diedCold: number;
      diedColdLoops: number;
    }) => [count, diedCold, diedColdLoops];
    assert.deepEqual(figures(classOf(arena, 64)!), [1, 4, 3]);
    assert.deepEqual(figures(classOf(arena, 2048)!), [0, 1, 0]);
    assert.equal(arena.stats().evicted, 5);
    // They count since the arena was made.
    pass(arena);
    assert.deepEqual(figures(classOf(arena, 64)!), [0, 5, 3]);
  });

  it('keeps a trace that asks whether it is valid and says nothing of warmth', () => {
    using arena = new Arena();
    const test = Uint8Array.of(0x80, 0x3d, 0, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0); // cmp byte [rip + valid], 0; jmp done
    const trace = arena.install({
      code: test,
      relocs: [
        { offset: 2, kind: 'R_X86_64_PC32', target: { own: 'valid' }, addend: -5 },
        { offset: 8, kind: 'R_X86_64_PLT32', target: 'done', addend: -4 },
      ],
    });
    for (let i = 0; i < 3; i++) assert.deepEqual(pass(arena), []);
    assert.equal(trace.state, 'frozen');
  });

  it('has what it gives back, and how long it takes, in the figures of its collect', () => {
    using arena = new Arena();
    for (let i = 0; i < 2000; i++) arena.install(step(i, { data: 2000 }));
    arena.collect({ evictCold: true });
    const { committedBytes, pauses } = arena.stats();
    const before = performance.now();
    const { evicted, pagesFreed, pauseMicros } = arena.collect({ evictCold: true });
    const wall = (performance.now() - before) * 1000;
    const after = arena.stats();
    assert.equal(evicted, 2000);
    assert.equal(pagesFreed, (committedBytes - after.committedBytes) / machine.pageBytes);
    assert.ok(pagesFreed > 500);
    // Retiring 2 000 is most of it.
    assert.ok(pauseMicros > wall / 20 && pauseMicros <= wall, `${pauseMicros} of ${wall}`);
    assert.ok(Math.abs(after.pauses.totalMicros - pauses.totalMicros - pauseMicros) < 1);
  });

  it('refuse nobody: a trace may be one jump long', () => {
    using arena = new Arena();
    const [tiny] = arena.install([new Code().done().spec()]) as [Executor];
    assert.equal(arena.runner(new Uint8Array(8))(tiny), 0);
    assert.deepEqual(classOf(arena, 64)?.bytes, 5);
  });
});

describe('evictCold in a full arena', () => {
  it('makes room for what is compiled next', () => {
    const options: ArenaOptions = { maxBytes: 1 << 20 };
    using arena = new Arena(options);
    const traces: Executor[] = [];
    for (let n = 0; n < 200; n++) traces.push(arena.install(step(1, { data: 1500 })));
    fillWithTraps(arena);
    const another = step(2, { data: 100_000 });
    assert.throws(() => arena.install(another), { code: 'ERR_ARENA_FULL' });
    pass(arena);
    assert.throws(() => arena.install(another), { code: 'ERR_ARENA_FULL' });
    assert.equal(pass(arena).length, traces.length);
    assert.equal(new Runs(arena).from(arena.install(another), 0).trail, 2);
  });
});
