// A trace calls its host, and the host frees, invalidates, replaces, evicts or moves what is executing. The trace goes on
// where it was, and is right nevertheless: its bytes, its state and its exit records stay until it has left.
import assert from 'node:assert/strict';
import { Arena, type Executor } from 'jit-arena';
import { Code } from './support/assembler.js';
import { type Call, fillWithTraps, Runs, step, stepThatCalls } from './support/trace-code.js';
import { assertSound, type Writer, withEachWriter } from './support/writers.js';
import { scatter } from './support/x64.js';

type Role = 'caller' | 'running' | 'target';
const roles: readonly Role[] = ['caller', 'running', 'target'];
const whom: Record<string, readonly Role[]> = {
  itself: ['running'],
  'its caller': ['caller'],
  'its link target': ['target'],
  'all three of them': roles,
};

/** The caller is linked to the running trace, which calls the host, the first time, and is linked to the target. */
class Chain {
  readonly arena: Arena;
  readonly runs: Runs;
  readonly of: Record<Role, Executor>;
  readonly spare: Executor;

  constructor(writer: Writer, call: Call, host: (chain: Chain) => void, evictable: readonly Role[] = []) {
    // Small enough to be filled up.
    this.arena = new Arena({ writer, maxBytes: 1 << 20, maxRetiredBytes: 1 << 20 });
    this.runs = new Runs(this.arena);
    let calls = 0;
    const callback = this.arena.callback({ args: [], returns: 'void' }, () => {
      if (calls++ === 0) host(this);
    });
    const can = (role: Role) => ({ evictable: evictable.includes(role) });
    // Scattered, so that a collect moves all of them.
    const [caller, running, target, spare] = scatter(this.arena, [
      step(1, can('caller')),
      stepThatCalls(2, callback, call, can('running')),
      step(3, can('target')),
      step(9, { evictable: false }),
    ]) as [Executor, Executor, Executor, Executor];
    this.of = { caller, running, target };
    this.spare = spare;
    this.arena.link(caller, 0, running);
    this.arena.link(running, 0, target);
  }

  /** Runs all three, and takes the exit of the last one. */
  run() {
    const { trail, exit } = this.runs.from(this.of.caller, 9);
    const from = [...roles, undefined].find((role) => (role ? this.of[role] : this.spare).id === exit?.executor);
    return { trail, exit: exit?.exit, from: from ?? 'spare' };
  }

  [Symbol.dispose](): void {
    assertSound(this.arena);
    this.arena.dispose();
  }
}

const ends: Record<string, (chain: Chain, roles: readonly Role[]) => void> = {
  frees: ({ arena, of }, roles) => arena.free(roles.map((role) => of[role])),
  invalidates: ({ arena, of }, roles) => roles.forEach((role) => void arena.invalidate(of[role])),
  evicts: ({ arena, of }, roles) => {
    // The first pass finds warm what has just run; the second finds it cold, also while it runs.
    arena.collect({ evictCold: true, compact: false });
    const { evictedIds } = arena.collect({ evictCold: true });
    assert.deepEqual(evictedIds.sort(), roles.map((role) => of[role].id).sort());
  },
};

