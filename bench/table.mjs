// The table that a run ends with.
import { thousands } from './rows.mjs';

/** About four digits, as few as it takes. */
export function figure(value) {
  if (value === null) return '–';
  const magnitude = Math.abs(value);
  if (Number.isInteger(value)) return thousands(value);
  if (magnitude >= 1000) return thousands(Math.round(value));
  return Number(value.toPrecision(magnitude >= 1 ? 4 : 3)).toString();
}

const verdict = { true: 'met', false: 'MISSED', null: '' };

export function makeTable(rows) {
  const header = ['', 'what', 'ours', '(min – max)', 'unit', 'peer', '', 'ratio', 'target', ''];
  const left = new Set([0, 1, 4, 6, 8, 9]);
  const cells = rows.map((row) => [
    row.id,
    row.what,
    figure(row.ours),
    row.min === row.max ? '' : `${figure(row.min)} – ${figure(row.max)}`,
    row.unit,
    row.peerName === null ? '' : figure(row.peer),
    row.peerName ?? '',
    row.ratio === null ? '' : figure(row.ratio),
    row.target ?? '',
    row.note ?? verdict[row.met],
  ]);
  const widths = header.map((_, i) => Math.max(...[header, ...cells].map((line) => line[i].length)));
  const print = (line) =>
    line
      .map((cell, i) => (left.has(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
      .join('  ')
      .trimEnd();
  const lines = [print(header), widths.map((width) => '─'.repeat(width)).join('  ')];
  for (const line of cells) lines.push(print(line));
  return lines.join('\n');
}

export function summary(rows) {
  const asked = rows.filter(({ met }) => met !== null);
  const met = asked.filter((row) => row.met).length;
  return `${met} of ${asked.length} targets met`;
}
