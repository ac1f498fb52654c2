// Values that are no good in ways of their own: memory that goes away, wrong types, and getters that do as they please.
import assert from 'node:assert/strict';
import { Arena, type ErrorDetails, type Reloc } from 'jit-arena';
import { copiesInAllMemory, detach, growable, resizable, wasmMemory } from './support/memory.js';
import { assertRefused, endWorld, everything, makeWorld, type World } from './support/refusals.js';
import { constant, loadData, rel32, sum, toI32 } from './support/x64.js';

describe('bad values', () => {
  let world: World;
  beforeEach(() => {
    world = makeWorld();
  });
  afterEach(() => endWorld(world));

  const refuse = (action: () => unknown, code: string, details: ErrorDetails, message?: RegExp) =>
    assertRefused(world.arena, action, code, details, message);

  describe('memory', () => {
    const bad: [string, Uint8Array, Float64Array, string][] = [
      ['detached', detach(new Uint8Array(8)), detach(new Float64Array(1)), 'ERR_ARENA_DETACHED'],
      ['resizable', new Uint8Array(resizable()), new Float64Array(resizable()), 'ERR_ARENA_RESIZABLE'],
      ['growable', new Uint8Array(growable()), new Float64Array(growable()), 'ERR_ARENA_RESIZABLE'],
    ];
    for (const [name, bytes, ids, code] of bad) {
      it(`that is ${name} is ${code} wherever bytes are taken`, () => {
        const { arena, draft, frozen } = world;
        for (const section of ['code', 'data', 'state'] as const) {
          refuse(() => arena.allocate({ code: sum, [section]: bytes }), code, { section });
          refuse(() => arena.install({ code: sum, [section]: bytes }), code, { section });
          const details = { executor: draft.id, section, offset: 2 };
          refuse(() => draft.write(section, 2, bytes), code, details);
        }
        refuse(() => frozen.write('state', 0, bytes), code, {
          executor: frozen.id,
          section: 'state',
          offset: 0,
        });
        refuse(() => arena.installBatch({ code: bytes, codeOffsets: [0, 0] }), code, {}, /code/);
        refuse(
          () => arena.installBatch({ code: sum, codeOffsets: [0, 4], data: bytes, dataOffsets: [0, 0] }),
          code,
          {},
          /data/,
        );
        refuse(() => arena.free(ids), code, {});
        refuse(() => arena.freeze(ids), code, {});
        const f = arena.install({ code: constant(1) }).func({ args: ['i32', 'pointer'], returns: 'i32' });
        refuse(() => f(1, bytes), code, {}, /argument 1/);
      });
    }

    it('of a WebAssembly.Memory is detached once it has grown', () => {
      const memory = wasmMemory();
      const code = new Uint8Array(memory.buffer, 0, 6);
      code.set(constant(5));
      assert.equal(world.arena.install({ code }).func(toI32)(), 5);
      memory.grow(1);
      refuse(() => world.arena.install({ code }), 'ERR_ARENA_DETACHED', { section: 'code' });
    });

    it('of every other kind is fine, also shared, and of no bytes at all', () => {
      const { arena, draft } = world;
      for (const bytes of copiesInAllMemory(constant(5))) {
        const executor = arena.install({ code: bytes, data: bytes, state: bytes });
        assert.equal(executor.func(toI32)(), 5);
        for (const section of ['code', 'data', 'state'] as const) assert.deepEqual(executor.read(section), constant(5));
        draft.write('code', 1, bytes);
        assert.deepEqual(draft.read('code', 1, 6), constant(5));
      }
      assert.equal(arena.install({ code: Buffer.from(constant(6)) }).func(toI32)(), 6);
      draft.write('code', 8, new Uint8Array(0));
      assert.equal(arena.install({ code: 1, data: new Uint8Array(0) }).sizes.data, 0);
    });

    it('that is no Uint8Array is a TypeError', () => {
      const { arena, draft } = world;
      const before = everything(arena);
      const proxy = new Proxy(constant(1), { get: (target, key) => Reflect.get(target, key) });
      const wrong = [
        null,
        '6',
        6n,
        [0xc3],
        new ArrayBuffer(6),
        new DataView(new ArrayBuffer(6)),
        new Int8Array(6),
        new Uint8ClampedArray(6),
        proxy,
        Object.create(Uint8Array.prototype),
      ];
      for (const bytes of wrong) {
        assert.throws(() => arena.install({ code: bytes as never }), TypeError);
        assert.throws(() => arena.install({ code: 1, data: bytes as never }), TypeError);
        assert.throws(() => draft.write('code', 0, bytes as never), TypeError);
      }
      assert.throws(() => arena.install({} as never), { name: 'TypeError', message: /code is missing/ });
      assert.deepEqual(everything(arena), before);
    });

    it('is taken from a subclass as it is, whatever its length says', () => {
      const lying = constant(7);
      Object.defineProperty(lying, 'length', { value: 2 });
      assert.deepEqual(world.arena.install({ code: lying }).read('code'), constant(7));
    });
  });

  describe('arguments of a wrong type', () => {
    it('are TypeErrors, and change nothing', () => {
      const { arena, frozen, draft } = world;
      const before = everything(arena);
      const wrong: (() => unknown)[] = [
        () => new Arena({ maxBytes: '64' as never }),
        () => new Arena({ writer: 'none' as never }),
        () => new Arena({ layout: 'none' as never }),
        () => arena.allocate(undefined as never),
        () => arena.allocate(null as never),
        () => arena.allocate(5 as never),
        () => arena.install('code' as never),
        () => arena.install({ code: 1, name: 5 as never }),
        () => arena.install({ code: 1, movable: 'no' as never }),
        () => arena.install({ code: 1, align: '16' as never }),
        () => arena.install({ code: 1, entries: 5 as never }),
        () => arena.install({ code: 1, entries: ['0' as never] }),
        () => arena.install([{ code: 1 }, null as never]),
        () => arena.freeze(undefined as never),
        () => arena.freeze(frozen.id as never),
        () => arena.freeze([null as never]),
        () => arena.freeze(['1' as never]),
        () => arena.freeze(new Set([draft]) as never),
        () => arena.freeze(Float32Array.of(1) as never),
        () => arena.free(undefined as never),
        () => arena.free([undefined as never]),
        () => arena.free(new Proxy(Float64Array.of(frozen.id), {})),
        () => arena.executor('1' as never),
        () => arena.executor(1n as never),
        () => arena.find(5 as never),
        () => frozen.read('text' as never),
        () => frozen.read('code', '0' as never),
        () => draft.write('text' as never, 0, sum),
        () => draft.write('code', '0' as never, sum),
        () => frozen.func(toI32, { entry: '0' as never }),
        () => arena.pinned(5 as never),
      ];
      for (const action of wrong) {
        assert.throws(action, { name: 'TypeError' }, String(action));
        assert.deepEqual(everything(arena), before, String(action));
      }
    });
  });

  describe('getters', () => {
    it('of a spec that throw midway leave nothing behind', () => {
      const { arena, draft } = world;
      const before = everything(arena);
      const fail = () => {
        throw new Error('from a getter');
      };
      const good = {
        code: constant(1),
        data: sum,
        state: 8,
        entries: [0],
        name: 'n',
        align: 16,
        dataAlign: 16,
        stateAlign: 16,
        movable: true,
      };
      const relocs = [rel32(1, { own: 'code' })];
      for (const key of [...Object.keys(good), 'relocs']) {
        const spec = Object.defineProperty({ ...good, relocs }, key, { get: fail });
        assert.throws(() => arena.install(spec), /from a getter/, key);
        assert.throws(() => arena.allocate(spec), /from a getter/, key);
        assert.throws(() => arena.install([good, spec]), /from a getter/, key);
      }
      for (const key of ['section', 'offset', 'kind', 'target', 'addend']) {
        const reloc = Object.defineProperty({ ...relocs[0] }, key, { get: fail }) as Reloc;
        assert.throws(() => arena.install({ ...good, relocs: [...relocs, reloc] }), /from a getter/, key);
        assert.throws(() => draft.addRelocs([...relocs, reloc]), /from a getter/, key);
      }
      assert.deepEqual(everything(arena), before);
      assert.equal(arena.install(good).func(toI32)(), 1);
    });

    it('of a spec may use the arena themselves', () => {
      const { arena } = world;
      const inner = () => arena.install({ code: constant(2), data: 100, relocs: [], align: 64 });
      const good = { code: constant(1), data: sum, state: 8, entries: [0], name: 'n', align: 16, movable: true };
      for (const [key, value] of Object.entries(good)) {
        const get = () => {
          assert.equal(inner().func(toI32)(), 2);
          return value;
        };
        const executor = arena.install(Object.defineProperty({ ...good }, key, { get }));
        assert.equal(executor.func(toI32)(), 1, key);
        assert.deepEqual(executor.sizes, { code: 6, data: 4, state: 8 }, key);
        assert.equal(executor.name, 'n');
      }
    });

    it('of a reloc must not make other executors, and nothing comes of it', () => {
      const { arena, draft } = world;
      const load = loadData;
      const fine = rel32(2, { own: 'data' });
      let made = 0;
      const meddling = {
        ...fine,
        section: 'data',
        kind: 'R_X86_64_64',
        get offset() {
          made++;
          arena.install({ code: 16, relocs: [rel32(3, { own: 'code' })] });
          return 8;
        },
      } as Reloc;
      const spec = { code: load, data: 16, relocs: [fine, meddling] };
      for (const action of [
        () => arena.install(spec),
        () => arena.allocate(spec),
        () => draft.addRelocs(spec.relocs),
      ]) {
        const count = arena.stats().executors;
        assert.throws(action, { name: 'TypeError', message: /getter/ });
        assert.equal(arena.stats().executors, count + 1, 'the one that the getter made');
      }
      assert.equal(made, 3);
    });
  });
});

describe('a length that lies', () => {
  it('of a typed array in a batch reads nothing beyond its memory', () => {
    using arena = new Arena();
    const code = new Uint8Array(8);
    Object.defineProperty(code, 'length', { value: 65536 });
    assert.throws(() => arena.installBatch({ code, codeOffsets: [0, 65536] }), { code: 'ERR_ARENA_SIZE' });
    assert.equal(arena.stats().executors, 0);
  });

  it('of a list of relocs that grows while it is read counts once', () => {
    using arena = new Arena();
    const reloc = { offset: 0, kind: 'R_X86_64_64', target: { own: 'code' } };
    let reads = 0;
    const relocs = new Proxy([reloc], {
      get: (list, key, receiver) => (key === 'length' ? (reads++ === 0 ? 1 : 5e6) : Reflect.get(list, key, receiver)),
    });
    const made = (() => {
      try {
        return arena.allocate({ code: 64, relocs: relocs as never });
      } catch (error) {
        assert(error instanceof TypeError, String(error));
        return undefined;
      }
    })();
    made?.free();
    assert(arena.verify().ok);
  });
});
