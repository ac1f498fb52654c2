// What lies: views that say of themselves what is not so, names that a program has replaced, and executors that claim to
// be others. Memory is asked, and not the object; so each lie changes nothing, or is refused.
import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import {
  Arena,
  type Callback,
  Executor,
  loadObject,
  type Reloc,
  relocKindNumbers,
  Stencil,
  StencilSet,
  TargetKind,
  TraceBuilder,
} from 'jit-arena';
import { Code } from './support/assembler.js';
import { canCompile, compile, compileText } from './support/compile.js';
import { inMemory, inOtherRealm, lies, memoryOf, takers } from './support/lies.js';
import { detach, growable, resizable } from './support/memory.js';
import { answers, names, replaced } from './support/replaced.js';
import { skip } from './support/skip.js';
import { constant, i32ToI32, identity, jump, toI32 } from './support/x64.js';

/** What an action comes to in an arena of its own, which is whole afterwards. */
function outcome(action: (arena: Arena) => unknown): unknown {
  using arena = new Arena({ maxBytes: 4 << 20 });
  let result: unknown;
  try {
    result = { is: action(arena) };
  } catch (error) {
    result = { error: (error as { code?: string }).code ?? (error as Error).name };
  }
  const { ok, problems, broken } = arena.verify();
  assert.ok(ok, broken ?? String(problems[0]?.what));
  return result;
}

const same: (typeof lies)[string] = (view) => view;

describe('a view that lies', () => {
  const bad = {
    resizable: {
      code: 'ERR_ARENA_RESIZABLE',
      make: (bytes: Uint8Array) => copy(bytes, resizable(bytes.length, 2 * bytes.length)),
    },
    growable: {
      code: 'ERR_ARENA_RESIZABLE',
      make: (bytes: Uint8Array) => copy(bytes, growable(bytes.length, 2 * bytes.length)),
    },
  };
  function copy<T extends ArrayBufferLike>(bytes: Uint8Array, buffer: T): T {
    new Uint8Array(buffer).set(bytes);
    return buffer;
  }

  for (const { name, take, copies } of takers) {
    it(`${name}: is taken as what it is, of this realm and of another`, () => {
      const honest = outcome((arena) => take(arena, (view) => view));
      assert.ok('is' in (honest as object), inspect(honest));
      assert.deepEqual(
        outcome((arena) => take(arena, inOtherRealm)),
        honest,
        'another realm',
      );
      for (const [lie, tell] of Object.entries(lies)) {
        assert.deepEqual(
          outcome((arena) => take(arena, tell)),
          honest,
          lie,
        );
        assert.deepEqual(
          outcome((arena) => take(arena, (view) => tell(inOtherRealm(view)))),
          honest,
          `${lie}, another realm`,
        );
      }
    });

    it(`${name}: is refused where its memory is, whatever it says`, () => {
      const honest = outcome((arena) => take(arena, (view) => view));
      for (const [lie, tell] of Object.entries({ nothing: same, ...lies })) {
        for (const [kind, { code, make }] of Object.entries(bad)) {
          const got = outcome((arena) => take(arena, (view) => tell(inMemory(view, make))));
          assert.deepEqual(got, copies ? honest : { error: code }, `${kind} memory and ${lie}`);
        }
        const gone = outcome((arena) => take(arena, (view) => tell(detach(view))));
        assert.deepEqual(gone, { error: 'ERR_ARENA_DETACHED' }, `detached memory and ${lie}`);
      }
    });
  }

  it('is refused as a context when its memory goes away later', () => {
    for (const [lie, tell] of Object.entries(lies)) {
      using arena = new Arena();
      const trace = arena.install(new Code().mark(1).done().spec());
      for (const make of [() => new BigInt64Array(2), () => new BigInt64Array(new ArrayBuffer(64), 64, 0)]) {
        const context = tell(make() as never) as BigInt64Array;
        const run = arena.runner(context);
        structuredClone(0, { transfer: [memoryOf(context as never)] });
        assert.throws(() => run(trace), { code: 'ERR_ARENA_DETACHED' }, lie);
      }
    }
  });

  it('as a Proxy is none', () => {
    for (const { name, take } of takers.filter(({ copies }) => !copies)) {
      const got = outcome((arena) => take(arena, (view) => new Proxy(view, {})));
      assert.deepEqual(got, { error: 'TypeError' }, name);
    }
  });
});

