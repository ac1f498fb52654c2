// Runs of traces: the way in, and what the way out was.
import { checkCount, checkMemory } from './bytes';
import { rethrowThrown } from './calls';
import { ArenaError } from './errors';
import { addon, layout, mailbox, N, type NativeArena, numbers, raise } from './native';
import type { ExitTaken } from './types';

/** Something that a runner can run: an Executor. */
interface Runnable {
  readonly id: number;
}

/** Runs a trace; see `arena.runner`. `entry` counts the executor's entries. */
export type Runner = (executor: Runnable, entry?: number) => number;

/** The exit of the last run; tokens are its number + 1, negative when it is hot. */
const last: ExitTaken = { executor: 0, exit: 0, hot: false };
let lastToken = 0;

export function makeRunner(
  native: NativeArena,
  context: ArrayBufferView,
  checkOwn: (executor: Runnable) => void,
): Runner {
  if (!ArrayBuffer.isView(context)) throw new TypeError('the context is not a view of an ArrayBuffer');
  checkMemory(context, 'the context');
  // As two halves, since storing a bigint costs more than the run of a short trace.
  const address = addon.addressOf(context);
  const low = Number(address & 0xffff_ffffn);
  const high = Number(address >> 32n);
  const at = (layout.call + layout.frameIntegers) / 4;
  const { u32 } = mailbox;
  // `length` costs less than `byteLength`, and both are 0 when the buffer is detached.
  const typed = context instanceof DataView ? undefined : (context as Uint8Array);
  const length = typed === undefined ? context.byteLength : typed.length;
  return (executor, entry = 0) => {
    if ((typed === undefined ? context.byteLength : typed.length) !== length) {
      throw new ArenaError('ERR_ARENA_DETACHED', "the ArrayBuffer of the runner's context is detached");
    }
    checkOwn(executor);
    numbers[N.id] = executor.id;
    numbers[N.runEntry] = entry === 0 ? 0 : checkCount(entry, 0xffff_ffff, 'ERR_ARENA_BOUNDS', 'entry');
    u32[at] = low;
    u32[at + 1] = high;
    if (native.run() !== undefined) raise();
    rethrowThrown();
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

export function exitOf(token: number): ExitTaken {
  if (typeof token !== 'number') throw new TypeError('the exit token is not a number');
  if (token === 0 || token !== lastToken) {
    throw new ArenaError('ERR_ARENA_EXIT', `${token} is not the exit of the last run on this thread`);
  }
  return { ...last };
}
