// One executor from allocate to free: the API's verbs in the order in which a JIT uses them.
import assert from 'node:assert/strict';
import { Arena, Executor, machine, probe, symbolAddress } from 'jit-arena';
import { Code } from './support/assembler.js';
import { constant, loadData, sum, toI32 } from './support/x64.js';

const bytes = (...values: number[]) => Uint8Array.from(values);
const i32Pair = { args: ['i32', 'i32'], returns: 'i32' } as const;

describe('the life of an executor', () => {
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena();
  });
  afterEach(() => arena.dispose());

  it('install makes machine code from bytes, and func a JavaScript function from machine code', () => {
    const add = arena.install({ code: sum });
    assert.equal(add.func(i32Pair)(2, 3), 5);
  });

  it('allocate, write, freeze, call and free are the same step by step', () => {
    const executor = arena.allocate({ code: 6, name: 'answer' });
    assert.equal(executor.state, 'writable');
    executor.write('code', 0, bytes(0xb8, 1, 0, 0, 0));
    executor.write('code', 5, bytes(0xc3));
    executor.write('code', 1, bytes(42));
    arena.freeze(executor);
    assert.equal(executor.state, 'frozen');
    const f = executor.func(toI32);
    assert.equal(f(), 42);
    executor.free();
    assert.equal(executor.state, 'retired');
    assert.throws(f, { code: 'ERR_ARENA_STALE_EXECUTOR', executor: executor.id });
    assert.deepEqual(arena.executors(), []);
  });

  it('an executor has code, data and state, each readable before and after freeze', () => {
    const code = constant(7);
    const executor = arena.allocate({ code, data: bytes(1, 2, 3), state: bytes(4, 5) });
    for (const state of ['writable', 'frozen']) {
      assert.equal(executor.state, state);
      assert.deepEqual(executor.sizes, { code: 6, data: 3, state: 2 });
      assert.deepEqual(executor.read('code'), code);
      assert.deepEqual(executor.read('data'), bytes(1, 2, 3));
      assert.deepEqual(executor.read('state'), bytes(4, 5));
      assert.deepEqual(executor.read('data', 1), bytes(2, 3));
      assert.deepEqual(executor.read('data', 1, 1), bytes(2));
      assert.deepEqual(executor.read('data', 3), bytes());
      if (state === 'writable') arena.freeze(executor);
    }
  });

  it('the bytes that were given are copied, and what read returns is a copy', () => {
    const code = constant(1);
    const executor = arena.allocate({ code });
    code[1] = 2;
    executor.read('code')[1] = 3;
    arena.freeze(executor);
    executor.read('code')[1] = 4;
    assert.equal(executor.func(toI32)(), 1);
  });

  it('a section given as a size is zero, also where something else was before', () => {
    for (let i = 0; i < 3; i++) {
      const first = arena.install({
        code: constant(1),
        data: new Uint8Array(64).fill(9),
        state: new Uint8Array(64).fill(9),
      });
      first.free();
      const second = arena.install({ code: 64, data: 64, state: 64 });
      for (const section of ['code', 'data', 'state'] as const) {
        assert.deepEqual(second.read(section), new Uint8Array(64), `${section}, round ${i}`);
      }
      second.free();
    }
  });

  it('state can be written while the executor is frozen', () => {
    const executor = arena.install(new Code().load32('rax', { own: 'state' }).ret().spec({ state: 4 }));
    const f = executor.func(toI32);
    assert.equal(f(), 0);
    executor.write('state', 1, bytes(1));
    assert.equal(f(), 256);
  });

  it('relocs can be added until freeze', () => {
    const executor = arena.allocate({ code: loadData, data: bytes(9, 0, 0, 0) });
    executor.addRelocs([]);
    executor.addRelocs([{ offset: 2, kind: 'R_X86_64_PC32', target: { own: 'data' }, addend: -4 }]);
    arena.freeze(executor);
    assert.equal(executor.func(toI32)(), 9);
  });

  it('entries give an executor more than one way in', () => {
    const code = bytes(...constant(10), ...constant(11), ...constant(12));
    const executor = arena.install({ code, entries: [6, 12, 0] });
    const results = [0, 1, 2].map((entry) => executor.func(toI32, { entry })());
    assert.deepEqual(results, [11, 12, 10]);
    assert.equal(executor.func(toI32)(), 11, 'entry 0 unless told');
    assert.throws(() => executor.func(toI32, { entry: 3 }), { code: 'ERR_ARENA_BOUNDS', executor: executor.id });
  });

  it('sections begin where their alignments say', () => {
    const executor = arena.install({
      code: constant(1),
      data: 24,
      state: 8,
      align: 256,
      dataAlign: 4096,
      stateAlign: 512,
      relocs: (['code', 'data', 'state'] as const).map((own, i) => ({
        section: 'data',
        offset: 8 * i,
        kind: 'R_X86_64_64',
        target: { own },
      })),
    });
    const addresses = new BigUint64Array(executor.read('data').buffer);
    assert.equal(addresses[0], executor.address);
    const beyond = [...addresses].map((address, i) => address % [256n, 4096n, 512n][i]!);
    assert.deepEqual(beyond, [0n, 0n, 0n]);
  });

  it('freeze takes one executor, a list, or ids', () => {
    const [a, b, c, d] = [1, 2, 3, 4].map((n) => arena.allocate({ code: constant(n) })) as [
      Executor,
      Executor,
      Executor,
      Executor,
    ];
    arena.freeze(a);
    arena.freeze([b, c.id]);
    arena.freeze(Float64Array.of(d.id));
    assert.deepEqual(
      [a, b, c, d].map((executor) => executor.func(toI32)()),
      [1, 2, 3, 4],
    );
    arena.free(a);
    arena.free([b, c.id]);
    arena.free(Float64Array.of(d.id));
    assert.deepEqual(arena.executors(), []);
  });

  it('install takes a list, and returns executors in its order', () => {
    const installed = arena.install([{ code: constant(1) }, { code: constant(2), name: 'two' }]);
    assert.deepEqual(
      installed.map((executor) => executor.func(toI32)()),
      [1, 2],
    );
    assert.equal(installed[1]?.name, 'two');
  });

  it('members of a list refer to each other by their positions, in circles too', () => {
    // Each calls the next as long as edi is not 0, and adds its own number: f(n) = own + g(n - 1).
    const member = (own: number, next: number) => ({
      code: Uint8Array.of(0x31, 0xc0, 0x85, 0xff, 0x74, 0x09, 0xff, 0xcf, 0xe8, 0, 0, 0, 0, 0x04, own, 0xc3),
      relocs: [{ offset: 9, kind: 'R_X86_64_PLT32', target: { member: next }, addend: -4 }] as const,
    });
    const installed = arena.install([member(1, 1), member(10, 2), member(100, 0)]);
    const sums = installed.map((executor) => executor.func({ args: ['i32'], returns: 'i32' })(2) & 0xff);
    assert.deepEqual(sums, [11, 110, 101]);
    // A place in a member's data; and what is no member.
    const data = { code: constant(1), data: Uint8Array.of(0, 0, 0, 0, 77, 0, 0, 0) };
    const load = (target: object) => ({
      code: Uint8Array.of(0x8b, 0x05, 0, 0, 0, 0, 0xc3),
      relocs: [{ offset: 2, kind: 'R_X86_64_PC32', target, addend: -4 } as never],
    });
    const [, loads] = arena.install([data, load({ member: 0, section: 'data', offset: 4 })]);
    assert.equal(loads?.func(toI32)(), 77);
    assert.throws(() => arena.install([data, load({ member: 2 })]), { code: 'ERR_ARENA_RELOC_TARGET', index: 1 });
    assert.throws(() => arena.install([load({ member: -1 })]), { code: 'ERR_ARENA_RELOC_TARGET' });
    assert.throws(() => arena.install([load({ member: '0' })]), TypeError);
  });

  it('a list is installed all or none, whatever its specs do meanwhile', () => {
    const before = arena.executors();
    const wrong = { code: constant(1), relocs: [{ offset: 100, kind: 'R_X86_64_64', target: 'done' } as never] };
    assert.throws(() => arena.install([{ code: constant(1) }, wrong]), { code: 'ERR_ARENA_RELOC_BOUNDS', index: 1 });
    const throws = {
      get code(): Uint8Array {
        throw new RangeError('mine');
      },
    };
    assert.throws(() => arena.install([{ code: constant(1) }, throws]), RangeError);
    assert.deepEqual(arena.executors(), before);
    // One that installs a list of its own, and changes what the outer list has been given.
    const bytes = constant(5);
    let inner: Executor[] = [];
    const nests = {
      get code() {
        bytes.fill(0xcc);
        inner = arena.install([{ code: constant(6) }, { code: constant(7) }]);
        return constant(8);
      },
    };
    const outer = arena.install([{ code: bytes }, nests, { code: constant(9) }]);
    const results = [...outer, ...inner].map((executor) => executor.func(toI32)());
    assert.deepEqual(results, [5, 8, 9, 6, 7]);
    assert.ok(arena.verify().ok);
  });

  it('a spec that disposes of the arena ends its list with an error', () => {
    const own = new Arena();
    const disposes = {
      get code() {
        own.dispose();
        return constant(1);
      },
    };
    assert.throws(() => own.install([{ code: constant(1) }, disposes]), { code: 'ERR_ARENA_DISPOSED' });
    const [executor] = arena.install([{ code: constant(3) }]);
    assert.equal(executor?.func(toI32)(), 3);
  });

  it('an empty list is frozen, installed and freed without effect', () => {
    const before = arena.stats();
    arena.freeze([]);
    arena.free([]);
    arena.free(new Float64Array(0));
    assert.deepEqual(arena.install([]), []);
    assert.deepEqual(arena.stats(), before);
  });

  it('names come back as they were given, whatever they hold', () => {
    const names = ['', 'fib', 'a\0b', 'ünïcode 🎉', 'x'.repeat(1 << 20)];
    const installed = names.map((name) => arena.install({ code: constant(1), name }));
    assert.deepEqual(
      installed.map((executor) => executor.name),
      names,
    );
    assert.equal(new Arena({ name: 'mine' }).name, 'mine');
  });

  it('ids are found again, and find says whose byte an address is', () => {
    const executor = arena.install({ code: constant(1), data: bytes(1, 2) });
    const again = arena.executor(executor.id);
    assert.ok(again instanceof Executor);
    assert.equal(again.id, executor.id);
    assert.equal(again.arena, arena);
    assert.deepEqual(
      arena.executors().map(({ id }) => id),
      [executor.id],
    );
    arena.pinned(() => {
      const { address } = executor;
      const place = { executor: executor.id, retired: false };
      assert.deepEqual(arena.find(address), { ...place, section: 'code', offset: 0 });
      assert.deepEqual(arena.find(address + 5n), { ...place, section: 'code', offset: 5 });
      assert.equal(arena.find(address + 6n), undefined, 'padding');
      assert.deepEqual(arena.find(address + 9n), { ...place, section: 'data', offset: 1 });
      assert.equal(arena.find(address - 1n)?.executor === executor.id, false);
      for (const outside of [0n, 1n, -1n, 1n << 70n, symbolAddress('strlen')])
        assert.equal(arena.find(outside), undefined);
    });
  });

  it('find knows a freed executor while its memory waits for a pin to end', () => {
    const executor = arena.install({ code: constant(1) });
    const { address } = executor;
    arena.pinned(() => {
      executor.free();
      assert.deepEqual(arena.find(address), { executor: executor.id, section: 'code', offset: 0, retired: true });
    });
    arena.collect();
    assert.equal(arena.find(address), undefined);
  });

  it('an id is a safe integer that is never given out twice', () => {
    const ids = new Set<number>();
    for (let i = 0; i < 1000; i++) {
      const executor = arena.install({ code: constant(i) });
      assert.ok(Number.isSafeInteger(executor.id));
      ids.add(executor.id);
      executor.free();
    }
    assert.equal(ids.size, 1000);
  });

  it('using frees an executor and disposes of an arena at the end of the block', () => {
    const inner = new Arena();
    let kept: Executor;
    {
      using block = inner;
      using executor = block.install({ code: constant(3) });
      kept = executor;
      assert.equal(executor.func(toI32)(), 3);
    }
    assert.equal(kept.state, 'retired');
    assert.throws(() => inner.stats(), { code: 'ERR_ARENA_DISPOSED' });
  });

  it('using after an explicit free, and dispose twice, are silent', () => {
    {
      using executor = arena.install({ code: constant(3) });
      executor.free();
    }
    arena.dispose();
    arena.dispose();
    arena[Symbol.dispose]();
  });

  it('after dispose everything but dispose and state says so', () => {
    const executor = arena.install({ code: constant(3) });
    const f = executor.func(toI32);
    const callback = arena.callback(toI32, () => 1);
    arena.dispose();
    const disposed = { name: 'ArenaError', code: 'ERR_ARENA_DISPOSED' };
    const actions = [
      f,
      () => arena.allocate({ code: 1 }),
      () => arena.install({ code: 1 }),
      () => arena.installBatch({ code: sum, codeOffsets: [0, 4] }),
      () => arena.freeze(executor),
      () => arena.free(executor),
      () => arena.callback(toI32, () => 1),
      () => arena.pinned(() => {}),
      () => arena.executor(executor.id),
      () => arena.executors(),
      () => arena.find(1n),
      () => arena.planCompaction(),
      () => arena.collect(),
      () => arena.stats(),
      () => arena.slabs(),
      () => arena.verify(),
      () => executor.address,
      () => executor.name,
      () => executor.sizes,
      () => executor.movable,
      () => executor.read('code'),
      () => executor.write('state', 0, sum),
      () => executor.addRelocs([]),
      () => executor.func(toI32),
      () => executor.free(),
    ];
    for (const action of actions) assert.throws(action, disposed, String(action));
    assert.equal(executor.state, 'retired');
    executor[Symbol.dispose]();
    callback.dispose();
  });
});