describe('memory that an argument takes away from another', () => {
  /** mov rax, [rdi + 8 * n]; ret, without looking at the other arguments. */
  const add = (arena: Arena, count: number) =>
    arena.install({ code: identity }).func({ args: Array<'pointer'>(count).fill('pointer'), returns: 'u64' });

  it('is found gone, wherever the argument stands', () => {
    using arena = new Arena();
    for (const count of [2, 3, 4]) {
      for (let at = 0; at < count; at++) {
        for (let other = 0; other < count; other++) {
          if (other === at) continue;
          const view = new Uint8Array(64);
          const args: unknown[] = Array(count).fill(null);
          args[at] = view;
          args[other] = {
            get address() {
              detach(view);
              return 1n;
            },
          };
          assert.throws(() => add(arena, count)(...(args as [])), { code: 'ERR_ARENA_DETACHED' }, `${other} of ${at}`);
        }
      }
    }
  });

  it('is where the collector has moved it', () => {
    using arena = new Arena();
    const others = Array.from({ length: 400 }, () => arena.install({ code: 96 }));
    const moving = arena.install({ code: constant(1) });
    arena.free(others);
    const before = moving.address;
    const got = add(arena, 2)(moving, {
      get address() {
        assert.ok(arena.collect().moved > 0);
        return 1n;
      },
    });
    assert.notEqual(moving.address, before);
    assert.equal(got, moving.address);
  });
});

