// Relocatable objects, such as `cc -c` makes, as executors. Native code reads and installs them (native/object); here are
// the callback for names and the classes.
import { type Arena, nativeOfArena } from './arena';
import { throughMachineCode } from './calls';
import { checkBytes, checkCount, checkSection, copyOf } from './checks';
import { ArenaError, type Section } from './errors';
import { type Executor, makeExecutor } from './executor';
import { idOf, isExecutor, isOf } from './identity';
import { addon, type NativeArena, type NativeObject, orRaise, raise } from './native';
import { asUintN, bufferOf, elementsOf, freeze, isSharedArrayBuffer } from './primordials';
import { type ExecutorTarget, maxOffset, type RelocTarget } from './relocs';
import type { MachineFunction, Signature } from './signature';

/** Whoever has it may say which native object is meant. */
const key = Symbol('loadObject');

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
  /**
   * `run`: calls the object's constructors, in the thread that installs it, and its destructors when the installed object is
   * freed. An object that has some is refused without: ERR_ARENA_OBJECT_UNSUPPORTED.
   */
  constructors?: 'run';
}

/**
 * Reads a relocatable object (ELF64, made by gcc or clang with `-c`) and resolves what it needs. docs/objects.md tells
 * how to compile one, which executors it becomes and what makes it immovable.
 *
 * ERR_ARENA_OBJECT for bytes that are none, ERR_ARENA_OBJECT_UNSUPPORTED for what would not work (thread-local variables,
 * sections of unknown types, LTO without machine code),
 * ERR_ARENA_RELOC_KIND, and ERR_ARENA_SYMBOL for a symbol that nobody has.
 */
export function loadObject(bytes: Uint8Array, options: LoadOptions = {}): LoadedObject {
  const { resolve, name } = options;
  if (resolve !== undefined && typeof resolve !== 'function') throw new TypeError('resolve is not a function');
  if (name !== undefined && typeof name !== 'string') throw new TypeError('name is not a string');
  const object = orRaise(addon.readObject(privateCopy(bytes)));
  const executors = resolve === undefined ? [] : answer(object, resolve);
  if (addon.resolveObject(object) !== 0) raise();
  return new LoadedObject(key, object, executors, name);
}

/** The bytes of an object, out of the reach of other threads where they are shared. */
export function privateCopy(bytes: Uint8Array): Uint8Array {
  checkBytes(bytes, 'the object');
  return isSharedArrayBuffer(bufferOf(bytes)) ? copyOf(bytes) : bytes;
}

/** An executor that a symbol refers to. */
interface NamedExecutor {
  readonly name: string;
  readonly executor: ExecutorTarget;
}

/** Hands the host's answers to native code; the executors among them. */
function answer(object: NativeObject, resolve: NonNullable<LoadOptions['resolve']>): readonly NamedExecutor[] {
  const executors: NamedExecutor[] = [];
  const { asked } = addon.countsOfObject(object);
  for (let i = 0; i < asked; i++) {
    const { name, weak, defined } = addon.askedOfObject(object, i);
    const target: unknown = resolve(name, freeze({ weak, defined }));
    if (target === undefined) continue;
    const executor = answerOne(object, i, name, target);
    if (executor !== undefined) executors[executors.length] = { name, executor };
  }
  return executors;
}

/** What the target names, read once; the executor, when it is one. */
function answerOne(object: NativeObject, i: number, name: string, target: unknown): ExecutorTarget | undefined {
  const what = `resolve('${name}')`;
  const fail = (): never => {
    throw new TypeError(`${what} gave neither an executor, nor a place in one, nor { address }`);
  };
  if (typeof target !== 'object' || target === null) return fail();
  if (isExecutor(target) || 'id' in target || 'executor' in target) {
    const place = isExecutor(target) || !('executor' in target) ? { executor: target } : target;
    const { executor: given, section = 'code', offset = 0 } = place as { executor: ExecutorTarget } & ExecutorPlace;
    if (typeof given !== 'object' || given === null) return fail();
    const executor = isExecutor(given) ? given : { id: given.id, arena: given.arena };
    const id = checkCount(idOf(executor), Number.MAX_SAFE_INTEGER, 'ERR_ARENA_RELOC_TARGET', `the id of ${what}`);
    checkCount(offset, maxOffset, 'ERR_ARENA_RELOC_TARGET', `the offset of ${what}`);
    addon.answerForObject(object, i, id, checkSection(section), offset);
    return executor;
  }
  if (!('address' in target)) return fail();
  const { address } = target;
  if (typeof address !== 'bigint') throw new TypeError(`the address of ${what} is not a bigint`);
  if (asUintN(64, address) !== address) {
    throw new ArenaError('ERR_ARENA_RELOC_TARGET', `the address of ${what} is ${address}n, and not one of 64 bits`);
  }
  addon.answerForObject(object, i, address);
  return undefined;
}

/** An object in memory, not yet in an arena. It can be installed any number of times, each with state of its own. */
export class LoadedObject {
  /** True unless there are `reasons`. */
  readonly movable: boolean;
  readonly #object: NativeObject;
  readonly #executors: readonly NamedExecutor[];
  readonly #name: string | undefined;
  #symbols: readonly ObjectSymbol[] | undefined;
  #reasons: readonly string[] | undefined;

