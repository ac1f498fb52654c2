// Batches: many executors as a few arrays, for `installBatch`. Here a value that is checked costs a few instructions,
// and only one that is wrong the making of a message.
import { checkArrayLike, checkCount } from './checks';
import { ArenaError } from './errors';
import {
  asUintN,
  bufferOf,
  Doubles,
  elementsOf,
  floor,
  isBigUint64Array,
  isInteger,
  isSafeInteger,
  isTypedArray,
  Quads,
  Words,
} from './primordials';
import { maxOffset, putReloc, putTarget, TargetKind } from './relocs';
import type { ExecutorBatch } from './types';

type Relocs = NonNullable<ExecutorBatch['relocs']>;

/** A copy of numbers that a caller gave, so that they stay what they were when they were checked. */
export function copyNumbers(given: unknown, what: string): Float64Array {
  const count = checkArrayLike(given, what);
  // Not of an ArrayBuffer, which can have a length: the constructor makes no copy of it.
  if (isTypedArray(given)) return new Doubles(given as Float64Array);
  const copy = new Doubles(count);
  for (let i = 0; i < count; i++) copy[i] = (given as ArrayLike<number>)[i] as number;
  return copy;
}

/** That offsets ascend from 0 or more to at most `end`; one more than there are executors. */
export function checkOffsets(offsets: Float64Array, end: number, what: string): void {
  let before = 0;
  const count = elementsOf(offsets);
  for (let i = 0; i < count; i++) {
    const offset = offsets[i] as number;
    if (!isInteger(offset) || offset < before || offset > end) {
      const message = `${what}[${i}] is ${offset}, and not a whole number from ${before} to ${end}`;
      throw new ArenaError('ERR_ARENA_SIZE', message, { index: i });
    }
    before = offset;
  }
}

/**
 * Encodes a batch's relocs, which are sorted by executor, and returns how many there are; `ofEach` receives how many each
 * executor has.
 */
export function encodeBatchRelocs(relocs: Relocs, ofEach: Float64Array): number {
  if (typeof relocs !== 'object' || relocs === null) throw new TypeError('relocs is not an object of columns');
  const { executor: executors, section: sections, offset: offsets, kind: kinds, targetKind: targetKinds } = relocs;
  const { target: targets, address: addresses, addend: addends } = relocs;
  const total = checkArrayLike(executors, 'relocs.executor');
  const checkColumn = (column: unknown, name: string) => {
    const entries = checkArrayLike(column, `relocs.${name}`);
    if (entries !== total) throw new TypeError(`relocs.${name} has ${entries} entries, and relocs.executor ${total}`);
  };
  if (sections !== undefined) checkColumn(sections, 'section');
  checkColumn(offsets, 'offset');
  checkColumn(kinds, 'kind');
  checkColumn(targetKinds, 'targetKind');
  if (targets !== undefined) checkColumn(targets, 'target');
  if (addresses !== undefined) checkColumn(addresses, 'address');
  if (addends !== undefined) checkColumn(addends, 'addend');
  const halves = halvesOf(addresses);
  const count = elementsOf(ofEach);
  let executor = 0;
  const check = (value: unknown, max: number, i: number, column: string, code: string): number => {
    if (typeof value === 'number' && value >= 0 && value <= max && floor(value) === value) return value;
    return checkCount(value, max, code, `executor ${executor} of the batch: relocs.${column}[${i}]`, {
      index: executor,
    });
  };
  for (let i = 0; i < total; i++) {
    const next = executors[i] as number;
    if (!isInteger(next) || next < executor || next >= count) {
      const message = `relocs.executor[${i}] is ${next}, and not a position from ${executor} to ${count - 1}: relocs are sorted by executor`;
      throw new ArenaError('ERR_ARENA_BOUNDS', message);
    }
    executor = next;
    ofEach[executor] = (ofEach[executor] as number) + 1;
    const section = sections === undefined ? 0 : check(sections[i], 2, i, 'section', 'ERR_ARENA_BOUNDS');
    const offset = check(offsets[i], maxOffset, i, 'offset', 'ERR_ARENA_RELOC_BOUNDS');
    const kind = check(kinds[i], 0xffff, i, 'kind', 'ERR_ARENA_RELOC_KIND');
    const targetKind = check(targetKinds[i], TargetKind.batchMember, i, 'targetKind', 'ERR_ARENA_RELOC_TARGET');
    const addend = addends === undefined ? 0 : (addends[i] as number);
    if (!isSafeInteger(addend)) throw new TypeError(`relocs.addend[${i}] is not a whole number up to 2^53`);
    if (targetKind !== TargetKind.address) {
      const target = targets === undefined ? 0 : (targets[i] as number);
      check(target, Number.MAX_SAFE_INTEGER, i, 'target', 'ERR_ARENA_RELOC_TARGET');
      putReloc(i, section, offset, kind, targetKind, target, addend);
    } else if (halves !== undefined) {
      putReloc(i, section, offset, kind, targetKind, 0, addend);
      putTarget(i, halves[2 * i] as number, halves[2 * i + 1] as number);
    } else {
      putReloc(i, section, offset, kind, targetKind, addressAt(addresses, i, executor), addend);
    }
  }
  return total;
}

function addressAt(addresses: Relocs['address'], i: number, executor: number): bigint {
  const address = addresses?.[i];
  if (typeof address !== 'bigint') throw new TypeError(`relocs.address[${i}] is not a bigint`);
  if (asUintN(64, address) === address) return address;
  const message = `executor ${executor} of the batch: relocs.address[${i}] is ${address}n, and not one of 64 bits`;
  throw new ArenaError('ERR_ARENA_RELOC_TARGET', message, { index: executor });
}

/** A copy in halves, since each bigint that is read is made anew. */
function halvesOf(addresses: unknown): Uint32Array | undefined {
  return isBigUint64Array(addresses) ? new Words(bufferOf(new Quads(addresses))) : undefined;
}
