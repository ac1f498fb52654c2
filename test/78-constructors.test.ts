// Constructors and destructors of objects: their order, what C++ registers for its static variables, and what is thrown.
import assert from 'node:assert/strict';
import { Arena, ArenaError, type InstalledObject, loadObject } from 'jit-arena';
import { canCompile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

const flags = [
  ['-O0', '-fPIC'],
  ['-O2', '-fPIC', '-ffunction-sections'],
  ['-O2', '-fPIE', '-mcmodel=large'],
];
const noArguments = { args: [], returns: 'i32' } as const;

describe('constructors', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  let arena: Arena;
  let log: number[];
  beforeEach(() => {
    arena = new Arena();
    log = [];
  });
  afterEach(() => {
    if (arena === undefined) return;
    assert.deepEqual(arena.executors(), []);
    const { ok, problems, broken } = arena.verify();
    assert.ok(ok, broken ?? String(problems[0]?.what));
    arena.dispose();
  });

  /** Of text in which `note(n)` writes into the log. */
  const load = (text: string, flags: readonly string[], compiler?: string, suffix?: '.c' | '.cc') => {
    const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => {
      log.push(n);
    });
    return loadObject(compileText(text, flags, compiler, suffix), {
      resolve: (name) => (name === 'note' ? note : undefined),
    });
  };

  const ordered = `void note(int);
    #define INIT(n) __attribute__((constructor(n))) static void init##n(void) { note(n); }
    #define FINI(n) __attribute__((destructor(n))) static void fini##n(void) { note(-n); }
    INIT(2000) INIT(101) FINI(101) FINI(2000) INIT(500) FINI(500)
    __attribute__((constructor)) static void init(void) { note(1); }
    __attribute__((constructor)) static void second(void) { note(2); }
    __attribute__((destructor)) static void fini(void) { note(-1); }
    __attribute__((destructor)) static void last(void) { note(-2); }
    int answer(void) { return 42; }`;

  it('run in the order of their priorities, destructors in the opposite', () => {
    for (const compiler of compilers) {
      for (const each of flags) {
        const x = load(ordered, each, compiler).install(arena, { constructors: 'run' });
        assert.deepEqual(log, [101, 500, 2000, 1, 2]);
        assert.equal(x.func('answer', noArguments)(), 42);
        log = [];
        x.free();
        assert.deepEqual(log, [-2, -1, -2000, -500, -101]);
        log = [];
      }
    }
  });

  it('of .ctors and .dtors as well, which count the other way', () => {
    // What crtbegin puts at the ends is passed over.
    const text = `void note(int);
      static void a(void) { note(1); } static void b(void) { note(2); } static void c(void) { note(3); }
      static void d(void) { note(4); } static void e(void) { note(5); }
      __asm__(".section .ctors,\\"aw\\",@progbits\\n .quad -1, a, b\\n .section .ctors.65000,\\"aw\\",@progbits\\n .quad c\\n"
              ".section .dtors,\\"aw\\",@progbits\\n .quad d, e, 0\\n .text\\n");
      void keep(void) { a(); b(); c(); d(); e(); }
      __asm__(".globl keep");`;
    const x = load(text.replaceAll('static void', '__attribute__((used)) static void'), ['-O0', '-fPIC']).install(
      arena,
      {
        constructors: 'run',
      },
    );
    assert.deepEqual(log, [3, 2, 1]);
    log = [];
    x.free();
    assert.deepEqual(log, [4, 5]);
  });

  it('get what main gets: no arguments and empty lists', () => {
    const text = `static int seen = -1;
      __attribute__((constructor)) static void init(int count, char **arguments, char **environment) {
        seen = count == 0 && arguments[0] == 0 && environment[0] == 0; }
      int answer(void) { return seen; }`;
    const x = load(text, ['-O2', '-fPIC']).install(arena, { constructors: 'run' });
    assert.equal(x.func('answer', noArguments)(), 1);
    x.free();
  });

  const statics = `extern "C" void note(int);
    struct Noted { int n; explicit Noted(int n) : n(n) { note(n); } ~Noted() { note(-n); } };
    static Noted first(1); Noted second(2);
    static Noted &inside(int n) { static Noted noted(n); return noted; }
    extern "C" int use(int n) { return inside(n).n; }`;
  const i32 = { args: ['i32'], returns: 'i32' } as const;

  it('of C++ static variables run, and their destructors in the opposite order', () => {
    for (const compiler of compilers) {
      for (const each of flags) {
        const object = load(statics, [...each, '-std=c++17', '-fno-exceptions'], compiler, '.cc');
        const [x, y] = [object.install(arena, { constructors: 'run' }), object.install(arena, { constructors: 'run' })];
        assert.deepEqual(log, [1, 2, 1, 2]);
        log = [];
        // Only when it is come by, and only in the one that came by.
        assert.deepEqual([x.func('use', i32)(7), x.func('use', i32)(9)], [7, 7]);
        assert.deepEqual(log, [7]);
        log = [];
        y.free();
        assert.deepEqual(log, [-2, -1]);
        log = [];
        x.free();
        assert.deepEqual(log, [-7, -2, -1]);
        log = [];
      }
    }
  });

  it('are not needed for a static variable inside a function', () => {
    const text = `extern "C" void note(int);
      struct Noted { int n; explicit Noted(int n) : n(n) { note(n); } ~Noted() { note(-n); } };
      extern "C" int use(int n) { static Noted noted(n); return noted.n; }`;
    for (const compiler of compilers) {
      const object = load(text, ['-O2', '-fPIC', '-std=c++17', '-fno-exceptions'], compiler, '.cc');
      const others = arena.install(Array.from({ length: 400 }, () => ({ code: new Uint8Array(1500).fill(0xcc) })));
      const x = object.install(arena);
      assert.equal(x.func('use', i32)(5), 5);
      arena.free(others);
      arena.collect();
      assert.equal(x.func('use', i32)(6), 5);
      x.free();
      assert.deepEqual(log, [5, -5]);
      log = [];
      assert.throws(() => object.install(arena, { movable: true }), { code: 'ERR_ARENA_MOVABLE' });
      // One that was never come by.
      object.install(arena).free();
      assert.deepEqual(log, []);
    }
  });

  it('are refused unless they are asked for', () => {
    for (const object of [
      load(ordered, ['-O2', '-fPIC']),
      load(statics, ['-O2', '-fPIC', '-std=c++17', '-fno-exceptions'], compilers[0], '.cc'),
    ]) {
      assert.throws(
        () => object.install(arena),
        (error: unknown) => error instanceof ArenaError && error.code === 'ERR_ARENA_OBJECT_UNSUPPORTED',
      );
      assert.throws(() => object.install(arena, { constructors: true as never }), TypeError);
    }
    assert.deepEqual(log, []);
  });

  it('that fail take back what was done', () => {
    const stop = new Error('stop');
    const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => {
      log.push(n);
      if (n === 2) throw stop;
    });
    const object = loadObject(
      compileText(statics, ['-O2', '-fPIC', '-std=c++17', '-fno-exceptions'], compilers[0], '.cc'),
      {
        resolve: (name) => (name === 'note' ? note : undefined),
      },
    );
    assert.throws(
      () => object.install(arena, { constructors: 'run' }),
      (error) => error === stop,
    );
    assert.deepEqual(log, [1, 2, -2, -1]);
  });

  it('whose destructors throw are freed nevertheless', () => {
    const stop = new Error('stop');
    const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => {
      log.push(n);
      if (n < 0) throw stop;
    });
    const x = loadObject(compileText(ordered, ['-O2', '-fPIC']), {
      resolve: (name) => (name === 'note' ? note : undefined),
    }).install(arena, { constructors: 'run' });
    log = [];
    assert.throws(
      () => x.free(),
      (error) => error === stop,
    );
    assert.deepEqual(log, [-2, -1, -2000, -500, -101]);
    assert.throws(() => x.free(), { code: 'ERR_ARENA_STALE_EXECUTOR' });
  });

  it('run once when freeing has to wait for others', () => {
    const x = load(ordered, ['-O2', '-fPIC']).install(arena, { constructors: 'run' });
    const user = loadObject(compileText('int answer(void); int f(void) { return answer(); }', ['-O2', '-fPIC']), {
      resolve: (name) => x.target(name),
    }).install(arena);
    log = [];
    assert.throws(() => x.free(), { code: 'ERR_ARENA_REFERENCED' });
    assert.equal(log.length, 5);
    user.free();
    x.free();
    assert.equal(log.length, 5);
  });

  it('may use the arena', () => {
    let inner: InstalledObject | undefined;
    const plain = loadObject(compileText('int f(void) { return 3; }', ['-O2', '-fPIC']));
    const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => {
      if (n === 1) inner = plain.install(arena);
      if (n === -1) inner?.free();
      arena.collect();
    });
    const x = loadObject(compileText(ordered, ['-O2', '-fPIC', '-ffunction-sections']), {
      resolve: (name) => (name === 'note' ? note : undefined),
    }).install(arena, { constructors: 'run' });
    assert.equal(inner?.func('f', noArguments)(), 3);
    x.free();
  });
});

