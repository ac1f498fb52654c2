// The model of an arena: a plain Map of what every executor should be, and the check that compares it with the arena.
import assert from 'node:assert/strict';
import { type Arena, ArenaError, type Callback, type Executor, type Reloc, type Section, type Stats } from 'jit-arena';
import type { Random } from '../../dist/stress/program/random';
import {
  callbackResult,
  type Execution,
  makeProgram,
  type Program,
  type ProgramReloc,
  type Surroundings,
  secondEntryResult,
} from './model-program.js';
import { callAt, peekBytes } from './peek.js';
import { fields, Places } from './psabi.js';

const sections: readonly Section[] = ['code', 'data', 'state'];
const signature = { args: ['u64'], returns: 'u64' } as const;
type Call = (argument: bigint) => bigint;

/** How deep calls from executor to executor go; each may call two. */
const maxDepth = 3;
/** Stale ids that are tried after every step. */
const maxStale = 24;

export class ModelExecutor {
  life: 'planned' | 'writable' | 'frozen' | 'freed' = 'planned';
  handle!: Executor;
  program!: Program<ModelExecutor>;
  /** As staged or frozen, before relocs; state as it is now. */
  bytes!: Record<Section, Uint8Array>;
  relocs: ProgramReloc<ModelExecutor>[] = [];
  /** What a writable executor still lacks to be its program. */
  missingBytes: { section: Section; offset: number; bytes: Uint8Array }[] = [];
  missingRelocs: ProgramReloc<ModelExecutor>[] = [];
  callable = false;
  depth = 0;
  call: Call | undefined;
  secondEntry: Call | undefined;
  stateBase: bigint | undefined;
  aligns = { code: 16, data: 8, state: 16 };

  constructor(readonly name: string) {}

  /** Gives it a program, with everything in place. */
  complete(surroundings: Surroundings<ModelExecutor>): void {
    this.program = makeProgram(surroundings);
    const { code, data, state } = this.program.bytes;
    this.bytes = { code, data, state: state.slice() };
    this.relocs = this.program.relocs;
    this.depth = 1 + Math.max(0, ...this.program.calls.map(({ depth }) => depth));
  }

  get id(): number {
    return this.handle.id;
  }

  get liveBytes(): number {
    return this.bytes.code.length + this.bytes.data.length + this.bytes.state.length;
  }

  /** The other executors that its relocs name. */
  *targets(): Generator<ModelExecutor> {
    for (const { target } of this.relocs) if ('executor' in target && target.executor !== this) yield target.executor;
  }

  plainWords(section: 'data' | 'state'): readonly number[] {
    return (this.program as Program<ModelExecutor> | undefined)?.plainWords[section] ?? [];
  }

  execute(argument: bigint): Execution {
    return this.program.execute(this, argument);
  }

  callsBack(): boolean {
    return this.program.callsBack || this.program.calls.some((callee) => callee.callsBack());
  }
}

export function publicReloc({ target, ...reloc }: ProgramReloc<ModelExecutor>): Reloc {
  if (!('executor' in target)) return { ...reloc, target };
  const { executor, section, offset } = target;
  const { handle } = executor;
  return { ...reloc, target: section === undefined ? handle : { executor: handle, section, offset: offset ?? 0 } };
}

/** A call under way: the model runs beside the machine, and both meet in every callback. */
interface CallUnderWay {
  execution: Execution;
  /** Done inside its first callback. */
  inside: (() => void) | undefined;
  next: IteratorResult<bigint, bigint>;
}

/** What `stats` says that must not change when an operation fails. */
const unchanged = ({ executors, liveBytes, spanBytes, keptRelocs, farSlots, moves }: Stats) => ({
  executors,
  liveBytes,
  spanBytes,
  keptRelocs,
  farSlots,
  moves,
});

export class Model {
  readonly executors = new Map<number, ModelExecutor>();
  readonly everUsed = new Set<number>();
  readonly callback: Callback;
  readonly figures = { steps: 0, calls: 0, refused: 0, relocsChecked: 0 };
  stale: ModelExecutor[] = [];
  pins = 0;
  private readonly callsUnderWay: CallUnderWay[] = [];
  private made = 0;
  private readonly farthestAddend: number;

  constructor(
    readonly arena: Arena,
    // Off the end of the instruction, which lies up to 8 bytes behind the field.
    { farthestAddend = Math.max(0, 2 ** 31 - arena.stats().reservedBytes - 8) } = {},
  ) {
    this.farthestAddend = farthestAddend;
    this.callback = arena.callback(signature, (argument) => this.calledBack(argument));
  }

  get all(): ModelExecutor[] {
    return [...this.executors.values()];
  }

  inLife(life: ModelExecutor['life']): ModelExecutor[] {
    return this.all.filter((executor) => executor.life === life);
  }

  get callable(): ModelExecutor[] {
    return this.all.filter((executor) => executor.callable);
  }

