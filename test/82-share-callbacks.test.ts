// Callbacks of several threads in one arena: each is its own environment's, also for machine code of another thread, and
// when the environment is gone.
import assert from 'node:assert/strict';
import { Arena, type Callback, type Executor } from 'jit-arena';
import { Code } from './support/assembler.js';
import { runChild } from './support/child.js';
import { Peer } from './support/peer.js';
import { stepThatCalls } from './support/trace-code.js';
import { assertSound } from './support/writers.js';
import { callAndAdd, constant, toI32 } from './support/x64.js';

describe('a callback that machine code of another thread calls', () => {
  let arena: Arena;
  let peer: Peer;
  let calls: number;
  let callback: Callback;
  let caller: Executor;
  beforeEach(() => {
    arena = new Arena();
    peer = new Peer(arena);
    calls = 0;
    callback = arena.callback(toI32, () => ++calls);
    caller = arena.install(callAndAdd(callback, 5));
  });
  afterEach(async () => {
    await peer.end();
    assertSound(arena);
    arena.dispose();
  });

  const wrongThread = { name: 'ArenaError', code: 'ERR_ARENA_WRONG_THREAD' };

  it('returns 0 there, and the call there throws ERR_ARENA_WRONG_THREAD, once', async () => {
    const there = await peer.call(
      ({ arena }, caller, code) => {
        const wrong = arena.executor(caller).func({ args: [], returns: 'i32' });
        const right = arena.install({ code }).func({ args: [], returns: 'i32' });
        const outcome = (f: () => number) => {
          try {
            return f();
          } catch (error) {
            return (error as { code?: string }).code;
          }
        };
        return [wrong, right, wrong, wrong, right, right].map(outcome);
      },
      caller.id,
      constant(1),
    );
    assert.deepEqual(there, [wrongThread.code, 1, wrongThread.code, wrongThread.code, 1, 1]);
    assert.equal(calls, 0);
  });

  it('is no error on its own thread, also while the other thread has one', async () => {
    const f = caller.func(toI32);
    const there = peer.call(({ arena, post }, caller) => {
      const wrong = arena.executor(caller).func({ args: [], returns: 'i32' });
      let thrown = 0;
      for (let i = 0; i < 2000; i++) {
        if (i === 10) post('begun');
        try {
          wrong();
        } catch (error) {
          if ((error as { code?: string }).code === 'ERR_ARENA_WRONG_THREAD') thrown++;
        }
      }
      return thrown;
    }, caller.id);
    await peer.message();
    for (let i = 1; i <= 2000; i++) assert.equal(f(), i + 5);
    assert.equal(await there, 2000);
    assert.equal(calls, 2000);
  });

  it('gives the machine code 0 to go on with', async () => {
    const code = new Code().push('rbx').call(callback).add32('rax', 5).store32({ own: 'state' }, 'rax');
    const keeps = arena.install(code.pop('rbx').ret().spec({ state: 4 }));
    await assert.rejects(
      peer.call(({ arena }, id) => arena.executor(id).func({ args: [], returns: 'i32' })(), keeps.id),
      wrongThread,
    );
    assert.equal(keeps.read('state')[0], 5);
  });

  it('is the error of the run, when a trace calls it', async () => {
    const trace = arena.install(stepThatCalls(3, callback));
    const there = await peer.call(({ arena }, id) => {
      const context = new BigInt64Array(8);
      let code: string | undefined;
      try {
        arena.runner(context)(arena.executor(id));
      } catch (error) {
        code = (error as { code?: string }).code;
      }
      return { code, trail: context[0] };
    }, trace.id);
    assert.deepEqual(there, { code: 'ERR_ARENA_WRONG_THREAD', trail: 33n }, 'the trace went on to its end');
  });

  it('is thrown inside pinned, too', async () => {
    await assert.rejects(
      peer.call(
        ({ arena }, id) => arena.pinned(() => arena.executor(id).func({ args: [], returns: 'i32' })()),
        caller.id,
      ),
      wrongThread,
    );
  });

  it('keeps the callbacks that come after it from running, so that no call of theirs takes the error', async () => {
    // call the other thread's callback; call this thread's, with its result + 5
    const there = await peer.call(({ arena, require }, callerId) => {
      const { constant, callAndAdd } = require('./x64.js') as typeof import('./support/x64.js');
      const signature = { args: [], returns: 'i32' } as const;
      const inner = arena.install({ code: constant(7) }).func(signature);
      const seen: unknown[] = [];
      const own = arena.callback(signature, () => {
        seen.push(inner());
        return 1;
      });
      const { Code } = require('./assembler.js') as typeof import('./support/assembler.js');
      const code = new Code().push('rbx').call(arena.executor(callerId)).call(own).pop('rbx').ret();
      const both = arena.install(code.spec());
      try {
        both.func(signature)();
      } catch (error) {
        seen.push((error as { code?: string }).code);
      }
      seen.push(arena.install(callAndAdd(own, 0)).func(signature)());
      arena.free(both);
      return seen;
    }, caller.id);
    assert.deepEqual(there, ['ERR_ARENA_WRONG_THREAD', 7, 1]);
  });

  it('goes outwards through nested calls that do not catch it', async () => {
    const there = await peer.call(({ arena, require }, callerId) => {
      const { callAndAdd } = require('./x64.js') as typeof import('./support/x64.js');
      const signature = { args: [], returns: 'i32' } as const;
      const wrong = arena.executor(callerId).func(signature);
      const outcomes: unknown[] = [];
      for (const own of [
        arena.callback(signature, () => wrong()),
        arena.callback(signature, () => {
          try {
            return wrong();
          } catch {
            return 30;
          }
        }),
      ]) {
        try {
          outcomes.push(arena.install(callAndAdd(own, 1)).func(signature)());
        } catch (error) {
          outcomes.push((error as { code?: string }).code);
        }
      }
      return outcomes;
    }, caller.id);
    assert.deepEqual(there, ['ERR_ARENA_WRONG_THREAD', 31]);
  });

  it('returns 0 without an error once it is disposed of', async () => {
    callback.dispose();
    const there = await peer.call(
      ({ arena }, id) => arena.executor(id).func({ args: [], returns: 'i32' })(),
      caller.id,
    );
    assert.equal(there, 5);
  });

  it('returns 0 without an error once its Arena object is disposed of', async () => {
    const token = arena.share();
    await peer.call(() => 'it has the arena');
    arena.dispose();
    const there = await peer.call(
      ({ arena }, id) => arena.executor(id).func({ args: [], returns: 'i32' })(),
      caller.id,
    );
    assert.equal(there, 5);
    arena = Arena.from(token);
    assert.equal(arena.executor(caller.id).func(toI32)(), 5, 'also for a new Arena object of the same thread');
  });
});

