// Callbacks that no call of ours has entered: libuv calls them for another addon, from the event loop or from inside
// JavaScript. Each case has a process of its own.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { runChild } from './support/child.js';
import { canCompile, compileLibrary } from './support/compile.js';
import { skip } from './support/skip.js';

const prelude = () => `
  const { Arena, openForeign, quietly, sleep, assert } = require(${JSON.stringify(join(__dirname, 'support/foreign-prelude.js'))});
  const { i32ToI32, toI32, callAndAdd, constant } = require(${JSON.stringify(join(__dirname, 'support/x64.js'))});
  const addon = require(${JSON.stringify(compileLibrary('loop_addon.c', 'node'))});
  const arena = new Arena();
  const ofHandle = { args: ['pointer'], returns: 'void' };
  const callback = (fn) => arena.callback(ofHandle, fn).address;
  const nothing = arena.install({ code: Uint8Array.of(0xc3) }).func({ args: [], returns: 'void' });
  const uncaught = [];
  const watch = () => process.on('uncaughtException', (error, origin) => uncaught.push([error, origin]));`;

/** Runs an asynchronous script, which prints `ended` when it has come to its end. */
const run = (script: string, status = 0, nodeArgs: string[] = []) =>
  runChild(`${prelude()}\n(async () => {${script}\n})().then(() => console.log('ended'))`, { nodeArgs, status });
const runToEnd = (script: string, nodeArgs: string[] = []) => assert.equal(run(script, 0, nodeArgs), 'ended\n');

/** The ways in which the loop calls a function once, or until it is closed. */
const ways = ['timer', 'prepare', 'check', 'idle', 'async'];

