// One arena in several threads: tokens, what works in each thread, and whose dispose ends what.
import assert from 'node:assert/strict';
import { Arena, type Executor, probe, type ShareToken, symbolAddress } from 'jit-arena';
import { runChild } from './support/child.js';
import { Peer } from './support/peer.js';
import { skip } from './support/skip.js';
import { Runs, step } from './support/trace-code.js';
import { assertSound } from './support/writers.js';
import { callAndAdd, constant, i32ToI32, jump, scatter, sum, toI32 } from './support/x64.js';

const addSignature = { args: ['i32', 'i32'], returns: 'i32' } as const;

describe('a token', () => {
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena({ name: 'shared' });
  });
  afterEach(() => arena.dispose());

  it('is the same whenever it is asked for, and another for each arena', () => {
    assert.equal(arena.share(), arena.share());
    using other = new Arena();
    assert.notEqual(arena.share(), other.share());
  });

  it('goes through structuredClone and JSON', () => {
    for (const token of [structuredClone(arena.share()), JSON.parse(JSON.stringify(arena.share())) as ShareToken]) {
      using again = Arena.from(token);
      assert.equal(again.name, 'shared');
      assert.equal(again.writer, arena.writer);
    }
  });

  it('gives the same arena in the same thread, with a dispose of its own', () => {
    const add = arena.install({ code: sum });
    const again = Arena.from(arena.share());
    assert.equal(again.executor(add.id).func(addSignature)(2, 3), 5);
    again.dispose();
    assert.throws(() => again.stats(), { code: 'ERR_ARENA_DISPOSED' });
    assert.equal(arena.stats().executors, 1);

    const third = Arena.from(arena.share());
    arena.dispose();
    assert.equal(third.executor(add.id).func(addSignature)(2, 3), 5);
    assert.throws(() => add.func(addSignature), { code: 'ERR_ARENA_DISPOSED' });
    third.dispose();
  });

  it('keeps nothing: after the last dispose it is ERR_ARENA_DISPOSED, however often it was used', () => {
    const token = arena.share();
    const others = [Arena.from(token), Arena.from(token)];
    arena.dispose();
    Arena.from(token).dispose();
    others[0]?.dispose();
    others[0]?.dispose();
    Arena.from(token).dispose();
    others[1]?.dispose();
    assert.throws(() => Arena.from(token), { name: 'ArenaError', code: 'ERR_ARENA_DISPOSED' });
    assert.throws(() => arena.share(), { name: 'ArenaError', code: 'ERR_ARENA_DISPOSED' });
  });

  it('that nobody ever made is an error', () => {
    const token = arena.share();
    const last = token.at(-1) === '0' ? '1' : '0';
    const forged = (token.slice(0, -1) + last) as ShareToken;
    assert.throws(() => Arena.from(forged), { name: 'ArenaError', code: 'ERR_ARENA_DISPOSED' });
    const id = /[^:]*$/.exec(token)?.[0];
    for (const garbage of [
      ...[undefined, null, 5, 5n, true, Symbol('token'), {}, [], [token], { token }, () => token, arena],
      ...['', 'token', id, ` ${token}`, `${token} `, `${token}\n`, `${token}0`, token.toUpperCase(), token.slice(1)],
      ...[`jit-arena:-1:${id}`, `jit-arena::${id}`, 'jit-arena:1:', `${token}\0`, new String(token), 'x'.repeat(1e6)],
    ]) {
      assert.throws(() => Arena.from(garbage as ShareToken), { name: 'TypeError', message: /the token/ });
    }
  });

  it('of another process is ERR_ARENA_FORKED', () => {
    const script = `
      const { Arena } = require('jit-arena');
      try { Arena.from(${JSON.stringify(arena.share())}) } catch (error) { console.log(error.code, error.message) }`;
    assert.match(runChild(script), new RegExp(`^ERR_ARENA_FORKED .*process ${process.pid}\\b`));
  });

  it('of an arena with the writer flip is ERR_ARENA_WRITER_UNSHAREABLE; of any other it is given', function () {
    const shared: string[] = [];
    for (const { writer, available } of probe()) {
      if (!available) continue;
      using made = new Arena({ writer });
      if (writer === 'flip') {
        assert.throws(() => made.share(), { name: 'ArenaError', code: 'ERR_ARENA_WRITER_UNSHAREABLE' });
        shared.push(writer);
      } else {
        using again = Arena.from(made.share());
        shared.push(again.writer);
      }
    }
    if (!shared.includes('flip')) skip(this, 'the writer flip does not work here');
    assert.ok(shared.length > 1);
  });
});

