// Relocs: what a host writes, and how they reach native code.
import { checkCount, checkSection } from './checks';
import { ArenaError, type ErrorDetails, type Section } from './errors';
import { idOf, isExecutor, isOf } from './identity';
import { addon, layout, N, type NativeArena, numbers, shared } from './native';
import { asIntN, asUintN, floor, freeze, isArray, isSafeInteger, mapGet, setElements } from './primordials';

/**
 * Reloc kinds of x86-64 and arm64, with the names of their psABIs (docs/relocs.md). One of another CPU than this is
 * ERR_ARENA_RELOC_KIND.
 */
export type RelocKind =
  | 'R_X86_64_64'
  | 'R_X86_64_PC32'
  | 'R_X86_64_PLT32'
  | 'R_X86_64_GOTPCREL'
  | 'R_X86_64_32'
  | 'R_X86_64_32S'
  | 'R_X86_64_PC64'
  | 'R_X86_64_GOTPCRELX'
  | 'R_X86_64_REX_GOTPCRELX'
  | 'R_AARCH64_ABS64'
  | 'R_AARCH64_PREL64'
  | 'R_AARCH64_PREL32'
  | 'R_AARCH64_MOVW_UABS_G0'
  | 'R_AARCH64_MOVW_UABS_G0_NC'
  | 'R_AARCH64_MOVW_UABS_G1'
  | 'R_AARCH64_MOVW_UABS_G1_NC'
  | 'R_AARCH64_MOVW_UABS_G2'
  | 'R_AARCH64_MOVW_UABS_G2_NC'
  | 'R_AARCH64_MOVW_UABS_G3'
  | 'R_AARCH64_LD_PREL_LO19'
  | 'R_AARCH64_ADR_PREL_LO21'
  | 'R_AARCH64_ADR_PREL_PG_HI21'
  | 'R_AARCH64_ADR_PREL_PG_HI21_NC'
  | 'R_AARCH64_ADD_ABS_LO12_NC'
  | 'R_AARCH64_LDST8_ABS_LO12_NC'
  | 'R_AARCH64_TSTBR14'
  | 'R_AARCH64_CONDBR19'
  | 'R_AARCH64_JUMP26'
  | 'R_AARCH64_CALL26'
  | 'R_AARCH64_LDST16_ABS_LO12_NC'
  | 'R_AARCH64_LDST32_ABS_LO12_NC'
  | 'R_AARCH64_LDST64_ABS_LO12_NC'
  | 'R_AARCH64_LDST128_ABS_LO12_NC'
  | 'R_AARCH64_ADR_GOT_PAGE'
  | 'R_AARCH64_LD64_GOT_LO12_NC';

/** An executor as a reloc's target: its first code byte, wherever it is. */
export interface ExecutorTarget {
  readonly id: number;
  readonly arena: object;
}

/**
 * What a reloc refers to: another executor of the arena (its first code byte, or a place in one of its sections), the
 * same by its position in the list that this `install` installs (so that members may refer to each other), a place in the executor's own sections, an absolute address outside the arena, or a callback. Of traces (docs/traces.md)
 * also one of the executor's exit records, the stub that ends a run, the byte that is 1 until the executor is
 * invalidated, and the byte that a trace sets at its start to say that it is not cold.
 */
export type RelocTarget =
  | ExecutorTarget
  | { readonly executor: ExecutorTarget; readonly section?: Section; readonly offset?: number }
  | { readonly member: number; readonly section?: Section; readonly offset?: number }
  | { readonly own: Section; readonly offset?: number }
  | { readonly own: 'valid' | 'warm' }
  | { readonly exit: number }
  | 'done'
  | { readonly address: bigint };

/** A field of an executor that depends on an address. The bytes at the site are overwritten. */
export interface Reloc {
  /** Where the site is; code unless given. */
  readonly section?: Section;
  /** Bytes from the start of the section. */
  readonly offset: number;
  readonly kind: RelocKind;
  readonly target: RelocTarget;
  /** Added to the target's address; 0 unless given. A rel32 at the end of an instruction has -4. */
  readonly addend?: number | bigint;
}

/** Target kinds by number, for installBatch; the order is that of native/core/spec.h. */
export const TargetKind = freeze({
  ownCode: 0,
  ownData: 1,
  ownState: 2,
  address: 3,
  executor: 4,
  batchMember: 5,
  exit: 6,
  done: 7,
  valid: 8,
  warm: 9,
} as const);

/** psABI numbers by name, for installBatch. */
export const relocKindNumbers = freeze(addon.relocKinds) as Readonly<Record<RelocKind, number>>;

