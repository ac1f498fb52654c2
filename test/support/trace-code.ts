// Traces that most tests run, and how they are run. `Code` says what they find in their context.
import type { Arena, Executor, ExecutorSpec, ExitTaken, RelocTarget } from 'jit-arena';
import { Code } from './assembler.js';

export const trail = 0;
export const exitsToTake = 1;

/** Sets its warm byte, leaves its digit in the trail, takes exit 0 while there are exits to take, and is done. */
export const step = (digit: number, more: Partial<ExecutorSpec> = {}): ExecutorSpec =>
  new Code().warm().mark(digit).exitWhileToTake(0).done().spec(more);

/** How a trace can call its host: at once, or with frames of C in between. */
export type Call = 'callKeepingContext' | 'callThroughC';

/**
 * The same, with a call of the host in the middle, behind which it leaves the digit again, out of its data, and counts
 * the call in its state.
 */
export const stepThatCalls = (
  digit: number,
  host: RelocTarget,
  call: Call = 'callKeepingContext',
  more: Partial<ExecutorSpec> = {},
): ExecutorSpec =>
  new Code()
    .warm()
    .mark(digit)
    [call](host)
    .put(0x48, 0x6b, 0x07, 10) // imul rax, [rdi], 10
    .add('rax', { own: 'data' })
    .put(0x48, 0x89, 0x07, 0x48, 0xff, 0x05) // mov [rdi], rax; inc qword [rip + state]
    .refer({ own: 'state' })
    .exitWhileToTake(0)
    .done()
    .spec({ data: Uint8Array.of(digit, 0, 0, 0, 0, 0, 0, 0), state: 8, ...more });

export interface Ran {
  /** The digits of the traces that ran, in order. */
  trail: number;
  /** The exit that was taken; undefined when the last trace was done. */
  exit: ExitTaken | undefined;
}

/** Runs traces of an arena with a context of their own. */
export class Runs {
  readonly context = new BigInt64Array(8);
  readonly #arena: Arena;
  readonly #run: (executor: Executor, entry?: number) => number;

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#run = arena.runner(this.context);
  }

  /** Runs from a trace on; at most `exits` exits are taken. */
  from(executor: Executor, exits: number, entry?: number): Ran {
    this.context[trail] = 0n;
    this.context[exitsToTake] = BigInt(exits);
    const token = this.#run(executor, entry);
    return { trail: Number(this.context[trail]), exit: token === 0 ? undefined : this.#arena.exitOf(token) };
  }
}

/** Fills all that is free with traps, in code, data and state, until nothing more fits. Returns the executors' ids. */
export function fillWithTraps(arena: Arena): number[] {
  const ids: number[] = [];
  for (const bytes of [4096, 256, 16]) {
    const traps = new Uint8Array(bytes).fill(0xcc);
    for (;;) {
      try {
        ids.push(arena.install({ code: traps, data: traps, state: traps }).id);
      } catch (error) {
        if ((error as { code?: string }).code === 'ERR_ARENA_FULL') break;
        throw error;
      }
    }
  }
  return ids;
}
