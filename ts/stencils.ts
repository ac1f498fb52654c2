// Stencils: pieces of machine code with holes, made by a C compiler, from which a host puts traces together.
import { checkBytes, copyOf, viewOf } from './bytes';
import { ArenaError, type Section } from './errors';
import { addon, orRaise } from './native';
import { privateCopy } from './objects';
import { freeze } from './primordials';
import { type RelocKind, relocKindNumbers } from './relocs';

/** The hole that stands for the next stencil. */
export const continueHole = 'CONTINUE';

/** What a set may come to, which goes with its stencils times what they share. A compiler's has some thousands. */
const maxUses = 2 ** 22;

type Triple = [number, number, number];

/** A section of the object: a stencil's body, or what it uses. */
export interface Part {
  readonly section: Section;
  readonly align: number;
  readonly size: number;
  /** Without the zero tail. */
  readonly bytes: Uint8Array;
  readonly relocs: readonly PartReloc[];
}

/** A hole, or a reference to a part: to itself, or to one that is put into the same executor. */
export interface PartReloc {
  readonly offset: number;
  readonly kind: RelocKind;
  /** A hole's name; else `part` and `partOffset`; else the value is `addend`. */
  readonly hole?: string;
  readonly part?: Part;
  readonly partOffset: number;
  readonly addend: bigint;
}

type MutableReloc = { -readonly [K in keyof PartReloc]: PartReloc[K] };

/** A piece of machine code with holes. */
export class Stencil {
  readonly name: string;
  /** Names of the holes that `emit` fills, sorted; CONTINUE, if it is among them, is filled by the builder. */
  readonly holes: readonly string[];
  /** @internal */
  readonly body: Part;
  /** @internal What the body uses, directly or not: in each executor once, or where a hole is in it, for each emit. */
  readonly shared: readonly Part[];
  /** @internal */
  readonly own: readonly Part[];
  /** @internal Bytes of the jump to CONTINUE that the body ends with; 0 when it does not. */
  readonly jumpBytes: number;
  readonly #made = true;

  /** @internal Stencils come from a StencilSet. */
  constructor(name: string, body: Part, uses: Uses, isPrivate: ReadonlySet<Part>, jumpBytes: number) {
    this.name = name;
    this.body = body;
    const used = new Set([body]);
    const holes = new Set<string>();
    // A set that grows while it is walked.
    for (const part of used) {
      const { parts, holes: itsHoles } = uses.of(part);
      for (const other of parts) used.add(other);
      for (const hole of itsHoles) holes.add(hole);
    }
    used.delete(body);
    this.shared = freeze([...used].filter((part) => !isPrivate.has(part)));
    this.own = freeze([...used].filter((part) => isPrivate.has(part)));
    this.holes = freeze([...holes].sort());
    this.jumpBytes = jumpBytes;
    freeze(this);
  }

  /** @internal Whether a value is a stencil, whatever it says of its class. */
  static isOne(value: unknown): value is Stencil {
    return typeof value === 'object' && value !== null && #made in value;
  }

  /** Bytes of its machine code. */
  get codeBytes(): number {
    return this.body.size;
  }
}

function fail(message: string): never {
  throw new ArenaError('ERR_ARENA_STENCIL', message);
}

interface NativeSections {
  sections: {
    index: number;
    section: Section;
    size: number;
    align: number;
    /** How many it begins with; the rest of its size is zero. */
    bytes: number;
    relocs: number;
  }[];
  /** Those of all sections, one behind the other. */
  bytes: Uint8Array;
  /** Offset, kind and symbol of each. */
  relocs: Uint32Array;
  addends: BigInt64Array;
  symbols: { name: string; section: number; value: bigint; global: boolean; undefined: boolean }[];
}

/** Stencils by name. */
export class StencilSet {
  readonly #stencils = new Map<string, Stencil>();
  readonly #parts: readonly Part[];