describe('a name that a program has replaced', () => {
  const context = new BigInt64Array(2);
  const short = resizable(64);
  const gone = detach(new Uint8Array(8));
  const bytes = constant(7);
  // mov rax, [rdi]; ret
  const load = Uint8Array.of(0x48, 0x8b, 0x07, 0xc3);
  const eight = new BigUint64Array([0x1234_5678_9abcn]);
  const branch = Uint8Array.of(0xe9, 0, 0, 0, 0);
  // add qword [rdi], 1; jmp done
  const step = Uint8Array.of(0x48, 0x83, 0x07, 1, 0xe9, 0, 0, 0, 0);
  const exiting = new Code().exit(0).spec({ exitTags: [9] });
  const dataView = new DataView(eight.buffer);
  const pair = new Uint8Array([...constant(3), ...constant(4)]);
  const columns = {
    executor: [0, 1],
    offset: Uint32Array.of(1, 1),
    kind: [relocKindNumbers.R_X86_64_PC32, relocKindNumbers.R_X86_64_PC32],
    targetKind: Uint8Array.of(TargetKind.ownCode, TargetKind.batchMember),
    target: Float64Array.of(1, 0),
    addend: [3, 5],
  };
  const halves = [0, 6, 12];
  const pointer = { args: ['pointer'], returns: 'u64' } as const;
  const two = { args: ['pointer', 'i32'], returns: 'i32' } as const;

  function prepare() {
    const arena = new Arena();
    const { id } = arena.allocate({ code: 16, data: bytes });
    return {
      arena,
      foreign: new Arena().install({ code: bytes }),
      draft: arena.executor(id),
      other: arena.allocate({ code: 16 }).id,
      known: arena.install({ code: bytes }).id,
      drafts: Float64Array.of(id),
      broken: Float64Array.of(id, 0.5),
    };
  }

  // It uses no name itself: nothing but what the package does can go wrong.
  function life({ arena, foreign, draft, other, known, drafts, broken }: ReturnType<typeof prepare>): unknown[] {
    const seen: unknown[] = [];
    let next = 0;
    const note = (action: () => unknown) => {
      try {
        seen[next] = action();
      } catch (error) {
        seen[next] = (error as { code?: string }).code ?? (error as Error).name;
      }
      next++;
    };
    const target = arena.install({ code: bytes });
    const relocs: Reloc[] = [{ offset: 1, kind: 'R_X86_64_PLT32', target, addend: -4 }];
    const jumps = arena.install({ code: branch, relocs, entries: [0] });
    const loads = arena.install({ code: load }).func(pointer);
    const add = arena.install({ code: identity }).func(two);
    const trace = arena.install({
      code: step,
      relocs: [{ offset: 5, kind: 'R_X86_64_PLT32', target: 'done', addend: -4 }],
    });
    const callback = arena.callback({ args: ['i32', 'i32'], returns: 'i32' }, (a, b) => a * 100 + b);
    const calls = arena.install({
      code: branch,
      relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: callback, addend: -4 }],
    });
    const run = arena.runner(context);
    note(() => jumps.func(toI32)());
    note(() => loads(eight));
    note(() => loads(dataView));
    note(() => loads(new Uint8Array(short)));
    note(() => loads(gone));
    note(() => loads(-1n));
    note(() => loads(2n ** 64n));
    note(() => add(null, 1.5));
    note(() => calls.func({ args: ['i32', 'i32'], returns: 'i32' })(3, 4));
    note(() => {
      context[0] = 4n;
      const token = run(trace);
      return [token, context[0]];
    });
    note(() => {
      const executor = arena.install(exiting);
      const tag = arena.exitTag(run(executor));
      arena.link(executor, 0, trace);
      return [tag, run(executor), run(executor, 0), arena.linkOf(executor, 0)?.entry, arena.chainDepth(trace)];
    });
    note(() => arena.runner(new Uint8Array(short)));
    note(() => arena.runner(gone));
    note(() => run(foreign));
    note(() => arena.allocate({ code: new Uint8Array(short) }));
    note(() => arena.allocate({ code: gone }));
    note(() => arena.allocate({ code: 0.5 }));
    note(() => arena.allocate({ code: bytes, entries: [0.5] }));
    note(() => arena.install({ code: bytes, relocs: [{ offset: 0, kind: 'R_X86_64_64', target: foreign }] }));
    note(() => arena.install({ code: bytes, relocs: [{ offset: 0, kind: 'R_X86_64_64', target: { address: -1n } }] }));
    note(() => arena.install({ code: bytes, relocs: [{ offset: 0.5, kind: 'R_X86_64_64', target }] }));
    note(() => draft.write('code', 2, pair));
    note(() => draft.write('code', 2, gone));
    note(() => draft.write('code', 8, pair));
    note(() => draft.read('code', 0.5));
    note(() => draft.read('code', 0, 17));
    note(() => hex(draft.read('code')));
    note(() => hex(draft.read('data')));
    note(() => arena.freeze([draft, foreign]));
    note(() => arena.freeze([draft, 0.5]));
    note(() => arena.freeze([draft, other]));
    note(() => arena.free(foreign));
    note(() => arena.free([foreign]));
    note(() => arena.free(broken));
    note(() => arena.free(drafts));
    note(() => arena.link(trace, 0, foreign));
    note(() => arena.executor(0.5));
    note(() => arena.executor(known).func(toI32)());
    note(() => arena.installBatch({ code: pair, codeOffsets: [0, 6, 13] }));
    note(() => arena.installBatch({ code: pair, codeOffsets: [0, 6.5, 12] }));
    note(() => {
      const ids = arena.installBatch({ code: pair, codeOffsets: halves, relocs: columns });
      return hex(arena.executor(ids[0] as number).read('code')) + hex(arena.executor(ids[1] as number).read('code'));
    });
    callback.dispose();
    return seen;
  }

  function hex(bytes: Uint8Array): string {
    let text = '';
    for (let i = 0; bytes[i] !== undefined; i++) text += `${bytes[i]} `;
    return text;
  }

  const lived = (around: (action: () => unknown) => unknown): unknown => {
    const world = prepare();
    try {
      const seen = around(() => life(world));
      assert.ok(world.arena.verify().ok);
      return seen;
    } finally {
      world.arena.dispose();
      world.foreign.arena.dispose();
    }
  };

  for (const place of [...new Set(names.map((name) => name.place))]) {
    it(`in ${place} decides nothing`, () => {
      const honest = lived((action) => action());
      for (const name of names.filter((each) => each.place === place)) {
        for (const [answer, give] of Object.entries(answers)) {
          const got = lived((action) => replaced(name, give, action));
          assert.deepEqual(got, honest, `${name.name} answers ${answer}`);
        }
      }
    });
  }
});