withEachWriter('a trace that is executing', (writer) => {
  for (const call of ['callKeepingContext', 'callThroughC'] as const) {
    const how = call === 'callKeepingContext' ? '' : ', through a C function,';

    for (const [does, end] of Object.entries(ends)) {
      for (const [words, dying] of Object.entries(whom)) {
        it(`is right when the host${how} ${does} ${words}`, () => {
          const addresses: bigint[] = [];
          using chain = new Chain(
            writer,
            call,
            (chain) => {
              const { arena, of } = chain;
              const dead = dying.map((role) => of[role]);
              addresses.push(...dead.map(({ address }) => address));
              end(chain, dying);
              arena.collect();
              assert.ok(fillWithTraps(arena).length > 10);
              dead.forEach(({ id, state }, i) => {
                assert.equal(state, 'retired');
                assert.throws(() => arena.executor(id), { code: 'ERR_ARENA_STALE_EXECUTOR' });
                // Also the others wait: this thread is inside the arena, and nobody knows where.
                assert.equal(arena.find(addresses[i]!)?.executor, id, 'its memory waits');
                assert.equal(arena.find(addresses[i]!)?.retired, true);
              });
            },
            dying,
          );
          const { arena, of } = chain;
          // Behind the call: to the target, unless the link has died with one of its ends.
          const linked = !dying.includes('running') && !dying.includes('target');
          const expected = linked ? { trail: 1223, exit: 0, from: 'target' } : { trail: 122, exit: 0, from: 'running' };
          assert.deepEqual(chain.run(), expected);
          for (const role of dying) {
            assert.throws(() => chain.runs.from(of[role], 0), { code: 'ERR_ARENA_STALE_EXECUTOR' });
          }
          // The run is over: the memory is free, and used again.
          arena.collect();
          assert.equal(arena.stats().retiredBytes, 0);
          for (const address of addresses) assert.equal(arena.find(address), undefined);
          assert.ok(fillWithTraps(arena).length > 0);
          if (dying.includes('caller')) return;
          const again = dying.includes('running')
            ? { trail: 1, exit: 0, from: 'caller' }
            : { trail: 122, exit: 0, from: 'running' };
          assert.deepEqual(chain.run(), dying.includes('target') || dying.includes('running') ? again : expected);
        });
      }
    }

    for (const [words, replaced] of Object.entries(whom)) {
      it(`is right when the host${how} replaces ${words}`, () => {
        using chain = new Chain(writer, call, ({ arena, of, spare }) => {
          for (const role of replaced) arena.replace(of[role], spare);
          arena.collect();
          fillWithTraps(arena);
        });
        const behind = replaced.includes('target')
          ? { trail: 1229, exit: 0, from: 'spare' }
          : { trail: 1223, exit: 0, from: 'target' };
        assert.deepEqual(chain.run(), behind);
        // What was replaced is alive, and nothing leads to it any more.
        assert.deepEqual(chain.run(), replaced.includes('running') ? { trail: 19, exit: 0, from: 'spare' } : behind);
        for (const role of replaced) assert.equal(chain.of[role].state, 'frozen');
      });
    }

    it(`is right when the host${how} moves it, its caller and its link target, again and again`, () => {
      const places = new Set<bigint>();
      using chain = new Chain(writer, call, ({ arena, of }) => {
        const before = roles.map((role) => of[role].address);
        assert.ok(arena.collect().moved >= 3);
        roles.forEach((role, i) => {
          assert.notEqual(of[role].address, before[i]);
          places.add(before[i]!);
        });
        fillWithTraps(arena);
        for (const place of before) assert.equal(arena.find(place)?.retired, true);
      });
      assert.deepEqual(chain.run(), { trail: 1223, exit: 0, from: 'target' });
      assert.equal(places.size, 3);
      // State does not move: the old copy's count is the new one's.
      assert.equal(chain.of.running.read('state')[0], 1);
    });

    it(`is right when the host${how} unlinks everything`, () => {
      using chain = new Chain(writer, call, ({ arena }) => {
        arena.unlinkAll();
        fillWithTraps(arena);
      });
      assert.deepEqual(chain.run(), { trail: 122, exit: 0, from: 'running' });
      assert.deepEqual(chain.run(), { trail: 1, exit: 0, from: 'caller' });
    });

    it(`is right when the host${how} links it elsewhere, to what it has just installed`, () => {
      using chain = new Chain(writer, call, ({ arena, of }) => {
        const [first, second] = arena.install([step(5), step(6)]) as [Executor, Executor];
        arena.link(of.running, 0, first);
        arena.link(first, 0, second);
        arena.link(second, 0, of.target);
        of.caller.free();
      });
      assert.deepEqual(chain.run(), { trail: 122563, exit: 0, from: 'target' });
    });
  }

  it('in a loop of links that is freed while it goes round leaves it at its next exit', () => {
    using arena = new Arena({ writer, maxBytes: 1 << 20, maxRetiredBytes: 1 << 20 });
    const runs = new Runs(arena);
    let calls = 0;
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      if (++calls !== 100) return;
      arena.free([even, odd]);
      fillWithTraps(arena);
    });
    // Not the decimal trail: inc qword [rdi + 16]
    const turn = () => new Code().warm().put(0x48, 0xff, 0x47, 16).callKeepingContext(host).exit(0).spec();
    const [even, odd] = arena.install([turn(), turn()]) as [Executor, Executor];
    arena.link(even, 0, odd);
    arena.link(odd, 0, even);
    assert.deepEqual(runs.from(even, 0).exit, { executor: odd.id, exit: 0, hot: false });
    assert.equal(runs.context[2], 100n);
    assert.equal(arena.exitTag(1), 0); // the host needs it all the same
    assertSound(arena);
  });

  it('may become hot at the exit of what was freed meanwhile', () => {
    using arena = new Arena({ writer, exitThreshold: 1 });
    const runs = new Runs(arena);
    const host = arena.callback({ args: [], returns: 'void' }, () => trace.free());
    const trace: Executor = arena.install(stepThatCalls(2, host));
    assert.deepEqual(runs.from(trace, 1).exit, { executor: trace.id, exit: 0, hot: true });
  });
});