  /** Frozen executors whose relocs name this one. */
  sourcesOf(target: ModelExecutor): ModelExecutor[] {
    return this.inLife('frozen').filter((source) => [...source.targets()].includes(target));
  }

  // ---- What happens to executors

  /** New executors; where `mates`, they refer to each other and themselves, and later ones call earlier ones. */
  plan(random: Random, count: number, { mates, withState }: { mates: boolean; withState: boolean }): ModelExecutor[] {
    const planned = Array.from({ length: count }, () => new ModelExecutor(`m${this.made++}`));
    const { callable } = this;
    const others = mates ? [...this.executors.values(), ...planned] : this.inLife('frozen');
    for (const [i, executor] of planned.entries()) {
      const callees = mates ? [...callable, ...planned.slice(0, i)] : callable;
      executor.complete({
        random,
        callees: callees.filter(({ depth }) => depth < maxDepth),
        others,
        callback: this.callback.address,
        withState,
        farthestAddend: this.farthestAddend,
      });
    }
    return planned;
  }

  /** It exists from now on. */
  add(executor: ModelExecutor, handle: Executor): void {
    assert.ok(!this.everUsed.has(handle.id), `id ${handle.id} is given out a second time`);
    this.everUsed.add(handle.id);
    executor.handle = handle;
    executor.life = 'writable';
    this.executors.set(handle.id, executor);
  }

  /** The arena has frozen these, callees before callers. */
  froze(batch: readonly ModelExecutor[]): void {
    for (const executor of batch) {
      executor.life = 'frozen';
      executor.stateBase = undefined;
    }
    const places = new Places(this.arena, [this.callback.address]);
    for (const executor of [...batch].sort((a, b) => a.depth - b.depth)) {
      const { program, missingBytes, missingRelocs } = executor;
      executor.callable =
        missingBytes.length === 0 &&
        missingRelocs.length === 0 &&
        program.calls.every(({ life, callable }) => life === 'frozen' && callable);
      if (executor.callable) {
        executor.call = executor.handle.func(signature);
        if (program.entries) executor.secondEntry = executor.handle.func(signature, { entry: 1 });
      }
      // Nothing that state refers to moves, so its relocs are applied once, to bytes that change from now on.
      if (executor.bytes.state.length === 0) continue;
      executor.stateBase = places.of(executor).bases.state;
      executor.bytes.state = places.relocated(executor, 'state').bytes;
    }
  }

  freed(batch: readonly ModelExecutor[]): void {
    for (const executor of batch) {
      this.executors.delete(executor.id);
      executor.life = 'freed';
      executor.callable = false;
      this.stale.push(executor);
    }
    this.stale = this.stale.slice(-maxStale);
  }

  // ---- Calls

  /**
   * Calls an executor, and compares its result and the argument of each callback with the model's. `inside` is done in
   * the first callback; when it throws, machine code must run on and the call must throw that.
   */
  call(executor: ModelExecutor, argument: bigint, inside?: () => void, call: Call = executor.call!): void {
    this.figures.calls++;
    const execution = executor.execute(argument);
    const underWay: CallUnderWay = { execution, inside, next: execution.next() };
    this.callsUnderWay.push(underWay);
    this.pins++;
    try {
      const result = call(argument);
      assert.ok(underWay.next.done, 'a callback was not called');
      assert.equal(result, underWay.next.value, `the result of ${executor.name}(${argument})`);
    } catch (error) {
      // The machine went on with callbacks that return 0.
      while (!underWay.next.done) underWay.next = execution.next(0n);
      throw error;
    } finally {
      this.pins--;
      assert.equal(this.callsUnderWay.pop(), underWay);
    }
  }

  callSecondEntry(executor: ModelExecutor, argument: bigint): void {
    this.figures.calls++;
    assert.equal(executor.secondEntry!(argument), secondEntryResult(argument), `entry 1 of ${executor.name}`);
  }

  private calledBack(argument: bigint): bigint {
    const underWay = this.callsUnderWay.at(-1)!;
    assert.ok(!underWay.next.done, 'a callback too many');
    assert.equal(argument, underWay.next.value, "a callback's argument");
    const { inside } = underWay;
    underWay.inside = undefined;
    inside?.();
    underWay.next = underWay.execution.next(callbackResult(argument));
    return callbackResult(argument);
  }

  /** Addresses taken under a pin hold the same code, and the same function, until the pin ends. */
  pinned(inside: () => void): void {
    this.arena.pinned(() => {
      this.pins++;
      try {
        const taken = this.inLife('frozen').map((executor) => {
          const { callable, handle } = executor;
          return { executor, address: handle.address, code: handle.read('code'), callable };
        });
        inside();
        for (const { executor, address, code, callable } of taken) {
          const now = peekBytes(address, code.length);
          // Before it moved, if it did, references to others were rewritten where they stood.
          for (const { section, offset, kind, target } of executor.relocs) {
            if (section !== 'code' || !('executor' in target)) continue;
            code.set(now.subarray(offset, offset + fields[kind].bytes), offset);
          }
          assertSame(now, code, `${executor.name}, at its address under the pin`);
          if (!callable) continue;
          const old = (argument: bigint) => callAt(argument, address);
          this.call(executor, 0x1234_5678_9abc_def0n ^ address, undefined, old);
        }
      } finally {
        this.pins--;
      }
    });
  }

