// What every field of an executor refers to, in words that no move changes, such as "executor 7's data + 16".
import type { Arena, Executor, Reloc, RelocTarget, Section } from 'jit-arena';
import { operandsOf } from './disassembly.js';
import { doneStubOf, OwnCode, TraceState } from './peek.js';
import { fields, readField } from './psabi.js';

/** An executor, and what its host asked for. */
export interface Subject {
  handle: Executor;
  relocs: readonly Reloc[];
  /** Bytes of code that are instructions; filler is behind them. */
  instructionBytes: number;
}

export interface Reference {
  section: Section;
  offset: number;
  target: string;
}

/** A copy of an executor, as it is or was at an address. */
export interface Copy {
  address: bigint;
  code: Uint8Array;
  data: Uint8Array;
  references: Reference[];
}

/** Names addresses; for as long as nothing moves. */
export class Namer {
  private readonly ownCode: OwnCode;
  private readonly traceState: TraceState;
  private readonly doneStub: bigint;

  constructor(private readonly arena: Arena) {
    this.doneStub = doneStubOf(arena);
    this.ownCode = new OwnCode(arena);
    this.traceState = new TraceState(arena);
  }

  name(address: bigint): string {
    const found = this.arena.find(address);
    if (found) return `executor ${found.executor}'s ${found.section} + ${found.offset}`;
    if (address === this.doneStub) return 'the done stub';
    const ofTrace = this.traceState.name(address);
    if (ofTrace) return ofTrace;
    return `${this.ownCode.has(address) ? "the arena's" : 'the outside'} ${address.toString(16)}`;
  }

  /** An absolute field holds symbol + addend, which may lie in nothing at all: the symbol is named. */
  symbol(address: bigint, { addend = 0 }: Reloc): string {
    return this.name(BigInt.asUintN(64, address - BigInt(addend)));
  }

  /** Where a branch arrives: a veneer is only a way there. */
  branch(address: bigint): string {
    return this.name(this.ownCode.throughVeneer(address) ?? address);
  }

  memory(address: bigint): string {
    const slot = this.ownCode.throughSlot(address);
    return slot === undefined ? this.name(address) : `a slot with ${this.name(slot)}`;
  }
}

/** Reads a copy that is now in memory, or that the given bytes stand for. */
export function copyOf(
  { relocs, instructionBytes }: Subject,
  namer: Namer,
  { address, code, data }: Omit<Copy, 'references'>,
): Copy {
  const absolute = relocs.filter(({ kind }) => !fields[kind].relative);
  const inCode = new Map(absolute.filter(({ section = 'code' }) => section === 'code').map((r) => [r.offset, r]));
  const references: Reference[] = [];
  for (const { offset, use, address: target } of operandsOf(code.subarray(0, instructionBytes), address)) {
    const reloc = inCode.get(offset);
    if (use === 'branch') references.push({ section: 'code', offset, target: namer.branch(target) });
    else if (use === 'memory') references.push({ section: 'code', offset, target: namer.memory(target) });
    // Most immediates are numbers; only the host knows which is an address.
    else if (reloc) references.push({ section: 'code', offset, target: namer.symbol(target, reloc) });
  }
  for (const reloc of absolute) {
    // Distances in data are left out: what they are measured from is not for a disassembler to know.
    if (reloc.section !== 'data') continue;
    const target = readField(data, reloc.offset, reloc.kind);
    references.push({ section: 'data', offset: reloc.offset, target: namer.symbol(target, reloc) });
  }
  return { address, code, data, references };
}

/** What the host asked for, in the same words. */
function intended(subject: Subject, reloc: Reloc, namer: Namer): string {
  const { kind, target, addend = 0 } = reloc;
  if (kind.includes('GOT')) return `a slot with ${inWords(subject, target, 0, namer)}`;
  const added = fields[kind].relative ? Number(addend) + tailOf(subject, reloc) : 0;
  return inWords(subject, target, added, namer);
}

function inWords({ handle }: Subject, target: RelocTarget, added: number, namer: Namer): string {
  if (target === 'done') return 'the done stub';
  if ('exit' in target) return `executor ${handle.id}'s exit ${target.exit}`;
  if ('own' in target && (target.own === 'valid' || target.own === 'warm')) {
    return `executor ${handle.id}'s ${target.own} byte`;
  }
  if ('address' in target) return namer.name(BigInt.asUintN(64, target.address + BigInt(added)));
  if ('id' in target) return `executor ${target.id}'s code + ${added}`;
  const { offset = 0 } = target as { offset?: number };
  if ('own' in target) return `executor ${handle.id}'s ${target.own} + ${offset + added}`;
  if ('member' in target) return `member ${target.member}'s ${target.section ?? 'code'} + ${offset + added}`;
  return `executor ${target.executor.id}'s ${target.section ?? 'code'} + ${offset + added}`;
}

const tails = new WeakMap<Subject, Map<number, number>>();

/** From a field to the end of its instruction, from where the processor counts. */
function tailOf(subject: Subject, { offset }: Reloc): number {
  let ofFields = tails.get(subject);
  if (ofFields === undefined) {
    const code = subject.handle.read('code', 0, subject.instructionBytes);
    ofFields = new Map(operandsOf(code, 0n).map((operand) => [operand.offset, operand.tail]));
    tails.set(subject, ofFields);
  }
  return ofFields.get(offset) ?? Number.NaN;
}

/** Where a copy's references are not what the host asked for, or, where it asked for nothing, what they were before. */
export function wrongReferences(subject: Subject, before: Copy, after: Copy, namer: Namer): string[] {
  const wrong: string[] = [];
  const key = ({ section = 'code', offset }: { section?: Section; offset: number }) => `${section} + ${offset}`;
  const wanted = new Map(before.references.map((reference) => [key(reference), reference.target]));
  for (const reloc of subject.relocs) {
    const { section = 'code', kind } = reloc;
    if (section === 'state' || kind === 'R_X86_64_PC64') continue;
    wanted.set(key(reloc), intended(subject, reloc, namer));
  }
  for (const reference of after.references) {
    const at = key(reference);
    const target = wanted.get(at);
    if (reference.target !== target) wrong.push(`${at}: ${reference.target} instead of ${target ?? 'nothing'}`);
    wanted.delete(at);
  }
  for (const [at, target] of wanted) wrong.push(`${at}: nothing instead of ${target}`);
  return wrong.map((words) => `executor ${subject.handle.id}, ${words}`);
}

/** Bytes that differ though no reloc covers them. */
export function changedBytes(subject: Subject, before: Copy, after: Copy): string[] {
  const changed: string[] = [];
  for (const section of ['code', 'data'] as const) {
    const covered = new Uint8Array(before[section].length);
    for (const { section: site = 'code', offset, kind } of subject.relocs) {
      if (site === section) covered.fill(1, offset, offset + fields[kind].bytes);
    }
    for (let i = 0; i < covered.length; i++) {
      if (!covered[i] && before[section][i] !== after[section][i]) {
        changed.push(`executor ${subject.handle.id}, ${section} + ${i}: no reloc's byte has changed`);
      }
    }
  }
  return changed;
}

/** Relocs whose fields have other bytes in one copy than in the other. */
export function rewrittenFields({ relocs }: Subject, before: Copy, after: Copy): number {
  const rewritten = relocs.filter(({ section = 'code', offset, kind }) => {
    if (section === 'state') return false;
    const field = (copy: Copy) => readField(copy[section], offset, kind);
    return field(before) !== field(after);
  });
  return rewritten.length;
}
