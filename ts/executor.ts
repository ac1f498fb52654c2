import { inspect } from 'node:util';
import type { Arena } from './arena';
import { makeFunction } from './calls';
import { checkBytes, checkCount, checkSection } from './checks';
import type { Section } from './errors';
import { ArenaError } from './errors';
import { defineIdentity } from './identity';
import { enter, N, type NativeArena, type NativeDescription, numbers, orRaise, raise } from './native';
import { defineProperty, mapGet, mapSet } from './primordials';
import { encodeRelocs, endRelocs, type Reloc } from './relocs';
import { checkSignature, type MachineFunction, type Signature } from './signature';

/** Whoever has it may make Executor objects: their offsets are believed when they are run. */
const key = Symbol('an arena');

/** @internal A name for the executor with this id. */
export let makeExecutor: (arena: Arena, native: NativeArena, id: number) => Executor;

/**
 * @internal For runners: puts an entry into the mailbox, for `addon.run`. `checkOwn` is asked about what is no executor
 * of the same Arena object. ERR_ARENA_NOT_FROZEN, _STALE_EXECUTOR, _TRACE_ABI, _BOUNDS; TypeError for what is no Executor.
 */
export let prepareRun: (
  native: NativeArena,
  arena: number,
  executor: Executor,
  entry: number,
  checkOwn: (executor: Executor) => unknown,
) => void;

/**
 * One JIT trace or function of an arena: code, constants (data) and mutable bytes (state).
 *
 * It is *writable* until `arena.freeze`, then *frozen*: executable and immutable, wherever the collector moves it,
 * until it is freed. This object is a name for it, not its owner: garbage collecting the object frees nothing. It
 * names the same one for ever, whatever is assigned to its properties.
 */
export class Executor {
  // What it names is private: properties can be set, shadowed, and replaced in the prototype.
  readonly #id: number;
  readonly #arena: Arena;
  readonly #native: NativeArena;
  /** Offsets in code of its entries, as far as they have been run; they do not change. */
  #firstEntry: number | undefined;
  #otherEntries: Map<number, number> | undefined;

  // Use `arena.allocate`, `arena.install` or `arena.executor(id)`.
  private constructor(given: symbol, arena: Arena, native: NativeArena, id: number) {
    if (given !== key) throw new TypeError('an Executor is made by its arena: arena.executor(id)');
    this.#arena = arena;
    this.#native = native;
    this.#id = id;
  }

