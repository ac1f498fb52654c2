// The figures at the end of a run, on the console.

import type { ThreadFigures } from '../threads/threads';
import { bytes, count, micros, plural, ratio } from './format';
import type { Summary } from './summary';

/** [what, figure, remark] */
type Row = [string, string, string];

export function table(summary: Summary): string {
  const { created, failures, failureReports, interrupted, rounds, seconds, seed, workload } = summary;
  const lines = [
    `${workload}, contents from seed ${seed}: ${plural(rounds, 'round')} in ${seconds.toFixed(1)} s${interrupted ? ', interrupted' : ''}`,
    '',
  ];
  if (created > 0) lines.push(...aligned(rows(summary)), '');
  if (summary.threads) lines.push(...threads(summary.threads), '');
  for (const report of failureReports) lines.push(`FAILURE: ${report}`);
  if (failures > failureReports.length) lines.push(`and ${plural(failures - failureReports.length, 'more failure')}`);
  return lines.join('\n');
}

function rows(summary: Summary): Row[] {
  const { pausesMicros: pauses, pausesOfMovesMicros: ofMoves, liveBytesPeak: live, recordingEnd: end } = summary;
  const moves = (value: number) => (value > 0 ? `${micros(value)} of those that moved something` : '');
  const share = (part: number, whole: number) => `in ${((100 * part) / whole).toFixed(0)} % of the runs`;
  const perLive = (value: number) => `${ratio(value / live)} × live`;
  const rows: Row[] = [
    ['live at the peak', bytes(live), ''],
    ['committed at the peak', bytes(summary.committedBytesAtPeak), perLive(summary.committedBytesAtPeak)],
    ['a page per executor, 4 KB', bytes(summary.pagePerExecutorBytesPeak), perLive(summary.pagePerExecutorBytesPeak)],
    [
      'a page per executor, 16 KB',
      bytes(summary.pagePerExecutor16kBytesPeak),
      perLive(summary.pagePerExecutor16kBytesPeak),
    ],
    ['most committed', bytes(summary.committedBytesPeak), ''],
  ];
  if (end && end.live > 0) {
    rows.push(['live at the recording’s end', bytes(end.live), '']);
    rows.push(['committed at its end', bytes(end.committed), `${ratio(end.committed / end.live)} × live`]);
  }
  rows.push(
    ['executors created', count(summary.created), `${count(summary.freed)} freed`],
    ['ended by invalidate', count(summary.invalidated), ''],
    ['evicted cold', count(summary.evictedCold), ''],
    ['executors moved', count(summary.moved), bytes(summary.movedBytes)],
    ['relocs rewritten', count(summary.relocsRewritten), ''],
    ['exits', count(summary.exits), `taken ${count(summary.exitsTaken)} times, hot ${count(summary.hotExits)}`],
    ['links made', count(summary.linksMade), `${count(summary.linksOfDead)} lasted until an end died`],
    ['links taken', count(summary.linksTaken), share(summary.runsThroughLinks, summary.callsChecked)],
    ['collects', count(summary.collects), `${count(summary.collectsThatMoved)} moved something`],
    ['pause, median', micros(pauses.median), moves(ofMoves.median)],
    ['pause, p99', micros(pauses.p99), moves(ofMoves.p99)],
    ['pause, longest', micros(pauses.max), ''],
    ['calls checked', count(summary.callsChecked), `${summary.callsCheckedPerExecutor} per executor`],
    ['verify() passes', count(summary.verifications), ''],
    ['failures', count(summary.failures), ''],
  );
  return rows;
}

function threads(figures: ThreadFigures): string[] {
  const rows: Row[] = [
    ['their runs, all checked', count(figures.callsChecked), ''],
    ['wrong results', count(figures.wrongResults), ''],
    ['executors moved', count(figures.moved), `in ${plural(figures.collects, 'collect')}`],
    ['executors replaced', count(figures.renewed), ''],
    ['retired at most', bytes(figures.retiredBytesPeak), ''],
  ];
  return [
    `beside ${plural(figures.count, 'executing thread')}, ${plural(figures.rounds, 'round')}:`,
    '',
    ...aligned(rows),
  ];
}

function aligned(rows: Row[]): string[] {
  const width = (column: 0 | 1) => Math.max(...rows.map((row) => row[column].length));
  const [first, second] = [width(0), width(1)];
  return rows.map(([what, figure, remark]) =>
    `  ${what.padEnd(first)}  ${figure.padStart(second)}  ${remark}`.trimEnd(),
  );
}
