// Bytes and numbers that callers hand in: checked here, so that native code sees what it may rely on. Memory is asked,
// and never the object, which may say of itself what it likes.
import { ArenaError, type ErrorDetails, type Section } from './errors';
import {
  Bytes,
  bufferOf,
  byteOffsetOf,
  elementsOf,
  isInteger,
  isResizable,
  isSafeInteger,
  isTypedArray,
  isUint8Array,
} from './primordials';

/** The most bytes, or anything else, that native code counts. */
export const maxSize = 2 ** 32 - 1;

const sectionNumber: Record<Section, number> = { code: 0, data: 1, state: 2 };

/** A view whose memory is there and stays where it is; ERR_ARENA_DETACHED, ERR_ARENA_RESIZABLE. */
export function checkMemory(view: ArrayBufferView, what: string, details?: ErrorDetails): void {
  const buffer = bufferOf(view);
  if (isResizable(buffer)) {
    throw new ArenaError('ERR_ARENA_RESIZABLE', `the ArrayBuffer of ${what} is resizable: pass a copy of it`, details);
  }
  checkAttached(view, what, details);
}

function checkAttached(view: ArrayBufferView, what: string, details?: ErrorDetails): void {
  // A DataView of a detached buffer throws when it is asked for its length.
  if (isTypedArray(view) && elementsOf(view) !== 0) return;
  const buffer = bufferOf(view);
  try {
    // The one operation that tells a detached buffer from an empty one on every version of Node.
    new Bytes(buffer);
  } catch {
    const message = `the ArrayBuffer of ${what} is detached: it was transferred, or its WebAssembly.Memory has grown`;
    throw new ArenaError('ERR_ARENA_DETACHED', message, details);
  }
}

/** A Uint8Array whose memory is there. TypeError for anything else. */
export function checkBytes(value: unknown, what: string, details?: ErrorDetails): Uint8Array {
  // Not instanceof: that takes a Proxy for one, and not an array of another realm (node:vm).
  if (!isUint8Array(value)) throw new TypeError(`${what} is not a Uint8Array`);
  checkMemory(value, what, details);
  return value;
}

/** The bytes from `start` to `end` as a view of the same memory; not `subarray`, which asks the array for its class. */
export const viewOf = (bytes: Uint8Array, start: number, end: number): Uint8Array =>
  new Bytes(bufferOf(bytes), byteOffsetOf(bytes) + start, end - start);

/** A copy of them. */
export const copyOf = (bytes: Uint8Array, start = 0, end = elementsOf(bytes)): Uint8Array =>
  new Bytes(viewOf(bytes, start, end));

/** A whole number from 0 to `max`; TypeError when it is no number, else an ArenaError with the code. */
export function checkCount(value: unknown, max: number, code: string, what: string, details?: ErrorDetails): number {
  if (typeof value !== 'number') throw new TypeError(`${what} is not a number`);
  if (!isInteger(value) || value < 0 || value > max) {
    throw new ArenaError(code, `${what} is ${value}, and not a whole number from 0 to ${max}`, details);
  }
  return value;
}

export function checkSection(value: unknown): number {
  if (value === 'code' || value === 'data' || value === 'state') return sectionNumber[value];
  throw new TypeError(`the section is ${String(value)}, and not 'code', 'data' or 'state'`);
}

/** How many elements something with elements has, such as an array or a typed array. ERR_ARENA_DETACHED. */
export function checkArrayLike(value: unknown, what: string): number {
  if (isTypedArray(value)) {
    checkAttached(value, what);
    return elementsOf(value);
  }
  const length = typeof value === 'object' && value !== null ? (value as ArrayLike<unknown>).length : undefined;
  if (!isSafeInteger(length) || (length as number) < 0) throw new TypeError(`${what} is not an array`);
  return length as number;
}
