// Another thread that uses an arena of the test's.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Arena } from 'jit-arena';

/** What the functions find that a peer runs. */
export interface There {
  /** The same arena, as `Arena.from` gave it to the peer. */
  readonly arena: Arena;
  readonly jitArena: typeof import('jit-arena');
  /** For what a later function needs. */
  // biome-ignore lint/suspicious/noExplicitAny: whatever tests put there
  readonly keep: Record<string, any>;
  /** `require('./x64.js')` finds test/support. */
  readonly require: NodeJS.Require;
  /** Sends a message while the function runs; `peer.message()` is the next. */
  readonly post: (message: unknown) => void;
}

interface Answer {
  number?: number;
  result?: unknown;
  error?: { name: string; message: string; code?: string };
  message?: unknown;
}

export class Peer {
  readonly worker: Worker;
  /** The worker's exit code, when it has ended. */
  readonly ended: Promise<number>;
  readonly #waiting = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  readonly #messages: unknown[] = [];
  #wake: (() => void) | undefined;
  #calls = 0;
  #error: Error | undefined;

  constructor(arena: Arena) {
    this.worker = new Worker(join(__dirname, 'peer-worker.js'), { workerData: arena.share() });
    this.ended = once(this.worker, 'exit').then(([code]) => code as number);
    this.worker.on('message', (answer: Answer) => this.#take(answer));
    this.worker.on('error', (error) => this.#fail(error));
    this.ended.then((code) => this.#fail(new Error(`the worker has ended with ${code}`)));
  }

  #take({ number, result, error, message }: Answer): void {
    if (number === undefined) {
      this.#messages.push(message);
      this.#wake?.();
      return;
    }
    const waiting = this.#waiting.get(number);
    this.#waiting.delete(number);
    if (error === undefined) waiting?.resolve(result as never);
    else waiting?.reject(Object.assign(new Error(error.message), error));
  }

  #fail(error: Error): void {
    this.#error ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  /** Runs a function there. It goes as text, so it must not use anything from outside but its arguments. */
  call<A extends unknown[], R>(fn: (there: There, ...args: A) => R, ...args: A): Promise<Awaited<R>> {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    const number = ++this.#calls;
    const answer = new Promise<Awaited<R>>((resolve, reject) => this.#waiting.set(number, { resolve, reject }));
    this.worker.postMessage({ number, text: String(fn), args });
    return answer;
  }

  /** The next message that a function there has sent with `post`. */
  async message(): Promise<unknown> {
    while (this.#messages.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#messages.shift();
  }

  /** Lets the thread end by itself, and checks that it does so without complaint. */
  async end(): Promise<void> {
    await this.call(({ require }) => {
      (require('node:worker_threads') as typeof import('node:worker_threads')).parentPort?.unref();
    });
    assert.equal(await this.ended, 0);
  }

  terminate(): Promise<number> {
    return this.worker.terminate();
  }
}
