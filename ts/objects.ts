// Relocatable objects, such as `cc -c` makes, as executors.
import type { Arena } from './arena';
import { checkBytes, copyOf } from './bytes';
import { ArenaError, type Section } from './errors';
import type { Executor } from './executor';
import { idOf, isExecutor, isOf, nativeOf } from './identity';
import { addon, type NativeArena, type NativeDescription, orRaise } from './native';
import { bufferOf, freeze, isSharedArrayBuffer } from './primordials';
import {
  type ExecutorTarget,
  type Reloc,
  type RelocKind,
  type RelocTarget,
  relocKindNumbers,
  TargetKind,
} from './relocs';
import type { MachineFunction, Signature } from './values';

/** A place in an executor, as a reloc's target. */
export interface ExecutorPlace {
  readonly executor: ExecutorTarget;
  readonly section: Section;
  readonly offset: number;
}

/** A global symbol of an object. */
export interface ObjectSymbol {
  readonly name: string;
  /** `data` is read-only, `state` writable, `undefined` something that the object needs. */
  readonly kind: 'function' | 'data' | 'state' | 'undefined';
  /** Size as the object says it; 0 where it says nothing. */
  readonly bytes: number;
  readonly weak: boolean;
  /** Position in `executors` of an installed object; absent when undefined. */
  readonly executor?: number;
}

/** What `resolve` is asked for. */
export interface SymbolQuestion {
  readonly weak: boolean;
  /** Whether the object has a definition of its own, which serves where nothing is answered. */
  readonly defined: boolean;
}

export interface LoadOptions {
  /**
   * What a symbol refers to: an executor, a place in one (`x.target(name)`), a callback or an address. For an undefined
   * symbol without an answer the process is asked (`symbolAddress`); a weak one that nobody has is 0. It is also asked
   * for weak definitions (C++ inline functions and variables, their static variables), of which a program has one
   * instance: without an answer the object has its own.
   */
  resolve?: (name: string, symbol: SymbolQuestion) => RelocTarget | undefined;
  /** For the executors; the names of their first functions unless given. */
  name?: string;
}

export interface InstallOptions {
  /**
   * Overrides what the object looks like (`movable`, `reasons`) for all of its executors. `true` promises that no
   * address of its code, data or state outlives the call in which it was taken.
   */
  movable?: boolean;
}

interface NativeUnit {
  name: string;
  movable: boolean;
  bytes: [Uint8Array, Uint8Array, Uint8Array];
  sizes: [number, number, number];
  aligns: [number, number, number];
  entries: Uint32Array;
  /** Native/node/objects.cc has the order of the fields. */
  relocs: { fields: Int32Array; targets: BigUint64Array; addends: BigInt64Array };
}

interface NativeUnits {
  units: NativeUnit[];
  exports: {
    name: string;
    unit: number;
    section: Section;
    offset: number;
    bytes: number;
    /** -1 unless it is a function. */
    entry: number;
    weak: boolean;
  }[];
  /** What relocs refer to and somebody else may have to provide. */
  asked: { name: string; weak: boolean; defined: boolean }[];
  reasons: string[];
}

const sections = ['code', 'data', 'state'] as const;
const kindNames = new Map(Object.entries(relocKindNumbers).map(([name, number]) => [number, name as RelocKind]));
const relocFields = 8;

/**
 * Reads a relocatable object (ELF64, made by gcc or clang with `-c`) and resolves what it needs. docs/objects.md tells
 * how to compile one, which executors it becomes and what makes it immovable.
 *
 * ERR_ARENA_OBJECT for bytes that are none, ERR_ARENA_OBJECT_UNSUPPORTED for what would not work (thread-local variables,
 * constructors, IFUNC, handlers of exceptions, sections of unknown types, LTO without machine code),
 * ERR_ARENA_RELOC_KIND, and ERR_ARENA_SYMBOL for a symbol that nobody has.
 */
export function loadObject(bytes: Uint8Array, options: LoadOptions = {}): LoadedObject {
  const { resolve, name } = options;
  if (resolve !== undefined && typeof resolve !== 'function') throw new TypeError('resolve is not a function');
  if (name !== undefined && typeof name !== 'string') throw new TypeError('name is not a string');
  const read = orRaise(addon.readUnits(privateCopy(bytes))) as NativeUnits;
  return new LoadedObject(
    read,
    read.asked.map((symbol) => resolveSymbol(symbol, resolve)),
    name,
  );
}

