// For scripts in a process of their own (test/88-foreign-threads.test.ts and 89): test/fixtures/foreign.c as a library
// that somebody has loaded, with its functions to be called from JavaScript.
import assert from 'node:assert/strict';
import { Arena, ArenaError, type MachineFunction, type Signature, symbolAddress } from 'jit-arena';
import { jump } from './x64.js';

/** Where the library's functions are called through. Nothing else is in it, and it is never disposed of. */
const own = new Arena();

/** A function of C, at an address. */
export const cFunction = <const S extends Signature>(address: bigint, signature: S): MachineFunction<S> =>
  own.install(jump({ address })).func(signature);

const text = (value: string) => Buffer.from(`${value}\0`);

/** A symbol of the library at that path. */
export function symbolOf(path: string): (name: string) => bigint {
  const open = cFunction(symbolAddress('dlopen') as bigint, { args: ['pointer', 'i32'], returns: 'u64' });
  const find = cFunction(symbolAddress('dlsym') as bigint, { args: ['u64', 'pointer'], returns: 'u64' });
  const library = open(text(path), 2);
  assert.notEqual(library, 0n, path);
  return (name) => {
    const address = find(library, text(name));
    assert.notEqual(address, 0n, name);
    return address;
  };
}

/** What test/fixtures/foreign.c offers. */
export function openForeign(path: string) {
  const symbol = symbolOf(path);
  return {
    give: cFunction(symbol('give'), { args: ['u64'], returns: 'void' }),
    start: cFunction(symbol('start'), { args: ['i32'], returns: 'void' }),
    stop: cFunction(symbol('stop'), { args: [], returns: 'void' }),
    count: cFunction(symbol('count'), { args: [], returns: 'i64' }),
    countWrong: cFunction(symbol('count_wrong'), { args: [], returns: 'i32' }),
    callInChild: cFunction(symbol('call_in_child'), { args: ['u64'], returns: 'i32' }),
    callOnFiber: cFunction(symbol('call_on_fiber'), { args: ['u64', 'i32'], returns: 'i32' }),
    call: cFunction(symbol('call'), { args: ['u64', 'i32'], returns: 'i32' }),
  };
}

/** Makes the call, whose result is undefined when it throws that a thread of the library has called a callback of ours. */
export function quietly<R>(call: () => R): R | undefined {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof ArenaError) || error.code !== 'ERR_ARENA_WRONG_THREAD') throw error;
  }
}

/** Until the threads have called all that they know another time. */
export async function calledAgain({ count }: { count: () => bigint }): Promise<void> {
  const now = (): bigint => quietly(count) ?? now();
  const before = now();
  while (now() < before + 200n) await sleep(1);
}

export const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export { Arena, assert };
