// A thread that only executes (threads.ts starts it): makes its runs over and over, checks each, and tells how many it
// made in each window and how much CPU time that took.
import { parentPort, workerData } from 'node:worker_threads';
import { Arena, type Executor } from 'jit-arena';
import { Context, NO_EXIT } from '../program/context';
import type { PlannedRun } from './renewed';
import { threadClock } from './thread-clock';
import { type ExecutingThreadData, NO_WINDOW, STOP, type ThreadMessage } from './thread-messages';

/** So often that what others freed need not wait for long, and so rarely that it costs nothing. */
const RUNS_PER_LOOK = 16;
/** Wrong results in words; what is wrong is known well enough then. */
const MOST_TOLD = 20;

class ExecutingThread {
  private checked = 0;
  private wrong = 0;
  private next = 0;
  private readonly arena: Arena;
  private readonly context: Context;
  private readonly entries: Executor[];

  constructor(private readonly data: ExecutingThreadData) {
    this.arena = Arena.from(data.token);
    this.context = new Context(this.arena);
    this.entries = data.entryIds.map((id) => this.arena.executor(id));
  }

  untilStopped(): void {
    const { number, outside, window } = this.data;
    const clock = threadClock();
    tell({ kind: 'ready' });
    let current = NO_WINDOW;
    let checkedBefore = 0;
    let clockBefore = 0;
    while (current !== STOP) {
      for (let i = 0; i < RUNS_PER_LOOK; i++) this.runNext();
      Atomics.add(outside, number, 1);
      const now = Atomics.load(window, 0);
      if (now === current) continue;
      const { checked } = this;
      if (current !== NO_WINDOW) {
        tell({ kind: 'window', window: current, checked: checked - checkedBefore, cpuNanos: clock() - clockBefore });
      }
      current = now;
      checkedBefore = checked;
      clockBefore = clock();
    }
    this.arena.dispose();
    tell({ kind: 'end', checked: this.checked, untold: Math.max(0, this.wrong - MOST_TOLD) });
  }

  private runNext(): void {
    const { arena, context, data, entries } = this;
    const { runs } = data;
    const run = runs[this.next]!;
    this.next = (this.next + 1) % runs.length;
    const token = context.run(entries[run.entry]!, run.input, run.choices);
    // Not its tag, for which the arena's lock is needed; and not whether it is hot, which threads can miss.
    const exit = token === 0 ? NO_EXIT : arena.exitOf(token).exit;
    this.checked++;
    if (context.hash === run.hash && context.stops === run.stops && exit === run.exit) return;
    if (this.wrong++ < MOST_TOLD) tell({ kind: 'wrong', what: this.describe(run, exit) });
  }

  private describe({ entry, input, hash, stops, exit: wantedExit }: PlannedRun, exit: number): string {
    const { context, data } = this;
    const found = outcome(context.hash, context.stops, exit);
    const wanted = outcome(hash, stops, wantedExit);
    return `thread ${data.number}: a run of executor ${data.entryIds[entry]} with 0x${input.toString(16)} ended with ${found}, expected ${wanted}`;
  }
}

function outcome(hash: bigint, stops: number, exit: number): string {
  return `0x${hash.toString(16)} after ${stops} traces${exit === NO_EXIT ? '' : ` through exit ${exit}`}`;
}

function tell(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

new ExecutingThread(workerData as ExecutingThreadData).untilStopped();
