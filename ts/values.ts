// Values that cross between JavaScript and machine code: their types, and how each stands in a call frame.
import { checkMemory } from './bytes';
import { ArenaError } from './errors';
import { addon, layout, mailbox } from './native';

/** Types of arguments and results, as C has them; `pointer` is 64 bits, `void` is for results only. */
export type ValueType = 'i32' | 'u32' | 'i64' | 'u64' | 'f32' | 'f64' | 'pointer' | 'void';

/** What a machine function takes and returns: up to 6 integers and pointers and 8 floats, all in registers. */
export interface Signature {
  readonly args: readonly Exclude<ValueType, 'void'>[];
  readonly returns: ValueType;
}

/** What may be passed as a pointer: an address, the first byte of a view, an executor's or a callback's code, or null. */
export type Pointer = bigint | ArrayBufferView | { readonly address: bigint } | null;

interface JsTypes {
  i32: number;
  u32: number;
  f32: number;
  f64: number;
  i64: bigint;
  u64: bigint;
  pointer: bigint;
  void: undefined;
}

/** JavaScript's type of a value that comes from machine code. */
export type ValueOf<T extends ValueType> = JsTypes[T];
/** JavaScript's type of a value that goes to machine code. */
export type ValueFor<T extends ValueType> = T extends 'pointer' ? Pointer : JsTypes[T];

type Elements<T extends readonly ValueType[], Out extends boolean> = {
  -readonly [K in keyof T]: Out extends true ? ValueOf<T[K]> : ValueFor<T[K]>;
};

/** An executor as a function of its signature. */
export type MachineFunction<S extends Signature> = (...args: Elements<S['args'], false>) => ValueOf<S['returns']>;

/** A JavaScript function that machine code can call with the signature. */
export type CallbackFunction<S extends Signature> = (
  ...args: Elements<S['args'], true>
) => S['returns'] extends 'void' ? unknown : ValueFor<S['returns']>;

/** Puts a value into a call frame; throws a TypeError that names it when it does not fit its type. */
export type Put = (value: never) => void;
/** Takes a value out of a call frame. */
export type Take = () => number | bigint | undefined;

const valueTypes: readonly string[] = ['i32', 'u32', 'i64', 'u64', 'f32', 'f64', 'pointer', 'void'];
const isFloat = (type: ValueType) => type === 'f32' || type === 'f64';

/** A copy of the signature. ERR_ARENA_SIGNATURE unless every argument has a register. */
export function checkSignature<S extends Signature>(given: S): S {
  if (typeof given !== 'object' || given === null || !Array.isArray(given.args)) {
    throw new TypeError("a signature is { args: ['i32', …], returns: 'i32' }");
  }
  const signature: Signature = { args: [...given.args], returns: given.returns };
  const fail = (message: string, index?: number) => {
    throw new ArenaError('ERR_ARENA_SIGNATURE', message, index === undefined ? {} : { index });
  };
  signature.args.forEach((type, i) => {
    if (!valueTypes.includes(type) || (type as ValueType) === 'void') {
      fail(`argument ${i} is of type ${String(type)}; types are ${valueTypes.slice(0, -1).join(', ')}`, i);
    }
  });
  if (!valueTypes.includes(signature.returns)) {
    fail(`the result is of type ${String(signature.returns)}; types are ${valueTypes.join(', ')}`);
  }
  const floats = signature.args.filter(isFloat).length;
  const integers = signature.args.length - floats;
  if (integers > 6 || floats > 8) {
    fail(
      `${integers} integer and ${floats} floating arguments; 6 and 8 fit in registers, and the rest is not passed: ` +
        'put it into memory and pass a pointer',
    );
  }
  return signature as S;
}

/** Byte offsets in a frame of the registers that the arguments stand in, in order. */
function registersOf(args: Signature['args'], frame: number): number[] {
  let integers = 0;
  let floats = 0;
  return args.map((type) =>
    isFloat(type) ? frame + layout.frameFloats + 8 * floats++ : frame + layout.frameIntegers + 8 * integers++,
  );
}

function describe(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || value == null) return String(value);
  return `a value of type ${typeof value}`;
}

