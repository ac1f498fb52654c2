// What must be true of an exit: where it is linked to, and how often it is taken until it is hot.
import { Arena, type ArenaOptions } from 'jit-arena';
import type { Resident } from './resident';

/** Low, so that a replay has many hot exits. */
const EXIT_THRESHOLD = 5;
const EXIT_GROWTH = 2;
/** The most that an arena counts to, and grows. */
const MAX_THRESHOLD = 4096;
const MAX_GROWTHS = 15;

/** An arena whose exits behave as `Exit` says. */
export function stressArena(options: ArenaOptions = {}): Arena {
  return new Arena({ ...options, exitThreshold: EXIT_THRESHOLD, exitGrowth: EXIT_GROWTH });
}

/** The host's number for an exit, which the arena gives back when the exit is taken: 16 bits of each. */
export const exitTag = (recordedId: number, exit: number) => ((recordedId << 16) | exit) >>> 0;

export const tagInWords = (tag: number) => `${tag & 0xffff} of ${tag >>> 16}`;

export class Exit {
  /** Where the exit is linked to. */
  target: Resident | undefined;
  private untilHot = EXIT_THRESHOLD;
  private growths = 0;

  constructor(
    readonly from: Resident,
    readonly number: number,
  ) {}

  link(target: Resident): void {
    this.target?.inbound.delete(this);
    this.target = target;
    target.inbound.add(this);
  }

  /** What the arena is to say of it when it is taken: who and which. */
  get tag(): number {
    return exitTag(this.from.id, this.number);
  }

  /** Also when the target dies. The exit is as cold as a new one then. */
  unlink(): void {
    this.target?.inbound.delete(this);
    this.target = undefined;
    this.untilHot = EXIT_THRESHOLD;
    this.growths = 0;
  }

  /** The exit is taken and is not linked. Returns whether it becomes hot with that. */
  take(): boolean {
    if (--this.untilHot > 0) return false;
    this.growths = Math.min(this.growths + 1, MAX_GROWTHS);
    this.untilHot = Math.min(EXIT_THRESHOLD * EXIT_GROWTH ** this.growths, MAX_THRESHOLD);
    return true;
  }
}