  private constructor(parts: readonly Part[], bodies: ReadonlyMap<string, Part>) {
    this.#parts = parts;
    const allBodies = new Set(bodies.values());
    const isPrivate = privateParts(parts, allBodies);
    const uses = new Uses(parts, allBodies);
    const targets = targetsIn(allBodies, parts);
    const jumps = new Map<Part, number>();
    for (const [name, body] of bodies) {
      if (!jumps.has(body)) jumps.set(body, endingJump(body, targets));
      this.#stencils.set(name, new Stencil(name, body, uses, isPrivate, jumps.get(body) as number));
    }
  }

  /**
   * Stencils from a relocatable object, compiled with `-fno-pic -mcmodel=large -ffunction-sections -fdata-sections`: each
   * global function is a stencil, each undefined symbol a hole, and CONTINUE is the next stencil. ERR_ARENA_OBJECT…,
   * ERR_ARENA_STENCIL.
   */
  static fromObject(bytes: Uint8Array): StencilSet {
    const read = orRaise(addon.readSections(privateCopy(bytes))) as NativeSections;
    const { sections, symbols, relocs, addends } = read;
    const parts = new Map<number, Part & { relocs: PartReloc[] }>();
    let byte = 0;
    for (const { index, section, size, align, bytes } of sections) {
      parts.set(index, { section, size, align, bytes: withoutZeroTail(read.bytes, byte, byte + bytes), relocs: [] });
      byte += bytes;
    }
    let next = 0;
    for (const { index, relocs: count } of sections) {
      const made = (parts.get(index) as { relocs: PartReloc[] }).relocs;
      for (const end = next + count; next < end; next++) {
        const [offset, kindNumber, symbol] = [relocs[3 * next], relocs[3 * next + 1], relocs[3 * next + 2]] as Triple;
        const kind = kindNames.get(kindNumber) as RelocKind;
        const addend = addends[next] as bigint;
        const { name, section, value, undefined: isHole } = symbols[symbol] as NativeSections['symbols'][number];
        if (isHole) made.push({ offset, kind, hole: name, partOffset: 0, addend });
        else if (section === 0) made.push({ offset, kind, partOffset: 0, addend: BigInt.asIntN(64, value + addend) });
        else made.push({ offset, kind, part: parts.get(section) as Part, partOffset: Number(value), addend });
      }
    }
    const bodies = new Map<string, Part>();
    for (const { name, section, value, global } of symbols) {
      const body = parts.get(section);
      if (!global || body === undefined || body.section !== 'code') continue;
      if (value !== 0n) {
        fail(`the function '${name}' does not begin its section: compile stencils with -ffunction-sections`);
      }
      bodies.set(name, body);
    }
    return new StencilSet([...parts.values()], bodies);
  }

  /** Stencils that `save` wrote. ERR_ARENA_STENCIL for anything else. */
  static load(bytes: Uint8Array): StencilSet {
    const { parts, bodies } = decode(copyOf(checkBytes(bytes, 'the file')));
    return new StencilSet(parts, bodies);
  }

