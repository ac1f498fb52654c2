// Runs that the main thread has planned, made by a thread that executes: over and over, in turn, each of them checked.
import type { Arena, Executor } from 'jit-arena';
import { Context, NO_EXIT } from '../program/context';

/** A run, and what must come of it. */
export interface PlannedRun {
  /** Number of the entry. */
  entry: number;
  input: bigint;
  choices: readonly number[];
  hash: bigint;
  stops: number;
  /** The exit that it takes at its end, or NO_EXIT. */
  exit: number;
}

export class PlannedRuns {
  /** How many have been made. */
  made = 0;
  private readonly context: Context;
  private readonly entries: Executor[];

  constructor(
    private readonly arena: Arena,
    entryIds: readonly number[],
    private readonly runs: readonly PlannedRun[],
  ) {
    this.context = new Context(arena);
    this.entries = entryIds.map((id) => arena.executor(id));
  }

  /** Makes the next one. Returns what came of it, in words, when that is not what must. */
  makeNext(): string | undefined {
    const { arena, context, entries, runs } = this;
    const run = runs[this.made++ % runs.length]!;
    const token = context.run(entries[run.entry]!, run.input, run.choices);
    // Not its tag, for which the arena's lock is needed; and not whether it is hot, which threads can miss.
    const exit = token === 0 ? NO_EXIT : arena.exitOf(token).exit;
    if (context.hash === run.hash && context.stops === run.stops && exit === run.exit) return;
    const found = outcome(context.hash, context.stops, exit);
    const wanted = outcome(run.hash, run.stops, run.exit);
    return `a run of executor ${entries[run.entry]!.id} with 0x${run.input.toString(16)} ended with ${found}, expected ${wanted}`;
  }
}

function outcome(hash: bigint, stops: number, exit: number): string {
  return `0x${hash.toString(16)} after ${stops} traces${exit === NO_EXIT ? '' : ` through exit ${exit}`}`;
}
