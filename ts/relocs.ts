// Relocs: what a host writes, and how they reach native code.
import { checkCount, checkSection } from './bytes';
import { ArenaError, type Section } from './errors';
import { addon, layout, N, numbers } from './native';

/** Reloc kinds of x86-64, with the names of the psABI (docs/relocs.md). */
export type RelocKind =
  | 'R_X86_64_64'
  | 'R_X86_64_PC32'
  | 'R_X86_64_PLT32'
  | 'R_X86_64_GOTPCREL'
  | 'R_X86_64_32'
  | 'R_X86_64_32S'
  | 'R_X86_64_PC64'
  | 'R_X86_64_GOTPCRELX'
  | 'R_X86_64_REX_GOTPCRELX';

/** An executor as a reloc's target: its first code byte, wherever it is. */
export interface ExecutorTarget {
  readonly id: number;
  readonly arena: object;
}

/**
 * What a reloc refers to: another executor of the arena, a place in the executor's own sections, an absolute address
 * outside the arena, or a callback.
 */
export type RelocTarget =
  | ExecutorTarget
  | { readonly own: Section; readonly offset?: number }
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
export const TargetKind = { ownCode: 0, ownData: 1, ownState: 2, address: 3, executor: 4, batchMember: 5 } as const;

/** psABI numbers by name, for installBatch. */
export const relocKindNumbers = addon.relocKinds as Readonly<Record<RelocKind, number>>;

let capacity = 0;
let u8 = new Uint8Array(0);
let u32 = new Uint32Array(0);
let i64 = new BigInt64Array(0);

function reserve(count: number): void {
  if (count <= capacity) return;
  capacity = Math.max(64, 2 ** Math.ceil(Math.log2(count)));
  const buffer = new ArrayBuffer(capacity * layout.relocBytes);
  const before = u8;
  u8 = new Uint8Array(buffer);
  u8.set(before);
  u32 = new Uint32Array(buffer);
  i64 = new BigInt64Array(buffer);
  addon.setRelocBuffer(u8);
}

/** Stores a whole number as 64 bits without making a bigint of it. */
function put64(byteOffset: number, value: number): void {
  const word = byteOffset / 4;
  u32[word] = value >>> 0;
  u32[word + 1] = Math.floor(value / 2 ** 32) >>> 0;
}

export function putReloc(
  position: number,
  section: number,
  offset: number,
  kind: number,
  targetKind: number,
  target: number | bigint,
  addend: number | bigint,
): void {
  const at = position * layout.relocBytes;
  u8[at + layout.relocSection] = section;
  u8[at + layout.relocKind] = kind;
  u8[at + layout.relocTargetKind] = targetKind;
  u32[(at + layout.relocOffset) / 4] = offset;
  if (typeof target === 'bigint') i64[(at + layout.relocTarget) / 8] = target;
  else put64(at + layout.relocTarget, target);
  if (typeof addend === 'bigint') i64[(at + layout.relocAddend) / 8] = addend;
  else put64(at + layout.relocAddend, addend);
}

/** Makes room for `count` relocs and tells native code how many there are. */
export function beginRelocs(count: number): void {
  reserve(count);
  numbers[N.relocs] = count;
}

/** Encodes relocs for the native call that follows. `arena` is the one that executor targets must belong to. */
export function encodeRelocs(relocs: readonly Reloc[] | undefined, arena: object): void {
  if (relocs === undefined) {
    numbers[N.relocs] = 0;
    return;
  }
  if (!Array.isArray(relocs)) throw new TypeError('relocs is not an array');
  beginRelocs(relocs.length);
  for (let i = 0; i < relocs.length; i++) encodeReloc(i, relocs[i] as Reloc, arena);
}

function encodeReloc(index: number, reloc: Reloc, arena: object): void {
  if (typeof reloc !== 'object' || reloc === null) throw new TypeError(`reloc ${index} is not an object`);
  const { section = 'code', offset, kind, target, addend = 0 } = reloc;
  const kindNumber = addon.relocKinds[kind];
  const details = { section, offset, kind, index };
  const sectionNumber = checkSection(section);
  if (kindNumber === undefined) {
    throw new ArenaError('ERR_ARENA_RELOC_KIND', `reloc ${index}: there is no kind ${String(kind)} here`, details);
  }
  checkCount(offset, 0xffff_ffff, 'ERR_ARENA_RELOC_BOUNDS', `the offset of reloc ${index}`, details);
  if (typeof addend === 'bigint' ? BigInt.asIntN(64, addend) !== addend : !Number.isSafeInteger(addend)) {
    throw new TypeError(`the addend of reloc ${index} is not a whole number of 64 bits`);
  }
  if (typeof target !== 'object' || target === null)
    throw new TypeError(`the target of reloc ${index} is not an object`);
  if ('own' in target) {
    const targetOffset = target.offset ?? 0;
    checkCount(targetOffset, 0xffff_ffff, 'ERR_ARENA_RELOC_TARGET', `the target offset of reloc ${index}`, details);
    putReloc(index, sectionNumber, offset, kindNumber, checkSection(target.own), targetOffset, addend);
  } else if ('id' in target) {
    if (target.arena !== arena) {
      throw new ArenaError(
        'ERR_ARENA_FOREIGN_EXECUTOR',
        `the target of reloc ${index} is executor ${target.id} of another arena`,
        details,
      );
    }
    putReloc(index, sectionNumber, offset, kindNumber, TargetKind.executor, target.id, addend);
  } else {
    const { address } = target;
    if (typeof address !== 'bigint') throw new TypeError(`the target of reloc ${index} has no bigint address`);
    if (BigInt.asUintN(64, address) !== address) {
      throw new ArenaError('ERR_ARENA_RELOC_TARGET', `the address of reloc ${index} is not one of 64 bits`, details);
    }
    putReloc(index, sectionNumber, offset, kindNumber, TargetKind.address, address, addend);
  }
}
