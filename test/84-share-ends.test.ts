// Threads, environments, arenas and processes end in every order, while machine code runs: nothing crashes or hangs, and
// no pin is left. Each case has a process of its own.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { runChild } from './support/child.js';
import { canCompile } from './support/compile.js';
import { skip } from './support/skip.js';

const names =
  'arena, installLoop, roundsOf, installCountdown, start, message, sleep, isRunning, assertNoPin, assert, exited';
const prelude = `const { ${names} } = require(${JSON.stringify(join(__dirname, 'support/ends-prelude.js'))});`;

/** Runs an asynchronous script, which prints `ended` when it has come to its end. */
const run = (script: string, status = 0) =>
  runChild(`${prelude}\n(async () => {${script}\n})().then(() => console.log('ended'))`, {
    nodeArgs: ['--unhandled-rejections=strict'],
    status,
  });
const runToEnd = (script: string) => assert.equal(run(script), 'ended\n');

describe('a worker that is terminated', () => {
  it('in a run that leaves soon, at any moment of it', () => {
    runToEnd(`
      const countdown = installCountdown();
      for (let i = 0; i < 25; i++) {
        const worker = start("post('inside'); for (;;) run(id, 10_000_000);", countdown.id);
        await message(worker);
        await sleep(i);
        const begun = performance.now();
        await worker.terminate();
        assert.ok(performance.now() - begun < 5000);
        assertNoPin();
      }`);
  });

  it('in a call of a C function that returns soon', () => {
    runToEnd(`
      const { symbolAddress } = require('jit-arena');
      const { jump } = require('./dist-test/support/x64.js');
      const usleep = arena.install(jump({ address: symbolAddress('usleep') }));
      for (let i = 0; i < 10; i++) {
        const worker = start("post('inside'); for (;;) arena.executor(id).func({ args: ['u32'], returns: 'i32' })(80_000);", usleep.id);
        await message(worker);
        await sleep(5 * i);
        await worker.terminate();
        assertNoPin();
      }`);
  });

  it('in a loop of links that never leaves: when another thread unlinks, and not before', () => {
    runToEnd(`
      for (let i = 0; i < 10; i++) {
        const loop = installLoop();
        const worker = start("run(id); for (;;);", loop.id);
        await isRunning(loop);
        let ended = false;
        const end = worker.terminate().then(() => { ended = true });
        if (i === 0) await sleep(200);
        await isRunning(loop);
        assert.equal(ended, false);
        arena.install({ code: Uint8Array.of(0xc3) }).free();
        arena.collect();
        assert.ok(arena.stats().retiredBytes > 0, 'the thread is pinned');
        if (i % 2) arena.unlinkAll();
        else loop.free(); // which takes the links to it out
        await end;
        assertNoPin();
      }`);
  });

  it('in a loop of links, which is moved meanwhile', () => {
    runToEnd(`
      const { scatter } = require('./dist-test/support/x64.js');
      const loops = Array.from({ length: 3 }, () => { scatter(arena, [{ code: Uint8Array.of(0xc3) }]); return installLoop() });
      const workers = loops.map((loop) => start("run(id); for (;;);", loop.id));
      for (const loop of loops) await isRunning(loop);
      const ends = workers.map((worker) => worker.terminate());
      const moved = arena.collect().moved;
      assert.ok(moved >= 3, String(moved));
      for (const loop of loops) await isRunning(loop);
      arena.unlinkAll();
      await Promise.all(ends);
      assertNoPin();`);
  });

  it('while a callback runs for ever, at any depth of nesting', () => {
    runToEnd(`
      for (let i = 0; i < 15; i++) {
        const worker = start(\`
          let depth = 0;
          const callback = arena.callback(x64.toI32, () => {
            if (++depth <= id) return f();
            post('inside');
            for (;;);
          });
          const f = arena.install(x64.callAndAdd(callback, 1)).func(x64.toI32);
          f();
          post('never');\`, i);
        assert.equal(await message(worker), 'inside');
        worker.on('message', assert.fail);
        await worker.terminate();
        assertNoPin();
      }`);
  });

  it('in a callback, behind which the machine code calls more of them: they return 0, and it goes on to its end', () => {
    runToEnd(`
      for (let i = 0; i < 10; i++) {
        const worker = start(\`
          let calls = 0;
          const callback = arena.callback(x64.toI32, () => { post(executor.id); if (calls++ === 0) for (;;); return 9 });
          const { Code } = require('./dist-test/support/assembler.js');
          const code = new Code().push('rbx').call(callback).call(callback).add32('rax', 5);
          const executor = arena.install(code.store32({ own: 'state' }, 'rax').pop('rbx').ret().spec({ state: 4 }));
          executor.func(x64.toI32)();\`);
        const id = await message(worker);
        await worker.terminate();
        assert.equal(arena.executor(id).read('state')[0], 5);
        assertNoPin();
      }`);
  });

  it('inside pinned, whose JavaScript runs for ever: the pin ends, too', () => {
    runToEnd(`
      for (let i = 0; i < 10; i++) {
        const worker = start("arena.pinned(() => arena.pinned(() => { post('inside'); for (;;); }));");
        await message(worker);
        const executor = arena.install({ code: Uint8Array.of(0xc3) });
        executor.free();
        arena.collect();
        assert.ok(arena.stats().retiredBytes > 0);
        await worker.terminate();
        assertNoPin();
      }`);
  });

  it('while it installs, links, frees, moves and makes callbacks', () => {
    runToEnd(`
      const { step } = require('./dist-test/support/trace-code.js');
      for (let i = 0; i < 25; i++) {
        const worker = start(\`
          const { step } = require('./dist-test/support/trace-code.js');
          post('inside');
          for (;;) {
            const traces = arena.install([step(1), step(2)]);
            arena.link(traces[0], 0, traces[1]);
            run(traces[0].id, 1);
            const callback = arena.callback(x64.toI32, () => 1);
            const calls = arena.install(x64.callAndAdd(callback, 1));
            calls.func(x64.toI32)();
            arena.collect({ maxPauseMicros: 50 });
            arena.free([...traces, calls]);
            callback.dispose();
          }\`);
        await message(worker);
        await sleep(i % 7);
        await worker.terminate();
        assertNoPin();
      }
      arena.free(arena.executors());
      assertNoPin();`);
  });
});

