// What ends when, and what does not: garbage collection, worker threads, the end of the process, and two module systems.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { runChild } from './support/child.js';

// For the scripts below: 42 is a function's code, and `through` one that calls a callback.
const prelude = `
  const { Arena } = require('jit-arena');
  const { callAndAdd, constant, jump, toI32: signature } = require('./dist-test/support/x64.js');
  const code = constant(42);
  const through = (arena, callback) => arena.install(callAndAdd(callback, 1)).func(signature);`;

describe('garbage collection', () => {
  const collected = `${prelude}
    const assert = require('node:assert');
    // Each round of gc is followed by a turn of the event loop, in which finalizers run.
    const collectGarbage = async () => {
      for (let i = 0; i < 5; i++) { gc(); await new Promise(setImmediate) }
    };`;
  const runWithGc = (script: string) =>
    runChild(`${collected}\n(async () => {${script}})()`, {
      nodeArgs: ['--expose-gc', '--unhandled-rejections=strict'],
    });

  it('of Executor objects frees no executor', () => {
    runWithGc(`
      const arena = new Arena();
      for (let i = 0; i < 1000; i++) arena.install({ code });
      await collectGarbage();
      assert.strictEqual(arena.stats().executors, 1000);
      for (const executor of arena.executors()) assert.strictEqual(executor.func(signature)(), 42);
      await collectGarbage();
      arena.free(arena.executors());
      assert.strictEqual(arena.stats().executors, 0);`);
  });

  it('leaves a function its executor and its arena', () => {
    runWithGc(`
      const functions = Array.from({ length: 50 }, () => new Arena({ maxBytes: 1 << 20 }).install({ code }).func(signature));
      const arenas = functions.map((f) => new WeakRef(f.executor.arena));
      await collectGarbage();
      for (const f of functions) assert.strictEqual(f(), 42);
      assert(arenas.every((arena) => arena.deref() !== undefined));`);
  });

  it('leaves a callback to the machine code that calls it', () => {
    runWithGc(`
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => 41));
      await collectGarbage();
      assert.strictEqual(f(), 42);`);
  });

  it('takes functions, executors, callbacks and arenas that were disposed of', () => {
    runWithGc(`
      const gone = [];
      for (let i = 0; i < 50; i++) {
        const arena = new Arena({ maxBytes: 1 << 20 });
        const callback = arena.callback(signature, () => 41);
        const f = through(arena, callback);
        assert.strictEqual(f(), 42);
        gone.push(...[arena, f, f.executor, callback].map((object) => new WeakRef(object)));
        arena.dispose();
      }
      await collectGarbage();
      const left = gone.filter((object) => object.deref() !== undefined).length;
      assert(left <= 4, left + ' are left');`);
  });

  it('between calls and inside callbacks changes no result', () => {
    runWithGc(`
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => { gc(); return 41 }));
      for (let i = 0; i < 5; i++) assert.strictEqual(f(), 42);`);
  });
});

describe('CommonJS and ES modules', () => {
  it('get one class', () => {
    const script = `
      import { createRequire } from 'node:module';
      import * as imported from 'jit-arena';
      const required = createRequire(process.cwd() + '/')('jit-arena');
      const { Arena } = imported;
      const names = Object.keys(required).filter((name) => name !== '__esModule');
      const same = names.length > 7 && names.every((name) => imported[name] === required[name]);
      const executor = new Arena().install({ code: Uint8Array.of(0xb8, 42, 0, 0, 0, 0xc3) });
      console.log(same, executor.func({ args: [], returns: 'i32' })());`;
    assert.equal(runChild(script, { esm: true }), 'true 42\n');
  });

  it('import and require give every export', () => {
    const list =
      'console.log(Object.keys(all).filter((name) => !/^(__esModule|default|module\\.exports)$/.test(name)).sort().join())';
    const required = runChild(`const all = require('jit-arena'); ${list}`);
    assert.equal(runChild(`import * as all from 'jit-arena'; ${list}`, { esm: true }), required);
    assert.match(required, /Arena,ArenaError,.*symbolAddress/);
  });

  it('a module that is loaded anew, as jest does it, shares the binary with the first and gets on with it', () => {
    const script = `
      const assert = require('node:assert');
      const load = () => {
        for (const key of Object.keys(require.cache)) if (!key.endsWith('.node')) delete require.cache[key];
        return require('jit-arena');
      };
      const copies = [load(), load(), load()];
      assert.notStrictEqual(copies[0].Arena, copies[1].Arena);
      const signature = { args: ['i32', 'i32'], returns: 'i32' };
      const arenas = copies.map(({ Arena }) => new Arena());
      const add = arenas.map((arena) => arena.install({ code: Uint8Array.of(0x8d, 0x04, 0x37, 0xc3) }).func(signature));
      for (const f of add) assert.strictEqual(f(2, 3), 5);
      const load64 = { code: Uint8Array.of(0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xc3) };
      for (const [i, arena] of arenas.entries()) {
        const relocs = Array.from({ length: 1 + 100 * i }, (_, n) => ({ offset: 2 + 16 * n, kind: 'R_X86_64_64', target: { address: BigInt(i) } }));
        const code = new Uint8Array(16 * relocs.length);
        code.set(load64.code);
        assert.strictEqual(arena.install({ code, relocs }).func({ args: [], returns: 'u64' })(), BigInt(i));
      }
      const error = new Error('thrown');
      const callback = arenas[0].callback(signature, () => { throw error });
      const jump = { code: Uint8Array.of(0xe9, 0, 0, 0, 0), relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: { address: callback.address }, addend: -4 }] };
      assert.throws(() => arenas[2].install(jump).func(signature)(1, 2), error);
      assert.strictEqual(add[0](2, 3), 5);
      // An exit belongs to the last run of all, and to its arena.
      const trace = { // lea r11, [rip + record]; jmp [r11]
        code: Uint8Array.of(0x4c, 0x8d, 0x1d, 0, 0, 0, 0, 0x41, 0xff, 0x23),
        exits: 1,
        relocs: [{ offset: 3, kind: 'R_X86_64_PC32', target: { exit: 0 }, addend: -4 }],
      };
      const traces = arenas.map((arena) => arena.install(trace));
      const tokens = arenas.map((arena, i) => arena.runner(new Uint8Array(8))(traces[i]));
      assert.deepStrictEqual(tokens, [1, 1, 1]);
      assert.strictEqual(arenas[2].exitOf(1).executor, traces[2].id);
      for (const i of [0, 1]) assert.throws(() => arenas[i].exitOf(1), { code: 'ERR_ARENA_EXIT' });`;
    runChild(script);
  });
});

