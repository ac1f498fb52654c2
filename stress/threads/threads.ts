// Threads that execute beside the compacting main thread: whether each run ends as it should while all that it goes through
// moves. How fast they are beside it, npm run bench measures (T11).
import type { Arena } from 'jit-arena';
import type { Workload } from '../recording/workload';
import { ExecutingThreads } from './executing-threads';
import { RenewedPopulation } from './renewed';

export const MOST_THREADS = 64;

const DEFAULT_SECONDS = 5;
/** After each, all is verified. */
const ROUND_MILLISECONDS = 200;
const RUNS_PER_THREAD = 512;
/** Of a collect in every second round; in the others it has no limit. */
const SLICE_MICROS = 200;
const YIELD_MILLISECONDS = 20;
const SLEEP_MILLISECONDS = 0.2;
const MOST_REPORTS = 20;

export interface ThreadsOptions {
  /** Threads that execute. */
  count: number;
  seed: number;
  /** A few unless given. */
  seconds?: number;
  /** Called now and then; `done` of `total` rounds. */
  progress?: (threads: Threads, done: number, total: number) => void;
  /** For tests: the number of the first thread's run whose expectation is made wrong. */
  spoil?: number;
  /** In milliseconds: how long the threads may take to come, and to end. */
  patience?: number;
}

export interface ThreadFigures {
  /** Threads that executed, beside the main one. */
  count: number;
  rounds: number;
  /** Executors moved, and executors replaced by new ones. */
  moved: number;
  renewed: number;
  collects: number;
  /** The most that waited for the threads after a collect. */
  retiredBytesPeak: number;
  /** Runs, all of them checked. */
  callsChecked: number;
  wrongResults: number;
}

export class Threads {
  failures = 0;
  /** The first failures, in words. */
  readonly reports: string[] = [];
  private moved = 0;
  private collects = 0;
  private retiredBytesPeak = 0;
  private rounds = 0;
  private stopped = false;
  private lastYield = performance.now();
  private readonly threads: ExecutingThreads;
  private population: RenewedPopulation | undefined;

  /** @param arena made by `stressArena`, empty, with a writer that can be shared */
  constructor(
    private readonly arena: Arena,
    private readonly workload: Workload,
    private readonly options: ThreadsOptions,
  ) {
    this.threads = new ExecutingThreads(arena, options.count, (what) => this.fail(what), options.patience);
  }

  /** Ends the run soon, with what was reached. */
  stop(): void {
    this.stopped = true;
  }

  /** Never rejects: an unexpected error is a failure like any other. */
  async run(): Promise<void> {
    await this.orFail(() => this.runBeside());
    await this.threads.stop();
    await this.orFail(() => this.leaveNothing());
  }

  get figures(): ThreadFigures {
    const { collects, moved, population, retiredBytesPeak, rounds, threads } = this;
    const { checked: callsChecked, count, wrongResults } = threads;
    const renewed = population?.renewed ?? 0;
    return { count, rounds, moved, renewed, collects, retiredBytesPeak, callsChecked, wrongResults };
  }

  private fail(what: string): void {
    this.failures++;
    if (this.reports.length < MOST_REPORTS) this.reports.push(what);
  }

  private async orFail(action: () => void | Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      this.fail(`beside the threads: ${(error as Error).stack}`);
    }
  }

  private get over(): boolean {
    return this.stopped || this.failures > 0;
  }

  private async runBeside(): Promise<void> {
    const { options, threads } = this;
    const population = new RenewedPopulation(this.arena, this.workload, options.seed, threads.outside);
    this.population = population;
    await threads.start(population.entryIds, (thread) => {
      const runs = population.plan(RUNS_PER_THREAD);
      if (thread === 0 && options.spoil !== undefined) runs[options.spoil]!.hash ^= 1n;
      return runs;
    });
    const rounds = Math.ceil((1000 * (options.seconds ?? DEFAULT_SECONDS)) / ROUND_MILLISECONDS);
    for (let round = 0; round < rounds && !this.over; round++) {
      const end = performance.now() + ROUND_MILLISECONDS;
      while (performance.now() < end && !this.over) {
        this.compact(population, round % 2 === 0 ? SLICE_MICROS : 0);
        await this.pause();
      }
      // The last may have been cut short.
      if (!this.over) this.rounds++;
      this.verify();
      options.progress?.(this, round + 1, rounds);
    }
  }

  private compact(population: RenewedPopulation, maxPauseMicros: number): void {
    const { freed, moved, retiredBytes } = population.compact(maxPauseMicros);
    this.collects++;
    this.moved += moved;
    this.retiredBytesPeak = Math.max(this.retiredBytesPeak, retiredBytes);
    if (freed === 0 && moved === 0) sleep();
  }

  private verify(): void {
    const { ok, problems, broken } = this.arena.verify();
    if (!ok) this.fail(`beside the threads verify() found ${problems.length} problems: ${broken ?? problems[0]?.what}`);
  }

  /** After the threads have ended: that something has moved, and that all can be given back. */
  private leaveNothing(): void {
    if (!this.over && this.moved === 0) this.fail('nothing moved beside the threads');
    // What was wrong would only make more of it.
    if (this.failures > 0) return;
    this.population?.clear();
    this.arena.collect();
    const { executors, retiredBytes } = this.arena.stats();
    if (executors > 0) this.fail(`${executors} executors are left of those that the threads executed`);
    if (retiredBytes > 0) this.fail(`${retiredBytes} bytes wait for threads that have ended`);
    this.verify();
  }

  /** Lets the event loop run when it is time: for signals, and for what the threads have to say. */
  private async pause(): Promise<void> {
    if (performance.now() < this.lastYield + YIELD_MILLISECONDS) return;
    await new Promise((resolve) => setImmediate(resolve));
    this.lastYield = performance.now();
  }
}

/** Gives the core to a thread that has been waiting for one. */
function sleep(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, SLEEP_MILLISECONDS);
}