// Not the object: that has properties such as 'constructor', too.
const kindNumbers: ReadonlyMap<string, number> = new Map(Object.entries(addon.relocKinds));

/** Bytes from the start of a section. */
export const maxOffset = 2 ** 32 - 1;
const isOffset = (value: unknown) => typeof value === 'number' && value >>> 0 === value;

const { relocs: buffers } = shared;

function grow(): void {
  const larger = Math.max(64, 2 * buffers.capacity);
  const memory = new ArrayBuffer(larger * layout.relocBytes);
  const u8 = new Uint8Array(memory);
  setElements(u8, buffers.u8);
  addon.setRelocBuffer(u8);
  buffers.u8 = u8;
  buffers.u32 = new Uint32Array(memory);
  buffers.i64 = new BigInt64Array(memory);
  buffers.capacity = larger;
}

/** Stores a whole number as 64 bits without making a bigint of it. */
function put64(u32: Uint32Array, word: number, value: number): void {
  u32[word] = value;
  // Most numbers are small, and a division takes as long as all the rest.
  u32[word + 1] = (value | 0) === value ? value >> 31 : floor(value / 2 ** 32);
}

const { relocBytes } = layout;
const sectionAt = layout.relocSection;
const kindAt = layout.relocKind;
const targetKindAt = layout.relocTargetKind;
const targetSectionAt = layout.relocTargetSection;
const targetOffsetAt = layout.relocTargetOffset / 4;
const offsetAt = layout.relocOffset / 4;
const targetAt = layout.relocTarget / 4;
const addendAt = layout.relocAddend / 4;

/** Begins the encoding of relocs: then `putReloc` for positions from 0 on, and `endRelocs` right before the native call. */
export function beginRelocs(): number {
  return ++buffers.encodings;
}

export function putReloc(
  position: number,
  section: number,
  offset: number,
  kind: number,
  targetKind: number,
  target: number | bigint,
  addend: number | bigint,
  targetSection = 0,
  targetOffset = 0,
): void {
  if (position >= buffers.capacity) grow();
  const { u8, u32, i64 } = buffers;
  const at = position * relocBytes;
  u8[at + sectionAt] = section;
  u8[at + kindAt] = kind & 0xff;
  u8[at + kindAt + 1] = kind >> 8;
  u8[at + targetKindAt] = targetKind;
  u8[at + targetSectionAt] = targetSection;
  const word = at / 4;
  u32[word + targetOffsetAt] = targetOffset;
  u32[word + offsetAt] = offset;
  if (typeof target === 'bigint') i64[(word + targetAt) / 2] = target;
  else put64(u32, word + targetAt, target);
  if (typeof addend === 'bigint') i64[(word + addendAt) / 2] = addend;
  else put64(u32, word + addendAt, addend);
}

/** The target of a reloc that has been put, as two halves. */
export function putTarget(position: number, low: number, high: number): void {
  const word = (position * relocBytes) / 4 + targetAt;
  buffers.u32[word] = low;
  buffers.u32[word + 1] = high;
}

// How many relocs the last encodeRelocs has put into the buffer.
let encoded = 0;

/** Tells native code how many relocs there are. */
export function endRelocs(encoding: number, count = encoded): void {
  // There is one buffer. A getter among the caller's values may have used it for an executor of its own.
  if (encoding !== buffers.encodings) {
    throw new TypeError('a getter of the given values made or changed another executor: pass plain values');
  }
  numbers[N.relocs] = count;
}

/** Encodes relocs; executor targets must belong to the arena with the functions `native`. For `endRelocs`. */
export function encodeRelocs(relocs: readonly Reloc[], native: NativeArena): number {
  if (!isArray(relocs)) throw new TypeError('relocs is not an array');
  const encoding = beginRelocs();
  // Once: a Proxy may say something else the next time.
  const count = relocs.length;
  for (let i = 0; i < count; i++) encodeReloc(i, relocs[i] as Reloc, native);
  encoded = count;
  return encoding;
}

