// What goes into an arena and what it says of itself: plain objects, described where they are defined.
import type { Section } from './errors';
import type { Reloc } from './relocs';

/** What an executor is made of. Sizes and alignments are bytes. */
export interface ExecutorSpec {
  /** Machine code, or its size: then it is zero until written. At least one byte. */
  code: Uint8Array | number;
  /** Constants: read-only once frozen. */
  data?: Uint8Array | number;
  /** Bytes that the code may write; never executable. */
  state?: Uint8Array | number;
  /** At most 2^20. */
  relocs?: readonly Reloc[];
  /** Offsets in code of its entries, for `func(signature, { entry })`. One at offset 0 unless given. */
  entries?: ArrayLike<number>;
  /** Alignment of code: a power of two up to a page; 16 unless given. */
  align?: number;
  /** Alignment of data; 8 unless given. */
  dataAlign?: number;
  /** Alignment of state; 16 unless given. */
  stateAlign?: number;
  /** Number of exits, each with an exit record: relocs refer to them as `{ exit: n }`. */
  exits?: number;
  /** A number of yours for each exit, for `arena.exitTag`; the exit's own number unless given. */
  exitTags?: ArrayLike<number>;
  /**
   * Whether `collect({ evictCold: true })` may end it when it is cold. Unless given, true for executors with exits or a
   * 'warm' or 'done' reloc. One without a warm byte tells nothing and is kept all the same.
   */
  evictable?: boolean;
  /** A chain of links through it gets somewhere; false unless given. See `arena.chainDepth`. */
  makesProgress?: boolean;
  /** False when an address of it escapes to where the collector cannot rewrite it; true unless given. */
  movable?: boolean;
  name?: string;
}

/** Many executors in typed arrays. Offsets have one entry more than there are executors. */
export interface ExecutorBatch {
  code: Uint8Array;
  codeOffsets: ArrayLike<number>;
  data?: Uint8Array;
  dataOffsets?: ArrayLike<number>;
  /** One entry per reloc in each column, sorted by executor. */
  relocs?: {
    /** Position of the executor in the batch. */
    executor: ArrayLike<number>;
    /** 0 code, 1 data, 2 state; code unless given. */
    section?: ArrayLike<number>;
    offset: ArrayLike<number>;
    /** psABI numbers: `relocKindNumbers.R_X86_64_PC32`. */
    kind: ArrayLike<number>;
    /** `TargetKind.ownCode`, …. */
    targetKind: ArrayLike<number>;
    /** Offset in the own section, id, or position in the batch, as the target kind says. */
    target?: ArrayLike<number>;
    /** For `TargetKind.address`. */
    address?: ArrayLike<bigint>;
    addend?: ArrayLike<number>;
  };
}

export interface FoundAddress {
  /** Id; stale when `retired`. */
  executor: number;
  section: Section;
  /** Bytes from the start of the section. */
  offset: number;
  /** The executor was freed or has moved, and its old memory waits for a pin to end. */
  retired: boolean;
}

/** An exit that a run has taken. */
export interface ExitTaken {
  /** Id; stale when the executor was freed or invalidated while it ran. */
  executor: number;
  exit: number;
  /** It has just become hot: time to compile what follows. */
  hot: boolean;
}

export interface CollectOptions {
  /**
   * First end executors that are cold: evictable ones that have not set their warm byte since the last pass. One that
   * is new, or has run since, is looked at again in the next pass. Calls that go on until `done` make one pass together,
   * in the first of them, and that takes some time for every executor, also as a slice. False unless given.
   */
  evictCold?: boolean;
  /** Move executors; true unless given. False only reclaims and gives empty pages back. */
  compact?: boolean;
  /** One slice of about this length; call again until `done`. No limit unless given. */
  maxPauseMicros?: number;
  /**
   * `links`: also lay each executor in front of the one that it leads to (through the exit that was linked first, or a
   * direct branch), so that following them runs forward through memory, whether or not that frees pages. What lies so
   * already stays. Each call takes some time for every executor of the arena, also as a slice. `memory`, the default:
   * in the order in which they lie.
   */
  order?: 'memory' | 'links';
}

