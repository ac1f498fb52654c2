// Measures the figures that need JavaScript, one JSON line per series, as bench/native/main.cc does for the others.
//
//   node bench/js/main.mjs [--smoke] [--runs N] [--seed N] FIGURE…
import { parseArgs } from 'node:util';
import { measureCalls, measureRuns } from './calls.mjs';
import { measureBatches, measureInstalls } from './installs.mjs';
import { measureRelocs } from './relocs.mjs';
import { measureReplays } from './replays.mjs';
import { measureThreads } from './threads.mjs';

const figures = {
  T10: measureRelocs,
  T11: measureThreads,
  T12: measureCalls,
  T13: measureRuns,
  T14: measureInstalls,
  T15: measureBatches,
  T16: measureReplays,
  T17: measureReplays,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    smoke: { type: 'boolean', default: false },
    runs: { type: 'string', default: '7' },
    seed: { type: 'string', default: '1' },
  },
});
const settings = { smoke: values.smoke, runs: Number(values.runs), seed: Number(values.seed) };
for (const measure of new Set(positionals.map((figure) => figures[figure]))) {
  // One line per series: { figure, variant, size, unit, values } or { figure, variant, size, missing }.
  for await (const series of measure(settings)) console.log(JSON.stringify(series));
}
