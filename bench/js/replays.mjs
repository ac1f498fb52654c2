// T16 and T17: memory while the recordings are replayed as the stress run does it, with all of its checks.
import { Arena, load } from './measure.mjs';
import { readRecordings } from './recordings.mjs';

const { Replay } = load('../../dist/stress/replay.js');
const { stressArena } = load('../../dist/stress/exit.js');

/** Below this at its peak, a recording is not asked for ratios. */
const MIN_PEAK_BYTES = 2 ** 20;
const LARGE_PAGE_BYTES = 16384;

/**
 * An arena that keeps what its memory would be on 16 KB pages, at the moment of the most live bytes: groups of pages in
 * which any has memory behind it. (An upper bound: what lies in them could be packed by the larger page as well.)
 */
function watch(arena, pageBytes = 4096) {
  const peak = { live: 0, largePages: 0 };
  const stats = arena.stats.bind(arena);
  arena.stats = () => {
    const result = stats();
    // Looking at every page takes longer than all the rest, so not for each new byte.
    if (result.liveBytes <= peak.live * 1.005) return result;
    peak.live = result.liveBytes;
    const inLarge = LARGE_PAGE_BYTES / pageBytes;
    peak.largePages = 0;
    for (const { backed } of arena.slabs()) {
      for (let page = 0; page < backed.length; page += inLarge) {
        if (backed.slice(page, page + inLarge).includes(true)) peak.largePages++;
      }
    }
    return result;
  };
  return peak;
}

export async function* measureReplays({ smoke, seed }) {
  for (const { name, workload } of readRecordings({ smoke })) {
    const arena = stressArena();
    if (!(arena instanceof Arena)) throw new Error('two copies of the package');
    const watched = watch(arena);
    const replay = new Replay(arena, workload, { seed });
    await replay.run();
    const { checker, timeline } = replay;
    if (checker.failures > 0) throw new Error(`${name}: ${checker.failures} checks failed: ${checker.reports[0]}`);
    arena.dispose();
    const { peak } = timeline;
    const series = (figure, variant, value) => ({
      figure,
      variant: `${name}: ${variant}`,
      size: peak.live,
      unit: 'x',
      values: [value],
    });
    if (!smoke && peak.live < MIN_PEAK_BYTES) continue;
    yield series('T16', 'committed at the peak', peak.committed / peak.live);
    yield series('T16', 'most committed', timeline.committedPeak / peak.live);
    yield series('T16', 'on 16 KB pages', (watched.largePages * LARGE_PAGE_BYTES) / watched.live);
    yield series('T16', 'page per executor', peak.pages4k / peak.live);
    yield series('T16', 'page per executor, 16 KB', peak.pages16k / peak.live);
    yield series('T17', 'worst sample', timeline.ratioMax);
    yield series('T17', 'worst after a collect', timeline.ratioAfterCollectMax);
    yield series('T17', 'worst sample, page per executor', worst(timeline.samples, 'pages4k'));
    yield series('T17', 'worst sample, first fit', firstFit(workload));
  }
}

const MIN_LIVE_BYTES = 256 * 1024;

function worst(samples, key) {
  const asked = samples.filter(({ live }) => live >= MIN_LIVE_BYTES);
  return Math.max(0, ...asked.map((sample) => sample[key] / sample.live));
}

/**
 * By arithmetic: the same executors in the first hole that is large enough, none of which ever moves, in as many 4 KB
 * pages as anything lies in. What a packing allocator without a collector holds at its worst.
 */
function firstFit({ events }) {
  const spans = []; // { at, end } by address
  const placed = new Map();
  const pages = new Map(); // spans that lie in a page
  let live = 0;
  let result = 0;
  const count = ({ at, end }, by) => {
    for (let page = Math.floor(at / 4096); page * 4096 < end; page++) {
      const left = (pages.get(page) ?? 0) + by;
      if (left === 0) pages.delete(page);
      else pages.set(page, left);
    }
  };
  for (const event of events) {
    if (event.kind === 'create') {
      const bytes = event.shape.code + event.shape.data;
      const size = Math.ceil(bytes / 16) * 16;
      let index = 0;
      let at = 0;
      while (index < spans.length && spans[index].at - at < size) at = spans[index++].end;
      const span = { at, end: at + size, bytes };
      spans.splice(index, 0, span);
      placed.set(event.id, span);
      live += bytes;
      count(span, 1);
    } else if (event.kind === 'free') {
      for (const id of event.ids) {
        const span = placed.get(id);
        spans.splice(spans.indexOf(span), 1);
        live -= span.bytes;
        count(span, -1);
        if (live >= MIN_LIVE_BYTES) result = Math.max(result, (pages.size * 4096) / live);
      }
    }
  }
  return result;
}
