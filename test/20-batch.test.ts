// Many executors at once, in typed arrays.
import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Arena, type ExecutorBatch, relocKindNumbers, TargetKind } from 'jit-arena';
import { copiesInAllMemory } from './support/memory.js';
import { callAndAdd, constant, i32ToI32, loadAddress, loadData, toI32 } from './support/x64.js';

/** Executors that return 0, 1, 2, …, laid end to end. */
function constants(count: number): ExecutorBatch & { code: Uint8Array; codeOffsets: number[] } {
  const code = new Uint8Array(6 * count);
  for (let i = 0; i < count; i++) code.set(constant(i), 6 * i);
  return { code, codeOffsets: Array.from({ length: count + 1 }, (_, i) => 6 * i) };
}

describe('installBatch', () => {
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena();
  });
  afterEach(() => arena.dispose());

  it('returns ids in order, which are executors as any others', () => {
    const ids = arena.installBatch(constants(500));
    assert.ok(ids instanceof Float64Array);
    for (const [i, id] of ids.entries()) assert.equal(arena.executor(id).func(toI32)(), i);
    assert.equal(arena.stats().executors, 500);
    arena.free(ids);
    assert.equal(arena.stats().executors, 0);
  });

  it('takes offsets as arrays or typed arrays, with gaps before the first and after the last', () => {
    const code = Uint8Array.of(0xcc, ...constant(1), ...constant(2), 0xcc);
    for (const codeOffsets of [[1, 7, 13], Uint32Array.of(1, 7, 13), Float64Array.of(1, 7, 13)]) {
      const ids = arena.installBatch({ code, codeOffsets });
      assert.deepEqual(
        Array.from(ids, (id) => arena.executor(id).func(toI32)()),
        [1, 2],
      );
    }
  });

  it('takes no executors at all', () => {
    assert.equal(arena.installBatch({ code: new Uint8Array(0), codeOffsets: [0] }).length, 0);
    assert.equal(arena.stats().executors, 0);
  });

  it('gives each its data', () => {
    const load = loadData;
    const ids = arena.installBatch({
      code: Uint8Array.of(...load, ...load, ...constant(9)),
      codeOffsets: [0, 7, 14, 20],
      data: Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0),
      dataOffsets: [0, 4, 8, 8],
      relocs: {
        executor: [0, 1],
        offset: [2, 2],
        kind: [relocKindNumbers.R_X86_64_PC32, relocKindNumbers.R_X86_64_PC32],
        targetKind: [TargetKind.ownData, TargetKind.ownData],
        addend: [-4, -4],
      },
    });
    assert.deepEqual(
      Array.from(ids, (id) => arena.executor(id).func(toI32)()),
      [1, 2, 9],
    );
    assert.deepEqual(
      Array.from(ids, (id) => arena.executor(id).sizes.data),
      [4, 4, 0],
    );
  });

  it('links executors with each other, with earlier ones, with callbacks and with themselves', () => {
    const earlier = arena.install({ code: constant(100) });
    const callback = arena.callback(i32ToI32, (x) => 2 * x);
    const call = callAndAdd(earlier, 1).code as Uint8Array;
    const load = loadAddress;
    const { R_X86_64_PLT32, R_X86_64_64 } = relocKindNumbers;
    const ids = arena.installBatch({
      code: Uint8Array.of(...call, ...call, ...call, ...load, ...constant(50)),
      codeOffsets: [0, 11, 22, 33, 44, 50],
      relocs: {
        executor: Uint32Array.of(0, 1, 2, 3),
        offset: Uint32Array.of(2, 2, 2, 2),
        kind: Uint8Array.of(R_X86_64_PLT32, R_X86_64_PLT32, R_X86_64_PLT32, R_X86_64_64),
        targetKind: [TargetKind.batchMember, TargetKind.executor, TargetKind.address, TargetKind.ownCode],
        target: [4, earlier.id, 0, 10],
        address: [0n, 0n, callback.address, 0n],
        addend: [-4, -4, -4, 0],
        section: new Uint8Array(4),
      },
    });
    const [member, old, js, self] = Array.from(ids, (id) => arena.executor(id));
    assert.equal(member!.func(toI32)(), 51);
    assert.equal(old!.func(toI32)(), 101);
    assert.equal(js!.func(i32ToI32)(21), 43);
    assert.equal(self!.func({ args: [], returns: 'u64' })(), self!.address + 10n);
    assert.throws(() => arena.free(earlier), { code: 'ERR_ARENA_REFERENCED' });
    arena.free([earlier, ...ids]);
    assert.deepEqual(arena.executors(), []);
  });

  it('takes addresses and addends of all sizes, from typed arrays and from others', () => {
    const load = loadAddress;
    const addresses = [1n, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffff_ffff_fff0n, 0x1234_5678_9abc_def0n];
    const addends = [0, -1, 2 ** 32, -(2 ** 31) - 1, Number.MIN_SAFE_INTEGER];
    const each = addresses.map((_, i) => i);
    const batch = (address: ArrayLike<bigint>, addend: ArrayLike<number>) => ({
      code: Uint8Array.from(each.flatMap(() => [...load])),
      codeOffsets: [...each, each.length].map((i) => i * load.length),
      relocs: {
        executor: each,
        offset: each.map(() => 2),
        kind: each.map(() => relocKindNumbers.R_X86_64_64),
        targetKind: each.map(() => TargetKind.address),
        address,
        addend,
      },
    });
    const expected = addresses.map((address, i) => BigInt.asUintN(64, address + BigInt(addends[i]!)));
    const shifted = BigUint64Array.of(99n, ...addresses).subarray(1);
    for (const given of [addresses, BigUint64Array.from(addresses), shifted]) {
      for (const added of [addends, Float64Array.from(addends)]) {
        const ids = arena.installBatch(batch(given, added));
        const values = Array.from(ids, (id) => arena.executor(id).func({ args: [], returns: 'u64' })());
        assert.deepEqual(values, expected);
      }
    }
  });

  it('takes ids of targets beyond 2^32', () => {
    arena.free(arena.install({ code: constant(1) }));
    const target = arena.install({ code: constant(7) }); // the same index, another generation
    assert.ok(target.id > 2 ** 32);
    const ids = arena.installBatch({
      code: callAndAdd(target, 1).code as Uint8Array,
      codeOffsets: [0, 11],
      relocs: {
        executor: [0],
        offset: [2],
        kind: [relocKindNumbers.R_X86_64_PLT32],
        targetKind: [TargetKind.executor],
        target: [target.id],
        addend: [-4],
      },
    });
    assert.equal(arena.executor(ids[0]!).func(toI32)(), 8);
  });

  it('reads from memory of every kind', () => {
    for (const code of copiesInAllMemory(constant(3))) {
      const [id] = arena.installBatch({ code, codeOffsets: [0, 6] });
      assert.equal(arena.executor(id!).func(toI32)(), 3);
    }
  });

  it('is all or none: one bad executor among a hundred, and nothing has changed', () => {
    arena.install({ code: constant(1), data: 16 });
    const good = constants(100);
    const bad = (change: object) => () => arena.installBatch({ ...good, ...change });
    const pc32 = relocKindNumbers.R_X86_64_PC32;
    const reloc = (change: object) => ({
      relocs: { executor: [7, 41], offset: [1, 1], kind: [pc32, pc32], targetKind: [0, 0], ...change },
    });
    const before = [arena.stats(), arena.executors().map(({ id }) => id), arena.verify()];
    const refused: [() => unknown, object][] = [
      [
        bad({ codeOffsets: good.codeOffsets.map((at, i) => (i === 41 ? at - 6 : at)) }),
        { code: 'ERR_ARENA_SIZE', index: 40 },
      ],
      [
        bad({ codeOffsets: good.codeOffsets.map((at, i) => (i === 41 ? 0 : at)) }),
        { code: 'ERR_ARENA_SIZE', index: 41 },
      ],
      [
        bad({ codeOffsets: good.codeOffsets.map((at, i) => (i === 100 ? 601 : at)) }),
        { code: 'ERR_ARENA_SIZE', index: 100 },
      ],
      [bad({ codeOffsets: [NaN, 6] }), { code: 'ERR_ARENA_SIZE', index: 0 }],
      [bad(reloc({ executor: [41, 7] })), { code: 'ERR_ARENA_BOUNDS', message: /relocs\.executor\[1\].*sorted/ }],
      [bad(reloc({ executor: [7, 100] })), { code: 'ERR_ARENA_BOUNDS', message: /relocs\.executor\[1\]/ }],
      [bad(reloc({ offset: [1, 3] })), { code: 'ERR_ARENA_RELOC_BOUNDS', index: 41, offset: 3, kind: 'R_X86_64_PC32' }],
      [bad(reloc({ offset: [1, -1] })), { code: 'ERR_ARENA_RELOC_BOUNDS', index: 41 }],
      [bad(reloc({ kind: [pc32, 3] })), { code: 'ERR_ARENA_RELOC_KIND', index: 41, offset: 1 }],
      [bad(reloc({ kind: [pc32, 999] })), { code: 'ERR_ARENA_RELOC_KIND', index: 41 }],
      [bad(reloc({ section: [0, 1] })), { code: 'ERR_ARENA_RELOC_BOUNDS', index: 41, section: 'data' }],
      [bad(reloc({ section: [0, 3] })), { code: 'ERR_ARENA_BOUNDS', index: 41 }],
      [bad(reloc({ targetKind: [0, 99] })), { code: 'ERR_ARENA_RELOC_TARGET', index: 41 }],
      [bad(reloc({ targetKind: [0, TargetKind.ownData] })), { code: 'ERR_ARENA_RELOC_TARGET', index: 41 }],
      [
        bad(reloc({ targetKind: [0, TargetKind.batchMember], target: [0, 100] })),
        { code: 'ERR_ARENA_RELOC_TARGET', index: 41 },
      ],
      [
        bad(reloc({ targetKind: [0, TargetKind.executor], target: [0, 5] })),
        { code: 'ERR_ARENA_RELOC_TARGET', index: 41 },
      ],
      [
        bad(reloc({ targetKind: [0, TargetKind.executor], target: [0, NaN] })),
        { code: 'ERR_ARENA_RELOC_TARGET', index: 41 },
      ],
      [
        bad(reloc({ targetKind: [0, TargetKind.address], address: [0n, 5n] })),
        { code: 'ERR_ARENA_RELOC_RANGE', index: 41, section: 'code', offset: 1, kind: 'R_X86_64_PC32' },
      ],
      [
        bad(reloc({ targetKind: [0, TargetKind.address], address: [0n, -1n] })),
        { code: 'ERR_ARENA_RELOC_TARGET', index: 41 },
      ],
    ];
    for (const [action, expected] of refused) {
      assert.throws(action, { name: 'ArenaError', ...expected });
      assert.deepEqual([arena.stats(), arena.executors().map(({ id }) => id), arena.verify()], before);
    }
  });

  it('is not deceived by what changes while it looks', () => {
    const good = constants(2);
    // A buffer with a length, whose numbers change when the length of the data is read.
    const buffer = new ArrayBuffer(24);
    const numbers = new Float64Array(buffer);
    numbers.set([0, 6, 12]);
    const data = new Uint8Array(8);
    const lie = () => {
      numbers.set([-(2 ** 33), 6 - 2 ** 33, 12 - 2 ** 33]);
      return 8;
    };
    Object.defineProperty(data, 'length', { get: lie });
    const codeOffsets = Object.assign(buffer, { length: 3 }) as never;
    const dataOffsets = [0, 4, 8];
    assert.throws(() => arena.installBatch({ ...good, codeOffsets, data, dataOffsets }), { code: 'ERR_ARENA_SIZE' });
    // Addresses that are taken away by the column that is read before them.
    const address = BigUint64Array.of(1n, 2n);
    const offset = [2, 2];
    Object.defineProperty(offset, '0', { get: () => structuredClone(address, { transfer: [address.buffer] }) && 2 });
    const load = loadAddress;
    const ids = arena.installBatch({
      code: Uint8Array.of(...load, ...load),
      codeOffsets: [0, 11, 22],
      relocs: {
        executor: [0, 1],
        offset,
        kind: [relocKindNumbers.R_X86_64_64, relocKindNumbers.R_X86_64_64],
        targetKind: [TargetKind.address, TargetKind.address],
        address,
      },
    });
    assert.equal(address.length, 0);
    assert.deepEqual(
      Array.from(ids, (id) => arena.executor(id).func({ args: [], returns: 'u64' })()),
      [1n, 2n],
    );
    arena.free(ids);
    assert.deepEqual(arena.executors(), []);
  });

  it('takes nothing of a wrong type', () => {
    const good = constants(2);
    const bad: object[] = [
      { code: undefined },
      { code: [1, 2, 3] },
      { code: Buffer.alloc(12).buffer },
      { code: new Proxy(good.code, { get: (target, key) => Reflect.get(target, key) }) },
      { codeOffsets: undefined },
      { codeOffsets: 3 },
      { codeOffsets: [] },
      { data: 'abc' },
      { dataOffsets: [0, 0] },
      { relocs: null },
      { relocs: {} },
      { relocs: { executor: [0] } },
      { relocs: { executor: [0], offset: [0], kind: [1] } },
      { relocs: { executor: [0], offset: [0, 0], kind: [1], targetKind: [0] } },
      { relocs: { executor: [0], offset: ['0'], kind: [1], targetKind: [0] } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [3], address: [5] } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [3] } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [3], address: Array(1) } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [3], address: new BigUint64Array(2) } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [0], target: Array(1) } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [0], section: Array(1) } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [0], addend: Array(1) } },
      { relocs: { executor: { length: -1 }, offset: [], kind: [], targetKind: [] } },
      { relocs: Object.create({ executor: [0], offset: [0, 0], kind: [1], targetKind: [0] }) },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [0], addend: [0.5] } },
      { relocs: { executor: [0], offset: [0], kind: [1], targetKind: [0], addend: [2 ** 53] } },
    ];
    for (const change of bad) {
      assert.throws(() => arena.installBatch({ ...good, ...change } as ExecutorBatch), TypeError, inspect(change));
    }
    assert.throws(() => arena.installBatch(undefined as never), TypeError);
    assert.equal(arena.stats().executors, 0);
  });
});

describe('install of a list', () => {
  it('throws its own error and leaves nothing, and nobody ever sees a part of it', () => {
    using arena = new Arena();
    const boom = new RangeError('from a getter');
    const last = {
      get code(): Uint8Array {
        assert.deepEqual(arena.executors(), []);
        throw boom;
      },
    };
    assert.throws(() => arena.install([{ code: constant(1) }, { code: constant(2) }, last]), boom);
    assert.equal(arena.stats().executors, 0);
  });
});