describe('callbacks of an environment that has ended', () => {
  for (const how of ['by itself', 'by terminate', 'by process.exit', 'by an exception']) {
    it(`return 0 when it ended ${how}, and new ones work`, async () => {
      using arena = new Arena();
      const peer = new Peer(arena);
      const made = await peer.call(({ arena, require, keep }) => {
        const { callAndAdd } = require('./x64.js') as typeof import('./support/x64.js');
        const signature = { args: [], returns: 'i32' } as const;
        keep.callback = arena.callback(signature, () => 100);
        const executor = arena.install(callAndAdd(keep.callback, 7));
        return { result: executor.func(signature)(), id: executor.id, address: keep.callback.address as bigint };
      });
      assert.equal(made.result, 107);
      const f = arena.executor(made.id).func(toI32);
      assert.throws(f, { code: 'ERR_ARENA_WRONG_THREAD' });
      if (how === 'by itself') await peer.end();
      else if (how === 'by terminate') await peer.terminate();
      else if (how === 'by process.exit') await peer.call(() => process.exit(0)).catch(() => {});
      else {
        peer.worker.removeAllListeners('error');
        peer.worker.on('error', () => {});
        peer
          .call(() => {
            setImmediate(() => {
              throw new Error('uncaught');
            });
          })
          .catch(() => {});
      }
      await peer.ended;
      for (let i = 0; i < 10; i++) assert.equal(f(), 7);

      // Threads that come after it are not taken for it.
      const next = new Peer(arena);
      const there = await next.call(({ arena, require }, id) => {
        const { callAndAdd } = require('./x64.js') as typeof import('./support/x64.js');
        const signature = { args: [], returns: 'i32' } as const;
        const own = arena
          .install(
            callAndAdd(
              arena.callback(signature, () => 1),
              1,
            ),
          )
          .func(signature);
        return [arena.executor(id).func(signature)(), own()];
      }, made.id);
      assert.deepEqual(there, [7, 2]);
      await next.end();
      assert.equal(f(), 7);
      assertSound(arena);
    });
  }

  it('return 0 from one moment to the next, while another thread calls them all the time', async () => {
    using arena = new Arena();
    for (let round = 0; round < 20; round++) {
      const peer = new Peer(arena);
      const ids = await peer.call(({ arena, require, keep }) => {
        const { callAndAdd } = require('./x64.js') as typeof import('./support/x64.js');
        keep.callbacks = Array.from({ length: 20 }, () => arena.callback({ args: [], returns: 'i32' }, () => 100));
        return keep.callbacks.map((callback: Callback) => arena.install(callAndAdd(callback, 7)).id) as number[];
      });
      const functions = ids.map((id) => arena.executor(id).func(toI32));
      let wrong = 0;
      let ended = false;
      for (let pass = 0; !ended; pass++) {
        if (pass === 3) {
          peer.terminate();
          peer.ended.then(() => {
            ended = true;
          });
        }
        for (const f of functions) {
          try {
            assert.equal(f(), 7);
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'ERR_ARENA_WRONG_THREAD');
            wrong++;
          }
        }
        if (pass >= 3) await new Promise((resolve) => setImmediate(resolve));
      }
      assert.ok(wrong >= 60, 'they were called while they were there');
      for (const f of functions) assert.equal(f(), 7);
    }
    assertSound(arena);
  });

  it('cannot hold up the arena, which ends with its last user, and its memory with it', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const { Arena } = require('jit-arena');
      const { readFileSync } = require('node:fs');
      const text = \`
        const { workerData } = require('node:worker_threads');
        const { Arena } = require('jit-arena');
        const arena = Arena.from(workerData);
        for (let i = 0; i < 100; i++) arena.callback({ args: [], returns: 'i32' }, () => i);\`;
      const mapped = () => readFileSync('/proc/self/maps', 'latin1').split('\\n').filter((line) => / r-xs /.test(line)).length;
      (async () => {
        for (let round = 0; round < 10; round++) {
          const arena = new Arena({ writer: 'alias' });
          if (mapped() === 0) throw new Error('nothing is mapped');
          const workers = Array.from({ length: 3 }, () => new Worker(text, { eval: true, workerData: arena.share() }));
          await Promise.all(workers.map((worker) => new Promise((resolve) => worker.on('exit', resolve))));
          arena.dispose();
          if (mapped() !== 0) throw new Error('mapped: ' + mapped());
        }
        console.log('gone');
      })();`;
    assert.equal(runChild(script), 'gone\n');
  });
});

