import { type ArenaOptions, createArena } from './arena-options';
import { checkOffsets, copyNumbers, encodeBatchRelocs } from './batch';
import { makeCallback } from './calls';
import { checkBytes, checkCount, maxSize } from './checks';
import { ArenaError } from './errors';
import { type Executor, makeExecutor } from './executor';
import { isExecutor } from './identity';
import { checkId, type Executors, idIn, idsIn } from './ids';
import { type ArenaEvent, type ArenaListener, Listeners } from './listeners';
import { addon, N, type NativeArena, numbers, orRaise, raise, type WriterName } from './native';
import { Pin } from './pin';
import { Bytes, Doubles, defineProperty, elementsOf, freeze, isArray } from './primordials';
import { beginRelocs, endRelocs } from './relocs';
import { exitOf, makeRunner, type Runner } from './runner';
import { checkToken, type ShareToken, setToken } from './sharing';
import type { CallbackFunction, Signature } from './signature';
import { encodeSpec } from './specs';
import type {
  CollectOptions,
  CollectResult,
  CompactionPlan,
  ExecutorBatch,
  ExecutorSpec,
  ExitTaken,
  FoundAddress,
  SlabMap,
  Stats,
  Verification,
} from './types';

/** A JavaScript function at an address that machine code can call; a target for relocs. */
export interface Callback {
  readonly address: bigint;
  /** Lets the function go. Its address stays valid for machine code and returns 0 from then on. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/** @internal The functions of an Arena. TypeError for whatever else. */
export let nativeOfArena: (arena: Arena) => NativeArena;

/** The functions of an arena that is there already, on their way from `Arena.from` to the constructor. */
class OpenedArena {
  readonly native: NativeArena;
  constructor(native: NativeArena) {
    this.native = native;
  }
}

/**
 * One reserved address range and everything in it: executors packed into shared pages, none of them writable and
 * executable, and a collector that moves live ones to keep them packed.
 *
 * `share` and `Arena.from` give it to other threads; every function may be called by any of them at any time. An Arena
 * object is one use of the arena, which ends when all of them have been disposed of, or the threads that have not have
 * ended. Dispose explicitly: garbage collection frees no machine code, since its addresses may be in use where the
 * collector cannot look.
 */
export class Arena {
  /** The writer in use. */
  declare readonly writer: WriterName;
  declare readonly name: string;
  readonly #native: NativeArena;
  #listeners: Listeners | undefined;

