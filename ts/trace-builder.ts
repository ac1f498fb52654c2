import type { Arena } from './arena';
import { checkBytes, checkCount, viewOf } from './bytes';
import { ArenaError, type Section } from './errors';
import type { Executor } from './executor';
import { elementsOf, setElements } from './primordials';
import type { Reloc, RelocTarget } from './relocs';
import { continueHole, type Part, type PartReloc, Stencil } from './stencils';
import type { ExecutorSpec } from './types';

/** What a hole is filled with: an address that follows its target, a number, or a place in the trace. */
export type HoleFilling = RelocTarget | { readonly value: number | bigint } | { readonly label: string };

/**
 * What stencils do not say of an executor. `data` and `state` are the host's own, and come before the stencils', so that
 * a hole can be filled with `{ own: 'state', offset }`.
 */
export interface TraceOptions extends Omit<ExecutorSpec, 'code' | 'relocs' | 'entries'> {
  /** Labels, or offsets in code. */
  entries?: readonly (string | number)[];
}

/** What a build came to; sizes in bytes. */
export interface TraceStatistics {
  codeBytes: number;
  dataBytes: number;
  stateBytes: number;
  /** Zero bodies and zero tails of data and state, which nobody copied. */
  zeroBytes: number;
  /** Jumps to CONTINUE that would have gone to the next byte. */
  elidedBytes: number;
}

interface Emitted {
  stencil: Stencil;
  holes: ReadonlyMap<string, HoleFilling>;
}

/** A part at its place; private parts belong to an emit. */
interface PlacedPart {
  part: Part;
  offset: number;
  /** Bytes of the part that are used: less than its size where the ending jump is left out. */
  size: number;
  emitted: number;
}

const poison = 0xcc;
const alignUp = (offset: number, align: number) => Math.ceil(offset / align) * align;

function fail(message: string): never {
  throw new ArenaError('ERR_ARENA_STENCIL', message);
}

/** Puts stencils one after the other into one executor: sizes first, then one pass that copies bodies and fills holes. */
export class TraceBuilder {
  readonly #emitted: Emitted[] = [];
  /** Position in #emitted of what follows the label. */
  readonly #labels = new Map<string, number>();
  #statistics: TraceStatistics | undefined;

  /**
   * Appends a stencil and says what fills its holes. A hole named CONTINUE is the next stencil unless it is given here.
   * ERR_ARENA_STENCIL when a hole is missing or does not exist.
   */
  emit(stencil: Stencil, holes: Readonly<Record<string, HoleFilling>> = {}): this {
    if (!Stencil.isOne(stencil)) throw new TypeError('the stencil is not one of a StencilSet');
    if (typeof holes !== 'object' || holes === null) throw new TypeError('the holes are not an object');
    const filled = new Map(Object.entries(holes));
    for (const [name, filling] of filled) {
      if (!stencil.holes.includes(name)) {
        fail(`the stencil '${stencil.name}' has no hole '${name}'; it has ${stencil.holes.join(', ') || 'none'}`);
      }
      if ((typeof filling !== 'object' || filling === null) && filling !== 'done') {
        throw new TypeError(`the hole '${name}' is filled neither with a target, nor { value }, nor { label }`);
      }
    }
    for (const name of stencil.holes) {
      if (name !== continueHole && !filled.has(name))
        fail(`the hole '${name}' of the stencil '${stencil.name}' is empty`);
    }
    this.#emitted.push({ stencil, holes: filled });
    return this;
  }

