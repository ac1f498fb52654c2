// A worker of the torture: calls, runs, and now and then installs, moves and frees executors of its own, until it is told
// to stop.
import assert from 'node:assert/strict';
import { parentPort, workerData } from 'node:worker_threads';
import { Arena, type ShareToken } from 'jit-arena';
import { Random } from '../../dist/stress/program/random';
import {
  Caller,
  caller,
  contextWords,
  countWord,
  leaf,
  mostExits,
  numberOf,
  pairs,
  slots,
  sumWord,
  trace,
} from './torture-code.js';
import { jump, toI32 } from './x64.js';

export interface TortureWorkerData {
  token: ShareToken;
  table: BigInt64Array;
  control: Int32Array;
  counters: number;
  seed: number;
}

const { token, table, control, counters: countersId, seed } = workerData as TortureWorkerData;
const random = new Random(seed);
const arena = Arena.from(token);
const counters = arena.executor(countersId);
const entering = new Caller(arena, table);
let own = 0;

/** Installs, calls and frees executors that no other thread knows. */
function useOwn(): void {
  const slot = random.below(pairs);
  const callee = arena.install(leaf(slot, counters, random));
  const calling = arena.install(caller(slot + pairs, callee, random));
  const callback = arena.callback(toI32, () => {
    if (random.below(4) === 0) arena.collect({ maxPauseMicros: 100 });
    return 30;
  });
  const back = arena.install(jump(callback));
  assert.equal(calling.func(toI32)(), numberOf(slot + pairs));
  assert.equal(back.func(toI32)(), 30);
  entering.functions++;
  // Not evictable: the main thread evicts what is cold, and this one may be for a while.
  const running = arena.install({ ...trace(2 * pairs, counters, random), evictable: false });
  arena.link(running, 0, running);
  const context = new BigInt64Array(contextWords);
  context[1] = 5n;
  const token = arena.runner(context)(running);
  // The main thread may unlink everything in between: then it leaves for good at its next exit.
  const count = Number(context[countWord]);
  assert.ok(token === 0 ? count === 6 : count >= 1 && count <= 5, `${count} rounds, and the token ${token}`);
  assert.equal(context[sumWord], BigInt(count * numberOf(2 * pairs)));
  entering.traces += count;
  arena.invalidate(running);
  arena.free([callee, calling, back]);
  callback.dispose();
  own++;
}

// A callback's thunk stays in the arena until that ends: not too many of them.
let most = 300;
while (Atomics.load(control, 0) === 0) {
  for (let i = 0; i < 200; i++) entering.enter(random.below(slots), random.below(mostExits + 1));
  if (most-- > 0) useOwn();
}
arena.dispose();
parentPort?.postMessage({ ...entering.result, own });
