// Threads of a library that nobody here knows of call callbacks, while the callback, its arena, its thread or the process
// ends: they get 0, and nothing crashes or hangs. Each case has a process of its own.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { runChild } from './support/child.js';
import { canCompile, compileLibrary } from './support/compile.js';
import { skip } from './support/skip.js';

const x64 = JSON.stringify(join(__dirname, 'support/x64.js'));
const prelude = () => `
  const { Arena, openForeign, quietly, calledAgain, sleep, assert } = require(${JSON.stringify(join(__dirname, 'support/foreign-prelude.js'))});
  const { i32ToI32, callAndAdd } = require(${x64});
  const foreign = openForeign(${JSON.stringify(compileLibrary('foreign.c'))});
  foreign.start(3);
  const giveOne = (arena) => {
    const callback = arena.callback(i32ToI32, (n) => n + 1);
    quietly(() => foreign.give(callback.address));
    return callback;
  };`;

/** Runs an asynchronous script, in whose process three threads call the callbacks that they are given. */
const run = (script: string, status = 0) =>
  runChild(`${prelude()}\n(async () => {${script}\n})().then(() => console.log('ended'))`, {
    nodeArgs: ['--expose-gc', '--unhandled-rejections=strict'],
    status,
  });
const runToEnd = (script: string) =>
  assert.equal(run(`${script}\nquietly(foreign.stop); assert.equal(foreign.countWrong(), 0);`), 'ended\n');

