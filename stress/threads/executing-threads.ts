// The threads that execute, as the main thread sees them: starts them, hears from them, ends them.
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Arena, ShareToken } from 'jit-arena';
import type { PlannedRun } from './planned-runs';

/** For a thread to come or to end, on a machine that is busy with other things. */
const PATIENCE_MILLISECONDS = 30_000;

export interface ExecutingThreadData {
  token: ShareToken;
  /** Its number among those threads. */
  number: number;
  entryIds: number[];
  runs: PlannedRun[];
  /** 0 until they are to end. */
  stop: Int32Array;
  /** Counts for each thread the moments at which it is outside all code. */
  outside: Int32Array;
}

/** `ready` comes first; `wrong` as it happens; `end` last, with wrong results that were not told of. */
export type ThreadMessage =
  | { kind: 'ready' }
  | { kind: 'wrong'; what: string }
  | { kind: 'end'; checked: number; untold: number };

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
  private readonly stopped = new Int32Array(new SharedArrayBuffer(4));
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
    const { outside, stopped: stop, threads } = this;
    const token = this.arena.share();
    for (let number = 0; number < this.count; number++) {
      const data: ExecutingThreadData = { token, number, entryIds, runs: runsOf(number), stop, outside };
      threads.push(this.startOne(number, data));
    }
    if (!(await this.inTime(threads.map(({ ready }) => ready)))) this.fail('the threads do not start');
  }

  /** Resolves when all have ended. */
  async stop(): Promise<void> {
    Atomics.store(this.stopped, 0, 1);
    if (await this.inTime(this.threads.map(({ over }) => over))) return;
    this.fail('the threads do not stop');
    this.terminated = true;
    // Ends a loop of links, which terminate() would wait for.
    this.arena.unlinkAll();
    for (const { worker } of this.threads) await worker.terminate();
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
