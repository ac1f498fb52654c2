// What is measured during a replay: memory over time, the moment of the peak, every collect.
import type { Arena, CollectOptions, CollectResult, SlabMap } from 'jit-arena';
import type { Footprint } from '../recording/workload';

export interface Sample {
  /** Executors created and freed so far: the time axis of a replay. */
  step: number;
  live: number;
  committed: number;
  pages4k: number;
  pages16k: number;
}

export interface Collect {
  step: number;
  micros: number;
  moved: number;
  pagesFreed: number;
}

/** The collect that freed the most pages by moving alone, with the arena's slabs around it. */
export interface BestCollect {
  collect: Collect;
  before: SlabMap[];
  after: SlabMap[];
}

const EXIT_RECORD_BYTES = 16;
const PLOT_POINTS = 6000;
/** Below this much live memory a ratio says more about the smallest unit than about packing. */
export const RATIO_MIN_LIVE_BYTES = 256 * 1024;

export class Timeline {
  best: BestCollect | undefined;
  step = 0;
  live = 0;
  moved = 0;
  movedBytes = 0;
  relocsRewritten = 0;
  /** The moment of the most live bytes. */
  peak: Sample = { step: 0, live: 0, committed: 0, pages4k: 0, pages16k: 0 };
  latest = this.peak;
  recordingEnd: Sample | undefined;
  /** The most that was committed at any moment. */
  committedPeak = 0;
  /** The worst committed / live of all samples, and of those directly after a collect. */
  ratioMax = 0;
  ratioAfterCollectMax = 0;
  /** In microseconds, of all collects and of those that moved something. */
  readonly pauses: number[] = [];
  readonly pausesOfMoves: number[] = [];
  private readonly plottedSamples = new Thinned<Sample>(PLOT_POINTS);
  private readonly plottedCollects = new Thinned<Collect>(PLOT_POINTS);
  private readonly pages4k = new PagePerExecutor(4096);
  private readonly pages16k = new PagePerExecutor(16384);

  constructor(private readonly arena: Arena) {}

  /** For plots: in a long run not all there were. */
  get samples(): readonly Sample[] {
    return this.plottedSamples.items;
  }

  /** For plots, as above. */
  get collects(): readonly Collect[] {
    return this.plottedCollects.items;
  }

  created(footprint: Footprint): void {
    const { code, data } = footprint;
    this.live += liveBytes(footprint);
    this.pages4k.add(code + data);
    this.pages16k.add(code + data);
    this.step++;
    this.sample();
  }

  freed(footprint: Footprint): void {
    this.died(footprint);
    this.sample();
  }

  /** Collects, and keeps the figures; `evicted` is what must die of it. */
  collect(options: CollectOptions, evicted: readonly Footprint[] = []): CollectResult {
    const before = this.arena.slabs();
    const start = process.hrtime.bigint();
    const result = this.arena.collect(options);
    const micros = Number(process.hrtime.bigint() - start) / 1000;
    for (const footprint of evicted) this.died(footprint);
    const { moved, pagesFreed } = result;
    const collect = { step: this.step, micros, moved, pagesFreed };
    this.plottedCollects.push(collect);
    this.pauses.push(micros);
    if (moved > 0) this.pausesOfMoves.push(micros);
    this.moved += moved;
    this.movedBytes += result.movedBytes;
    this.relocsRewritten += result.relocsRewritten;
    // One that also evicted frees pages that were full: it shows no compaction.
    const compacted = moved > 0 && result.evicted === 0;
    if (compacted && pagesFreed > (this.best?.collect.pagesFreed ?? 0)) {
      this.best = { collect, before, after: this.arena.slabs() };
    }
    this.ratioAfterCollectMax = Math.max(this.ratioAfterCollectMax, ratioOf(this.sample()));
    return result;
  }

  private died(footprint: Footprint): void {
    const { code, data } = footprint;
    this.live -= liveBytes(footprint);
    this.pages4k.remove(code + data);
    this.pages16k.remove(code + data);
    this.step++;
  }

  private sample(): Sample {
    const committed = this.arena.stats().committedBytes;
    const { live, pages16k, pages4k, step } = this;
    const sample = { step, live, committed, pages4k: pages4k.bytes, pages16k: pages16k.bytes };
    this.committedPeak = Math.max(this.committedPeak, committed);
    this.ratioMax = Math.max(this.ratioMax, ratioOf(sample));
    if (live > this.peak.live) this.peak = sample;
    this.plottedSamples.push(sample);
    this.latest = sample;
    return sample;
  }
}

/** As `stats()` counts them: exit records, too. */
function liveBytes({ code, data, exits }: Footprint): number {
  return code + data + EXIT_RECORD_BYTES * exits;
}

/** 0 where too little is live for a ratio. */
function ratioOf({ committed, live }: Sample): number {
  return live < RATIO_MIN_LIVE_BYTES ? 0 : committed / live;
}

/** What the usual way would take, by arithmetic: whole pages for each executor, as CPython's JIT maps them. */
class PagePerExecutor {
  bytes = 0;

  constructor(readonly pageBytes: number) {}

  add(executorBytes: number): void {
    this.bytes += this.rounded(executorBytes);
  }

  remove(executorBytes: number): void {
    this.bytes -= this.rounded(executorBytes);
  }

  private rounded(bytes: number): number {
    return Math.ceil(bytes / this.pageBytes) * this.pageBytes;
  }
}

/** A list for a plot: keeps every item at first; when there are too many, every second, and so on. */
class Thinned<T> {
  items: T[] = [];
  private every = 1;
  private seen = 0;

  constructor(private readonly limit: number) {}

  push(item: T): void {
    if (this.seen++ % this.every !== 0) return;
    this.items.push(item);
    if (this.items.length < this.limit) return;
    this.items = this.items.filter((_, i) => i % 2 === 0);
    this.every *= 2;
  }
}
