// T16 and T17: memory while the recordings are replayed as the stress run does it, with all of its checks.
import { Arena, load } from './measure.mjs';
import { readRecordings } from './recordings.mjs';

const { Replay } = load('../../dist/stress/replay/replay.js');
const { stressArena } = load('../../dist/stress/replay/exit.js');

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
    const firstFit = follow(arena, new FirstFit());
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
    yield series('T17', 'worst sample, first fit', firstFit.worst);
  }
}

const MIN_LIVE_BYTES = 256 * 1024;

function worst(samples, key) {
  const asked = samples.filter(({ live }) => live >= MIN_LIVE_BYTES);
  return Math.max(0, ...asked.map((sample) => sample[key] / sample.live));
}

/**
 * By arithmetic: executors in the first hole that is large enough, none of which ever moves, in as many 4 KB pages as
 * anything lies in, and their exit records beside them. What a packing allocator without a collector holds.
 */
class FirstFit {
  /** The worst committed / live of any moment with enough live. */
  worst = 0;
  #spans = []; // { at, end, bytes } by address
  #placed = new Map();
  #spansInPage = new Map();
  #live = 0;
  #records = 0;

  add(id, { code, data = [], exits = 0 }) {
    const bytes = code.length + data.length;
    const size = Math.ceil(bytes / 16) * 16;
    let index = 0;
    let at = 0;
    while (index < this.#spans.length && this.#spans[index].at - at < size) at = this.#spans[index++].end;
    const span = { at, end: at + size, bytes: bytes + 16 * exits, records: 16 * exits };
    this.#spans.splice(index, 0, span);
    this.#placed.set(id, span);
    this.#count(span, 1);
  }

  remove(id) {
    const span = this.#placed.get(id);
    this.#placed.delete(id);
    this.#spans.splice(this.#spans.indexOf(span), 1);
    this.#count(span, -1);
  }

  #count({ at, end, bytes, records }, by) {
    for (let page = Math.floor(at / 4096); page * 4096 < end; page++) {
      const left = (this.#spansInPage.get(page) ?? 0) + by;
      if (left === 0) this.#spansInPage.delete(page);
      else this.#spansInPage.set(page, left);
    }
    this.#live += by * bytes;
    this.#records += by * records;
    if (this.#live < MIN_LIVE_BYTES) return;
    this.worst = Math.max(this.worst, (this.#spansInPage.size * 4096 + this.#records) / this.#live);
  }
}

/** Lets another allocator have what happens in an arena: the very same births and deaths. */
function follow(arena, other) {
  const { install, free, invalidate, collect } = arena;
  arena.install = (spec) => {
    const executor = install.call(arena, spec);
    other.add(executor.id, spec);
    return executor;
  };
  arena.free = (executors) => {
    for (const { id } of [executors].flat()) other.remove(id);
    free.call(arena, executors);
  };
  arena.invalidate = (executor) => {
    other.remove(executor.id);
    invalidate.call(arena, executor);
  };
  arena.collect = (options) => {
    const result = collect.call(arena, options);
    for (const id of result.evictedIds) other.remove(id);
    return result;
  };
  return other;
}
