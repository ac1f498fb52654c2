import type { Arena } from './arena';
import { checkBytes, checkCount } from './checks';
import { ArenaError } from './errors';
import type { Executor } from './executor';
import { addon, type BuiltTrace, orRaise } from './native';
import { asIntN, asUintN } from './primordials';
import type { RelocTarget } from './relocs';
import { continueHole, Stencil } from './stencils';
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

function fail(message: string): never {
  throw new ArenaError('ERR_ARENA_STENCIL', message);
}

/** Puts stencils one after the other into one executor; how, native/object/trace_builder.h says. */
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
    const host = [hostBytes(data, 'data'), hostBytes(state, 'state')] as const;
    const { targets, trace } = this.#fillHoles();
    const built = orRaise(addon.buildTrace(trace, ...host));
    this.#statistics = built.statistics;
    const [align, dataAlign, stateAlign] = built.aligns;
    const { defaults } = addon;
    return {
      ...others,
      code: built.code,
      data: built.data,
      state: built.state,
      relocs: built.relocs.map((reloc) => {
        const { target } = reloc;
        return typeof target === 'number' ? { ...reloc, target: targets[target] as RelocTarget } : { ...reloc, target };
      }),
      align: Math.max(options.align ?? defaults.align, align),
      dataAlign: Math.max(options.dataAlign ?? defaults.dataAlign, dataAlign),
      stateAlign: Math.max(options.stateAlign ?? defaults.stateAlign, stateAlign),
      ...(entries !== undefined && {
        entries: entries.map((entry) => (typeof entry === 'string' ? this.#labelOffset(entry, built) : entry)),
      }),
    };
  }

  /** `build` and `arena.install`. */
  install(arena: Arena, options: TraceOptions = {}): Executor {
    return arena.install(this.build(options));
  }

  /** The emits as native code builds them; relocs name what is filled with a target by its position. */
  #fillHoles() {
    const trace = orRaise(addon.beginTrace());
    const targets: RelocTarget[] = [];
    for (const { stencil, holes } of this.#emitted) {
      Stencil.emit(stencil, trace);
      for (const [name, filling] of holes) {
        const hole = stencil.holes.indexOf(name);
        const fill = (what: 'emit' | 'number' | 'target', value: bigint) =>
          orRaise(addon.fillHole(trace, hole, what, value));
        if (filling !== 'done' && 'label' in filling) fill('emit', BigInt(this.#labelled(filling.label)));
        else if (filling !== 'done' && 'value' in filling)
          fill('number', numberOf(filling.value, `the hole '${name}' of the stencil '${stencil.name}'`));
        else fill('target', BigInt(targets.push(filling) - 1));
      }
    }
    return { trace, targets };
  }

  /** Which emit follows the label. */
  #labelled(label: string): number {
    const emitted = this.#labels.get(label);
    if (emitted === undefined) fail(`there is no label '${label}'`);
    return emitted < this.#emitted.length ? emitted : fail(`no stencil follows the label '${label}'`);
  }

  #labelOffset(label: string, { bodies }: BuiltTrace): number {
    return bodies[this.#labelled(label)] as number;
  }
}

function hostBytes(given: Uint8Array | number, section: 'data' | 'state'): Uint8Array | number {
  if (typeof given !== 'number') return checkBytes(given, section, { section });
  return checkCount(given, 2 ** 31, 'ERR_ARENA_SIZE', `the size of ${section}`, { section });
}

/** A number of 64 bits, with a sign or without. */
function numberOf(value: number | bigint, what: string): bigint {
  if (typeof value === 'number' ? !Number.isSafeInteger(value) : typeof value !== 'bigint') {
    throw new TypeError(`${what} is filled with ${String(value)}, and not with a whole number; beyond 2^53 a bigint`);
  }
  const number = BigInt(value);
  if (asIntN(64, number) === number || asUintN(64, number) === number) return asUintN(64, number);
  throw new ArenaError('ERR_ARENA_RELOC_RANGE', `${what} is filled with ${number}, which has more than 64 bits`);
}
