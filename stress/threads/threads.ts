// Threads that execute beside the compacting main thread: whether each run ends as it should while all that it goes through
// moves, and what the moves cost.
//
// Time goes in rounds of three windows. In one the main thread leaves the arena alone; in one it replaces traces and
// compacts, in slices, at a set pace; in one it does so as fast as it can. Where it has nothing to do, it copies code in
// ordinary memory: what it costs to share the machine with a busy thread, it costs in all three. Speed is checked runs per
// second of the threads' own CPU time, so that nothing counts which takes that time away. Every second round goes
// backwards, against drift.
import type { Arena } from 'jit-arena';
import type { Workload } from '../recording/workload';
import { ExecutingThreads } from './executing-threads';
import { RenewedPopulation } from './renewed';

export const MOST_THREADS = 64;

/**
 * Of the main thread, in executors moved per second. The middle one moves each trace about 40 times a second, which is more
 * than a JIT's collector would.
 */
const PACES = { leftAlone: 0, paced: 10_000, fullSpeed: Number.POSITIVE_INFINITY } as const;
type Pace = keyof typeof PACES;
const ROUND = Object.keys(PACES) as Pace[];

const LEAST_ROUNDS = 5;
const DEFAULT_SECONDS = 5;
const SHORTEST_WINDOW_MILLISECONDS = 100;
const LONGEST_WINDOW_MILLISECONDS = 250;
/** Until V8 has compiled what the threads execute. It counts for nothing. */
const WARM_UP_MILLISECONDS = 200;
const RUNS_PER_THREAD = 512;
/** Of the traces: enough that each slab has gaps that are worth a move, so that nearly all move each time. */
const RENEWED_PER_COMPACTION = 24;
const MOST_WAITING = 3 * RENEWED_PER_COMPACTION;
const SLICE_MICROS = 200;
/** When so much waits for a thread, the main thread waits, too: the arena's own limit would end moves and installs. */
const MOST_RETIRED_BYTES = 8 << 20;
const YIELD_MILLISECONDS = 20;
const SLEEP_MILLISECONDS = 0.2;
const MOST_REPORTS = 20;

export interface ThreadsOptions {
  /** Threads that execute. */
  count: number;
  seed: number;
  /** For all windows together; a few unless given. There are five rounds at least. */
  seconds?: number;
  /** Called now and then; `done` of `total` windows. */
  progress?: (threads: Threads, done: number, total: number) => void;
  /** For tests: the number of the first thread's run whose expectation is made wrong. */
  spoil?: number;
  /** In milliseconds: how long the threads may take to come, and to end. */
  patience?: number;
}

/** What it was to execute beside a compacting thread. */
export interface BesideCompaction {
  /** Speed / speed when left alone, the median of the rounds; and the least and the most. Null when none was measured. */
  speedRatio: number | null;
  speedRatioMin: number | null;
  speedRatioMax: number | null;
  /** Executors, of those that the threads execute. */
  movedPerSecond: number;
}

export interface ThreadFigures extends BesideCompaction {
  /** Threads that executed, beside the main one. */
  count: number;
  rounds: number;
  /** The same when the main thread compacts as fast as it can; above, 10 000 moves a second are wanted of it. */
  atFullSpeed: BesideCompaction;
  /** When the arena is left alone: checked runs per second of the threads' CPU time, the median of the rounds. */
  runsPerCpuSecond: number | null;
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

/** What the main thread did at a pace, in all windows. */
interface Done {
  moved: number;
  milliseconds: number;
}

export class Threads {
  failures = 0;
  /** The first failures, in words. */
  readonly reports: string[] = [];
  moved = 0;
  private collects = 0;
  private retiredBytes = 0;
  private retiredBytesPeak = 0;
  /** The last collect had nothing left to do. */
  private compacted = true;
  private stopped = false;
  private windows = 0;
  private lastYield = performance.now();
  /** The number of each window. */
  private readonly rounds: Record<Pace, number>[] = [];
  private readonly done: Record<Pace, Done>;
  private readonly threads: ExecutingThreads;
  private population: RenewedPopulation | undefined;

