// Executors for the model test: code whose result depends on its data, its state and the target of every reloc, and what
// that result is.
//
// A program is a list of parts. Each part is known twice: as machine code that changes the hash in rbx, and as a function
// that does the same to a number. rcx and rdx are scratch.
import { type RelocKind, type Section, symbolAddress } from 'jit-arena';
import type { Random } from '../../dist/stress/program/random';
import { Assembler, type FieldReloc } from './assembler.js';

/** Yields what a callback is called with, is sent what the callback returns, and returns the result of the call. */
export type Execution = Generator<bigint, bigint, bigint>;

/** The bytes that a program works on while it runs. */
export interface Running {
  bytes: Record<Section, Uint8Array>;
}

/** Another executor, as far as programs go. */
export interface Other extends Running {
  /** Offsets in data and in state that hold plain numbers; none as long as it has no program. */
  plainWords(section: 'data' | 'state'): readonly number[];
  execute(argument: bigint): Execution;
}

export type Target<E> =
  | { own: Section; offset: number }
  | { executor: E; section?: Section; offset?: number }
  | { address: bigint };

export type ProgramReloc<E> = FieldReloc<Target<E>>;

type Part = (self: Running, hash: bigint) => bigint | Execution;

/** What a program may refer to. */
export interface Surroundings<E> {
  random: Random;
  /** May be called: no cycles. */
  callees: readonly E[];
  /** May be referred to in any other way. */
  others: readonly E[];
  callback: bigint;
  /** Batches have none. */
  withState: boolean;
  /** An addend up to this, either way, leaves a 32-bit distance in range wherever its two ends are in the arena. */
  farthestAddend: number;
}

export interface Program<E> {
  bytes: Record<Section, Uint8Array>;
  relocs: ProgramReloc<E>[];
  /** Offsets in data and in state that no reloc writes and no part relies on to hold an address: the host may write. */
  plainWords: Record<'data' | 'state', number[]>;
  entries: number[] | undefined;
  /** What is behind them in code is filler. */
  instructionBytes: number;
  calls: E[];
  callsBack: boolean;
  execute(self: Running, argument: bigint): Execution;
}

const wrap = (value: bigint) => BigInt.asUintN(64, value);
const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
export const load = (bytes: Uint8Array, offset: number) => view(bytes).getBigUint64(offset, true);
export const store = (bytes: Uint8Array, offset: number, value: bigint) =>
  view(bytes).setBigUint64(offset, wrap(value), true);

/** What the model test's callback returns. */
export const callbackResult = (argument: bigint) => wrap(argument * 0x9e3779b97f4a7c15n + 1n);
/** What the second entry of every program that has one returns. */
export const secondEntryResult = (argument: bigint) => wrap(~argument);

const abs = { address: symbolAddress('abs'), result: (argument: number) => Math.abs(argument) };
/** In the node executable, so that it lies out of a branch's reach where that is not loaded near the libraries. */
const uvVersion = {
  address: symbolAddress('uv_version'),
  result: () => process.versions.uv.split('.').reduce((version, part) => version * 256 + Number(part), 0),
};
const symbols = ['strlen', 'malloc', 'uv_version'].map(symbolAddress);

// Fields that relocs fill in hold garbage, so that one which is only added or OR-ed to shows.
const garbage = 0xa5;

class Draft<E extends Other> {
  readonly code = new Assembler<Target<E>>(garbage);
  readonly parts: Part[] = [];
  readonly calls: E[] = [];
  readonly plainWords: Program<E>['plainWords'] = { data: [], state: [] };
  readonly words: Record<'data' | 'state', bigint[]> = { data: [], state: [] };
  callsBack = false;

  constructor(readonly around: Surroundings<E>) {}

  /** Instruction bytes, and then a field that ends it, or has `behind` bytes of the instruction behind it. */
  emit(bytes: number[], kind?: RelocKind, target?: Target<E>, behind: number[] = [], addend = 0): void {
    this.code.put(...bytes);
    if (target !== undefined) this.code.refer(target, { kind, addend, behind });
  }

  /** A new word of data or state, and its offset. */
  word(section: 'data' | 'state', kind?: RelocKind, target?: Target<E>, addend = 0): number {
    const words = this.words[section];
    const offset = words.push(this.around.random.u64()) * 8 - 8;
    if (kind !== undefined && target !== undefined) this.code.relocs.push({ section, offset, kind, target, addend });
    else this.plainWords[section].push(offset);
    return offset;
  }

