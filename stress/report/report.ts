// The HTML report: one file with everything in it, to be opened from anywhere and read by somebody who was not there.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BestCollect, Timeline } from '../replay/timeline';
import type { ThreadFigures } from '../threads/threads';
import { chartsOf, drawCharts } from './charts';
import { bytes, count, micros, plural, ratio } from './format';
import { inWords, LEVELS, occupancyMaps } from './occupancy';
import { STYLE } from './report-style';
import type { Pauses, Summary } from './summary';

export function report(summary: Summary, timeline: Timeline): string {
  const title = `jit-arena stress: ${escaped(summary.workload)}`;
  const charts = JSON.stringify(chartsOf(timeline)).replaceAll('<', '\\u003c');
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${asset('uPlot.min.css')}${STYLE}</style>
<main>
<h1>${title}</h1>
${introduction(summary)}
${tiles(summary)}
<section>
<h2>Memory</h2>
<p class="note">By step of the replay: a step is one executor created or freed. Live is what the executors' bytes add up
to, committed what the arena takes from the system for them. The other two are what whole pages for each executor would
take, by arithmetic. ${recordingEnd(summary)}Point at a plot to read its values.</p>
<div id="memory" class="plot"></div>
</section>
<section>
<h2>Bytes taken for each live byte</h2>
<p class="note">The same, divided by live, wherever at least 256 KiB are live. 1 would be perfect packing.
The teeth: frees leave gaps, until a collect that pays off closes them.</p>
<div id="ratio" class="plot"></div>
</section>
<section>
<h2>Pauses</h2>
<p class="note">How long each of the ${count(summary.collects)} collects took; the scale is logarithmic.
Those that moved something: median
${micros(summary.pausesOfMovesMicros.median)}, p99 ${micros(summary.pausesOfMovesMicros.p99)}, longest
${micros(summary.pausesOfMovesMicros.max)}.</p>
<div id="pauses" class="plot"></div>
</section>
${timeline.best ? maps(timeline.best) : ''}
${summary.threads ? threads(summary.threads) : ''}
${figures(summary)}
${words()}
</main>
<script>${asset('uPlot.iife.min.js')}</script>
<script>(${drawCharts})(${charts}, uPlot, window)</script>
</html>
`;
}

function introduction(summary: Summary): string {
  const { callsChecked, created, failures, moved, rounds } = summary;
  const verdict =
    failures === 0
      ? `Each of the ${count(callsChecked)} checked runs ended as it should.`
      : `<span class="bad">${plural(failures, 'check')} failed.</span>`;
  const list = summary.failureReports.map((failure) => `<li><code>${escaped(failure)}</code></li>`).join('');
  return `<p class="lead">A recording of what CPython's JIT compiled and threw away was replayed
${rounds === 1 ? 'once' : `in ${count(rounds)} rounds`} in a jit-arena: ${plural(created, 'executor')} of the recorded
sizes, filled with real machine code, were installed, run, linked to each other and freed in the recorded order. To close
the gaps that frees leave, executors were moved ${count(moved)} times, and with them every reference to them. ${verdict}</p>
${list && `<ul class="bad">${list}</ul>`}
<p class="note">Contents from seed ${summary.seed}; ${summary.seconds.toFixed(1)} s, checks included${summary.interrupted ? '; interrupted before its end' : ''}.</p>`;
}

function recordingEnd({ recordingEnd: end }: Summary): string {
  return end ? `The recording ends at step ${count(end.step)}; then all that is left is freed in random order. ` : '';
}

function tiles(summary: Summary): string {
  const { failures, liveBytesPeak: live } = summary;
  const tile = (figure: string, what: string, style = '') =>
    `<div class="tile"><b class="${style}">${figure}</b><span>${what}</span></div>`;
  const perPage = `${ratio(summary.pagePerExecutorBytesPeak / live)} and ${ratio(summary.pagePerExecutor16kBytesPeak / live)}`;
  return `<div class="tiles">
${tile(ratio(summary.ratioPeak), `bytes committed for each live byte at the peak; whole pages per executor: ${perPage}`)}
${tile(count(summary.moved), `executors moved, ${plural(summary.relocsRewritten, 'reloc')} rewritten for it`)}
${tile(count(summary.linksTaken), `jumps straight from trace to trace, through ${plural(summary.linksMade, 'link')}`)}
${tile(micros(summary.pausesMicros.max), `longest pause of ${plural(summary.collects, 'collect')}`)}
${tile(count(summary.callsChecked), `calls checked, ${summary.callsCheckedPerExecutor} per executor`)}
${tile(count(failures), 'failures', failures === 0 ? 'good' : 'bad')}
</div>`;
}

function maps({ collect, before: slabsBefore, after: slabsAfter }: BestCollect): string {
  const [before, after] = occupancyMaps(slabsBefore, slabsAfter);
  const key = ['backed, nothing live'];
  for (let level = 1; level <= LEVELS; level++) key.push(`to ${(100 * level) / LEVELS} % live`);
  const cells = key.map((text, level) => `<span><i class="l${level}"></i>${text}</span>`).join('\n');
  return `<section>
<h2>Pages before and after a collect</h2>
<p class="note">The collect that freed the most pages by moving alone, at step ${count(collect.step)}: it moved
${plural(collect.moved, 'executor')} and freed ${plural(collect.pagesFreed, 'page')} in ${micros(collect.micros)}. A row is a slab of
the arena, a cell a page of 4 KiB; a slab has the same row on both sides. Point at a row for its figures.</p>
<div class="key">
${cells}
<span><i class="none"></i>not backed by memory</span>
</div>
<div class="maps">
<div><h3>Before</h3><p class="note">${inWords(slabsBefore)}</p>${before}</div>
<div><h3>After</h3><p class="note">${inWords(slabsAfter)}</p>${after}</div>
</div>
</section>`;
}

function threads(figures: ThreadFigures): string {
  const row = (what: string, figure: string) => `<tr><td>${what}</td><td>${figure}</td></tr>`;
  return `<section id="threads">
<h2>Threads that execute beside compaction</h2>
<p class="note">After the replay, ${plural(figures.count, 'thread')} ran through linked traces and checked each result, while
the main thread replaced traces and compacted as fast as it could, so that all that they executed moved. Everything was
verified ${plural(figures.rounds, 'time')} on the way.</p>
<div class="scroll"><table>
<tr><th>in all</th><th></th></tr>
${row('runs checked', count(figures.callsChecked))}
${row('wrong results', count(figures.wrongResults))}
${row('executors moved, replaced', `${count(figures.moved)}, ${count(figures.renewed)}`)}
${row('collects', count(figures.collects))}
${row('retired at most, waiting for a thread', bytes(figures.retiredBytesPeak))}
</table></div>
</section>`;
}

function figures(summary: Summary): string {
  const { liveBytesPeak: live, pausesMicros: pauses, pausesOfMovesMicros: ofMoves } = summary;
  const three = ({ median, p99, max }: Pauses) => [median, p99, max].map(micros).join(', ');
  const memory = (what: string, value: number) =>
    `<tr><td>${what}</td><td>${bytes(value)}</td><td>${ratio(value / live)}</td></tr>`;
  const row = (what: string, figure: string) => `<tr><td>${what}</td><td>${figure}</td></tr>`;
  return `<section>
<h2>Figures</h2>
<div class="tables">
<div class="scroll"><table>
<tr><th>at the peak of live bytes</th><th>bytes</th><th>per live byte</th></tr>
${memory('live', live)}
${memory('committed', summary.committedBytesAtPeak)}
${memory('page per executor, 4 KB', summary.pagePerExecutorBytesPeak)}
${memory('page per executor, 16 KB', summary.pagePerExecutor16kBytesPeak)}
</table></div>
<div class="scroll"><table>
<tr><th>in all</th><th></th></tr>
${row('executors created', count(summary.created))}
${row('executors freed', count(summary.freed))}
${row('of these invalidated, evicted cold', `${count(summary.invalidated)}, ${count(summary.evictedCold)}`)}
${row('exits, how often taken', `${count(summary.exits)}, ${count(summary.exitsTaken)}`)}
${row('how often one became hot', count(summary.hotExits))}
${row('links made, how often taken', `${count(summary.linksMade)}, ${count(summary.linksTaken)}`)}
${row('of these of exits that became hot', count(summary.linksOfHotExits))}
${row('links undone by unlink, by the death of an end', `${count(summary.unlinked)}, ${count(summary.linksOfDead)}`)}
${row('executors moved', count(summary.moved))}
${row('bytes moved', bytes(summary.movedBytes))}
${row('relocs rewritten', count(summary.relocsRewritten))}
${row('collects, of which moved something', `${count(summary.collects)}, ${count(summary.collectsThatMoved)}`)}
${row('pauses: median, p99, longest', three(pauses))}
${row('of collects that moved something', three(ofMoves))}
${row('most committed at any moment', bytes(summary.committedBytesPeak))}
${row('worst committed per live byte', ratio(summary.ratioMax))}
${row('the same, directly after a collect', ratio(summary.ratioAfterCollectMax))}
${row('calls checked', count(summary.callsChecked))}
${row('verify() passes', count(summary.verifications))}
${row('failures', count(summary.failures))}
</table></div>
</div>
</section>`;
}

function words(): string {
  return `<section>
<h2>Words</h2>
<dl>
<dt>executor</dt><dd>One piece of compiled code with its constants. Here it computes a checksum in which every reloc takes part.</dd>
<dt>reloc</dt><dd>A place in an executor that depends on an address, and must be rewritten when that changes.</dd>
<dt>trace</dt><dd>Here every recorded executor is one: it leaves through one of its exits, or is done.</dd>
<dt>exit</dt><dd>A numbered way out of a trace. Taken often, it becomes hot; then a JIT compiles what follows.</dd>
<dt>link</dt><dd>Makes an exit jump straight to another trace.</dd>
<dt>cold</dt><dd>Not executed between two collects that looked for such: what they throw away.</dd>
<dt>slab</dt><dd>A run of pages, 256 KiB by default, into which executors are packed.</dd>
<dt>retired</dt><dd>Memory of freed or moved code that a thread may still be executing: it is used again when none can.</dd>
<dt>collect</dt><dd>Moves live executors together, so that whole pages become empty and go back to the system.</dd>
</dl>
</section>`;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

/** The build puts uPlot's files beside this one. */
function asset(name: string): string {
  return readFileSync(join(__dirname, name), 'utf8').replaceAll('</script', '<\\/script');
}
