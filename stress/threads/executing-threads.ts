// The threads that execute, as the main thread sees them: starts them, tells them which window it is, hears from them.
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Arena } from 'jit-arena';
import type { PlannedRun } from './renewed';
import { type ExecutingThreadData, NO_WINDOW, STOP, type ThreadMessage } from './thread-messages';

/** For a thread to come or to end, on a machine that is busy with other things. */
const PATIENCE_MILLISECONDS = 30_000;

/** What a thread did in a window. */
export interface Reading {
  checked: number;
  cpuNanos: number;
}

interface Thread {
  worker: Worker;
  /** It is ready, or has ended. */
  ready: Promise<void>;
  over: Promise<void>;
}

export class ExecutingThreads {
  /** Runs, all of them checked. */
  checked = 0;
  wrongResults = 0;
  /** Counts for each thread the moments at which it is outside all code. */
  readonly outside: Int32Array;
  /** By window, then by thread. */
  private readonly readings: Reading[][] = [];
  private readonly window = new Int32Array(new SharedArrayBuffer(4));
  private readonly threads: Thread[] = [];
  private terminated = false;

  /**
   * @param fail is told of each wrong result, and of threads that die
   * @param patience in milliseconds: how long they may take to come, and to end
   */
  constructor(
    private readonly arena: Arena,
    readonly count: number,
    private readonly fail: (what: string) => void,
    private readonly patience = PATIENCE_MILLISECONDS,
  ) {
    this.outside = new Int32Array(new SharedArrayBuffer(4 * count));
  }

  /** Resolves when all of them execute; a dead one has been told of then. */
  async start(entryIds: number[], runsOf: (thread: number) => PlannedRun[]): Promise<void> {
    const { outside, threads, window } = this;
    const token = this.arena.share();
    for (let number = 0; number < this.count; number++) {
      const data: ExecutingThreadData = { token, number, entryIds, runs: runsOf(number), window, outside };
      threads.push(this.startOne(number, data));
    }
    if (!(await this.inTime(threads.map(({ ready }) => ready)))) this.fail('the threads do not start');
  }

  /** From now on they count for this window, until the next; NO_WINDOW: for none. */
  enter(window: number): void {
    Atomics.store(this.window, 0, window);
  }

  leave(): void {
    this.enter(NO_WINDOW);
  }

  /** Resolves when all have ended. Then all readings are there. */
  async stop(): Promise<void> {
    this.enter(STOP);
    if (await this.inTime(this.threads.map(({ over }) => over))) return;
    this.fail('the threads do not stop');
    this.terminated = true;
    // Ends a loop of links, which terminate() would wait for.
    this.arena.unlinkAll();
    for (const { worker } of this.threads) await worker.terminate();
  }

  /**
   * The speeds in two windows, of the threads that got time in both: checked runs per second of CPU time. Undefined when
   * none did.
   */
  speeds(a: number, b: number): [number, number] | undefined {
    const [first = [], second = []] = [this.readings[a], this.readings[b]];
    const both = [...first.keys()].filter((thread) => first[thread]?.checked && second[thread]?.checked);
    const speed = (readings: readonly Reading[]) => {
      const sum = (of: keyof Reading) => both.reduce((sum, thread) => sum + readings[thread]![of], 0);
      return (1e9 * sum('checked')) / sum('cpuNanos');
    };
    return both.length > 0 ? [speed(first), speed(second)] : undefined;
  }

  private startOne(number: number, workerData: ExecutingThreadData): Thread {
    const worker = new Worker(join(__dirname, 'executing-thread.js'), { workerData });
    let ended = false;
    let setReady = () => {};
    const ready = new Promise<void>((resolve) => {
      setReady = resolve;
    });
    worker.on('message', (message: ThreadMessage) => {
      if (message.kind === 'ready') setReady();
      else if (message.kind === 'window') this.note(number, message.window, message);
      else if (message.kind === 'wrong') {
        this.wrongResults++;
        this.fail(message.what);
      } else {
        ended = true;
        this.checked += message.checked;
        this.wrongResults += message.untold;
      }
    });
    let death = '';
    worker.on('error', (error) => {
      death = `: ${error.stack ?? error}`;
    });
    const over = new Promise<void>((resolve) => {
      worker.on('exit', (status) => {
        if (!ended && !this.terminated) this.fail(`thread ${number} died, with status ${status}${death}`);
        setReady();
        resolve();
      });
    });
    return { worker, ready, over };
  }

  private note(thread: number, window: number, { checked, cpuNanos }: Reading): void {
    this.readings[window] ??= [];
    this.readings[window][thread] = { checked, cpuNanos };
  }

  /** Whether all resolve before the patience ends. */
  private async inTime(promises: Promise<void>[]): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), this.patience);
    });
    const result = await Promise.race([Promise.all(promises).then(() => true), late]);
    clearTimeout(timer);
    return result;
  }
}
