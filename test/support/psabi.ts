// The bytes that an executor must have, worked out from its relocs with the expressions of the psABI (table 4.9) and the
// addresses at which everything lies now.
import assert from 'node:assert/strict';
import type { Arena, Executor, RelocKind, Section } from 'jit-arena';
import type { ProgramReloc } from './model-program.js';
import { OwnCode } from './peek.js';

/** An executor as a reloc's source and target. */
export interface Relocated {
  readonly handle: Executor;
  readonly bytes: Readonly<Record<Section, Uint8Array>>;
  readonly relocs: readonly ProgramReloc<Relocated>[];
}

interface Field {
  bytes: 4 | 8;
  signed: boolean;
  relative: boolean;
}

/** The kinds as table 4.9 has them. */
const fieldsOfX86: Record<Extract<RelocKind, `R_X86_64_${string}`>, Field> = {
  R_X86_64_64: { bytes: 8, signed: false, relative: false },
  R_X86_64_PC64: { bytes: 8, signed: true, relative: true },
  R_X86_64_32: { bytes: 4, signed: false, relative: false },
  R_X86_64_32S: { bytes: 4, signed: true, relative: false },
  R_X86_64_PC32: { bytes: 4, signed: true, relative: true },
  R_X86_64_PLT32: { bytes: 4, signed: true, relative: true },
  R_X86_64_GOTPCREL: { bytes: 4, signed: true, relative: true },
  R_X86_64_GOTPCRELX: { bytes: 4, signed: true, relative: true },
  R_X86_64_REX_GOTPCRELX: { bytes: 4, signed: true, relative: true },
};
export const fields = fieldsOfX86 as Record<RelocKind, Field>; // the tests' code is of x86-64

const wrap = (value: bigint) => BigInt.asUintN(64, value);

/** The 64 bits that a field stands for. */
export function readField(bytes: Uint8Array, offset: number, kind: RelocKind): bigint {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const field = fields[kind];
  if (field.bytes === 8) return view.getBigUint64(offset, true);
  return field.signed ? wrap(BigInt(view.getInt32(offset, true))) : BigInt(view.getUint32(offset, true));
}

function writeField(bytes: Uint8Array, offset: number, kind: RelocKind, value: bigint): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const field = fields[kind];
  if (field.bytes === 8) {
    view.setBigUint64(offset, value, true);
    return;
  }
  const held = field.signed ? wrap(BigInt.asIntN(32, value)) : BigInt.asUintN(32, value);
  assert.equal(held, value, `${kind} cannot hold ${value.toString(16)}`);
  view.setUint32(offset, Number(BigInt.asUintN(32, value)), true);
}

/** An executor as it is in memory. Of data and state the arena tells no address: see `baseOf`. */
interface Image {
  bytes: Record<'code' | 'data', Uint8Array>;
  bases: Record<Section, bigint | undefined>;
}

/** What lies where, as long as nothing moves: every executor is read once. */
export class Places {
  private readonly images = new Map<Relocated, Image>();

  private readonly ownCode: OwnCode;

  /** `callbacks`: addresses to which the arena has a veneer of its own where they are out of reach. */
  constructor(
    private readonly arena: Arena,
    private readonly callbacks: readonly bigint[] = [],
  ) {
    this.ownCode = new OwnCode(arena);
  }

  of(executor: Relocated): Image {
    let image = this.images.get(executor);
    if (image === undefined) {
      const { handle } = executor;
      const bytes = { code: handle.read('code'), data: handle.read('data') };
      const base = (section: Section) => baseOf(executor, handle.address, bytes.code, section);
      image = { bytes, bases: { code: handle.address, data: base('data'), state: base('state') } };
      this.images.set(executor, image);
    }
    return image;
  }

  /** The bytes of a section with every reloc applied, and the far slots that these go through. */
  relocated(executor: Relocated, section: Section) {
    const bytes = executor.bytes[section].slice();
    const relocs = executor.relocs.filter((reloc) => reloc.section === section);
    const slots = new Set<bigint>();
    const { bases, bytes: images } = this.of(executor);
    for (const { kind, offset, target, addend } of relocs) {
      const at = `${kind} at ${section} + ${offset}`;
      const A = BigInt(addend); // the names are the psABI's
      const { relative } = fields[kind];
      const P = wrap((bases[section] ?? 0n) + BigInt(offset));
      assert.ok(!relative || bases[section] !== undefined, `nothing tells where ${at} lies`);
      const held = section === 'state' ? 0n : readField(images[section], offset, kind);
      const meant = wrap(relative ? held + P - A : held - A); // the symbol, its slot, or its veneer
      const S = this.symbol(executor, target, meant);
      let value = wrap(relative ? S + A - P : S + A);
      if (section !== 'state') {
        if (kind.includes('GOT')) {
          assert.equal(this.ownCode.throughSlot(meant), S, `the slot of ${at}`);
          slots.add(meant);
          value = held;
        } else if (kind === 'R_X86_64_PLT32' && held !== value) {
          assert.equal(this.ownCode.throughVeneer(meant), wrap(S + A + 4n), `the veneer of ${at}`);
          if (!this.callbacks.includes(S)) slots.add(meant + 8n); // its slot
          value = held;
        }
      }
      writeField(bytes, offset, kind, value);
    }
    return { bytes, slots, count: relocs.length };
  }

  private symbol(executor: Relocated, target: ProgramReloc<Relocated>['target'], meant: bigint): bigint {
    if ('address' in target) return target.address;
    const owner = 'executor' in target ? target.executor : executor;
    const section = 'executor' in target ? (target.section ?? 'code') : target.own;
    const { offset = 0 } = target;
    const base = this.of(owner).bases[section];
    if (base !== undefined) return base + BigInt(offset);
    // No code of its own says where the section lies.
    assert.deepEqual(this.arena.find(meant), { executor: owner.handle.id, section, offset, retired: false });
    return meant;
  }
}

/**
 * Where an executor's data or state begins: what the first field says that holds an address in it; every other field
 * and `arena.find` must then agree. Undefined when there is no such field.
 */
function baseOf(executor: Relocated, address: bigint, code: Uint8Array, section: Section): bigint | undefined {
  for (const { section: site, kind, offset, target, addend } of executor.relocs) {
    if (site !== 'code' || !('own' in target) || target.own !== section) continue;
    const from = fields[kind].relative ? address + BigInt(offset) : 0n;
    return wrap(readField(code, offset, kind) + from - BigInt(addend) - BigInt(target.offset));
  }
  return undefined;
}
