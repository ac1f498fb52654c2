// The plots of a run as SVG files: cost by number live, memory, locality, and executing beside moves.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { scaleBand, scaleLinear, scaleLog } from 'd3-scale';
import { line } from 'd3-shape';
import { median, thousands } from './rows.mjs';
import { figure } from './table.mjs';

const WIDTH = 860;
const HEIGHT = 400;
const PLOT = { left: 70, right: 620, top: 44, bottom: HEIGHT - 48 };
const COLORS = 8;

const STYLE = `svg { --page: #fff; --text: #14140f; --muted: #6b6a63; --grid: #e7e6e0;
  --c0: #2a78d6; --c1: #e1571f; --c2: #128a5e; --c3: #6a4bc4; --c4: #b8860b; --c5: #c2417c; --c6: #4a8f9c; --c7: #7a7a72; }
@media (prefers-color-scheme: dark) { svg { --page: #161614; --text: #f1f0ea; --muted: #9b9a92; --grid: #2c2c29;
  --c0: #4c95ea; --c1: #f07c4a; --c2: #35b583; --c3: #a18df2; --c4: #d9ac3d; --c5: #e56fa3; --c6: #74bccb; --c7: #a3a39a; } }
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--text); }
.title { font-weight: 600; font-size: 13px; } .muted { fill: var(--muted); } .end { text-anchor: end; }
.middle { text-anchor: middle; } .grid { stroke: var(--grid); } .line { fill: none; stroke-width: 1.8; }
.target { stroke: var(--muted); stroke-dasharray: 4 4; fill: none; }
${Array.from({ length: COLORS }, (_, i) => `.s${i} { stroke: var(--c${i}); } .f${i} { fill: var(--c${i}); }`).join('\n')}`;

const asText = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');
const at = (value) => value.toFixed(1);

