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
  relocs?: readonly Reloc[];
  /** Offsets in code of its entries, for `func(signature, { entry })`. One at offset 0 unless given. */
  entries?: ArrayLike<number>;
  /** Alignment of code: a power of two up to a page; 16 unless given. */
  align?: number;
  /** Alignment of data; 8 unless given. */
  dataAlign?: number;
  /** Alignment of state; 16 unless given. */
  stateAlign?: number;
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

export interface CollectOptions {
  /** Move executors; true unless given. False only reclaims and gives empty pages back. */
  compact?: boolean;
  /** One slice of about this length; call again until `done`. No limit unless given. */
  maxPauseMicros?: number;
}

export interface CollectResult {
  /** False when the time ran out, or retired bytes are at their limit: call again later. */
  done: boolean;
  /** Executors. */
  moved: number;
  movedBytes: number;
  relocsRewritten: number;
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
  relocsRewritten: number;
}

/** Sizes in bytes. */
export interface Stats {
  /** Writable and frozen. */
  executors: number;
  /** Code + data + state of frozen executors. */
  liveBytes: number;
  /** The same in whole granules, with the arena's own code. */
  spanBytes: number;
  /** Pages with memory behind them, counted once however often they are mapped. */
  committedBytes: number;
  /** Address space. */
  reservedBytes: number;
  retiredBytes: number;
  /** The arena's tables, and the staged bytes of writable executors. */
  metadataBytes: number;
  slabs: number;
  /** What a mapping of its own for each executor's code and data would take. */
  pagePerExecutorBytes: number;
  /** Executors moved since the arena was made. */
  moves: number;
  movedBytes: number;
  relocsRewritten: number;
  /** Reloc records that moves need; the others were dropped at freeze. */
  keptRelocs: number;
  /** Veneers with GOT slots for far addresses. */
  externalLinks: number;
  /** Calls of `collect`. */
  pauses: { count: number; totalMicros: number; maxMicros: number };
}

export interface SlabMap {
  /** What the slab is for; `fixed-…` hold what never moves. */
  kind: 'code' | 'fixed-code' | 'data' | 'fixed-data' | 'state';
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
