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

const valueTypes: readonly ValueType[] = ['i32', 'u32', 'i64', 'u64', 'f32', 'f64', 'pointer', 'void'];
const isFloat = (type: ValueType) => type === 'f32' || type === 'f64';

/** Positions in valueTypes: comparing numbers costs less than comparing strings. */
enum Type {
  i32,
  u32,
  i64,
  u64,
  f32,
  f64,
  pointer,
  void,
}

/** A register in a call frame, and what stands in it. One class, so that V8 sees one shape. */
export class Place {
  readonly type: Type;
  /** Bytes from the start of the mailbox. */
  readonly at: number;
  /** The value's name in errors. */
  readonly what: string;
  constructor(type: ValueType, at: number, what: string) {
    this.type = valueTypes.indexOf(type);
    this.at = at;
    this.what = what;
  }
}

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

/** Where a frame has the arguments, in order. */
export function argumentsIn(args: Signature['args'], frame: number): Place[] {
  let integers = 0;
  let floats = 0;
  return args.map((type, i) => {
    const register = isFloat(type) ? layout.frameFloats + 8 * floats++ : layout.frameIntegers + 8 * integers++;
    return new Place(type, frame + register, `argument ${i}`);
  });
}

export const resultIn = (type: ValueType, frame: number, what = 'the result'): Place =>
  new Place(type, frame + (isFloat(type) ? layout.frameFloatResult : layout.frameIntegerResult), what);

function describe(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || value == null) return String(value);
  return `a value of type ${typeof value}`;
}

function mismatch(value: unknown, { type: number, what }: Place): never {
  const type = valueTypes[number] as ValueType;
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

function pointerOf(value: unknown, place: Place): bigint {
  if (value === null) return 0n;
  const address = typeof value === 'object' ? addressOf(value, place.what) : value;
  if (typeof address !== 'bigint' || BigInt.asUintN(64, address) !== address) mismatch(value, place);
  return address;
}

const { i32, u32, i64, u64, f32, f64 } = mailbox;

/**
 * Puts a value into its register; throws a TypeError that names it when it does not fit its type. The commonest types
 * come first, and the rest is a function of its own: V8 compiles into a caller only what is short.
 */
export function put(place: Place, value: unknown): void {
  if (place.type === Type.i32) {
    if (typeof value !== 'number' || (value | 0) !== value) mismatch(value, place);
    i32[place.at >> 2] = value;
  } else if (place.type === Type.f64) {
    if (typeof value !== 'number') mismatch(value, place);
    f64[place.at >> 3] = value;
  } else putOther(place, value);
}

function putOther(place: Place, value: unknown): void {
  const { at } = place;
  switch (place.type) {
    case Type.pointer:
      u64[at >> 3] = pointerOf(value, place);
      break;
    case Type.u32:
      if (typeof value !== 'number' || value >>> 0 !== value) mismatch(value, place);
      u32[at >> 2] = value;
      u32[(at >> 2) + 1] = 0;
      break;
    case Type.i64:
      if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value) mismatch(value, place);
      i64[at >> 3] = value;
      break;
    case Type.u64:
      if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) mismatch(value, place);
      u64[at >> 3] = value;
      break;
    case Type.f32:
      if (typeof value !== 'number') mismatch(value, place);
      f32[at >> 2] = value;
      break;
  }
}

/** Takes a value out of its register. */
export function take(place: Place): number | bigint | undefined {
  if (place.type === Type.i32) return i32[place.at >> 2];
  if (place.type === Type.f64) return f64[place.at >> 3];
  return takeOther(place);
}

function takeOther({ type, at }: Place): number | bigint | undefined {
  switch (type) {
    case Type.pointer:
    case Type.u64:
      return u64[at >> 3];
    case Type.u32:
      return u32[at >> 2];
    case Type.i64:
      return i64[at >> 3];
    case Type.f32:
      return f32[at >> 2];
    default:
      return undefined;
  }
}

/** What a callback without a result leaves: an inner callback's may stand where its own would be. */
export function clearResult(frame: number): void {
  f64[(frame + layout.frameIntegerResult) / 8] = 0;
  f64[(frame + layout.frameFloatResult) / 8] = 0;
}
