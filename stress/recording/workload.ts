// Reads a recording (bench/workloads/README.md describes the records) and keeps what a replay needs: executors compiled,
// linked, unlinked, invalidated and freed, and cold collections that found something to throw away.
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';

/** How many holes of each recorded kind (patch function/target class) one executor has. */
export interface HoleCounts {
  /** 32r/c: pc-relative, to own code. */
  ownBranches: number;
  /** 32rx/d: pc-relative, to a word of own data. */
  ownLoads: number;
  /** 32rx/p: a load through a GOT slot that is not in the executor's own data. */
  gotLoads: number;
  /** 64/d: the executor's own address. */
  ownAddresses: number;
  /** 64/e, 64/p, 64/i: addresses of heap objects, other pointers and small numbers, none of which ever moves. */
  heapPointers: number;
  pointers: number;
  smallNumbers: number;
  /** 64/s: a C symbol; `symbolsInData` of them are slots in data, the others are in code. */
  symbols: number;
  symbolsInData: number;
}

/** What an executor takes of an arena: bytes of code and data, and a number of exit records. */
export interface Footprint {
  code: number;
  data: number;
  exits: number;
}

/** What a recording says of one executor: its exact size and its holes. */
export interface Shape extends Footprint {
  holes: HoleCounts;
}

/** Why an executor was invalidated. */
export type EndReason = 'cold' | 'dependency' | 'all' | 'dealloc' | 'other';

export type WorkloadEvent =
  | { kind: 'create'; id: number; shape: Shape }
  | { kind: 'link'; from: number; exit: number; to: number }
  | { kind: 'unlink'; from: number; exit: number }
  | { kind: 'invalidate'; id: number; reason: EndReason }
  /** All that were freed one directly after the other. */
  | { kind: 'free'; ids: number[] }
  | { kind: 'collect' };

export interface Workload {
  name: string;
  events: WorkloadEvent[];
  created: number;
  freed: number;
}

const END_REASONS: Record<string, EndReason> = { c: 'cold', d: 'dependency', a: 'all', r: 'dealloc', g: 'other' };

const HOLE_KINDS: Record<string, keyof HoleCounts> = {
  '32r/c': 'ownBranches',
  '32rx/d': 'ownLoads',
  '32rx/p': 'gotLoads',
  '64/d': 'ownAddresses',
  '64/e': 'heapPointers',
  '64/p': 'pointers',
  '64/i': 'smallNumbers',
  '64/s': 'symbols',
};

/** A file, or the recording of this name that is in the package or the checkout; undefined when there is neither. */
export function findWorkload(nameOrPath: string): string | undefined {
  const file = `${nameOrPath}.jsonl.gz`;
  const folders = ['workloads', '../../../bench/workloads'];
  return [nameOrPath, ...folders.map((folder) => join(__dirname, folder, file))].find((path) => existsSync(path));
}

/** @throws Error with the line number when the file is not a recording. */
export function readWorkload(path: string): Workload {
  const bytes = readFileSync(path);
  const isGzip = bytes[0] === 0x1f && bytes[1] === 0x8b;
  return parseWorkload((isGzip ? gunzipSync(bytes) : bytes).toString('utf8'), basename(path).replace(/\.jsonl.*$/, ''));
}

export function parseWorkload(text: string, name: string): Workload {
  const workload: Workload = { name, events: [], created: 0, freed: 0 };
  const live = new Set<number>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line === '') continue;
    try {
      addRecord(workload, live, JSON.parse(line));
    } catch (error) {
      throw new Error(`${name}, line ${index + 1}: ${(error as Error).message}`);
    }
  }
  workload.events = linkEarly(workload.events);
  if (workload.created === 0) throw new Error(`${name}: not a recording, nothing is compiled in it`);
  return workload;
}

/** The first `count` events: a shorter recording for a quick run. */
export function prefix(workload: Workload, count: number): Workload {
  const events = workload.events.slice(0, count);
  const created = events.filter(({ kind }) => kind === 'create').length;
  const freed = events.reduce((sum, event) => sum + (event.kind === 'free' ? event.ids.length : 0), 0);
  return { name: workload.name, events, created, freed };
}

// biome-ignore lint/suspicious/noExplicitAny: a line of a JSON file, checked here
function addRecord(workload: Workload, live: Set<number>, record: any): void {
  if (record.e === 'M') workload.name = record.name;
  if (record.e === 'C') {
    if (live.has(record.id)) throw new Error(`executor ${record.id} is compiled twice`);
    live.add(record.id);
    workload.created++;
    workload.events.push({ kind: 'create', id: record.id, shape: shapeOf(record) });
  }
  if (record.e === 'L' || record.e === 'U') {
    const { from, exit, to } = record;
    // Links are noted late, when an end may be gone.
    if (!live.has(from) || !live.has(to)) return;
    workload.events.push(record.e === 'L' ? { kind: 'link', from, exit, to } : { kind: 'unlink', from, exit });
  }
  if (record.e === 'V') {
    workload.events.push({ kind: 'invalidate', id: record.id, reason: END_REASONS[record.why] ?? 'other' });
  }
  if (record.e === 'F') {
    if (!live.delete(record.id)) throw new Error(`executor ${record.id} is freed but not live`);
    workload.freed++;
    const last = workload.events.at(-1);
    if (last?.kind === 'free') last.ids.push(record.id);
    else workload.events.push({ kind: 'free', ids: [record.id] });
  }
  if (record.e === 'K' && record.cold > 0) workload.events.push({ kind: 'collect' });
}

// biome-ignore lint/suspicious/noExplicitAny: as above
function shapeOf(record: any): Shape {
  const holes: HoleCounts = {
    ownBranches: 0,
    ownLoads: 0,
    gotLoads: 0,
    ownAddresses: 0,
    heapPointers: 0,
    pointers: 0,
    smallNumbers: 0,
    symbols: 0,
    symbolsInData: record.h_data,
  };
  for (const [kind, count] of Object.entries(record.kinds)) {
    if (kind === 'rx') continue; // not a kind of its own: how many of the others were relaxed
    const key = HOLE_KINDS[kind];
    if (key === undefined) throw new Error(`holes of unknown kind ${kind}`);
    holes[key] += count as number;
  }
  return { code: record.code, data: record.data, exits: record.exits, holes };
}

type Link = Extract<WorkloadEvent, { kind: 'link' }>;

/**
 * The same events, with each link as early as it can be: when both its ends are there and the exit is not linked. A
 * recording notes a link late: mostly when it ends, with nothing in between. The JIT made it when it compiled the trace
 * at its other end, or not much later.
 */
function linkEarly(events: readonly WorkloadEvent[]): WorkloadEvent[] {
  const created = new Map<number, number>();
  const unlinked = new Map<string, number>();
  const linksAfter: Link[][] = events.map(() => []);
  for (const [position, event] of events.entries()) {
    if (event.kind === 'create') created.set(event.id, position);
    if (event.kind === 'unlink') unlinked.set(`${event.from}/${event.exit}`, position);
    if (event.kind !== 'link') continue;
    const { from, exit, to } = event;
    const earliest = Math.max(created.get(from)!, created.get(to)!, unlinked.get(`${from}/${exit}`) ?? 0);
    linksAfter[earliest]!.push(event);
  }
  return events.flatMap((event, position) => (event.kind === 'link' ? [] : [event, ...linksAfter[position]!]));
}
