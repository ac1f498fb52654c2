// The binary, and the memory that TypeScript and C++ share.
import { join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { ArenaError, type ErrorDetails, type Section } from './errors';
import type { ObjectSymbol } from './objects';

import { includes } from './primordials';
import type { RelocKind, RelocTarget } from './relocs';
import type { ShareToken } from './sharing';
import type { Part } from './stencils';
import type { TraceStatistics } from './trace-builder';

/** A function's answer when it has nothing else to say: 0, or the number of an error that lastError() explains. */
export type Status = number;

export interface NativeDescription {
  frozen: boolean;
  codeBytes: number;
  dataBytes: number;
  stateBytes: number;
  movable: boolean;
  evictable: boolean;
  makesProgress: boolean;
  exits: number;
  trace: boolean;
  /** Offset of entry 0. */
  firstEntry: number;
  name: string;
  address: bigint;
}

/** An object that native code has read (native/node/objects.cc). */
export interface NativeObject {
  readonly [object]: never;
}
declare const object: unique symbol;

/** Stencils, and a trace that is made of some (native/node/stencils.cc). */
export interface NativeStencils {
  readonly [stencils]: never;
}
declare const stencils: unique symbol;
export interface NativeTrace {
  readonly [trace]: never;
}
declare const trace: unique symbol;

export interface BuiltTrace {
  code: Uint8Array;
  /** A number of zero bytes where there is nothing else. */
  data: Uint8Array | number;
  state: Uint8Array | number;
  aligns: [code: number, data: number, state: number];
  /** A target that is a number is the host's: the value of a `fillHole`. */
  relocs: { section: Section; offset: number; kind: RelocKind; target: RelocTarget | number; addend: bigint }[];
  /** Offsets in code, by emit. */
  bodies: Uint32Array;
  statistics: TraceStatistics;
}

/** The functions of one arena (native/node/arena_functions.cc). Sections are numbered code, data, state. */
export interface NativeArena {
  readonly writer: WriterName;
  readonly name: string;
  readonly token: ShareToken;
  /** By which call() and run() know it. */
  readonly number: number;
  allocate(
    code: Bytes,
    data: Bytes,
    state: Bytes,
    name?: string,
    entries?: Uint32Array,
    exitTags?: Uint32Array,
  ): Status;
  install(code: Bytes, data: Bytes, state: Bytes, name?: string, entries?: Uint32Array, exitTags?: Uint32Array): Status;
  /** A list that is installed together: for each spec `addSpec`, then `installSpecs`; `endSpecs` in any case. */
  beginSpecs(): Status;
  addSpec(code: Bytes, data: Bytes, state: Bytes, name?: string, entries?: Uint32Array, exitTags?: Uint32Array): Status;
  installSpecs(ids: Float64Array): Status;
  endSpecs(): Status;
  installBatch(
    code: Uint8Array,
    codeOffsets: Float64Array,
    data: Uint8Array,
    dataOffsets: Float64Array,
    relocsOfEach: Float64Array,
    ids: Float64Array,
  ): Status;
  installObject(
    object: NativeObject,
    movable: boolean | undefined,
    name: string | undefined,
    constructors: boolean,
  ): Float64Array | Status;
  runResolver(object: NativeObject, ids: Float64Array, i: number): true | Status;
  runConstructor(object: NativeObject, ids: Float64Array, i: number): true | Status;
  /** Whether there was one more function to call. */
  runAtEnd(object: NativeObject, ids: Float64Array): boolean | Status;
  freeObject(object: NativeObject, ids: Float64Array): Status;
  write(id: number, section: number, offset: number, bytes: Uint8Array): Status;
  read(id: number, section: number, offset: number, into: Uint8Array): Status;
  addRelocs(id: number): Status;
  freeze(ids: Float64Array): Status;
  free(ids: Float64Array): Status;
  freeOne(): Status;
  describe(id: number): NativeDescription | Status;
  executors(): Float64Array | Status;
  find(address: bigint): object | undefined | Status;
  /** Calls the function with the thread pinned, and throws what it throws. */
  pinned(fn: () => void): Status;
  /** numbers[N.id]: which of this user's pins it is. */
  pin(): Status;
  unpin(number: number): Status;
  planCompaction(): object | Status;
  collect(compact: boolean, maxPauseMicros: number, evictCold: boolean, followLinks: boolean): object | Status;
  stats(): object | Status;
  slabs(): object[] | Status;
  verify(): object | Status;
  checkShareable(): Status;
  dispose(): Status;
  bind(id: number, entry: number): Status;
  addCallback(wrapper: CallbackWrapper): bigint | Status;
  disposeCallback(address: bigint): Status;
  entryOffset(id: number, entry: number): Status;
  link(source: number, exit: number, target: number, entry: number): Status;
  unlink(source: number, exit: number): Status;
  unlinkAll(): Status;
  linkOf(source: number, exit: number): object | undefined | Status;
  chainDepth(id: number): Status;
  replace(oldId: number, newId: number): Status;
  invalidate(id: number): Status;
  setHotStub(id: number): Status;
  exitTag(id: number, exit: number): Status;
  /** Bits of the kinds to listen to from now on; `wake` is called when another object or thread has done something. */
  listen(kinds: number, wake: () => void): Status;
  /** The ids that were noted of a kind since the last time. */
  noted(kind: number): Float64Array | undefined | Status;
}

/** What native code calls for a callback, with `true` when no call of ours has entered the machine code. */
export type CallbackWrapper = (alone?: true) => Thrown | undefined;
/** What somebody threw, which may be undefined. */
export interface Thrown {
  error: unknown;
}

type Bytes = Uint8Array | undefined;
export type WriterName = 'alias' | 'procmem' | 'flip';

interface Addon {
  layout: Record<LayoutKey, number>;
  positions: Record<'id' | 'sizes' | 'aligns' | 'movable' | 'relocs' | 'evictable' | 'makesProgress' | 'exits', number>;
  /** Of ArenaOptions and ExecutorSpec: the core's. */
  defaults: Record<
    | 'maxBytes'
    | 'maxRetiredBytes'
    | 'exitThreshold'
    | 'exitGrowth'
    | 'maxChainDepth'
    | 'align'
    | 'dataAlign'
    | 'stateAlign'
    | 'exits',
    number
  > &
    Record<'movable' | 'makesProgress', boolean>;
  machine: Record<'pageBytes' | 'granuleBytes' | 'slabBytes' | 'maxArenaBytes', number> & { cpu: string };
  relocKinds: Record<string, number>;
  setMailbox(buffer: ArrayBuffer): void;
  setRelocBuffer(buffer: Uint8Array): void;
  lastError(): ({ code: string; message: string } & ErrorDetails) | undefined;
  probe(): { writer: WriterName; available: boolean; reason?: string }[] | Status;
  symbolAddress(name: string): bigint | undefined;
  addressOf(view: ArrayBufferView): bigint;
  /** Into machine code, as the mailbox says (`enter`): undefined when it was entered. */
  call(): Status | undefined;
  run(): Status | undefined;
  createArena(options: object): NativeArena | Status;
  openArena(token: string): NativeArena | Status;
  endLoops(): void;
  readObject(bytes: Uint8Array): NativeObject | Status;
  countsOfObject(object: NativeObject): Record<'symbols' | 'asked' | 'resolvers' | 'constructors' | 'reasons', number>;
  askedOfObject(object: NativeObject, i: number): { name: string; weak: boolean; defined: boolean };
  answerForObject(object: NativeObject, i: number, address: bigint): void;
  answerForObject(object: NativeObject, i: number, id: number, section: number, offset: number): void;
  resolveObject(object: NativeObject): Status;
  symbolOfObject(object: NativeObject, i: number): ObjectSymbol;
  reasonOfObject(object: NativeObject, i: number): string;
  findInObject(
    object: NativeObject,
    name: string,
  ): { executor: number; section: Section; offset: number; entry?: number } | Status;
  stencilsOfObject(bytes: Uint8Array): NativeStencils | Status;
  loadStencils(bytes: Uint8Array): NativeStencils | Status;
  saveStencils(set: NativeStencils): Uint8Array | Status;
  namesOfStencils(set: NativeStencils): string[] | Status;
  describeStencil(
    set: NativeStencils,
    stencil: number,
  ): { name: string; holes: string[]; codeBytes: number; jumpBytes: number } | Status;
  partsOfStencil(set: NativeStencils, stencil: number): { body: Part; shared: Part[]; own: Part[] } | Status;
  beginTrace(): NativeTrace | Status;
  emitStencil(trace: NativeTrace, set: NativeStencils, stencil: number): undefined | Status;
  /** A hole of the last emit, by its position in `holes`. */
  fillHole(trace: NativeTrace, hole: number, what: 'emit' | 'number' | 'target', value: bigint): undefined | Status;
  buildTrace(trace: NativeTrace, data: Uint8Array | number, state: Uint8Array | number): BuiltTrace | Status;
  shared?: Shared;
}

/**
 * What belongs to the binary, and not to one loading of this module: who loads it anew (as jest does for each test
 * file) gets the same binary.
 */
interface Shared {
  readonly mailbox: ArrayBuffer;
  /** Relocs on their way to native code: one memory as arrays of three types, which grows. */
  readonly relocs: { u8: Uint8Array; u32: Uint32Array; i64: BigInt64Array; capacity: number; encodings: number };
  /** What a callback threw, until the call that entered the machine code has returned. */
  thrown: Thrown | undefined;
  /** Token of the arena whose exit the mailbox has; the exit itself stays there until the next run. */
  lastArena: string | undefined;
}

type LayoutKey =
  | 'mailboxBytes'
  | 'call'
  | 'callback'
  | 'enteredExecutor'
  | 'enteredArena'
  | 'enteredOffset'
  | 'enteredContext'
  | 'leftExecutor'
  | 'leftExitCode'
  | 'numbers'
  | 'frameBytes'
  | 'frameIntegers'
  | 'frameFloats'
  | 'frameIntegerResult'
  | 'frameFloatResult'
  | 'relocBytes'
  | 'relocSection'
  | 'relocKind'
  | 'relocTargetKind'
  | 'relocOffset'
  | 'relocTarget'
  | 'relocAddend'
  | 'relocTargetSection'
  | 'relocTargetOffset';

const load = require('node-gyp-build') as (directory: string) => Addon;
export const addon: Addon = load(join(__dirname, '..'));
export const layout = addon.layout;

function makeShared(): Shared {
  const mailbox = new ArrayBuffer(layout.mailboxBytes);
  addon.setMailbox(mailbox);
  // When the process exits, Node waits for its workers: none may be kept by a loop of links that never leaves.
  if (isMainThread) process.on('exit', () => addon.endLoops());
  const relocs = {
    u8: new Uint8Array(0),
    u32: new Uint32Array(0),
    i64: new BigInt64Array(0),
    capacity: 0,
    encodings: 0,
  };
  return { mailbox, relocs, thrown: undefined, lastArena: undefined };
}

addon.shared ??= makeShared();
export const shared: Shared = addon.shared;
const buffer = shared.mailbox;

/** The mailbox as arrays of every type; positions are byte offsets divided by the element's size. */
export const mailbox = {
  i32: new Int32Array(buffer),
  u32: new Uint32Array(buffer),
  i64: new BigInt64Array(buffer),
  u64: new BigUint64Array(buffer),
  f32: new Float32Array(buffer),
  f64: new Float64Array(buffer),
};

/** numbers[]: arguments and results of functions that are not calls into machine code. */
export const numbers = new Float64Array(buffer, layout.numbers);

/** Positions in numbers[]; of sizes and aligns, that of code, which data and state follow. */
export const N = addon.positions;

const { f64, u32 } = mailbox;
const executorAt = layout.enteredExecutor / 8;
const arenaAt = layout.enteredArena / 4;
const offsetAt = layout.enteredOffset / 4;

/** Puts where `addon.call` and `addon.run` go into the mailbox: right before them, so that nothing runs in between. */
export function enter(arena: number, executor: number, offset: number): void {
  f64[executorAt] = executor;
  u32[arenaAt] = arena;
  u32[offsetAt] = offset;
}

/** Throws what the last native function failed with: the one place where a native failure becomes an ArenaError. */
export function raise(): never {
  const error = addon.lastError();
  if (error === undefined) throw new Error('jit-arena: a native function failed without an error');
  throw new ArenaError(error.code, error.message + unnamedPlace(error), error);
}

/** In parentheses, what the details of a native error know of its place and its message does not say. */
function unnamedPlace({ message, executor, section, offset, kind, index }: { message: string } & ErrorDetails): string {
  let place = '';
  const add = (words: string) => {
    if (!includes(message, words)) place += place === '' ? words : `, ${words}`;
  };
  if (executor !== undefined) add(`executor ${executor}`);
  if (kind !== undefined) add(kind);
  if (section !== undefined) add(offset === undefined ? section : `${section} + ${offset}`);
  if (index !== undefined) place += `${place === '' ? '' : ', '}index ${index}`;
  return place === '' ? '' : ` (${place})`;
}

/** The result itself, unless it is an error's number. */
export function orRaise<T>(result: T | Status): T {
  if (typeof result === 'number') raise();
  return result;
}
