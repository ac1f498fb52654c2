// Links: exits that jump straight to another trace, and what becomes of them when either end moves or dies.
import assert from 'node:assert/strict';
import { Arena, type ArenaOptions, type Executor, type ExecutorSpec } from 'jit-arena';
import { Code } from './support/assembler.js';
import { peekBytes } from './support/peek.js';
import { exitsToTake, Runs, step, stepThatCalls } from './support/trace-code.js';
import { assertSound, withEachWriter } from './support/writers.js';
import { constant, scatter } from './support/x64.js';

/** Traces with the digits 1, 2, 3, … */
const steps = (arena: Arena, count: number, more: Partial<ExecutorSpec> = {}): Executor[] =>
  arena.install(Array.from({ length: count }, (_, i) => step(i + 1, more)));

function linkInCycle(executors: readonly Executor[]): void {
  for (const [i, executor] of executors.entries()) {
    executor.arena.link(executor, 0, executors[(i + 1) % executors.length]!);
  }
}

withEachWriter('a link', (writer) => {
  let arena: Arena;
  let runs: Runs;
  const make = (options: ArenaOptions = {}) => {
    arena?.dispose();
    arena = new Arena({ writer, ...options });
    runs = new Runs(arena);
  };
  beforeEach(() => make());
  afterEach(() => {
    assertSound(arena);
    arena.dispose();
  });
  const cold = (executor: Executor, exit = 0) => ({ executor: executor.id, exit, hot: false });

  it('leads from an exit straight to another trace, until it is unlinked', () => {
    const [a, b, c] = steps(arena, 3) as [Executor, Executor, Executor];
    assert.deepEqual(runs.from(a, 9), { trail: 1, exit: cold(a) });
    assert.equal(arena.linkOf(a, 0), undefined);
    arena.link(a, 0, b);
    assert.deepEqual(runs.from(a, 9), { trail: 12, exit: cold(b) });
    arena.link(b, 0, c);
    assert.deepEqual(runs.from(a, 9), { trail: 123, exit: cold(c) });
    assert.deepEqual(runs.from(a, 2), { trail: 123, exit: undefined });
    assert.deepEqual(runs.from(a, 1), { trail: 12, exit: undefined });
    assert.equal(arena.linkOf(a, 0)?.executor.id, b.id);
    assert.equal(arena.linkOf(a, 0)?.entry, 0);
    arena.unlink(a, 0);
    assert.equal(arena.linkOf(a, 0), undefined);
    assert.deepEqual(runs.from(a, 9), { trail: 1, exit: cold(a) });
    assert.deepEqual(runs.from(b, 9), { trail: 23, exit: cold(c) }, 'the other link stays');
  });

  it('replaces an earlier one of the same exit', () => {
    const [a, b, c] = steps(arena, 3) as [Executor, Executor, Executor];
    for (const [target, trail] of [
      [b, 12],
      [c, 13],
      [c, 13],
      [a, 11],
      [b, 12],
    ] as const) {
      arena.link(a, 0, target);
      assert.equal(runs.from(a, 1).trail, trail);
      assert.equal(arena.linkOf(a, 0)?.executor.id, target.id);
    }
    // Only the last one holds: the death of the others changes nothing.
    arena.free(c);
    assert.equal(runs.from(a, 1).trail, 12);
  });

  it('may lead to the trace itself, and in cycles', () => {
    const [a, b, c] = steps(arena, 3) as [Executor, Executor, Executor];
    arena.link(a, 0, a);
    assert.deepEqual(runs.from(a, 4), { trail: 11111, exit: undefined });
    arena.link(a, 0, b);
    arena.link(b, 0, a);
    assert.deepEqual(runs.from(a, 4), { trail: 12121, exit: undefined });
    arena.link(b, 0, c);
    arena.link(c, 0, a);
    assert.deepEqual(runs.from(b, 6), { trail: 2312312, exit: undefined });
  });

  it('leads to the entry that is asked for', () => {
    const part = (digit: number) => new Code().mark(digit).exitWhileToTake(0).done();
    const size = part(1).size;
    const both = part(7).mark(8).exitWhileToTake(0).done();
    const target = arena.install(both.spec({ entries: [size, 0, size, 0] }));
    const [a] = steps(arena, 1) as [Executor];
    for (const [entry, trail] of [
      [undefined, 18],
      [0, 18],
      [1, 17],
      [2, 18],
      [3, 17],
    ] as const) {
      arena.link(a, 0, target, entry === undefined ? {} : { entry });
      assert.equal(runs.from(a, 1).trail, trail);
      assert.equal(arena.linkOf(a, 0)?.entry, entry ?? 0);
    }
    for (const entry of [4, 2 ** 32, -1, 0.5]) {
      assert.throws(() => arena.link(a, 0, target, { entry }), { code: 'ERR_ARENA_BOUNDS' });
    }
    assert.throws(() => arena.link(a, 0, target, { entry: '1' as never }), TypeError);
    assert.throws(() => arena.link(target, 0, a, { entry: 1 }), { code: 'ERR_ARENA_BOUNDS' });
    assert.equal(arena.linkOf(a, 0)?.entry, 3, 'what is refused changes nothing');
  });

  it('is one aligned store of 8 bytes: no byte of code changes, and no memory is taken', () => {
    const [a, b] = steps(arena, 2) as [Executor, Executor];
    const host = arena.callback({ args: [], returns: 'void' }, () => {});
    arena.install(stepThatCalls(5, host)); // with a far slot, and a thunk
    const slabs = arena.slabs();
    const backed = slabs.flatMap(({ kind, address, backed, bytes }) =>
      backed.flatMap((there, page) =>
        there
          ? [{ kind, address: address + BigInt((page * bytes) / backed.length), bytes: bytes / backed.length }]
          : [],
      ),
    );
    assert.ok(backed.some(({ kind }) => kind === 'code') && backed.some(({ kind }) => kind === 'fixed-code'));
    const read = () => backed.map(({ address, bytes }) => peekBytes(address, bytes));
    const { committedBytes, moves } = arena.stats();
    const codes = [a, b].map((executor) => executor.read('code'));
    /** Offsets in state of the bytes that a call changes, in words of 8. */
    const wordsChanged = (call: () => void) => {
      const before = read();
      call();
      const words = new Set<bigint>();
      read().forEach((bytes, i) => {
        const { kind, address } = backed[i]!;
        bytes.forEach((byte, at) => {
          if (byte === before[i]![at]) return;
          assert.equal(kind, 'state', 'a byte of code has changed');
          words.add((address + BigInt(at)) / 8n);
        });
      });
      return words.size;
    };
    assert.equal(
      wordsChanged(() => arena.link(a, 0, b)),
      1,
    );
    assert.equal(runs.from(a, 1).trail, 12);
    assert.equal(
      wordsChanged(() => arena.link(a, 0, b)),
      0,
    );
    assert.equal(
      wordsChanged(() => arena.replace(b, a)),
      1,
    );
    assert.equal(
      wordsChanged(() => arena.unlink(a, 0)),
      1,
      'its temperature is that of a new exit already',
    );
    assert.equal(
      wordsChanged(() => arena.unlinkAll()),
      0,
    );
    assert.deepEqual(
      [a, b].map((executor) => executor.read('code')),
      codes,
    );
    assert.deepEqual([arena.stats().committedBytes, arena.stats().moves], [committedBytes, moves]);
  });

  for (const layout of ['together', 'apart'] as const) {
    it(`follows the moves of its source and its target, with layout ${layout}`, () => {
      make({ layout });
      const first = new Code().warm().mark(2).exitWhileToTake(0).done();
      const entries = [0, first.size];
      const second = first.mark(3).exitWhileToTake(0).done();
      const data = new Uint8Array(800).fill(1);
      // Scattered over their slabs; and when most of them have died, over what is left.
      const groups = Array.from({ length: 10 }, () => {
        const [a, b, self] = scatter(arena, [step(1, { data }), second.spec({ entries, data }), step(4, { data })]);
        arena.link(a!, 0, b!, { entry: 1 });
        arena.link(b!, 0, a!);
        arena.link(self!, 0, self!);
        return [a, b, self] as [Executor, Executor, Executor];
      });
      for (const living of [groups, groups.filter((_, i) => i % 5 === 2)]) {
        arena.free(groups.filter((group) => !living.includes(group)).flat());
        const before = living.map((group) => group.map(({ address }) => address));
        arena.collect();
        const stayed = living.filter((group, i) => group.some(({ address }, j) => address === before[i]![j]));
        assert.ok(stayed.length <= living.length / 3, `${stayed.length} of ${living.length} have not moved`);
        for (const [a, b, self] of living) {
          assert.deepEqual(runs.from(a, 3), { trail: 1313, exit: undefined });
          assert.deepEqual(runs.from(self, 2), { trail: 444, exit: undefined });
          assert.deepEqual([arena.linkOf(a, 0)?.executor.id, arena.linkOf(a, 0)?.entry], [b.id, 1]);
        }
        assertSound(arena);
      }
    });
  }

  it('to a writable, retired, or foreign executor, or one that is no trace, is refused, and changes nothing', () => {
    using other = new Arena();
    const [a, b, gone] = steps(arena, 3) as [Executor, Executor, Executor];
    gone.free();
    arena.link(a, 0, b);
    const writable = arena.allocate(step(4));
    const [foreign] = steps(other, 1) as [Executor];
    const plain = arena.install({ code: constant(1) });
    const refusals: [Executor, string][] = [
      [writable, 'ERR_ARENA_NOT_FROZEN'],
      [gone, 'ERR_ARENA_STALE_EXECUTOR'],
      [foreign, 'ERR_ARENA_FOREIGN_EXECUTOR'],
      [plain, 'ERR_ARENA_TRACE_ABI'],
    ];
    for (const [wrong, code] of refusals) {
      const details = { code, executor: wrong.id };
      assert.throws(() => arena.link(a, 0, wrong), details);
      assert.throws(() => arena.replace(b, wrong), details);
      // What is no trace has no exits to link, and none that are linked to it.
      const other = code === 'ERR_ARENA_TRACE_ABI' ? { code: 'ERR_ARENA_EXIT' } : details;
      assert.throws(() => arena.link(wrong, 0, a), other);
      assert.throws(() => arena.unlink(wrong, 0), other);
      assert.throws(() => arena.linkOf(wrong, 0), other);
      if (code === 'ERR_ARENA_TRACE_ABI') continue;
      assert.throws(() => arena.replace(wrong, b), details);
      assert.throws(() => arena.chainDepth(wrong), details);
      if (code !== 'ERR_ARENA_NOT_FROZEN') assert.throws(() => arena.invalidate(wrong), details);
    }
    for (const wrong of [undefined, null, 5, {}]) {
      assert.throws(() => arena.link(wrong as never, 0, a), /TypeError|belongs to another arena/);
      assert.throws(() => arena.link(a, 0, wrong as never), /TypeError|belongs to another arena/);
    }
    assert.equal(runs.from(a, 1).trail, 12);
  });

  it('of an exit that the executor does not have is refused', () => {
    const [a, b] = steps(arena, 2) as [Executor, Executor];
    for (const exit of [1, 65535, 65536, 2 ** 32, -1, 0.5, NaN]) {
      const details = { code: 'ERR_ARENA_EXIT', executor: a.id };
      assert.throws(() => arena.link(a, exit, b), details);
      assert.throws(() => arena.unlink(a, exit), details);
      assert.throws(() => arena.linkOf(a, exit), details);
    }
    for (const exit of ['0', 0n, undefined]) assert.throws(() => arena.link(a, exit as never, b), TypeError);
    const justDone = arena.install(new Code().done().spec());
    assert.throws(() => arena.link(justDone, 0, a), { code: 'ERR_ARENA_EXIT' });
    arena.link(a, 0, justDone);
    assert.deepEqual(runs.from(a, 5), { trail: 1, exit: undefined });
  });

  it('that does not exist is unlinked without anything happening', () => {
    const [a] = steps(arena, 1) as [Executor];
    arena.unlink(a, 0);
    arena.unlinkAll();
    assert.deepEqual(runs.from(a, 5), { trail: 1, exit: cold(a) });
  });

  it('ends with unlinkAll, as every link of the arena: also a loop that would never leave', () => {
    const executors = steps(arena, 3);
    linkInCycle(executors);
    let calls = 0;
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      if (++calls === 1000) arena.unlinkAll();
    });
    const loop = arena.install(stepThatCalls(7, host));
    arena.link(loop, 0, loop);
    assert.deepEqual(runs.from(loop, Number.MAX_SAFE_INTEGER).exit, cold(loop));
    assert.equal(calls, 1000);
    for (const executor of executors) assert.deepEqual(runs.from(executor, 5).exit, cold(executor));
    for (const executor of [...executors, loop]) assert.equal(arena.linkOf(executor, 0), undefined);
  });

  describe('when an end dies', () => {
    const deaths: [string, (executor: Executor) => void][] = [
      ['free', (executor) => executor.free()],
      ['invalidate', (executor) => arena.invalidate(executor)],
      [
        'eviction',
        (executor) => {
          // Two passes; what is not to die runs before each.
          const runAll = (but?: Executor) => {
            for (const other of arena.executors()) if (other.id !== but?.id) runs.from(other, 0);
          };
          runAll();
          assert.deepEqual(arena.collect({ evictCold: true, compact: false }).evictedIds, []);
          runAll(executor);
          assert.deepEqual(arena.collect({ evictCold: true, compact: false }).evictedIds, [executor.id]);
        },
      ],
    ];
    for (const [way, kill] of deaths) {
      it(`by ${way}: links to it return to the stub, links from it go`, () => {
        const [a, b, c] = steps(arena, 3) as [Executor, Executor, Executor];
        arena.link(a, 0, b);
        arena.link(c, 0, b);
        arena.link(b, 0, a);
        kill(b);
        assert.equal(b.state, 'retired');
        for (const executor of [a, c]) {
          assert.equal(arena.linkOf(executor, 0), undefined);
          assert.deepEqual(runs.from(executor, 3).exit, cold(executor));
        }
        assert.throws(() => runs.from(b, 0), { code: 'ERR_ARENA_STALE_EXECUTOR' });
        kill(a);
        kill(c);
        assert.equal(arena.stats().executors, 0);
        arena.collect();
        assert.equal(arena.stats().retiredBytes, 0, 'nothing keeps their memory');
      });

      it(`by ${way}: a cycle, and a trace that is linked to itself, die like anything else`, () => {
        const [a, b, self] = steps(arena, 3) as [Executor, Executor, Executor];
        arena.link(a, 0, b);
        arena.link(b, 0, a);
        arena.link(self, 0, self);
        assert.equal(runs.from(a, 3).trail, 1212);
        kill(self);
        kill(a);
        assert.deepEqual(runs.from(b, 3), { trail: 2, exit: cold(b) });
        kill(b);
        assert.equal(arena.stats().executors, 0);
        arena.collect();
        assert.deepEqual([arena.stats().retiredBytes, arena.stats().liveBytes], [0, 0]);
      });
    }

    it('all at once: a cycle in one free', () => {
      const executors = steps(arena, 9);
      linkInCycle(executors);
      arena.free(executors);
      assert.equal(arena.stats().executors, 0);
    });
  });

  describe('replace', () => {
    it('moves every link that led to a trace to another, and leaves the trace alive', () => {
      const [a, b, old, young] = steps(arena, 4) as [Executor, Executor, Executor, Executor];
      arena.link(a, 0, old);
      arena.link(b, 0, old);
      arena.link(old, 0, old);
      arena.replace(old, young);
      assert.deepEqual(
        [a, b, old].map((executor) => arena.linkOf(executor, 0)?.executor.id),
        [young.id, young.id, young.id],
      );
      assert.deepEqual(
        [a, b, old].map((executor) => runs.from(executor, 1).trail),
        [14, 24, 34],
      );
      assert.equal(old.state, 'frozen');
      old.free();
      assert.equal(runs.from(a, 1).trail, 14);
      assert.equal(arena.linkOf(young, 0), undefined);
    });

    it('by itself does nothing', () => {
      const [a, b] = steps(arena, 2) as [Executor, Executor];
      arena.link(a, 0, b);
      arena.link(b, 0, b);
      arena.replace(b, b);
      arena.replace(a, a);
      assert.equal(runs.from(a, 2).trail, 122);
    });

    it('of a trace that nothing links to does nothing', () => {
      const [a, b] = steps(arena, 2) as [Executor, Executor];
      arena.replace(a, b);
      assert.equal(runs.from(a, 1).trail, 1);
    });

    it('keeps the entry of each link, and moves none when one is missing', () => {
      const parts = (digits: number[]) => {
        const code = new Code();
        const entries = digits.map((digit) => {
          const offset = code.size;
          code.mark(digit).exitWhileToTake(0).done();
          return offset;
        });
        return code.spec({ entries });
      };
      const [a, b, c] = steps(arena, 3) as [Executor, Executor, Executor];
      const [old, same, fewer] = arena.install([parts([5, 6, 7]), parts([8, 9, 4]), parts([1, 2])]) as [
        Executor,
        Executor,
        Executor,
      ];
      arena.link(a, 0, old, { entry: 0 });
      arena.link(b, 0, old, { entry: 2 });
      arena.link(c, 0, old, { entry: 1 });
      const trails = () => [a, b, c].map((executor) => runs.from(executor, 1).trail);
      assert.deepEqual(trails(), [15, 27, 36]);
      assert.throws(() => arena.replace(old, fewer), { code: 'ERR_ARENA_BOUNDS', executor: fewer.id });
      assert.deepEqual(trails(), [15, 27, 36]);
      arena.replace(old, same);
      assert.deepEqual(trails(), [18, 24, 39]);
      arena.unlink(b, 0);
      arena.replace(same, fewer);
      assert.deepEqual(trails(), [11, 2, 32]);
    });
  });

  describe('invalidate', () => {
    it('ends a trace for good: its id is stale, and a second time is the error of any stale id', () => {
      const [a, b] = steps(arena, 2) as [Executor, Executor];
      arena.link(a, 0, b);
      const { address } = b;
      const run = arena.runner(runs.context);
      arena.invalidate(b);
      for (const use of [
        () => arena.invalidate(b),
        () => b.free(),
        () => run(b),
        () => arena.link(a, 0, b),
        () => arena.executor(b.id),
      ]) {
        assert.throws(use, { code: 'ERR_ARENA_STALE_EXECUTOR', executor: b.id });
      }
      assert.equal(arena.find(address), undefined, 'nobody was inside: its memory is free');
      assert.equal(arena.stats().retiredBytes, 0);
    });

    it('clears the valid byte, which the trace that is running reads', () => {
      const seen: string[] = [];
      let when = 0;
      const host = arena.callback({ args: [], returns: 'void' }, () => {
        if (--when === 0) {
          arena.invalidate(trace);
          seen.push(trace.state);
        }
      });
      // Loops through its own exit 0; leaves through exit 1 when it is not valid.
      const trace = arena.install(
        new Code().mark(1).callKeepingContext(host).exitIfInvalid(1).exitWhileToTake(0).done().spec(),
      );
      arena.link(trace, 0, trace);
      when = 0;
      assert.deepEqual(runs.from(trace, 2), { trail: 111, exit: undefined });
      when = 4;
      const { id } = trace;
      assert.deepEqual(runs.from(trace, 100), { trail: 1111, exit: { executor: id, exit: 1, hot: false } });
      assert.equal(runs.context[exitsToTake], 97n);
      assert.deepEqual(seen, ['retired']);
      assert.throws(() => runs.from(trace, 0), { code: 'ERR_ARENA_STALE_EXECUTOR' });
    });

    it('also is for a trace that is reached through a direct jump, which tests its valid byte: with its source', () => {
      const target = arena.install(new Code().exitIfInvalid(0).mark(2).done().spec());
      const source = arena.install(new Code().mark(1).jump(target).spec({ exits: 1 }));
      assert.equal(runs.from(source, 0).trail, 12);
      assert.throws(() => arena.invalidate(target), { code: 'ERR_ARENA_REFERENCED', executor: target.id });
      assert.equal(runs.from(source, 0).trail, 12, 'and nothing has changed');
      arena.free([source, target]);
    });

    it('of a writable executor ends it too', () => {
      const writable = arena.allocate(step(1));
      arena.invalidate(writable);
      assert.equal(writable.state, 'retired');
    });
  });
});

