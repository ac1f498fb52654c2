// From measured series to rows: what is compared with what, and the target (docs/bench.md has T1 to T20).
//
// A series is { figure, variant, size, unit, values } or { figure, variant, size, missing }. A row compares two of them:
// { id, what, unit, ours, peer, peerName, ratio, target, met, min, max }, and `note` where something is missing. `ours`
// and `peer` are medians, `min` and `max` those of ours, `ratio` is ours / peer. `met` is null where there is no target,
// and never true where anything is missing.

const NOT_MEASURED = 'not measured';

/** A limit for the ratio, or for our own figure. */
const ratioAtMost = (limit) => ({ of: 'ratio', limit, atMost: true, text: `ratio ≤ ${limit}` });
const ratioAtLeast = (limit) => ({ of: 'ratio', limit, atMost: false, text: `ratio ≥ ${limit}` });
const atMost = (limit) => ({ of: 'ours', limit, atMost: true, text: `≤ ${limit}` });
const atLeast = (limit) => ({ of: 'ours', limit, atMost: false, text: `≥ ${limit}` });

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export const thousands = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ' ');

/** The rows of the figures in `ids` (all, unless given). */
export function makeRows(series, ids) {
  const rows = new RowMaker(series);
  for (const [id, make] of Object.entries(figures)) if (ids === undefined || ids.includes(id)) make(rows);
  return rows.rows;
}

class RowMaker {
  rows = [];

  constructor(series) {
    this.series = series;
  }

  /** The sizes at which a figure was measured. */
  sizes(figure, variant = 'arena') {
    return this.series.filter((s) => s.figure === figure && s.variant === variant).map(({ size }) => size);
  }

  find(figure, variant, size) {
    const found = this.series.find(
      (s) => s.figure === figure && s.variant === variant && (size === undefined || s.size === size),
    );
    return found ?? { figure, variant, size, missing: NOT_MEASURED };
  }

  /** `ours` and `peer` are series; without a peer the row has none. */
  add(id, what, ours, { peer, peerName, target, spread = true } = {}) {
    const value = ours.values ? median(ours.values) : null;
    const peerValue = peer?.values ? median(peer.values) : null;
    const ratio = value !== null && peerValue ? value / peerValue : null;
    const missing = ours.missing ?? peer?.missing;
    const compared = target?.of === 'ratio' ? ratio : value;
    const met = missing ? false : target ? isMet(target, compared) : null;
    this.rows.push({
      id,
      what,
      unit: ours.unit ?? peer?.unit ?? '',
      ours: value,
      peer: peerValue,
      peerName: peer ? (peerName ?? peer.variant) : null,
      ratio,
      target: target?.text ?? null,
      met,
      min: value === null || !spread ? null : Math.min(...ours.values),
      max: value === null || !spread ? null : Math.max(...ours.values),
      ...(missing && { note: ours.missing ? `ours: ${missing}` : missing }),
    });
  }
}

function isMet({ limit, atMost }, value) {
  if (value === null || !Number.isFinite(value)) return false;
  return atMost ? value <= limit : value >= limit;
}

const EXECUTABLE_PEERS = ['asmjit dual', 'asmjit dual, pools', 'asmjit single (RWX)', 'page per trace'];

