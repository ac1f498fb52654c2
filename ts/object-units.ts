// What native code has read of an object: columns of numbers, and texts that are decoded when they are asked for. An
// object has hundreds of thousands of symbols and relocs, and few of them are ever looked at.
import { viewOf } from './bytes';
import type { Section } from './errors';
import { addon, orRaise } from './native';
import { bufferOf, byteOffsetOf, decodeText, elementsOf, mapGet, mapSet, Words } from './primordials';

/** Many texts as one: where each ends. */
interface NativeTexts {
  bytes: Uint8Array;
  ends: Float64Array;
}

interface NativeUnits {
  units: Float64Array;
  unitNames: NativeTexts;
  /** Of the first unit the bytes of code, data and state, then of the next. */
  bytes: Uint8Array;
  entries: Uint32Array;
  relocs: { fields: Int32Array; targets: BigUint64Array; addends: BigInt64Array };
  exports: Float64Array;
  exportNames: NativeTexts;
  asked: Uint8Array;
  askedNames: NativeTexts;
  reasons: NativeTexts;
}

// The positions are those of native/node/objects.cc.
const unitField = { sizes: 0, aligns: 3, bytes: 6, entries: 9, relocs: 10, movable: 11 } as const;
const unitFields = 12;
const exportField = { unit: 0, section: 1, offset: 2, bytes: 3, entry: 4, weak: 5 } as const;
const exportFields = 6;
const relocField = {
  section: 0,
  kind: 1,
  targetKind: 2,
  offset: 3,
  targetSection: 4,
  targetOffset: 5,
  asked: 6,
  takesAddress: 7,
} as const;
const relocFields = 8;
const askedWeak = 1;
const askedDefined = 2;

const sections = ['code', 'data', 'state'] as const;

class Texts {
  readonly #bytes: Uint8Array;
  readonly #ends: Float64Array;
  readonly count: number;

  constructor({ bytes, ends }: NativeTexts) {
    this.#bytes = bytes;
    this.#ends = ends;
    this.count = elementsOf(ends);
  }

  at(i: number): string {
    const start = i === 0 ? 0 : (this.#ends[i - 1] as number);
    return decodeText(viewOf(this.#bytes, start, this.#ends[i] as number));
  }
}

/** A global symbol that the object defines. */
export interface Export {
  readonly name: string;
  readonly unit: number;
  readonly section: Section;
  readonly offset: number;
  readonly bytes: number;
  /** -1 unless it is a function. */
  readonly entry: number;
  readonly weak: boolean;
}

/** What relocs refer to and somebody else may have to provide. */
export interface Asked {
  readonly name: string;
  readonly weak: boolean;
  readonly defined: boolean;
}

/** One executor to be. */
export interface Unit {
  readonly name: string;
  readonly movable: boolean;
  /** What each section begins with; the rest of its size is zero. */
  readonly bytes: readonly [Uint8Array, Uint8Array, Uint8Array];
  readonly sizes: readonly [number, number, number];
  readonly aligns: readonly [number, number, number];
  readonly entries: Uint32Array;
}

/** A reloc, for as long as the next one is not read into it. */
export interface UnitReloc {
  section: number;
  kind: number;
  targetKind: number;
  offset: number;
  targetSection: number;
  targetOffset: number;
  target: bigint;
  addend: bigint;
  /** Which of what is asked for is meant; negative for none. */
  asked: number;
  takesAddress: boolean;
}

export class ObjectUnits {
  readonly #read: NativeUnits;
  readonly #unitNames: Texts;
  readonly #exportNames: Texts;
  readonly #askedNames: Texts;
  readonly #reasons: Texts;
  #exportOfName: Map<string, number> | undefined;

  constructor(bytes: Uint8Array) {
    const read = orRaise(addon.readUnits(bytes)) as NativeUnits;
    this.#read = read;
    this.#unitNames = new Texts(read.unitNames);
    this.#exportNames = new Texts(read.exportNames);
    this.#askedNames = new Texts(read.askedNames);
    this.#reasons = new Texts(read.reasons);
  }

  get exportCount(): number {
    return this.#exportNames.count;
  }

  get askedCount(): number {
    return this.#askedNames.count;
  }

  get reasonCount(): number {
    return this.#reasons.count;
  }

  reason(i: number): string {
    return this.#reasons.at(i);
  }

  asked(i: number): Asked {
    const flags = this.#read.asked[i] as number;
    return {
      name: this.#askedNames.at(i),
      weak: (flags & askedWeak) !== 0,
      defined: (flags & askedDefined) !== 0,
    };
  }

  export(i: number, name = this.#exportNames.at(i)): Export {
    const field = (n: number) => this.#read.exports[i * exportFields + n] as number;
    return {
      name,
      unit: field(exportField.unit),
      section: sections[field(exportField.section)] as Section,
      offset: field(exportField.offset),
      bytes: field(exportField.bytes),
      entry: field(exportField.entry),
      weak: field(exportField.weak) !== 0,
    };
  }

  exportNamed(name: string): Export | undefined {
    if (this.#exportOfName === undefined) {
      this.#exportOfName = new Map();
      for (let i = 0; i < this.exportCount; i++) mapSet(this.#exportOfName, this.#exportNames.at(i), i);
    }
    const i = mapGet(this.#exportOfName, name);
    return i === undefined ? undefined : this.export(i, name);
  }

  /** Calls `visit` for each unit, in their order. */
  forEachUnit(visit: (unit: Unit, index: number) => void): void {
    const { units, bytes, entries } = this.#read;
    let byte = 0;
    let entry = 0;
    for (let i = 0; i < this.#unitNames.count; i++) {
      const field = (n: number) => units[i * unitFields + n] as number;
      const three = (n: number) => [field(n), field(n + 1), field(n + 2)] as [number, number, number];
      const take = (n: number) => {
        byte += n;
        return viewOf(bytes, byte - n, byte);
      };
      const [code, data, state] = three(unitField.bytes);
      const firstEntry = entry;
      entry += field(unitField.entries);
      const unit = {
        name: this.#unitNames.at(i),
        movable: field(unitField.movable) !== 0,
        bytes: [take(code), take(data), take(state)] as const,
        sizes: three(unitField.sizes),
        aligns: three(unitField.aligns),
        entries: new Words(bufferOf(entries), byteOffsetOf(entries) + 4 * firstEntry, entry - firstEntry),
      };
      visit(unit, i);
    }
  }

  /** Calls `visit` for each unit with how many relocs it has, and where they begin. */
  forEachUnitsRelocs(visit: (unit: number, first: number, count: number) => void): void {
    let first = 0;
    for (let i = 0; i < this.#unitNames.count; i++) {
      const count = this.#read.units[i * unitFields + unitField.relocs] as number;
      visit(i, first, count);
      first += count;
    }
  }

  readReloc(i: number, into: UnitReloc): void {
    const { fields, targets, addends } = this.#read.relocs;
    const at = i * relocFields;
    into.section = fields[at + relocField.section] as number;
    into.kind = fields[at + relocField.kind] as number;
    into.targetKind = fields[at + relocField.targetKind] as number;
    into.offset = fields[at + relocField.offset] as number;
    into.targetSection = fields[at + relocField.targetSection] as number;
    into.targetOffset = fields[at + relocField.targetOffset] as number;
    into.target = targets[i] as bigint;
    into.addend = addends[i] as bigint;
    into.asked = fields[at + relocField.asked] as number;
    into.takesAddress = fields[at + relocField.takesAddress] === 1;
  }
}
