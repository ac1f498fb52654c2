// T10: every recorded executor with its recorded holes; how many relocs a move needs, and what their records take.
import { load } from './measure.mjs';
import { readRecordings, sumOf } from './recordings.mjs';

const { stressArena } = load('../../dist/stress/replay/exit.js');
const { generate } = load('../../dist/stress/program/generate.js');
const { withHelpers } = load('../../dist/stress/program/helpers.js');
const { Random } = load('../../dist/stress/program/random.js');
const { outsideWorld } = load('../../dist/stress/program/world.js');

/** Holes as a recording counts them: `symbolsInData` are among `symbols`. */
const holesOf = ({ symbolsInData, ...counts }) => sumOf(Object.values(counts));

export function* measureRelocs({ smoke, seed }) {
  const all = { holes: 0, kept: 0, bytes: 0 };
  for (const { name, workload } of readRecordings({ smoke })) {
    const arena = stressArena({ maxBytes: 512 * 2 ** 20, layout: 'together' });
    const world = withHelpers(outsideWorld(), arena, seed);
    const before = arena.stats();
    let holes = 0;
    for (const event of workload.events) {
      if (event.kind !== 'create') continue;
      arena.install(generate(event.shape, new Random(seed, event.id), world).encode());
      holes += holesOf(event.shape.holes);
    }
    const after = arena.stats();
    const kept = after.keptRelocs - before.keptRelocs;
    const bytes = after.keptRelocBytes - before.keptRelocBytes;
    arena.dispose();
    yield* report(name, holes, kept, bytes);
    all.holes += holes;
    all.kept += kept;
    all.bytes += bytes;
  }
  yield* report('all recordings', all.holes, all.kept, all.bytes);
}

function* report(name, holes, kept, bytes) {
  const series = (what, unit, value) => ({
    figure: 'T10',
    variant: `${name}: ${what}`,
    size: holes,
    unit,
    values: [value],
  });
  yield series('bytes per kept record', 'B', kept === 0 ? 0 : bytes / kept);
  yield series('bytes per recorded hole', 'B', bytes / holes);
  yield series('records kept', 'records', kept);
}
