// Values that cross between JavaScript and machine code: their types, and how each stands in a call frame.
import { checkMemory } from './checks';
import { ArenaError } from './errors';
import { addressOf, isExecutor } from './identity';
import { addon, layout, mailbox } from './native';
import { asIntN, asUintN, elementsOf, isArray, isArrayBufferView, Quads, setElements } from './primordials';

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

/** Position in valueTypes; -1 for what is none. */
function typeNumber(type: unknown): number {
  for (let i = 0; i < valueTypes.length; i++) if (valueTypes[i] === type) return i;
  return -1;
}

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
    this.type = typeNumber(type);
    this.at = at;
    this.what = what;
  }
}

export const isPointer = ({ type }: Place): boolean => type === Type.pointer;

/** A copy of the signature. ERR_ARENA_SIGNATURE unless every argument has a register. */
export function checkSignature<S extends Signature>(given: S): S {
  const { args: list, returns } = typeof given === 'object' && given !== null ? given : { args: undefined };
  if (!isArray(list)) throw new TypeError("a signature is { args: ['i32', …], returns: 'i32' }");
  const fail = (message: string, index?: number) => {
    throw new ArenaError('ERR_ARENA_SIGNATURE', message, index === undefined ? {} : { index });
  };
  const args: Exclude<ValueType, 'void'>[] = [];
  let floats = 0;
  // Once: a Proxy may say something else the next time.
  const count: number = list.length;
  for (let i = 0; i < count; i++) {
    const type = list[i];
    if (typeNumber(type) < 0 || type === 'void') {
      fail(`argument ${i} is of type ${String(type)}; types are ${valueTypes.slice(0, -1).join(', ')}`, i);
    }
    if (isFloat(type)) floats++;
    args[i] = type;
  }
  if (typeNumber(returns) < 0) {
    fail(`the result is of type ${String(returns)}; types are ${valueTypes.join(', ')}`);
  }
  const integers = count - floats;
  if (integers > 6 || floats > 8) {
    fail(
      `${integers} integer and ${floats} floating arguments; 6 and 8 fit in registers, and the rest is not passed: ` +
        'put it into memory and pass a pointer',
    );
  }
  return { args, returns } as unknown as S;
}

/** Where a frame has the arguments, in order. */
export function argumentsIn(args: Signature['args'], frame: number): Place[] {
  let integers = 0;
  let floats = 0;
  const places: Place[] = [];
  for (let i = 0; i < args.length; i++) {
    const type = args[i] as ValueType;
    const register = isFloat(type) ? layout.frameFloats + 8 * floats++ : layout.frameIntegers + 8 * integers++;
    places[i] = new Place(type, frame + register, `argument ${i}`);
  }
  return places;
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
 * The address that an object of the caller's says it has. Reading it may run a getter that calls a function of an arena,
 * which uses the frame that this call's arguments are being put into.
 */
function addressFrom(value: object): unknown {
  savedFrames[readsUnderWay] ??= new Quads(elementsOf(callFrame));
  const saved = savedFrames[readsUnderWay] as BigUint64Array;
  setElements(saved, callFrame);
  readsUnderWay++;
  try {
    return (value as { address?: unknown }).address;
  } finally {
    readsUnderWay--;
    setElements(callFrame, saved);
  }
}

function checkAddress(value: unknown, address: unknown, place: Place): bigint {
  if (typeof address !== 'bigint' || asUintN(64, address) !== address) mismatch(value, place);
  return address;
}

/**
 * A pointer that stays what it is while others are read: an object of the caller's becomes the address that it says it
 * has. Its getter may detach the memory of another argument, or collect, so it is read before any memory is asked.
 */
export function settle<T>(place: Place, value: T): T {
  if (typeof value !== 'object' || value === null || place.type !== Type.pointer) return value;
  if (isArrayBufferView(value) || isExecutor(value)) return value;
  return checkAddress(value, addressFrom(value), place) as T;
}

function pointerOf(value: unknown, place: Place): bigint {
  if (value === null) return 0n;
  if (typeof value !== 'object') return checkAddress(value, value, place);
  if (isArrayBufferView(value)) {
    checkMemory(value, place.what);
    return addon.addressOf(value);
  }
  return isExecutor(value) ? addressOf(value) : checkAddress(value, addressFrom(value), place);
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
      if (typeof value !== 'bigint' || asIntN(64, value) !== value) mismatch(value, place);
      i64[at >> 3] = value;
      break;
    case Type.u64:
      if (typeof value !== 'bigint' || asUintN(64, value) !== value) mismatch(value, place);
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