  /** @internal Use `loadObject`. */
  constructor(given: symbol, object: object, executors: readonly object[], name: string | undefined) {
    if (given !== key) throw new TypeError('a LoadedObject is made by loadObject');
    this.#object = object as NativeObject;
    this.#executors = executors as readonly NamedExecutor[];
    this.#name = name;
    this.movable = addon.countsOfObject(this.#object).reasons === 0;
    freeze(this);
  }

  /** Global symbols: what the object defines, then what it needs. */
  get symbols(): readonly ObjectSymbol[] {
    this.#symbols ??= freeze(
      listOf(addon.countsOfObject(this.#object).symbols, (i) => addon.symbolOfObject(this.#object, i)),
    );
    return this.#symbols;
  }

  /** What takes an address that it could keep, in words. An executor whose address is taken does not move. */
  get reasons(): readonly string[] {
    this.#reasons ??= freeze(
      listOf(addon.countsOfObject(this.#object).reasons, (i) => addon.reasonOfObject(this.#object, i)),
    );
    return this.#reasons;
  }

  /**
   * Puts the object into an arena: all of its executors, or none. ERR_ARENA_MOVABLE when it takes the address of a
   * movable executor of another object and `movable: true` does not promise that it keeps none; ERR_ARENA_FULL,
   * ERR_ARENA_RELOC_RANGE (an absolute 32-bit field: compile with -fPIC or -mcmodel=large).
   */
  install(arena: Arena, options: InstallOptions = {}): InstalledObject {
    const { movable, constructors } = options;
    if (constructors !== undefined && constructors !== 'run') {
      throw new TypeError(`constructors is ${String(constructors)}, and not 'run'`);
    }
    if (movable !== undefined && typeof movable !== 'boolean') {
      throw new TypeError(`movable is ${String(movable)}, and not true or false`);
    }
    const native = nativeOfArena(arena);
    for (const named of this.#executors) checkOwn(named, native);
    const runs = constructors === 'run';
    const ids = orRaise(native.installObject(this.#object, movable, this.#name, runs));
    const executors = listOf(elementsOf(ids), (i) => makeExecutor(arena, native, ids[i] as number));
    const installed = new InstalledObject(key, native, executors, ids, this.#object);
    this.#begin(installed, native, ids, runs);
    return installed;
  }

  /** Calls what comes before anything else of the object. */
  #begin(installed: InstalledObject, native: NativeArena, ids: Float64Array, constructs: boolean): void {
    const { resolvers, constructors } = addon.countsOfObject(this.#object);
    try {
      for (let i = 0; i < resolvers; i++) throughMachineCode(() => native.runResolver(this.#object, ids, i));
      for (let i = 0; constructs && i < constructors; i++) {
        throughMachineCode(() => native.runConstructor(this.#object, ids, i));
      }
    } catch (error) {
      // What the first have made, ends; why the object is not there is what the constructor threw.
      try {
        installed.free();
      } catch {}
      throw error;
    }
  }
}

/** Made by assignment, which nobody can put something else in the place of. */
function listOf<T>(count: number, at: (i: number) => T): T[] {
  const list: T[] = [];
  for (let i = 0; i < count; i++) list[i] = at(i);
  return list;
}

function checkOwn({ name, executor }: NamedExecutor, native: NativeArena): void {
  if (isOf(executor, native)) return;
  const message = `the object's symbol '${name}' is executor ${idOf(executor)} of another arena`;
  throw new ArenaError('ERR_ARENA_FOREIGN_EXECUTOR', message);
}

/** An object in an arena. */
export class InstalledObject {
  /** One for the object, or with `-ffunction-sections` one per section of code. */
  readonly executors: readonly Executor[];
  readonly #native: NativeArena;
  readonly #ids: Float64Array;
  readonly #object: NativeObject;

  /** @internal Use `install` of a loaded object. */
  constructor(given: symbol, native: object, executors: readonly Executor[], ids: Float64Array, object: object) {
    if (given !== key) throw new TypeError('an InstalledObject is made by install of a loaded object');
    this.#native = native as NativeArena;
    this.executors = freeze(executors);
    this.#ids = ids;
    this.#object = object as NativeObject;
    freeze(this);
  }

  /** A JavaScript function that calls a function of the object, as `executor.func` does. ERR_ARENA_SYMBOL. */
  func<const S extends Signature>(name: string, signature: S): MachineFunction<S> {
    const { executor, entry, section } = orRaise(addon.findInObject(this.#object, String(name)));
    if (entry !== undefined) return (this.executors[executor] as Executor).func(signature, { entry });
    throw new ArenaError('ERR_ARENA_SYMBOL', `'${name}' is no function with code: it is in ${section}`);
  }

  /** A global symbol as a reloc's target, for another object's `resolve` or an executor's relocs. ERR_ARENA_SYMBOL. */
  target(name: string): ExecutorPlace {
    const { executor, section, offset } = orRaise(addon.findInObject(this.#object, String(name)));
    return { executor: this.executors[executor] as Executor, section, offset };
  }

  /**
   * Frees all of its executors together. Before that it calls what the object's code has registered to be called at its end
   * (destructors of C++ static variables), the last first, and then its destructors; what a callback throws meanwhile it
   * throws when all is done. ERR_ARENA_STALE_EXECUTOR when one of the executors is gone.
   */
  free(): void {
    if (this.executors.length === 0) return;
    let thrown: { error: unknown } | undefined;
    for (let more = true; more; ) {
      try {
        more = throughMachineCode(() => this.#native.runAtEnd(this.#object, this.#ids)) === true;
      } catch (error) {
        thrown ??= { error };
      }
    }
    if (this.#native.freeObject(this.#object, this.#ids) !== 0) raise();
    if (thrown !== undefined) throw thrown.error;
  }

  /** Frees the object if it is still there. */
  [Symbol.dispose](): void {
    if (this.executors.some((executor) => executor.state !== 'retired')) this.free();
  }
}