  /** @param arena made by `stressArena`, empty, with a writer that can be shared */
  constructor(
    private readonly arena: Arena,
    private readonly workload: Workload,
    private readonly options: ThreadsOptions,
  ) {
    const nothing = () => ({ moved: 0, milliseconds: 0 });
    this.done = { leftAlone: nothing(), paced: nothing(), fullSpeed: nothing() };
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
    const { rounds, threads } = this;
    return {
      count: threads.count,
      rounds: rounds.length,
      ...this.beside('paced'),
      atFullSpeed: this.beside('fullSpeed'),
      runsPerCpuSecond: median(rounds.flatMap(({ leftAlone }) => threads.speeds(leftAlone, leftAlone)?.[0] ?? [])),
      moved: this.moved,
      renewed: this.population?.renewed ?? 0,
      collects: this.collects,
      retiredBytesPeak: this.retiredBytesPeak,
      callsChecked: threads.checked,
      wrongResults: threads.wrongResults,
    };
  }

  private beside(pace: Pace): BesideCompaction {
    const ratios = this.rounds.flatMap((round) => {
      const speeds = this.threads.speeds(round[pace], round.leftAlone);
      return speeds ? [Number((speeds[0] / speeds[1]).toFixed(4))] : [];
    });
    const { milliseconds, moved } = this.done[pace];
    return {
      speedRatio: median(ratios, 4),
      speedRatioMin: ratios.length > 0 ? Math.min(...ratios) : null,
      speedRatioMax: ratios.length > 0 ? Math.max(...ratios) : null,
      movedPerSecond: milliseconds > 0 ? Math.round((1000 * moved) / milliseconds) : 0,
    };
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
    await this.measure(population);
  }

  private async measure(population: RenewedPopulation): Promise<void> {
    const milliseconds = 1000 * (this.options.seconds ?? DEFAULT_SECONDS);
    const rounds = Math.max(LEAST_ROUNDS, Math.floor(milliseconds / (ROUND.length * LONGEST_WINDOW_MILLISECONDS)));
    const window = Math.max(SHORTEST_WINDOW_MILLISECONDS, milliseconds / (rounds * ROUND.length));
    await this.goOnFor(WARM_UP_MILLISECONDS, 'fullSpeed', population);
    for (let i = 0; i < rounds && !this.over; i++) {
      const round = { leftAlone: 0, paced: 0, fullSpeed: 0 };
      for (const pace of i % 2 === 0 ? ROUND : [...ROUND].reverse()) {
        round[pace] = ++this.windows;
        this.threads.enter(this.windows);
        const { milliseconds, moved } = await this.goOnFor(window, pace, population);
        this.done[pace].milliseconds += milliseconds;
        this.done[pace].moved += moved;
        this.options.progress?.(this, this.windows, rounds * ROUND.length);
      }
      this.threads.leave();
      // The last may have been cut short.
      if (!this.over) this.rounds.push(round);
      this.verify();
    }
  }

  private async goOnFor(milliseconds: number, pace: Pace, population: RenewedPopulation): Promise<Done> {
    const begin = performance.now();
    let moved = 0;
    for (;;) {
      const elapsed = performance.now() - begin;
      if (elapsed >= milliseconds || this.over) return { moved, milliseconds: elapsed };
      if (1000 * moved < PACES[pace] * elapsed) moved += this.compact(population, pace);
      else population.copyElsewhere(RENEWED_PER_COMPACTION);
      await this.pause();
    }
  }

  /** Returns how many it moved. */
  private compact(population: RenewedPopulation, pace: Pace): number {
    if (this.compacted && population.waiting < MOST_WAITING) population.renew(RENEWED_PER_COMPACTION);
    const freed = population.freeLeft();
    const { done, moved, retiredBytes } = this.arena.collect({
      compact: this.retiredBytes < MOST_RETIRED_BYTES,
      maxPauseMicros: pace === 'paced' ? SLICE_MICROS : 0,
    });
    this.compacted = done;
    this.collects++;
    this.moved += moved;
    this.retiredBytes = retiredBytes;
    this.retiredBytesPeak = Math.max(this.retiredBytesPeak, retiredBytes);
    if (freed === 0 && moved === 0) sleep();
    return moved;
  }

  private verify(): void {
    const { ok, problems, broken } = this.arena.verify();
    if (!ok) this.fail(`beside the threads verify() found ${problems.length} problems: ${broken ?? problems[0]?.what}`);
  }

  /** After the threads have ended: that the rounds have told something, and that all can be given back. */
  private leaveNothing(): void {
    if (!this.over) {
      if (this.moved === 0) this.fail('nothing moved beside the threads');
      if (this.beside('paced').speedRatio === null) this.fail('no thread got time in two windows of a round');
    }
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

function median(values: number[], digits = 0): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const value = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return Number(value.toFixed(digits));
}