  /** The stencils in a compact file of their own: zero tails are left out, and nothing that is not needed is kept. */
  save(): Uint8Array {
    return encode(this.#parts, this.#stencils);
  }

  get names(): string[] {
    return [...this.#stencils.keys()];
  }

  has(name: string): boolean {
    return this.#stencils.has(name);
  }

  /** ERR_ARENA_STENCIL when there is none of this name. */
  get(name: string): Stencil {
    return this.#stencils.get(name) ?? fail(`there is no stencil '${String(name)}', but ${this.names.join(', ')}`);
  }

  [Symbol.iterator](): IterableIterator<Stencil> {
    return this.#stencils.values();
  }
}

function withoutZeroTail(bytes: Uint8Array, start: number, end: number): Uint8Array {
  let last = end;
  while (last > start && bytes[last - 1] === 0) last--;
  return viewOf(bytes, start, last);
}

/** What each part refers to itself, and each of it once: many stencils may share a part with many relocs. */
class Uses {
  readonly #of = new Map<Part, { parts: readonly Part[]; holes: readonly string[] }>();
  #told = 0;

  constructor(all: readonly Part[], bodies: ReadonlySet<Part>) {
    for (const part of all) {
      if (part.relocs.length === 0) continue;
      const parts = new Set<Part>();
      const holes = new Set<string>();
      for (const reloc of part.relocs) {
        // Constants that refer to another stencil are its jump table, in a section that stencils share.
        const isForeign = part.section !== 'code' && reloc.part !== undefined && bodies.has(reloc.part);
        if (reloc.part !== undefined && !isForeign) parts.add(reloc.part);
        if (reloc.hole !== undefined) holes.add(reloc.hole);
      }
      this.#of.set(part, { parts: [...parts], holes: [...holes] });
    }
  }

  of(part: Part): { parts: readonly Part[]; holes: readonly string[] } {
    const uses = this.#of.get(part);
    if (uses === undefined) return nothing;
    this.#told += uses.parts.length + uses.holes.length;
    if (this.#told > maxUses) {
      fail(`the stencils have more than ${maxUses} holes and parts, what they share counted for each: split the set`);
    }
    return uses;
  }
}

const nothing = { parts: [], holes: [] };

/** Parts that differ from one emit to the next: bodies, what has a hole, and what refers to such a part. */
function privateParts(parts: readonly Part[], bodies: ReadonlySet<Part>): Set<Part> {
  const users = new Map<Part, Part[]>();
  const found = new Set(bodies);
  for (const part of parts) {
    for (const { hole, part: target } of part.relocs) {
      if (hole !== undefined) found.add(part);
      if (target === undefined) continue;
      const list = users.get(target);
      if (list === undefined) users.set(target, [part]);
      else list.push(part);
    }
  }
  // A set that grows while it is walked.
  for (const part of found) for (const user of users.get(part) ?? []) found.add(user);
  return found;
}

/**
 * The length of the jump to CONTINUE that a body ends with, on x86-64: `jmp rel32`, or `movabs $CONTINUE, reg; jmp *reg`.
 * Without it the body runs into what follows. 0 where anything might jump between the two instructions.
 */
function endingJump(body: Part, targets: Targets): number {
  const { size } = body;
  const at = (offset: number) => body.bytes[offset] ?? 0;
  const last = body.relocs.at(-1);
  if (body.section !== 'code' || last?.hole !== continueHole) return 0;
  if (last.kind === 'R_X86_64_PLT32' || last.kind === 'R_X86_64_PC32') {
    return size >= 5 && last.offset === size - 4 && last.addend === -4n && at(size - 5) === 0xe9 ? 5 : 0;
  }
  if (last.kind !== 'R_X86_64_64' || last.addend !== 0n) return 0;
  const register = at(size - 1) - 0xe0;
  if (register < 0 || register > 7 || at(size - 2) !== 0xff) return 0;
  // r8 … r15 have a prefix before each of the two instructions.
  const extended = last.offset === size - 11;
  if (extended ? at(size - 3) !== 0x41 : last.offset !== size - 10) return 0;
  if (at(last.offset - 2) !== (extended ? 0x49 : 0x48) || at(last.offset - 1) !== 0xb8 + register) return 0;
  const jump = extended ? size - 3 : size - 2;
  return mayBeTarget(body, jump, targets.get(body)) ? 0 : size - last.offset + 2;
}

/** True if any bytes of the body, read as a branch, go to `offset`, or any reloc refers to it. */
function mayBeTarget(body: Part, offset: number, targets: ReadonlySet<bigint> | 'any' | undefined): boolean {
  const code = new Uint8Array(body.size);
  code.set(body.bytes);
  const view = new DataView(code.buffer);
  for (let i = 0; i + 2 <= code.length; i++) {
    const opcode = code[i] as number;
    const isShort = opcode === 0xeb || (opcode >= 0x70 && opcode < 0x80) || (opcode >= 0xe0 && opcode < 0xe4);
    if (isShort && i + 2 + view.getInt8(i + 1) === offset) return true;
    const isLong = opcode === 0xe8 || opcode === 0xe9 || (opcode >= 0x80 && opcode < 0x90 && code[i - 1] === 0x0f);
    if (isLong && i + 5 <= code.length && i + 5 + view.getInt32(i + 1, true) === offset) return true;
  }
  if (targets === undefined || targets === 'any') return targets === 'any';
  return targets.has(BigInt(offset)) || targets.has(BigInt(offset) - 4n);
}

/** Where relocs refer to in each body; `any` where one does not tell. */
type Targets = ReadonlyMap<Part, ReadonlySet<bigint> | 'any'>;

function targetsIn(bodies: ReadonlySet<Part>, parts: readonly Part[]): Targets {
  const targets = new Map<Part, Set<bigint> | 'any'>();
  for (const { section, relocs } of parts) {
    for (const { part: body, kind, partOffset, addend } of relocs) {
      if (body === undefined || !bodies.has(body)) continue;
      const known = targets.get(body) ?? new Set();
      // A distance in data counts from a place that the reloc does not tell.
      const isTold = section === 'code' || !kind.startsWith('R_X86_64_P');
      targets.set(body, isTold ? known : 'any');
      if (isTold && known !== 'any') known.add(BigInt(partOffset) + addend);
    }
  }
  return targets;
}

// ---- The file. Numbers are LEB128, signed ones zigzag; the last 4 bytes are a checksum of the others.

const magic = [0x4a, 0x41, 0x53, 0x54]; // JAST
const version = 1;
const sectionNames = ['code', 'data', 'state'] as const;
const maxBytes = 2 ** 31;
const kindNames = new Map(Object.entries(relocKindNumbers).map(([name, number]) => [number, name as RelocKind]));
const fieldBytes = (kind: RelocKind) => (kind.endsWith('64') ? 8 : 4);

function checksum(bytes: Uint8Array): number {
  let sum = 0x811c9dc5;
  for (const byte of bytes) sum = Math.imul(sum ^ byte, 0x01000193);
  return sum >>> 0;
}

function encode(parts: readonly Part[], stencils: ReadonlyMap<string, Stencil>): Uint8Array {
  const out: number[] = [...magic, version];
  const put = (value: number | bigint) => {
    let rest = BigInt(value);
    for (; rest > 0x7fn; rest >>= 7n) out.push(Number(rest & 0x7fn) | 0x80);
    out.push(Number(rest));
  };
  const putBytes = (bytes: Uint8Array) => {
    put(bytes.length);
    for (const byte of bytes) out.push(byte);
  };
  const putText = (text: string) => putBytes(new TextEncoder().encode(text));
  // Only what a stencil uses.
  const used = new Set([...stencils.values()].flatMap(({ body, shared, own }) => [body, ...shared, ...own]));
  const kept = parts.filter((part) => used.has(part));
  const numberOf = new Map(kept.map((part, i) => [part, i]));
  const holes = [...new Set(kept.flatMap(({ relocs }) => relocs.flatMap(({ hole }) => hole ?? [])))];
  const numberOfHole = new Map(holes.map((hole, i) => [hole, i]));
  put(holes.length);
  for (const hole of holes) putText(hole);
  put(kept.length);
  for (const { section, align, size, bytes, relocs } of kept) {
    put(sectionNames.indexOf(section));
    put(Math.log2(align));
    put(size);
    putBytes(bytes);
    put(relocs.length);
    let before = 0;
    for (const { offset, kind, hole, part, partOffset, addend } of relocs) {
      put(offset - before);
      before = offset;
      put(relocKindNumbers[kind]);
      // 0: a value; odd: a hole; even: a part, and a place in it.
      put(
        hole !== undefined
          ? 2 * (numberOfHole.get(hole) as number) + 1
          : part === undefined
            ? 0
            : 2 * (numberOf.get(part) as number) + 2,
      );
      if (part !== undefined) put(partOffset);
      put(addend >= 0n ? addend << 1n : (-addend << 1n) - 1n);
    }
  }
  put(stencils.size);
  for (const { name, body } of stencils.values()) {
    putText(name);
    put(numberOf.get(body) as number);
  }
  const file = new Uint8Array(out.length + 4);
  file.set(out);
  new DataView(file.buffer).setUint32(out.length, checksum(file.subarray(0, -4)), true);
  return file;
}

function decode(file: Uint8Array): { parts: Part[]; bodies: Map<string, Part> } {
  if (file.length < magic.length + 5 || magic.some((byte, i) => file[i] !== byte))
    fail('the bytes are no stencil file');
  if (file[magic.length] !== version) fail(`the stencil file has version ${file[magic.length]}, and not ${version}`);
  const end = file.length - 4;
  const sum = new DataView(file.buffer).getUint32(end, true);
  if (sum !== checksum(viewOf(file, 0, end))) fail('the stencil file is damaged: its checksum is wrong');
  let at = magic.length + 1;
  const damaged = (what: string): never => fail(`the stencil file is damaged at byte ${at}: ${what}`);
  const takeBig = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (at >= end || shift > 63n) damaged('a number does not end');
      const byte = file[at++] as number;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (below: number, what: string): number => {
    const value = takeBig();
    return value < BigInt(below) ? Number(value) : damaged(`${what} is ${value}, and not below ${below}`);
  };
  const takeBytes = (): Uint8Array => {
    const count = take(end - at + 1, 'a length');
    at += count;
    return copyOf(file, at - count, at);
  };
  const takeText = () => new TextDecoder().decode(takeBytes());
  // Every item takes a byte at least, so a lying count is found before memory is taken for it.
  const count = () => take(end - at + 1, 'a count');

  const holes = Array.from({ length: count() }, takeText);
  const parts: (Part & { relocs: PartReloc[] })[] = [];
  const references: { reloc: MutableReloc; number: number; offset: number }[] = [];
  let total = 0;
  const partCount = count();
  for (let i = 0; i < partCount; i++) {
    const section = sectionNames[take(3, 'a section')] as Section;
    const align = 2 ** take(25, 'an alignment');
    const size = take(maxBytes, 'a size');
    total += size;
    if (total > maxBytes) damaged('the sections are larger than any arena');
    const bytes = takeBytes();
    if (bytes.length > size) damaged(`${bytes.length} bytes for a section of ${size}`);
    const relocs: PartReloc[] = [];
    let offset = 0;
    for (let left = count(); left > 0; left--) {
      offset += take(maxBytes, 'a distance');
      const kind = kindNames.get(take(256, 'a kind')) ?? damaged('a reloc kind that does not exist');
      if (offset + fieldBytes(kind) > size) damaged(`a reloc at ${offset} of a section of ${size} bytes`);
      const target = take(2 * Math.max(holes.length, partCount) + 2, 'a target');
      const isPart = target !== 0 && target % 2 === 0;
      const partOffset = isPart ? take(maxBytes, 'a place') : 0;
      const zigzag = takeBig();
      const addend = BigInt.asIntN(64, (zigzag & 1n) === 0n ? zigzag >> 1n : -((zigzag + 1n) >> 1n));
      const hole = target % 2 === 1 ? (holes[(target - 1) / 2] ?? damaged('a hole that does not exist')) : undefined;
      const reloc: MutableReloc = { offset, kind, ...(hole !== undefined && { hole }), partOffset, addend };
      if (isPart) references.push({ reloc, number: target / 2 - 1, offset: partOffset });
      relocs.push(reloc);
    }
    parts.push({ section, align, size, bytes, relocs });
  }
  for (const { reloc, number, offset } of references) {
    const part = parts[number] ?? damaged('a part that does not exist');
    if (offset > part.size) damaged(`place ${offset} of a section of ${part.size} bytes`);
    reloc.part = part;
  }
  const bodies = new Map<string, Part>();
  for (let left = count(); left > 0; left--) {
    const name = takeText();
    const body = parts[take(parts.length, 'a body')] as Part;
    if (body.section !== 'code') damaged(`the body of '${name}' is no code`);
    bodies.set(name, body);
  }
  if (at !== end) damaged(`${end - at} bytes are left over`);
  return { parts, bodies };
}