describe('two Arena objects of one arena in one thread', () => {
  let arena: Arena;
  let again: Arena;
  beforeEach(() => {
    arena = new Arena();
    again = Arena.from(arena.share());
  });
  afterEach(() => {
    assertSound(arena);
    arena.dispose();
    again.dispose();
  });

  it("take each other's executors, as arguments and as targets", () => {
    const add = arena.install({ code: sum });
    const throughAdd = again.install(jump(add));
    assert.equal(throughAdd.func(addSignature)(2, 3), 5);
    assert.throws(() => again.free(add), { code: 'ERR_ARENA_REFERENCED' });
    again.free([add, throughAdd]);
    assert.deepEqual([add.state, throughAdd.state], ['retired', 'retired']);

    const [a, b] = arena.install([step(1), step(2)]) as [Executor, Executor];
    again.link(a, 0, b);
    assert.equal(arena.linkOf(a, 0)?.executor.id, b.id);
    assert.equal(new Runs(again).from(a, 1).trail, 12);
    const { exit } = new Runs(arena).from(again.executor(b.id), 1);
    assert.equal(exit?.executor, b.id);
    again.replace(b, a);
    again.unlink(a, 0);
    again.invalidate(a);
    b.free();
  });

  it('have one pin: what one runs cannot be disposed of by the other', () => {
    const callback = arena.callback(toI32, () => {
      for (const each of [arena, again]) assert.throws(() => each.dispose(), { code: 'ERR_ARENA_BUSY' });
      return 41;
    });
    assert.equal(again.install(callAndAdd(callback, 1)).func(toI32)(), 42);
    again.pinned(() => assert.throws(() => arena.dispose(), { code: 'ERR_ARENA_BUSY' }));
  });

  it('keep what either retires while the thread is pinned, through whichever', () => {
    const executor = arena.install({ code: constant(1), state: 16 });
    again.pinned(() => {
      arena.free(executor);
      arena.collect();
      assert.equal(again.stats().retiredBytes, 32);
    });
    arena.collect();
    assert.equal(arena.stats().retiredBytes, 0);
  });

  it('have callbacks of their own: dispose of one ends its own, and no others', () => {
    const both = [arena, again].map((each, i) => {
      const callback = each.callback(toI32, () => 40 + i);
      return arena.install(callAndAdd(callback, 1)).func(toI32);
    });
    const throughFirst = again.install(
      callAndAdd(
        arena.callback(toI32, () => 50),
        1,
      ),
    );
    assert.deepEqual(
      both.map((f) => f()),
      [41, 42],
    );
    again.dispose();
    assert.deepEqual(
      both.map((f) => f()),
      [41, 1],
    );
    again = Arena.from(arena.share());
    arena.dispose();
    assert.equal(again.executor(throughFirst.id).func(toI32)(), 1);
    arena = Arena.from(again.share());
  });

  it('do not take the executors of another arena', () => {
    using other = new Arena();
    const foreign = other.install({ code: sum });
    assert.throws(() => again.free(foreign), { code: 'ERR_ARENA_FOREIGN_EXECUTOR' });
    assert.throws(() => again.install(jump(foreign)), { code: 'ERR_ARENA_FOREIGN_EXECUTOR' });
  });
});