describe('a callback that the event loop calls', () => {
  before(function () {
    if (!canCompile) skip(this, 'there is no C compiler to make an addon with');
  });

  for (const way of ways) {
    it(`runs, throws and runs again: ${way}`, () => {
      runToEnd(`
        watch();
        let calls = 0;
        const error = new Error('from the loop');
        const start = () => addon.${way}(address, 1, 0);
        const address = callback((handle) => {
          calls++;
          addon.close(handle);
          nothing();
          if (calls === 2) throw error;
        });
        for (let i = 1; i <= 3; i++) {
          start();
          while (calls < i) await sleep(1);
          nothing();
        }
        await sleep(5);
        assert.equal(calls, 3);
        assert.deepEqual(uncaught, [[error, 'uncaughtException']]);`);
    });

    it(`has promise jobs and nextTicks run behind it, before anything else: ${way}`, () => {
      runToEnd(`
        const log = [];
        const address = callback(() => {
          if (log.length > 6) return;
          log.push('call');
          process.nextTick(() => log.push('tick'));
          Promise.resolve().then(() => log.push('job'));
        });
        const handles = [1, 2, 3].map(() => addon.${way}(address, 1, 1));
        while (log.length < 9) await new Promise(setImmediate);
        handles.forEach((handle) => addon.close(handle));
        assert.deepEqual(log, ['call', 'tick', 'job', 'call', 'tick', 'job', 'call', 'tick', 'job']);`);
    });
  }

  it('ends the process as an exception of a timer does, when nobody listens', () => {
    const script = "addon.timer(callback(() => { throw new Error('from the loop') }), 1, 0); await sleep(10_000);";
    assert.throws(() => run(script), /child ended with 1[\s\S]*from the loop/);
  });

  it('reports its exception first, then has its promise jobs run', () => {
    runToEnd(`
      const log = [];
      process.on('uncaughtException', (error) => log.push(error.message));
      addon.timer(callback(() => {
        process.nextTick(() => log.push('tick'));
        Promise.resolve().then(() => log.push('job'));
        throw new Error('thrown');
      }), 1, 0);
      await sleep(20);
      assert.deepEqual(log, ['thrown', 'tick', 'job']);`);
  });

  it('may throw anything, also null and undefined, a result of a wrong type, and a full stack', () => {
    runToEnd(`
      watch();
      const throws = [null, undefined, 0, 'text', new TypeError('typed')];
      for (const value of throws) addon.timer(callback(() => { throw value }), 1, 0);
      await sleep(20);
      assert.deepEqual(uncaught.map(([error]) => error), throws);
      addon.timer(arena.callback({ args: ['pointer'], returns: 'i32' }, () => 'text').address, 1, 0);
      addon.timer(callback(() => { (function deeper() { deeper() })() }), 3, 0);
      await sleep(20);
      assert.deepEqual(uncaught.slice(throws.length).map(([error]) => error.name), ['TypeError', 'RangeError']);`);
  });

  it('may return a promise that is rejected', () => {
    runToEnd(`
      const reasons = [];
      process.on('unhandledRejection', (reason) => reasons.push(reason));
      addon.timer(callback(async () => { throw 'rejected' }), 1, 0);
      await sleep(20);
      assert.deepEqual(reasons, ['rejected']);`);
  });

  it('throws what its own calls throw, unless it catches it', () => {
    runToEnd(`
      watch();
      const inner = arena.install(callAndAdd(arena.callback(toI32, () => { throw new Error('inner') }), 1)).func(toI32);
      const seen = [];
      addon.timer(callback(() => { try { inner() } catch (error) { seen.push(error.message) } }), 1, 0);
      addon.timer(callback(() => { inner(); seen.push('never') }), 2, 0);
      addon.timer(callback(() => seen.push(arena.install({ code: constant(5) }).func(toI32)())), 3, 0);
      await sleep(20);
      assert.deepEqual(seen, ['inner', 5]);
      assert.deepEqual(uncaught.map(([error]) => error.message), ['inner']);`);
  });

  it('runs in the AsyncLocalStorage and the domain that it was made in', () => {
    runToEnd(`
      const { AsyncLocalStorage, createHook, executionAsyncId } = require('node:async_hooks');
      const storage = new AsyncLocalStorage();
      const log = [];
      const types = new Map();
      const ids = [];
      createHook({
        init: (id, type) => types.set(id, type),
        before: (id) => { if (types.get(id) === 'jit-arena callback') ids.push(id) },
        destroy: (id) => { if (types.get(id) === 'jit-arena callback') log.push('destroyed') },
      }).enable();
      const made = storage.run('maker', () => arena.callback(ofHandle, () => {
        log.push(storage.getStore());
        assert.equal(executionAsyncId(), ids.at(-1));
        Promise.resolve().then(() => log.push('then ' + storage.getStore()));
      }));
      storage.run('starter', () => addon.timer(made.address, 1, 0));
      const bound = storage.run('maker', () => callback(AsyncLocalStorage.bind(() => log.push('bound ' + storage.getStore()))));
      addon.timer(bound, 3, 0);
      const domain = require('node:domain').create();
      domain.on('error', (error) => log.push('domain: ' + error.message));
      const inDomain = domain.run(() => callback(() => { throw new Error('thrown') }));
      addon.timer(inDomain, 5, 0);
      await sleep(20);
      assert.equal(ids.length, 3);
      made.dispose();
      await sleep(5);
      // Since Node 24 an async resource of an addon's has no store.
      const store = Number(process.versions.node.split('.')[0]) < 24 ? 'maker' : undefined;
      assert.deepEqual(log, [store, 'then ' + store, 'bound maker', 'domain: thrown', 'destroyed']);`);
  });

  it('may dispose of itself and of its arena, and answers 0 from then on', () => {
    runToEnd(`
      watch();
      let calls = 0;
      const own = arena.callback(ofHandle, () => { calls++; own.dispose(); });
      const other = new Arena();
      const last = other.callback(ofHandle, () => { calls++; other.dispose(); throw new Error('after dispose') });
      const handles = [own, last].map(({ address }) => addon.timer(address, 1, 1));
      await sleep(30);
      handles.forEach(addon.close);
      assert.equal(calls, 2);
      assert.deepEqual(uncaught.map(([error]) => error.message), ['after dispose']);`);
  });

  it('runs though threads of a library call it, too: the error of those is a call’s', () => {
    runToEnd(`
      const foreign = openForeign(${JSON.stringify(compileLibrary('foreign.c'))});
      foreign.start(2);
      let calls = 0;
      const address = arena.callback({ args: ['i32'], returns: 'i32' }, () => { calls++; return 0 }).address;
      quietly(() => foreign.give(address));
      await sleep(20);
      const handle = addon.timer(address, 1, 1);
      while (calls < 20) await sleep(1);
      addon.close(handle);
      quietly(foreign.stop);`);
  });

  it('of another thread: it gets 0, and only a call of the callback’s own thread throws', () => {
    const program = `${prelude()}
      const { parentPort, workerData } = require('node:worker_threads');
      addon.timer(workerData, 1, 0);
      setTimeout(() => { nothing(); parentPort.postMessage('no error here') }, 20);`;
    runToEnd(`
      const { Worker } = require('node:worker_threads');
      const worker = new Worker(${JSON.stringify(program)}, { eval: true, workerData: callback(assert.fail) });
      const [text] = await require('node:events').once(worker, 'message');
      assert.equal(text, 'no error here');
      assert.throws(nothing, { code: 'ERR_ARENA_WRONG_THREAD' });
      nothing();`);
  });

  it('keeps no memory, however often it runs', () => {
    runToEnd(
      `
      const used = () => { gc(); return process.memoryUsage().heapUsed };
      let calls = 0, base = 0;
      await new Promise((resolve) => addon.idle(callback((handle) => {
        const garbage = Array.from({ length: 100 }, () => ({}));
        if (++calls === 2000) base = used();
        if (calls === 30_000) { addon.close(handle); resolve(garbage) }
      })));
      assert.ok(used() - base < 2 << 20, 'bytes: ' + (used() - base));`,
      ['--expose-gc'],
    );
  });

  for (const [how, body, status] of [
    ['process.exit', 'process.exit(3)', 3],
    ['process.exit in a nested callback', 'exits()', 3],
    [
      'an exception in a listener of uncaughtException',
      "process.on('uncaughtException', () => { throw 1 }); throw 2",
      7,
    ],
  ] as const) {
    it(`may end the process: ${how}`, () => {
      const script = `
        const exits = arena.install(callAndAdd(arena.callback(toI32, () => process.exit(3)), 1)).func(toI32);
        addon.timer(callback(() => { ${body} }), 1, 0);
        await sleep(10_000);`;
      run(script, status);
    });
  }

  for (const [how, body, error] of [
    ['process.exit', 'process.exit(0)', null],
    ['process.exit in a nested callback', 'exits()', null],
    ['an exception', "throw new Error('in the worker')", 'in the worker'],
    ['terminate', "parentPort.postMessage('inside'); for (;;);", null],
    ['too much memory', 'const all = []; for (;;) all.push(new Array(1000).fill({}))', 'reaching memory limit'],
    ['nothing, with its timer running', "parentPort.postMessage('inside')", null],
  ] as const) {
    it(`may be where its worker ends: ${how}`, () => {
      const program = `${prelude()}
        const { parentPort } = require('node:worker_threads');
        const exits = arena.install(callAndAdd(arena.callback(toI32, () => process.exit(0)), 1)).func(toI32);
        addon.timer(callback(() => { ${body} }), 1, 1);`;
      runToEnd(`
        const { Worker } = require('node:worker_threads');
        for (let i = 0; i < 4; i++) {
          const resourceLimits = ${how === 'too much memory' ? '{ maxOldGenerationSizeMb: 12, maxYoungGenerationSizeMb: 4 }' : '{}'};
          const worker = new Worker(${JSON.stringify(program)}, { eval: true, resourceLimits });
          const errors = [];
          worker.on('error', (error) => errors.push(error.message));
          worker.on('message', () => setTimeout(() => worker.terminate(), i));
          await new Promise((resolve) => worker.on('exit', resolve));
          assert.equal(errors.length, ${error === null ? 0 : 1}, String(errors));
          assert.ok(errors.every((message) => message.includes(${JSON.stringify(error)})), String(errors));
        }
        assert.equal(arena.install({ code: constant(5) }).func(toI32)(), 5);`);
    });
  }
});

