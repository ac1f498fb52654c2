// The option hugePages: the kernel itself says that the pages are huge, code and data read as before, and what dies
// gives them back. Where the system has none to give, the arena works all the same.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Arena, machine, probe } from 'jit-arena';
import { skip } from './support/skip.js';
import { constant, toI32 } from './support/x64.js';

const HUGE = 512 * machine.pageBytes;

/** Bytes of this process that lie in huge pages. Shared memory counts once for each mapping of it. */
function hugeBytes(): number {
  const rollup = readFileSync('/proc/self/smaps_rollup', 'utf8');
  return [...rollup.matchAll(/^(?:ShmemPmdMapped|FilePmdMapped|AnonHugePages): +(\d+) kB$/gm)].reduce(
    (sum, [, kilobytes]) => sum + Number(kilobytes) * 1024,
    0,
  );
}

/** `megabytes` of executors that return their position. */
function fill(arena: Arena, megabytes: number) {
  return Array.from({ length: megabytes * 1024 }, (_, i) => {
    const code = new Uint8Array(1024).fill(0xcc);
    code.set(constant(i));
    return arena.install({ code });
  });
}

describe('hugePages', function () {
  this.timeout(60_000);

  for (const { writer, available, reason } of probe()) {
    it(`puts huge pages behind full slabs, and gives them back (${writer})`, function () {
      if (process.platform !== 'linux') skip(this, 'the kernel is asked through /proc');
      if (!available) skip(this, `${writer} does not work here: ${reason}`);
      using arena = new Arena({ hugePages: true, writer, maxBytes: 64 * 2 ** 20 });
      const executors = fill(arena, 9);
      const before = hugeBytes();
      assert.equal(arena.stats().hugePageBytes, 0);
      assert.ok(arena.collect({ maxPauseMicros: 1_000_000 }).done);
      assert.equal(arena.stats().hugePageBytes, 0, 'no slice waits for that');
      const committed = arena.stats().committedBytes;
      arena.collect();
      const { hugePageBytes, committedBytes } = arena.stats();
      if (hugePageBytes === 0) skip(this, 'the kernel gives no huge pages');
      assert.equal(hugePageBytes, 4 * HUGE, 'eight of nine megabytes fill four slabs');
      assert.ok(committedBytes >= committed && committedBytes <= committed + hugePageBytes / 16);
      assert.ok(hugeBytes() - before >= hugePageBytes, `${hugeBytes() - before}`);
      for (let i = 0; i < executors.length; i += 97) assert.equal(executors[i]?.func(toI32)(), i);
      assert.ok(arena.verify().ok);

      const stays = executors.filter((_, i) => i % 16 === 0);
      arena.free(executors.filter((_, i) => i % 16 !== 0));
      arena.collect();
      const after = arena.stats();
      assert.equal(after.hugePageBytes, 0);
      assert.ok(after.committedBytes < 2 * after.liveBytes, `${after.committedBytes} for ${after.liveBytes}`);
      assert.ok(hugeBytes() <= before, 'the pages are the kernel’s again');
      for (const [i, executor] of stays.entries()) assert.equal(executor.func(toI32)(), 16 * i);
      assert.ok(arena.verify().ok);
    });
  }

  it('is off unless asked for', () => {
    using arena = new Arena({ maxBytes: 16 * 2 ** 20 });
    fill(arena, 5);
    arena.collect();
    assert.equal(arena.stats().hugePageBytes, 0);
  });
});
