// What the collector does, and what the arena says of itself: to itself, and to the kernel.
import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs';
import { Arena, type Executor, type ExecutorSpec, machine, probe } from 'jit-arena';
import { callAndAdd, constant, jump, scatter, toI32 } from './support/x64.js';

/** Executors of many sizes that return their position; every fourth calls the one before it. */
function installMany(arena: Arena, count: number): Executor[] {
  const executors: Executor[] = [];
  for (let i = 0; i < count; i++) {
    const spec: ExecutorSpec = i % 4 === 3 ? callAndAdd(executors[i - 1]!, 1) : { code: constant(i) };
    const code = new Uint8Array(16 + ((i * 37) % 700));
    code.set(spec.code as Uint8Array);
    const state = new Uint8Array(i % 3 === 0 ? 24 : 0).fill(1);
    executors.push(arena.install({ ...spec, code, data: (i * 13) % 90, state }));
  }
  return executors;
}

/** Frees most: whole groups of four, so that no target goes without its source. Returns those that are left. */
function freeMost(arena: Arena, executors: Executor[]): { executor: Executor; f: () => number; value: number }[] {
  const stays = (i: number) => Math.floor(i / 4) % 10 === 0;
  arena.free(executors.filter((_, i) => !stays(i)));
  return executors.flatMap((executor, value) => (stays(value) ? [{ executor, f: executor.func(toI32), value }] : []));
}

function assertRight(arena: Arena, live: ReturnType<typeof freeMost>): void {
  for (const { f, value } of live) assert.equal(f(), value);
  const { ok, problems, broken } = arena.verify();
  assert.ok(ok, broken ?? problems.map(({ what }) => what).join());
}

