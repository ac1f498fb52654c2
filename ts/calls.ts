// JavaScript calls machine code, and machine code calls JavaScript.
import { layout, raise, shared } from './native';
import {
  type CallbackFunction,
  checkSignature,
  clearResult,
  type MachineFunction,
  putArguments,
  putResult,
  type Signature,
  takeArguments,
  takeResult,
} from './values';

// What a callback threw is carried in `shared.thrown` past the machine code, which is never unwound, to the call that
// entered it. A call that is made inside a callback is such a call of its own, so its caller can catch what its callbacks
// threw.

/**
 * A JavaScript function around a native one without arguments: arguments go into the mailbox, the result comes out.
 * The first argument counts have a function of their own, since rest parameters cost as much as a small call.
 */
export function makeFunction<S extends Signature>(
  call: () => number | undefined,
  signature: S,
  what: string,
): MachineFunction<S> {
  const put = putArguments(signature.args, layout.call) as ((value: unknown) => void)[];
  const take = takeResult(signature.returns, layout.call);
  const finish = () => {
    const failed = call();
    if (shared.thrown !== undefined) rethrow();
    if (failed !== undefined) raise();
    return take();
  };
  const expect = (count: number): never => {
    throw new TypeError(`${what} takes ${put.length} argument${put.length === 1 ? '' : 's'}, not ${count}`);
  };
  const [put0, put1, put2] = put as [(value: unknown) => void, (value: unknown) => void, (value: unknown) => void];
  let made: (...args: never[]) => unknown;
  switch (put.length) {
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
        put0(a);
        return finish();
      };
      break;
    case 2:
      made = function (a: never, b: never): unknown {
        if (arguments.length !== 2) expect(arguments.length);
        put0(a);
        put1(b);
        return finish();
      };
      break;
    case 3:
      made = function (a: never, b: never, c: never): unknown {
        if (arguments.length !== 3) expect(arguments.length);
        put0(a);
        put1(b);
        put2(c);
        return finish();
      };
      // biome-ignore-end lint/complexity/noArguments: as above
      break;
    default:
      made = (...args: unknown[]) => {
        if (args.length !== put.length) expect(args.length);
        for (let i = 0; i < args.length; i++) (put[i] as (value: unknown) => void)(args[i]);
        return finish();
      };
      Object.defineProperty(made, 'length', { value: put.length });
  }
  return made as MachineFunction<S>;
}

/** Throws what a callback of the machine code that has just returned threw. */
export function rethrowThrown(): void {
  if (shared.thrown !== undefined) rethrow();
}

function rethrow(): never {
  const { error } = shared.thrown as { error: unknown };
  shared.thrown = undefined;
  throw error;
}

/** What native code calls, without arguments, when machine code calls the callback. Lets no exception through. */
export function makeCallback<S extends Signature>(given: S, fn: CallbackFunction<S>): () => void {
  const signature = checkSignature(given);
  if (typeof fn !== 'function') throw new TypeError('the callback is not a function');
  const take = takeArguments(signature.args, layout.callback);
  const put = putResult(signature.returns, layout.callback) as (value: unknown) => void;
  return () => {
    // After one has thrown, later callbacks of the same machine code return 0 at once.
    if (shared.thrown !== undefined) return;
    try {
      const args = take.map((takeOne) => takeOne());
      put((fn as (...args: unknown[]) => unknown)(...args));
    } catch (error) {
      shared.thrown = { error };
      clearResult(layout.callback);
    }
  };
}
