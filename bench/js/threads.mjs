// T11 from JavaScript: one thread runs linked traces as the stress run makes them, the main thread replaces them by new
// copies and compacts. How many runs the first makes in a second of its own CPU time, at several rates of moves.
//
// Windows take turns, every second time backwards, against drift. Where the main thread has nothing to do, it copies code
// in ordinary memory: what it costs to share the machine with a busy thread, it costs at every rate.
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { load, root } from './measure.mjs';

const { readWorkload } = load('../../dist/stress/recording/workload.js');
const { stressArena } = load('../../dist/stress/replay/exit.js');
const { RenewedPopulation, TRACES } = load('../../dist/stress/threads/renewed.js');

/** Moves per second; the middle one moves each trace about 40 times a second, more than a JIT's collector would. */
const RATES = { 'at 0 moves/s': 0, 'at 10000 moves/s': 10_000, unthrottled: Number.POSITIVE_INFINITY };
const RUNS_PLANNED = 512;
const SLICE_MICROS = 200;
const WINDOW_MILLISECONDS = { smoke: 20, measured: 250 };
const COPIED_BYTES = 16 << 10;

export async function* measureThreads({ smoke, runs, seed }) {
  const arena = stressArena();
  const workload = readWorkload(join(root, 'bench/workloads/py314-bench_mix.jsonl.gz'));
  const shared = () => new Int32Array(new SharedArrayBuffer(4));
  const [outside, open] = [shared(), shared()];
  const population = new RenewedPopulation(arena, workload, seed, outside);
  const { entryIds } = population;
  const worker = new Worker(new URL('executing-thread.mjs', import.meta.url), {
    workerData: { entryIds, open, outside, runs: population.plan(RUNS_PLANNED), token: arena.share() },
  });
  await once(worker, 'message');
  const milliseconds = smoke ? WINDOW_MILLISECONDS.smoke : WINDOW_MILLISECONDS.measured;
  const speeds = Object.fromEntries(Object.keys(RATES).map((name) => [name, []]));
  let wrong = 0;
  for (let run = -1; run < runs; run++) {
    for (const name of run % 2 === 0 ? Object.keys(RATES) : Object.keys(RATES).reverse()) {
      const { made, cpuNanos, ...told } = await oneWindow({
        open,
        worker,
        population,
        rate: RATES[name],
        milliseconds,
      });
      wrong = told.wrong;
      if (run >= 0) speeds[name].push((1e6 * made) / cpuNanos);
    }
  }
  await worker.terminate();
  const { ok, broken } = arena.verify();
  if (!ok) throw new Error(`T11: verify() found ${broken ?? 'a problem'}`);
  const series = (variant, unit, values) => ({ figure: 'T11-js', variant, size: TRACES, unit, values });
  for (const [name, values] of Object.entries(speeds)) yield series(name, 'k runs/s', values);
  yield series('wrong results', 'wrong', [wrong]);
}

/** What the executing thread says of it. */
async function oneWindow({ open, worker, population, rate, milliseconds }) {
  const said = once(worker, 'message');
  const [from, to] = [new Uint8Array(COPIED_BYTES), new Uint8Array(COPIED_BYTES)];
  Atomics.store(open, 0, 1);
  const begin = performance.now();
  let moved = 0;
  for (let elapsed = 0; elapsed < milliseconds; elapsed = performance.now() - begin) {
    if (1000 * moved >= rate * elapsed) to.set(from);
    else moved += population.compact(rate === Number.POSITIVE_INFINITY ? 0 : SLICE_MICROS).moved;
  }
  Atomics.store(open, 0, 0);
  const [told] = await said;
  return told;
}
