// Runs of traces: the way in, and what the way out was.
import { checkMemory } from './bytes';
import { rethrowThrown } from './calls';
import { ArenaError } from './errors';
import { Executor } from './executor';
import { addon, layout, mailbox, N, type NativeArena, numbers, raise } from './native';
import type { ExitTaken } from './types';

/** Runs a trace; see `arena.runner`. `entry` counts the executor's entries. */
export type Runner = (executor: Executor, entry?: number) => number;

/** The exit of the last run, and the arena; tokens are its number + 1, negative when it is hot. */
const last: ExitTaken = { executor: 0, exit: 0, hot: false };
let lastToken = 0;
let lastArena: string | undefined;

export function makeRunner(
  native: NativeArena,
  context: ArrayBufferView,
  checkOwn: (executor: Executor) => void,
): Runner {
  if (!ArrayBuffer.isView(context)) throw new TypeError('the context is not a view of an ArrayBuffer');
  checkMemory(context, 'the context');
  // As two halves, since storing a bigint costs more than the run of a short trace.
  const address = addon.addressOf(context);
  const low = Number(address & 0xffff_ffffn);
  const high = Number(address >> 32n);
  const at = (layout.call + layout.frameIntegers) / 4;
  const { u32 } = mailbox;
  const { token } = native;
  // The length is 0 when the buffer is detached; a DataView's would throw, and `byteLength` costs more.
  const bytes = new Uint8Array(context.buffer, context.byteOffset, context.byteLength);
  const { length } = bytes;
  return (executor, entry = 0) => {
    checkOwn(executor);
    // Last, since what is read before may be code of the caller's.
    if (bytes.length !== length) {
      throw new ArenaError('ERR_ARENA_DETACHED', "the ArrayBuffer of the runner's context is detached");
    }
    Executor.prepareRun(executor, entry);
    u32[at] = low;
    u32[at + 1] = high;
    if (native.run() !== undefined) raise();
    rethrowThrown();
    lastArena = token;
    last.executor = numbers[N.id] as number;
    if (last.executor === 0) {
      lastToken = 0;
      return 0;
    }
    last.exit = numbers[N.runExit] as number;
    last.hot = numbers[N.runHot] !== 0;
    // `| 0`: a small integer, which needs no memory.
    lastToken = last.hot ? -(last.exit + 1) | 0 : (last.exit + 1) | 0;
    return lastToken;
  };
}

export function exitOf(native: NativeArena, token: number): ExitTaken {
  if (typeof token !== 'number') throw new TypeError('the exit token is not a number');
  if (token === 0 || token !== lastToken || native.token !== lastArena) {
    throw new ArenaError('ERR_ARENA_EXIT', `${token} is not the exit of the last run, and of this arena`);
  }
  return { ...last };
}
