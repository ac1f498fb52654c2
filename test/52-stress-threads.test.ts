// The stress run with threads that execute beside the compacting main thread: what it says, and that nothing that is
// wrong with the arena or with a thread goes unnoticed.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Arena } from 'jit-arena';
import { readWorkload } from '../dist/stress/recording/workload';
import { stressArena } from '../dist/stress/replay/exit';
import { type ThreadFigures, Threads, type ThreadsOptions } from '../dist/stress/threads/threads';

const root = resolve(__dirname, '..');
const cli = join(root, 'dist/stress/cli.js');
const workload = readWorkload(join(root, 'bench/workloads/py314-bm_richards.jsonl.gz'));

/** Five rounds of a fifth of a second. */
async function beside(arena: Arena, options: Partial<ThreadsOptions> = {}): Promise<Threads> {
  const threads = new Threads(arena, workload, { count: 1, seed: 1, seconds: 1, ...options });
  await threads.run();
  return threads;
}

describe('stress threads', function () {
  this.timeout(60_000);

  for (const layout of ['together', 'apart'] as const) {
    it(`end without a failure, and leave nothing: code and data ${layout}`, async () => {
      const arena = stressArena({ layout });
      const { figures, reports } = await beside(arena, { count: 2 });
      assert.deepEqual(reports, []);
      const { count, rounds, wrongResults } = figures;
      assert.deepEqual({ count, rounds, wrongResults }, { count: 2, rounds: 5, wrongResults: 0 });
      for (const key of ['moved', 'renewed', 'collects', 'callsChecked'] as const) assert.ok(figures[key] > 0, key);
      assert.equal(arena.stats().executors, 0);
      arena.dispose();
    });
  }

  const original = Arena.prototype;
  const wrongs: Record<string, [Partial<Arena>, RegExp]> = {
    'does not link': [{ link() {} }, /^thread 0: a run of executor \d+ with 0x\w+ ended with .*, expected 0x\w+ after/],
    // At the link, or in the replaced executor, which has just become invalid.
    'lets links to a replaced executor end': [
      { replace() {} },
      /^thread 0: a run of executor \d+ with 0x\w+ ended with 0x\w+ after \d+ traces( through exit \d+)?, expected 0x\w+ after/,
    ],
    'replaces by something else': [
      {
        replace(old) {
          original.replace.call(this, old, this.executors!()[20]!);
        },
      },
      /^thread 0: .*, expected/,
    ],
    'moves nothing': [
      {
        collect(options) {
          return original.collect.call(this, { ...options, compact: false });
        },
      },
      /^nothing moved beside the threads$/,
    ],
    'keeps executors': [
      {
        free(executors) {
          // The helpers, which are freed last.
          if (this.stats!().executors > 6) original.free.call(this, executors);
        },
      },
      /^6 executors are left of those that the threads executed$/,
    ],
    'never reclaims': [
      {
        stats() {
          return { ...original.stats.call(this), retiredBytes: 16 };
        },
      },
      /^16 bytes wait for threads that have ended$/,
    ],
    'does not verify': [
      { verify: () => ({ ok: false, problems: [], broken: 'a rule' }) },
      /verify\(\) found 0 problems: a rule/,
    ],
  };
  for (const [what, [methods, report]] of Object.entries(wrongs)) {
    it(`find out when an arena ${what}`, async () => {
      const { failures, reports } = await beside(Object.assign(stressArena(), methods));
      assert.ok(failures > 0);
      assert.match(reports[0]!, report);
    });
  }

  it('report a wrong result, with what is needed to find it', async () => {
    const { figures, failures, reports } = await beside(stressArena(), { spoil: 7 });
    assert.ok(failures > 0 && figures.wrongResults > 0);
    assert.match(reports[0]!, /^thread 0: a run of executor \d+ with 0x\w+ ended with 0x\w+ after \d/);
  });

  it('count every wrong result, and tell of some', async () => {
    const { figures, failures, reports } = await beside(Object.assign(stressArena(), { link() {} }));
    const told = Math.min(20, figures.wrongResults);
    assert.ok(told > 0);
    assert.deepEqual([failures, reports.length], [told, told]);
  });

  it('do not wait for ever for one that neither comes nor ends', async () => {
    const { failures, reports } = await beside(stressArena(), { patience: 1 });
    assert.equal(failures, 2);
    assert.deepEqual(reports, ['the threads do not start', 'the threads do not stop']);
  });

  it('end soon, with what was reached, when they are stopped', async () => {
    const begin = performance.now();
    const threads: Threads = await beside(stressArena(), {
      seconds: 60,
      progress: (running, done) => done === 3 && running.stop(),
    });
    assert.ok(performance.now() - begin < 20_000);
    assert.deepEqual(threads.reports, []);
    const { callsChecked, rounds } = threads.figures;
    assert.ok(callsChecked > 0);
    assert.equal(rounds, 3);
  });
});

