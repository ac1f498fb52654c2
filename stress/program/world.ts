// What stress code refers to outside itself: C symbols and functions of this process, and shared helper executors.
import { type Executor, symbolAddress } from 'jit-arena';
import type { Footprint } from '../recording/workload';
import type { Model } from './model';

export interface ExternalSymbol {
  name: string;
  address: bigint;
}

/** A C function that is harmless with any argument, and what its `int` result is, as an unsigned number. */
export interface ExternalFunction extends ExternalSymbol {
  result(argument: number): number;
}

/** An executor that others call directly. It can move, and then every call to it is rewritten. */
export interface Helper {
  executor: Executor;
  model: Model;
  shape: Footprint;
  /** From JavaScript. */
  call(input: bigint): bigint;
}

export interface World {
  symbols: readonly ExternalSymbol[];
  functions: readonly ExternalFunction[];
  helpers: readonly Helper[];
}

const SYMBOLS =
  'malloc free calloc realloc memcpy memmove memset memcmp strlen strcmp qsort snprintf getenv strtol strtod fwrite';

const FUNCTIONS: Record<string, (argument: number) => number> = {
  abs: (argument) => Math.abs(argument),
  ffs: (argument) => (argument === 0 ? 0 : 32 - Math.clz32(argument & -argument)),
  htonl: (argument) =>
    ((argument << 24) | ((argument & 0xff00) << 8) | ((argument >>> 8) & 0xff00) | (argument >>> 24)) >>> 0,
  toascii: (argument) => argument & 0x7f,
  // Not in libc but in the node executable, which may lie out of a branch's reach of the arena when libc does not.
  uv_version: () => process.versions.uv.split('.').reduce((version, part) => version * 256 + Number(part), 0),
};

/** The process's side of the world; the helpers come with an arena. */
export function outsideWorld(): World {
  const symbols = SYMBOLS.split(' ').map((name) => ({ name, address: symbolAddress(name) }));
  const functions = Object.entries(FUNCTIONS).map(([name, result]) => ({ name, address: symbolAddress(name), result }));
  return { symbols: distinct(symbols), functions: distinct(functions), helpers: [] };
}

/** The one after `item`, around the end: another valid target of the same sort. */
export function another<T>(items: readonly T[], item: T): T {
  return items[(items.indexOf(item) + 1) % items.length]!;
}

/** Two names of one address would make two targets that no test can tell apart. */
function distinct<T extends ExternalSymbol>(symbols: T[]): T[] {
  return symbols.filter((symbol, i) => symbols.findIndex((other) => other.address === symbol.address) === i);
}
