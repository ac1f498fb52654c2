import { ArenaError } from './errors';
import { addon, orRaise, type WriterName } from './native';

/** The machine as the arena sees it; sizes in bytes. */
export const machine: Readonly<{
  cpu: string;
  pageBytes: number;
  /** The smallest unit of arena memory. */
  granuleBytes: number;
  slabBytes: number;
  /** The longest reach of a direct branch, and so the largest arena. */
  maxArenaBytes: number;
}> = Object.freeze(addon.machine);

/** Which writers work here, in the order in which `auto` prefers them, found by trying each. */
export function probe(): { writer: WriterName; available: boolean; reason?: string }[] {
  return orRaise(addon.probe());
}

/** Address of a C symbol of this process (dlsym), such as libc's `strlen`. ERR_ARENA_SYMBOL when there is none. */
export function symbolAddress(name: string): bigint {
  if (typeof name !== 'string') throw new TypeError('the name is not a string');
  const address = addon.symbolAddress(name);
  if (address === undefined) throw new ArenaError('ERR_ARENA_SYMBOL', `this process has no symbol '${name}'`);
  return address;
}
