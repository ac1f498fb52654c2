// Bytes and numbers that callers hand in: checked here, so that native code sees what it may rely on.
import { types } from 'node:util';
import { ArenaError, type ErrorDetails, type Section } from './errors';

export const sectionNumber: Record<Section, number> = { code: 0, data: 1, state: 2 };

/** A view whose memory is there and stays where it is; ERR_ARENA_DETACHED, ERR_ARENA_RESIZABLE. */
export function checkMemory(view: ArrayBufferView, what: string, details?: ErrorDetails): void {
  const buffer = view.buffer as ArrayBufferLike & { resizable?: boolean; growable?: boolean };
  if (buffer.resizable === true || buffer.growable === true) {
    throw new ArenaError('ERR_ARENA_RESIZABLE', `the ArrayBuffer of ${what} is resizable: pass a copy of it`, details);
  }
  // A DataView of a detached buffer throws when it is asked for its length.
  if (!types.isDataView(view) && view.byteLength !== 0) return;
  try {
    // The one operation that tells a detached buffer from an empty one on every version of Node.
    new Uint8Array(buffer);
  } catch {
    const message = `the ArrayBuffer of ${what} is detached: it was transferred, or its WebAssembly.Memory has grown`;
    throw new ArenaError('ERR_ARENA_DETACHED', message, details);
  }
}

/** A Uint8Array whose memory is there. TypeError for anything else. */
export function checkBytes(value: unknown, what: string, details?: ErrorDetails): Uint8Array {
  // Not instanceof: that takes a Proxy for one, and not an array of another realm (node:vm).
  if (!types.isUint8Array(value)) throw new TypeError(`${what} is not a Uint8Array`);
  checkMemory(value, what, details);
  return value;
}

/** A whole number from 0 to `max`; TypeError when it is no number, else an ArenaError with the code. */
export function checkCount(value: unknown, max: number, code: string, what: string, details?: ErrorDetails): number {
  if (typeof value !== 'number') throw new TypeError(`${what} is not a number`);
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new ArenaError(code, `${what} is ${value}, and not a whole number from 0 to ${max}`, details);
  }
  return value;
}

export function checkSection(value: unknown): number {
  if (value === 'code' || value === 'data' || value === 'state') return sectionNumber[value];
  throw new TypeError(`the section is ${String(value)}, and not 'code', 'data' or 'state'`);
}

/** Something with elements, such as an array or a typed array. */
export function checkArrayLike(value: unknown, what: string): ArrayLike<unknown> {
  const length = typeof value === 'object' && value !== null ? (value as ArrayLike<unknown>).length : undefined;
  if (!Number.isSafeInteger(length) || (length as number) < 0) throw new TypeError(`${what} is not an array`);
  return value as ArrayLike<unknown>;
}