  /** lea rdx, [own code + offset], without a reloc: code keeps its distance to itself. */
  loadOwnCodeAddress(offset: number): void {
    const end = this.code.size + 7;
    this.code.put(...loadAddress).put32(offset - end);
  }
}

const own = (section: Section, offset: number) => ({ own: section, offset });
const addHash = [0x48, 0x01, 0xcb]; // add rbx, rcx
const xorHash = [0x48, 0x31, 0xcb]; // xor rbx, rcx
const xorPointed = [0x48, 0x33, 0x19]; // xor rbx, [rcx]
const subtractAddress = [0x48, 0x29, 0xd1]; // sub rcx, rdx
const loadConstant = [0x48, 0xb9]; // mov rcx, imm64
const loadWord = [0x48, 0x8b, 0x0d]; // mov rcx, [rip + field]
const loadAddress = [0x48, 0x8d, 0x15]; // lea rdx, [rip + field]
const addWord = [0x48, 0x03, 0x1d]; // add rbx, [rip + field]

/** Each adds one part to a draft. */
const partMakers = {
  dataRelative<E extends Other>(draft: Draft<E>): void {
    const word = draft.word('data');
    draft.emit(addWord, 'R_X86_64_PC32', own('data', word));
    draft.parts.push((self, hash) => hash + load(self.bytes.data, word));
  },
  dataAbsolute<E extends Other>(draft: Draft<E>): void {
    const word = draft.word('data');
    draft.emit(loadConstant, 'R_X86_64_64', own('data', word));
    draft.emit(xorPointed);
    draft.parts.push((self, hash) => hash ^ load(self.bytes.data, word));
  },
  stateRelative<E extends Other>(draft: Draft<E>): void {
    const word = draft.word('state');
    const step = draft.around.random.below(128);
    // add qword [rip + field], imm8: the field does not end the instruction.
    draft.emit([0x48, 0x83, 0x05], 'R_X86_64_PC32', own('state', word), [step]);
    draft.emit(addWord, 'R_X86_64_PC32', own('state', word));
    draft.parts.push(({ bytes: { state } }, hash) => {
      store(state, word, load(state, word) + BigInt(step));
      return hash + load(state, word);
    });
  },
  stateAbsolute<E extends Other>(draft: Draft<E>): void {
    const word = draft.word('state');
    draft.emit(loadConstant, 'R_X86_64_64', own('state', word));
    draft.emit([0x48, 0xff, 0x01]); // inc qword [rcx]
    draft.emit(xorPointed);
    draft.parts.push(({ bytes: { state } }, hash) => {
      store(state, word, load(state, word) + 1n);
      return hash ^ load(state, word);
    });
  },
  /** A word of state that holds the address of another. */
  statePointer<E extends Other>(draft: Draft<E>): void {
    const word = draft.word('state');
    const pointer = draft.word('state', 'R_X86_64_64', own('state', word));
    draft.emit(loadWord, 'R_X86_64_PC32', own('state', pointer));
    draft.emit(xorPointed);
    draft.parts.push((self, hash) => hash ^ load(self.bytes.state, word));
  },
  stateSymbol<E extends Other>(draft: Draft<E>): void {
    const address = draft.around.random.pick(symbols);
    const word = draft.word('state', 'R_X86_64_64', { address });
    draft.emit(addWord, 'R_X86_64_PC32', own('state', word));
    draft.parts.push((_, hash) => hash + address);
  },
  /** The distance of two places in own code: one address absolute, the other relative. */
  ownCode<E extends Other>(draft: Draft<E>): void {
    const [to, from] = [draft.around.random.below(draft.code.size), draft.around.random.below(draft.code.size)];
    draft.emit(loadConstant, 'R_X86_64_64', own('code', to));
    draft.loadOwnCodeAddress(from);
    draft.emit(subtractAddress);
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + BigInt(to - from));
  },
  /** A word of data that holds the distance from itself to a place in own code. */
  distanceInData<E extends Other>(draft: Draft<E>): void {
    const to = draft.around.random.below(draft.code.size);
    const word = draft.word('data', 'R_X86_64_PC64', own('code', to));
    draft.emit(loadAddress, 'R_X86_64_PC32', own('data', word));
    draft.emit([0x48, 0x8b, 0x0a]); // mov rcx, [rdx]
    draft.emit([0x48, 0x01, 0xd1]); // add rcx, rdx
    draft.loadOwnCodeAddress(0);
    draft.emit(subtractAddress);
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + BigInt(to));
  },
  fixed32<E extends Other>(draft: Draft<E>): void {
    const { random } = draft.around;
    const low = BigInt(random.int32() >>> 0);
    const high = wrap(BigInt(random.int32()));
    draft.emit([0xb9], 'R_X86_64_32', { address: low }); // mov ecx, imm32
    draft.emit(addHash);
    draft.emit([0x48, 0xc7, 0xc1], 'R_X86_64_32S', { address: high }); // mov rcx, imm32, sign-extended
    draft.emit(xorHash);
    draft.parts.push((_, hash) => wrap(hash + low) ^ high);
  },
  fixed64<E extends Other>(draft: Draft<E>): void {
    const { random } = draft.around;
    const address = random.pick(symbols);
    const addend = random.below(100) - 50;
    draft.emit(loadConstant, 'R_X86_64_64', { address }, [], addend);
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + address + BigInt(addend));
  },
  symbolSlot<E extends Other>(draft: Draft<E>): void {
    const { random } = draft.around;
    const address = random.pick(symbols);
    draft.emit(loadWord, random.pick(['R_X86_64_GOTPCREL', 'R_X86_64_REX_GOTPCRELX'] as const), { address });
    draft.emit(xorHash);
    draft.parts.push((_, hash) => hash ^ address);
  },
  externalCall<E extends Other>(draft: Draft<E>): void {
    const { random } = draft.around;
    const { address, result } = random.pick([abs, uvVersion]);
    const argument = random.int32() | 1; // never -2^31, which has no absolute value
    draft.code.put(0x48, 0xc7, 0xc7).put32(argument); // mov rdi, argument
    emitCall(draft, { address });
    draft.emit([0x89, 0xc1]); // mov ecx, eax
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + BigInt(result(argument)));
  },
  callback<E extends Other>(draft: Draft<E>): void {
    draft.emit([0x48, 0x89, 0xdf]); // mov rdi, rbx
    emitCall(draft, { address: draft.around.callback });
    draft.emit([0x48, 0x89, 0xc3]); // mov rbx, rax
    draft.callsBack = true;
    draft.parts.push(function* (_, hash): Execution {
      return yield hash;
    });
  },
  executorCall<E extends Other>(draft: Draft<E>): void {
    const { callees, random } = draft.around;
    if (callees.length === 0 || draft.calls.length === 2) return;
    const callee = random.pick(callees);
    draft.calls.push(callee);
    draft.emit([0x48, 0x89, 0xdf]); // mov rdi, rbx
    emitCall(draft, { executor: callee });
    draft.emit([0x48, 0x89, 0xc3]); // mov rbx, rax
    draft.parts.push((_, hash) => callee.execute(hash));
  },
  /** Constants and state of another executor: also in cycles. */
  sharedWord<E extends Other>(draft: Draft<E>): void {
    const { others, random, withState } = draft.around;
    const section = random.pick(['data', 'state'] as const);
    // Batches have no columns for a place in another executor.
    const sharing = withState ? others.filter((other) => other.plainWords(section).length > 0) : [];
    if (sharing.length === 0) return;
    const executor = random.pick(sharing);
    const offset = random.pick(executor.plainWords(section));
    if (random.chance(0.5)) {
      draft.emit(loadConstant, 'R_X86_64_64', { executor, section, offset });
    } else {
      draft.emit([0x48, 0x8d, 0x0d], 'R_X86_64_PC32', { executor, section, offset }); // lea rcx, [rip + field]
    }
    if (section === 'state') draft.emit([0x48, 0xff, 0x01]); // inc qword [rcx]
    draft.emit(xorPointed);
    draft.parts.push((_, hash) => {
      const bytes = executor.bytes[section];
      if (section === 'state') store(bytes, offset, load(bytes, offset) + 1n);
      return hash ^ load(bytes, offset);
    });
  },
  /** Two addresses of one executor, in two forms, and their difference: needs no call, so cycles are welcome. */
  executorAddress<E extends Other>(draft: Draft<E>): void {
    const { others, random } = draft.around;
    if (others.length === 0) return;
    const executor = random.pick(others);
    const addend = random.below(100) - 50;
    if (random.chance(0.5)) {
      draft.emit(loadConstant, 'R_X86_64_64', { executor }, [], addend);
    } else {
      const word = draft.word('data', 'R_X86_64_64', { executor }, addend);
      draft.emit(loadWord, 'R_X86_64_PC32', own('data', word));
    }
    // Not through a GOT slot: that follows a move at once, while an old copy that is still running goes on with the old
    // address in its own fields. Both are right, but they are not the same.
    draft.emit(loadAddress, 'R_X86_64_PC32', { executor });
    draft.emit(subtractAddress);
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + BigInt(addend));
  },
  /** A place up to 2 GiB off something: the distance must not wrap, wherever the two are moved to. */
  farPlace<E extends Other>(draft: Draft<E>): void {
    const { others, random, withState, farthestAddend } = draft.around;
    const addend = (random.chance(0.5) ? 1 : -1) * (farthestAddend - random.below(Math.min(farthestAddend, 1000) + 1));
    const targets: Target<E>[] = [own('code', 0), own('data', draft.word('data'))];
    if (withState) targets.push(own('state', draft.word('state')));
    if (others.length > 0) targets.push({ executor: random.pick(others) });
    const target = random.pick(targets);
    draft.emit([0x48, 0x8d, 0x0d], 'R_X86_64_PC32', target, [], addend); // lea rcx, [rip + field]
    draft.emit(loadAddress, 'R_X86_64_PC32', target);
    draft.emit(subtractAddress);
    draft.emit(addHash);
    draft.parts.push((_, hash) => hash + BigInt(addend));
  },
};