describe('collect', () => {
  for (const layout of ['together', 'apart'] as const) {
    it(`packs what is left, with every executor right, with layout ${layout}`, () => {
      using arena = new Arena({ layout });
      const live = freeMost(arena, installMany(arena, 8000));
      assertRight(arena, live);
      const before = arena.stats();
      const result = arena.collect();
      const after = arena.stats();
      assertRight(arena, live);
      assert.equal(result.done, true);
      assert.ok(result.moved > live.length / 2, `${result.moved} of ${live.length} moved`);
      assert.equal(after.liveBytes, before.liveBytes);
      assert.equal(result.pagesFreed, (before.committedBytes - after.committedBytes) / machine.pageBytes);
      assert.ok(after.committedBytes < before.committedBytes / 4, `${before.committedBytes} → ${after.committedBytes}`);
      assert.equal(after.moves, result.moved);
      assert.equal(after.movedBytes, result.movedBytes);
      assert.equal(after.relocsRewritten, result.relocsRewritten);
      assert.equal(after.pauses.count, 1);
      assert.equal(after.pauses.totalMicros, result.pauseMicros);
    });
  }

  it('does what planCompaction says, which itself moves nothing', () => {
    using arena = new Arena();
    const live = freeMost(arena, installMany(arena, 8000));
    arena.collect({ compact: false });
    const before = arena.stats();
    const addresses = live.map(({ executor }) => executor.address);
    const plan = arena.planCompaction();
    assert.deepEqual(arena.planCompaction(), plan);
    assert.deepEqual(arena.stats(), before);
    assert.deepEqual(
      live.map(({ executor }) => executor.address),
      addresses,
    );
    assert.equal(plan.profitable, true);
    const result = arena.collect();
    assert.equal(result.moved, plan.moved);
    assert.equal(result.movedBytes, plan.movedBytes);
    // A direct call whose both ends move in one batch is written once.
    assert.ok(result.relocsRewritten > 0 && result.relocsRewritten <= plan.relocsRewritten);
    assertRight(arena, live);
  });

  it('moves nothing twice: after it there is no profit to be had', () => {
    using arena = new Arena();
    const live = freeMost(arena, installMany(arena, 8000));
    arena.collect();
    const again = arena.planCompaction();
    assert.deepEqual([again.profitable, again.moved], [false, 0]);
    const addresses = live.map(({ executor }) => executor.address);
    assert.equal(arena.collect().moved, 0);
    assert.deepEqual(
      live.map(({ executor }) => executor.address),
      addresses,
    );
  });

  it('of an empty, and of a full arena, does nothing', () => {
    using arena = new Arena();
    assert.equal(arena.planCompaction().profitable, false);
    assert.equal(arena.collect().moved, 0);
    installMany(arena, 4000);
    assert.equal(arena.planCompaction().profitable, false);
    assert.equal(arena.collect().moved, 0);
  });

  it('with maxPauseMicros is a slice of one, with every executor right in between', () => {
    using arena = new Arena();
    const live = freeMost(arena, installMany(arena, 40_000));
    const whole = arena.planCompaction();
    let moved = 0;
    let slices = 0;
    for (let done = false; !done; slices++) {
      const result = arena.collect({ maxPauseMicros: 1 });
      ({ done } = result);
      moved += result.moved;
      if (slices % 5 === 0) assertRight(arena, live);
      assert.ok(slices < 10_000);
    }
    assertRight(arena, live);
    assert.ok(slices > 1, 'more than one slice');
    assert.ok(moved >= whole.moved / 2, `${moved} moved, ${whole.moved} planned`);
    assert.equal(arena.planCompaction().profitable, false);
  });

  it('with compact: false moves nothing, and gives empty pages back', () => {
    using arena = new Arena();
    const live = freeMost(arena, installMany(arena, 8000));
    const addresses = live.map(({ executor }) => executor.address);
    const before = arena.stats().committedBytes;
    const result = arena.collect({ compact: false });
    assert.equal(result.moved, 0);
    assert.deepEqual(
      live.map(({ executor }) => executor.address),
      addresses,
    );
    assert.ok(arena.stats().committedBytes <= before);
    assertRight(arena, live);
  });

  it('gives the slabs of what is gone back to the system', () => {
    using arena = new Arena();
    const executors = installMany(arena, 8000);
    assert.ok(arena.slabs().length > 8);
    arena.free(executors);
    arena.collect();
    const { executors: left, liveBytes, slabs, committedBytes } = arena.stats();
    assert.deepEqual([left, liveBytes], [0, 0]);
    // One for the arena's own code; an empty one of each kind may be kept for what comes next, without its pages.
    assert.ok(slabs <= 4, `${slabs} slabs`);
    assert.ok(committedBytes <= 2 * machine.pageBytes, `${committedBytes} bytes`);
  });

  it('never moves what is movable: false', () => {
    using arena = new Arena();
    const specs = Array.from({ length: 50 }, (_, i) => ({ code: constant(i), movable: i % 2 === 0 }));
    const executors = scatter(arena, specs);
    const addresses = executors.map(({ address }) => address);
    assert.ok(arena.collect().moved >= 20);
    executors.forEach((executor, i) => {
      assert.equal(executor.movable, i % 2 === 0);
      if (!executor.movable) assert.equal(executor.address, addresses[i]);
      assert.equal(executor.func(toI32)(), i);
    });
  });

  it('keeps alignments', () => {
    using arena = new Arena();
    const specs = Array.from({ length: 40 }, (_, i) => ({ code: constant(i), align: 16 << (i % 8) }));
    const executors = scatter(arena, specs);
    assert.ok(arena.collect().moved > 30);
    for (const [i, { address }] of executors.entries()) assert.equal(address % BigInt(16 << (i % 8)), 0n);
  });

  it('moves targets and sources again and again, with every direct call right', () => {
    using arena = new Arena();
    let chain: Executor = arena.install({ code: constant(0) });
    const links = [chain];
    for (let i = 1; i <= 60; i++) {
      [chain] = scatter(arena, [callAndAdd(chain, 1)]) as [Executor];
      links.push(chain);
      if (i % 10 === 0) arena.collect();
    }
    assert.ok(arena.stats().moves > 60);
    for (const [i, link] of links.entries()) assert.equal(link.func(toI32)(), i);
    arena.free(links);
    assert.ok(arena.verify().ok);
  });

  it('moves into a destination that was emptied before it asks for memory', () => {
    using arena = new Arena({ maxBytes: 2 << 20 });
    for (let round = 0; round < 6; round++) {
      const executors = installMany(arena, 2000);
      const live = freeMost(arena, executors);
      arena.collect();
      assertRight(arena, live);
      arena.free(live.map(({ executor }) => executor));
    }
    arena.collect();
    assert.equal(arena.stats().liveBytes, 0);
  });

  it('takes every maxPauseMicros but 0 for a limit', () => {
    using arena = new Arena();
    freeMost(arena, installMany(arena, 40_000));
    assert.equal(arena.collect({ maxPauseMicros: 1e-9 }).done, false);
    assert.equal(arena.collect({ maxPauseMicros: 0 }).done, true);
  });

  it('takes only options of the right type', () => {
    using arena = new Arena();
    for (const maxPauseMicros of ['5', NaN, -1, Infinity, 5n]) {
      assert.throws(() => arena.collect({ maxPauseMicros: maxPauseMicros as number }), TypeError);
    }
    assert.throws(() => arena.collect({ compact: 'yes' as never }), TypeError);
    assert.equal(arena.stats().pauses.count, 0);
  });
});

