// What generated traces find at the address in their first argument register, and how they are run with it.
//
//   bytes 0 to 7    the hash: from the host, then from each trace to the next
//   bytes 8 to 11   how many traces of this run have come to their end
//   bytes 16 on     the choice of the first trace of the run, of the second, …: an exit's number, or NO_EXIT
//
// So the host decides beforehand where a run leaves each trace. The last choice must be NO_EXIT or an exit that is not
// linked.
import type { Arena, Executor } from 'jit-arena';

export const NO_EXIT = 0x7fff_ffff;
/** A run through links goes through at most this many traces. */
export const MAX_STOPS = 8;

const CHOICES_OFFSET = 16;

export class Context {
  /** What the last run ended with. */
  hash = 0n;
  stops = 0;
  // One choice more, so that a run that goes wrong at its end through a link is done in the next trace.
  private readonly buffer = new ArrayBuffer(CHOICES_OFFSET + 4 * (MAX_STOPS + 1));
  private readonly hashInside = new BigUint64Array(this.buffer, 0, 1);
  private readonly stopsInside = new Uint32Array(this.buffer, 8, 1);
  private readonly choices = new Uint32Array(this.buffer, CHOICES_OFFSET);
  private readonly runner: (executor: Executor) => number;

  constructor(arena: Arena) {
    this.runner = arena.runner(new Uint8Array(this.buffer));
  }

  /** Returns what the arena's runner returns. */
  run(executor: Executor, input: bigint, choices: ArrayLike<number>): number {
    this.hashInside[0] = input;
    this.stopsInside[0] = 0;
    this.choices.fill(NO_EXIT);
    this.choices.set(choices);
    const token = this.runner(executor);
    this.hash = this.hashInside[0]!;
    this.stops = this.stopsInside[0]!;
    return token;
  }
}