describe('threads of a library that call a callback', () => {
  before(function () {
    if (!canCompile) skip(this, 'there is no C compiler to make a library with');
  });

  it('get 0, and the next call that returns on its own thread throws ERR_ARENA_WRONG_THREAD', () => {
    runToEnd(`
      giveOne(new Arena());
      await sleep(20);
      assert.throws(() => foreign.count(), { code: 'ERR_ARENA_WRONG_THREAD' });
      assert.throws(() => { for (;;) foreign.count(); }, { code: 'ERR_ARENA_WRONG_THREAD' });`);
  });

  it('get 0 and disturb nobody once it is disposed of, while its own thread calls others', () => {
    runToEnd(`
      const arena = new Arena();
      const callback = giveOne(arena);
      await calledAgain(foreign);
      callback.dispose();
      await calledAgain(foreign);
      quietly(foreign.count);
      const f = arena.install(callAndAdd(arena.callback(i32ToI32, (n) => 2 * n), 1)).func(i32ToI32);
      for (let i = 0; i < 20_000; i++) assert.equal(f(i), 2 * i + 1);
      await calledAgain(foreign);`);
  });

  it('go on while its arena is disposed of, a thousand times', () => {
    runToEnd(`
      for (let i = 0; i < 1000; i++) {
        const arena = new Arena({ maxBytes: 1 << 20, writer: ['alias', 'procmem', 'flip'][i % 3] });
        const callback = giveOne(arena);
        const f = arena.install(callAndAdd(callback, 1)).func(i32ToI32);
        const result = quietly(() => f(i));
        assert.ok(result === i + 2 || result === undefined || result === 1);
        if (i % 100 === 0) await calledAgain(foreign);
        arena.dispose();
      }
      await calledAgain(foreign);`);
  });

  it('go on when it was disposed of, and its address is not given to another', () => {
    runToEnd(`
      const arena = new Arena();
      const addresses = new Set();
      for (let i = 0; i < 3000; i++) {
        const callback = i % 50 === 0 ? giveOne(arena) : arena.callback(i32ToI32, (n) => n);
        addresses.add(callback.address);
        callback.dispose();
      }
      assert.equal(addresses.size, 3000);
      arena.dispose();
      const later = new Arena();
      for (let i = 0; i < 100; i++) assert.ok(!addresses.has(later.callback(i32ToI32, (n) => n).address));
      for (const address of addresses) assert.equal(quietly(() => foreign.call(address, 5)) ?? 0, 0);
      await calledAgain(foreign);`);
  });

  it('are not there in a forked child, where it answers 0', () => {
    runToEnd(`
      const arena = new Arena();
      const callback = arena.callback(i32ToI32, (n) => n + 1);
      for (let i = 0; i < 5; i++) {
        assert.equal(foreign.callInChild(callback.address), 0);
        assert.equal(foreign.call(callback.address, 1), 2);
      }`);
  });

  it('keep neither its function nor its arena from being collected', () => {
    runToEnd(`
      const gone = [];
      (() => {
        const arena = new Arena();
        const fn = (n) => n + gone.length;
        gone.push(new WeakRef(fn), new WeakRef(arena));
        quietly(() => foreign.give(arena.callback(i32ToI32, fn).address));
        arena.dispose();
      })();
      for (let i = 0; i < 50 && gone.some((ref) => ref.deref() !== undefined); i++) { await sleep(1); gc(); }
      assert.deepEqual(gone.map((ref) => ref.deref()), [undefined, undefined]);
      await calledAgain(foreign);`);
  });

  for (const [how, ending] of Object.entries({
    'by itself': 'setTimeout(() => {}, 20)',
    'by terminate': "setInterval(() => {}, 1000); parentPort.postMessage('terminate')",
    'by terminate, in JavaScript': "parentPort.postMessage('terminate'); for (;;);",
    'by process.exit': 'setTimeout(() => process.exit(0), 20)',
    'by process.exit inside a callback': 'setTimeout(() => { for (;;) quietly(() => end(1)) }, 20)',
    'by an exception': "setTimeout(() => { throw new Error('uncaught') }, 20)",
    'having disposed of it': 'setTimeout(() => arena.dispose(), 20)',
  })) {
    it(`go on when its worker ends ${how}`, () => {
      runToEnd(`
        const { Worker } = require('node:worker_threads');
        for (let i = 0; i < 4; i++) {
          const worker = new Worker(${JSON.stringify(`
            const { parentPort } = require('node:worker_threads');
            ${prelude().replace('foreign.start(3);', '')}
            const arena = new Arena();
            const end = arena.install(callAndAdd(arena.callback(i32ToI32, () => process.exit(0)), 1)).func(i32ToI32);
            for (let i = 0; i < 5; i++) giveOne(arena);
            ${ending}`)}, { eval: true });
          worker.on('message', () => worker.terminate());
          worker.on('error', (error) => assert.match(error.message, /uncaught/));
          await new Promise((resolve) => worker.on('exit', resolve));
          await calledAgain(foreign);
        }`);
    });
  }

  it('go on when only workers have loaded the package, and the last of them ends', () => {
    const worker = JSON.stringify(`${prelude()}
      giveOne(new Arena());
      setTimeout(() => {}, 20);`);
    const script = `
      const { Worker } = require('node:worker_threads');
      const next = (left) => {
        if (left === 0) setTimeout(() => console.log('ended'), 50);
        else new Worker(${worker}, { eval: true }).on('exit', () => setTimeout(next, 10, left - 1));
      };
      next(4);`;
    assert.equal(runChild(script), 'ended\n');
  });

  describe('do not keep the process from ending', () => {
    const many = 'const arena = new Arena(); for (let i = 0; i < 5; i++) giveOne(arena); await sleep(20);';
    for (const [how, [ending, status]] of Object.entries({
      'by itself': ['', 0],
      'by process.exit': ['process.exit(3)', 3],
      'by process.exit inside a callback': [
        'const end = arena.callback(i32ToI32, () => process.exit(3)); for (;;) quietly(() => foreign.call(end.address, 1));',
        3,
      ],
      'by an exception': ["setTimeout(() => { throw new Error('uncaught') }); await sleep(10_000)", 1],
      'after the arena': ['arena.dispose(); process.exit(3)', 3],
      'with listeners of exit that make more': [
        "process.on('exit', () => { giveOne(new Arena()); arena.dispose(); giveOne(new Arena()); }); process.exit(3)",
        3,
      ],
    } as const)) {
      it(how, () => {
        for (let i = 0; i < 3; i++) run(`${many}${ending}`, status);
      });
    }
  });
});