describe('a worker that is terminated between a call and its result', () => {
  const object = 'readFileSync(file)';
  for (const [what, program] of Object.entries({
    'figures, lists and descriptions': `
      arena.stats(); arena.slabs(); arena.executors(); arena.planCompaction(); arena.verify();
      arena.collect({ evictCold: true }); arena.linkOf(executor, 0); executor.name; arena.find(executor.address);`,
    errors: `
      try { arena.executor(5) } catch {}
      try { arena.install({ code: 0 }) } catch {}
      try { Arena.from(token.replace(/[^:]*$/, '00000000-0000-0000-0000-000000000000')) } catch {}`,
    'arenas, functions and callbacks': `
      new Arena({ maxBytes: 1 << 20, name: 'x' }).dispose();
      const again = Arena.from(token);
      again.install(x64.callAndAdd(again.callback(x64.toI32, () => 1), 1)).func(x64.toI32)();
      again.dispose();`,
    'objects and probes': `try { loadObject(${object}) } catch {} StencilSet.fromObject(${object}); probe(); symbolAddress('qsort');`,
  })) {
    it(`of ${what}`, function () {
      if (!canCompile) skip(this, 'there is no C compiler to make an object with');
      runToEnd(`
        const { execFileSync } = require('node:child_process');
        const { mkdtempSync, rmSync } = require('node:fs');
        const { join } = require('node:path');
        const { tmpdir } = require('node:os');
        const folder = mkdtempSync(join(tmpdir(), 'jit-arena-'));
        process.on('exit', () => rmSync(folder, { recursive: true }));
        const file = join(folder, 'stencils.o');
        execFileSync('cc', ['-c', '-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections', '-fdata-sections', '-o', file, 'test/fixtures/stencils.c']);
        const { step } = require('./dist-test/support/trace-code.js');
        const { id } = arena.install({ ...step(1), name: 'trace', evictable: false });
        for (let i = 0; i < 30; i++) {
          const worker = start(\`
            const { readFileSync } = require('node:fs');
            const { loadObject, StencilSet, probe, symbolAddress } = require('jit-arena');
            const file = \${JSON.stringify(file)};
            const executor = arena.executor(id);
            post('inside');
            for (;;) { ${program} }\`, id);
          await message(worker);
          await sleep(i % 5);
          await worker.terminate();
          assertNoPin();
        }`);
    });
  }
});

