// Runs of traces: the way in, and what the way out was.
import { checkMemory } from './bytes';
import { fail } from './calls';
import { ArenaError } from './errors';
import { type Executor, prepareRun } from './executor';
import { addon, layout, mailbox, type NativeArena, shared } from './native';
import { asUintN, Bytes, bufferOf, byteLengthOf, byteOffsetOf, isArrayBufferView } from './primordials';
import type { ExitTaken } from './types';

/** Runs a trace; see `arena.runner`. `entry` counts the executor's entries. */
export type Runner = (executor: Executor, entry?: number) => number;

const { f64, i32, u32 } = mailbox;
const contextAt = layout.enteredContext / 4;
const tokenAt = layout.leftToken / 4;
const executorAt = layout.leftExecutor / 8;
const { run } = addon;

export function makeRunner(
  native: NativeArena,
  context: ArrayBufferView,
  checkOwn: (executor: Executor) => unknown,
): Runner {
  if (!isArrayBufferView(context)) throw new TypeError('the context is not a view of an ArrayBuffer');
  checkMemory(context, 'the context');
  // As two halves, since storing a bigint costs more than the run of a short trace.
  const address = addon.addressOf(context);
  const low = Number(asUintN(32, address));
  const high = Number(address >> 32n);
  const { number: arena, token } = native;
  // An element is there unless the buffer is detached: no program can change that, as it can what a length is. Of a
  // view without bytes it is one of those behind it.
  const bytes = new Bytes(bufferOf(context), byteLengthOf(context) === 0 ? 0 : byteOffsetOf(context));
  const hasBytes = bytes[0] !== undefined;
  return (executor, entry = 0) => {
    prepareRun(native, arena, executor, entry, checkOwn);
    if (hasBytes && bytes[0] === undefined) {
      throw new ArenaError('ERR_ARENA_DETACHED', "the ArrayBuffer of the runner's context is detached");
    }
    u32[contextAt] = low;
    u32[contextAt + 1] = high;
    let failed: number | undefined;
    let thrown: typeof shared.thrown;
    let left = 0;
    try {
      failed = run();
      left = i32[tokenAt] as number;
    } finally {
      // As in makeFunction. And the token is none until somebody gets it; those of earlier runs were good until now.
      ({ thrown } = shared);
      shared.thrown = undefined;
      i32[tokenAt] = 0;
    }
    if (failed !== undefined || thrown !== undefined) fail(thrown);
    if (left !== 0) {
      i32[tokenAt] = left;
      shared.lastArena = token;
    }
    return left;
  };
}

export function exitOf(native: NativeArena, token: number): ExitTaken {
  if (typeof token !== 'number') throw new TypeError('the exit token is not a number');
  if (token === 0 || token !== i32[tokenAt] || native.token !== shared.lastArena) {
    throw new ArenaError('ERR_ARENA_EXIT', `${token} is not the exit of the last run, and of this arena`);
  }
  return { executor: f64[executorAt] as number, exit: (token < 0 ? -token : token) - 1, hot: token < 0 };
}
