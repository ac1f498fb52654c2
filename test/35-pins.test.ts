// arena.pin(): pins that need not nest, for what goes on beyond a call.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { Arena } from 'jit-arena';
import { assertSound, withEachWriter } from './support/writers.js';
import { constant, scatter, toI32 } from './support/x64.js';

const busy = { code: 'ERR_ARENA_BUSY' };

withEachWriter('pins', (writer) => {
  /** With the writer flip nothing is written beside a pin, so what dies is freed under it, and does not move. */
  const moves = writer !== 'flip';
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena({ writer, maxBytes: 8 << 20 });
  });
  afterEach(() => {
    assertSound(arena);
    assert.equal(arena.stats().pins, 0);
    arena.collect();
    assert.equal(arena.stats().retiredBytes, 0);
    arena.dispose();
  });

  it('keep what is freed until they are released', () => {
    const executor = arena.install({ code: constant(7), name: 'kept' });
    const { address } = executor;
    const pin = arena.pin();
    arena.free(executor);
    arena.collect();
    assert.ok(arena.stats().retiredBytes > 0);
    assert.deepEqual(arena.find(address), { executor: executor.id, section: 'code', offset: 0, retired: true });
    pin.release();
    arena.collect();
    assert.equal(arena.find(address), undefined);
  });

  it('keep old copies of what moves, and state where it is', () => {
    const [executor] = scatter(arena, [{ code: constant(7), state: 64 }]);
    assert.ok(executor);
    const before = executor.address;
    {
      using pin = arena.pin();
      assert.equal(arena.stats().pins, 1);
      const { moved } = arena.collect();
      assert.equal(moved > 0, moves);
      assert.equal(executor.address !== before, moves);
      assert.deepEqual(arena.find(before), { executor: executor.id, section: 'code', offset: 0, retired: moves });
      assert.equal(executor.func(toI32)(), 7);
      void pin;
    }
    arena.collect();
    if (moves) assert.equal(arena.find(before)?.retired ?? false, false);
  });

  it('end in any order', () => {
    const executors = [1, 2, 3].map((n) => arena.install({ code: constant(n) }));
    const addresses = executors.map((executor) => executor.address);
    const isThere = () => addresses.map((address) => arena.find(address) !== undefined);
    // Each keeps what dies after it was made; the first all three.
    const pins = executors.map((executor) => {
      const pin = arena.pin();
      arena.free(executor);
      return pin;
    });
    assert.equal(arena.stats().pins, 3);
    pins[1]?.release();
    arena.collect();
    assert.deepEqual(isThere(), [true, true, true]);
    pins[0]?.release();
    arena.collect();
    // The third began before the third died, and may not have seen that the others had.
    assert.equal(isThere()[2], true);
    pins[2]?.release();
    arena.collect();
    assert.deepEqual(isThere(), [false, false, false]);
  });

  it('made inside pinned() keep all that was in reach there', () => {
    const executor = arena.install({ code: constant(7) });
    const { pin, address } = arena.pinned(() => {
      const { address } = executor;
      arena.free(executor); // before the pin is made
      return { address, pin: arena.pin() };
    });
    arena.collect();
    assert.equal(arena.find(address)?.retired, true);
    pin.release();
    arena.collect();
    assert.equal(arena.find(address), undefined);
  });

  it('do not let this object be disposed of', () => {
    const pin = arena.pin();
    const other = arena.pin();
    assert.throws(() => arena.dispose(), { ...busy, message: /^2 of the pins/ });
    pin.release();
    assert.throws(() => arena.dispose(), busy);
    other.release();
    other.release(); // silent
    other[Symbol.dispose]();
  });

  if (!moves) {
    it('keep this writer from writing', () => {
      const pin = arena.pin();
      assert.throws(() => arena.install({ code: constant(1) }), busy);
      assert.equal(arena.collect().done, false);
      pin.release();
      arena.install({ code: constant(1) });
    });
  } else {
    it('belong to one user of an arena', () => {
      const second = Arena.from(arena.share());
      const pin = arena.pin();
      const secondPin = second.pin();
      assert.equal(second.stats().pins, 2);
      secondPin.release();
      second.dispose();
      assert.throws(() => second.pin(), { code: 'ERR_ARENA_DISPOSED' });
      assert.equal(arena.stats().pins, 1);
      pin.release();
    });

    it('end with their worker', async () => {
      const program = `
        const { parentPort, workerData } = require('node:worker_threads');
        const { Arena } = require('jit-arena');
        const arena = Arena.from(workerData);
        const pins = [arena.pin(), arena.pin()];
        arena.pinned(() => pins.push(arena.pin()));
        parentPort.postMessage(arena.stats().pins);
        parentPort.on('message', () => {});`;
      const executor = arena.install({ code: constant(7) });
      const worker = new Worker(program, { eval: true, workerData: arena.share() });
      assert.deepEqual(await once(worker, 'message'), [3]);
      arena.free(executor);
      assert.ok(arena.stats().retiredBytes > 0);
      await worker.terminate();
      assert.equal(arena.stats().pins, 0);
    });
  }
});
