// The thread of threads.mjs that executes: makes planned runs over and over, and tells for each window how many it made,
// how many of them were wrong, and how much CPU time that took.
import { parentPort, workerData } from 'node:worker_threads';
import { Arena, load } from './measure.mjs';
import { threadClock } from './thread-clock.mjs';

const { PlannedRuns } = load('../../dist/stress/threads/planned-runs.js');
const RUNS_PER_LOOK = 16;

const { entryIds, open, outside, runs: planned, token } = workerData;
const runs = new PlannedRuns(Arena.from(token), entryIds, planned);
const clock = threadClock();
let wrong = 0;
let begin; // of the open window
parentPort.postMessage('ready');
for (;;) {
  for (let i = 0; i < RUNS_PER_LOOK; i++) if (runs.makeNext() !== undefined) wrong++;
  Atomics.add(outside, 0, 1);
  const isOpen = Atomics.load(open, 0) === 1;
  if (isOpen === (begin !== undefined)) continue;
  if (begin) parentPort.postMessage({ made: runs.made - begin.made, cpuNanos: clock() - begin.clock, wrong });
  begin = isOpen ? { made: runs.made, clock: clock() } : undefined;
}