withEachWriter('nested runs', (writer) => {
  it('are right at every level when the innermost collects, evicts, frees and fills everything', () => {
    using arena = new Arena({ writer, maxBytes: 1 << 20, maxRetiredBytes: 1 << 20 });
    const depth = 12;
    let level = 0;
    const ran: unknown[] = [];
    const addresses: bigint[] = [];
    // The host runs the trace of the next level; each level has a context of its own.
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      if (++level < depth) {
        ran[level] = new Runs(arena).from(traces[level]!, 9);
      } else {
        addresses.push(...[...traces, ...targets].map(({ address }) => address));
        arena.collect({ evictCold: true }); // nothing: all have just run, or are new
        arena.collect({ evictCold: true }); // the targets, and every third trace
        for (const [i, trace] of traces.entries()) {
          if (i % 3 === 1) trace.free();
          if (i % 3 === 2) arena.invalidate(trace);
        }
        assert.equal(arena.stats().executors, 0);
        assert.ok(fillWithTraps(arena).length > 10);
        for (const address of addresses) assert.equal(arena.find(address)?.retired, true);
      }
    });
    const traces = scatter(
      arena,
      Array.from({ length: depth }, (_, i) =>
        stepThatCalls(1 + (i % 9), host, i % 2 ? 'callKeepingContext' : 'callThroughC', { evictable: i % 3 === 0 }),
      ),
    );
    const targets = scatter(
      arena,
      Array.from({ length: depth }, () => step(9)),
    );
    traces.forEach((trace, i) => void arena.link(trace, 0, targets[i]!));
    ran[0] = new Runs(arena).from(traces[0]!, 9);
    assert.deepEqual(
      ran,
      traces.map(({ id }, i) => ({ trail: 11 * (1 + (i % 9)), exit: { executor: id, exit: 0, hot: false } })),
    );
    arena.collect();
    assert.equal(arena.stats().retiredBytes, 0);
    assertSound(arena);
  });

  it('of one trace, in a recursion, survive that it is moved at every level and freed at the bottom', () => {
    using arena = new Arena({ writer, maxBytes: 4 << 20, maxRetiredBytes: 4 << 20 });
    const depth = 30;
    let level = 0;
    let moved = 0;
    const results: unknown[] = [];
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      const mine = ++level;
      // Something around it dies, so that there is something to do.
      arena.free(padding.splice(0, 60));
      const before = trace!.address;
      arena.collect();
      if (trace!.address !== before) moved++;
      if (mine < depth) results[mine] = new Runs(arena).from(trace!, 1);
      else {
        trace!.free();
        fillWithTraps(arena);
      }
    });
    const padding: Executor[] = [];
    const pad = () =>
      padding.push(
        ...arena.install(Array.from({ length: 60 * depth }, () => ({ code: new Uint8Array(400).fill(0xcc) }))),
      );
    pad();
    const [trace] = scatter(arena, [stepThatCalls(4, host)]);
    results[0] = new Runs(arena).from(trace!, 1);
    const exit = { executor: trace!.id, exit: 0, hot: false };
    assert.deepEqual(
      results,
      Array.from({ length: depth }, () => ({ trail: 44, exit })),
    );
    assert.ok(moved > 0);
    assertSound(arena);
  });

  it('in another arena change nothing in this one', () => {
    using arena = new Arena({ writer });
    using other = new Arena({ writer });
    const inner = other.install(step(7));
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      assert.equal(new Runs(other).from(inner, 1).trail, 7);
      inner.free();
      other.collect();
      assert.equal(other.stats().retiredBytes, 0, 'nobody is inside the other arena');
      trace.free();
      assert.ok(arena.stats().retiredBytes > 0);
    });
    const trace: Executor = arena.install(stepThatCalls(2, host));
    assert.equal(new Runs(arena).from(trace, 1).exit?.executor, trace.id);
  });

  it('whose callback throws end all levels, each as it would have ended', () => {
    using arena = new Arena({ writer });
    let level = 0;
    const contexts: bigint[][] = [];
    const host = arena.callback({ args: [], returns: 'void' }, () => {
      if (++level === 5) throw new Error('at the bottom');
      const runs = new Runs(arena);
      try {
        runs.from(trace, 1);
      } finally {
        contexts.push([...runs.context.subarray(0, 2)]);
      }
    });
    const trace: Executor = arena.install(stepThatCalls(3, host));
    assert.throws(() => new Runs(arena).from(trace, 1), /at the bottom/);
    assert.deepEqual(
      contexts,
      Array.from({ length: 4 }, () => [33n, 0n]),
    );
    arena.dispose(); // no pin has stayed
  });
});