/** Puts one reloc, as `putReloc` does. */
export function encodeReloc(index: number, reloc: Reloc, native: NativeArena): void {
  if (typeof reloc !== 'object' || reloc === null) throw new TypeError(`reloc ${index} is not an object`);
  const { section = 'code', offset, kind, target, addend = 0 } = reloc;
  const sectionNumber = checkSection(section);
  if (typeof kind !== 'string') throw new TypeError(`the kind of reloc ${index} is not a string`);
  const details = { section, offset, kind, index };
  const what = () => `reloc ${index} (${kind} at ${section} + ${offset})`;
  const kindNumber = mapGet(kindNumbers, kind);
  if (kindNumber === undefined) {
    const message = `${what()}: there is no such kind; kinds are ${[...kindNumbers.keys()].join(', ')}`;
    throw new ArenaError('ERR_ARENA_RELOC_KIND', message, details);
  }
  if (!isOffset(offset)) checkCount(offset, maxOffset, 'ERR_ARENA_RELOC_BOUNDS', `the offset of ${what()}`, details);
  if (typeof addend === 'bigint' ? asIntN(64, addend) !== addend : !isSafeInteger(addend)) {
    throw new TypeError(
      `the addend of ${what()} is ${String(addend)}, and not a whole number of 64 bits; beyond 2^53 it is a bigint`,
    );
  }
  if (target === 'done') {
    putReloc(index, sectionNumber, offset, kindNumber, TargetKind.done, 0, addend);
    return;
  }
  if (typeof target !== 'object' || target === null) {
    throw new TypeError(`the target of ${what()} is neither an object nor 'done'`);
  }
  // An Executor is one whatever else it seems to have.
  const direct = isExecutor(target) ? target : undefined;
  if (direct === undefined && 'member' in target) {
    const { member, section: targetSection = 'code', offset: targetOffset = 0 } = target;
    checkCount(member, maxOffset, 'ERR_ARENA_RELOC_TARGET', `the member of ${what()}`, details);
    checkCount(targetOffset, maxOffset, 'ERR_ARENA_RELOC_TARGET', `the target offset of ${what()}`, details);
    const { batchMember } = TargetKind;
    const inSection = checkSection(targetSection);
    putReloc(index, sectionNumber, offset, kindNumber, batchMember, member, addend, inSection, targetOffset);
  } else if (direct === undefined && 'exit' in target) {
    const { exit } = target;
    checkCount(exit, 0xffff, 'ERR_ARENA_RELOC_TARGET', `the exit of ${what()}`, details);
    putReloc(index, sectionNumber, offset, kindNumber, TargetKind.exit, exit, addend);
  } else if (direct === undefined && 'own' in target) {
    const { own, offset: targetOffset = 0 } = target as { own: Section | 'valid' | 'warm'; offset?: number };
    if (own === 'valid' || own === 'warm') {
      putReloc(index, sectionNumber, offset, kindNumber, TargetKind[own], 0, addend);
      return;
    }
    if (!isOffset(targetOffset)) {
      checkCount(targetOffset, maxOffset, 'ERR_ARENA_RELOC_TARGET', `the target offset of ${what()}`, details);
    }
    putReloc(index, sectionNumber, offset, kindNumber, checkSection(own), targetOffset, addend);
  } else if (direct !== undefined || 'id' in target || 'executor' in target) {
    const place = direct === undefined && 'executor' in target ? target : undefined;
    const executor = (place === undefined ? target : place.executor) as ExecutorTarget;
    const { section: targetSection = 'code', offset: targetOffset = 0 } = place ?? {};
    if (typeof executor !== 'object' || executor === null) {
      throw new TypeError(`the target executor of ${what()} is not an Executor`);
    }
    checkCount(targetOffset, maxOffset, 'ERR_ARENA_RELOC_TARGET', `the target offset of ${what()}`, details);
    const id = idOf(executor);
    if (!isOf(executor, native)) {
      const message = `the target of ${what()} is executor ${id} of another arena`;
      throw new ArenaError('ERR_ARENA_FOREIGN_EXECUTOR', message, details);
    }
    checkCount(id, Number.MAX_SAFE_INTEGER, 'ERR_ARENA_RELOC_TARGET', `the target id of ${what()}`, details);
    putReloc(
      index,
      sectionNumber,
      offset,
      kindNumber,
      TargetKind.executor,
      id,
      addend,
      checkSection(targetSection),
      targetOffset,
    );
  } else {
    const address = checkAddress(target as { readonly address: unknown }, what, details);
    putReloc(index, sectionNumber, offset, kindNumber, TargetKind.address, address, addend);
  }
}

/** The absolute address that a target is, if it is nothing else. */
function checkAddress({ address }: { readonly address: unknown }, what: () => string, details: ErrorDetails): bigint {
  if (typeof address !== 'bigint') {
    throw new TypeError(
      `the target of ${what()} is neither an executor, nor { own: 'code' | 'data' | 'state' }, nor has it an address ` +
        'that is a bigint',
    );
  }
  if (asUintN(64, address) !== address) {
    const message = `the target address of ${what()} is ${address}n, and not one of 64 bits`;
    throw new ArenaError('ERR_ARENA_RELOC_TARGET', message, details);
  }
  return address;
}
