// Stencils: pieces of machine code with holes, made by a C compiler, from which a host puts traces together. Native code
// reads, keeps and saves them (native/object/stencils.h).
import { checkBytes, copyOf } from './checks';
import { ArenaError, type Section } from './errors';
import { addon, type NativeStencils, orRaise } from './native';
import { privateCopy } from './objects';
import { freeze } from './primordials';

/** The hole that stands for the next stencil. */
export const continueHole = 'CONTINUE';

/** Whoever has it may say which native set is meant. */
const key = Symbol('StencilSet');

/** A section of the object: a stencil's body, or what it uses. */
export interface Part {
  readonly section: Section;
  readonly align: number;
  readonly size: number;
  /** Without the zero tail. */
  readonly bytes: Uint8Array;
}

/** A piece of machine code with holes. */
export class Stencil {
  readonly name: string;
  /** Names of the holes that `emit` fills, sorted; CONTINUE, if it is among them, is filled by the builder. */
  readonly holes: readonly string[];
  /** Bytes of its machine code. */
  readonly codeBytes: number;
  /** @internal Bytes of the jump to CONTINUE that the body ends with; 0 when it does not. */
  readonly jumpBytes: number;
  readonly #set: NativeStencils;
  readonly #number: number;

  /** @internal Stencils come from a StencilSet. */
  constructor(given: symbol, set: object, number: number) {
    if (given !== key) throw new TypeError('a Stencil is made by its StencilSet');
    this.#set = set as NativeStencils;
    this.#number = number;
    const { name, holes, codeBytes, jumpBytes } = orRaise(addon.describeStencil(this.#set, number));
    this.name = name;
    this.holes = freeze(holes);
    this.codeBytes = codeBytes;
    this.jumpBytes = jumpBytes;
    freeze(this);
  }

  /** @internal Whether a value is a stencil, whatever it says of its class. */
  static isOne(value: unknown): value is Stencil {
    return typeof value === 'object' && value !== null && #set in value;
  }

  /** @internal Appends it to a trace that native code builds. */
  static emit(stencil: Stencil, trace: object): void {
    orRaise(addon.emitStencil(trace as never, stencil.#set, stencil.#number));
  }

  /** @internal */
  get body(): Part {
    return orRaise(addon.partsOfStencil(this.#set, this.#number)).body;
  }

  /** @internal What the body uses, directly or not: in each executor once, or where a hole is in it, for each emit. */
  get shared(): readonly Part[] {
    return orRaise(addon.partsOfStencil(this.#set, this.#number)).shared;
  }

  /** @internal */
  get own(): readonly Part[] {
    return orRaise(addon.partsOfStencil(this.#set, this.#number)).own;
  }
}

/** Stencils by name. */
export class StencilSet {
  readonly #set: NativeStencils;
  /** A stencil's number, until it is asked for. */
  readonly #stencils = new Map<string, Stencil | number>();

  private constructor(set: NativeStencils) {
    this.#set = set;
    orRaise(addon.namesOfStencils(set)).forEach((name, number) => {
      this.#stencils.set(name, number);
    });
  }

  /**
   * Stencils from a relocatable object, compiled with `-fno-pic -mcmodel=large -ffunction-sections -fdata-sections`: each
   * global function is a stencil, each undefined symbol a hole, and CONTINUE is the next stencil. ERR_ARENA_OBJECT…,
   * ERR_ARENA_STENCIL.
   */
  static fromObject(bytes: Uint8Array): StencilSet {
    return new StencilSet(orRaise(addon.stencilsOfObject(privateCopy(bytes))));
  }

  /** Stencils that `save` wrote. ERR_ARENA_STENCIL for anything else. */
  static load(bytes: Uint8Array): StencilSet {
    return new StencilSet(orRaise(addon.loadStencils(copyOf(checkBytes(bytes, 'the file')))));
  }

  /** The stencils in a compact file of their own: zero tails are left out, and nothing that is not needed is kept. */
  save(): Uint8Array {
    return orRaise(addon.saveStencils(this.#set));
  }

  get names(): string[] {
    return [...this.#stencils.keys()];
  }

  has(name: string): boolean {
    return this.#stencils.has(name);
  }

  /** ERR_ARENA_STENCIL when there is none of this name. */
  get(name: string): Stencil {
    const known = this.#stencils.get(name);
    if (known === undefined) {
      const message = `there is no stencil '${String(name)}', but ${this.names.join(', ')}`;
      throw new ArenaError('ERR_ARENA_STENCIL', message);
    }
    if (typeof known === 'object') return known;
    const stencil = new Stencil(key, this.#set, known);
    this.#stencils.set(name, stencil);
    return stencil;
  }

  *[Symbol.iterator](): IterableIterator<Stencil> {
    for (const name of this.names) yield this.get(name);
  }
}
