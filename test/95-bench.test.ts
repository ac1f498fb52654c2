// npm run bench: a smoke run produces every row, honestly labelled; and what the bench counts rather than times holds: no
// system calls and no more instructions per operation, however many executors are live. Nothing here is a timed assertion.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { skip } from './support/skip.js';

const root = resolve(__dirname, '..');

interface Row {
  id: string;
  what: string;
  unit: string;
  ours: number | null;
  peer: number | null;
  peerName: string | null;
  ratio: number | null;
  target: string | null;
  met: boolean | null;
  min: number | null;
  max: number | null;
  note?: string;
}

interface Results {
  machine: { cpu: string; cores: number; node: string; loaded: boolean; runs: number; seed: number; smoke: boolean };
  rows: Row[];
}

function bench(...args: string[]) {
  const script = join(root, 'scripts/bench.mjs');
  // Mocha cannot interrupt it.
  const timeout = 4 * 60_000;
  return spawnSync(process.execPath, [script, '--no-build', ...args], { cwd: root, encoding: 'utf8', timeout });
}

describe('npm run bench', function () {
  this.timeout(5 * 60_000);

  const folder = mkdtempSync(join(tmpdir(), 'jit-arena-bench-'));
  let results: Results;
  let output: string;

  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') skip(this, 'the native benches are for linux-x64');
    assert.ok(existsSync(join(root, 'build/bench/jit_arena_bench')), 'the native benches have been built');
    const run = bench('--smoke', '--json', join(folder, 'bench.json'), '--results', join(folder, 'results'));
    assert.equal(run.status, 0, `${run.stdout}${run.stderr}`);
    output = run.stdout;
    results = JSON.parse(readFileSync(join(folder, 'bench.json'), 'utf8'));
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  const rowsOf = (id: string, what = '') => results.rows.filter((row) => row.id === id && row.what.includes(what));
  const row = (id: string, what: string) => {
    const [found, ...others] = rowsOf(id, what);
    assert.ok(found && others.length === 0, `one row of ${id}: ${what}`);
    return found;
  };

  it('measures every figure from T1 to T17, T19 and T20, and each has a target', () => {
    const ids = [...new Set(results.rows.map(({ id }) => id))];
    const numbers = [...Array.from({ length: 17 }, (_, i) => i + 1), 19, 20];
    assert.deepEqual(ids.sort(), numbers.map((number) => `T${number}`).sort());
    for (const id of ids)
      assert.ok(
        rowsOf(id).some(({ target }) => target !== null),
        id,
      );
  });

  it('gives rows that add up', () => {
    for (const row of results.rows) {
      const { ours, peer, peerName, ratio, target, met, min, max, note } = row;
      const where = JSON.stringify(row);
      assert.ok(row.what.length > 0 && row.unit.length > 0, where);
      if (note !== undefined) {
        // Only what may be absent: peers, what is not built yet, and what a container may forbid.
        assert.match(note, /^(ours: not built|ours: ptrace|not installed.*)$/, where);
        assert.equal(met, false, where);
        continue;
      }
      assert.ok(ours !== null && Number.isFinite(ours) && ours >= 0, where);
      assert.ok(min !== null && max !== null && min <= ours && ours <= max, where);
      assert.equal(peerName === null, peer === null, where);
      if (ratio !== null) assert.ok(peer !== null && Math.abs(ratio * peer - ours) <= 1e-9 * Math.abs(ours), where);
      assert.equal(met === null, target === null, where);
    }
  });

  it('has the machine with the figures, and prints them', () => {
    const { machine } = results;
    assert.ok(machine.smoke && machine.runs === 2 && machine.seed === 1 && machine.cores > 0);
    assert.equal(machine.node, process.version);
    assert.equal(typeof machine.loaded, 'boolean');
    for (const { what } of results.rows) assert.ok(output.includes(what), what);
    assert.ok(output.includes(machine.cpu));
  });

  it('draws plots without values that are none', () => {
    const files = readdirSync(join(folder, 'results'));
    assert.deepEqual(files.sort(), [
      'T1-churn.svg',
      'T11-threads.svg',
      'T2-fill.svg',
      'T4-survivors.svg',
      'T7-direct-jumps.svg',
      'T7-linked-exits.svg',
      'results.json',
    ]);
    for (const file of files.filter((name) => name.endsWith('.svg'))) {
      const svg = readFileSync(join(folder, 'results', file), 'utf8');
      assert.match(svg, /^<svg [\s\S]*<\/svg>\n$/, file);
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/, file);
    }
  });

  it('got no wrong result from a thread that executes what another moves', () => {
    const wrong = rowsOf('T11', 'wrong results');
    assert.equal(wrong.length, 3);
    for (const { ours } of wrong) assert.equal(ours, 0);
  });

  it('has a clock that runs while the thread does, and not while it waits', async () => {
    const { threadClock } = await import(pathToFileURL(join(root, 'bench/js/thread-clock.mjs')).href);
    const clock: () => number = threadClock();
    const cpu = process.cpuUsage();
    const begin = clock();
    const end = performance.now() + 50;
    while (performance.now() < end);
    const busy = clock();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
    const waited = clock() - busy;
    const { system, user } = process.cpuUsage(cpu);
    assert.ok(busy > begin);
    assert.ok(waited < 25e6, `${waited} ns`);
    // The process's own clock is coarser, and counts its other threads.
    assert.ok(busy - begin <= 1000 * (system + user) + 20e6);
  });

  it('counts no system call in 10 000 frees and installs, however many are live', function () {
    const rows = rowsOf('T1', 'system calls');
    assert.equal(rows.length, 2);
    const refused = rows.find(({ note }) => note?.includes('ptrace'));
    if (refused) skip(this, refused.note as string);
    for (const { ours } of rows) assert.equal(ours, 0);
  });

  it('counts as many instructions with 20 000 live as with 1 000', () => {
    const { ratio, peerName } = row('T1', 'instructions');
    assert.equal(peerName, 'itself at 1 000');
    assert.ok(ratio !== null && ratio <= 1.2, `${ratio} times as many`);
  });

  it('refuses nothing and makes few mappings where every second executor is freed', () => {
    for (const { ours } of rowsOf('T9', 'refused')) assert.equal(ours, 0);
    for (const { ours } of rowsOf('T9', 'mappings per slab')) assert.ok(ours !== null && ours <= 3);
  });

  it('counts the bytes of records that are kept for moves', () => {
    const records = rowsOf('T10', 'kept, of');
    const bytes = rowsOf('T10', 'per kept record');
    assert.equal(records.length, bytes.length);
    for (const { ours } of records) assert.ok(ours !== null && ours > 0);
    // A varint of the distance and the class: most often two bytes, never more than five.
    for (const { ours } of bytes) assert.ok(ours !== null && ours >= 1 && ours <= 5);
  });

  it('measures one figure alone', () => {
    const run = bench('--smoke', '--only', 'T8', '--json', join(folder, 'one.json'));
    assert.equal(run.status, 0, run.stderr);
    const { rows }: Results = JSON.parse(readFileSync(join(folder, 'one.json'), 'utf8'));
    assert.ok(rows.length > 0 && rows.every(({ id }) => id === 'T8'));
  });

  it('says what it does not know, and wants five runs', () => {
    for (const [args, message] of [
      [['--only', 'T99'], /--only T99: the figures are T1, /],
      [['--runs', '3'], /--runs 3: at least 5/],
      [['--seed', 'x'], /--seed x/],
      [['--what'], /--what/],
    ] as const) {
      const run = bench(...args);
      assert.equal(run.status, 1);
      assert.match(run.stderr, message);
    }
  });
});