export interface CollectResult {
  /** False when the time ran out, or retired bytes are at their limit: call again later. */
  done: boolean;
  /** Executors. */
  moved: number;
  movedBytes: number;
  relocsRewritten: number;
  /** Executors that were cold, and their ids, so that you can drop what you hold of them. */
  evicted: number;
  evictedIds: number[];
  /** Pages that have no memory behind them any more. */
  pagesFreed: number;
  /** Bytes that wait for a pin to end. */
  retiredBytes: number;
  pauseMicros: number;
}

export interface CompactionPlan {
  /** More pages would be freed than needed. */
  profitable: boolean;
  slabsFreed: number;
  pagesFreed: number;
  pagesNeeded: number;
  /** Executors. */
  moved: number;
  movedBytes: number;
  /** At most: a reference whose both ends move together is rewritten once. */
  relocsRewritten: number;
}

/** Sizes in bytes. */
export interface Stats {
  /** Writable and frozen. */
  executors: number;
  /** Code + data + state + exit records of frozen executors. */
  liveBytes: number;
  /** The same in whole granules, with the arena's own code. */
  spanBytes: number;
  /** Pages with memory behind them, counted once however often they are mapped. */
  committedBytes: number;
  /**
   * Beside committedBytes: memory that is not used any more and that the system did not take back (`munmap` refused, by a
   * limit or a sandbox). Every `collect` tries again.
   */
  lostBytes: number;
  /** Address space. */
  reservedBytes: number;
  retiredBytes: number;
  /** Of `arena.pin()`, by all users, that have not been released. */
  pins: number;
  /**
   * The arena's tables, and the staged bytes of writable executors. Not what a `LoadedObject` holds, which the garbage
   * collector is told of, nor the tables that the unwinder was told of for installed objects.
   */
  metadataBytes: number;
  slabs: number;
  /** Of committedBytes: with huge pages behind them (`hugePages`). */
  hugePageBytes: number;
  /** What a mapping of its own for each executor's code and data would take. */
  pagePerExecutorBytes: number;
  /** Executors moved since the arena was made. */
  moves: number;
  movedBytes: number;
  relocsRewritten: number;
  /** Reloc records that moves need; the others were dropped at freeze. */
  keptRelocs: number;
  /** Bytes of those records, packed. */
  keptRelocBytes: number;
  /** Veneers with GOT slots for far addresses. */
  farSlots: number;
  /** Cold executors that `collect` has ended. */
  evicted: number;
  /**
   * Executors by code + data bytes: live ones, their bytes, exits and how many form a loop of links, and how many were
   * evicted since the arena was made. For a minimum trace length of your own.
   */
  sizeClasses: {
    upTo: number;
    count: number;
    bytes: number;
    exits: number;
    loops: number;
    diedCold: number;
    diedColdLoops: number;
  }[];
  /** Calls of `collect`. */
  pauses: { count: number; totalMicros: number; maxMicros: number };
}

export interface SlabMap {
  /** What the slab is for; `fixed-…` hold what never moves. */
  kind: 'code' | 'fixed-code' | 'data' | 'fixed-data' | 'state' | 'fixed-state';
  address: bigint;
  bytes: number;
  liveBytes: number;
  retiredBytes: number;
  backedPages: number;
  /** One entry per page. */
  liveBytesPerPage: number[];
  /** Whether a page has memory behind it; one entry per page. */
  backed: boolean[];
}

export interface Verification {
  ok: boolean;
  problems: {
    /** Id. */
    executor: number;
    section: Section;
    /** Absent when only the checksum of code and data tells that something changed. */
    offset?: number;
    expected: bigint;
    found: bigint;
    /** What was compared: a reloc kind, or words. */
    what: string;
  }[];
  /** The first broken rule of the arena's own books, if any. */
  broken?: string;
}
