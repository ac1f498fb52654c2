// Relocs that the arena refuses: the error says which reloc of which executor, and nothing has changed.
import assert from 'node:assert/strict';
import { type ErrorDetails, type ExecutorSpec, type Reloc, symbolAddress } from 'jit-arena';
import { assertRefused, eight, endWorld, everything, makeWorld, type World } from './support/refusals.js';
import { constant, jump, sum, toI32 } from './support/x64.js';

describe('bad relocs', () => {
  let world: World;
  beforeEach(() => {
    world = makeWorld();
  });
  afterEach(() => endWorld(world));

  const refuse = (action: () => unknown, code: string, details: ErrorDetails, message?: RegExp) =>
    assertRefused(world.arena, action, code, details, message);

  const pc32 = (change: object): Reloc =>
    ({ offset: 0, kind: 'R_X86_64_PC32', target: { own: 'code' }, ...change }) as Reloc;
  const at = (offset: number, kind = 'R_X86_64_PC32', section: 'code' | 'data' | 'state' = 'code') => ({
    section,
    offset,
    kind,
    index: 0,
  });
  const spec =
    (...changes: object[]) =>
    () => ({ code: eight(), data: eight(), relocs: changes.map(pc32) });
  const cases: [string, () => ExecutorSpec, string, Required<Omit<ErrorDetails, 'executor'>>][] = [
    ['a site that begins in its section and ends behind it', spec({ offset: 5 }), 'ERR_ARENA_RELOC_BOUNDS', at(5)],
    ['a site behind its section', spec({ offset: 8 }), 'ERR_ARENA_RELOC_BOUNDS', at(8)],
    ['a site at 2^32 - 1', spec({ offset: 2 ** 32 - 1 }), 'ERR_ARENA_RELOC_BOUNDS', at(2 ** 32 - 1)],
    ['a site at -1', spec({ offset: -1 }), 'ERR_ARENA_RELOC_BOUNDS', at(-1)],
    ['a site at NaN', spec({ offset: NaN }), 'ERR_ARENA_RELOC_BOUNDS', at(NaN)],
    ['a site at 0.5', spec({ offset: 0.5 }), 'ERR_ARENA_RELOC_BOUNDS', at(0.5)],
    [
      'an 8-byte site in the last 7 bytes',
      spec({ offset: 1, kind: 'R_X86_64_64' }),
      'ERR_ARENA_RELOC_BOUNDS',
      at(1, 'R_X86_64_64'),
    ],
    [
      'a site in data that is absent',
      () => ({ code: eight(), relocs: [pc32({ section: 'data' })] }),
      'ERR_ARENA_RELOC_BOUNDS',
      at(0, 'R_X86_64_PC32', 'data'),
    ],
    ['an unknown kind', spec({ kind: 'R_X86_64_PC16' }), 'ERR_ARENA_RELOC_KIND', at(0, 'R_X86_64_PC16')],
    ["a kind of another CPU's", spec({ kind: 'R_AARCH64_CALL26' }), 'ERR_ARENA_RELOC_KIND', at(0, 'R_AARCH64_CALL26')],
    [
      'a kind that is a property of every object',
      spec({ kind: 'constructor' }),
      'ERR_ARENA_RELOC_KIND',
      at(0, 'constructor'),
    ],
    [
      'a second reloc in the bytes of the first',
      spec({}, { offset: 3 }),
      'ERR_ARENA_RELOC_OVERLAP',
      { ...at(3), index: 1 },
    ],
    ['a target behind its own section', spec({ target: { own: 'data', offset: 9 } }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    ['a target in a section that is absent', spec({ target: { own: 'state' } }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    ['a target at -1', spec({ target: { own: 'code', offset: -1 } }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    ['a negative address', spec({ target: { address: -1n } }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    ['an address of 65 bits', spec({ target: { address: 2n ** 64n } }), 'ERR_ARENA_RELOC_TARGET', at(0)],
  ];
  for (const [name, makeSpec, code, details] of cases) {
    it(`${name} is ${code}`, () => {
      refuse(() => world.arena.allocate(makeSpec()), code, details);
      refuse(() => world.arena.install(makeSpec()), code, details);
      refuse(() => world.arena.install([{ code: sum }, makeSpec()]), code, { ...details, index: 1 });
    });
  }

  /** Known only when there are addresses: refused by freeze, which names the executor, and by install. */
  const late: [string, (world: World) => object, string, ErrorDetails][] = [
    [
      'a far address through PC32',
      () => ({ target: { address: symbolAddress('uv_version') } }),
      'ERR_ARENA_RELOC_RANGE',
      at(0),
    ],
    [
      'an address of the arena through 32',
      () => ({ kind: 'R_X86_64_32' }),
      'ERR_ARENA_RELOC_RANGE',
      at(0, 'R_X86_64_32'),
    ],
    [
      'an address of the arena through 32S',
      () => ({ kind: 'R_X86_64_32S' }),
      'ERR_ARENA_RELOC_RANGE',
      at(0, 'R_X86_64_32S'),
    ],
    [
      '2^32 through 32',
      () => ({ kind: 'R_X86_64_32', target: { address: 2n ** 32n } }),
      'ERR_ARENA_RELOC_RANGE',
      at(0, 'R_X86_64_32'),
    ],
    [
      '2^31 through 32S',
      () => ({ kind: 'R_X86_64_32S', target: { address: 2n ** 31n } }),
      'ERR_ARENA_RELOC_RANGE',
      at(0, 'R_X86_64_32S'),
    ],
    ['an addend beyond the reach', () => ({ addend: 2 ** 40 }), 'ERR_ARENA_RELOC_RANGE', at(0)],
    [
      'the address of an executor',
      ({ frozen }) => ({ target: { address: frozen.address } }),
      'ERR_ARENA_RELOC_TARGET',
      at(0),
    ],
    [
      'an interior address of an executor',
      ({ frozen }) => ({ target: { address: frozen.address + 3n } }),
      'ERR_ARENA_RELOC_TARGET',
      at(0),
    ],
    [
      'an address in the empty part of the arena',
      ({ frozen }) => ({ target: { address: frozen.address + 4096n } }),
      'ERR_ARENA_RELOC_TARGET',
      at(0),
    ],
    ['a stale target', ({ stale }) => ({ target: stale }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    ['a writable target', ({ other }) => ({ target: other }), 'ERR_ARENA_RELOC_TARGET', at(0)],
    [
      'a GOT slot for own data',
      () => ({ kind: 'R_X86_64_GOTPCREL', target: { own: 'data' } }),
      'ERR_ARENA_RELOC_TARGET',
      at(0, 'R_X86_64_GOTPCREL'),
    ],
    [
      'an address that can move, in state',
      ({ frozen }) => ({ section: 'state', kind: 'R_X86_64_64', target: frozen }),
      'ERR_ARENA_RELOC_SITE',
      at(0, 'R_X86_64_64', 'state'),
    ],
    [
      'a distance, in state',
      () => ({ section: 'state', target: { own: 'state' } }),
      'ERR_ARENA_RELOC_SITE',
      at(0, 'R_X86_64_PC32', 'state'),
    ],
  ];
  for (const [name, change, code, details] of late) {
    it(`${name} is ${code} when addresses are known`, () => {
      const { arena, draft, other } = world;
      const reloc = pc32(change(world));
      refuse(() => arena.install({ code: eight(), data: eight(), state: 8, relocs: [reloc] }), code, details);
      draft.addRelocs([reloc]);
      const { id } = draft;
      refuse(() => arena.freeze(draft), code, { ...details, executor: id });
      if (!name.startsWith('a writable')) {
        refuse(() => arena.freeze([other, draft]), code, { ...details, executor: id, index: 1 });
      }
    });
  }

  it('a target of another arena is ERR_ARENA_FOREIGN_EXECUTOR', () => {
    const action = () => world.arena.install(jump(world.foreign));
    refuse(action, 'ERR_ARENA_FOREIGN_EXECUTOR', at(1, 'R_X86_64_PLT32'));
  });

  it('a target with an id that is no id is ERR_ARENA_RELOC_TARGET', () => {
    const action = () => world.arena.install(jump({ id: 0.5, arena: world.arena }));
    refuse(action, 'ERR_ARENA_RELOC_TARGET', at(1, 'R_X86_64_PLT32'));
  });

  it('a bad reloc among good ones that are added later is refused with its position, and none is added', () => {
    const { draft, arena } = world;
    draft.addRelocs([pc32({ offset: 4 })]);
    const details = { executor: draft.id, section: 'code', kind: 'R_X86_64_PC32' } as const;
    refuse(() => draft.addRelocs([pc32({ offset: 0 }), pc32({ offset: 6 })]), 'ERR_ARENA_RELOC_BOUNDS', {
      ...details,
      offset: 6,
      index: 1,
    });
    refuse(() => draft.addRelocs([pc32({ offset: 2 })]), 'ERR_ARENA_RELOC_OVERLAP', {
      ...details,
      offset: 2,
      index: 0,
    });
    draft.addRelocs([pc32({ offset: 0 })]);
    arena.freeze(draft);
    refuse(() => draft.addRelocs([]), 'ERR_ARENA_NOT_WRITABLE', { executor: draft.id });
  });

  it('a failed freeze of ten publishes none, and the nine are as writable as before', () => {
    const { arena } = world;
    const ten = Array.from({ length: 10 }, (_, i) =>
      arena.allocate({ code: constant(i), data: 100, state: 100, name: `${i}` }),
    );
    const seventh = ten[7]!;
    seventh.addRelocs([pc32({ offset: 1, kind: 'R_X86_64_32' })]);
    const details = { executor: seventh.id, ...at(1, 'R_X86_64_32'), index: 7 };
    refuse(() => arena.freeze(ten), 'ERR_ARENA_RELOC_RANGE', details);
    assert.ok(ten.every(({ state }) => state === 'writable'));
    ten[3]?.write('code', 1, Uint8Array.of(33));
    arena.freeze(ten.filter((executor) => executor !== seventh));
    assert.deepEqual(
      ten.filter((executor) => executor !== seventh).map((executor) => executor.func(toI32)()),
      [0, 1, 2, 33, 4, 5, 6, 8, 9],
    );
  });

  it('values of a wrong type are TypeErrors that say which reloc', () => {
    const wrong: unknown[] = [
      undefined,
      null,
      5,
      'R_X86_64_PC32',
      {},
      { offset: 0 },
      { ...pc32({}), offset: '0' },
      { ...pc32({}), offset: 0n },
      { ...pc32({}), kind: 2 },
      { ...pc32({}), kind: undefined },
      { ...pc32({}), target: undefined },
      { ...pc32({}), target: 5n },
      { ...pc32({}), target: {} },
      { ...pc32({}), target: { address: 5 } },
      { ...pc32({}), addend: 0.5 },
      { ...pc32({}), addend: NaN },
      { ...pc32({}), addend: '4' },
      { ...pc32({}), addend: 2 ** 53 },
      { ...pc32({}), addend: -(2 ** 53) },
      { ...pc32({}), addend: 2n ** 63n },
      { ...pc32({}), addend: null },
    ];
    const { arena, draft } = world;
    const before = everything(arena);
    for (const reloc of wrong) {
      const relocs = [pc32({ offset: 4 }), reloc] as Reloc[];
      const expected = { name: 'TypeError', message: /reloc 1\b/ };
      for (const action of [
        () => arena.install({ code: 8, relocs }),
        () => arena.allocate({ code: 8, relocs }),
        () => draft.addRelocs(relocs),
      ]) {
        assert.throws(action, expected);
      }
    }
    for (const relocs of [null, {}, 5, 'x', new Set()]) {
      assert.throws(() => arena.install({ code: 8, relocs } as never), TypeError);
      assert.throws(() => draft.addRelocs(relocs as never), TypeError);
    }
    assert.throws(() => draft.addRelocs(undefined as never), TypeError);
    for (const change of [{ section: 'text' }, { target: { own: 'text' } }]) {
      assert.throws(() => arena.install({ code: 8, relocs: [pc32(change)] }), { name: 'TypeError', message: /text/ });
    }
    assert.deepEqual(everything(arena), before);
  });

  it('addends of 64 bits and lists of any kind are fine', () => {
    const { arena } = world;
    for (const addend of [2n ** 63n - 1n, -(2n ** 63n), 2 ** 53 - 1, -(2 ** 53 - 1), -0]) {
      const relocs = [pc32({ kind: 'R_X86_64_64', target: { address: 5n }, addend })];
      const { buffer } = arena.install({ code: 8, relocs }).read('code');
      assert.equal(new BigUint64Array(buffer)[0], BigInt.asUintN(64, 5n + BigInt(addend)));
    }
    class Relocs extends Array<Reloc> {}
    const subclass = Relocs.of(pc32({ addend: 7 }));
    for (const relocs of [subclass, new Proxy([pc32({ addend: 7 })], {}), Object.freeze([pc32({ addend: 7 })])]) {
      assert.deepEqual(arena.install({ code: 8, relocs }).read('code', 0, 4), Uint8Array.of(7, 0, 0, 0));
    }
  });

  it('a huge list is refused at its first bad item, and the arena works on', () => {
    const { arena } = world;
    assert.throws(() => arena.install({ code: 8, relocs: new Array(2 ** 32 - 1) }), {
      name: 'TypeError',
      message: /reloc 0/,
    });
    const details = { ...at(6), index: 1 };
    const relocs = Array<Reloc>(200_000)
      .fill(pc32({ offset: 6 }), 1)
      .fill(pc32({}), 0, 1);
    refuse(() => arena.install({ code: 8, relocs }), 'ERR_ARENA_RELOC_BOUNDS', details);
    assert.equal(arena.install({ code: constant(3), relocs: [] }).func(toI32)(), 3);
  });
});
