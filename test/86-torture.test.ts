// Threads that execute all the time, and install and free, while the main thread moves, frees, installs and links what
// they execute. JA_TORTURE_SECONDS makes it longer, JA_TORTURE_SEED repeats its choices (and not its moments).
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Arena, type ArenaOptions, type Executor, probe } from 'jit-arena';
import { Random } from '../dist/stress/program/random';
import { skip } from './support/skip.js';
import { Caller, caller, installCounters, leaf, mostExits, pairs, slots, trace } from './support/torture-code.js';
import type { TortureWorkerData } from './support/torture-worker.js';
import { assertSound } from './support/writers.js';

const seconds = Number(process.env.JA_TORTURE_SECONDS ?? 8);
const workers = 2;
const cases: ArenaOptions[] = [
  { writer: 'alias', layout: 'together' },
  { writer: 'alias', layout: 'apart' },
  { writer: 'procmem', layout: 'together' },
];

/** Keeps the slots filled, and changes what is in them. */
class Torturer {
  readonly did = { replaced: 0, linked: 0, moved: 0, evicted: 0, collects: 0 };
  readonly counters: Executor;
  readonly #executors: (Executor | undefined)[] = new Array(slots).fill(undefined);
  /** Executors that nobody calls. */
  readonly #padding: number[] = [];

  constructor(
    readonly arena: Arena,
    readonly table: BigInt64Array,
    readonly random: Random,
  ) {
    this.counters = installCounters(arena);
    for (let i = 0; i < pairs; i++) this.#fillPair(i);
    for (let slot = 2 * pairs; slot < slots; slot++) this.#fillTrace(slot);
  }

