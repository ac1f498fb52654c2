// Batches: many executors as a few arrays, for `installBatch`. Here a value that is checked costs a few instructions,
// and only one that is wrong the making of a message.
import { types } from 'node:util';
import { checkArrayLike, checkCount } from './bytes';
import { ArenaError } from './errors';
import { maxOffset, putReloc, putTarget, TargetKind } from './relocs';
import type { ExecutorBatch } from './types';

type Relocs = NonNullable<ExecutorBatch['relocs']>;

const optionalColumns = { section: true, target: true, address: true, addend: true };

/** A copy of numbers that a caller gave, so that they stay what they were when they were checked. */
export function copyNumbers(given: unknown, what: string): Float64Array {
  const numbers = checkArrayLike(given, what) as ArrayLike<number>;
  // `from` goes through them one by one; but the constructor makes no copy of an ArrayBuffer, which can have a length.
  return types.isTypedArray(numbers) ? new Float64Array(numbers) : Float64Array.from(numbers);
}

/** That offsets ascend from 0 or more to at most `end`; one more than there are executors. */
export function checkOffsets(offsets: Float64Array, end: number, what: string): void {
  let before = 0;
  for (let i = 0; i < offsets.length; i++) {
    const offset = offsets[i] as number;
    if (!Number.isInteger(offset) || offset < before || offset > end) {
      const message = `${what}[${i}] is ${offset}, and not a whole number from ${before} to ${end}`;
      throw new ArenaError('ERR_ARENA_SIZE', message, { index: i });
    }
    before = offset;
  }
}

/** Encodes a batch's relocs, which are sorted by executor; `ofEach` receives how many each executor has. */
export function encodeBatchRelocs(relocs: Relocs, ofEach: Float64Array): void {
  if (typeof relocs !== 'object' || relocs === null) throw new TypeError('relocs is not an object of columns');
  const { executor: executors, section: sections, offset: offsets, kind: kinds, targetKind: targetKinds } = relocs;
  const { target: targets, address: addresses, addend: addends } = relocs;
  const total = checkArrayLike(executors, 'relocs.executor').length;
  const halves = halvesOf(addresses);
  const columns = {
    section: sections,
    offset: offsets,
    kind: kinds,
    targetKind: targetKinds,
    target: targets,
    address: halves ?? addresses,
    addend: addends,
  };
  for (const [name, column] of Object.entries(columns)) {
    if (column === undefined && name in optionalColumns) continue;
    const { length } = checkArrayLike(column, `relocs.${name}`);
    const entries = column === halves ? length / 2 : length;
    if (entries !== total) throw new TypeError(`relocs.${name} has ${entries} entries, and relocs.executor ${total}`);
  }
  const count = ofEach.length;
  let executor = 0;
  const check = (value: unknown, max: number, i: number, column: string, code: string): number => {
    if (typeof value === 'number' && value >= 0 && value <= max && Math.floor(value) === value) return value;
    return checkCount(value, max, code, `executor ${executor} of the batch: relocs.${column}[${i}]`, {
      index: executor,
    });
  };
  for (let i = 0; i < total; i++) {
    const next = executors[i] as number;
    if (!Number.isInteger(next) || next < executor || next >= count) {
      const message = `relocs.executor[${i}] is ${next}, and not a position from ${executor} to ${count - 1}: relocs are sorted by executor`;
      throw new ArenaError('ERR_ARENA_BOUNDS', message);
    }
    executor = next;
    ofEach[executor] = (ofEach[executor] as number) + 1;
    const section = sections === undefined ? 0 : check(sections[i], 2, i, 'section', 'ERR_ARENA_BOUNDS');
    const offset = check(offsets[i], maxOffset, i, 'offset', 'ERR_ARENA_RELOC_BOUNDS');
    const kind = check(kinds[i], 255, i, 'kind', 'ERR_ARENA_RELOC_KIND');
    const targetKind = check(targetKinds[i], TargetKind.batchMember, i, 'targetKind', 'ERR_ARENA_RELOC_TARGET');
    const addend = addends === undefined ? 0 : (addends[i] as number);
    if (!Number.isSafeInteger(addend)) throw new TypeError(`relocs.addend[${i}] is not a whole number up to 2^53`);
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
}

function addressAt(addresses: Relocs['address'], i: number, executor: number): bigint {
  const address = addresses?.[i];
  if (typeof address !== 'bigint') throw new TypeError(`relocs.address[${i}] is not a bigint`);
  if (BigInt.asUintN(64, address) === address) return address;
  const message = `executor ${executor} of the batch: relocs.address[${i}] is ${address}n, and not one of 64 bits`;
  throw new ArenaError('ERR_ARENA_RELOC_TARGET', message, { index: executor });
}

/** A copy in halves, since each bigint that is read is made anew. */
function halvesOf(addresses: unknown): Uint32Array | undefined {
  return types.isBigUint64Array(addresses) ? new Uint32Array(new BigUint64Array(addresses).buffer) : undefined;
}
