// What the main thread and a thread that executes (executing-thread.ts) tell each other.
import type { ShareToken } from 'jit-arena';
import type { PlannedRun } from './renewed';

export interface ExecutingThreadData {
  token: ShareToken;
  /** Its number among those threads. */
  number: number;
  entryIds: number[];
  runs: PlannedRun[];
  /** The number of the window; NO_WINDOW between windows, STOP at the end. */
  window: Int32Array;
  /** Counts for each thread the moments at which it is outside all code. */
  outside: Int32Array;
}

/** `ready` comes first; `wrong` and `window` as they happen; `end` last, with wrong results that were not told of. */
export type ThreadMessage =
  | { kind: 'ready' }
  | { kind: 'wrong'; what: string }
  | { kind: 'window'; window: number; checked: number; cpuNanos: number }
  | { kind: 'end'; checked: number; untold: number };

export const NO_WINDOW = 0;
export const STOP = -1;