describe('a callback that another addon calls, which JavaScript has called', () => {
  before(function () {
    if (!canCompile) skip(this, 'there is no C compiler to make an addon with');
  });

  it('runs at once, and what it leaves for later runs behind the JavaScript', () => {
    runToEnd(`
      const log = [];
      const { address } = arena.callback(i32ToI32, (n) => {
        process.nextTick(() => log.push('tick'));
        Promise.resolve().then(() => log.push('job'));
        return 2 * n;
      });
      log.push(addon.call(address, 21), addon.call(address, 4));
      assert.deepEqual(log, [42, 8]);
      await sleep(1);
      assert.deepEqual(log.slice(2).sort(), ['job', 'job', 'tick', 'tick']);`);
  });

  it('has its exception reported as an uncaughtException, and the other addon goes on with 0', () => {
    runToEnd(`
      watch();
      const { address } = arena.callback(i32ToI32, (n) => { if (n < 0) throw new Error('n ' + n); return n });
      assert.deepEqual([5, -1, 6, -2].map((n) => addon.call(address, n)), [5, 0, 6, 0]);
      assert.deepEqual(uncaught.map(([error]) => error.message), ['n -1', 'n -2']);
      nothing();`);
  });

  it('is no part of our call that is further out', () => {
    runToEnd(`
      watch();
      const fails = arena.callback(i32ToI32, () => { throw new Error('further in') });
      const outer = arena.callback(i32ToI32, (n) => addon.call(fails.address, n) + nested(n) + 1);
      const nested = arena.install(callAndAdd(arena.callback(i32ToI32, (n) => n), 1)).func(i32ToI32);
      const f = arena.install(callAndAdd(outer, 1)).func(i32ToI32);
      assert.equal(f(10), 13);
      assert.equal(arena.pinned(() => f(10)), 13);
      assert.deepEqual(uncaught.map(([error]) => error.message), ['further in', 'further in']);`);
  });

  it('can be stopped with the JavaScript around it', () => {
    runToEnd(`
      watch();
      const endless = arena.callback(i32ToI32, () => { for (;;); });
      const nested = arena.install(callAndAdd(endless, 1)).func(i32ToI32);
      for (const call of [() => addon.call(endless.address, 1), () => nested(1)]) {
        const stop = () => require('node:vm').runInNewContext('call()', { call }, { timeout: 30 });
        for (let i = 0; i < 3; i++) assert.throws(stop, { code: 'ERR_SCRIPT_EXECUTION_TIMEOUT' });
        nothing();
      }
      assert.equal(addon.call(arena.callback(i32ToI32, (n) => n).address, 5), 5);
      assert.deepEqual(uncaught, []);`);
  });

  it('returns 0 on the stack of a fiber, and the call of ours that the fiber is in says so', () => {
    runToEnd(`
      const foreign = openForeign(${JSON.stringify(compileLibrary('foreign.c'))});
      const { address } = arena.callback(i32ToI32, (n) => n);
      for (let i = 0; i < 3; i++) {
        assert.throws(() => foreign.callOnFiber(address, 5), { code: 'ERR_ARENA_WRONG_THREAD', message: /stack/ });
        assert.equal(foreign.call(address, 5), 5);
      }`);
  });

  it('returns 0 on a stack of the other addon’s, as koffi has one, and the next call of ours says so', () => {
    runToEnd(`
      watch();
      const koffi = require('koffi');
      const call = koffi.load(${JSON.stringify(compileLibrary('foreign.c'))}).func('int call(void *f, int n)');
      let calls = 0;
      const { address } = arena.callback(i32ToI32, (n) => { calls++; return n });
      assert.equal(call(address, 5), 0);
      assert.throws(nothing, { code: 'ERR_ARENA_WRONG_THREAD', message: /stack/ });
      nothing();
      assert.equal(calls, 0);
      assert.equal(addon.call(address, 5), 5);
      assert.deepEqual(uncaught, []);`);
  });
});