describe('a worker that ends itself', () => {
  it('with process.exit in a callback: what it is in the middle of is left, with its pin', () => {
    runToEnd(`
      for (let i = 0; i < 15; i++) {
        const worker = start(\`
          let depth = 0;
          const callback = arena.callback(x64.toI32, () => { if (++depth <= id) return f(); process.exit(3) });
          const f = arena.install(x64.callAndAdd(callback, 1)).func(x64.toI32);
          f();
          post('never');\`, i % 5);
        worker.on('message', assert.fail);
        assert.equal(await exited(worker), 3);
        assertNoPin();
      }`);
  });

  it('inside pinned, with process.exit', () => {
    runToEnd(`
      const worker = start("arena.pinned(() => process.exit(3));");
      assert.equal(await exited(worker), 3);
      assertNoPin();`);
  });

  it('before the arena and after it, having disposed of it or not', () => {
    runToEnd(`
      const { Arena } = require('jit-arena');
      const { toI32, callAndAdd, constant } = require('./dist-test/support/x64.js');
      for (const disposes of [false, true]) {
        for (const first of ['worker', 'main']) {
          for (let i = 0; i < 5; i++) {
            const mine = new Arena();
            const { id } = mine.install({ code: constant(4) });
            const token = mine.share();
            const worker = start(\`
              const f = arena.install(x64.callAndAdd(arena.callback(x64.toI32, () => 1), 1)).func(x64.toI32);
              post(arena.executor(id).func(x64.toI32)());
              parentPort.once('message', () => {
                if (\${disposes}) arena.dispose();
                else if (f() !== 2 || arena.executor(id).func(x64.toI32)() !== 4) throw new Error('wrong');
              });\`, id, token);
            assert.equal(await message(worker), 4);
            if (first === 'main') mine.dispose();
            worker.postMessage('end');
            assert.equal(await exited(worker), 0);
            if (first === 'worker') {
              assert.equal(mine.executor(id).func(toI32)(), 4);
              mine.dispose();
            }
            assert.throws(() => Arena.from(token), { code: 'ERR_ARENA_DISPOSED' });
          }
        }
      }`);
  });

  it('as the last user, in whose thread the arena ends', () => {
    runToEnd(`
      const { Arena } = require('jit-arena');
      for (let i = 0; i < 10; i++) {
        const mine = new Arena();
        const callback = mine.callback({ args: [], returns: 'i32' }, () => 1);
        const token = mine.share();
        const worker = start("post(1); parentPort.once('message', () => post(arena.stats().executors));", 0, token);
        await message(worker);
        mine.install({ code: Uint8Array.of(0xc3) });
        mine.dispose();
        worker.postMessage('go');
        assert.equal(await message(worker), 1);
        await exited(worker);
        assert.throws(() => Arena.from(token), { code: 'ERR_ARENA_DISPOSED' });
      }`);
  });
});

describe('dispose in one thread', () => {
  it('while others are inside runs: it ends one use, and the runs go on', () => {
    runToEnd(`
      const { Arena } = require('jit-arena');
      const loop = installLoop();
      const token = arena.share();
      const worker = start("run(id); post('left');", loop.id);
      await isRunning(loop);
      const again = Arena.from(token);
      arena.dispose();
      const seen = again.executor(loop.id);
      await isRunning(seen);
      again.unlinkAll();
      assert.equal(await message(worker), 'left');
      again.dispose();
      await exited(worker);
      assert.throws(() => Arena.from(token), { code: 'ERR_ARENA_DISPOSED' });`);
  });

  it('races with Arena.from in others, until nobody is left', () => {
    runToEnd(`
      const { Arena } = require('jit-arena');
      const { constant, toI32 } = require('./dist-test/support/x64.js');
      for (let round = 0; round < 10; round++) {
        const mine = new Arena();
        const { id } = mine.install({ code: constant(4) });
        const token = mine.share();
        const workers = Array.from({ length: 3 }, () => start(\`
          post('inside');
          let uses = 0;
          try {
            // Not for ever: three that go on like this keep the arena for each other.
            while (uses < 200) {
              const each = uses++ === 0 ? arena : Arena.from(token);
              if (each.executor(id).func(x64.toI32)() !== 4) throw new Error('wrong');
              each.dispose();
            }
          } catch (error) {
            if (error.code !== 'ERR_ARENA_DISPOSED') throw error;
          }
          post(uses);\`, id, token));
        await Promise.all(workers.map(message));
        const counts = Promise.all(workers.map(message));
        for (let i = 0; i < 20; i++) {
          const again = Arena.from(token);
          assert.equal(again.executor(id).func(toI32)(), 4);
          again.dispose();
        }
        mine.dispose();
        for (const count of await counts) assert.ok(count > 0);
        await Promise.all(workers.map((worker) => worker.terminate()));
        assert.throws(() => Arena.from(token), { code: 'ERR_ARENA_DISPOSED' });
      }`);
  });

  it('waits for nobody, and is ERR_ARENA_BUSY only for its own call', () => {
    runToEnd(`
      const { callAndAdd, toI32 } = require('./dist-test/support/x64.js');
      const { Arena } = require('jit-arena');
      const loop = installLoop();
      const worker = start("run(id); post('left');", loop.id);
      await isRunning(loop);
      const again = Arena.from(arena.share());
      const callback = arena.callback(toI32, () => {
        assert.throws(() => arena.dispose(), { code: 'ERR_ARENA_BUSY' });
        return 1;
      });
      assert.equal(arena.install(callAndAdd(callback, 1)).func(toI32)(), 2);
      arena.dispose();
      again.unlinkAll();
      assert.equal(await message(worker), 'left');
      again.dispose();`);
  });
});