describe('chains of links', () => {
  const target = (arena: Arena) => steps(arena, 1)[0] as Executor;

  it('have a depth: links since the last trace that makes progress, or that nothing links to', () => {
    using arena = new Arena();
    const [a, b, c, d] = steps(arena, 4) as [Executor, Executor, Executor, Executor];
    const [progress] = steps(arena, 1, { makesProgress: true }) as [Executor];
    assert.deepEqual([a.makesProgress, progress.makesProgress], [false, true]);
    const depths = () => [a, b, c, d, progress].map((executor) => arena.chainDepth(executor));
    assert.deepEqual(depths(), [0, 0, 0, 0, 0]);
    arena.link(a, 0, b);
    arena.link(b, 0, c);
    arena.link(c, 0, progress);
    arena.link(progress, 0, d);
    assert.deepEqual(depths(), [0, 1, 2, 1, 0]);
    arena.link(d, 0, a);
    assert.deepEqual(depths(), [2, 3, 4, 1, 0], 'a cycle in which one makes progress');
    arena.link(c, 0, a);
    assert.deepEqual(depths(), [Infinity, Infinity, Infinity, 1, 0], 'and one in which none does');
    arena.unlink(b, 0);
    assert.deepEqual(depths(), [2, 3, 0, 1, 0]);
  });

  it('of 20 000 links have a depth, and links may be many to one', () => {
    using arena = new Arena();
    const executors = steps(arena, 1).concat(arena.install(Array.from({ length: 20_000 }, () => step(1))));
    for (let i = 1; i < executors.length; i++) arena.link(executors[i - 1]!, 0, executors[i]!);
    assert.equal(arena.chainDepth(executors.at(-1)!), 20_000);
    assert.equal(arena.stats().sizeClasses[0]?.loops, 0);
    arena.link(executors.at(-1)!, 0, executors[0]!);
    assert.equal(arena.chainDepth(executors[77]!), Infinity);
    assert.equal(arena.stats().sizeClasses[0]?.loops, 20_001);
    for (const executor of executors) arena.link(executor, 0, executors[5]!);
    assert.equal(arena.stats().sizeClasses[0]?.loops, 1);
    executors[5]!.free();
    assert.equal(arena.stats().sizeClasses[0]?.loops, 0);
    assertSound(arena);
  });

  it('without progress are refused by link beyond maxChainDepth, which changes nothing', () => {
    using arena = new Arena({ maxChainDepth: 2, exitThreshold: 3 });
    const runs = new Runs(arena);
    const [a, b, c, d] = steps(arena, 4) as [Executor, Executor, Executor, Executor];
    arena.link(a, 0, b);
    arena.link(b, 0, c);
    const refused = (source: Executor, to: Executor) =>
      assert.throws(() => arena.link(source, 0, to), { code: 'ERR_ARENA_CHAIN_DEPTH', executor: to.id });
    // The exit has been hot once, and two thirds of the way to the second time.
    const hot = () => runs.from(c, 1).exit?.hot;
    assert.deepEqual([1, 2, 3, 4, 5, 6, 7].map(hot), [false, false, true, false, false, false, false]);
    const before = arena.stats();
    refused(c, d);
    refused(c, a);
    refused(c, c);
    refused(a, a);
    assert.deepEqual(arena.stats(), before);
    assert.deepEqual([arena.linkOf(c, 0), arena.linkOf(a, 0)?.executor.id], [undefined, b.id]);
    assert.deepEqual([hot(), hot()], [false, true], 'the temperature is what it was');
    assert.equal(runs.from(a, 2).trail, 123);
    refused(d, a); // d would be in front of a chain of two
    arena.unlink(b, 0);
    arena.link(d, 0, a);
    assert.deepEqual(
      [d, a, b, c].map((executor) => arena.chainDepth(executor)),
      [0, 1, 2, 0],
    );
    refused(b, c);
    refused(b, d);
    assertSound(arena);
  });

  it('go on behind a trace that makes progress', () => {
    using arena = new Arena({ maxChainDepth: 1 });
    const [a, b] = steps(arena, 2) as [Executor, Executor];
    const [p, q] = steps(arena, 2, { makesProgress: true }) as [Executor, Executor];
    arena.link(a, 0, p);
    arena.link(p, 0, b);
    arena.link(b, 0, q);
    arena.link(q, 0, a);
    assert.deepEqual(
      [a, p, b, q].map((executor) => arena.chainDepth(executor)),
      [1, 0, 1, 0],
    );
    arena.link(p, 0, p);
    assert.throws(() => arena.link(b, 0, b), { code: 'ERR_ARENA_CHAIN_DEPTH' });
    assert.equal(arena.chainDepth(p), 0);
  });

  it('with maxChainDepth 0 end at each trace that makes no progress', () => {
    using arena = new Arena({ maxChainDepth: 0 });
    const [a, b] = steps(arena, 2) as [Executor, Executor];
    const [progress] = steps(arena, 1, { makesProgress: true }) as [Executor];
    assert.throws(() => arena.link(a, 0, b), { code: 'ERR_ARENA_CHAIN_DEPTH' });
    assert.throws(() => arena.link(progress, 0, b), { code: 'ERR_ARENA_CHAIN_DEPTH' });
    arena.link(a, 0, progress);
    arena.link(progress, 0, progress);
  });

  it('are not made by replace either: it moves all links or none', () => {
    using arena = new Arena({ maxChainDepth: 2 });
    const runs = new Runs(arena);
    const [a, b, old, young, behind] = steps(arena, 5) as [Executor, Executor, Executor, Executor, Executor];
    arena.link(a, 0, old);
    arena.link(young, 0, behind);
    arena.replace(old, young);
    assert.equal(runs.from(a, 2).trail, 145);
    arena.replace(young, old);
    assert.equal(runs.from(a, 1).trail, 13);
    arena.link(young, 0, a); // a, old: young would come behind a, which comes behind young
    assert.throws(() => arena.replace(old, young), { code: 'ERR_ARENA_CHAIN_DEPTH', executor: young.id });
    assert.equal(runs.from(a, 1).trail, 13);
    arena.link(young, 0, behind);
    arena.link(b, 0, a);
    assert.throws(() => arena.replace(old, young), { code: 'ERR_ARENA_CHAIN_DEPTH', executor: young.id });
    assert.equal(runs.from(b, 2).trail, 213);
  });

  it('have a limit that is a whole number, and none unless given', () => {
    using arena = new Arena();
    const a = target(arena);
    arena.link(a, 0, a);
    for (const maxChainDepth of [-1, 0.5, NaN, 2 ** 32])
      assert.throws(() => new Arena({ maxChainDepth }), { code: 'ERR_ARENA_SIZE' });
    assert.throws(() => new Arena({ maxChainDepth: '1' as never }), TypeError);
  });
});