  static {
    nativeOfArena = (arena) => {
      if (typeof arena === 'object' && arena !== null && #native in arena) return arena.#native;
      throw new TypeError('the arena is not an Arena');
    };
  }

  /** ERR_ARENA_NO_EXEC, _NO_MEMORY, _WRITER_UNAVAILABLE, _SIZE. */
  constructor(options: ArenaOptions = {}) {
    this.#native = options instanceof OpenedArena ? options.native : createArena(options);
    const { writer, name, token } = this.#native;
    defineProperty(this, 'writer', { value: writer, enumerable: true });
    defineProperty(this, 'name', { value: name, enumerable: true });
    setToken(this, token);
  }

  /**
   * The arena that a token of `arena.share()` names, in whichever thread of the process it was made: one more use of it,
   * with a `dispose` of its own. ERR_ARENA_DISPOSED when nobody uses it any more, ERR_ARENA_FORKED when the token is of
   * another process. Executors, functions and callbacks do not go through postMessage; `executor.id` does.
   */
  static from(token: ShareToken): Arena {
    return new Arena(new OpenedArena(orRaise(addon.openArena(checkToken(token)))) as object);
  }

  /**
   * A token with which other threads of the process get the same arena: `Arena.from(token)`. It keeps nothing alive.
   * ERR_ARENA_WRITER_UNSHAREABLE with the writer `flip`.
   */
  share(): ShareToken {
    if (this.#native.checkShareable() !== 0) raise();
    return this.#native.token;
  }

  /**
   * A new writable executor with the spec's bytes staged in ordinary memory. It has no address until it is frozen.
   * ERR_ARENA_SIZE, _ALIGNMENT, _BOUNDS, _RELOC_….
   */
  allocate(spec: ExecutorSpec): Executor {
    const { code, data, state, name, entries, exitTags } = encodeSpec(this.#native, spec);
    if (this.#native.allocate(code, data, state, name, entries, exitTags) !== 0) raise();
    return makeExecutor(this, this.#native, numbers[N.id] as number);
  }

  /**
   * Makes writable executors executable and immutable. Every reloc of all of them is checked first; then all are
   * published, or none is. Never collects: ERR_ARENA_FULL when there is no room. ERR_ARENA_RELOC_…, _NOT_WRITABLE,
   * _STALE_EXECUTOR, _DUPLICATE_EXECUTOR, _RETIRED_LIMIT.
   */
  freeze(executors: Executors): void {
    if (this.#native.freeze(idsIn(this.#native, executors)) !== 0) raise();
  }

  /**
   * `allocate` and `freeze` in one step and with one copy; a list is installed all or none, and its relocs may refer to
   * its members, `{ member: 2 }`.
   */
  install(spec: ExecutorSpec): Executor;
  install(specs: readonly ExecutorSpec[]): Executor[];
  install(spec: ExecutorSpec | readonly ExecutorSpec[]): Executor | Executor[] {
    if (isArray(spec)) return this.#installList(spec);
    const { code, data, state, name, entries, exitTags } = encodeSpec(this.#native, spec as ExecutorSpec);
    if (this.#native.install(code, data, state, name, entries, exitTags) !== 0) raise();
    return makeExecutor(this, this.#native, numbers[N.id] as number);
  }

  #installList(specs: readonly ExecutorSpec[]): Executor[] {
    // Once: a Proxy may say something else the next time.
    const count = specs.length;
    const ids = new Doubles(count);
    if (this.#native.beginSpecs() !== 0) raise();
    try {
      for (let i = 0; i < count; i++) this.#addSpec(specs[i] as ExecutorSpec, i);
      if (this.#native.installSpecs(ids) !== 0) raise();
    } finally {
      this.#native.endSpecs();
    }
    const executors: Executor[] = [];
    for (let i = 0; i < count; i++) executors[i] = makeExecutor(this, this.#native, ids[i] as number);
    return executors;
  }

  #addSpec(spec: ExecutorSpec, index: number): void {
    try {
      const { code, data, state, name, entries, exitTags } = encodeSpec(this.#native, spec);
      if (this.#native.addSpec(code, data, state, name, entries, exitTags) !== 0) raise();
    } catch (error) {
      // What is wrong with one spec knows nothing of the list.
      if (!(error instanceof ArenaError)) throw error;
      throw new ArenaError(error.code, `spec ${index}: ${error.message}`, { ...error, index });
    }
  }

  /** `install` for many executors over typed arrays; returns their ids. All or none. */
  installBatch(batch: ExecutorBatch): Float64Array {
    if (typeof batch !== 'object' || batch === null) throw new TypeError('the batch is not an object');
    const { code, data = new Bytes(0), dataOffsets: givenDataOffsets, relocs } = batch;
    const codeOffsets = copyNumbers(batch.codeOffsets, 'codeOffsets');
    const count = elementsOf(codeOffsets) - 1;
    if (count < 0) throw new TypeError('codeOffsets is empty: it has one entry more than executors');
    const dataOffsets =
      givenDataOffsets === undefined ? new Doubles(count + 1) : copyNumbers(givenDataOffsets, 'dataOffsets');
    const dataEntries = elementsOf(dataOffsets);
    if (dataEntries !== count + 1) {
      throw new TypeError(`dataOffsets has ${dataEntries} entries, and codeOffsets ${count + 1}`);
    }
    const encoding = beginRelocs();
    const relocsOfEach = new Doubles(count);
    const relocCount = relocs === undefined ? 0 : encodeBatchRelocs(relocs, relocsOfEach);
    // Last, since code of the caller's may run before.
    checkOffsets(codeOffsets, elementsOf(checkBytes(code, 'code')), 'codeOffsets');
    checkOffsets(dataOffsets, elementsOf(checkBytes(data, 'data')), 'dataOffsets');
    endRelocs(encoding, relocCount);
    const ids = new Doubles(count);
    if (this.#native.installBatch(code, codeOffsets, data, dataOffsets, relocsOfEach, ids) !== 0) raise();
    return ids;
  }

  /**
   * Ends executors, all or none. Their ids are stale at once; their memory is used again when no thread can be
   * executing it. A target of another executor's reloc is freed only together with it: ERR_ARENA_REFERENCED.
   * ERR_ARENA_STALE_EXECUTOR (also for a second free), _FOREIGN_EXECUTOR, _DUPLICATE_EXECUTOR.
   */
  free(executors: Executors): void {
    if (isExecutor(executors)) {
      numbers[N.id] = idIn(this.#native, executors);
      if (this.#native.freeOne() !== 0) raise();
    } else if (this.#native.free(idsIn(this.#native, executors)) !== 0) raise();
    this.#listeners?.tell();
  }

  /**
   * A JavaScript function as an address that machine code can call, on this thread, with the C calling convention.
   *
   * What it throws never unwinds machine code: the callback returns 0, later callbacks of the same call return 0 at
   * once, and the call that entered the machine code throws it. When no call of this package has, as when a C library has
   * libuv call the callback, it is an `uncaughtException`.
   */
  callback<const S extends Signature>(signature: S, fn: CallbackFunction<S>): Callback {
    const native = this.#native;
    const address = orRaise(native.addCallback(makeCallback(signature, fn)));
    const dispose = () => {
      native.disposeCallback(address);
    };
    return freeze({ address, dispose, [Symbol.dispose]: dispose });
  }

  /**
   * A function that runs traces with the address of `context` in their first argument register. It returns 0 when the
   * trace was done, a number above 0 when it left through an exit, and one below 0 when that exit has just become hot:
   * an exit code for `exitOf` and `exitTag`, valid until the next run, free, invalidate or collect. It makes no objects.
   * ERR_ARENA_NOT_FROZEN, _STALE_EXECUTOR, _TRACE_ABI; ERR_ARENA_DETACHED when the context's buffer is gone.
   */
  runner(context: ArrayBufferView): Runner {
    return makeRunner(this.#native, context, (executor) => idIn(this.#native, executor));
  }

  /** The exit that an exit code of the last run stands for. ERR_ARENA_EXIT for any other number. */
  exitOf(exitCode: number): ExitTaken {
    return exitOf(this.#native, exitCode);
  }

  /** The host's number for the exit that an exit code of the last run stands for. */
  exitTag(exitCode: number): number {
    const { executor, exit } = exitOf(this.#native, exitCode);
    if (this.#native.exitTag(executor, exit) !== 0) raise();
    return numbers[N.id] as number;
  }

  /**
   * Lets exit `exit` jump straight to an entry of another trace, or of the same; no code is written, and threads that
   * are executing follow at their next exit. Replaces an earlier link. ERR_ARENA_EXIT, _NOT_FROZEN, _STALE_EXECUTOR,
   * _TRACE_ABI, _CHAIN_DEPTH.
   */
  link(source: Executor, exit: number, target: Executor, options: { entry?: number } = {}): void {
    const from = idIn(this.#native, source);
    const to = idIn(this.#native, target);
    const entry = checkCount(options.entry ?? 0, maxSize, 'ERR_ARENA_BOUNDS', 'entry', { executor: to });
    if (this.#native.link(from, checkExit(from, exit), to, entry) !== 0) raise();
  }

  /** The exit goes to the exit stub again, as cold as a new one; nothing when it is not linked. */
  unlink(source: Executor, exit: number): void {
    const from = idIn(this.#native, source);
    if (this.#native.unlink(from, checkExit(from, exit)) !== 0) raise();
  }

  /** Unlinks every exit of the arena; loops of links that never leave do so at their next exit. */
  unlinkAll(): void {
    if (this.#native.unlinkAll() !== 0) raise();
  }

  /** Where an exit is linked to. */
  linkOf(source: Executor, exit: number): { executor: Executor; entry: number } | undefined {
    const from = idIn(this.#native, source);
    const linked = orRaise(this.#native.linkOf(from, checkExit(from, exit)));
    if (linked === undefined) return undefined;
    const { executor, entry } = linked as { executor: number; entry: number };
    return { executor: makeExecutor(this, this.#native, executor), entry };
  }

  /**
   * The longest way back along links to an executor that makes progress, or that nothing links to: 0 for such a one,
   * Infinity for a cycle in which none makes progress.
   */
  chainDepth(executor: Executor): number {
    if (this.#native.chainDepth(idIn(this.#native, executor)) !== 0) raise();
    return numbers[N.id] as number;
  }

  /**
   * Moves all links that lead to `old` to `replacement`, to the entries of the same numbers, or none; `old` stays
   * alive. ERR_ARENA_NOT_FROZEN, _STALE_EXECUTOR, _TRACE_ABI, _BOUNDS, _CHAIN_DEPTH.
   */
  replace(old: Executor, replacement: Executor): void {
    if (this.#native.replace(idIn(this.#native, old), idIn(this.#native, replacement)) !== 0) raise();
  }

  /**
   * Ends an executor whose assumptions no longer hold: its valid byte is cleared, links to it return to the exit stub,
   * it is never entered again, its id is stale, and its memory is used again when nothing can be inside it.
   * ERR_ARENA_STALE_EXECUTOR (also for a second time), _REFERENCED, _IMMORTAL.
   */
  invalidate(executor: Executor): void {
    if (this.#native.invalidate(idIn(this.#native, executor)) !== 0) raise();
    this.#listeners?.tell();
  }

  /**
   * Where hot exits jump instead of returning to the runner: an immovable trace of yours that finds the exit record in
   * the exit register (r11 on x86-64). It lives as long as the arena from then on. `undefined`: back to the runner.
   * ERR_ARENA_MOVABLE, _NOT_FROZEN, _TRACE_ABI.
   */
  setHotStub(executor: Executor | undefined): void {
    if (this.#native.setHotStub(executor === undefined ? 0 : idIn(this.#native, executor)) !== 0) raise();
  }

  /** Runs `fn` with this thread pinned: addresses taken inside stay valid until it returns. `fn` is synchronous. */
  pinned<T>(fn: () => T): T {
    let result: T | undefined;
    const call = () => {
      result = fn();
    };
    if (this.#native.pinned(call) !== 0) raise();
    if (typeof (result as { then?: unknown } | undefined)?.then === 'function') {
      throw new TypeError(
        'the function given to pinned() returned a promise, and the pin has ended: make it synchronous',
      );
    }
    return result as T;
  }

  /**
   * A pin that lasts until it is released: nothing that may be reached now is used for anything else before, and inside
   * `pinned` or a call, nothing that could be reached since that began. For what goes on beyond a call, such as a fiber
   * that is suspended inside the arena's code: one pin each. Pins need not nest. State does not move meanwhile, and with
   * the writer `flip` nothing is written.
   */
  pin(): Pin {
    if (this.#native.pin() !== 0) raise();
    return new Pin(this.#native, numbers[N.id] as number);
  }

  /** The executor with this id. ERR_ARENA_STALE_EXECUTOR when there is none. */
  executor(id: number): Executor {
    checkId(id, 'the id');
    orRaise(this.#native.describe(id));
    return makeExecutor(this, this.#native, id);
  }

  /** Every executor, writable and frozen. */
  executors(): Executor[] {
    const ids = orRaise(this.#native.executors());
    const executors: Executor[] = [];
    for (let i = 0; i < elementsOf(ids); i++) executors[i] = makeExecutor(this, this.#native, ids[i] as number);
    return executors;
  }

  /** Whose byte an address is; also of retired executors, while their memory waits. For crash handlers and debuggers. */
  find(address: bigint): FoundAddress | undefined {
    if (typeof address !== 'bigint') throw new TypeError('the address is not a bigint');
    return orRaise(this.#native.find(address)) as FoundAddress | undefined;
  }

  /** What `collect` would do now; moves nothing. */
  planCompaction(): CompactionPlan {
    return orRaise(this.#native.planCompaction()) as CompactionPlan;
  }

  /**
   * Moves executors out of the emptiest slabs where more pages are freed than needed, rewrites every reference to them
   * and gives empty pages back. Safe at any time, also inside a callback: code that is on the stack goes on in its old
   * copy. Invalidates addresses that were taken without a pin.
   */
  collect(options: CollectOptions = {}): CollectResult {
    const { compact = true, maxPauseMicros = 0, evictCold = false, order = 'memory' } = options;
    if (typeof evictCold !== 'boolean') throw new TypeError(`evictCold is ${String(evictCold)}, and not true or false`);
    if (typeof compact !== 'boolean') throw new TypeError(`compact is ${String(compact)}, and not true or false`);
    if (typeof maxPauseMicros !== 'number' || !(maxPauseMicros >= 0) || maxPauseMicros > 1e12) {
      throw new TypeError(`maxPauseMicros is ${String(maxPauseMicros)}, and not a number of microseconds`);
    }
    if (order !== 'memory' && order !== 'links') {
      throw new TypeError(`order is ${String(order)}, and not 'memory' or 'links'`);
    }
    const result = orRaise(this.#native.collect(compact, maxPauseMicros, evictCold, order === 'links'));
    this.#listeners?.tell();
    return result as CollectResult;
  }

  /**
   * Calls `listener` with the ids of executors to which something has happened, in batches: `move`, their code is
   * elsewhere; `evict`, they were cold and have ended; `free`, they have ended, also those. Behind the `collect`, `free`
   * or `invalidate` that did it, when that is called on this object, and then that call throws what a listener throws;
   * otherwise on this thread's loop, soon after another object or thread has done it. A listener may use the arena: a
   * moved executor may have ended meanwhile. Keeps no process alive, ends with `off` or `dispose`. While somebody
   * listens, these calls need memory for the ids: ERR_ARENA_NO_MEMORY, also of `free` and `invalidate`; nothing has
   * changed then. A `collect` that had moved or evicted something before says `done: false`.
   */
  on(event: ArenaEvent, listener: ArenaListener): this {
    this.#listeners ??= new Listeners(this.#native);
    this.#listeners.add(event, listener);
    return this;
  }

  /** Ends what `on` began; nothing when the listener is not there. */
  off(event: ArenaEvent, listener: ArenaListener): this {
    this.#listeners?.remove(event, listener);
    return this;
  }

  stats(): Stats {
    return orRaise(this.#native.stats()) as Stats;
  }

  /** Live bytes of each page of each slab, by address: the map that shows how well code is packed. */
  slabs(): SlabMap[] {
    return orRaise(this.#native.slabs()) as SlabMap[];
  }

  /** Compares every executor with what was frozen, and the arena's books with each other. Reads everything: slow. */
  verify(): Verification {
    return orRaise(this.#native.verify()) as Verification;
  }

  /**
   * Ends this use of the arena: this object's callbacks answer 0, and every function but `dispose` throws
   * ERR_ARENA_DISPOSED. The last one that ends gives the memory back. Silent when repeated. ERR_ARENA_BUSY inside a call
   * of its code, and before the pins of this object are released; calls in other threads go on.
   */
  dispose(): void {
    if (this.#native.dispose() !== 0) raise();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const checkExit = (source: number, exit: number) =>
  checkCount(exit, 0xffff, 'ERR_ARENA_EXIT', `the exit of executor ${source}`, { executor: source, index: exit });