function picture(title, subtitle, height, parts) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}">
<style>${STYLE}</style>
<rect width="${WIDTH}" height="${height}" rx="8" fill="var(--page)"/>
<text class="title" x="20" y="22">${asText(title)}</text>
<text class="muted" x="${WIDTH - 20}" y="22" text-anchor="end">${asText(subtitle)}</text>
${parts.join('\n')}
</svg>
`;
}

/** Lines on a logarithmic x axis: `series` are { name, points: [[x, y]…] }; `targets` are { y, name }. */
function lines({ title, subtitle, xLabel, xTicks, yLabel, logY, series, targets = [] }) {
  const xs = series.flatMap(({ points }) => points.map(([x]) => x));
  const ys = [...series.flatMap(({ points }) => points.map(([, y]) => y)), ...targets.map(({ y }) => y)];
  const x = scaleLog([Math.min(...xs), Math.max(...xs)], [PLOT.left, PLOT.right]);
  const y = logY
    ? scaleLog([Math.min(...ys), Math.max(...ys)], [PLOT.bottom, PLOT.top]).nice()
    : scaleLinear([0, Math.max(1, ...ys)], [PLOT.bottom, PLOT.top]).nice();
  const parts = [];
  // Only powers of ten on a logarithmic axis: the others would overlap.
  const isMajor = (tick) => Math.log10(tick) % 1 === 0;
  for (const tick of logY ? y.ticks().filter(isMajor) : y.ticks(6)) {
    parts.push(`<path class="grid" d="M${PLOT.left} ${at(y(tick))}H${PLOT.right}"/>`);
    parts.push(`<text class="end" x="${PLOT.left - 8}" y="${at(y(tick) + 4)}">${figure(tick)}</text>`);
  }
  for (const tick of xTicks ?? x.ticks().filter((tick) => /^[125]/.test(tick))) {
    parts.push(`<path class="grid" d="M${at(x(tick))} ${PLOT.top}V${PLOT.bottom}"/>`);
    parts.push(`<text class="middle" x="${at(x(tick))}" y="${PLOT.bottom + 18}">${thousands(tick)}</text>`);
  }
  parts.push(
    `<text class="middle muted" x="${(PLOT.left + PLOT.right) / 2}" y="${HEIGHT - 10}">${asText(xLabel)}</text>`,
  );
  parts.push(`<text class="muted" x="${PLOT.left}" y="${PLOT.top - 6}">${asText(yLabel)}</text>`);
  for (const { y: value, name } of targets) {
    parts.push(`<path class="target" d="M${PLOT.left} ${at(y(value))}H${PLOT.right}"/>`);
    parts.push(`<text class="muted" x="${PLOT.right + 6}" y="${at(y(value) + 4)}">${asText(name)}</text>`);
  }
  const path = line(
    ([value]) => x(value),
    ([, value]) => y(value),
  );
  for (const [i, { name, points }] of series.entries()) {
    const color = i % COLORS;
    parts.push(`<path class="line s${color}" d="${path(points)}"/>`);
    for (const [px, py] of points) {
      parts.push(`<circle class="f${color}" cx="${at(x(px))}" cy="${at(y(py))}" r="3"/>`);
    }
    const keyY = PLOT.top + 40 + i * 20;
    parts.push(`<path class="line s${color}" d="M${PLOT.right + 40} ${keyY - 4}h18"/>`);
    parts.push(`<text x="${PLOT.right + 66}" y="${keyY}">${asText(name)}</text>`);
  }
  return picture(title, subtitle, HEIGHT, parts);
}

/** Bars: `bars` are { name, value }. */
function bars({ title, subtitle, unit, bars: given }) {
  const height = 60 + given.length * 28;
  const x = scaleLinear([0, Math.max(...given.map(({ value }) => value))], [200, WIDTH - 120]);
  const y = scaleBand(
    given.map(({ name }) => name),
    [40, height - 16],
  ).padding(0.3);
  const parts = given.flatMap(({ name, value }) => {
    const top = y(name);
    const middle = at(top + y.bandwidth() / 2 + 4);
    const color = name.startsWith('arena') || name.includes('collected') ? 0 : 7;
    return [
      `<text class="end" x="192" y="${middle}">${asText(name)}</text>`,
      `<rect class="f${color}" x="200" y="${at(top)}" width="${at(Math.max(1, x(value) - 200))}" height="${at(y.bandwidth())}"/>`,
      `<text class="muted" x="${at(x(value) + 8)}" y="${middle}">${figure(value)} ${asText(unit)}</text>`,
    ];
  });
  return picture(title, subtitle, height, parts);
}

/** What a run's series allow: a Map from file name to SVG. */
export function makePlots(series, subtitle) {
  const plots = new Map();
  const of = (figureId) => series.filter((s) => s.figure === figureId && s.values);

  // By how many live.
  const linePlots = [
    ['T1-churn.svg', 'T1: free a random executor, install another, by how many live', of('T1'), ''],
    ...['direct jumps', 'linked exits'].map((way) => [
      `T7-${way.replace(' ', '-')}.svg`,
      `T7: functions that go on to each other in random order (${way}), each, by how many`,
      of('T7'),
      `${way}: `,
    ]),
  ];
  for (const [file, title, measured, prefix] of linePlots) {
    const curves = [...byVariant(measured.filter(({ variant }) => variant.startsWith(prefix)))]
      .map(([name, list]) => ({
        name: name.slice(prefix.length),
        points: list.map(({ size, values }) => [size, median(values)]),
      }))
      .filter(({ points }) => points.length > 1);
    if (curves.length === 0) continue;
    const xTicks = [...new Set(measured.map(({ size }) => size))];
    plots.set(file, lines({ title, subtitle, xLabel: 'live', xTicks, yLabel: 'ns', logY: true, series: curves }));
  }

  const barPlots = [
    ['T2', 'T2-fill.svg', 'T2: fill an empty allocator, each executor', 'ns', () => true],
    [
      'T4',
      'T4-survivors.svg',
      'T4: memory per live byte after nine of ten have died',
      '×',
      (s) => !s.variant.includes('kernel'),
    ],
  ];
  for (const [id, file, title, unit, wanted] of barPlots) {
    const chosen = of(id)
      .filter(wanted)
      .map(({ variant, values }) => ({ name: variant, value: median(values) }));
    if (chosen.length > 0) plots.set(file, bars({ title, subtitle, unit, bars: chosen }));
  }

  const threads = of('T11');
  const curves = [...new Set(threads.map(({ size }) => size))].flatMap((size) => {
    const medianOf = (variant) => {
      const found = threads.find((s) => s.size === size && s.variant === variant);
      return found && median(found.values);
    };
    const none = medianOf('at 0 moves/s');
    const points = threads
      .filter(({ variant, size: ofSize }) => ofSize === size && /^(at [1-9]\d* moves\/s|unthrottled)$/.test(variant))
      .map(({ variant }) => [medianOf(`moves ${variant}`) * 1e6, medianOf(variant) / none])
      .filter(([moves]) => moves > 0)
      .sort(([a], [b]) => a - b);
    return none && points.length > 1 ? [{ name: `${thousands(size)} executors`, points }] : [];
  });
  if (curves.length > 0) {
    plots.set(
      'T11-threads.svg',
      lines({
        title: 'T11: results per second of its own time of a thread beside another that moves what it executes',
        subtitle: '',
        xLabel: `moves per second · ${subtitle}`,
        yLabel: 'share of what it gets beside no compaction',
        series: curves,
        targets: [
          { y: 0.93, name: '0.93' },
          { y: 0.88, name: '0.88' },
        ],
      }),
    );
  }
  return plots;
}

/** Map.groupBy, which Node 20 does not have. */
function byVariant(series) {
  const groups = new Map();
  for (const s of series) groups.set(s.variant, [...(groups.get(s.variant) ?? []), s]);
  return groups;
}

export function writePlots(folder, series, subtitle) {
  const plots = makePlots(series, subtitle);
  for (const [file, svg] of plots) writeFileSync(join(folder, file), svg);
  return [...plots.keys()];
}
