// The stress run as a whole: replays in every kind of arena, the command line, the files that it writes.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Arena, probe } from 'jit-arena';
import { prefix, readWorkload, type Workload } from '../dist/stress/recording/workload';
import { stressArena } from '../dist/stress/replay/exit';
import { Replay, type ReplayOptions } from '../dist/stress/replay/replay';
import { makeProgress } from '../dist/stress/report/progress';
import { skip } from './support/skip.js';

const root = resolve(__dirname, '..');
const cli = join(root, 'dist/stress/cli.js');
const recording = (name: string) => readWorkload(join(root, 'bench/workloads', `${name}.jsonl.gz`));

async function replayed(workload: Workload, arena: Arena, options: Partial<ReplayOptions> = {}): Promise<Replay> {
  const replay = new Replay(arena, workload, { seed: 1, ...options });
  await replay.run();
  return replay;
}

function assertClean({ checker, created, freed }: Replay): void {
  assert.deepEqual(checker.reports, []);
  assert.equal(checker.failures, 0);
  assert.equal(freed, created);
  assert.ok(checker.callsChecked >= 10 * created, `${checker.callsChecked} calls for ${created} executors`);
}

describe('a stress replay', () => {
  for (const writer of ['alias', 'procmem', 'flip'] as const) {
    for (const layout of ['together', 'apart'] as const) {
      it(`ends without a failure: writer ${writer}, code and data ${layout}`, async function () {
        const found = probe().find((candidate) => candidate.writer === writer);
        if (!found?.available) skip(this, `writer ${writer}: ${found?.reason}`);
        for (const workload of [recording('py314-bm_richards'), prefix(recording('py314-bench_mix'), 1500)]) {
          const arena = stressArena({ writer, layout });
          const replay = await replayed(workload, arena);
          assertClean(replay);
          assert.equal(replay.created, workload.created);
          if (workload.name === 'py314-bench_mix') assert.ok(replay.timeline.moved > 100, `${replay.timeline.moved}`);
          assert.equal(arena.stats().executors, 0);
          arena.dispose();
        }
      });
    }
  }

  it('takes exits and links, and ends executors as they ended in the recording', async () => {
    const workload = recording('py314-tests_mix');
    const replay = await replayed(workload, stressArena());
    assertClean(replay);
    const invalidated = (...reasons: string[]) =>
      workload.events.filter((event) => event.kind === 'invalidate' && reasons.includes(event.reason)).length;
    assert.equal(replay.evictedCold, invalidated('cold'));
    assert.equal(replay.invalidated, invalidated('dependency', 'all'));
    assert.ok(replay.evictedCold > 200 && replay.invalidated > 40);
    const { checker, exits, linksOfHotExits, population } = replay;
    assert.equal(exits, 1844);
    assert.equal(population.linksMade - linksOfHotExits, workload.events.filter(({ kind }) => kind === 'link').length);
    assert.ok(population.unlinked > 10 && population.linksOfDead > 30);
    assert.ok(checker.linksTaken > checker.callsChecked / 10, `${checker.linksTaken} links taken`);
    assert.ok(checker.exitsTaken > 1000 && checker.hotExits > 100);
  });

  const wrongs: Record<string, Partial<Arena>> = {
    'does not link': { link() {} },
    'does not unlink': { unlink() {} },
    'evicts nothing': {
      collect(options) {
        return Arena.prototype.collect.call(this, { ...options, evictCold: false });
      },
    },
    'unlinks too much': {
      invalidate(executor) {
        this.unlinkAll!();
        Arena.prototype.invalidate.call(this, executor);
      },
    },
  };
  for (const [what, methods] of Object.entries(wrongs)) {
    it(`finds out when an arena ${what}`, async () => {
      const { checker } = await replayed(recording('py314-bm_go'), Object.assign(stressArena(), methods));
      assert.notEqual(checker.failures, 0);
    });
  }

  it('goes on with other contents until its time is over', async () => {
    const replay = await replayed(recording('py314-bm_richards'), stressArena(), { seconds: 1 });
    assertClean(replay);
    assert.ok(replay.round > 1);
    assert.ok(replay.elapsedSeconds >= 1 && replay.elapsedSeconds < 5);
  });

  it('measures the peak, and pages per executor by arithmetic', async () => {
    const { timeline } = await replayed(recording('py314-bm_richards'), stressArena());
    const { peak, samples } = timeline;
    assert.equal(peak.live, Math.max(...samples.map(({ live }) => live)));
    assert.ok(peak.committed >= peak.live);
    assert.ok(peak.pages16k > peak.pages4k && peak.pages4k > peak.live);
    assert.equal(peak.pages16k % 16384, 0);
    assert.equal(timeline.live, 0);
  });

  it('counts as committed what the kernel has for the arena', async function () {
    if (process.platform !== 'linux') skip(this, 'there is no /proc/self/smaps');
    const arena = stressArena();
    let compared = 0;
    const progress = () => {
      const slabs = arena.slabs();
      const ends = slabs.map(({ address, bytes }) => address + BigInt(bytes));
      const found = residentBytes(
        slabs.reduce((least, { address }) => (address < least ? address : least), ends[0]!),
        ends.reduce((most, end) => (end > most ? end : most)),
      );
      assert.equal(arena.stats().committedBytes, found);
      compared++;
    };
    assertClean(await replayed(prefix(recording('py314-bench_mix'), 1000), arena, { progress }));
    assert.ok(compared > 3);
  });

  it('reports a wrong result, with what is needed to find it', async () => {
    const { checker } = await replayed(recording('py314-bm_richards'), stressArena(), { spoil: 100 });
    assert.equal(checker.failures, 1);
    assert.match(
      checker.reports[0]!,
      /^executor [\d →]+ of the recording ended with 0x\w+.* for 0x\w+, expected 0x\w+/,
    );
  });

  it('reports an unexpected error, and ends', async () => {
    const { checker } = await replayed(recording('py314-bench_mix'), stressArena({ maxBytes: 1 << 20 }));
    assert.equal(checker.failures, 1);
    assert.match(checker.reports[0]!, /^at step \d+ of the replay: ArenaError/);
  });
});

