// A small assembler for x86-64: the instructions that tests are made of, a method each, and the relocs of their fields.
// Operands are 64 bits wide where a name does not say 32. `put` is for what a single test needs.
import { type ExecutorSpec, type RelocKind, type RelocTarget, type Section, symbolAddress } from 'jit-arena';

const registers = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11'] as const;
export type Register = (typeof registers)[number];

export interface Field {
  kind?: RelocKind;
  addend?: number;
  /** The bytes of the instruction behind the field. */
  behind?: readonly number[];
}

/** `T` is what a field can refer to. */
export interface FieldReloc<T> {
  section: Section;
  offset: number;
  kind: RelocKind;
  target: T;
  addend: number;
}

export class Assembler<T = RelocTarget> {
  readonly bytes: number[] = [];
  readonly relocs: FieldReloc<T>[] = [];
  #exits = 0;

  /** @param blank what fields hold until their reloc is applied */
  constructor(private readonly blank = 0) {}

  get size(): number {
    return this.bytes.length;
  }

  put(...bytes: readonly number[]): this {
    this.bytes.push(...bytes);
    return this;
  }

  put32(n: number): this {
    return this.put(n & 255, (n >> 8) & 255, (n >> 16) & 255, (n >> 24) & 255);
  }

  /** A field that refers to a target; one of 4 bytes that counts from the end of its instruction unless `kind` says more. */
  refer(target: T, { kind = 'R_X86_64_PC32', addend = 0, behind = [] }: Field = {}): this {
    const bytes = kind.endsWith('64') ? 8 : 4;
    const fromEnd = bytes === 4 && !/_32S?$/.test(kind);
    const more = fromEnd ? addend - 4 - behind.length : addend;
    this.relocs.push({ section: 'code', offset: this.size, kind, target, addend: more });
    return this.put(...new Array(bytes).fill(this.blank), ...behind);
  }

  nop(count: number): this {
    return this.put(...new Array(count).fill(0x90));
  }

  ret(): this {
    return this.put(0xc3);
  }

  push(register: Register): this {
    return this.put(0x50 + numberOf(register));
  }

  pop(register: Register): this {
    return this.put(0x58 + numberOf(register));
  }

  move(to: Register, from: Register): this {
    return this.put(0x48, 0x89, 0xc0 + 8 * numberOf(from) + numberOf(to));
  }

  move32(to: Register, from: Register | number): this {
    if (typeof from === 'number') return this.put(0xb8 + numberOf(to)).put32(from);
    return this.put(0x89, 0xc0 + 8 * numberOf(from) + numberOf(to));
  }

  /** mov to, imm64: an absolute address. */
  moveAddress(to: Register, target: T, addend = 0): this {
    const n = numberOf(to);
    return this.put(n < 8 ? 0x48 : 0x49, 0xb8 + (n & 7)).refer(target, { kind: 'R_X86_64_64', addend });
  }

  /** `from` is another register, or a number up to 127. */
  add32(to: Register, from: Register | number): this {
    if (typeof from === 'number') return this.put(0x83, 0xc0 + numberOf(to), from);
    return this.put(0x01, 0xc0 + 8 * numberOf(from) + numberOf(to));
  }

  // What lies at a place that the code counts from itself.

  loadAddress(to: Register, target: T, field?: Field): this {
    return this.#atPlace([0x8d], to, target, field);
  }

  load(to: Register, target: T, field?: Field): this {
    return this.#atPlace([0x8b], to, target, field);
  }

  store(target: T, from: Register): this {
    return this.#atPlace([0x89], from, target);
  }

  add(to: Register, target: T): this {
    return this.#atPlace([0x03], to, target);
  }

  load32(to: Register, target: T, field?: Field): this {
    return this.put(0x8b, 5 + 8 * numberOf(to)).refer(target, field);
  }

  store32(target: T, from: Register): this {
    return this.put(0x89, 5 + 8 * numberOf(from)).refer(target);
  }

  addFrom32(to: Register, target: T): this {
    return this.put(0x03, 5 + 8 * numberOf(to)).refer(target);
  }

  addTo32(target: T, from: Register): this {
    return this.put(0x01, 5 + 8 * numberOf(from)).refer(target);
  }

  lockedIncrement(target: T): this {
    return this.put(0xf0, 0x48, 0xff, 0x05).refer(target);
  }

  call(target: T): this {
    return this.put(0xe8).refer(target, { kind: 'R_X86_64_PLT32' });
  }

  jump(target: T): this {
    return this.put(0xe9).refer(target, { kind: 'R_X86_64_PLT32' });
  }

  callThrough(target: T, kind: RelocKind = 'R_X86_64_PC32'): this {
    return this.put(0xff, 0x15).refer(target, { kind });
  }

  #atPlace(opcode: readonly number[], register: Register, target: T, field?: Field): this {
    const n = numberOf(register);
    return this.put(n < 8 ? 0x48 : 0x4c, ...opcode, 5 + 8 * (n & 7)).refer(target, field);
  }

  /** lea r11, [rip + record]; jmp [r11] */
  protected leaveThrough(record: T, number: number): this {
    this.#exits = Math.max(this.#exits, number + 1);
    return this.loadAddress('r11', record).put(0x41, 0xff, 0x23);
  }

  protected get exits(): number {
    return this.#exits;
  }
}

/**
 * Code that an arena installs, of traces too. The convention of these tests: rdi is the context's address at entry, at
 * every exit and at every link. In the context, word 0 is the trail of the traces that ran (one decimal digit each), word
 * 1 counts down the exits to take.
 */
export class Code extends Assembler {
  /** mov byte [rip + warm], 1 */
  warm(): this {
    return this.put(0xc6, 0x05).refer({ own: 'warm' }, { behind: [1] });
  }

  /** imul rax, [rdi], 10; add rax, digit; mov [rdi], rax */
  mark(digit: number): this {
    return this.put(0x48, 0x6b, 0x07, 10, 0x48, 0x83, 0xc0, digit, 0x48, 0x89, 0x07);
  }

  exit(number: number): this {
    return this.leaveThrough({ exit: number }, number);
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

  done(): this {
    return this.jump('done');
  }

  /** The push also aligns the stack to 16. */
  callKeepingContext(target: RelocTarget): this {
    return this.push('rdi').call(target).pop('rdi');
  }

  /** The same through C: bsearch for the word of state in itself calls `target` once, as its comparison. */
  callThroughC(target: RelocTarget): this {
    this.push('rdi').loadAddress('rdi', { own: 'state' }).move('rsi', 'rdi').move32('rdx', 1).move32('rcx', 8);
    return this.moveAddress('r8', target)
      .call({ address: symbolAddress('bsearch') })
      .pop('rdi');
  }

  /** Relocs of more sections come with `more`. */
  spec(more: Partial<ExecutorSpec> = {}): ExecutorSpec {
    const relocs = [...this.relocs, ...(more.relocs ?? [])];
    return { code: Uint8Array.from(this.bytes), exits: this.exits, ...more, relocs };
  }
}

function numberOf(register: Register): number {
  return registers.indexOf(register);
}
