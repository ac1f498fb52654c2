import { checkBytes, checkCount } from './bytes';
import { makeCallback } from './calls';
import { ArenaError, type Section } from './errors';
import { Executor } from './executor';
import { addon, N, type NativeArena, numbers, orRaise, raise, type WriterName } from './native';
import { beginRelocs, encodeRelocs, putReloc, type Reloc, TargetKind } from './relocs';
import type {
  CollectOptions,
  CollectResult,
  CompactionPlan,
  ExecutorBatch,
  ExecutorSpec,
  FoundAddress,
  SlabMap,
  Stats,
  Verification,
} from './types';
import type { CallbackFunction, Signature } from './values';

/** How an arena is made. */
export interface ArenaOptions {
  /**
   * Bytes of address space to reserve: the most that the arena can ever hold, up to `machine.maxArenaBytes`. Memory is
   * taken only as it is used. 64 MiB unless given; where the system refuses so much (`ulimit -v`, containers), less.
   */
  maxBytes?: number;
  /** How bytes reach code (docs/writers.md). `auto`, the default, takes the first that `probe()` finds working. */
  writer?: 'auto' | WriterName;
  /**
   * `together`, the default: data lies behind its code, so that a move keeps their distance. `apart`: in read-only,
   * non-executable slabs of its own.
   */
  layout?: 'together' | 'apart';
  /**
   * Retired bytes at which `collect` stops moving and `freeze` throws ERR_ARENA_RETIRED_LIMIT; a quarter of maxBytes
   * unless given.
   */
  maxRetiredBytes?: number;
  /** Keep every reloc, so that `verify` can name a wrong field; for debugging. */
  fullRecords?: boolean;
  name?: string;
}

/** A JavaScript function at an address that machine code can call; a target for relocs. */
export interface Callback {
  readonly address: bigint;
  /** Lets the function go. Its address stays valid for machine code and returns 0 from then on. */
  dispose(): void;
  [Symbol.dispose](): void;
}

const writers = ['alias', 'procmem', 'flip'] as const;
const maxSize = 2 ** 32 - 1;

/**
 * One reserved address range and everything in it: executors packed into shared pages, none of them writable and
 * executable, and a collector that moves live ones to keep them packed.
 *
 * Belongs to the thread that made it. Dispose of it explicitly: garbage collection frees no machine code, since its
 * addresses may be in use where the collector cannot look.
 */
export class Arena {
  /** The writer in use. */
  readonly writer: WriterName;
  readonly name: string;
  readonly #native: NativeArena;