/** The bytes of an object, out of the reach of other threads where they are shared. */
export function privateCopy(bytes: Uint8Array): Uint8Array {
  checkBytes(bytes, 'the object');
  return isSharedArrayBuffer(bufferOf(bytes)) ? copyOf(bytes) : bytes;
}

/** Undefined where the object's own definition serves. */
function resolveSymbol(
  { name, weak, defined }: NativeUnits['asked'][number],
  resolve: LoadOptions['resolve'],
): RelocTarget | undefined {
  const target: RelocTarget | undefined = resolve?.(name, freeze({ weak, defined }));
  if (target === undefined) {
    if (defined) return undefined;
    const address = addon.symbolAddress(name) ?? (weak ? 0n : undefined);
    if (address !== undefined) return { address };
    const message = `the object needs the symbol '${name}', which neither resolve() nor the process has`;
    throw new ArenaError('ERR_ARENA_SYMBOL', message);
  }
  const copy = copyOfTarget(target);
  if (copy !== undefined) return copy;
  throw new TypeError(`resolve('${name}') gave neither an executor, nor a place in one, nor { address }`);
}

/** A target that stays what it is between the checks of an install and its relocs; undefined for what is none. */
function copyOfTarget(target: unknown): RelocTarget | undefined {
  if (typeof target !== 'object' || target === null) return undefined;
  if (isExecutor(target)) return target;
  if ('executor' in target) {
    const { executor, section, offset } = target as ExecutorPlace;
    const copy = { ...(section !== undefined && { section }), ...(offset !== undefined && { offset }) };
    return { executor: isExecutor(executor) ? executor : nameOf(executor), ...copy };
  }
  if ('id' in target) return nameOf(target as ExecutorTarget);
  return 'address' in target ? { address: target.address as bigint } : undefined;
}

function nameOf(executor: ExecutorTarget): ExecutorTarget {
  if (typeof executor !== 'object' || executor === null) return executor;
  const { id, arena } = executor;
  return { id, arena };
}

/** An object in memory, not yet in an arena. It can be installed any number of times, each with state of its own. */
export class LoadedObject {
  /** Global symbols: what the object defines, then what it needs. */
  readonly symbols: readonly ObjectSymbol[];
  /** True unless there are `reasons`. */
  readonly movable: boolean;
  /** What takes an address that it could keep, in words. An executor whose address is taken does not move. */
  readonly reasons: readonly string[];
  readonly #read: NativeUnits;
  readonly #targets: readonly (RelocTarget | undefined)[];
  readonly #name: string | undefined;

  /** @internal Use `loadObject`. */
  constructor(read: object, targets: readonly (RelocTarget | undefined)[], name: string | undefined) {
    this.#read = read as NativeUnits;
    this.#targets = targets;
    this.#name = name;
    this.reasons = freeze(this.#read.reasons);
    this.movable = this.reasons.length === 0;
    this.symbols = freeze([
      ...this.#read.exports.map(({ name, section, bytes, weak, unit }) => {
        const kind = section === 'code' ? ('function' as const) : section;
        return { name, kind, bytes, weak, executor: unit };
      }),
      ...this.#read.asked
        .filter(({ defined }) => !defined)
        .map(({ name, weak }) => ({ name, kind: 'undefined' as const, bytes: 0, weak })),
    ]);
    freeze(this);
  }

  /**
   * Puts the object into an arena: all of its executors, or none. ERR_ARENA_MOVABLE when it takes the address of a
   * movable executor of another object and `movable: true` does not promise that it keeps none; ERR_ARENA_FULL,
   * ERR_ARENA_RELOC_RANGE (an absolute 32-bit field: compile with -fPIC or -mcmodel=large).
   */
  install(arena: Arena, options: InstallOptions = {}): InstalledObject {
    const { movable } = options;
    if (movable !== undefined && typeof movable !== 'boolean') {
      throw new TypeError(`movable is ${String(movable)}, and not true or false`);
    }
    const { units, exports } = this.#read;
    const executors: Executor[] = [];
    try {
      for (const unit of units) {
        const executor = arena.allocate({
          code: unit.bytes[0],
          data: unit.sizes[1],
          state: unit.sizes[2],
          align: unit.aligns[0],
          dataAlign: unit.aligns[1],
          stateAlign: unit.aligns[2],
          entries: unit.entries,
          movable: movable ?? unit.movable,
          name: this.#name ?? unit.name,
        });
        executors.push(executor);
        if (unit.bytes[1].length !== 0) executor.write('data', 0, unit.bytes[1]);
        if (unit.bytes[2].length !== 0) executor.write('state', 0, unit.bytes[2]);
      }
      units.forEach((unit, i) => {
        const executor = executors[i] as Executor;
        const relocs = this.#relocsOf(unit, executors, nativeOf(executor) as NativeArena, movable === true);
        if (relocs.length !== 0) executor.addRelocs(relocs);
      });
      arena.freeze(executors);
    } catch (error) {
      arena.free(executors);
      throw error;
    }
    return new InstalledObject(executors, exports);
  }

  #relocsOf(unit: NativeUnit, executors: readonly Executor[], native: NativeArena, promised: boolean): Reloc[] {
    const { fields, targets, addends } = unit.relocs;
    return Array.from(targets, (own, i) => {
      const at = i * relocFields;
      const field = (n: number) => fields[at + n] as number;
      const symbol = field(6);
      const given = symbol >= 0 ? this.#targets[symbol] : undefined;
      let target: RelocTarget;
      if (given !== undefined) {
        target = given;
        if (field(7) === 1 && !promised)
          checkStays(target, native, (this.#read.asked[symbol] as { name: string }).name);
      } else if (field(2) === TargetKind.address) target = { address: own };
      else if (field(2) === TargetKind.batchMember) {
        const executor = executors[Number(own)] as Executor;
        target = { executor, section: sections[field(4)] as Section, offset: field(5) };
      } else target = { own: sections[field(2)] as Section, offset: Number(own) };
      return {
        section: sections[field(0)] as Section,
        kind: kindNames.get(field(1)) as RelocKind,
        offset: field(3),
        target,
        addend: addends[i] as bigint,
      };
    });
  }
}

