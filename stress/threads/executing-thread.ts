// A thread that only executes (executing-threads.ts starts it): makes its runs over and over, and tells of those that end
// wrong.
import { parentPort, workerData } from 'node:worker_threads';
import { Arena } from 'jit-arena';
import type { ExecutingThreadData, ThreadMessage } from './executing-threads';
import { PlannedRuns } from './planned-runs';

/** So often that what others freed need not wait for long, and so rarely that it costs nothing. */
const RUNS_PER_LOOK = 16;
/** Wrong results in words; what is wrong is known well enough then. */
const MOST_TOLD = 20;

function tell(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

const { entryIds, number, outside, runs: planned, stop, token } = workerData as ExecutingThreadData;
const arena = Arena.from(token);
const runs = new PlannedRuns(arena, entryIds, planned);
let wrong = 0;
tell({ kind: 'ready' });
while (Atomics.load(stop, 0) === 0) {
  for (let i = 0; i < RUNS_PER_LOOK; i++) {
    const what = runs.makeNext();
    if (what !== undefined && wrong++ < MOST_TOLD) tell({ kind: 'wrong', what: `thread ${number}: ${what}` });
  }
  Atomics.add(outside, number, 1);
}
arena.dispose();
tell({ kind: 'end', checked: runs.made, untold: Math.max(0, wrong - MOST_TOLD) });