describe('worker threads', () => {
  /** Runs the script in a worker and returns its messages, when it has ended with the given code. */
  async function runWorker(script: string, exitCode = 0): Promise<unknown[]> {
    const messages: unknown[] = [];
    const text = `const { parentPort } = require('node:worker_threads'); ${prelude} ${script}`;
    const worker = new Worker(text, { eval: true });
    worker.on('message', (message) => messages.push(message));
    const [code] = await once(worker, 'exit');
    assert.equal(code, exitCode);
    return messages;
  }

  it('have arenas, functions and callbacks of their own, and end with them alive', async () => {
    const script = `
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => { arena.collect(); return 41 }));
      arena.install({ code });
      parentPort.postMessage([f(), arena.verify().ok, arena.install({ code }).id]);`;
    const results = await Promise.all(Array.from({ length: 6 }, () => runWorker(script)));
    for (const [message] of results) assert.deepEqual((message as unknown[]).slice(0, 2), [42, true]);
  });

  it('end with arenas that were disposed of, and some that were not', async () => {
    await runWorker(`
      for (let i = 0; i < 10; i++) {
        const arena = new Arena({ maxBytes: 1 << 20 });
        through(arena, arena.callback(signature, () => 41))();
        if (i % 2) arena.dispose();
      }`);
  });

  it('end in the middle of a callback: process.exit', async () => {
    const messages = await runWorker(
      `
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => { parentPort.postMessage('inside'); process.exit(3) }));
      f();
      parentPort.postMessage('never');`,
      3,
    );
    assert.deepEqual(messages, ['inside']);
  });

  it('end in the middle of nested callbacks: process.exit', async () => {
    const messages = await runWorker(
      `
      const arena = new Arena();
      let f;
      let depth = 0;
      const callback = arena.callback(signature, () => {
        if (++depth < 10) return f();
        parentPort.postMessage('inside');
        process.exit(3);
      });
      f = through(arena, callback);
      f();
      parentPort.postMessage('never');`,
      3,
    );
    assert.deepEqual(messages, ['inside']);
  });

  it('can be terminated while a callback runs for ever', async () => {
    const text = `const { parentPort } = require('node:worker_threads'); ${prelude}
      const arena = new Arena();
      through(arena, arena.callback(signature, () => { parentPort.postMessage('inside'); for (;;); }))();`;
    const worker = new Worker(text, { eval: true });
    await once(worker, 'message');
    assert.equal(await worker.terminate(), 1);
  });

  it('give an exception of a callback to the call that entered, as the main thread does', async () => {
    const messages = await runWorker(`
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => { throw new Error('thrown') }));
      try { f() } catch (error) { parentPort.postMessage(error.message) }`);
    assert.deepEqual(messages, ['thrown']);
  });
});

describe('the end of the process', () => {
  it('comes with arenas, functions and callbacks alive', () => {
    const script = `${prelude}
      const arena = new Arena();
      const f = through(arena, arena.callback(signature, () => 41));
      arena.allocate({ code });
      const other = new Arena();
      other.dispose();
      console.log(f());`;
    assert.equal(runChild(script), '42\n');
  });

  it('comes with process.exit inside a callback, in the middle of machine code', () => {
    const script = `${prelude}
      const arena = new Arena();
      let depth = 0;
      let f;
      const callback = arena.callback(signature, () => {
        if (++depth < 5) return f();
        console.log('inside');
        process.exit(3);
      });
      f = through(arena, callback);
      f();
      console.log('never');`;
    assert.equal(runChild(script, { status: 3 }), 'inside\n');
  });

  it('comes with process.exit inside pinned', () => {
    const script = `${prelude}
      new Arena().pinned(() => { console.log('inside'); process.exit(0) });`;
    assert.equal(runChild(script), 'inside\n');
  });

  it('comes with an exception that nobody catches, from a callback', () => {
    const script = `${prelude}
      process.on('uncaughtException', (error) => { console.log(error.message); process.exitCode = 5 });
      const arena = new Arena();
      through(arena, arena.callback(signature, () => { throw new Error('thrown') }))();`;
    assert.equal(runChild(script, { status: 5 }), 'thrown\n');
  });

  it('comes with machine code that exits by itself', () => {
    const script = `${prelude}
      const { symbolAddress } = require('jit-arena');
      const arena = new Arena();
      const exit = arena.install(jump({ address: symbolAddress('exit') })).func({ args: ['i32'], returns: 'void' });
      process.on('exit', () => console.log('never'));
      exit(7);`;
    assert.equal(runChild(script, { status: 7 }), '');
  });
});