describe('a process that ends while workers run', () => {
  const runs = `
    const loop = installLoop();
    const countdown = installCountdown();
    start("run(id); for (;;) run(id);", loop.id);
    start("for (;;) run(id, 3_000_000);", countdown.id);
    await isRunning(loop);`;

  for (let i = 0; i < 8; i++) {
    it(`with process.exit, ${i} ms later`, () => {
      assert.equal(run(`${runs} await sleep(${i}); process.exit(3)`, 3), '');
    });
    it(`with process.exit inside a callback at depth ${i}`, () => {
      const script = `${runs}
        const { callAndAdd, toI32 } = require('./dist-test/support/x64.js');
        let depth = 0;
        const callback = arena.callback(toI32, () => depth++ < ${i} ? f() : process.exit(3));
        const f = arena.install(callAndAdd(callback, 1)).func(toI32);
        f();`;
      assert.equal(run(script, 3), '');
    });
  }

  it('with process.exit inside pinned', () => {
    assert.equal(run(`${runs} arena.pinned(() => process.exit(3))`, 3), '');
  });

  it('with workers whose loops are linked again and again, as a JIT would', () => {
    for (let i = 0; i < 5; i++) {
      const script = `
        const loop = installLoop();
        const text = "const loop = arena.executor(id); for (;;) { arena.link(loop, 0, loop); runner(loop); }";
        const workers = [start(text, loop.id), start(text, loop.id)];
        for (const worker of workers) worker.removeAllListeners('error').on('error', () => {});
        await isRunning(loop);
        process.exit(3);`;
      assert.equal(run(script, 3), '');
    }
  });

  it('with an exception that nobody catches', () => {
    const script = `${runs} setImmediate(() => { throw new Error('uncaught') }); await sleep(10_000);`;
    assert.equal(run(`process.on('uncaughtException', () => process.exit(5)); ${script}`, 5), '');
    const child = `${prelude}(async () => {${runs} setImmediate(() => { throw new Error('uncaught') }) })()`;
    runChild(child, { status: 1 });
  });

  it('by itself, when they are unreferenced', () => {
    runToEnd(
      `${runs.replaceAll('start(', 'unreferenced(').replace('const loop', 'const unreferenced = (...args) => start(...args).unref();\nconst loop')}`,
    );
  });

  it('with their own arenas, of which the main thread knows nothing', () => {
    const script = `
      const worker = start(\`
        const { Code } = require('./dist-test/support/assembler.js');
        const own = new Arena();
        const loop = own.install(new Code().exit(0).spec());
        own.link(loop, 0, loop);
        post('inside');
        own.runner(context)(loop);\`);
      await message(worker);
      await sleep(50);
      process.exit(3);`;
    assert.equal(run(script, 3), '');
  });

  it('by a signal', () => {
    assert.throws(() => run(`${runs} process.kill(process.pid, 'SIGKILL'); await sleep(10_000);`), /SIGKILL/);
  });
});

describe('a process with a shared arena', () => {
  it('that made a child process with the token: the child gets a clear error', () => {
    runToEnd(`
      const { execFileSync } = require('node:child_process');
      const script = "try { require('jit-arena').Arena.from(process.env.TOKEN) } catch (error) { console.log(error.code) }";
      const env = { ...process.env, TOKEN: arena.share() };
      assert.equal(execFileSync(process.execPath, ['-e', script], { env, encoding: 'utf8' }), 'ERR_ARENA_FORKED\\n');`);
  });

  it('lets the listeners of its exit event use the arena, and link', () => {
    const script = `
      const { step } = require('./dist-test/support/trace-code.js');
      const loop = installLoop();
      start("run(id); for (;;);", loop.id);
      await isRunning(loop);
      process.on('exit', () => {
        const [a, b] = arena.install([step(1), step(2)]);
        arena.link(a, 0, b);
        const context = new BigInt64Array(8);
        context[1] = 1n;
        console.log(arena.runner(context)(a), context[0]);
      });
      process.exit(3);`;
    assert.equal(run(script, 3), '0 12n\n');
  });
});

describe('worker threads of this process', () => {
  it('that end with a shared arena alive leave it to the others', async () => {
    const text = `
      const { parentPort } = require('node:worker_threads');
      const { Arena } = require('jit-arena');
      const arena = new Arena();
      const { id } = arena.install({ code: Uint8Array.of(0xb8, 42, 0, 0, 0, 0xc3) });
      parentPort.postMessage({ token: arena.share(), id });
      parentPort.once('message', () => {});`;
    const maker = new Worker(text, { eval: true });
    const [{ token, id }] = await once(maker, 'message');
    const { Arena } = await import('jit-arena');
    using arena = Arena.from(token);
    maker.postMessage('end');
    await once(maker, 'exit');
    assert.equal(arena.executor(id).func({ args: [], returns: 'i32' })(), 42);
  });
});