const figures = {
  T1(rows) {
    const sizes = rows.sizes('T1');
    for (const size of sizes) {
      const what = `churn, ${thousands(size)} live`;
      const ours = rows.find('T1', 'arena', size);
      const against = (peer, target) => rows.add('T1', what, ours, { peer: rows.find('T1', peer, size), target });
      against('malloc', ratioAtMost(1.3));
      against('asmjit dual', ratioAtMost(0.1));
      // Measured up to here only: docs/bench.md says why.
      if (size > 100_000) continue;
      for (const peer of ['mimalloc', 'jemalloc', 'asmjit dual, pools', 'asmjit single (RWX)', 'page per trace']) {
        against(peer);
      }
    }
    for (const size of sizes.slice(1)) {
      for (const variant of ['arena', 'malloc']) {
        rows.add('T1', `churn, ${variant}: cost by number live, ${thousands(size)}`, rows.find('T1', variant, size), {
          peer: rows.find('T1', variant, sizes[0]),
          peerName: `itself at ${thousands(sizes[0])}`,
          target: variant === 'arena' ? ratioAtMost(1.2) : undefined,
        });
      }
    }
    const counted = rows.sizes('counts', 'system calls');
    for (const size of counted) {
      rows.add(
        'T1',
        `churn: system calls per 10 000, ${thousands(size)} live`,
        rows.find('counts', 'system calls', size),
        {
          target: atMost(0),
        },
      );
    }
    const [few, many] = rows.sizes('counts', 'instructions');
    rows.add('T1', `churn: instructions, ${thousands(many ?? 0)} live`, rows.find('counts', 'instructions', many), {
      peer: rows.find('counts', 'instructions', few),
      peerName: `itself at ${thousands(few ?? 0)}`,
      target: ratioAtMost(1.2),
    });
    for (const how of ['install', 'allocate + freeze']) {
      rows.add('T1', `churn, ${how}: two threads in one arena`, rows.find('T1-threads', `${how}, two threads`), {
        peer: rows.find('T1-threads', `${how}, one thread`),
        peerName: 'one thread',
        target: ratioAtLeast(1),
      });
    }
  },

  T2(rows) {
    const ours = rows.find('T2', 'arena');
    const what = `fill, ${thousands(ours.size ?? 0)}`;
    for (const peer of ['asmjit dual', 'malloc', 'mimalloc', 'jemalloc', 'asmjit dual, pools', 'page per trace']) {
      rows.add('T2', what, ours, {
        peer: rows.find('T2', peer),
        target: peer === 'asmjit dual' ? ratioAtMost(1) : undefined,
      });
    }
  },

  T3(rows) {
    const peer = rows.find('T3', 'asmjit dual');
    rows.add('T3', 'committed / live after fill', rows.find('T3', 'arena'), { peer, target: atMost(1.04) });
    rows.add('T3', '… metadata included', rows.find('T3', 'arena with metadata'), { peer, target: atMost(1.12) });
    rows.add('T3', '… as the kernel counts', rows.find('T3', 'arena, as the kernel counts'), {
      peer: rows.find('T3', 'page per trace'),
    });
  },

  T4(rows) {
    const ours = rows.find('T4', 'arena');
    for (const peer of EXECUTABLE_PEERS) {
      rows.add('T4', `committed / live after 90 % of ${thousands(ours.size ?? 0)} die`, ours, {
        peer: rows.find('T4', peer),
        target: peer === 'asmjit dual' ? atMost(1.05) : undefined,
      });
    }
    rows.add('T4', '… before collect', rows.find('T4', 'arena, before collect'));
    rows.add('T4', '… metadata included, as the kernel counts', rows.find('T4', 'arena, as the kernel counts'));
  },

  T5(rows) {
    const ours = rows.find('T5', 'arena');
    const what = `compaction, ${thousands(ours.size ?? 0)} × 500 B`;
    for (const loop of ['loop, warm pages', 'loop, fresh pages']) {
      rows.add('T5', what, ours, { peer: rows.find('T5', loop), target: ratioAtMost(2) });
    }
    rows.add('T5', '… rate, nobody executing', rows.find('T5', 'arena: rate'));
  },

  T6(rows) {
    const p99 = rows.find('T6', 'slices: p99');
    rows.add('T6', `slices of 200 µs, ${thousands(p99.size ?? 0)} live: p99`, p99, { target: atMost(220) });
    rows.add('T6', '… longest', rows.find('T6', 'slices: longest'));
    rows.add('T6', '… in all', rows.find('T6', 'slices: in all'), {
      peer: rows.find('T6', 'one piece'),
      peerName: 'one big slice',
      target: ratioAtMost(1.2),
    });
  },

  T7(rows) {
    const counts = rows.sizes('T7', 'direct jumps: dense');
    for (const size of counts) {
      for (const way of ['direct jumps', 'linked exits']) {
        const against = (variant, target, peerName = 'dense') =>
          rows.add(
            'T7',
            `${way}, random order, ${thousands(size)}: ${variant}`,
            rows.find('T7', `${way}: ${variant}`, size),
            { peer: rows.find('T7', `${way}: ${peerName}`, size), peerName, target },
          );
        // The targets are for what no cache holds.
        const target = (limit) => (size >= 50_000 || size === counts.at(-1) ? ratioAtMost(limit) : undefined);
        against('collected', target(1.1));
        against('survivors');
        against('order links', target(0.65));
        against('huge pages', undefined, 'collected');
        if (way === 'direct jumps') against('page per trace');
      }
    }
  },

  T8(rows) {
    const ours = rows.find('T8', 'arena');
    for (const peer of EXECUTABLE_PEERS) {
      rows.add('T8', `${thousands(ours.size ?? 0)} cold exits, records and stub`, ours, {
        peer: rows.find('T8', peer),
        target: peer === 'page per trace' ? atMost(16) : undefined,
      });
    }
  },

  T9(rows) {
    const refused = rows.find('T9', 'arena: refused');
    const what = `${thousands(refused.size ?? 0)} executors, every second one freed`;
    rows.add('T9', `${what}: refused`, refused, {
      peer: rows.find('T9', 'page per trace: refused'),
      target: atMost(0),
    });
    rows.add('T9', `${what}: mappings`, rows.find('T9', 'arena: mappings'), {
      peer: rows.find('T9', 'page per trace: mappings'),
    });
    rows.add('T9', '… mappings per slab, at most', rows.find('T9', 'arena: mappings per slab'), { target: atMost(3) });
    const largest = rows.find('T9', 'largest arena: refused');
    const full = `arena of ${thousands(Math.round((largest.size ?? 0) / 2 ** 20))} MiB, full, then thinned out`;
    rows.add('T9', `${full}: refused`, largest, { target: atMost(0) });
    rows.add('T9', '… mappings per slab, at most', rows.find('T9', 'largest arena: mappings per slab'), {
      target: atMost(3),
    });
  },

  T10(rows) {
    const names = rows.series
      .filter(({ figure, variant }) => figure === 'T10' && variant.endsWith(': records kept'))
      .map(({ variant }) => variant.replace(': records kept', ''));
    for (const name of names.length > 0 ? names : ['all recordings']) {
      const target = (limit) => (name === 'all recordings' ? atMost(limit) : undefined);
      const perRecord = rows.find('T10', `${name}: bytes per kept record`);
      rows.add('T10', `relocs of ${name}: per kept record`, perRecord, { target: target(2) });
      rows.add('T10', '… per recorded hole', rows.find('T10', `${name}: bytes per recorded hole`), {
        target: target(0.1),
      });
      rows.add('T10', `… kept, of ${thousands(perRecord.size ?? 0)}`, rows.find('T10', `${name}: records kept`));
    }
  },

  T11(rows) {
    for (const size of rows.sizes('T11', 'at 0 moves/s')) {
      besideMoves(rows, 'T11', size, { 300: { 200000: 0.93 }, 4000: { 50000: 0.88 } }[size]);
      const what = `moves in a second of collecting, ${thousands(size)} executors`;
      rows.add('T11', what, rows.find('T11', 'moves while collecting', size), { target: atLeast(2) });
    }
    for (const size of rows.sizes('T11-js', 'at 0 moves/s')) besideMoves(rows, 'T11-js', size);
    for (const figure of ['T11', 'T11-js'])
      if (rows.sizes(figure, 'at 0 moves/s').length === 0)
        rows.add('T11', 'executing beside moves', rows.find(figure, 'any'));
  },

  T12(rows) {
    rows.add('T12', 'f(2, 3)', rows.find('T12', 'arena'), {
      peer: rows.find('T12', 'koffi'),
      target: ratioAtMost(0.5),
    });
  },

  T13(rows) {
    const peer = rows.find('T13', 'koffi');
    rows.add('T13', 'run(e)', rows.find('T13', 'arena'), { peer, peerName: 'koffi int()', target: ratioAtMost(0.75) });
  },

  T14(rows) {
    const ours = rows.find('T14', 'arena');
    const peer = rows.find('T14', 'koffi');
    const what = 'install and free one, two relocs';
    rows.add('T14', what, ours, { peer, peerName: 'koffi + mmap', target: ratioAtMost(0.2) });
    rows.add('T14', what, ours, { target: atMost(1500) });
  },

  T15(rows) {
    rows.add('T15', 'install and free in batches, each', rows.find('T15', 'arena'), {
      peer: rows.find('T15', 'native core'),
      target: ratioAtMost(2),
    });
  },

  T19(rows) {
    const shapes = [
      { shape: '200 own 64-bit', limit: 0.4, nanos: 5000 },
      { shape: '300 mixed', limit: 0.5 },
    ];
    for (const { shape, limit, nanos } of shapes) {
      const ours = rows.find('T19', `arena, ${shape}`);
      const what = `install, ${thousands(ours.size ?? 0)} B with ${shape} relocs`;
      rows.add('T19', what, ours, { peer: rows.find('T19', `mmap + mprotect, ${shape}`), target: ratioAtMost(limit) });
      if (nanos !== undefined) rows.add('T19', what, ours, { target: atMost(nanos) });
      rows.add('T19', '… and the same without relocs', rows.find('T19', `arena without relocs, ${shape}`));
    }
  },

  T20(rows) {
    for (const what of ['install', 'free']) {
      rows.add('T20', `${what} with frames for the unwinder`, rows.find('T20', what), {
        peer: rows.find('T20', `${what} without frames`),
        target: ratioAtMost(1.3),
      });
    }
    rows.add('T20', 'throw and catch, one frame of the arena', rows.find('T20', 'throw'));
  },

  T16(rows) {
    for (const name of rowsOfRecordings(rows, 'T16')) {
      const peer = rows.find('T16', `${name}: page per executor`);
      const target = name.endsWith('bench_mix') ? atMost(1.02) : undefined;
      rows.add('T16', `${name}: committed / live at the peak`, rows.find('T16', `${name}: committed at the peak`), {
        peer,
        target,
      });
      rows.add('T16', '… most committed ever / most live', rows.find('T16', `${name}: most committed`), { target });
      rows.add('T16', '… on 16 KB pages, by arithmetic', rows.find('T16', `${name}: on 16 KB pages`), {
        peer: rows.find('T16', `${name}: page per executor, 16 KB`),
      });
    }
  },

  T17(rows) {
    for (const name of rowsOfRecordings(rows, 'T17')) {
      const peer = rows.find('T17', `${name}: worst sample, first fit`);
      rows.add('T17', `${name}: worst committed / live`, rows.find('T17', `${name}: worst sample`), {
        peer,
        peerName: 'first fit, empty pages given back',
        target: atMost(1.1),
      });
      rows.add('T17', '… worst right after a collect', rows.find('T17', `${name}: worst after a collect`), {
        peer: rows.find('T17', `${name}: worst sample, page per executor`),
        peerName: 'page per executor',
      });
    }
  },
};