  /** ERR_ARENA_NO_EXEC, _NO_MEMORY, _WRITER_UNAVAILABLE, _SIZE. */
  constructor(options: ArenaOptions = {}) {
    const { maxBytes = 64 * 2 ** 20, writer = 'auto', layout = 'together', maxRetiredBytes = 0, name = '' } = options;
    if (writer !== 'auto' && !writers.includes(writer)) {
      throw new TypeError(`the writer is ${String(writer)}, and not 'auto', 'alias', 'procmem' or 'flip'`);
    }
    if (layout !== 'together' && layout !== 'apart') {
      throw new TypeError(`the layout is ${String(layout)}, and not 'together' or 'apart'`);
    }
    checkCount(maxBytes, addon.machine.maxArenaBytes, 'ERR_ARENA_SIZE', 'maxBytes');
    checkCount(maxRetiredBytes, addon.machine.maxArenaBytes, 'ERR_ARENA_SIZE', 'maxRetiredBytes');
    this.#native = orRaise(
      addon.createArena({
        maxBytes,
        writer: writer === 'auto' ? -1 : writers.indexOf(writer),
        apart: layout === 'apart',
        maxRetiredBytes,
        fullRecords: options.fullRecords === true,
        name: String(name),
      }),
    ) as NativeArena;
    this.writer = this.#native.writer;
    this.name = String(name);
  }

  /**
   * A new writable executor with the spec's bytes staged in ordinary memory. It has no address until it is frozen.
   * ERR_ARENA_SIZE, _ALIGNMENT, _BOUNDS, _RELOC_….
   */
  allocate(spec: ExecutorSpec): Executor {
    const [code, data, state] = this.#encodeSpec(spec);
    if (this.#native.allocate(code, data, state, spec.name, entriesOf(spec)) !== 0) raise();
    return new Executor(this, this.#native, numbers[N.id] as number);
  }

  /**
   * Makes writable executors executable and immutable. Every reloc of all of them is checked first; then all are
   * published, or none is. Never collects: ERR_ARENA_FULL when there is no room. ERR_ARENA_RELOC_…, _NOT_WRITABLE,
   * _STALE_EXECUTOR, _DUPLICATE_EXECUTOR, _RETIRED_LIMIT.
   */
  freeze(executors: Executor | readonly (Executor | number)[] | Float64Array): void {
    if (this.#native.freeze(this.#idsOf(executors)) !== 0) raise();
  }

  /** `allocate` and `freeze` in one step and with one copy; a list is frozen all or none, in order. */
  install(spec: ExecutorSpec): Executor;
  install(specs: readonly ExecutorSpec[]): Executor[];
  install(spec: ExecutorSpec | readonly ExecutorSpec[]): Executor | Executor[] {
    if (Array.isArray(spec)) return this.#installList(spec);
    const [code, data, state] = this.#encodeSpec(spec as ExecutorSpec);
    const { name } = spec as ExecutorSpec;
    if (this.#native.install(code, data, state, name, entriesOf(spec as ExecutorSpec)) !== 0) raise();
    return new Executor(this, this.#native, numbers[N.id] as number);
  }

  #installList(specs: readonly ExecutorSpec[]): Executor[] {
    const allocated: Executor[] = [];
    try {
      for (const spec of specs) allocated.push(this.allocate(spec));
      this.freeze(allocated);
    } catch (error) {
      this.free(allocated);
      throw error;
    }
    return allocated;
  }

  /** `install` for many executors over typed arrays; returns their ids. All or none. */
  installBatch(batch: ExecutorBatch): Float64Array {
    const code = checkBytes(batch.code, 'code');
    const data = batch.data === undefined ? new Uint8Array(0) : checkBytes(batch.data, 'data');
    const codeOffsets = checkOffsets(batch.codeOffsets, code.length, 'codeOffsets');
    const count = codeOffsets.length - 1;
    const dataOffsets =
      batch.dataOffsets === undefined
        ? new Float64Array(count + 1)
        : checkOffsets(batch.dataOffsets, data.length, 'dataOffsets');
    if (dataOffsets.length !== count + 1) {
      throw new TypeError(`dataOffsets has ${dataOffsets.length} entries, and codeOffsets ${count + 1}`);
    }
    const relocsOfEach = encodeBatchRelocs(batch.relocs, count);
    const ids = new Float64Array(count);
    if (this.#native.installBatch(code, codeOffsets, data, dataOffsets, relocsOfEach, ids) !== 0) raise();
    return ids;
  }

  /**
   * Ends executors, all or none. Their ids are stale at once; their memory is used again when no thread can be
   * executing it. A target of another executor's reloc is freed only together with it: ERR_ARENA_REFERENCED.
   * ERR_ARENA_STALE_EXECUTOR (also for a second free), _FOREIGN_EXECUTOR, _DUPLICATE_EXECUTOR.
   */
  free(executors: Executor | readonly (Executor | number)[] | Float64Array): void {
    if (executors instanceof Executor) {
      this.#checkOwn(executors);
      numbers[N.id] = executors.id;
      if (this.#native.freeOne() !== 0) raise();
    } else if (this.#native.free(this.#idsOf(executors)) !== 0) raise();
  }

  /**
   * A JavaScript function as an address that machine code can call, on this thread, with the C calling convention.
   *
   * What it throws never unwinds machine code: the callback returns 0, later callbacks of the same call return 0 at
   * once, and the call that entered the machine code throws it.
   */
  callback<const S extends Signature>(signature: S, fn: CallbackFunction<S>): Callback {
    const native = this.#native;
    const address = orRaise(native.addCallback(makeCallback(signature, fn)));
    const dispose = () => native.disposeCallback(address);
    return { address, dispose, [Symbol.dispose]: dispose };
  }

  /** Runs `fn` with this thread pinned: addresses taken inside stay valid until it returns. `fn` is synchronous. */
  pinned<T>(fn: () => T): T {
    if (this.#native.pin() !== 0) raise();
    let result: T;
    try {
      result = fn();
    } finally {
      this.#native.unpin();
    }
    if (typeof (result as { then?: unknown } | undefined)?.then === 'function') {
      throw new TypeError(
        'the function given to pinned() returned a promise, and the pin has ended: make it synchronous',
      );
    }
    return result;
  }

  /** The executor with this id. ERR_ARENA_STALE_EXECUTOR when there is none. */
  executor(id: number): Executor {
    const executor = new Executor(this, this.#native, checkId(id));
    orRaise(this.#native.describe(id));
    return executor;
  }

  /** Every executor, writable and frozen. */
  executors(): Executor[] {
    const ids = orRaise(this.#native.executors());
    return Array.from(ids, (id) => new Executor(this, this.#native, id));
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
    const { compact = true, maxPauseMicros = 0 } = options;
    if (typeof maxPauseMicros !== 'number' || !(maxPauseMicros >= 0) || maxPauseMicros > 1e12) {
      throw new TypeError(`maxPauseMicros is ${String(maxPauseMicros)}, and not a number of microseconds`);
    }
    return orRaise(this.#native.collect(compact === true, maxPauseMicros)) as CollectResult;
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

  /** Ends the arena and gives its memory back; silent when repeated. ERR_ARENA_BUSY inside a call of its code. */
  dispose(): void {
    if (this.#native.dispose() !== 0) raise();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  // Puts sizes, alignments and relocs where native code looks, and returns the bytes of the sections.
  #encodeSpec(spec: ExecutorSpec): (Uint8Array | undefined)[] {
    if (typeof spec !== 'object' || spec === null) throw new TypeError('the spec is not an object');
    if (spec.name !== undefined && typeof spec.name !== 'string') throw new TypeError('name is not a string');
    encodeRelocs(spec.relocs, this);
    numbers[N.movable] = spec.movable === false ? 0 : 1;
    numbers[N.aligns] = checkCount(spec.align ?? 16, maxSize, 'ERR_ARENA_ALIGNMENT', 'align');
    numbers[N.aligns + 1] = checkCount(spec.dataAlign ?? 8, maxSize, 'ERR_ARENA_ALIGNMENT', 'dataAlign');
    numbers[N.aligns + 2] = checkCount(spec.stateAlign ?? 16, maxSize, 'ERR_ARENA_ALIGNMENT', 'stateAlign');
    if (spec.code === undefined) throw new TypeError('code is missing: a Uint8Array, or a size in bytes');
    return [encodeSection(0, spec.code), encodeSection(1, spec.data), encodeSection(2, spec.state)];
  }

  #checkOwn(executor: Executor, index?: number): void {
    if (executor.arena === this) return;
    throw new ArenaError('ERR_ARENA_FOREIGN_EXECUTOR', `executor ${executor.id} belongs to another arena`, {
      executor: executor.id,
      ...(index !== undefined && { index }),
    });
  }

  #idsOf(executors: Executor | readonly (Executor | number)[] | Float64Array): Float64Array {
    if (executors instanceof Float64Array) return executors;
    if (executors instanceof Executor) {
      this.#checkOwn(executors);
      return Float64Array.of(executors.id);
    }
    if (!Array.isArray(executors))
      throw new TypeError('expected an Executor, an array of them, or a Float64Array of ids');
    const ids = new Float64Array(executors.length);
    for (let i = 0; i < executors.length; i++) {
      const executor = executors[i] as Executor | number;
      if (executor instanceof Executor) this.#checkOwn(executor, i);
      else if (typeof executor !== 'number')
        throw new TypeError(`item ${i} of the list is neither an Executor nor an id`);
      ids[i] = executor instanceof Executor ? executor.id : executor;
    }
    return ids;
  }
}

const sectionNames: readonly Section[] = ['code', 'data', 'state'];

function encodeSection(section: number, given: Uint8Array | number | undefined): Uint8Array | undefined {
  const name = sectionNames[section] as Section;
  if (given === undefined || typeof given === 'number') {
    numbers[N.sizes + section] = checkCount(given ?? 0, maxSize, 'ERR_ARENA_SIZE', `the size of ${name}`, {
      section: name,
    });
    return undefined;
  }
  const bytes = checkBytes(given, name, { section: name });
  numbers[N.sizes + section] = checkCount(bytes.length, maxSize, 'ERR_ARENA_SIZE', `the size of ${name}`);
  return bytes;
}

function entriesOf(spec: ExecutorSpec): Uint32Array | undefined {
  if (spec.entries === undefined) return undefined;
  return Uint32Array.from(spec.entries, (offset, index) =>
    checkCount(offset, maxSize, 'ERR_ARENA_BOUNDS', `entry ${index}`, { section: 'code', index }),
  );
}

function checkId(id: unknown): number {
  if (typeof id !== 'number') throw new TypeError('the id is not a number');
  if (!Number.isSafeInteger(id) || id < 0) {
    throw new ArenaError('ERR_ARENA_STALE_EXECUTOR', `${id} is not an executor's id`);
  }
  return id;
}

/** Offsets that ascend from 0 or more to at most `end`; one more than there are executors. */
function checkOffsets(offsets: ArrayLike<number>, end: number, what: string): Float64Array {
  if (typeof offsets !== 'object' || offsets === null || typeof offsets.length !== 'number' || offsets.length === 0) {
    throw new TypeError(`${what} is not an array of offsets, with one more at the end`);
  }
  const checked = Float64Array.from(offsets);
  let before = 0;
  checked.forEach((offset, index) => {
    if (!Number.isInteger(offset) || offset < before || offset > end) {
      const message = `${what}[${index}] is ${offset}, and not a whole number from ${before} to ${end}`;
      throw new ArenaError('ERR_ARENA_SIZE', message, { index });
    }
    before = offset;
  });
  return checked;
}

/** Encodes a batch's relocs, which are sorted by executor, and returns how many each executor has. */
function encodeBatchRelocs(relocs: ExecutorBatch['relocs'], count: number): Float64Array {
  const ofEach = new Float64Array(count);
  const total = relocs?.executor.length ?? 0;
  beginRelocs(total);
  if (relocs === undefined) return ofEach;
  for (const [name, column] of Object.entries(relocs) as [string, ArrayLike<unknown> | undefined][]) {
    if (column !== undefined && column.length !== total) {
      throw new TypeError(`relocs.${name} has ${column.length} entries, and relocs.executor ${total}`);
    }
  }
  let before = 0;
  for (let i = 0; i < total; i++) {
    const executor = relocs.executor[i] as number;
    const details = { offset: relocs.offset[i] as number, index: i };
    if (!Number.isInteger(executor) || executor < before || executor >= count) {
      const message = `relocs.executor[${i}] is ${executor}, and not a position from ${before} to ${count - 1}: relocs are sorted by executor`;
      throw new ArenaError('ERR_ARENA_BOUNDS', message, details);
    }
    before = executor;
    ofEach[executor] = (ofEach[executor] as number) + 1;
    const section = checkCount(relocs.section?.[i] ?? 0, 2, 'ERR_ARENA_BOUNDS', `relocs.section[${i}]`, details);
    const offset = checkCount(relocs.offset[i], maxSize, 'ERR_ARENA_RELOC_BOUNDS', `relocs.offset[${i}]`, details);
    const kind = checkCount(relocs.kind[i], 255, 'ERR_ARENA_RELOC_KIND', `relocs.kind[${i}]`, details);
    const targetKind = checkCount(
      relocs.targetKind[i],
      TargetKind.batchMember,
      'ERR_ARENA_RELOC_TARGET',
      `relocs.targetKind[${i}]`,
      details,
    );
    const target =
      targetKind === TargetKind.address
        ? (relocs.address?.[i] ?? 0n)
        : checkCount(
            relocs.target?.[i] ?? 0,
            Number.MAX_SAFE_INTEGER,
            'ERR_ARENA_RELOC_TARGET',
            `relocs.target[${i}]`,
            details,
          );
    const addend = relocs.addend?.[i] ?? 0;
    if (!Number.isSafeInteger(addend)) throw new TypeError(`relocs.addend[${i}] is not a whole number`);
    putReloc(i, section, offset, kind, targetKind, target, addend);
  }
  return ofEach;
}
