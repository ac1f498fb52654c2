// Functions that many tests install. Arguments come in edi, esi, … and xmm0, …; results go in eax and xmm0.
import type { Arena, Executor, ExecutorSpec, Reloc, RelocTarget } from 'jit-arena';
import { Code } from './assembler.js';

/** lea eax, [rdi + rsi]; ret: the sum of two i32. */
export const sum = Uint8Array.of(0x8d, 0x04, 0x37, 0xc3);

/** The first argument. */
export const identity = bytesOf(new Code().move('rax', 'rdi').ret());

export const constant = (n: number): Uint8Array => bytesOf(new Code().move32('rax', n).ret());

/** mov eax, [rip + data]; ret */
export const loadData = bytesOf(new Code().load32('rax', { own: 'data' }).ret());

/** mov rax, imm64; ret */
export const loadAddress = bytesOf(new Code().moveAddress('rax', { address: 0n }).ret());

export function bytesOf(code: Code): Uint8Array {
  return Uint8Array.from(code.bytes);
}

/** A reloc for the rel32 at the end of an instruction. */
export const rel32 = (offset: number, target: RelocTarget, addend = 0): Reloc => ({
  offset,
  kind: 'R_X86_64_PLT32',
  target,
  addend: addend - 4,
});

/** The target with another address. */
export const jump = (target: RelocTarget): ExecutorSpec => new Code().jump(target).spec();

/** The target's result and a small n. */
export const callAndAdd = (target: RelocTarget, n: number): ExecutorSpec =>
  new Code().push('rbp').call(target).add32('rax', n).pop('rbp').ret().spec();

/** mov rax, [rip + slot]; ret */
export const loadThrough = (reloc: Omit<Reloc, 'offset'>): ExecutorSpec => ({
  code: Uint8Array.of(0x48, 0x8b, 0x05, 0, 0, 0, 0, 0xc3),
  relocs: [{ ...reloc, offset: 3 }],
});

export const i32ToI32 = { args: ['i32'], returns: 'i32' } as const;
export const toI32 = { args: [], returns: 'i32' } as const;
export const toU64 = { args: [], returns: 'u64' } as const;

const padding = {
  code: new Uint8Array(200 * 96).fill(0xcc),
  codeOffsets: Array.from({ length: 201 }, (_, i) => 96 * i),
};

/** Installs each spec between 400 other executors, and frees those: the next collect moves what is left. */
export function scatter(arena: Arena, specs: readonly ExecutorSpec[]): Executor[] {
  const others: Float64Array[] = [];
  const installed = specs.map((spec) => {
    others.push(arena.installBatch(padding));
    const executor = arena.install(spec);
    others.push(arena.installBatch(padding));
    return executor;
  });
  for (const ids of others) arena.free(ids);
  return installed;
}