/** How fast a thread is at each rate of moves, and that it was right; `targets` are by rate. */
function besideMoves(rows, figure, size, targets = {}) {
  const executors = `${thousands(size)} executors${figure === 'T11-js' ? ', from JavaScript' : ''}`;
  const peer = rows.find(figure, 'at 0 moves/s', size);
  for (const { variant } of rows.series.filter((s) => s.figure === figure && s.size === size)) {
    const rate = Number(variant.match(/^at (\d+) moves\/s$/)?.[1] ?? Number.NaN);
    if (!(rate > 0) && variant !== 'unthrottled') continue;
    const target = rate in targets ? ratioAtLeast(targets[rate]) : undefined;
    const ours = rows.find(figure, variant, size);
    const what = `executing beside moves, ${executors}, ${variant}`;
    rows.add('T11', what, ours, { peer, peerName: 'no compaction', target });
  }
  const wrong = rows.find(figure, 'wrong results', size);
  rows.add('T11', `wrong results, ${executors}`, wrong, { target: atMost(0) });
}

/** All that there are, or the one that must be. */
function rowsOfRecordings({ series }, figure) {
  const names = series.filter((s) => s.figure === figure).map(({ variant }) => variant.split(': ')[0]);
  return names.length > 0 ? [...new Set(names)] : ['py314-bench_mix'];
}

export const figureIds = Object.keys(figures);