/** Of all that is mapped between two addresses. */
function residentBytes(from: bigint, to: bigint): number {
  let bytes = 0;
  let inside = false;
  for (const line of readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const [, start, end] = line.match(/^([\da-f]+)-([\da-f]+) /) ?? [];
    if (start && end) inside = BigInt(`0x${start}`) < to && BigInt(`0x${end}`) > from;
    const [, kilobytes] = line.match(/^Rss: +(\d+) kB/) ?? [];
    if (inside && kilobytes) bytes += Number(kilobytes) * 1024;
  }
  return bytes;
}

describe('jit-arena stress', () => {
  const folder = mkdtempSync(join(tmpdir(), 'jit-arena-stress-'));
  const richards = ['stress', '--workload', 'py314-bm_richards'];
  const run = (...args: string[]) => spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8', cwd: folder });
  after(() => rmSync(folder, { recursive: true }));

  it('prints the figures and writes them as JSON', () => {
    const { status, stdout } = run(...richards, '--seed', '5', '--threads', '0', '--json', 'out.json');
    assert.equal(status, 0, stdout);
    assert.match(stdout, /committed at the peak +[\d.]+ KiB +1\.\d+ × live/);
    assert.match(stdout, /failures +0\n/);
    const json = JSON.parse(readFileSync(join(folder, 'out.json'), 'utf8'));
    const { workload, seed, failures, created, pausesMicros } = json;
    assert.deepEqual(
      { workload, seed, failures, created },
      { workload: 'py314-bm_richards', seed: 5, failures: 0, created: 31 },
    );
    const bytes = ['liveBytesPeak', 'committedBytesPeak', 'pagePerExecutorBytesPeak', 'pagePerExecutor16kBytesPeak'];
    for (const key of [...bytes, 'seconds', 'ratioPeak', 'freed', 'callsChecked']) assert.ok(json[key] > 0, key);
    for (const key of ['exits', 'exitsTaken', 'linksMade', 'linksTaken', 'invalidated']) assert.ok(json[key] > 0, key);
    for (const key of ['evictedCold', 'hotExits', 'moved', 'relocsRewritten', 'collects'])
      assert.ok(json[key] >= 0, key);
    assert.deepEqual(Object.keys(pausesMicros), ['median', 'p99', 'max']);
    assert.equal('threads' in json, false);
    assert.equal(json.ratioPeak, Number((json.committedBytesAtPeak / json.liveBytesPeak).toFixed(4)));
  });

  it('writes a report that needs nothing but itself', () => {
    const { status, stdout } = run('stress', '--workload', 'py314-bm_go', '--report', 'out.html');
    assert.equal(status, 0, stdout);
    const html = readFileSync(join(folder, 'out.html'), 'utf8');
    assert.match(html, /<h1>jit-arena stress: py314-bm_go<\/h1>/);
    for (const plot of ['memory', 'ratio', 'pauses']) assert.ok(html.includes(`<div id="${plot}" class="plot">`), plot);
    assert.equal(html.match(/<svg class="map"/g)?.length, 2, 'pages before and after a collect');
    assert.match(html, /uPlot/);
    assert.doesNotMatch(html, /(src|href)=|url\(|@import/);
  });

  it('draws a bar on a terminal, over and over on one line of it', () => {
    let written = '';
    const write = (text: string | Uint8Array) => {
      written += text;
      return true;
    };
    const progress = makeProgress({ isTTY: true, columns: 40, write });
    progress.update('round 1', 1, 4, 'all is well, and this is cut off');
    progress.update('round 1', 4, 4, '');
    progress.stop();
    const [before, first, second, last, ...others] = written.split('\r\x1b[K');
    assert.deepEqual([before, last, others], ['', '', []]);
    assert.equal(first, `${'█'.repeat(6)}${'░'.repeat(18)} 25 %  round 1,`);
    assert.equal(second, `${'█'.repeat(24)} 100 %  round 1, `.slice(0, 39));
  });

  it('exits with 1 when a check fails', () => {
    const command = join(root, 'dist/stress/command.js');
    const script = `require(process.argv[1]).stress(process.argv.slice(2), { spoil: 30 }).then(process.exit)`;
    const { status, stdout } = spawnSync(process.execPath, ['-e', script, command, ...richards.slice(1)], {
      encoding: 'utf8',
    });
    assert.equal(status, 1);
    assert.match(stdout, /failures +1\n/);
    assert.match(stdout, /FAILURE: executor [\d →]+ of the recording ended with/);
  });

  it('explains itself, and what is wrong with its arguments', () => {
    assert.match(run('--help').stdout, /usage: jit-arena <command>/);
    assert.match(run('stress', '--help').stdout, /--workload FILE/);
    const wrong: [string[], RegExp][] = [
      [[], /usage/],
      [['nonsense'], /unknown command nonsense/],
      [['stress', '--nonsense'], /--nonsense/],
      [['stress', '--seed', '1.5'], /not a whole number/],
      [['stress', '--seconds', ''], /not a whole number/],
      [['stress', '--writer', 'pencil'], /not one of auto, alias/],
      [['stress', '--workload', 'nowhere'], /no such file/],
      [['stress', '--workload', cli], /line 1/],
    ];
    for (const [args, message] of wrong) {
      const { status, stderr } = run(...args);
      assert.equal(status, 2, args.join(' '));
      assert.match(stderr, message);
    }
  });

  it('says what was reached when it is interrupted', async () => {
    const child: ChildProcess = spawn(process.execPath, [cli, ...richards, '--seconds', '60'], { cwd: folder });
    let output = '';
    child.stdout!.on('data', (text) => {
      if (output === '') setTimeout(() => child.kill('SIGINT'), 300);
      output += text;
    });
    const [status] = await once(child, 'close');
    assert.equal(status, 130);
    assert.match(output, /interrupted/);
    assert.match(output, /failures +0\n/);
  });
});
