// JavaScript calls machine code, and machine code calls JavaScript.
import { addon, type CallbackWrapper, enter, layout, orRaise, raise, type Status, shared, type Thrown } from './native';
import { apply, defineProperty } from './primordials';
import {
  argumentsIn,
  type CallbackFunction,
  checkSignature,
  clearResult,
  isPointer,
  type MachineFunction,
  type Place,
  put,
  resultIn,
  type Signature,
  settle,
  take,
} from './signature';

// What a callback threw is carried in `shared.thrown` past the machine code, which goes on to its end, to the call that
// entered it. A call that is made inside a callback is such a call of its own, so its caller can catch what its callbacks
// threw.

// One native function for all: V8 compiles a call of a function that it knows into less than half of what a call of any
// function takes.
const { call } = addon;

/**
 * A JavaScript function that calls an entry of an executor: arguments go into the mailbox, the result comes out. The
 * first argument counts have a function of their own, since rest parameters cost as much as a small call; and all types
 * share these, since V8 knows only so many callees of one call.
 */
export function makeFunction<S extends Signature>(
  arena: number,
  executor: number,
  offset: number,
  signature: S,
): MachineFunction<S> {
  const places = argumentsIn(signature.args, layout.call);
  const result = resultIn(signature.returns, layout.call);
  let pointers = 0;
  for (let i = 0; i < places.length; i++) if (isPointer(places[i] as Place)) pointers++;
  // Else nothing of the caller's runs between two arguments.
  const settles = pointers > 1;
  const finish = callOf(arena, executor, offset, result);
  const expect = (count: number): never => {
    const { length } = places;
    throw new TypeError(`executor ${executor} takes ${length} argument${length === 1 ? '' : 's'}, not ${count}`);
  };
  const place0 = places[0] as Place;
  const place1 = places[1] as Place;
  const place2 = places[2] as Place;
  let made: (...args: never[]) => unknown;
  switch (places.length) {
    case 0:
      // biome-ignore-start lint/complexity/noArguments: counting them must not cost an array
      made = function (): unknown {
        if (arguments.length !== 0) expect(arguments.length);
        return finish();
      };
      break;
    case 1:
      made = function (a: never): unknown {
        if (arguments.length !== 1) expect(arguments.length);
        put(place0, a);
        return finish();
      };
      break;
    case 2:
      made = function (a: never, b: never): unknown {
        if (arguments.length !== 2) expect(arguments.length);
        if (settles) {
          a = settle(place0, a);
          b = settle(place1, b);
        }
        put(place0, a);
        put(place1, b);
        return finish();
      };
      break;
    case 3:
      made = function (a: never, b: never, c: never): unknown {
        if (arguments.length !== 3) expect(arguments.length);
        if (settles) {
          a = settle(place0, a);
          b = settle(place1, b);
          c = settle(place2, c);
        }
        put(place0, a);
        put(place1, b);
        put(place2, c);
        return finish();
      };
      // biome-ignore-end lint/complexity/noArguments: as above
      break;
    default:
      made = (...args: unknown[]) => {
        if (args.length !== places.length) expect(args.length);
        if (settles) for (let i = 0; i < args.length; i++) args[i] = settle(places[i] as Place, args[i]);
        for (let i = 0; i < args.length; i++) put(places[i] as Place, args[i]);
        return finish();
      };
      defineProperty(made, 'length', { value: places.length });
  }
  return made as MachineFunction<S>;
}

/** A function that enters the executor with what is in the mailbox, and takes the result. */
function callOf(arena: number, executor: number, offset: number, result: Place): () => unknown {
  return () => {
    enter(arena, executor, offset);
    let failed: number | undefined;
    let thrown: typeof shared.thrown;
    try {
      failed = call();
    } finally {
      // Also when the stack was full for a callback, and in no function that it would be full for: else a later call
      // threw it.
      ({ thrown } = shared);
      shared.thrown = undefined;
    }
    if (failed !== undefined || thrown !== undefined) fail(thrown);
    return take(result);
  };
}

/** What a native function gives that enters machine code; throws what a callback of that threw. */
export function throughMachineCode<T>(enterIt: () => T | Status): T {
  let result: T | Status;
  let thrown: typeof shared.thrown;
  try {
    result = enterIt();
  } finally {
    ({ thrown } = shared);
    shared.thrown = undefined;
  }
  if (thrown !== undefined) fail(thrown);
  return orRaise(result);
}

/** Throws what a callback of the machine code that has just returned threw, or why it was not entered. */
export function fail(thrown: Thrown | undefined): never {
  if (thrown === undefined) raise();
  throw thrown.error;
}

/**
 * What native code calls when machine code calls the callback. Lets no exception through: the call that has entered the
 * machine code throws it. When it is called `alone`, there is no such call, and it returns what was thrown.
 */
export function makeCallback<S extends Signature>(given: S, fn: CallbackFunction<S>): CallbackWrapper {
  const signature = checkSignature(given);
  if (typeof fn !== 'function') throw new TypeError('the callback is not a function');
  const places = argumentsIn(signature.args, layout.callback);
  const result = resultIn(signature.returns, layout.callback, "the callback's result");
  return (alone) => {
    // After one has thrown, later callbacks of the same machine code return 0 at once.
    if (!alone && shared.thrown !== undefined) return;
    try {
      const args: unknown[] = [];
      for (let i = 0; i < places.length; i++) args[i] = take(places[i] as Place);
      put(result, apply(fn, undefined, args));
    } catch (error) {
      if (alone) return { error };
      shared.thrown = { error };
      clearResult(layout.callback);
    }
    return;
  };
}
