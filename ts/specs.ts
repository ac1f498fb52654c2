// Specs of executors, checked and put where native code looks.
import { checkArrayLike, checkCount, checkMemory, maxSize } from './checks';
import { addon, N, type NativeArena, numbers } from './native';
import { elementsOf, isUint8Array, Words } from './primordials';
import { encodeRelocs, endRelocs } from './relocs';
import type { ExecutorSpec } from './types';

export type SpecArguments = Pick<ExecutorSpec, 'name'> &
  Record<'code' | 'data' | 'state', Uint8Array | undefined> &
  Record<'entries' | 'exitTags', Uint32Array | undefined>;

/**
 * Puts sizes, alignments and relocs where native code looks, and returns the other arguments of its functions. All that
 * may run code of the caller's, such as getters, comes first: it may use the arena itself.
 */
export function encodeSpec(native: NativeArena, spec: ExecutorSpec): SpecArguments {
  if (typeof spec !== 'object' || spec === null) throw new TypeError('the spec is not an object');
  const { code, data = 0, state = 0, relocs = noRelocs, name, movable = defaults.movable } = spec;
  const { align = defaults.align, dataAlign = defaults.dataAlign, stateAlign = defaults.stateAlign } = spec;
  const { exits = defaults.exits, evictable, makesProgress = defaults.makesProgress } = spec;
  checkCount(exits, 0xffff, 'ERR_ARENA_SIZE', 'exits');
  const { entries: givenEntries, exitTags: givenTags } = spec;
  const exitTags = givenTags === undefined ? undefined : encodeExitTags(givenTags, exits);
  if (name !== undefined && typeof name !== 'string') throw new TypeError('name is not a string');
  if (typeof movable !== 'boolean') throw new TypeError(`movable is ${String(movable)}, and not true or false`);
  if (code === undefined) throw new TypeError('code is missing: a Uint8Array, or a size in bytes');
  const entries = givenEntries === undefined ? undefined : encodeEntries(givenEntries);
  const encoding = encodeRelocs(relocs, native);
  encodeSection(0, code);
  encodeSection(1, data);
  encodeSection(2, state);
  endRelocs(encoding);
  numbers[N.movable] = movable ? 1 : 0;
  numbers[N.evictable] = evictable === undefined ? -1 : evictable ? 1 : 0;
  numbers[N.makesProgress] = makesProgress ? 1 : 0;
  numbers[N.exits] = exits;
  numbers[N.aligns] = checkCount(align, maxSize, 'ERR_ARENA_ALIGNMENT', 'align', inCode);
  numbers[N.aligns + 1] = checkCount(dataAlign, maxSize, 'ERR_ARENA_ALIGNMENT', 'dataAlign', inData);
  numbers[N.aligns + 2] = checkCount(stateAlign, maxSize, 'ERR_ARENA_ALIGNMENT', 'stateAlign', inState);
  return { code: bytesOf(code), data: bytesOf(data), state: bytesOf(state), name, entries, exitTags };
}

const { defaults } = addon;
const noRelocs: readonly never[] = [];
const inCode = { section: 'code' } as const;
const inData = { section: 'data' } as const;
const inState = { section: 'state' } as const;
const inSection = [inCode, inData, inState] as const;

// Native code takes the size of an array from the array.
function encodeSection(section: 0 | 1 | 2, given: Uint8Array | number): void {
  const details = inSection[section];
  const { section: name } = details;
  if (typeof given === 'number') {
    numbers[N.sizes + section] = checkCount(given, maxSize, 'ERR_ARENA_SIZE', `the size of ${name}`, details);
  } else {
    if (!isUint8Array(given)) throw new TypeError(`${name} is neither a Uint8Array nor a size in bytes`);
    checkMemory(given, name, details);
    checkCount(elementsOf(given), maxSize, 'ERR_ARENA_SIZE', `the size of ${name}`, details);
  }
}

const bytesOf = (given: Uint8Array | number): Uint8Array | undefined => (typeof given === 'number' ? undefined : given);

function encodeEntries(entries: ArrayLike<number>): Uint32Array {
  const count = checkArrayLike(entries, 'entries');
  const encoded = new Words(count);
  for (let i = 0; i < count; i++) {
    const details = { section: 'code', index: i } as const;
    encoded[i] = checkCount(entries[i], maxSize, 'ERR_ARENA_BOUNDS', `entry ${i}, an offset in code,`, details);
  }
  return encoded;
}

function encodeExitTags(tags: ArrayLike<number>, exits: number): Uint32Array {
  const count = checkArrayLike(tags, 'exitTags');
  if (count !== exits) throw new TypeError(`exitTags has ${count} entries for ${exits} exits`);
  const encoded = new Words(count);
  for (let i = 0; i < count; i++) {
    encoded[i] = checkCount(tags[i], maxSize, 'ERR_ARENA_EXIT', `exit tag ${i}`, { index: i });
  }
  return encoded;
}
