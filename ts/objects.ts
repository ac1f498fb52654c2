// Relocatable objects, such as `cc -c` makes, as executors.
import type { Arena } from './arena';
import { checkBytes, copyOf } from './bytes';
import { ArenaError, type Section } from './errors';
import type { Executor } from './executor';
import { idOf, isExecutor, isOf, nativeOf } from './identity';
import { addon, type NativeArena, type NativeDescription, orRaise, raise } from './native';
import { type Asked, ObjectUnits, type UnitReloc } from './object-units';
import { bufferOf, elementsOf, freeze, isSharedArrayBuffer } from './primordials';
import {
  beginRelocs,
  type ExecutorTarget,
  encodeReloc,
  endRelocs,
  putReloc,
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

const sections = ['code', 'data', 'state'] as const;
const kindNames = new Map(Object.entries(relocKindNumbers).map(([name, number]) => [number, name as RelocKind]));

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
  const units = new ObjectUnits(privateCopy(bytes));
  const targets: (RelocTarget | undefined)[] = [];
  for (let i = 0; i < units.askedCount; i++) targets[i] = resolveSymbol(units.asked(i), resolve);
  return new LoadedObject(units, targets, name);
}

/** The bytes of an object, out of the reach of other threads where they are shared. */
export function privateCopy(bytes: Uint8Array): Uint8Array {
  checkBytes(bytes, 'the object');
  return isSharedArrayBuffer(bufferOf(bytes)) ? copyOf(bytes) : bytes;
}

/** Undefined where the object's own definition serves. */
function resolveSymbol({ name, weak, defined }: Asked, resolve: LoadOptions['resolve']): RelocTarget | undefined {
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
  /** True unless there are `reasons`. */
  readonly movable: boolean;
  readonly #units: ObjectUnits;
  readonly #targets: readonly (RelocTarget | undefined)[];
  readonly #name: string | undefined;
  #symbols: readonly ObjectSymbol[] | undefined;
  #reasons: readonly string[] | undefined;

  /** @internal Use `loadObject`. */
  constructor(units: object, targets: readonly (RelocTarget | undefined)[], name: string | undefined) {
    this.#units = units as ObjectUnits;
    this.#targets = targets;
    this.#name = name;
    this.movable = this.#units.reasonCount === 0;
    freeze(this);
  }

  /** Global symbols: what the object defines, then what it needs. */
  get symbols(): readonly ObjectSymbol[] {
    this.#symbols ??= freeze(symbolsOf(this.#units));
    return this.#symbols;
  }

  /** What takes an address that it could keep, in words. An executor whose address is taken does not move. */
  get reasons(): readonly string[] {
    if (this.#reasons === undefined) {
      const reasons: string[] = [];
      for (let i = 0; i < this.#units.reasonCount; i++) reasons[i] = this.#units.reason(i);
      this.#reasons = freeze(reasons);
    }
    return this.#reasons;
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
    const units = this.#units;
    const executors: Executor[] = [];
    try {
      units.forEachUnit((unit, i) => {
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
        executors[i] = executor;
        if (elementsOf(unit.bytes[1]) !== 0) executor.write('data', 0, unit.bytes[1]);
        if (elementsOf(unit.bytes[2]) !== 0) executor.write('state', 0, unit.bytes[2]);
      });
      units.forEachUnitsRelocs((unit, first, count) => {
        if (count !== 0) this.#addRelocs(executors[unit] as Executor, first, count, executors, movable === true);
      });
      arena.freeze(executors);
    } catch (error) {
      arena.free(executors);
      throw error;
    }
    return new InstalledObject(executors, units);
  }

  #addRelocs(
    executor: Executor,
    first: number,
    count: number,
    executors: readonly Executor[],
    promised: boolean,
  ): void {
    const native = nativeOf(executor) as NativeArena;
    const encoding = beginRelocs();
    const reloc = {} as UnitReloc;
    for (let i = 0; i < count; i++) {
      this.#units.readReloc(first + i, reloc);
      const { section, kind, targetKind, offset, target, addend, asked } = reloc;
      const given = asked >= 0 ? this.#targets[asked] : undefined;
      if (given !== undefined) {
        if (reloc.takesAddress && !promised) checkStays(given, native, () => this.#units.asked(asked).name);
        const named = { section: sections[section] as Section, kind: kindNames.get(kind) as RelocKind };
        encodeReloc(i, { ...named, offset, target: given, addend }, native);
      } else if (targetKind === TargetKind.batchMember) {
        const id = idOf(executors[Number(target)] as Executor);
        const { targetSection, targetOffset } = reloc;
        putReloc(i, section, offset, kind, TargetKind.executor, id, addend, targetSection, targetOffset);
      } else putReloc(i, section, offset, kind, targetKind, target, addend);
    }
    endRelocs(encoding, count);
    if (native.addRelocs(idOf(executor)) !== 0) raise();
  }
}

function symbolsOf(units: ObjectUnits): ObjectSymbol[] {
  const symbols: ObjectSymbol[] = [];
  for (let i = 0; i < units.exportCount; i++) {
    const { name, section, bytes, weak, unit } = units.export(i);
    symbols[i] = { name, kind: section === 'code' ? 'function' : section, bytes, weak, executor: unit };
  }
  for (let i = 0; i < units.askedCount; i++) {
    const { name, weak, defined } = units.asked(i);
    if (!defined) symbols[symbols.length] = { name, kind: 'undefined', bytes: 0, weak };
  }
  return symbols;
}

/** That an executor whose address is taken, and could be kept, never moves. */
function checkStays(target: RelocTarget, native: NativeArena, name: () => string): void {
  if (typeof target !== 'object') return;
  const executor = 'id' in target ? target : 'executor' in target ? target.executor : undefined;
  // Of another arena, or none: addRelocs has the error for it.
  if (executor === undefined || !isOf(executor, native)) return;
  const id = idOf(executor);
  if (!(orRaise(native.describe(id)) as NativeDescription).movable) return;
  const message =
    `the object takes the address of '${name()}', which is in executor ${id}, and that can move: install it with ` +
    'movable: false, or this object with movable: true, which promises that it keeps no address longer than a call';
  throw new ArenaError('ERR_ARENA_MOVABLE', message, { executor: id });
}

/** An object in an arena. */
export class InstalledObject {
  /** One for the object, or with `-ffunction-sections` one per section of code. */
  readonly executors: readonly Executor[];
  readonly #units: ObjectUnits;

  /** @internal Use `install` of a loaded object. */
  constructor(executors: readonly Executor[], units: object) {
    this.executors = freeze(executors);
    this.#units = units as ObjectUnits;
    freeze(this);
  }

  #find(name: string) {
    const symbol = this.#units.exportNamed(name);
    if (symbol !== undefined) return symbol;
    const names: string[] = [];
    for (let i = 0; i < this.#units.exportCount && i < 20; i++) names[i] = this.#units.export(i).name;
    const known = names.length === 0 ? 'no global symbols' : names.join(', ');
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
