// npm run bench: builds, measures the figures T1 to T20 side by side with their peers, prints a table. docs/bench.md
// explains the figures.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { jobs, mustRun, root } from './tools.mjs';

const HELP = `npm run bench -- [options]: measures jit-arena side by side with its peers

  --only T1,T12     these figures only
  --runs N          runs of each series, at least 5 (default: 7)
  --seed N          what is random (default: 1)
  --json FILE       write machine and rows as JSON
  --results FOLDER  write results.json and the plots there; without it, a complete run on a quiet machine writes to
                    bench/results/<date>-<cpu>
  --smoke           tiny sizes and two runs: shows that every row is produced, measures nothing
  --no-build        measure what has been built

The exit status is 0 after a good run, 1 when something failed or was wrong, 3 when the machine was loaded. Targets that
are missed are in the table and do not change it.
`;
const FAILED = 1;
const NOT_GOOD = 3;
/** Everybody would need them, and they are made from one program's runs. */
const NATIVE = [
  'T1',
  'T1-threads',
  'T2',
  'T3',
  'T4',
  'T5',
  'T6',
  'T7',
  'T8',
  'T9',
  'T11',
  'T15',
  'T19',
  'T20',
  'counts',
];
const JAVASCRIPT = ['T10', 'T11', 'T12', 'T13', 'T14', 'T15', 'T16', 'T17'];
/** Measured by the same runs. */
const TOGETHER = [
  ['T2', 'T3'],
  ['T16', 'T17'],
];
const MIN_RUNS = 5;

const options = parseOptions();
if (options.build) {
  mustRun(process.execPath, ['scripts/build.mjs']);
  mustRun('cmake', ['--build', 'build', '--target', 'jit_arena_bench', '--parallel', jobs]);
}
const program = join(root, 'build/bench/jit_arena_bench');
if (!existsSync(program)) fail(`${program} is not there: build without --no-build, with -DJA_BENCH=ON`);
// These need what was built.
const { describeMachine, loadAverage, LoadWatch } = await import('../bench/machine.mjs');
const { figureIds, makeRows } = await import('../bench/rows.mjs');
const { makeTable, summary } = await import('../bench/table.mjs');
const { writePlots } = await import('../bench/plots.mjs');

const ids = options.only ?? figureIds;
const unknown = ids.filter((id) => !figureIds.includes(id));
if (unknown.length > 0) fail(`--only ${unknown}: the figures are ${figureIds.join(', ')}`);

const watch = new LoadWatch();
const loadBefore = loadAverage();
await watch.lookAtIdle('before the run');
if (watch.reasons.length > 0 && !options.smoke) {
  console.log(`The machine is loaded (${watch.reasons.join('; ')}): this will not be a good run.`);
}
const series = [];
for (const figure of figuresToRun()) {
  if (NATIVE.includes(figure)) await measure(program, [figure], figure);
  if (JAVASCRIPT.includes(figure)) await measure(process.execPath, [join(root, 'bench/js/main.mjs'), figure], figure);
}
await watch.lookAtIdle('after the run');
process.stderr.write('\n');

const rows = makeRows(series, options.only);
const loaded = watch.reasons.length > 0;
const machine = {
  ...describeMachine(),
  loaded,
  reasons: watch.reasons,
  loadAverage: { before: loadBefore, after: loadAverage() },
  runs: options.runs,
  seed: options.seed,
  smoke: options.smoke,
};
console.log(`${makeTable(rows)}\n`);
console.log(`${machine.cpu}, ${machine.cores} cores, ${machine.kernel}, Node ${machine.node}, koffi ${machine.koffi}`);
console.log(`median of ${options.runs} runs, seed ${options.seed}; ${summary(rows)}`);
if (options.json) writeJson(options.json);
const folder = options.results ?? (isComplete() ? join(root, 'bench/results', resultsName()) : undefined);
if (folder) {
  mkdirSync(folder, { recursive: true });
  writeJson(join(folder, 'results.json'));
  const plots = writePlots(folder, series, `${machine.cpu}, ${machine.date.slice(0, 10)}`);
  console.log(`${plots.length} plots and the results: ${folder}`);
}
if (options.smoke) console.log('A smoke run: the figures mean nothing.');
else if (loaded) {
  console.log(`NOT A GOOD RUN: ${watch.reasons.join('; ')}`);
  process.exitCode = NOT_GOOD;
}

function figuresToRun() {
  const chosen = ids.filter((id) => !TOGETHER.some(([first, second]) => id === second && ids.includes(first)));
  return chosen.flatMap((id) => (id === 'T1' ? ['T1', 'T1-threads', 'counts'] : [id]));
}

/** Runs a program that prints series. */
async function measure(command, args, figure) {
  process.stderr.write(`\r\x1b[Kmeasuring ${figure}`);
  const settings = ['--runs', String(options.runs), '--seed', String(options.seed)];
  if (options.smoke) settings.push('--smoke');
  const child = spawn(command, [...args, ...settings], {
    cwd: root,
    // For jemalloc: bench/native/peer_malloc.cc.
    env: { ...process.env, GLIBC_TUNABLES: 'glibc.rtld.optional_static_tls=16384' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output += text;
  });
  const ending = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => resolve(signal ?? status));
  });
  if (ending !== 0) fail(`${figure}: ${command} ended with ${ending}`);
  for (const line of output.trim().split('\n')) series.push(JSON.parse(line));
  watch.look(figure);
}

function writeJson(path) {
  writeFileSync(path, `${JSON.stringify({ machine, rows, series }, null, 1)}\n`);
}

function isComplete() {
  return !options.smoke && !options.only && !loaded;
}

function resultsName() {
  const cpu = machine.cpu.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  return `${machine.date.slice(0, 10)}-${cpu.replace(/^-|-$/g, '')}`;
}

function parseOptions() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        help: { type: 'boolean', short: 'h' },
        only: { type: 'string' },
        runs: { type: 'string' },
        seed: { type: 'string', default: '1' },
        json: { type: 'string' },
        results: { type: 'string' },
        smoke: { type: 'boolean', default: false },
        'no-build': { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    fail(error.message);
  }
  if (values.help) {
    process.stdout.write(HELP);
    process.exit(0);
  }
  const runs = Number(values.runs ?? (values.smoke ? 2 : 7));
  const seed = Number(values.seed);
  if (!Number.isInteger(runs) || runs < (values.smoke ? 1 : MIN_RUNS))
    fail(`--runs ${values.runs}: at least ${MIN_RUNS}`);
  if (!Number.isSafeInteger(seed) || seed < 0) fail(`--seed ${values.seed}: not a whole number from 0 up`);
  return {
    only: values.only?.split(','),
    runs,
    seed,
    json: values.json,
    results: values.results,
    smoke: values.smoke,
    build: !values['no-build'],
  };
}

function fail(message) {
  process.stderr.write(`bench: ${message}\n`);
  process.exit(FAILED);
}