for (const { writer, available, reason } of probe()) {
  if (writer === 'flip') continue;
  describe(`an arena in two threads, with the writer ${writer}`, () => {
    if (!available) {
      it('cannot be tested', function () {
        skip(this, reason ?? '');
      });
      return;
    }
    let arena: Arena;
    let peer: Peer;
    beforeEach(() => {
      arena = new Arena({ writer });
      peer = new Peer(arena);
    });
    afterEach(async () => {
      await peer.end();
      arena.collect();
      assert.equal(arena.stats().retiredBytes, 0, 'the thread that has ended left no pin');
      assertSound(arena);
      arena.dispose();
    });

    it('has the same executors in both, by id, and calls them', async () => {
      const add = arena.install({ code: sum, name: 'add' });
      const there = await peer.call(({ arena }, id) => {
        const executor = arena.executor(id);
        const f = executor.func({ args: ['i32', 'i32'], returns: 'i32' });
        const ids = arena.executors().map(({ id }) => id);
        return { name: executor.name, result: f(2, 3), ids, writer: arena.writer };
      }, add.id);
      assert.deepEqual(there, { name: 'add', result: 5, ids: [add.id], writer });
    });

    it('takes executors from both, installed, frozen and in batches', async () => {
      const ids = await peer.call(({ arena }) => {
        const code = Uint8Array.of(0xb8, 7, 0, 0, 0, 0xc3);
        const frozen = arena.allocate({ code: 6, state: 4 });
        frozen.write('code', 0, code);
        arena.freeze(frozen);
        frozen.write('state', 0, Uint8Array.of(1, 2, 3, 4));
        return [arena.install({ code }).id, frozen.id, ...arena.installBatch({ code, codeOffsets: [0, 6] })];
      });
      for (const id of ids) assert.equal(arena.executor(id).func(toI32)(), 7);
      assert.deepEqual([...arena.executor(ids[1]!).read('state')], [1, 2, 3, 4]);
    });

    it('freezes in one thread what the other has allocated, and links their relocs', async () => {
      const callee = arena.install({ code: constant(20) });
      const caller = arena.allocate(callAndAdd(callee, 1));
      const result = await peer.call(({ arena }, id) => {
        arena.freeze(arena.executor(id));
        return arena.executor(id).func({ args: [], returns: 'i32' })();
      }, caller.id);
      assert.equal(result, 21);
      assert.equal(caller.func(toI32)(), 21);
    });

    it('knows at once what the other thread has freed', async () => {
      const executor = arena.install({ code: constant(1) });
      const f = executor.func(toI32);
      assert.equal(f(), 1);
      await peer.call(({ arena }, id) => arena.executor(id).free(), executor.id);
      assert.throws(f, { code: 'ERR_ARENA_STALE_EXECUTOR' });
      assert.equal(executor.state, 'retired');
      await assert.rejects(
        peer.call(({ arena }, id) => arena.executor(id).id, executor.id),
        { name: 'ArenaError', code: 'ERR_ARENA_STALE_EXECUTOR' },
      );
    });

    it('moves in one thread what the other has bound', async () => {
      const executors = scatter(
        arena,
        [constant(1), constant(2), constant(3)].map((code) => ({ code })),
      );
      const ids = executors.map(({ id }) => id);
      const bound = await peer.call(({ arena, keep }, ids) => {
        keep.functions = ids.map((id) => arena.executor(id).func({ args: [], returns: 'i32' }));
        return keep.functions.map((f: () => number) => f());
      }, ids);
      assert.deepEqual(bound, [1, 2, 3]);
      const before = executors.map(({ address }) => address);
      assert.ok(arena.collect().moved >= 3);
      assert.ok(executors.every(({ address }, i) => address !== before[i]));
      assert.deepEqual(await peer.call(({ keep }) => keep.functions.map((f: () => number) => f())), [1, 2, 3]);
    });

    it('runs traces in both, and either links and unlinks them', async () => {
      const [a, b] = arena.install([step(1), step(2)]) as [Executor, Executor];
      const runs = new Runs(arena);
      await peer.call(({ arena }, a, b) => arena.link(arena.executor(a), 0, arena.executor(b)), a.id, b.id);
      assert.equal(runs.from(a, 1).trail, 12);
      const there = await peer.call(({ arena, require }, a) => {
        const { Runs } = require('./trace-code.js') as typeof import('./support/trace-code.js');
        const runs = new Runs(arena);
        const linked = runs.from(arena.executor(a), 1);
        arena.unlinkAll();
        return { linked, unlinked: runs.from(arena.executor(a), 1), cycles: arena.chainDepth(arena.executor(a)) };
      }, a.id);
      assert.equal(there.linked.trail, 12);
      assert.deepEqual(there.unlinked, { trail: 1, exit: { executor: a.id, exit: 0, hot: false } });
      assert.equal(runs.from(a, 1).trail, 1);
      assert.equal(arena.linkOf(a, 0), undefined);
    });

    it('has callbacks in both, each for its own thread', async () => {
      const here = arena.callback(i32ToI32, (x) => x + 100);
      assert.equal(arena.install(jump(here)).func(i32ToI32)(1), 101);
      const there = await peer.call(({ arena, require }) => {
        const { jump } = require('./x64.js') as typeof import('./support/x64.js');
        const signature = { args: ['i32'], returns: 'i32' } as const;
        const callback = arena.callback(signature, (x) => x + 200);
        return arena.install(jump(callback)).func(signature)(1);
      });
      assert.equal(there, 201);
    });

    it('keeps for a thread what the other frees while it is pinned', async () => {
      const executor = arena.install({ code: constant(1), state: 16 });
      const control = new Int32Array(new SharedArrayBuffer(8));
      const pinned = peer.call(
        ({ arena }, control) =>
          arena.pinned(() => {
            Atomics.store(control, 0, 1);
            Atomics.notify(control, 0);
            return Atomics.wait(control, 1, 0, 10_000);
          }),
        control,
      );
      assert.notEqual(Atomics.wait(control, 0, 0, 10_000), 'timed-out');
      executor.free();
      arena.collect();
      assert.equal(arena.stats().retiredBytes, 32, 'the other thread is pinned');
      Atomics.store(control, 1, 1);
      Atomics.notify(control, 1);
      assert.notEqual(await pinned, 'timed-out');
      arena.collect();
      assert.equal(arena.stats().retiredBytes, 0);
    });

    it('says the same of itself in both', async () => {
      const executors = arena.install([{ code: constant(1) }, { code: constant(2), data: 100, state: 50 }]);
      const look = (arena: Arena) => {
        const { pauses, ...stats } = arena.stats();
        return { stats, slabs: arena.slabs(), plan: arena.planCompaction(), ok: arena.verify().ok };
      };
      const there = await peer.call(
        ({ arena }, look, address) => {
          // biome-ignore lint/security/noGlobalEval: as the peer does it
          const same = globalThis.eval(`(${look})`)(arena) as object;
          return { ...same, found: arena.find(address) };
        },
        String(look),
        executors[1]!.address,
      );
      const found = { executor: executors[1]!.id, section: 'code', offset: 0, retired: false };
      assert.deepEqual(there, { ...look(arena), found });
    });

    it('goes on in one when the other has disposed of it', async () => {
      const executor = arena.install({ code: constant(5) });
      await peer.call(({ arena }) => arena.dispose());
      assert.equal(executor.func(toI32)(), 5);
      await assert.rejects(
        peer.call(({ arena }) => arena.stats().executors),
        { code: 'ERR_ARENA_DISPOSED' },
      );
      // And again: the thread can come back.
      const again = await peer.call(
        ({ jitArena, keep }, token, id) => {
          keep.again = jitArena.Arena.from(token);
          return keep.again.executor(id).func({ args: [], returns: 'i32' })() as number;
        },
        arena.share(),
        executor.id,
      );
      assert.equal(again, 5);
    });

    it('is at home in each: a dispose while the other thread runs ends one use only', async () => {
      const usleep = arena.install(jump({ address: symbolAddress('usleep') }));
      const adds = arena.install({ code: constant(3) });
      const result = peer.call(
        ({ arena, post }, sleep, three) => {
          const f = arena.executor(sleep).func({ args: ['u32'], returns: 'i32' });
          post('inside');
          return f(100_000) + arena.executor(three).func({ args: [], returns: 'i32' })();
        },
        usleep.id,
        adds.id,
      );
      await peer.message();
      const token = arena.share();
      arena.dispose();
      assert.equal(await result, 3);
      arena = Arena.from(token);
    });
  });
}

