// Runs of traces: the way in, and what the way out was.

import { fail } from './calls';
import { checkMemory } from './checks';
import { ArenaError } from './errors';
import { type Executor, prepareRun } from './executor';
import { addon, layout, mailbox, type NativeArena, shared } from './native';
import { asUintN, Bytes, bufferOf, byteLengthOf, byteOffsetOf, isArrayBufferView } from './primordials';
import type { ExitTaken } from './types';

/** Runs a trace; see `arena.runner`. `entry` counts the executor's entries. */
export type Runner = (executor: Executor, entry?: number) => number;

const { f64, i32, u32 } = mailbox;
const contextAt = layout.enteredContext / 4;
const exitCodeAt = layout.leftExitCode / 4;
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
      left = i32[exitCodeAt] as number;
    } finally {
      // As in makeFunction. And there is no exit code until somebody gets it; those of earlier runs were good until now.
      ({ thrown } = shared);
      shared.thrown = undefined;
      i32[exitCodeAt] = 0;
    }
    if (failed !== undefined || thrown !== undefined) fail(thrown);
    if (left !== 0) {
      i32[exitCodeAt] = left;
      shared.lastArena = token;
    }
    return left;
  };
}

export function exitOf(native: NativeArena, exitCode: number): ExitTaken {
  if (typeof exitCode !== 'number') throw new TypeError('the exit code is not a number');
  if (exitCode === 0 || exitCode !== i32[exitCodeAt] || native.token !== shared.lastArena) {
    throw new ArenaError('ERR_ARENA_EXIT', `${exitCode} is not the exit of the last run, and of this arena`);
  }
  return { executor: f64[executorAt] as number, exit: (exitCode < 0 ? -exitCode : exitCode) - 1, hot: exitCode < 0 };
}
