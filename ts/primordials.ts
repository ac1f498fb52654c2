// The intrinsics that decide what memory a view has, and what a value is, as they were when the package was loaded. What
// a program puts in their place later decides nothing; nor does what an object has as a property of its own.
import { TextDecoder, types } from 'node:util';

// biome-ignore lint/suspicious/noExplicitAny: any method of any object
type Method = (this: any, ...args: any[]) => any;
/** A method that takes `this` as its first argument. */
type Uncurried<F extends Method> = (self: ThisParameterType<F>, ...args: Parameters<F>) => ReturnType<F>;

const { bind, call } = Function.prototype;
const uncurry = bind.bind(call as Method) as unknown as <F extends Method>(method: F) => Uncurried<F>;
const { getOwnPropertyDescriptor, getPrototypeOf } = Reflect;

/** A prototype's getter as a function; one that says undefined where this version of Node has none. */
function getter<T>(prototype: object, name: string): (self: object) => T {
  const get = getOwnPropertyDescriptor(prototype, name)?.get as ((this: object) => T) | undefined;
  return get === undefined ? () => undefined as T : uncurry(get);
}

export const { isArrayBufferView, isBigUint64Array, isFloat64Array } = types;
export const { isSharedArrayBuffer, isTypedArray, isUint8Array } = types;
export const { isArray } = Array;
export const { isInteger, isSafeInteger } = Number;
export const { asIntN, asUintN } = BigInt;
export const { defineProperty, freeze } = Object;
export const { apply } = Reflect;
export const { floor } = Math;
export const Bytes = Uint8Array;
export const Doubles = Float64Array;
export const Quads = BigUint64Array;
export const Words = Uint32Array;

const typedArray = getPrototypeOf(Uint8Array.prototype) as object;
const bufferOfArray = getter<ArrayBufferLike>(typedArray, 'buffer');
const bytesOfArray = getter<number>(typedArray, 'byteLength');
const startOfArray = getter<number>(typedArray, 'byteOffset');
/** How many elements a typed array has. */
export const elementsOf = getter<number>(typedArray, 'length');
/** `array.set(elements)`, for arrays of any one type. */
export const setElements: (array: object, elements: object, at?: number) => void = uncurry(
  Uint8Array.prototype.set as Method,
);

const bufferOfDataView = getter<ArrayBufferLike>(DataView.prototype, 'buffer');
const bytesOfDataView = getter<number>(DataView.prototype, 'byteLength');
const startOfDataView = getter<number>(DataView.prototype, 'byteOffset');

/** The memory under a view. */
export const bufferOf = (view: object): ArrayBufferLike =>
  isTypedArray(view) ? bufferOfArray(view) : bufferOfDataView(view);
/** The view's size and its place in its buffer. A DataView of a detached buffer throws. */
export const byteLengthOf = (view: object): number => (isTypedArray(view) ? bytesOfArray(view) : bytesOfDataView(view));
export const byteOffsetOf = (view: object): number => (isTypedArray(view) ? startOfArray(view) : startOfDataView(view));

const resizable = getter<boolean | undefined>(ArrayBuffer.prototype, 'resizable');
const growable = getter<boolean | undefined>(SharedArrayBuffer.prototype, 'growable');
/** Whether the size of a buffer can change. */
export const isResizable = (buffer: object): boolean =>
  (isSharedArrayBuffer(buffer) ? growable(buffer) : resizable(buffer)) === true;

export const mapGet = uncurry(Map.prototype.get) as <K, V>(map: ReadonlyMap<K, V>, key: K) => V | undefined;
export const mapSet = uncurry(Map.prototype.set) as <K, V>(map: Map<K, V>, key: K, value: V) => void;
export const weakMapGet = uncurry(WeakMap.prototype.get) as <V>(map: WeakMap<object, V>, key: object) => V | undefined;
export const weakMapSet = uncurry(WeakMap.prototype.set) as <V>(map: WeakMap<object, V>, key: object, value: V) => void;
export const includes = uncurry(String.prototype.includes) as (text: string, words: string) => boolean;

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const decode = uncurry(TextDecoder.prototype.decode);
/** UTF-8 as text; what is none becomes U+FFFD. */
export const decodeText = (bytes: Uint8Array): string => decode(decoder, bytes);
