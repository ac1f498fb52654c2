// What threads execute while the main thread moves it: traces that are linked to each other, and that die and are replaced
// by the same trace elsewhere, all the time, so that there are gaps to close.
//
// Threads know the ids of a few traces, the entries, which stay as long as the population. All others they come to
// through links. A new copy of a trace is linked as the old one is, and takes over the links that lead to it
// (`arena.replace`). The old one is whole until no thread can be inside; so what comes of a run never depends on when the
// run is made.
import type { Arena, CollectResult, Executor } from 'jit-arena';
import { NO_EXIT } from '../program/context';
import { generate } from '../program/generate';
import { withHelpers } from '../program/helpers';
import type { Encoded } from '../program/program';
import { Random } from '../program/random';
import { outsideWorld, type World } from '../program/world';
import type { Workload } from '../recording/workload';
import { Resident } from '../replay/resident';
import { planRoute } from '../replay/route';
import type { PlannedRun } from './planned-runs';

/** Some MiB of code, so that a compaction has many slabs to look at. */
export const TRACES = 256;
const ENTRIES = 16;
const LINKED_EXITS = 0.5;

/** Of the traces: enough that each slab has gaps that are worth a move, so that nearly all move each time. */
const RENEWED_PER_COMPACTION = 24;
const MOST_WAITING = 3 * RENEWED_PER_COMPACTION;
/** When so much waits for a thread, the main thread waits, too: the arena's own limit would end moves and installs. */
const MOST_RETIRED_BYTES = 8 << 20;

/** A trace that another has replaced, and how often each thread had been outside by then. */
interface Replaced {
  executor: Executor;
  outsideThen: number[];
}

export class RenewedPopulation {
  /** Traces that were replaced. */
  renewed = 0;
  private readonly random: Random;
  private readonly world: World;
  private readonly residents: Resident[] = [];
  private readonly encoded: Encoded[] = [];
  /** By number of the resident, whose own executor may be long gone. */
  private readonly executors: Executor[] = [];
  private readonly replaced: Replaced[] = [];
  /** The last collect had nothing left to do. */
  private compacted = true;
  private retiredBytes = 0;

  /** @param outside an element per thread, in which it counts the moments at which it is outside all code */
  constructor(
    private readonly arena: Arena,
    workload: Workload,
    seed: number,
    private readonly outside: Int32Array,
  ) {
    this.random = new Random(seed, -3);
    this.world = withHelpers(outsideWorld(), arena, seed);
    const shapes = workload.events.flatMap((event) => (event.kind === 'create' ? [event.shape] : []));
    for (let i = 0; i < TRACES; i++) {
      const shape = this.random.pick(shapes);
      const program = generate(shape, new Random(seed, -4, i), this.world);
      const encoded = program.encode();
      const executor = arena.install(encoded);
      this.encoded.push(encoded);
      this.executors.push(executor);
      this.residents.push(new Resident(i, executor, shape, program.model()));
    }
    for (const { executor, exits } of this.residents) {
      for (const exit of exits) {
        if (!this.random.chance(LINKED_EXITS)) continue;
        exit.link(this.random.pick(this.residents));
        arena.link(executor, exit.number, this.executors[exit.target!.id]!);
      }
    }
  }

  get entryIds(): number[] {
    return this.executors.slice(0, ENTRIES).map(({ id }) => id);
  }

  plan(count: number): PlannedRun[] {
    const { random, residents } = this;
    return Array.from({ length: count }, () => {
      const entry = random.below(ENTRIES);
      const { stops, exit, choices } = planRoute(residents[entry]!, random);
      const input = random.u64();
      const hash = stops.reduce((hash, stop) => stop.resultOf(hash, false), input);
      return { entry, input, choices, hash, stops: stops.length, exit: exit?.number ?? NO_EXIT };
    });
  }

  /** Replaces some traces by new copies, when all is compact, and compacts for a while. `freed` are replaced traces. */
  compact(maxPauseMicros: number): CollectResult & { freed: number } {
    if (this.compacted && this.replaced.length < MOST_WAITING) {
      for (let i = 0; i < RENEWED_PER_COMPACTION; i++) this.replace(ENTRIES + this.random.below(TRACES - ENTRIES));
    }
    const freed = this.freeLeft();
    const result = this.arena.collect({ compact: this.retiredBytes < MOST_RETIRED_BYTES, maxPauseMicros });
    this.compacted = result.done;
    this.retiredBytes = result.retiredBytes;
    return { ...result, freed };
  }

  /** Ends everything, when no thread executes any more. */
  clear(): void {
    const { arena } = this;
    arena.free(this.replaced.splice(0).map(({ executor }) => executor));
    arena.free(this.executors);
    arena.free(this.world.helpers.map(({ executor }) => executor));
  }

  private replace(number: number): void {
    const { arena, executors } = this;
    const old = executors[number]!;
    const made = arena.install(this.encoded[number]!);
    executors[number] = made;
    for (const exit of this.residents[number]!.exits) {
      if (exit.target) arena.link(made, exit.number, executors[exit.target.id]!);
    }
    arena.replace(old, made);
    this.replaced.push({ executor: old, outsideThen: this.timesOutside() });
    this.renewed++;
  }

  /** Frees the replaced traces that all threads have left, and returns how many. */
  private freeLeft(): number {
    const { arena, replaced } = this;
    const now = this.timesOutside();
    // Twice: the count may have been read before all threads saw the links change.
    const left = replaced.findIndex(({ outsideThen }) => outsideThen.some((then, i) => ((now[i]! - then) | 0) < 2));
    const free = replaced.splice(0, left < 0 ? replaced.length : left);
    arena.free(free.map(({ executor }) => executor));
    return free.length;
  }

  private timesOutside(): number[] {
    return Array.from(this.outside, (_, i) => Atomics.load(this.outside, i));
  }
}
