// Garbage collection in a shared arena: what JavaScript objects keep, and what they do not.
import { runChild } from './support/child.js';

const prelude = `
  const assert = require('node:assert/strict');
  const { once } = require('node:events');
  const { Worker } = require('node:worker_threads');
  const { Arena } = require('jit-arena');
  const { callAndAdd, constant, toI32: signature } = require('./dist-test/support/x64.js');
  const code = constant(42);
  const through = (arena, callback) => arena.install(callAndAdd(callback, 1)).func(signature);
  // Each round of gc is followed by a turn of the event loop, in which finalizers run.
  const collectGarbage = async () => {
    for (let i = 0; i < 5; i++) { gc(); await new Promise(setImmediate) }
  };`;
const run = (script: string) =>
  runChild(`${prelude}\n(async () => {${script}})()`, {
    nodeArgs: ['--expose-gc', '--unhandled-rejections=strict'],
  });

describe('garbage collection, in a shared arena,', () => {
  it('leaves functions and executors their arena, when every other use was disposed of', () => {
    run(`
      const make = () => {
        const arena = new Arena();
        const { id } = arena.install({ code });
        const again = Arena.from(arena.share());
        arena.dispose();
        const executor = again.executor(id);
        return { f: executor.func(signature), executor: again.executor(id), token: again.share() };
      };
      const made = Array.from({ length: 30 }, make);
      await collectGarbage();
      for (const { f, executor } of made) {
        assert.equal(f(), 42);
        assert.equal(executor.func(signature)(), 42);
      }`);
  });

  it('ends no use: an Arena object that was not disposed of counts until its thread ends', () => {
    run(`
      const token = (() => new Arena().share())();
      await collectGarbage();
      const arena = Arena.from(token);
      arena.dispose();
      await collectGarbage();
      Arena.from(token).dispose();

      const worker = new Worker("const { Arena } = require('jit-arena'); require('worker_threads').parentPort.postMessage(new Arena().share());", { eval: true });
      const exit = once(worker, 'exit');
      const [theirs] = await once(worker, 'message');
      await exit;
      assert.throws(() => Arena.from(theirs), { code: 'ERR_ARENA_DISPOSED' });`);
  });

  it('takes Arena objects that were disposed of, while the arena lives on in others', () => {
    run(`
      const arena = new Arena();
      const { id } = arena.install({ code });
      const gone = [];
      for (let i = 0; i < 100; i++) {
        const again = Arena.from(arena.share());
        const f = through(again, again.callback(signature, () => 41));
        assert.equal(f(), 42);
        gone.push(...[again, f, again.executor(id)].map((object) => new WeakRef(object)));
        again.dispose();
      }
      await collectGarbage();
      const left = gone.filter((object) => object.deref() !== undefined).length;
      assert(left <= 3, left + ' are left');
      assert.equal(arena.executor(id).func(signature)(), 42);`);
  });

  it('runs in a worker while others call what the worker has made', () => {
    run(`
      const arena = new Arena();
      const text = \`
        const { parentPort, workerData } = require('node:worker_threads');
        const { Arena } = require('jit-arena');
        const { constant } = require('./dist-test/support/x64.js');
        const arena = Arena.from(workerData);
        let ids = Array.from({ length: 100 }, () => arena.install({ code: constant(42) }).id);
        for (const id of ids) arena.executor(id).func({ args: [], returns: 'i32' })();
        parentPort.postMessage(ids);
        ids = undefined;
        parentPort.once('message', () => {
          for (let i = 0; i < 10; i++) gc();
          parentPort.postMessage('collected');
        });\`;
      const worker = new Worker(text, { eval: true, workerData: arena.share() });
      const exit = once(worker, 'exit');
      const [ids] = await once(worker, 'message');
      worker.postMessage('go');
      let collected = false;
      worker.once('message', () => { collected = true });
      const functions = ids.map((id) => arena.executor(id).func(signature));
      while (!collected) {
        for (const f of functions) assert.equal(f(), 42);
        await new Promise(setImmediate);
      }
      await exit;
      for (const f of functions) assert.equal(f(), 42);
      assert.equal(arena.stats().executors, 100);`);
  });
});