/** That an executor whose address is taken, and could be kept, never moves. */
function checkStays(target: RelocTarget, native: NativeArena, name: string): void {
  if (typeof target !== 'object') return;
  const executor = 'id' in target ? target : 'executor' in target ? target.executor : undefined;
  // Of another arena, or none: addRelocs has the error for it.
  if (executor === undefined || !isOf(executor, native)) return;
  const id = idOf(executor);
  if (!(orRaise(native.describe(id)) as NativeDescription).movable) return;
  const message =
    `the object takes the address of '${name}', which is in executor ${id}, and that can move: install it with ` +
    'movable: false, or this object with movable: true, which promises that it keeps no address longer than a call';
  throw new ArenaError('ERR_ARENA_MOVABLE', message, { executor: id });
}

/** An object in an arena. */
export class InstalledObject {
  /** One for the object, or with `-ffunction-sections` one per section of code. */
  readonly executors: readonly Executor[];
  readonly #exports: ReadonlyMap<string, NativeUnits['exports'][number]>;

  /** @internal Use `install` of a loaded object. */
  constructor(executors: readonly Executor[], exports: readonly object[]) {
    this.executors = freeze(executors);
    this.#exports = new Map((exports as NativeUnits['exports']).map((symbol) => [symbol.name, symbol]));
    freeze(this);
  }

  #find(name: string) {
    const symbol = this.#exports.get(name);
    if (symbol !== undefined) return symbol;
    const names = [...this.#exports.keys()];
    const known = names.length === 0 ? 'no global symbols' : names.slice(0, 20).join(', ');
    throw new ArenaError('ERR_ARENA_SYMBOL', `the object defines no global symbol '${String(name)}', but ${known}`);
  }

  /** A JavaScript function that calls a function of the object, as `executor.func` does. ERR_ARENA_SYMBOL. */
  func<const S extends Signature>(name: string, signature: S): MachineFunction<S> {
    const { unit, entry, section } = this.#find(name);
    if (entry >= 0) return (this.executors[unit] as Executor).func(signature, { entry });
    throw new ArenaError('ERR_ARENA_SYMBOL', `'${name}' is no function with code: it is in ${section}`);
  }

  /** A global symbol as a reloc's target, for another object's `resolve` or an executor's relocs. ERR_ARENA_SYMBOL. */
  target(name: string): ExecutorPlace {
    const { unit, section, offset } = this.#find(name);
    return { executor: this.executors[unit] as Executor, section, offset };
  }

  /** Frees all of its executors together. ERR_ARENA_STALE_EXECUTOR when one of them is gone. */
  free(): void {
    (this.executors[0] as Executor | undefined)?.arena.free(this.executors);
  }

  /** Frees the object if it is still there. */
  [Symbol.dispose](): void {
    if (this.executors.some((executor) => executor.state !== 'retired')) this.free();
  }
}