  // ---- What is refused

  /** The operation fails with the code, names the executor, and changes nothing. */
  refuses(code: string, operation: () => unknown, executor?: ModelExecutor): void {
    this.figures.refused++;
    const before = unchanged(this.arena.stats());
    assert.throws(operation, (error) => {
      assert.ok(error instanceof ArenaError, `${code} expected, not ${error}`);
      assert.equal(error.code, code, error.message);
      if (executor !== undefined) assert.equal(error.executor, executor.id, `executor in: ${error.message}`);
      return true;
    });
    assert.deepEqual(unchanged(this.arena.stats()), before, `a refused operation (${code}) changed the figures`);
  }

  // ---- What must hold after every step

  check(): void {
    const { arena } = this;
    this.figures.steps++;
    const { ok, problems, broken } = arena.verify();
    assert.ok(ok, `verify(): ${broken ?? problems[0]?.what}`);
    const ids = arena.executors().map(({ id }) => id);
    const byNumber = (a: number, b: number) => a - b;
    assert.deepEqual(ids.sort(byNumber), [...this.executors.keys()].sort(byNumber), 'executors()');

    const places = new Places(arena, [this.callback.address]);
    const slots = new Set<bigint>();
    let liveBytes = 0;
    for (const executor of this.executors.values()) {
      if (executor.life === 'writable') this.checkWritable(executor);
      else {
        this.checkFrozen(executor, places, slots);
        liveBytes += executor.liveBytes;
      }
    }
    this.checkStale();

    const stats = arena.stats();
    assert.equal(stats.executors, this.executors.size, 'stats().executors');
    assert.equal(stats.liveBytes, liveBytes, 'stats().liveBytes');
    assert.equal(stats.farSlots, slots.size, 'stats().farSlots');
    assert.ok(stats.spanBytes >= liveBytes && stats.committedBytes >= liveBytes, 'memory for what is live');
  }

  private checkWritable(executor: ModelExecutor): void {
    const { handle, bytes, name } = executor;
    assert.equal(handle.state, 'writable', name);
    for (const section of sections) assertSame(handle.read(section), bytes[section], `${name}, staged ${section}`);
  }

  private checkFrozen(executor: ModelExecutor, places: Places, slots: Set<bigint>): void {
    const { handle, bytes, name, id, stateBase } = executor;
    const image = places.of(executor);
    assert.equal(this.arena.executor(id).state, 'frozen', name);
    for (const section of ['code', 'data'] as const) {
      const { bytes: expected, slots: used, count } = places.relocated(executor, section);
      assertSame(image.bytes[section], expected, `${name}, ${section}`);
      for (const slot of used) slots.add(slot);
      this.figures.relocsChecked += count;
    }
    assertSame(handle.read('state'), bytes.state, `${name}, state`);
    assert.equal(image.bases.state, stateBase, `the state of ${name} has moved`);
    for (const section of sections) {
      const base = image.bases[section];
      if (base === undefined) continue;
      assert.equal(base % BigInt(executor.aligns[section]), 0n, `the alignment of ${name}`);
      for (const offset of new Set([0, bytes[section].length - 1])) {
        const found = this.arena.find(base + BigInt(offset));
        assert.deepEqual(found, { executor: id, section, offset, retired: false }, `find() in ${section} of ${name}`);
      }
    }
  }

  private checkStale(): void {
    for (const { handle, name } of this.stale) {
      assert.equal(handle.state, 'retired', `${name} has been freed`);
      assertStale(() => this.arena.executor(handle.id), name);
      assertStale(() => handle.read('code'), name);
    }
    const called = this.stale.at(-1);
    if (called?.call) assertStale(() => called.call?.(1n), called.name);
  }
}

function assertStale(operation: () => unknown, name: string): void {
  assert.throws(operation, { code: 'ERR_ARENA_STALE_EXECUTOR' }, `${name} has been freed`);
}

/** As deepEqual, but quick, and short in what it says. */
function assertSame(found: Uint8Array, expected: Uint8Array, what: string): void {
  if (Buffer.compare(found, expected) === 0) return;
  const at = found.findIndex((byte, i) => byte !== expected[i]);
  const hex = (bytes: Uint8Array) => Buffer.from(bytes.subarray(at, at + 8)).toString('hex');
  assert.fail(`${what}: at byte ${at} of ${expected.length} ${hex(found)} and not ${hex(expected)}`);
}
