// The figures of a run, once, for the table, the JSON file and the report.
import type { Replay } from '../replay/replay';
import type { Sample } from '../replay/timeline';
import type { ThreadFigures, Threads } from '../threads/threads';

export interface Summary {
  workload: string;
  seed: number;
  /** Wall-clock time, checks and threads included. */
  seconds: number;
  /** Absent when no threads were asked for, and when the replay before them failed or was interrupted. */
  threads?: ThreadFigures;
  rounds: number;
  interrupted: boolean;
  liveBytesPeak: number;
  /** The most at any moment; `ratioPeak` is taken at the moment of the most live bytes. */
  committedBytesPeak: number;
  committedBytesAtPeak: number;
  pagePerExecutorBytesPeak: number;
  pagePerExecutor16kBytesPeak: number;
  ratioPeak: number;
  /** The worst committed / live of any sample with at least 256 KiB live. */
  ratioMax: number;
  /** The worst of those directly after a collect. */
  ratioAfterCollectMax: number;
  created: number;
  freed: number;
  /** Of `freed`: by `invalidate`, and by `collect({ evictCold: true })`. */
  invalidated: number;
  evictedCold: number;
  /** Exit records made, and exits taken that were not linked: these among them that became hot with it. */
  exits: number;
  exitsTaken: number;
  hotExits: number;
  /** Links made: the recorded ones, and these of hot exits. Then how often a run went through one. */
  linksMade: number;
  linksOfHotExits: number;
  linksTaken: number;
  runsThroughLinks: number;
  /** Links undone by `unlink`, and by the arena because an end died. */
  unlinked: number;
  linksOfDead: number;
  moved: number;
  movedBytes: number;
  relocsRewritten: number;
  collects: number;
  collectsThatMoved: number;
  callsChecked: number;
  callsCheckedPerExecutor: number;
  verifications: number;
  /** Of the replay and of the threads. */
  failures: number;
  failureReports: string[];
  pausesMicros: Pauses;
  /** Of the collects that moved something. */
  pausesOfMovesMicros: Pauses;
  /** When the first recording had been replayed to its end, before the rest was freed. */
  recordingEnd: Sample | undefined;
}

export interface Pauses {
  median: number;
  p99: number;
  max: number;
}

export function summarize(
  replay: Replay,
  threads: Threads | undefined,
  workload: string,
  seed: number,
  interrupted: boolean,
): Summary {
  const { checker, created, freed, population, timeline } = replay;
  const { peak, pauses, pausesOfMoves } = timeline;
  return {
    workload,
    seed,
    seconds: rounded(replay.elapsedSeconds, 3),
    threads: threads?.figures,
    rounds: replay.round,
    interrupted,
    liveBytesPeak: peak.live,
    committedBytesPeak: timeline.committedPeak,
    committedBytesAtPeak: peak.committed,
    pagePerExecutorBytesPeak: peak.pages4k,
    pagePerExecutor16kBytesPeak: peak.pages16k,
    ratioPeak: rounded(peak.committed / peak.live, 4),
    ratioMax: rounded(timeline.ratioMax, 4),
    ratioAfterCollectMax: rounded(timeline.ratioAfterCollectMax, 4),
    created,
    freed,
    invalidated: replay.invalidated,
    evictedCold: replay.evictedCold,
    exits: replay.exits,
    exitsTaken: checker.exitsTaken,
    hotExits: checker.hotExits,
    linksMade: population.linksMade,
    linksOfHotExits: replay.linksOfHotExits,
    linksTaken: checker.linksTaken,
    runsThroughLinks: checker.runsThroughLinks,
    unlinked: population.unlinked,
    linksOfDead: population.linksOfDead,
    moved: timeline.moved,
    movedBytes: timeline.movedBytes,
    relocsRewritten: timeline.relocsRewritten,
    collects: pauses.length,
    collectsThatMoved: pausesOfMoves.length,
    callsChecked: checker.callsChecked,
    callsCheckedPerExecutor: rounded(checker.callsChecked / created, 1),
    verifications: checker.verifications,
    failures: checker.failures + (threads?.failures ?? 0),
    failureReports: [...checker.reports, ...(threads?.reports ?? [])],
    pausesMicros: percentiles(pauses),
    pausesOfMovesMicros: percentiles(pausesOfMoves),
    recordingEnd: timeline.recordingEnd,
  };
}

function percentiles(pauses: readonly number[]): Pauses {
  const sorted = [...pauses].sort((a, b) => a - b);
  const at = (share: number) => rounded(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0, 1);
  return { median: at(0.5), p99: at(0.99), max: at(1) };
}

function rounded(value: number, digits: number): number {
  return Number.isFinite(value) ? Number(value.toFixed(digits)) : 0;
}