describe('an executor that claims to be another', () => {
  const context = new BigInt64Array(2);
  /** Two entries; the second is where the other trace has the middle of an instruction. */
  const two = (digit: number) =>
    new Code()
      .mark(digit)
      .done()
      .put(0xcc)
      .mark(digit + 1)
      .exitWhileToTake(0)
      .done();
  const second = new Code().mark(1).done().size + 1;

  let arena: Arena;
  let home: Arena;
  let own: Executor;
  let other: Executor;
  beforeEach(() => {
    arena = new Arena();
    home = new Arena();
    own = arena.install(two(1).spec({ entries: [0, second] }));
    other = arena.install(new Code().mark(7).mark(8).exitWhileToTake(0).done().spec());
  });
  afterEach(() => {
    assert.ok(arena.verify().ok);
    arena.dispose();
    home.dispose();
  });

  const claims: Record<string, (executor: Executor) => void> = {
    'by assigning': (executor) => {
      assert.throws(() => Object.assign(executor, { id: other.id }), TypeError);
      assert.throws(() => Object.assign(executor, { arena: home }), TypeError);
    },
    'by properties of its own': (executor) => {
      const properties = { id: other.id, arena: home, address: 1n, state: 'frozen', sizes: {}, exits: 9 };
      for (const [key, value] of Object.entries(properties)) Object.defineProperty(executor, key, { value });
    },
    'by another prototype': (executor) => {
      Object.setPrototypeOf(executor, {
        id: other.id,
        arena: home,
        address: 1n,
        exit: 0,
        own: 'code',
        executor: other,
      });
    },
  };

  for (const [how, claim] of Object.entries(claims)) {
    it(`${how} is what it was`, () => {
      const run = arena.runner(context);
      const ran = (executor: Executor, entry: number) => {
        context.fill(0n);
        run(executor, entry);
        return context[0];
      };
      assert.deepEqual([ran(own, 0), ran(own, 1)], [1n, 2n]);
      const caller = arena.install({ code: constant(5) });
      claim(own);
      claim(caller);
      assert.deepEqual([ran(own, 0), ran(own, 1)], [1n, 2n], 'run');
      arena.link(other, 0, own, { entry: 1 });
      assert.equal(arena.linkOf(other, 0)?.executor.id, arena.executors()[0]?.id, 'link');
      arena.unlinkAll();
      const [, , called] = arena.executors() as [Executor, Executor, Executor];
      assert.equal(arena.install(jump(caller)).func(toI32)(), 5, 'a target');
      assert.equal(arena.install(jump({ executor: caller })).func(toI32)(), 5, 'a target with a place');
      const pointer = arena.install({ code: identity }).func({ args: ['pointer'], returns: 'u64' });
      assert.equal(pointer(caller), called.address, 'a pointer');
      assert.equal(Executor.prototype.func.call(caller, toI32)(), 5, 'func');
      assert.throws(() => home.free(own), { code: 'ERR_ARENA_FOREIGN_EXECUTOR' });
      arena.free([own]);
      assert.equal(other.state, 'frozen');
      arena.free(other);
      assert.equal(called.state, 'frozen');
    });
  }

  it('without being one is a TypeError', () => {
    const draft = arena.allocate({ code: 16 });
    const fakes: Record<string, unknown> = {
      'an object that names it': { id: own.id, arena },
      'an object made of it': Object.create(own),
      'an object of its class': Object.create(Executor.prototype, { id: { value: own.id }, arena: { value: arena } }),
      'a Proxy of it': new Proxy(own, {}),
      'a Proxy that answers': new Proxy(own, { get: (_, key) => ({ id: own.id, arena })[key as 'id'] }),
      nothing: null,
    };
    const run = arena.runner(context);
    for (const [what, fake] of Object.entries(fakes)) {
      const executor = fake as Executor;
      for (const action of [
        () => run(executor),
        () => arena.link(executor, 0, own),
        () => arena.link(other, 0, executor),
        () => arena.unlink(executor, 0),
        () => arena.linkOf(executor, 0),
        () => arena.chainDepth(executor),
        () => arena.replace(executor, own),
        () => arena.replace(own, executor),
        () => arena.invalidate(executor),
        () => arena.setHotStub(executor),
        () => arena.free(executor),
        () => arena.freeze(executor),
        () => arena.freeze([draft, executor]),
        () => arena.free([draft, executor]),
      ]) {
        assert.throws(action, TypeError, `${what}: ${action}`);
      }
    }
    assert.deepEqual([own.state, other.state, draft.state], ['frozen', 'frozen', 'writable']);
  });

  it('cannot be made but by an arena', () => {
    const make = Executor as unknown as new (...args: unknown[]) => Executor;
    const native = { describe: () => ({ frozen: true, trace: true, firstEntry: 1 }) };
    for (const args of [[], [arena, native, own.id], [Symbol('an arena'), arena, native, own.id]]) {
      assert.throws(() => new make(...args), { name: 'TypeError', message: /made by its arena/ });
    }
  });

  it('as a target is read once', () => {
    const reads = { id: 0, arena: 0, own: 0, address: 0 };
    const changing = <K extends keyof typeof reads>(key: K, first: unknown, then: unknown) => ({
      get [key]() {
        return reads[key]++ === 0 ? first : then;
      },
    });
    const target = Object.defineProperties(changing('id', own.id, 0.5), {
      arena: { get: () => (reads.arena++ === 0 ? arena : home) },
    });
    const field = (target: unknown): Reloc => ({ offset: 0, kind: 'R_X86_64_64', target: target as never });
    const made = (target: unknown) =>
      new BigUint64Array(arena.install({ code: 8, data: 8, relocs: [field(target)] }).read('code').buffer)[0];
    assert.equal(made(target), own.address);
    assert.equal(made(changing('address', 5n, 'nothing')), 5n);
    made(changing('own', 'data', 'constructor'));
    assert.deepEqual(reads, { id: 1, arena: 1, own: 1, address: 1 });
  });
});