/** One of the ways to call: direct, through a GOT slot, by an address in the instruction or in own data. */
function emitCall<E extends Other>(draft: Draft<E>, target: Target<E>): void {
  const { random } = draft.around;
  switch (random.below(4)) {
    case 0:
      draft.emit([0xff, 0x15], 'R_X86_64_GOTPCRELX', target); // call [rip + field]
      break;
    case 1:
      draft.emit([0x48, 0xb8], 'R_X86_64_64', target); // mov rax, imm64
      draft.emit([0xff, 0xd0]); // call rax
      break;
    case 2:
      draft.emit([0xff, 0x15], 'R_X86_64_PC32', own('data', draft.word('data', 'R_X86_64_64', target)));
      break;
    default:
      draft.emit([0xe8], 'R_X86_64_PLT32', target); // call field
  }
}

export function makeProgram<E extends Other>(around: Surroundings<E>): Program<E> {
  const { random } = around;
  const draft = new Draft(around);
  draft.emit([0x53, 0x48, 0x89, 0xfb]); // push rbx; mov rbx, rdi
  const makers = Object.entries(partMakers)
    .filter(([name]) => around.withState || !name.startsWith('state'))
    .map(([, maker]) => maker);
  for (let i = 1 + random.below(8); i > 0; i--) random.pick(makers)(draft);
  draft.emit([0x48, 0x89, 0xd8, 0x5b, 0xc3]); // mov rax, rbx; pop rbx; ret
  let entries: number[] | undefined;
  if (around.withState && random.chance(0.3)) {
    entries = [0, draft.code.size];
    draft.emit([0x48, 0x89, 0xf8, 0x48, 0xf7, 0xd0, 0xc3]); // mov rax, rdi; not rax; ret
  }
  const { parts, calls, callsBack, plainWords, words } = draft;
  const { relocs } = draft.code;
  const code = Uint8Array.from([...draft.code.bytes, ...filler(random, fillerBytes(random))]);
  const data = withFiller(words.data, random, random.pick([0, 0, 3, 40, 700]));
  const state = around.withState ? withFiller(words.state, random, random.pick([0, 0, 5, 100])) : new Uint8Array(0);
  return {
    bytes: { code, data, state },
    relocs,
    plainWords,
    entries,
    instructionBytes: draft.code.size,
    calls,
    callsBack,
    *execute(self, argument): Execution {
      let hash = argument;
      for (const part of parts) {
        const result = part(self, hash);
        hash = wrap(typeof result === 'bigint' ? result : yield* result);
      }
      return hash;
    },
  };
}

/** Mostly little, so that many share a page; sometimes pages; rarely more than a slab. */
function fillerBytes(random: Random): number {
  const dice = random.below(1000);
  if (dice < 450) return random.below(300);
  if (dice < 850) return random.below(2500);
  return dice < 996 ? random.below(8000) : 262_000 + random.below(9000);
}

function filler(random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const words = new Uint32Array(Math.ceil(length / 4));
  for (let i = 0; i < words.length; i++) words[i] = random.int32();
  bytes.set(new Uint8Array(words.buffer, 0, length));
  return bytes;
}

function withFiller(words: readonly bigint[], random: Random, length: number): Uint8Array {
  const bytes = new Uint8Array(words.length * 8 + length);
  for (const [i, word] of words.entries()) store(bytes, i * 8, word);
  bytes.set(filler(random, length), words.length * 8);
  return bytes;
}