describe('verify', () => {
  it('notices changed bytes, and with full records says which reloc is wrong', () => {
    for (const fullRecords of [false, true]) {
      using arena = new Arena({ writer: 'procmem', fullRecords });
      const target = arena.install({ code: constant(1) });
      const executor = arena.install(jump(target));
      assert.deepEqual(arena.verify(), { ok: true, problems: [] });
      const mem = openSync('/proc/self/mem', 'r+');
      writeSync(mem, Uint8Array.of(0x55), 0, 1, Number(executor.address) + 1);
      closeSync(mem);
      const { ok, problems } = arena.verify();
      assert.equal(ok, false);
      assert.equal(problems[0]?.executor, executor.id);
      assert.equal(problems[0]?.section, 'code');
      if (fullRecords) assert.equal(problems[0]?.offset, 1);
    }
  });
});

/** What /proc/self/smaps says of the memory in the arena's slabs. */
function askKernel(arena: Arena): { mappedBytes: number; residentBytes: number; accesses: Set<string> } {
  const slabs = arena.slabs();
  const mappings = readFileSync('/proc/self/smaps', 'latin1')
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .map((text) => {
      const [, first, last, access, object] = text.match(/^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ (\S+ \d+)/)!;
      const at = BigInt(`0x${first}`);
      const inSlab = slabs.some(({ address, bytes }) => at >= address && at < address + BigInt(bytes));
      const residentBytes = 1024 * Number(text.match(/^Rss: +(\d+) kB/m)![1]);
      return { inSlab, bytes: Number(BigInt(`0x${last}`) - at), access: access!, object: object!, residentBytes };
    });
  const own = mappings.filter(({ inSlab }) => inSlab);
  const shared = new Set(own.flatMap(({ access, object }) => (access.endsWith('s') ? [object] : [])));
  // A page of a shared object counts once, in whichever of the object's two views has more of them.
  const resident = new Map<string, number>();
  for (const { inSlab, access, object, residentBytes } of mappings) {
    if (!inSlab && !shared.has(object)) continue;
    const view = access.endsWith('s') ? `${object} ${access}` : 'private';
    resident.set(view, (resident.get(view) ?? 0) + residentBytes);
  }
  let residentBytes = resident.get('private') ?? 0;
  for (const object of shared) {
    residentBytes += Math.max(...[...resident].map(([view, bytes]) => (view.startsWith(`${object} `) ? bytes : 0)));
  }
  return {
    mappedBytes: own.reduce((total, { bytes }) => total + bytes, 0),
    residentBytes,
    accesses: new Set(own.map(({ access }) => access)),
  };
}

