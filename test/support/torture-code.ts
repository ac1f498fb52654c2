// What the torture's threads execute. Everything in slot s computes a number that follows from s, whatever executor is
// in it at the moment, out of its code, its data and the executor it calls: a torn or reused byte shows at once. All of it
// counts in the state of one executor, which everybody shares, with locked increments.
import type { Arena, Executor, ExecutorSpec } from 'jit-arena';
import type { Random } from '../../dist/stress/program/random';
import { Code } from './assembler.js';

export const pairs = 60; // a function, and one that calls it
export const traces = 40;
export const slots = 2 * pairs + traces;
export const mostExits = 20;
/** Words of a context: see `trace`. The exits to take are word 1, as in the other tests. */
export const sumWord = 0;
export const countWord = 2;
export const firstSlotWord = 16;
export const contextWords = firstSlotWord + mostExits + 1;

export const numberOf = (slot: number): number =>
  slot >= pairs && slot < 2 * pairs ? numberOf(slot - pairs) + (slot % 100) : 1_000_003 * (slot + 1);

const int32 = (n: number) => [n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255];

/** Two counters: traces that ran, and functions. */
export const installCounters = (arena: Arena): Executor =>
  arena.install({ code: Uint8Array.of(0xcc), state: 16, evictable: false });

const counter = (counters: Executor, n: number) => ({ executor: counters, section: 'state', offset: 8 * n }) as const;

/** lock inc qword [rip + counter 1]; mov eax, part; add eax, [rip + data]; ret */
export function leaf(slot: number, counters: Executor, random: Random): ExecutorSpec {
  const part = random.below(1 << 30);
  const code = new Code()
    .nop(random.below(8))
    .lockedIncrement(counter(counters, 1))
    .move32('rax', part)
    .addFrom32('rax', { own: 'data' })
    .ret();
  return { ...code.spec({ data: Uint8Array.from(int32(numberOf(slot) - part)) }), exits: 0, name: `leaf ${slot}` };
}

/** push rbx; call callee; add eax, n; pop rbx; ret, with the call at any place in its 8 bytes */
export function caller(slot: number, callee: Executor, random: Random): ExecutorSpec {
  const code = new Code()
    .nop(random.below(8))
    .push('rbx')
    .call(callee)
    .add32('rax', slot % 100)
    .pop('rbx')
    .ret();
  return { ...code.spec(), exits: 0, name: `caller ${slot}` };
}

/** Adds its value to word 0 and its slot to the list, and takes exit 0 while there are exits to take. */
export function trace(slot: number, counters: Executor, random: Random): ExecutorSpec {
  const part = random.below(1 << 30);
  const padding = random.below(40);
  return new Code()
    .warm()
    .lockedIncrement(counter(counters, 0))
    .move32('rax', part)
    .addFrom32('rax', { own: 'data' })
    .put(0x48, 0x01, 0x07) // add [rdi], rax
    .nop(padding)
    .put(0x48, 0x8b, 0x4f, 8 * countWord) // mov rcx, [rdi + 8 * countWord]
    .put(0x48, 0xc7, 0x84, 0xcf, ...int32(8 * firstSlotWord), ...int32(slot)) // mov qword [rdi + 8 * rcx + …], slot
    .put(0x48, 0xff, 0x47, 8 * countWord) // inc qword [rdi + 8 * countWord]
    .exitWhileToTake(0)
    .done()
    .spec({ data: Uint8Array.from(int32(numberOf(slot) - part)), name: `trace ${slot}` });
}

/** A thread's calls and runs through the table of what is in each slot, checked one by one. */
export class Caller {
  functions = 0;
  traces = 0;
  exits = 0;
  stale = 0;
  readonly #arena: Arena;
  readonly #table: BigInt64Array;
  readonly #context = new BigInt64Array(contextWords);
  readonly #run: (executor: Executor) => number;
  /** Of each slot, what was there when this thread last looked. */
  readonly #known: { id: bigint; executor: Executor; call: (() => number) | undefined }[] = [];

  constructor(arena: Arena, table: BigInt64Array) {
    this.#arena = arena;
    this.#table = table;
    this.#run = arena.runner(this.#context);
  }

  /** Calls or runs what is in the slot; false when it was freed in between. */
  enter(slot: number, exits: number): boolean {
    try {
      const id = Atomics.load(this.#table, slot);
      if (this.#known[slot]?.id !== id) {
        const executor = this.#arena.executor(Number(id));
        const call = slot < 2 * pairs ? executor.func({ args: [], returns: 'i32' }) : undefined;
        this.#known[slot] = { id, executor, call };
      }
      const { executor, call } = this.#known[slot] as { executor: Executor; call: (() => number) | undefined };
      if (call === undefined) this.#runTrace(slot, executor, exits);
      else {
        const result = call();
        if (result !== numberOf(slot)) throw new Error(`slot ${slot} returned ${result}, and not ${numberOf(slot)}`);
        this.functions++;
      }
      return true;
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_ARENA_STALE_EXECUTOR') throw error;
      this.stale++;
      return false;
    }
  }

  #runTrace(slot: number, executor: Executor, exits: number): void {
    const context = this.#context;
    context.fill(0n);
    context[1] = BigInt(exits);
    const token = this.#run(executor);
    const count = Number(context[countWord]);
    let sum = 0;
    for (let i = 0; i < count; i++) sum += numberOf(Number(context[firstSlotWord + i]));
    const left = Number(context[1]);
    const wrong =
      (count < 1 && 'no trace ran') ||
      (Number(context[firstSlotWord]) !== slot && `the first that ran was slot ${context[firstSlotWord]}`) ||
      (BigInt(sum) !== context[sumWord] && `the sum is ${context[sumWord]}, and not ${sum}`) ||
      (exits - left !== count - (token === 0 ? 1 : 0) && `${count} traces took ${exits - left} exits`) ||
      (token === 0 && left !== 0 && `it was done with ${left} exits to take`) ||
      (token !== 0 && this.#arena.exitOf(token).exit !== 0 && `it left through exit ${this.#arena.exitOf(token).exit}`);
    if (wrong) throw new Error(`the run of slot ${slot}: ${wrong}`);
    this.traces += count;
    if (token !== 0) this.exits++;
  }

  get result() {
    const { functions, traces, exits, stale } = this;
    return { functions, traces, exits, stale };
  }
}
