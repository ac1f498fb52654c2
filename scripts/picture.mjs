// node scripts/picture.mjs, after a build: replays the default workload and draws docs/images/stress.svg, the picture in
// the README: memory over the replay, and the pages around the collect that freed the most.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { root } from './tools.mjs';

const load = createRequire(import.meta.url);
const { stressArena } = load('../dist/stress/replay/exit.js');
const { occupancyMaps, inWords } = load('../dist/stress/report/occupancy.js');
const { Replay } = load('../dist/stress/replay/replay.js');
const { readWorkload } = load('../dist/stress/recording/workload.js');

const arena = stressArena();
const replay = new Replay(arena, readWorkload(join(root, 'bench/workloads/py314-bench_mix.jsonl.gz')), { seed: 1 });
await replay.run();
const { samples: all, best } = replay.timeline;
const { failures } = replay.checker;
arena.dispose();
if (failures > 0) throw new Error(`${failures} checks failed: no picture`);

const WIDTH = 860;
const PLOT = { left: 52, top: 44, width: 560, height: 200 };
const SERIES = [
  ['pages16k', 'one 16 KB page or more each'],
  ['pages4k', 'one 4 KB page or more each'],
  ['committed', 'committed by the arena'],
  ['live', 'live'],
];
const MIB = 2 ** 20;
const maxStep = all.at(-1).step;
/** A sample for every second unit of width: the one with the most committed, so that no peak of ours is lost. */
const samples = [];
for (const sample of all) {
  const place = Math.floor((sample.step / maxStep) * (PLOT.width / 2));
  if (sample.committed >= (samples[place]?.committed ?? 0)) samples[place] = sample;
}
samples.push(all.at(-1));
const maxMib = 20;
const x = (step) => (PLOT.left + (step / maxStep) * PLOT.width).toFixed(1);
const y = (bytes) => (PLOT.top + PLOT.height * (1 - bytes / MIB / maxMib)).toFixed(1);

const line = (key) =>
  samples
    .filter(Boolean)
    .map((sample) => `${x(sample.step)} ${y(sample[key])}`)
    .join('L');
const grid = [0, 5, 10, 15, 20].map(
  (mib) => `<path class="grid" d="M${PLOT.left} ${y(mib * MIB)}h${PLOT.width}"/>
<text class="end" x="${PLOT.left - 6}" y="${Number(y(mib * MIB)) + 4}">${mib} MiB</text>`,
);
const peak = all.reduce((a, b) => (b.live > a.live ? b : a));
const key = SERIES.map(([name, text], i) => {
  const at = PLOT.top + 22 + i * 40;
  const left = PLOT.left + PLOT.width + 24;
  const figure = `${(peak[name] / MIB).toFixed(2)} MiB at the peak`;
  return `<path class="line ${name}" d="M${left} ${at - 4}h18"/><text x="${left + 26}" y="${at}">${text}</text>
<text class="muted" x="${left + 26}" y="${at + 15}">${figure}</text>`;
});

const mapsTop = PLOT.top + PLOT.height + 46;
const [before, after] = occupancyMaps(best.before, best.after);
const mapHeight = (Number(before.match(/viewBox="0 0 \d+ (\d+)"/)[1]) * 400) / 512;
const placed = (map, left) =>
  map.replace('<svg class="map"', `<svg class="map" x="${left}" y="${mapsTop + 34}" width="400" height="${mapHeight}"`);
const height = mapsTop + 34 + Math.ceil(mapHeight) + 14;

const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}">
<style>
svg { --page: #fff; --text: #14140f; --muted: #6b6a63; --grid: #e7e6e0; --none: #cfcec6;
  --live: #2a78d6; --committed: #e1571f; --pages4k: #128a5e; --pages16k: #6a4bc4;
  --l0: #e6e5df; --l1: #cde2fb; --l2: #94c0f2; --l3: #5598e7; --l4: #2a6fc4; --l5: #104281; }
@media (prefers-color-scheme: dark) { svg { --page: #161614; --text: #f1f0ea; --muted: #9b9a92; --grid: #2c2c29;
  --none: #3b3b37; --live: #4c95ea; --committed: #f07c4a; --pages4k: #35b583; --pages16k: #a18df2;
  --l0: #2b2b28; --l1: #123052; --l2: #1b4b82; --l3: #2a6cb8; --l4: #5598e7; --l5: #b7d6fb; } }
text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--text); }
.title { font-weight: 600; font-size: 13px; } .muted, .map text { fill: var(--muted); } .end { text-anchor: end; }
.grid { stroke: var(--grid); } .line { fill: none; stroke-width: 1.6; }
.live.line { stroke: var(--live); } .committed.line { stroke: var(--committed); }
.pages4k.line { stroke: var(--pages4k); } .pages16k.line { stroke: var(--pages16k); }
.fill { fill: var(--live); opacity: .16; }
.map rect { fill: none; } .none { fill: none; stroke: var(--none); stroke-width: .6; }
.l0 { fill: var(--l0); } .l1 { fill: var(--l1); } .l2 { fill: var(--l2); } .l3 { fill: var(--l3); }
.l4 { fill: var(--l4); } .l5 { fill: var(--l5); }
</style>
<rect width="${WIDTH}" height="${height}" rx="8" fill="var(--page)"/>
<text class="title" x="${PLOT.left}" y="22">Memory while a recorded CPython JIT workload is replayed (py314-bench_mix)</text>
${grid.join('\n')}
<path class="fill" d="M${x(0)} ${y(0)}L${line('live')}L${x(maxStep)} ${y(0)}z"/>
${SERIES.map(([name]) => `<path class="line ${name}" d="M${line(name)}"/>`).join('\n')}
<text class="muted" x="${PLOT.left}" y="${PLOT.top + PLOT.height + 18}">executors created and freed: 0 to ${maxStep}</text>
${key.join('\n')}
<text class="title" x="20" y="${mapsTop + 8}">Before one collect</text>
<text class="muted" x="20" y="${mapsTop + 26}">${inWords(best.before)}</text>
<text class="title" x="440" y="${mapsTop + 8}">After it: ${best.collect.moved} executors moved</text>
<text class="muted" x="440" y="${mapsTop + 26}">${inWords(best.after)}</text>
${placed(before, 20)}
${placed(after, 440)}
</svg>
`;
const path = join(root, 'docs/images/stress.svg');
writeFileSync(path, picture);
console.log(`${path}: ${Math.round(picture.length / 1024)} KiB`);