for (const { writer, available } of probe()) {
  if (!available) continue;
  describe(`figures, with the writer ${writer}`, () => {
    /** stats and slabs agree with each other and with the kernel. */
    function assertFigures(arena: Arena): void {
      const stats = arena.stats();
      const slabs = arena.slabs();
      const sum = (of: (slab: (typeof slabs)[number]) => number) => slabs.reduce((total, slab) => total + of(slab), 0);
      assert.equal(stats.slabs, slabs.length);
      assert.equal(
        stats.spanBytes,
        sum((slab) => slab.liveBytes),
      );
      assert.equal(
        stats.retiredBytes,
        sum((slab) => slab.retiredBytes),
      );
      assert.equal(stats.committedBytes, machine.pageBytes * sum((slab) => slab.backedPages));
      assert.ok(stats.liveBytes <= stats.spanBytes && stats.spanBytes <= stats.committedBytes);
      for (const slab of slabs) {
        const pages = slab.bytes / machine.pageBytes;
        assert.deepEqual([slab.backed.length, slab.liveBytesPerPage.length], [pages, pages]);
        assert.equal(slab.backed.filter(Boolean).length, slab.backedPages);
        assert.equal(
          slab.liveBytesPerPage.reduce((total, bytes) => total + bytes, 0),
          slab.liveBytes,
        );
        slab.liveBytesPerPage.forEach((bytes, page) => {
          assert.ok(bytes <= machine.pageBytes);
          if (bytes > 0) assert.ok(slab.backed[page], 'a page with live bytes is backed');
        });
      }
      const kernel = askKernel(arena);
      assert.equal(
        kernel.mappedBytes,
        sum((slab) => slab.bytes),
      );
      assert.equal(kernel.residentBytes, stats.committedBytes);
      for (const access of kernel.accesses) assert.ok(!/w.?x/.test(access), `a mapping is ${access}`);
    }

    it('of stats, slabs and the kernel agree after every step', () => {
      using arena = new Arena({ writer });
      assertFigures(arena);
      const executors = installMany(arena, 4000);
      assertFigures(arena);
      const live = freeMost(arena, executors);
      assertFigures(arena);
      arena.collect();
      assertFigures(arena);
      for (const { f, value } of live) assert.equal(f(), value);
      assertFigures(arena);
      const big = arena.install({ code: constant(1), data: new Uint8Array(3 * machine.slabBytes).fill(1) });
      assertFigures(arena);
      big.free();
      arena.free(live.map(({ executor }) => executor));
      arena.collect();
      assertFigures(arena);
    });

    it('count pages that are zero and were never touched as committed, since they are one write away from it', () => {
      using arena = new Arena({ writer });
      arena.install({ code: 100 * machine.pageBytes, state: 100 * machine.pageBytes });
      const { committedBytes } = arena.stats();
      assert.ok(committedBytes >= 200 * machine.pageBytes);
      assert.ok(askKernel(arena).residentBytes <= committedBytes);
    });

    it('count executors and bytes as they were given', () => {
      using arena = new Arena({ writer });
      const empty = arena.stats();
      assert.deepEqual([empty.executors, empty.liveBytes, empty.pagePerExecutorBytes], [0, 0, 0]);
      const staged = arena.allocate({ code: 10, data: 20, state: 30 });
      assert.deepEqual([arena.stats().executors, arena.stats().liveBytes], [1, 0]);
      arena.freeze(staged);
      assert.equal(arena.stats().liveBytes, 60);
      assert.equal(arena.stats().pagePerExecutorBytes, machine.pageBytes);
      const large = arena.install({ code: machine.pageBytes, data: 1 });
      assert.equal(arena.stats().pagePerExecutorBytes, 3 * machine.pageBytes);
      arena.free([staged, large]);
      assert.deepEqual(
        [arena.stats().executors, arena.stats().liveBytes, arena.stats().pagePerExecutorBytes],
        [0, 0, 0],
      );
    });
  });
}