describe('jit-arena stress --threads', function () {
  this.timeout(60_000);
  const folder = mkdtempSync(join(tmpdir(), 'jit-arena-stress-threads-'));
  const richards = ['stress', '--workload', 'py314-bm_richards'];
  const run = (args: string[], preload?: string) =>
    spawnSync(process.execPath, [...(preload ? ['--require', preload] : []), cli, ...args], {
      encoding: 'utf8',
      cwd: folder,
    });
  after(() => rmSync(folder, { recursive: true }));

  /** A file that Node loads first, in each thread; it does this in all but the main one. */
  function inThreads(name: string, script: string): string {
    const path = join(folder, name);
    writeFileSync(path, `if (!require('node:worker_threads').isMainThread) { ${script} }`);
    return path;
  }

  it('prints the figures, and writes them as JSON and into the report', () => {
    const files = ['--json', 'out.json', '--report', 'out.html'];
    const { status, stderr, stdout } = run([...richards, '--threads', '2', '--seconds', '2', ...files]);
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /beside 2 executing threads, 5 rounds:/);
    const { failures, threads } = JSON.parse(readFileSync(join(folder, 'out.json'), 'utf8')) as {
      failures: number;
      threads: ThreadFigures;
    };
    const { count, rounds, wrongResults } = threads;
    assert.deepEqual({ failures, count, rounds, wrongResults }, { failures: 0, count: 2, rounds: 5, wrongResults: 0 });
    for (const key of ['moved', 'renewed', 'collects', 'callsChecked', 'retiredBytesPeak'] as const)
      assert.ok(threads[key] > 0, key);
    const html = readFileSync(join(folder, 'out.html'), 'utf8');
    assert.match(html, /<section id="threads">/);
    assert.doesNotMatch(html, /(src|href)=|url\(|@import/);
  });

  it('exits with 1 when a result is wrong', () => {
    const command = join(root, 'dist/stress/command.js');
    const script = `require(process.argv[1]).stress(process.argv.slice(2), { spoilThread: 7 }).then(process.exit)`;
    const args = [...richards.slice(1), '--threads', '1', '--json', 'wrong.json'];
    const { status, stdout } = spawnSync(process.execPath, ['-e', script, command, ...args], {
      encoding: 'utf8',
      cwd: folder,
    });
    assert.equal(status, 1);
    assert.match(stdout, /FAILURE: thread 0: a run of executor/);
    const { failures, threads } = JSON.parse(readFileSync(join(folder, 'wrong.json'), 'utf8'));
    assert.ok(failures > 0 && threads.wrongResults > 0);
  });

  const deaths: Record<string, [string, RegExp]> = {
    'does not come up': ["throw new Error('no luck')", /FAILURE: thread 0 died, with status 1: Error: no luck/],
    'throws in the middle': [
      `const { Arena } = require(${JSON.stringify(root)});
       const { exitOf } = Arena.prototype;
       let left = 10_000;
       Arena.prototype.exitOf = function (token) {
         if (left-- === 0) throw new Error('no luck');
         return exitOf.call(this, token);
       };`,
      /FAILURE: thread \d died, with status 1: Error: no luck/,
    ],
    'just ends': [
      `const { Arena } = require(${JSON.stringify(root)});
       Arena.prototype.exitOf = () => process.exit(0);`,
      /FAILURE: thread \d died, with status 0\n/,
    ],
  };
  for (const [what, [script, report]] of Object.entries(deaths)) {
    it(`exits with 1 when a thread ${what}`, () => {
      const preload = inThreads(`${what.replaceAll(' ', '-')}.cjs`, script);
      const { status, stdout } = run([...richards, '--threads', '2'], preload);
      assert.equal(status, 1, stdout);
      assert.match(stdout, report);
    });
  }

  it('runs no threads after a replay that went wrong', () => {
    const command = join(root, 'dist/stress/command.js');
    const script = `require(process.argv[1]).stress(process.argv.slice(2), { spoil: 30 }).then(process.exit)`;
    const args = [...richards.slice(1), '--threads', '1'];
    const { status, stdout } = spawnSync(process.execPath, ['-e', script, command, ...args], { encoding: 'utf8' });
    assert.equal(status, 1);
    assert.doesNotMatch(stdout, /executing thread/);
  });

  it('says what was reached when it is interrupted', async () => {
    const child = spawn(process.execPath, [cli, ...richards, '--threads', '1'], { cwd: folder });
    let output = '';
    child.stdout.on('data', (text) => {
      output += text;
      if (/executing/.test(output) && !child.killed) child.kill('SIGINT');
    });
    const [status] = await once(child, 'close');
    assert.equal(status, 130, output);
    assert.match(output, /interrupted/);
    assert.match(output, /wrong results +0\n/);
  });

  it('explains what is wrong with its arguments', () => {
    assert.match(run(['stress', '--help']).stdout, /--threads N/);
    const wrong: [string[], RegExp][] = [
      [['--threads', '-1'], /--threads/],
      [['--threads=-1'], /--threads -1: not a whole number from 0 up/],
      [['--threads', '1.5'], /--threads 1.5: not a whole number/],
      [['--threads', 'x'], /--threads x: not a whole number/],
      [['--threads', ''], /not a whole number/],
      [['--threads', '65'], /--threads 65: at most 64/],
      [['--threads', '1e9'], /at most 64/],
      [['--threads', '1', '--writer', 'flip'], /flip/],
    ];
    for (const [args, message] of wrong) {
      const { status, stderr } = run([...richards, ...args]);
      assert.equal(status, 2, args.join(' '));
      assert.match(stderr, message);
    }
  });
});