function mismatch(value: unknown, type: ValueType, what: string): never {
  const needs: Record<ValueType, string> = {
    i32: 'a whole number from -2^31 to 2^31 - 1',
    u32: 'a whole number from 0 to 2^32 - 1',
    i64: 'a bigint from -2^63 to 2^63 - 1',
    u64: 'a bigint from 0 to 2^64 - 1',
    f32: 'a number',
    f64: 'a number',
    pointer: 'a bigint from 0 to 2^64 - 1, a view, an executor or null',
    void: 'nothing',
  };
  throw new TypeError(`${what} is ${describe(value)}; ${type} takes ${needs[type]}`);
}

const callFrame = new BigUint64Array(mailbox.u64.buffer, layout.call, layout.frameBytes / 8);
const savedFrames: BigUint64Array[] = [];
let readsUnderWay = 0;

/**
 * The address of an object that is passed as a pointer. Reading it may run a getter of the caller's that calls a
 * function of an arena, which uses the frame that this call's arguments are being put into.
 */
function addressOf(value: object, what: string): bigint | undefined {
  savedFrames[readsUnderWay] ??= new BigUint64Array(callFrame.length);
  const saved = savedFrames[readsUnderWay] as BigUint64Array;
  saved.set(callFrame);
  readsUnderWay++;
  try {
    if (!ArrayBuffer.isView(value)) return (value as { address?: bigint }).address;
    checkMemory(value, what);
    return addon.addressOf(value);
  } finally {
    readsUnderWay--;
    callFrame.set(saved);
  }
}

function pointerOf(value: unknown, what: string): bigint {
  if (value === null) return 0n;
  const address = typeof value === 'object' ? addressOf(value, what) : value;
  if (typeof address !== 'bigint' || BigInt.asUintN(64, address) !== address) mismatch(value, 'pointer', what);
  return address;
}

/** A writer for one register. `what` names the value in errors. */
function putter(type: ValueType, at: number, what: string): Put {
  const { i32, u32, i64, u64, f32, f64 } = mailbox;
  const word = at / 4;
  const double = at / 8;
  switch (type) {
    case 'i32':
      return (value: number) => {
        if (typeof value !== 'number' || (value | 0) !== value) mismatch(value, type, what);
        i32[word] = value;
      };
    case 'u32':
      return (value: number) => {
        if (typeof value !== 'number' || value >>> 0 !== value) mismatch(value, type, what);
        u32[word] = value;
        u32[word + 1] = 0;
      };
    case 'i64':
      return (value: bigint) => {
        if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value) mismatch(value, type, what);
        i64[double] = value;
      };
    case 'u64':
      return (value: bigint) => {
        if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) mismatch(value, type, what);
        u64[double] = value;
      };
    case 'f32':
      return (value: number) => {
        if (typeof value !== 'number') mismatch(value, type, what);
        f32[word] = value;
      };
    case 'f64':
      return (value: number) => {
        if (typeof value !== 'number') mismatch(value, type, what);
        f64[double] = value;
      };
    case 'pointer':
      return (value: Pointer) => {
        u64[double] = pointerOf(value, what);
      };
    case 'void':
      return () => {};
  }
}

function taker(type: ValueType, at: number): Take {
  const { i32, u32, i64, u64, f32, f64 } = mailbox;
  const word = at / 4;
  const double = at / 8;
  switch (type) {
    case 'i32':
      return () => i32[word];
    case 'u32':
      return () => u32[word];
    case 'i64':
      return () => i64[double];
    case 'u64':
    case 'pointer':
      return () => u64[double];
    case 'f32':
      return () => f32[word];
    case 'f64':
      return () => f64[double];
    case 'void':
      return () => undefined;
  }
}

export const putArguments = (args: Signature['args'], frame: number): Put[] =>
  registersOf(args, frame).map((at, i) => putter(args[i] as ValueType, at, `argument ${i}`));

export const takeArguments = (args: Signature['args'], frame: number): Take[] =>
  registersOf(args, frame).map((at, i) => taker(args[i] as ValueType, at));

const resultAt = (type: ValueType, frame: number) =>
  frame + (isFloat(type) ? layout.frameFloatResult : layout.frameIntegerResult);

export const putResult = (type: ValueType, frame: number): Put =>
  putter(type, resultAt(type, frame), "the callback's result");

export const takeResult = (type: ValueType, frame: number): Take => taker(type, resultAt(type, frame));

/** What a callback without a result leaves: an inner callback's may stand where its own would be. */
export function clearResult(frame: number): void {
  mailbox.f64[resultAt('i64', frame) / 8] = 0;
  mailbox.f64[resultAt('f64', frame) / 8] = 0;
}