  static {
    makeExecutor = (arena, native, id) => new Executor(key, arena, native, id);
    defineIdentity(
      (value) => (typeof value === 'object' && value !== null && #native in value ? value.#native : undefined),
      (executor) => (#id in executor ? executor.#id : executor.id),
      (executor) => executor.#address(),
    );
    prepareRun = (native, arena, executor, entry, checkOwn) => {
      const isOwn =
        typeof executor === 'object' && executor !== null && #native in executor && executor.#native === native;
      if (!isOwn) checkOwn(executor);
      const others = executor.#otherEntries;
      const known = entry === 0 ? executor.#firstEntry : others && mapGet(others, entry);
      enter(arena, executor.#id, known ?? executor.#findEntry(entry));
    };
  }

  /** A safe integer, never given to another executor of the arena; passes through postMessage where objects do not. */
  get id(): number {
    return this.#id;
  }

  get arena(): Arena {
    return this.#arena;
  }

  /** For console.log, and for assertions that fail. */
  [inspect.custom](): string {
    return `Executor ${this.#id}`;
  }

  #describe(): NativeDescription {
    return orRaise(this.#native.describe(this.#id)) as NativeDescription;
  }

  /** Where the executor is in its life; `retired` from the moment it is freed, also when its arena is gone. */
  get state(): 'writable' | 'frozen' | 'retired' {
    try {
      return this.#describe().frozen ? 'frozen' : 'writable';
    } catch (error) {
      if (error instanceof ArenaError && ['ERR_ARENA_STALE_EXECUTOR', 'ERR_ARENA_DISPOSED'].includes(error.code)) {
        return 'retired';
      }
      throw error;
    }
  }

  /** The name it was given, or ''. */
  get name(): string {
    return this.#describe().name;
  }

  /** Bytes of each section. */
  get sizes(): Record<Section, number> {
    const { codeBytes, dataBytes, stateBytes } = this.#describe();
    return { code: codeBytes, data: dataBytes, state: stateBytes };
  }

  /** Number of exits. */
  get exits(): number {
    return this.#describe().exits;
  }

  get evictable(): boolean {
    return this.#describe().evictable;
  }

  get makesProgress(): boolean {
    return this.#describe().makesProgress;
  }

  get movable(): boolean {
    return this.#describe().movable;
  }

  /**
   * Address of the first code byte: valid inside `arena.pinned(() => …)`, else until any thread collects.
   * ERR_ARENA_NOT_FROZEN, since a writable executor has none.
   */
  get address(): bigint {
    return this.#address();
  }

  #address(): bigint {
    const { frozen, address } = this.#describe();
    if (frozen) return address;
    throw new ArenaError('ERR_ARENA_NOT_FROZEN', `executor ${this.#id} is still writable and has no address`, {
      executor: this.#id,
    });
  }

  #findEntry(entry: number): number {
    const { frozen, trace, firstEntry } = this.#describe();
    const details = { executor: this.#id };
    if (!frozen) {
      throw new ArenaError('ERR_ARENA_NOT_FROZEN', `executor ${this.#id} is still writable: freeze it first`, details);
    }
    if (!trace) {
      const message = `executor ${this.#id} has neither exits nor a done target: call it through func`;
      throw new ArenaError('ERR_ARENA_TRACE_ABI', message, details);
    }
    this.#firstEntry = firstEntry;
    checkCount(entry, 0xffff_ffff, 'ERR_ARENA_BOUNDS', `executor ${this.#id}: entry`, details);
    if (entry === 0) return firstEntry;
    if (this.#native.entryOffset(this.#id, entry) !== 0) raise();
    const offset = numbers[N.id] as number;
    this.#otherEntries ??= new Map();
    mapSet(this.#otherEntries, entry, offset);
    return offset;
  }

  /**
   * Overwrites bytes of a section of a writable executor; of state also while it is frozen.
   * ERR_ARENA_NOT_WRITABLE, ERR_ARENA_BOUNDS.
   */
  write(section: Section, offset: number, bytes: Uint8Array): void {
    const details = { executor: this.#id, section, offset };
    const sectionNumber = checkSection(section);
    const what = `executor ${this.#id}: `;
    checkCount(offset, 0xffff_ffff, 'ERR_ARENA_BOUNDS', `${what}the offset in ${section}`, details);
    const checked = checkBytes(bytes, `${what}bytes for ${section} + ${offset}`, details);
    if (this.#native.write(this.#id, sectionNumber, offset, checked) !== 0) raise();
  }

  /** A copy of a section's bytes as they are now: staged, or in place with relocs applied. */
  read(section: Section, offset = 0, length?: number): Uint8Array {
    const details = { executor: this.#id, section, offset };
    const sectionNumber = checkSection(section);
    const description = this.#describe();
    const size = [description.codeBytes, description.dataBytes, description.stateBytes][sectionNumber] as number;
    const what = `executor ${this.#id}: the`;
    checkCount(offset, size, 'ERR_ARENA_BOUNDS', `${what} offset in ${section}`, details);
    const most = size - offset;
    const bytes = checkCount(
      length ?? most,
      most,
      'ERR_ARENA_BOUNDS',
      `${what} length from ${section} + ${offset} on`,
      details,
    );
    const into = new Uint8Array(bytes);
    if (this.#native.read(this.#id, sectionNumber, offset, into) !== 0) raise();
    return into;
  }

  /** Adds relocs to a writable executor; checked against addresses by `freeze`. ERR_ARENA_RELOC_…, all or none. */
  addRelocs(relocs: readonly Reloc[]): void {
    endRelocs(encodeRelocs(relocs, this.#native));
    if (this.#native.addRelocs(this.#id) !== 0) raise();
  }

  /**
   * A JavaScript function that calls the executor. It follows every move, and throws ERR_ARENA_STALE_EXECUTOR once the
   * executor is freed. `entry` counts the spec's `entries`. A wrong number of arguments, and an argument that is not of
   * its type, is a TypeError.
   *
   * The machine code must follow the C calling convention of the platform (System V psABI) and the signature: a wrong
   * signature is not detected.
   */
  func<const S extends Signature>(given: S, options: { entry?: number } = {}): MachineFunction<S> {
    const signature = checkSignature(given);
    const entry = checkCount(options.entry ?? 0, 0xffff_ffff, 'ERR_ARENA_BOUNDS', `executor ${this.#id}: entry`, {
      executor: this.#id,
    });
    if (this.#native.bind(this.#id, entry) !== 0) raise();
    // The function holds the executor and so its arena, which owns the memory that it calls.
    const made = makeFunction<S>(this.#native.number, this.#id, numbers[N.id] as number, signature);
    return defineProperty(made, 'executor', { value: this }) as MachineFunction<S>;
  }

  /** `arena.free(this)`. */
  free(): void {
    this.#arena.free(this);
  }

  /** Frees the executor if it is still there, so that `using` and an explicit `free` go together. */
  [Symbol.dispose](): void {
    if (this.state !== 'retired') this.free();
  }
}