describe('arenas', () => {
  it('probe says of each writer whether it works, and machine what the sizes are', () => {
    const writers = probe();
    assert.deepEqual(
      writers.map(({ writer }) => writer),
      ['alias', 'procmem', 'flip'],
    );
    for (const { available, reason } of writers) assert.equal(typeof reason, available ? 'undefined' : 'string');
    assert.equal(machine.granuleBytes, 16);
    assert.equal(machine.slabBytes % machine.pageBytes, 0);
    assert.ok(Object.isFrozen(machine));
  });

  it('auto takes the first writer that works', () => {
    using arena = new Arena();
    assert.equal(arena.writer, probe().find(({ available }) => available)?.writer);
  });

  it('options are kept, and sizes are rounded up to slabs', () => {
    using arena = new Arena({ maxBytes: 3 * machine.slabBytes + 1, name: 'small' });
    assert.equal(arena.name, 'small');
    const { reservedBytes } = arena.stats();
    assert.ok(reservedBytes >= 4 * machine.slabBytes && reservedBytes % machine.slabBytes === 0);
    using huge = new Arena({ maxBytes: machine.maxArenaBytes });
    assert.equal(huge.install({ code: constant(5) }).func(toI32)(), 5);
  });

  it('arenas do not know each other', () => {
    using a = new Arena();
    using b = new Arena();
    const [inA, inB] = [a, b].map((arena) => arena.install({ code: constant(1) })) as [Executor, Executor];
    assert.notEqual(inA.address, inB.address);
    assert.equal(a.find(inB.address), undefined);
    a.dispose();
    assert.equal(inB.func(toI32)(), 1);
  });

  it('symbolAddress finds what libc exports', () => {
    assert.notEqual(symbolAddress('strlen'), 0n);
    assert.throws(() => symbolAddress('no_such_symbol'), { code: 'ERR_ARENA_SYMBOL', message: /no_such_symbol/ });
    assert.throws(() => symbolAddress(1 as never), TypeError);
  });
});