describe('a thread that JavaScript knows nothing of', () => {
  it('calls a callback in a shared arena: 0, and an error of the thread that made the callback, not of others', async () => {
    using arena = new Arena();
    const peer = new Peer(arena);
    // Starts the thread and joins it: the error is there when `join` returns.
    const result = await peer.call(({ arena, require, jitArena }) => {
      const { jump, constant } = require('./x64.js') as typeof import('./support/x64.js');
      const { symbolAddress } = jitArena;
      const callback = arena.callback({ args: ['pointer'], returns: 'pointer' }, () => 5n);
      const create = arena.install(jump({ address: symbolAddress('pthread_create') })).func({
        args: ['pointer', 'pointer', 'pointer', 'pointer'],
        returns: 'i32',
      });
      const join = arena.install(jump({ address: symbolAddress('pthread_join') })).func({
        args: ['u64', 'pointer'],
        returns: 'i32',
      });
      const thread = new BigUint64Array(1);
      const returned = BigUint64Array.of(99n);
      const codes: unknown[] = [];
      for (const call of [() => create(thread, null, callback, null), () => join(thread[0]!, returned)]) {
        try {
          codes.push(call());
        } catch (error) {
          codes.push((error as { code?: string }).code);
        }
      }
      const after = arena.install({ code: constant(1) }).func({ args: [], returns: 'i32' })();
      return { codes: codes.map(String).sort(), after };
    });
    assert.deepEqual(result, { codes: ['0', 'ERR_ARENA_WRONG_THREAD'], after: 1 });
    assert.equal(arena.install({ code: constant(3) }).func(toI32)(), 3, 'this thread has no error');
    await peer.end();
  });
});
