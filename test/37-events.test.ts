// What an arena tells JavaScript of its executors: on the object that did it behind the call, elsewhere soon after.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { Arena, type ArenaEvent, type Executor } from 'jit-arena';
import { runChild } from './support/child.js';

const ret = Uint8Array.of(0xc3);

/** Executors that survive between holes, so that the next collect moves them. */
function makeSparse(arena: Arena): Executor[] {
  const all = Array.from({ length: 400 }, () => arena.install({ code: new Uint8Array(3000) }));
  arena.free(all.filter((_, i) => i % 8 !== 0));
  return all.filter((_, i) => i % 8 === 0);
}

function logOf(arena: Arena): [ArenaEvent, number[]][] {
  const told: [ArenaEvent, number[]][] = [];
  for (const event of ['move', 'evict', 'free'] as const) arena.on(event, (ids) => told.push([event, [...ids]]));
  return told;
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    assert.ok(i < 10_000, 'nobody was told');
    await turn();
  }
}

describe('arena.on', () => {
  it('tells of what is freed, behind the call, in the order of the call', () => {
    const arena = new Arena();
    const told = logOf(arena);
    const [a, b, c, d] = [0, 1, 2, 3].map(() => arena.install({ code: ret })) as [
      Executor,
      Executor,
      Executor,
      Executor,
    ];
    arena.free([b, a]);
    assert.deepEqual(told, [['free', [b.id, a.id]]]);
    arena.invalidate(c);
    d.free();
    const writable = arena.allocate({ code: ret });
    arena.free(writable);
    assert.deepEqual(told.slice(1), [
      ['free', [c.id]],
      ['free', [d.id]],
      ['free', [writable.id]],
    ]);
    assert.throws(() => arena.free(a), { code: 'ERR_ARENA_STALE_EXECUTOR' });
    assert.equal(told.length, 4);
    arena.dispose();
  });

  it('tells of what collect moves and evicts', () => {
    const arena = new Arena();
    makeSparse(arena);
    const addresses = new Map(arena.executors().map((executor) => [executor.id, executor.address]));
    const told = logOf(arena);
    const { moved } = arena.collect();
    assert.ok(moved > 0);
    assert.deepEqual(
      told.map(([event]) => event),
      ['move'],
    );
    const ids = told[0]?.[1] ?? [];
    assert.equal(new Set(ids).size, ids.length);
    for (const [id, address] of addresses)
      assert.equal(ids.includes(id), arena.executor(id).address !== address, `executor ${id}`);

    const spec = {
      code: new Uint8Array(16),
      data: 8,
      relocs: [{ section: 'data', offset: 0, kind: 'R_X86_64_64', target: { own: 'warm' } }],
    } as const;
    const cold = [arena.install(spec), arena.install(spec)];
    told.length = 0;
    arena.collect({ evictCold: true, compact: false });
    assert.deepEqual(told, []);
    const { evictedIds } = arena.collect({ evictCold: true, compact: false });
    assert.deepEqual([...evictedIds].sort(), cold.map(({ id }) => id).sort());
    assert.deepEqual(told, [
      ['evict', [...evictedIds]],
      ['free', [...evictedIds]],
    ]);
    arena.dispose();
  });

  it('tells several listeners in their order, until they are taken off', () => {
    const arena = new Arena();
    const told: string[] = [];
    const first = () => told.push('first');
    const second = () => told.push('second');
    assert.equal(arena.on('free', first).on('free', second).on('free', first), arena);
    arena.install({ code: ret }).free();
    assert.deepEqual(told.splice(0), ['first', 'second', 'first']);
    assert.equal(arena.off('free', first), arena);
    arena.off('move', first).off('free', () => {});
    arena.install({ code: ret }).free();
    assert.deepEqual(told.splice(0), ['first', 'second']);
    arena.off('free', first).off('free', second);
    arena.install({ code: ret }).free();
    arena.on('free', second);
    assert.deepEqual(told, [], 'what was freed while nobody listened is told to nobody');
    arena.dispose();
    assert.throws(() => arena.on('move', first), { code: 'ERR_ARENA_DISPOSED' });
  });

  it('calls all of them before what one throws comes out of the call, which has been done', () => {
    const arena = new Arena();
    let told = 0;
    arena.on('free', () => {
      throw new Error('a listener');
    });
    arena.on('free', () => told++);
    const executor = arena.install({ code: ret });
    assert.throws(() => executor.free(), /^Error: a listener$/);
    assert.equal(executor.state, 'retired');
    assert.equal(told, 1);
    arena.dispose();
  });

  it('lets a listener use the arena, and add and take off listeners', () => {
    const arena = new Arena();
    const others = [arena.install({ code: ret }), arena.install({ code: ret })];
    const told: number[][] = [];
    const listener = (ids: Float64Array) => {
      told.push([...ids]);
      others.pop()?.free();
      if (others.length === 0) arena.off('free', listener);
    };
    arena.on('free', listener);
    const ids = [arena.install({ code: ret }), ...others].map(({ id }) => id);
    arena.free([ids[0] as number]);
    assert.deepEqual(told, [[ids[0]], [ids[2]], [ids[1]]]);
    assert.equal(arena.stats().executors, 0);
    arena.dispose();
  });

  it('refuses what is no event and no listener', () => {
    const arena = new Arena();
    assert.throws(() => arena.on('reclaim' as 'free', () => {}), {
      name: 'TypeError',
      message: /'move', 'evict' or 'free'/,
    });
    assert.throws(() => arena.on('free', undefined as unknown as () => void), TypeError);
    arena.dispose();
  });

  it('tells another object of the same arena soon', async () => {
    const arena = new Arena();
    const other = Arena.from(arena.share());
    const told = logOf(other);
    const executor = arena.install({ code: ret });
    executor.free();
    assert.deepEqual(told, []);
    await until(() => told.length > 0);
    assert.deepEqual(told, [['free', [executor.id]]]);
    other.dispose();
    arena.install({ code: ret }).free();
    await turn();
    await turn();
    assert.equal(told.length, 1);
    arena.dispose();
  });

  it('tells each thread that has asked of what any thread does', async () => {
    const arena = new Arena();
    const told = logOf(arena);
    const survivors = makeSparse(arena);
    const script = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { Arena } = require('jit-arena');
      const arena = Arena.from(workerData);
      const told = [];
      arena.on('free', (ids) => parentPort.postMessage({ freed: [...ids] }));
      arena.on('move', (ids) => told.push(...ids));
      parentPort.on('message', (ids) => {
        if (ids === 'collect') parentPort.postMessage({ moved: arena.collect().moved, told });
        else if (ids === 'end') process.exit(0);
        else arena.free(Float64Array.from(ids));
      });
      parentPort.postMessage({});`;
    const worker = new Worker(script, { eval: true, workerData: arena.share() });
    const next = async () =>
      (await once(worker, 'message'))[0] as { freed?: number[]; moved?: number; told?: number[] };
    await next();
    told.length = 0;

    const mine = arena.install({ code: ret });
    mine.free();
    assert.deepEqual(await next(), { freed: [mine.id] });
    told.length = 0;

    const theirs = arena.install({ code: ret });
    worker.postMessage([theirs.id]);
    assert.deepEqual(await next(), { freed: [theirs.id] });
    await until(() => told.length > 0);
    assert.deepEqual(told.splice(0), [['free', [theirs.id]]]);

    worker.postMessage('collect');
    const { moved, told: toldThere } = await next();
    assert.ok(moved !== undefined && moved > 0 && toldThere !== undefined && toldThere.length > 0);
    await until(() => told.length > 0);
    assert.deepEqual(told, [['move', toldThere]]);
    assert.ok(toldThere.every((id) => survivors.some((survivor) => survivor.id === id)));

    // A thread that has ended is told no more, and nobody waits for it.
    worker.postMessage('end');
    await once(worker, 'exit');
    arena.install({ code: ret }).free();
    arena.dispose();
  });

  it('keeps no process alive, nor keeps one from ending', () => {
    for (const end of ['', 'process.exit(0)', 'arena.dispose()']) {
      const script = `const { Arena } = require('jit-arena');
        const arena = new Arena();
        const other = Arena.from(arena.share());
        other.on('free', () => console.log('told'));
        arena.install({ code: Uint8Array.of(0xc3) }).free();
        setTimeout(() => { ${end} }, 50);`;
      assert.equal(runChild(script).trim(), 'told', end);
    }
  });

  it('makes what a listener throws on the loop an uncaughtException', () => {
    const script = `const { Arena } = require('jit-arena');
      process.on('uncaughtException', ({ message }) => console.log(message));
      const arena = new Arena();
      Arena.from(arena.share()).on('free', () => { throw new Error('thrown by a listener'); });
      arena.install({ code: Uint8Array.of(0xc3) }).free();
      setTimeout(() => {}, 50);`;
    assert.equal(runChild(script).trim(), 'thrown by a listener');
  });
});
