// For scripts in a process of their own (test/84-share-ends.test.ts): an arena, traces that go round for ever or for a
// while, workers that run them, and the proof that no pin is left.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { Arena, type Executor, type ShareToken } from 'jit-arena';
import { Code } from './assembler.js';
import { step } from './trace-code.js';

export const arena = new Arena();

/** Counts its rounds in state, and takes exit 0 each time. Linked to itself it never leaves. */
export function installLoop(): Executor {
  const code = new Code().warm().lockedIncrement({ own: 'state' }).exit(0);
  const loop = arena.install(code.spec({ state: 8 }));
  arena.link(loop, 0, loop);
  return loop;
}

export const roundsOf = (loop: Executor): bigint => new BigInt64Array(loop.read('state').buffer)[0] as bigint;

/** Goes round as often as word 1 of the context says: some tens of milliseconds for ten million. */
export function installCountdown(): Executor {
  const countdown = arena.install(step(1));
  arena.link(countdown, 0, countdown);
  return countdown;
}

/** A worker with `arena`, `token`, `post`, `id`, `run` and what else the tests' support exports; the text is its program. */
export function start(text: string, id = 0, token: ShareToken = arena.share()): Worker {
  const program = `
    const { parentPort, workerData: { token, id } } = require('node:worker_threads');
    const { Arena } = require('jit-arena');
    const x64 = require(${JSON.stringify(require.resolve('./x64.js'))});
    const arena = Arena.from(token);
    const post = (message) => parentPort.postMessage(message);
    const context = new BigInt64Array(8);
    const runner = arena.runner(context);
    const run = (id, exits = 0) => { context[1] = BigInt(exits); return runner(arena.executor(id)) };
    ${text}`;
  const worker = new Worker(program, { eval: true, workerData: { token, id } });
  queues.set(worker, []);
  exits.set(worker, once(worker, 'exit'));
  worker.on('message', (message) => queues.get(worker)?.push(message));
  worker.on('error', (error) => {
    console.log('a worker failed:', error);
    process.exitCode = 99;
  });
  return worker;
}

/** Messages that have come, and that nobody has asked for yet. */
const queues = new WeakMap<Worker, unknown[]>();

// From the start: a worker's last messages come with its exit, before anybody who awaits them can go on.
const exits = new WeakMap<Worker, Promise<unknown[]>>();

/** The exit code of a worker, when it has ended. */
export const exited = async (worker: Worker): Promise<unknown> => (await exits.get(worker))?.[0];

/** The worker's next message. */
export async function message(worker: Worker): Promise<unknown> {
  const queue = queues.get(worker) as unknown[];
  if (queue.length === 0) await once(worker, 'message');
  return queue.shift();
}

export const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Until the loop goes round. */
export async function isRunning(loop: Executor): Promise<void> {
  const before = roundsOf(loop);
  while (roundsOf(loop) === before) await sleep(1);
}

/** Nobody is pinned: what is freed is reclaimed at once. */
export function assertNoPin(): void {
  arena.install({ code: Uint8Array.of(0xc3), state: 64 }).free();
  arena.collect();
  assert.equal(arena.stats().retiredBytes, 0, 'a pin is left');
  const { ok, broken } = arena.verify();
  assert.ok(ok, broken);
}

export { assert };
