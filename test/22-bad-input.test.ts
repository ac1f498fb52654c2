// What the arena refuses: each time with a stable code, with the place where the error lies in the error and in its
// message, and without having changed anything. Here: sizes, executors in the wrong state, and full arenas.
import assert from 'node:assert/strict';
import { Arena, type ErrorDetails, type Executor, type ExecutorSpec, machine } from 'jit-arena';
import { assertRefused, endWorld, makeWorld, type World } from './support/refusals.js';
import { constant, jump, sum, toI32 } from './support/x64.js';

describe('bad input', () => {
  let world: World;
  beforeEach(() => {
    world = makeWorld();
  });
  afterEach(() => endWorld(world));

  const refuse = (action: () => unknown, code: string, details: ErrorDetails, message?: RegExp) =>
    assertRefused(world.arena, action, code, details, message);

  type Case = [name: string, action: (world: World) => unknown, code: string, details: (world: World) => ErrorDetails];

  /** One test for each case. */
  function refuses(cases: Case[]): void {
    for (const [name, action, code, details] of cases) {
      it(`${name} is ${code}`, () => refuse(() => action(world), code, details(world)));
    }
  }

  const nothing = () => ({});

  /** A spec is refused alike by allocate, by install, and by install of a list, which says which. */
  function refusesSpecs(
    cases: [name: string, spec: (world: World) => object, code: string, details: ErrorDetails][],
  ): void {
    for (const [name, makeSpec, code, details] of cases) {
      it(`${name} is ${code}`, () => {
        const spec = makeSpec(world) as ExecutorSpec;
        refuse(() => world.arena.allocate(spec), code, details);
        refuse(() => world.arena.install(spec), code, details);
        const fine = { code: constant(1) };
        refuse(() => world.arena.install([fine, fine, spec, fine]), code, { ...details, index: 2 });
      });
    }
  }

  describe('sizes', () => {
    const inCode = { section: 'code' } as const;
    refusesSpecs([
      ['a code size of zero', () => ({ code: 0 }), 'ERR_ARENA_SIZE', {}],
      ['code of no bytes', () => ({ code: new Uint8Array(0) }), 'ERR_ARENA_SIZE', {}],
      ['a negative size', () => ({ code: -1 }), 'ERR_ARENA_SIZE', inCode],
      ['a size that is NaN', () => ({ code: NaN }), 'ERR_ARENA_SIZE', inCode],
      ['a fractional size', () => ({ code: 1.5 }), 'ERR_ARENA_SIZE', inCode],
      ['an infinite size', () => ({ code: Infinity }), 'ERR_ARENA_SIZE', inCode],
      ['a size of 2^32', () => ({ code: 2 ** 32 }), 'ERR_ARENA_SIZE', inCode],
      ['a size larger than the arena', () => ({ code: 8 << 20 }), 'ERR_ARENA_SIZE', {}],
      [
        'sections that are larger than the arena together',
        () => ({ code: 2 << 20, data: 2 << 20, state: 3 << 20 }),
        'ERR_ARENA_SIZE',
        {},
      ],
      [
        'three sizes of almost 2^32',
        () => ({ code: 2 ** 32 - 1, data: 2 ** 32 - 1, state: 2 ** 32 - 1 }),
        'ERR_ARENA_SIZE',
        {},
      ],
      ['a negative data size', () => ({ code: 1, data: -1 }), 'ERR_ARENA_SIZE', { section: 'data' }],
      ['a fractional state size', () => ({ code: 1, state: 0.5 }), 'ERR_ARENA_SIZE', { section: 'state' }],
    ]);

    refuses([
      ['maxBytes of 0', () => new Arena({ maxBytes: 0 }), 'ERR_ARENA_SIZE', nothing],
      [
        'maxBytes beyond the reach of a branch',
        () => new Arena({ maxBytes: machine.maxArenaBytes + 1 }),
        'ERR_ARENA_SIZE',
        nothing,
      ],
      ['a fractional maxBytes', () => new Arena({ maxBytes: 1e6 + 0.5 }), 'ERR_ARENA_SIZE', nothing],
      ['a negative maxRetiredBytes', () => new Arena({ maxRetiredBytes: -1 }), 'ERR_ARENA_SIZE', nothing],
    ]);
  });

  describe('alignments and entries', () => {
    refusesSpecs([
      ['an alignment of zero', () => ({ code: 1, align: 0 }), 'ERR_ARENA_ALIGNMENT', {}],
      ['an alignment of 24', () => ({ code: 1, align: 24 }), 'ERR_ARENA_ALIGNMENT', {}],
      ['an alignment of two pages', () => ({ code: 1, stateAlign: 2 * machine.pageBytes }), 'ERR_ARENA_ALIGNMENT', {}],
      ['a fractional alignment', () => ({ code: 1, dataAlign: 0.5 }), 'ERR_ARENA_ALIGNMENT', { section: 'data' }],
      ['an entry behind the code', () => ({ code: sum, entries: [0, 4] }), 'ERR_ARENA_BOUNDS', {}],
    ]);
    it('a fractional entry is ERR_ARENA_BOUNDS', () => {
      const action = () => world.arena.install({ code: sum, entries: [0, 0.5] });
      refuse(action, 'ERR_ARENA_BOUNDS', { section: 'code', index: 1 });
    });
  });

  describe('the state of an executor', () => {
    const named = (which: keyof World) => (w: World) => ({ executor: (w[which] as Executor).id });
    const item = (which: keyof World, index: number) => (w: World) => ({ executor: (w[which] as Executor).id, index });
    refuses([
      ['a second freeze', ({ arena, frozen }) => arena.freeze(frozen), 'ERR_ARENA_NOT_WRITABLE', named('frozen')],
      [
        'freeze of a list with a frozen one',
        ({ arena, frozen, draft }) => arena.freeze([draft, frozen]),
        'ERR_ARENA_NOT_WRITABLE',
        item('frozen', 1),
      ],
      [
        'freeze of a list that names one twice',
        ({ arena, draft, other }) => arena.freeze([draft, other, draft]),
        'ERR_ARENA_DUPLICATE_EXECUTOR',
        item('draft', 2),
      ],
      ['freeze of a stale one', ({ arena, stale }) => arena.freeze(stale), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      [
        'freeze of a foreign one',
        ({ arena, foreign }) => arena.freeze(foreign),
        'ERR_ARENA_FOREIGN_EXECUTOR',
        named('foreign'),
      ],
      [
        'freeze of a list with a foreign one',
        ({ arena, draft, foreign }) => arena.freeze([draft, foreign]),
        'ERR_ARENA_FOREIGN_EXECUTOR',
        item('foreign', 1),
      ],
      [
        'write to frozen code',
        ({ frozen }) => frozen.write('code', 1, sum),
        'ERR_ARENA_NOT_WRITABLE',
        (w) => ({ ...named('frozen')(w), section: 'code', offset: 1 }),
      ],
      [
        'write to frozen data',
        ({ frozen }) => frozen.write('data', 0, sum),
        'ERR_ARENA_NOT_WRITABLE',
        (w) => ({ ...named('frozen')(w), section: 'data', offset: 0 }),
      ],
      ['a function before freeze', ({ draft }) => draft.func(toI32), 'ERR_ARENA_NOT_FROZEN', named('draft')],
      ['an address before freeze', ({ draft }) => draft.address, 'ERR_ARENA_NOT_FROZEN', named('draft')],
      ['a second free', ({ stale }) => stale.free(), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      [
        'free of a list with a stale one',
        ({ arena, frozen, draft, stale }) => arena.free([frozen, draft, stale]),
        'ERR_ARENA_STALE_EXECUTOR',
        item('stale', 2),
      ],
      [
        'free of a list that names one twice',
        ({ arena, frozen, draft }) => arena.free([frozen, draft, frozen]),
        'ERR_ARENA_DUPLICATE_EXECUTOR',
        item('frozen', 2),
      ],
      [
        'free of a foreign one',
        ({ arena, foreign }) => arena.free(foreign),
        'ERR_ARENA_FOREIGN_EXECUTOR',
        named('foreign'),
      ],
      [
        'free of a list with a foreign one',
        ({ arena, draft, foreign }) => arena.free([draft, foreign]),
        'ERR_ARENA_FOREIGN_EXECUTOR',
        item('foreign', 1),
      ],
      ['read of a stale one', ({ stale }) => stale.read('code'), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      ['write to a stale one', ({ stale }) => stale.write('code', 0, sum), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      ['relocs for a stale one', ({ stale }) => stale.addRelocs([]), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      ['the address of a stale one', ({ stale }) => stale.address, 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      ['a function of a stale one', ({ stale }) => stale.func(toI32), 'ERR_ARENA_STALE_EXECUTOR', named('stale')],
      [
        'looking a stale one up',
        ({ arena, stale }) => arena.executor(stale.id),
        'ERR_ARENA_STALE_EXECUTOR',
        named('stale'),
      ],
      [
        'an entry that there is not',
        ({ frozen }) => frozen.func(toI32, { entry: 1 }),
        'ERR_ARENA_BOUNDS',
        named('frozen'),
      ],
      ['an entry of -1', ({ frozen }) => frozen.func(toI32, { entry: -1 }), 'ERR_ARENA_BOUNDS', named('frozen')],
      [
        'write behind the end',
        ({ draft }) => draft.write('code', 5, sum),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('draft')(w), section: 'code', offset: 5 }),
      ],
      [
        'write at -1',
        ({ draft }) => draft.write('data', -1, sum),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('draft')(w), section: 'data', offset: -1 }),
      ],
      [
        'write behind the end of frozen state',
        ({ frozen }) => frozen.write('state', 8, sum),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('frozen')(w), section: 'state', offset: 8 }),
      ],
      [
        'read behind the end',
        ({ frozen }) => frozen.read('code', 9),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('frozen')(w), section: 'code', offset: 9 }),
      ],
      [
        'read of too much',
        ({ frozen }) => frozen.read('code', 2, 7),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('frozen')(w), section: 'code', offset: 2 }),
      ],
      [
        'read of -1 bytes',
        ({ draft }) => draft.read('state', 2, -1),
        'ERR_ARENA_BOUNDS',
        (w) => ({ ...named('draft')(w), section: 'state', offset: 2 }),
      ],
    ]);

    it('a target that another executor needs is ERR_ARENA_REFERENCED', () => {
      const { arena, frozen, other } = world;
      const source = arena.install(jump(frozen));
      refuse(() => frozen.free(), 'ERR_ARENA_REFERENCED', { executor: frozen.id }, new RegExp(`executor ${source.id}`));
      refuse(() => arena.free([other, frozen]), 'ERR_ARENA_REFERENCED', { executor: frozen.id, index: 1 });
    });
  });

  describe('ids', () => {
    // 2^21 is one more than the last generation; the others were never given out, or are no ids at all.
    for (const id of [0, 1, 2 ** 32, 2 ** 32 + 999, 2 ** 53 - 1, 2 ** 53, -1, 0.5, NaN, Infinity, -0.5]) {
      it(`${id} is ERR_ARENA_STALE_EXECUTOR, alone and in lists of every kind`, () => {
        const { arena, draft } = world;
        const stale = 'ERR_ARENA_STALE_EXECUTOR';
        refuse(() => arena.executor(id), stale, { executor: id });
        for (const list of [[draft, id], [draft.id, id], Float64Array.of(draft.id, id)]) {
          refuse(() => arena.freeze(list), stale, { executor: id, index: 1 });
          refuse(() => arena.free(list), stale, { executor: id, index: 1 });
        }
      });
    }

    it('addresses, also interior ones, are no ids', () => {
      const { arena, frozen } = world;
      for (const address of [frozen.address, frozen.address + 3n]) {
        refuse(() => arena.executor(Number(address)), 'ERR_ARENA_STALE_EXECUTOR', { executor: Number(address) });
        refuse(() => arena.free([Number(address)]), 'ERR_ARENA_STALE_EXECUTOR', {
          executor: Number(address),
        } as ErrorDetails);
      }
    });
  });

  describe('a full arena', () => {
    it('is ERR_ARENA_FULL with advice, and what is in it works on', () => {
      const { arena, frozen } = world;
      const big = { code: new Uint8Array(200 << 10).fill(0xcc) };
      const installed: Executor[] = [];
      assert.throws(
        () => {
          for (;;) installed.push(arena.install(big));
        },
        { name: 'ArenaError', code: 'ERR_ARENA_FULL', message: /maxBytes/ },
      );
      refuse(() => arena.install(big), 'ERR_ARENA_FULL', {});
      const draft = arena.allocate(big);
      refuse(() => arena.freeze(draft), 'ERR_ARENA_FULL', { executor: draft.id });
      const small = arena.allocate({ code: constant(1) });
      refuse(() => arena.freeze([small, draft]), 'ERR_ARENA_FULL', { executor: draft.id, index: 1 });
      refuse(() => arena.installBatch({ code: big.code, codeOffsets: [0, 16, 200 << 10] }), 'ERR_ARENA_FULL', {
        index: 1,
      });
      assert.equal(frozen.func(toI32)(), 1);
      installed[0]?.free();
      arena.freeze([small, draft]);
    });

    it('still gives callbacks, which lie outside of it', () => {
      const { arena } = world;
      for (const bytes of [200 << 10, 4096, 16]) {
        const fill = () => {
          for (;;) arena.install({ code: bytes, movable: false });
        };
        assert.throws(fill, { code: 'ERR_ARENA_FULL' });
      }
      assert.ok(arena.callback(toI32, () => 1).address !== 0n);
    });

    it('of retired bytes that a call holds back is ERR_ARENA_RETIRED_LIMIT', () => {
      using arena = new Arena({ maxRetiredBytes: 1000 });
      world.arena.dispose();
      world.arena = arena;
      arena.pinned(() => {
        const draft = arena.allocate({ code: 10 });
        arena.install({ code: 1008 }).free();
        assert.equal(arena.stats().retiredBytes, 1008);
        refuse(() => arena.freeze(draft), 'ERR_ARENA_RETIRED_LIMIT', {}, /maxRetiredBytes/);
        refuse(() => arena.install({ code: 1 }), 'ERR_ARENA_RETIRED_LIMIT', {});
      });
      arena.freeze(arena.executors());
    });
  });

  it('dispose with a call under way is ERR_ARENA_BUSY', () => {
    const { arena } = world;
    let called = 0;
    const callback = arena.callback(toI32, () => {
      refuse(() => arena.dispose(), 'ERR_ARENA_BUSY', {});
      refuse(() => arena[Symbol.dispose](), 'ERR_ARENA_BUSY', {});
      return ++called;
    });
    const f = arena.install(jump(callback)).func(toI32);
    assert.deepEqual([f(), f()], [1, 2]);
    arena.pinned(() => refuse(() => arena.dispose(), 'ERR_ARENA_BUSY', {}));
    arena.dispose();
    world.arena = new Arena({ maxBytes: 4 << 20 });
  });
});