  /** Names the place of the stencil that comes next. ERR_ARENA_STENCIL when the name is taken. */
  label(name: string): this {
    if (typeof name !== 'string') throw new TypeError('the label is not a string');
    if (this.#labels.has(name)) fail(`the label '${name}' is there already`);
    this.#labels.set(name, this.#emitted.length);
    return this;
  }

  /** Of the last build. */
  get statistics(): TraceStatistics | undefined {
    return this.#statistics;
  }

  /** The trace as an executor's spec. ERR_ARENA_STENCIL when the last stencil continues, or a label stands for nothing. */
  build(options: TraceOptions = {}): ExecutorSpec {
    const { entries, data = 0, state = 0, ...others } = options;
    if (this.#emitted.length === 0) fail('nothing has been emitted');
    const host = { data: hostBytes(data, 'data'), state: hostBytes(state, 'state') };
    const layout = new Layout(this.#emitted, { data: host.data.size, state: host.state.size });

    const bytes = {
      code: new Uint8Array(layout.sizes.code),
      data: new Uint8Array(layout.filled.data > 0 || host.data.bytes !== undefined ? layout.sizes.data : 0),
      state: new Uint8Array(layout.filled.state > 0 || host.state.bytes !== undefined ? layout.sizes.state : 0),
    };
    if (host.data.bytes !== undefined) setElements(bytes.data, host.data.bytes);
    if (host.state.bytes !== undefined) setElements(bytes.state, host.state.bytes);
    for (const { offset, size } of layout.padding) bytes.code.fill(poison, offset, offset + size);
    const relocs: Reloc[] = [];
    for (const placed of layout.parts) {
      const { part, offset, size } = placed;
      if (part.bytes.length > 0)
        setElements(bytes[part.section], viewOf(part.bytes, 0, Math.min(size, part.bytes.length)), offset);
      for (const reloc of part.relocs) {
        if (reloc.offset < size) this.#fill(placed, reloc, layout, bytes[part.section], relocs);
      }
    }
    this.#statistics = {
      codeBytes: layout.sizes.code,
      dataBytes: layout.sizes.data,
      stateBytes: layout.sizes.state,
      zeroBytes: layout.zeroBytes,
      elidedBytes: layout.elidedBytes,
    };
    return {
      ...others,
      code: bytes.code,
      data: bytes.data.length > 0 ? bytes.data : layout.sizes.data,
      state: bytes.state.length > 0 ? bytes.state : layout.sizes.state,
      relocs,
      align: Math.max(options.align ?? 16, layout.aligns.code),
      dataAlign: Math.max(options.dataAlign ?? 8, layout.aligns.data),
      stateAlign: Math.max(options.stateAlign ?? 16, layout.aligns.state),
      ...(entries !== undefined && {
        entries: entries.map((entry) => (typeof entry === 'string' ? this.#labelOffset(entry, layout) : entry)),
      }),
    };
  }

  /** `build` and `arena.install`. */
  install(arena: Arena, options: TraceOptions = {}): Executor {
    return arena.install(this.build(options));
  }

  #labelOffset(label: string, layout: Layout): number {
    const emitted = this.#labels.get(label);
    if (emitted === undefined) fail(`there is no label '${label}'`);
    return layout.bodies[emitted] ?? fail(`no stencil follows the label '${label}'`);
  }

  #fill(placed: PlacedPart, reloc: PartReloc, layout: Layout, bytes: Uint8Array, relocs: Reloc[]): void {
    const { section } = placed.part;
    const offset = placed.offset + reloc.offset;
    const { kind, addend } = reloc;
    const refer = (target: RelocTarget) => relocs.push({ section, offset, kind, target, addend });
    if (reloc.part !== undefined) {
      const place = layout.placeOf(reloc.part, placed.emitted);
      // Another stencil's jump table, in constants that the two share, stays as it is.
      if (place !== undefined) refer({ own: reloc.part.section, offset: place + reloc.partOffset });
      return;
    }
    if (reloc.hole === undefined) {
      putValue(bytes, offset, reloc, 0n, 'a constant', refer);
      return;
    }
    const { stencil, holes } = this.#emitted[placed.emitted] as Emitted;
    const filling = holes.get(reloc.hole);
    const what = `the hole '${reloc.hole}' of the stencil '${stencil.name}'`;
    if (filling === undefined) {
      // Only CONTINUE: emit has seen to the others.
      const next = layout.bodies[placed.emitted + 1];
      if (next === undefined) fail(`${what} has nothing to continue with: it is the last`);
      refer({ own: 'code', offset: next });
    } else if (filling === 'done') refer(filling);
    else if ('label' in filling) refer({ own: 'code', offset: this.#labelOffset(filling.label, layout) });
    else if ('value' in filling) {
      const { value } = filling;
      if (typeof value === 'number' ? !Number.isSafeInteger(value) : typeof value !== 'bigint') {
        throw new TypeError(
          `${what} is filled with ${String(value)}, and not with a whole number; beyond 2^53 a bigint`,
        );
      }
      putValue(bytes, offset, reloc, BigInt(value), what, refer);
    } else refer(filling);
  }
}

function hostBytes(given: Uint8Array | number, section: 'data' | 'state'): { size: number; bytes?: Uint8Array } {
  if (typeof given === 'number') {
    return { size: checkCount(given, 2 ** 31, 'ERR_ARENA_SIZE', `the size of ${section}`, { section }) };
  }
  return { size: elementsOf(checkBytes(given, section, { section })), bytes: given };
}

/** Stores a number into an absolute field; a relative one counts to it as to an address. */
function putValue(
  bytes: Uint8Array,
  offset: number,
  { kind, addend }: PartReloc,
  given: bigint,
  what: string,
  refer: (target: RelocTarget) => void,
): void {
  if (BigInt.asIntN(64, given) !== given && BigInt.asUintN(64, given) !== given) {
    throw new ArenaError('ERR_ARENA_RELOC_RANGE', `${what} is filled with ${given}, which has more than 64 bits`, {
      kind,
    });
  }
  const value = BigInt.asUintN(64, given + addend);
  const fits: Record<string, () => boolean> = {
    R_X86_64_64: () => true,
    R_X86_64_32: () => BigInt.asUintN(32, value) === value,
    R_X86_64_32S: () => BigInt.asIntN(32, value) === BigInt.asIntN(64, value),
  };
  const fit = fits[kind];
  if (fit === undefined) {
    if (kind.includes('GOT'))
      fail(`${what} is loaded from a slot (${kind}) and cannot be a number: compile with -fno-pic`);
    refer({ address: BigInt.asUintN(64, given) });
    return;
  }
  if (!fit()) {
    throw new ArenaError('ERR_ARENA_RELOC_RANGE', `${what}: ${given} does not fit ${kind}`, { kind });
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  if (kind === 'R_X86_64_64') view.setBigUint64(offset, value, true);
  else view.setUint32(offset, Number(BigInt.asUintN(32, value)), true);
}

/** Where everything goes: bodies in their order, then other code; data and state with what is all zero at the end. */
class Layout {
  readonly parts: PlacedPart[] = [];
  /** Offsets of the bodies, by emit. */
  readonly bodies: number[] = [];
  readonly sizes: Record<Section, number>;
  readonly aligns: Record<Section, number> = { code: 1, data: 1, state: 1 };
  /** Up to where there is anything but zeros and what relocs write. */
  readonly filled: Record<Section, number> = { code: 0, data: 0, state: 0 };
  readonly padding: { offset: number; size: number }[] = [];
  zeroBytes = 0;
  elidedBytes = 0;
  readonly #shared = new Map<Part, number>();
  readonly #own: Map<Part, number>[];

  constructor(emitted: readonly Emitted[], reserved: { data: number; state: number }) {
    this.sizes = { code: 0, ...reserved };
    this.#own = emitted.map(({ stencil, holes }, i) => {
      const isLast = i + 1 === emitted.length;
      const elided = isLast || holes.has(continueHole) ? 0 : stencil.jumpBytes;
      const offset = this.sizes.code;
      const size = stencil.body.size - elided;
      this.bodies.push(offset);
      this.parts.push({ part: stencil.body, offset, size, emitted: i });
      this.sizes.code += size;
      this.elidedBytes += elided;
      return new Map([[stencil.body, offset]]);
    });
    // Alignment of a function is for speed alone, and a trace is entered at its first byte.
    const waiting: { part: Part; emitted: number; places: Map<Part, number> }[] = [];
    emitted.forEach(({ stencil }, i) => {
      for (const part of stencil.own) waiting.push({ part, emitted: i, places: this.#own[i] as Map<Part, number> });
      for (const part of stencil.shared) {
        if (this.#shared.has(part)) continue;
        this.#shared.set(part, -1);
        waiting.push({ part, emitted: i, places: this.#shared });
      }
    });
    for (const zero of [false, true]) {
      for (const { part, emitted: i, places } of waiting) {
        if ((part.bytes.length === 0) === zero) places.set(part, this.#place(part, i));
      }
    }
  }

  #place(part: Part, emitted: number): number {
    const { section, align, size, bytes } = part;
    const before = this.sizes[section];
    const offset = alignUp(before, align);
    if (section === 'code') this.padding.push({ offset: before, size: offset - before });
    else this.zeroBytes += size - bytes.length;
    this.aligns[section] = Math.max(this.aligns[section], align);
    this.sizes[section] = offset + size;
    // A hole may be filled with a number, which then is a byte of the part and no reloc.
    const end = part.relocs.reduce(
      (most, reloc) => (reloc.part === undefined ? Math.max(most, reloc.offset + 8) : most),
      bytes.length,
    );
    if (end > 0) this.filled[section] = offset + end;
    this.parts.push({ part, offset, size, emitted });
    return offset;
  }

  /** The offset of a part in its section, as the emit sees it. */
  placeOf(part: Part, emitted: number): number | undefined {
    return this.#shared.get(part) ?? this.#own[emitted]?.get(part);
  }
}