  #put(slot: number, executor: Executor): void {
    this.#executors[slot] = executor;
    Atomics.store(this.table, slot, BigInt(executor.id));
  }

  #fillPair(slot: number): void {
    const { arena, random } = this;
    const old = [slot, slot + pairs].flatMap((each) => this.#executors[each] ?? []);
    const callee = arena.install(leaf(slot, this.counters, random));
    this.#put(slot, callee);
    // Now and then into different slabs, which move one without the other.
    if (random.below(4) === 0) for (let i = 0; i < 6; i++) this.#pad();
    this.#put(slot + pairs, arena.install(caller(slot + pairs, callee, random)));
    // They are called until now, and threads may be inside them.
    arena.free(old);
  }

  #fillTrace(slot: number): void {
    const { arena, random } = this;
    const old = this.#executors[slot];
    const made = arena.install(trace(slot, this.counters, random));
    if (old !== undefined && random.below(2) === 0) arena.replace(old, made);
    this.#put(slot, made);
    if (old !== undefined) arena.invalidate(old);
  }

  #trace(): Executor {
    return this.#executors[2 * pairs + this.random.below(slots - 2 * pairs)] as Executor;
  }

  step(): void {
    const { arena, random, did } = this;
    switch (random.below(8)) {
      case 0:
        this.#fillPair(random.below(pairs));
        did.replaced += 2;
        break;
      case 1:
        this.#fillTrace(2 * pairs + random.below(slots - 2 * pairs));
        did.replaced++;
        break;
      case 2:
      case 3:
        arena.link(this.#trace(), 0, this.#trace());
        did.linked++;
        break;
      case 4:
        if (random.below(50) === 0) arena.unlinkAll();
        else arena.unlink(this.#trace(), 0);
        break;
      case 5:
        this.#pad();
        break;
      default:
        this.#collect(random.below(20) === 0);
    }
  }

  /** Padding comes and goes between the others, so that there is something to move. */
  #pad(): void {
    const { arena, random } = this;
    const sizes = Array.from({ length: 60 }, () => 16 * (1 + random.below(60)));
    const codeOffsets = [0];
    for (const size of sizes) codeOffsets.push((codeOffsets.at(-1) as number) + size);
    const code = new Uint8Array(codeOffsets.at(-1) as number).fill(0xcc);
    this.#padding.push(...arena.installBatch({ code, codeOffsets }));
    const keep = 100 + random.below(200);
    if (this.#padding.length > 1500) {
      for (let i = this.#padding.length - 1; i > 0; i--) {
        const other = random.below(i + 1);
        [this.#padding[i], this.#padding[other]] = [this.#padding[other] as number, this.#padding[i] as number];
      }
      arena.free(this.#padding.splice(keep));
    }
  }

  #collect(evictCold: boolean): void {
    const { arena, random, did } = this;
    const { moved, evictedIds } = arena.collect({ evictCold, maxPauseMicros: 20 + random.below(500) });
    did.collects++;
    did.moved += moved;
    did.evicted += evictedIds.length;
    for (const id of evictedIds) {
      const slot = this.#executors.findIndex((executor) => executor?.id === id);
      this.#executors[slot] = undefined;
      this.#fillTrace(slot);
    }
  }

  /** Ends everything but the counters. */
  clear(): void {
    this.arena.free(this.#executors.flatMap((executor) => executor ?? []));
    this.arena.free(this.#padding);
  }
}

describe('torture', () => {
  for (const { writer, layout } of cases) {
    it(`of a shared arena by ${workers + 1} threads, with the writer ${writer} and layout ${layout}`, async function () {
      const works = probe().find((each) => each.writer === writer);
      if (!works?.available) skip(this, works?.reason ?? 'there is no such writer');
      this.timeout((seconds + 60) * 1000);
      const seed = Number(process.env.JA_TORTURE_SEED ?? Date.now() % 2 ** 31);
      console.log(`      JA_TORTURE_SEED=${seed} JA_TORTURE_SECONDS=${seconds}`);
      const random = new Random(seed);
      // Room for all that may retire while a pinned thread gets no time on a busy machine.
      const room = { maxBytes: 128 << 20, maxRetiredBytes: 96 << 20 };
      const arena = new Arena({ writer, layout, ...room, exitThreshold: 5 } as ArenaOptions);
      const table = new BigInt64Array(new SharedArrayBuffer(8 * slots));
      const control = new Int32Array(new SharedArrayBuffer(4));
      const torturer = new Torturer(arena, table, random);
      const threads = Array.from({ length: workers }, (_, i) => {
        const data = { token: arena.share(), table, control, counters: torturer.counters.id, seed: seed + 1 + i };
        const workerData: TortureWorkerData = data;
        return new Worker(join(__dirname, 'support/torture-worker.js'), { workerData });
      });
      let failed: unknown;
      for (const thread of threads) {
        thread.on('error', (error) => {
          failed ??= error;
        });
      }
      const results = Promise.all(
        threads.map(async (thread) => (await once(thread, 'message'))[0] as Caller['result'] & { own: number }),
      );
      results.catch(() => {});

      const own = new Caller(arena, table);
      const end = performance.now() + (seconds * 1000) / cases.length;
      try {
        for (let i = 0; performance.now() < end && failed === undefined; i++) {
          for (let j = 0; j < 20; j++) torturer.step();
          for (let j = 0; j < 20; j++) own.enter(random.below(slots), random.below(mostExits + 1));
          if (i % 200 === 0) assertSound(arena);
          // Errors of the workers come in as events.
          await new Promise((resolve) => setImmediate(resolve));
        }
      } finally {
        Atomics.store(control, 0, 1);
        arena.unlinkAll();
      }
      const all = [own.result, ...(await results)];
      if (failed !== undefined) throw failed;
      await Promise.all(threads.map((thread) => thread.terminate()));

      const total = (key: 'traces' | 'functions' | 'exits' | 'stale') => all.reduce((sum, each) => sum + each[key], 0);
      const { did } = torturer;
      const workersOwn = (await results).reduce((sum, { own }) => sum + own, 0);
      const { exits, stale } = { exits: total('exits'), stale: total('stale') };
      console.log(
        `      ${JSON.stringify({ traces: total('traces'), functions: total('functions'), exits, stale, workersOwn, ...did })}`,
      );
      // Every increment of every thread is there, through all moves and whichever executor made it.
      const counts = [...new BigInt64Array(torturer.counters.read('state').buffer)].map(Number);
      assert.deepEqual(counts, [total('traces'), total('functions')]);
      for (const figure of [total('traces'), exits, workersOwn, did.replaced, did.linked, did.moved])
        assert.ok(figure > 0);

      torturer.clear();
      arena.collect();
      const { retiredBytes, executors } = arena.stats();
      assert.deepEqual({ retiredBytes, executors }, { retiredBytes: 0, executors: 1 }, 'no pin is left');
      assertSound(arena);
      arena.dispose();
    });
  }
});