describe('threads and module systems', () => {
  it('a worker that imports the package has the same arena as one that requires it', () => {
    const script = `
      import { Worker } from 'node:worker_threads';
      import { once } from 'node:events';
      import { Arena } from 'jit-arena';
      const arena = new Arena();
      const executor = arena.install({ code: Uint8Array.of(0xb8, 42, 0, 0, 0, 0xc3) });
      const use = (load) => load + \`
        const arena = Arena.from(workerData.token);
        parentPort.postMessage(arena.executor(workerData.id).func({ args: [], returns: 'i32' })());\`;
      const imported = "import { parentPort, workerData } from 'node:worker_threads'; import { Arena } from 'jit-arena';";
      const required = "const { parentPort, workerData } = require('node:worker_threads'); const { Arena } = require('jit-arena');";
      const workerData = { token: arena.share(), id: executor.id };
      for (const [type, load] of [['module', imported], ['commonjs', required]]) {
        const worker = new Worker(use(load), { eval: true, workerData, execArgv: ['--input-type=' + type] });
        console.log((await once(worker, 'message'))[0]);
      }
      console.log(typeof Arena.from, Arena.from.length);`;
    assert.equal(runChild(script, { esm: true }), '42\n42\nfunction 1\n');
  });

  it('a worker may be the first to load the package, and the only one', () => {
    const script = `
      const { Worker } = require('node:worker_threads');
      const first = new Worker(\`
        const { parentPort } = require('node:worker_threads');
        const { Arena } = require('jit-arena');
        const arena = new Arena();
        const { id } = arena.install({ code: Uint8Array.of(0xb8, 42, 0, 0, 0, 0xc3) });
        parentPort.postMessage({ token: arena.share(), id });
        parentPort.once('message', () => {});\`, { eval: true });
      first.on('message', (workerData) => {
        const second = new Worker(\`
          const { parentPort, workerData } = require('node:worker_threads');
          const { Arena } = require('jit-arena');
          const arena = Arena.from(workerData.token);
          const f = arena.executor(workerData.id).func({ args: [], returns: 'i32' });
          parentPort.once('message', () => parentPort.postMessage(f()));
          parentPort.postMessage('ready');\`, { eval: true, workerData });
        // The thread that made the arena ends first.
        second.once('message', async () => {
          await first.terminate();
          second.once('message', console.log);
          second.postMessage('go');
        });
      });`;
    assert.equal(runChild(script), '42\n');
  });

  it('as many threads as there are ask for the arena at the same time', async () => {
    using arena = new Arena();
    const peers = Array.from({ length: 8 }, () => new Peer(arena));
    const ids = await Promise.all(
      peers.map((peer, i) =>
        peer.call(({ arena }, i) => arena.install({ code: Uint8Array.of(0xb8, i, 0, 0, 0, 0xc3) }).id, i),
      ),
    );
    assert.equal(new Set(ids).size, 8);
    for (const [i, id] of ids.entries()) assert.equal(arena.executor(id).func(toI32)(), i);
    await Promise.all(peers.map((peer) => peer.end()));
    assertSound(arena);
  });
});
