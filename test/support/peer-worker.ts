// What runs in a Peer's worker: functions that come as text, with the shared arena.
import { createRequire } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import * as jitArena from 'jit-arena';
import type { There } from './peer.js';

const port = parentPort as NonNullable<typeof parentPort>;
const there: There = {
  arena: jitArena.Arena.from(workerData as jitArena.ShareToken),
  jitArena,
  keep: {},
  require: createRequire(__filename),
  post: (message) => port.postMessage({ message }),
};

port.on('message', async ({ number, text, args }: { number: number; text: string; args: unknown[] }) => {
  try {
    // biome-ignore lint/security/noGlobalEval: the text is a function of the test's own
    const fn = globalThis.eval(`(${text})`) as (there: There, ...args: unknown[]) => unknown;
    port.postMessage({ number, result: await fn(there, ...args) });
  } catch (error) {
    const { name, message, code } = error as Error & { code?: string };
    port.postMessage({ number, error: { name, message, code } });
  }
});
