// Machine code of traces for x86-64, put together piece by piece, with its assembly beside it.
//
// The convention of these tests: rdi is the context's address at entry, at every exit and at every link. In the context,
// word 0 is the trail of the traces that ran (one decimal digit each), word 1 counts down the exits to take.
import {
  type Arena,
  type Executor,
  type ExecutorSpec,
  type ExitTaken,
  type Reloc,
  type RelocKind,
  type RelocTarget,
  symbolAddress,
} from 'jit-arena';

export const trail = 0;
export const exitsToTake = 1;

export class TraceCode {
  readonly #bytes: number[] = [];
  readonly #relocs: Reloc[] = [];
  #exits = 0;

  put(...bytes: readonly number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** The four bytes that refer to a target; `behind` are the bytes of the instruction that follow them. */
  refer(target: RelocTarget, { kind = 'R_X86_64_PC32' as RelocKind, behind = [] as readonly number[] } = {}): this {
    this.#relocs.push({ offset: this.#bytes.length, kind, target, addend: -4 - behind.length });
    return this.put(0, 0, 0, 0, ...behind);
  }

  /** movabs to rax, rcx, …: an absolute address. */
  load(opcode: readonly [number, number], target: RelocTarget): this {
    this.put(...opcode);
    this.#relocs.push({ offset: this.#bytes.length, kind: 'R_X86_64_64', target });
    return this.put(0, 0, 0, 0, 0, 0, 0, 0);
  }

  /** mov byte [rip + warm], 1 */
  warm(): this {
    return this.put(0xc6, 0x05).refer({ own: 'warm' }, { behind: [1] });
  }

  /** imul rax, [rdi], 10; add rax, digit; mov [rdi], rax */
  mark(digit: number): this {
    return this.put(0x48, 0x6b, 0x07, 10, 0x48, 0x83, 0xc0, digit, 0x48, 0x89, 0x07);
  }

  /** lea r11, [rip + record]; jmp [r11] */
  exit(number: number): this {
    this.#exits = Math.max(this.#exits, number + 1);
    return this.put(0x4c, 0x8d, 0x1d).refer({ exit: number }).put(0x41, 0xff, 0x23);
  }

  /** cmp qword [rdi + 8], 0; je over; dec qword [rdi + 8]; the exit; over: */
  exitWhileToTake(number: number): this {
    return this.put(0x48, 0x83, 0x7f, 8, 0, 0x74, 14, 0x48, 0xff, 0x4f, 8).exit(number);
  }

  /** cmp byte [rip + valid], 0; jne over; the exit; over: */
  exitIfInvalid(number: number): this {
    return this.put(0x80, 0x3d)
      .refer({ own: 'valid' }, { behind: [0] })
      .put(0x75, 10)
      .exit(number);
  }

  /** push rdi; call target; pop rdi: the push also aligns the stack to 16. */
  call(target: RelocTarget): this {
    return this.put(0x57, 0xe8).refer(target, { kind: 'R_X86_64_PLT32' }).put(0x5f);
  }

  /**
   * The same through C: bsearch for the word of state in itself calls `target` once, as its comparison.
   * push rdi; lea rdi, [rip + state]; mov rsi, rdi; mov edx, 1; mov ecx, 8; movabs r8, target; call bsearch; pop rdi
   */
  callThroughC(target: RelocTarget): this {
    this.put(0x57, 0x48, 0x8d, 0x3d).refer({ own: 'state' }).put(0x48, 0x89, 0xfe, 0xba, 1, 0, 0, 0, 0xb9, 8, 0, 0, 0);
    this.load([0x49, 0xb8], target).put(0xe8);
    return this.refer({ address: symbolAddress('bsearch') }, { kind: 'R_X86_64_PLT32' }).put(0x5f);
  }

  /** jmp done */
  done(): this {
    return this.put(0xe9).refer('done', { kind: 'R_X86_64_PLT32' });
  }

  get size(): number {
    return this.#bytes.length;
  }

  /** Relocs of more sections come with `more`. */
  spec(more: Partial<ExecutorSpec> = {}): ExecutorSpec {
    const relocs = [...this.#relocs, ...(more.relocs ?? [])];
    return { code: Uint8Array.from(this.#bytes), exits: this.#exits, ...more, relocs };
  }
}

/** Sets its warm byte, leaves its digit in the trail, takes exit 0 while there are exits to take, and is done. */
export const step = (digit: number, more: Partial<ExecutorSpec> = {}): ExecutorSpec =>
  new TraceCode().warm().mark(digit).exitWhileToTake(0).done().spec(more);

/** How a trace can call its host: at once, or with frames of C in between. */
export type Call = 'call' | 'callThroughC';

/**
 * The same, with a call of the host in the middle, behind which it leaves the digit again, out of its data, and counts
 * the call in its state.
 */
export const stepThatCalls = (
  digit: number,
  host: RelocTarget,
  call: Call = 'call',
  more: Partial<ExecutorSpec> = {},
): ExecutorSpec =>
  new TraceCode()
    .warm()
    .mark(digit)
    [call](host)
    .put(0x48, 0x6b, 0x07, 10, 0x48, 0x03, 0x05) // imul rax, [rdi], 10; add rax, [rip + data]
    .refer({ own: 'data' })
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
