// Random histories of an arena against a plain Map: allocate, write, freeze, call, free and collect in any order, also
// from inside machine code, and also wrongly. After every step everything that can be asked of the arena is compared.
//
// A failure prints a seed and a path. JIT_ARENA_SEED and JIT_ARENA_PATH repeat it, JIT_ARENA_RUNS makes more histories.
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { Arena, probe } from 'jit-arena';
import { brokenArenas } from './support/broken-arenas.js';
import { Model } from './support/model.js';
import { type ActionName, act, actionNames } from './support/model-actions.js';
import { skip } from './support/skip.js';

const { JIT_ARENA_SEED, JIT_ARENA_PATH, JIT_ARENA_RUNS } = process.env;
const runs = Number(JIT_ARENA_RUNS ?? 20);
const mostSteps = 80;

let nextSeed = Date.now() & 0x3fff_ffff;
/** Printed before the run, because machine code that crashes prints nothing afterwards. */
function chooseSeed(): number {
  const seed = JIT_ARENA_SEED === undefined ? nextSeed++ : Number(JIT_ARENA_SEED);
  console.log(`      JIT_ARENA_SEED=${seed}`);
  return seed;
}

type History = [ActionName, number][];
const histories = fc.array(fc.tuple(fc.constantFrom(...actionNames), fc.nat(0xffff_ffff)), {
  minLength: mostSteps / 2,
  maxLength: mostSteps,
  size: 'max',
});

function live(history: History, model: Model): void {
  for (const [name, seed] of history) act(model, name, seed);
  const { all, arena } = model;
  arena.free(all.map(({ handle }) => handle));
  model.freed(all);
  arena.collect();
  model.check();
  const { liveBytes, keptRelocs, retiredBytes } = arena.stats();
  assert.deepEqual({ liveBytes, keptRelocs, retiredBytes }, { liveBytes: 0, keptRelocs: 0, retiredBytes: 0 });
}

describe('an arena and its model', function () {
  this.timeout(300_000); // finding the shortest history that fails takes its time

  for (const writer of ['alias', 'procmem', 'flip'] as const) {
    for (const layout of ['together', 'apart'] as const) {
      it(`agree after every step: writer ${writer}, code and data ${layout}`, function () {
        const found = probe().find((candidate) => candidate.writer === writer);
        if (!found?.available) skip(this, `writer ${writer}: ${found?.reason}`);
        const total: Record<string, number> = {};
        const property = fc.property(histories, (history) => {
          const maxBytes = [undefined, undefined, 2 ** 30, 2 ** 31][history.length % 4];
          const arena = new Arena({ writer, layout, maxBytes, fullRecords: history.length % 3 === 0 });
          const model = new Model(arena);
          live(history, model);
          const { moves, relocsRewritten } = arena.stats();
          for (const [key, value] of Object.entries({ ...model.figures, moves, relocsRewritten })) {
            total[key] = (total[key] ?? 0) + value;
          }
          arena.dispose();
        });
        fc.assert(property, { seed: chooseSeed(), numRuns: runs, path: JIT_ARENA_PATH ?? '' });
        console.log(`      ${JSON.stringify(total).replace(/["{}]/g, '').replace(/,/g, ', ')}`);
        // Where nothing moved, or nothing was refused, nothing was shown.
        if (JIT_ARENA_PATH === undefined) for (const [key, value] of Object.entries(total)) assert.ok(value > 0, key);
      });
    }
  }
});

describe('the model', () => {
  for (const { bug, make, detectedAs, onlyCalls } of brokenArenas) {
    it(`sees an arena that ${bug}`, function () {
      this.timeout(60_000);
      const property = fc.property(histories, (history) => {
        const model = new Model(make());
        if (onlyCalls) model.check = () => {};
        live(history, model);
      });
      // Always the same histories: what is tested here is the model, and the first symptom to show depends on chance.
      const { failed, errorInstance } = fc.check(property, { seed: 1, numRuns: 40, endOnFailure: true });
      assert.ok(failed, 'it is taken for a good one');
      assert.match((errorInstance as Error).message, detectedAs);
    });
  }
});