describe('what names something else', () => {
  it('is read once, and stays what it was when it was checked', function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
    using arena = new Arena();
    const [moves, stays] = [arena.install({ code: constant(1) }), arena.install({ code: constant(2), movable: false })];
    const object = compileText('int f(void); void *address(void) { return (void *)f; }', ['-O2', '-fPIC']);
    let reads = 0;
    const change = {
      arena,
      get id() {
        return reads++ === 0 ? stays.id : moves.id;
      },
    };
    for (const target of [change, { executor: change }]) {
      reads = 0;
      const x = loadObject(object, { resolve: () => target }).install(arena);
      assert.equal(x.func('address', { args: [], returns: 'pointer' })(), stays.address);
      assert.equal(reads, 1);
    }
    const loaded = loadObject(object, { resolve: () => moves });
    assert.throws(() => loaded.install(arena), { code: 'ERR_ARENA_MOVABLE' });
    const x = loadObject(object, { resolve: () => stays }).install(arena);
    assert.throws(() => Object.assign(loaded, { movable: true }), TypeError);
    assert.throws(() => Object.assign(x, { executors: [moves] }), TypeError);
  });

  it('is a stencil only if a set has made it', function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
    const flags = ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections', '-fdata-sections'];
    const set = StencilSet.fromObject(compile('stencils.c', flags));
    const [stencil] = set;
    assert.ok(stencil);
    for (const fake of [
      Object.create(stencil),
      Object.create(Stencil.prototype),
      new Proxy(stencil, {}),
      { ...stencil },
    ]) {
      assert.throws(() => new TraceBuilder().emit(fake), { name: 'TypeError', message: /stencil/ });
    }
    assert.throws(() => Object.assign(stencil, { body: { size: 1 } }), TypeError);
  });

  it('cannot be changed', () => {
    using arena = new Arena({ name: 'one' });
    const callback: Callback = arena.callback(i32ToI32, (n) => n);
    const calls = arena.install(jump(callback)).func(i32ToI32);
    const constants: [string, object, string][] = [
      ['arena', arena, 'writer'],
      ['arena', arena, 'name'],
      ['callback', callback, 'address'],
      ['callback', callback, 'dispose'],
      ['function', calls, 'executor'],
      ['TargetKind', TargetKind, 'ownData'],
      ['relocKindNumbers', relocKindNumbers, 'R_X86_64_PC32'],
    ];
    for (const [what, holder, key] of constants) {
      const before = Reflect.get(holder, key);
      assert.throws(() => Object.assign(holder, { [key]: 99 }), TypeError, `${what}.${key} is assigned`);
      assert.throws(() => Object.defineProperty(holder, key, { value: 99 }), TypeError, `${what}.${key} is defined`);
      assert.equal(Reflect.get(holder, key), before);
    }
    assert.equal(calls(4), 4);
  });
});