describe('IFUNC', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  const i32 = { args: ['i32'], returns: 'i32' } as const;
  // Called, called through a slot, and taken the address of; asked for by another object.
  const text = `int which(void);
    static int one(int n) { return n + 1; } static int two(int n) { return n + 2; }
    static int (*resolve(void))(int) { return which() == 1 ? one : two; }
    int f(int n) __attribute__((ifunc("resolve")));
    static int (*resolve_hidden(void))(int) { return two; }
    static int hidden(int n) __attribute__((ifunc("resolve_hidden")));
    int (*kept)(int) = f;
    int call(int n) { return f(n) * 10; } int through(int n) { return kept(n); } int call_hidden(int n) { return hidden(n); }
    int (*take(void))(int) { return f; }`;

  for (const compiler of compilers) {
    for (const each of [...flags, ['-O2', '-fPIC', '-fvisibility=hidden']]) {
      it(`is what the resolver says when it is installed: ${compiler} ${each.join(' ')}`, () => {
        using arena = new Arena();
        let answer = 1;
        let asked = 0;
        const which = arena.callback({ args: [], returns: 'i32' }, () => {
          asked++;
          return answer;
        });
        const object = loadObject(compileText(text, each, compiler), {
          resolve: (name) => (name === 'which' ? which : undefined),
        });
        const x = object.install(arena);
        answer = 2;
        const y = object.install(arena);
        assert.equal(asked, 2);
        for (const [installed, more] of [
          [x, 1],
          [y, 2],
        ] as const) {
          assert.equal(installed.func('call', i32)(4), (4 + more) * 10);
          assert.equal(installed.func('through', i32)(4), 4 + more);
          assert.equal(installed.func('call_hidden', i32)(4), 6);
          assert.equal(installed.func('f', i32)(4), 4 + more);
        }
        const user = loadObject(compileText('int f(int); int g(int n) { return f(n) - 1; }', each, compiler), {
          resolve: (name) => y.target(name),
        });
        const z = user.install(arena);
        assert.equal(z.func('g', i32)(7), 8);
        assert.throws(() => object.install(arena, { movable: true }), { code: 'ERR_ARENA_MOVABLE' });
        z.free();
        y.free();
        x.free();
        assert.deepEqual(arena.executors(), []);
      });
    }
  }

  it('without a function is an error, and nothing is installed', () => {
    using arena = new Arena();
    const stop = new Error('stop');
    const load = (which: () => number) => {
      const callback = arena.callback({ args: [], returns: 'i32' }, which);
      const text = `int which(void); static void *r(void) { return which() ? (void *)r : 0; }
        int f(int) __attribute__((ifunc("r")));`;
      return loadObject(compileText(text, ['-O2', '-fPIC']), { resolve: () => callback });
    };
    assert.throws(() => load(() => 0).install(arena), { code: 'ERR_ARENA_SYMBOL', message: /'f' gave no function/ });
    const thrower = load(() => {
      throw stop;
    });
    // What the resolver gave after its callback threw does not matter.
    assert.throws(() => thrower.install(arena), Error);
    assert.deepEqual(arena.executors(), []);
  });

  it('resolvers run before constructors', () => {
    using arena = new Arena();
    const text = `static int value; static int one(int n) { return n + 1; } static void *r(void) { return one; }
      int f(int) __attribute__((ifunc("r"))); __attribute__((constructor)) static void init(void) { value = f(41); }
      int get(void) { return value; }`;
    const x = loadObject(compileText(text, ['-O2', '-fPIC'])).install(arena, { constructors: 'run' });
    assert.equal(x.func('get', noArguments)(), 42);
    x.free();
  });
});
