// loadObject: what an object becomes, what is resolved by whom, what stays where it is and why, and what is refused.
import assert from 'node:assert/strict';
import { Arena, ArenaError, type InstalledObject, loadObject, StencilSet, symbolAddress } from 'jit-arena';
import { canCompile, compile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

const i32 = (count: number) => ({ args: Array<'i32'>(count).fill('i32'), returns: 'i32' }) as const;
const pic = ['-O2', '-fPIC'];
const sections = [...pic, '-ffunction-sections'];
const arenaError = (code: string, words?: RegExp) => (error: unknown) => {
  assert.ok(error instanceof ArenaError, String(error));
  assert.equal(error.code, code, error.message);
  if (words !== undefined) assert.match(error.message, words);
  return true;
};

describe('objects', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  let arena: Arena;
  beforeEach(() => {
    arena = new Arena();
  });
  afterEach(() => {
    if (arena === undefined) return;
    const { ok, problems, broken } = arena.verify();
    assert.ok(ok, broken ?? String(problems[0]?.what));
    arena.dispose();
  });

  describe('what they become', () => {
    it('one executor with an entry for each global function', () => {
      const x = loadObject(compile('recursion.c', pic)).install(arena);
      assert.equal(x.executors.length, 1);
      assert.equal(x.func('is_even', i32(1))(10), 1);
      assert.equal(x.func('is_odd', i32(1))(10), 0);
    });

    it('with -ffunction-sections one for each section of code', () => {
      const x = loadObject(compile('recursion.c', sections)).install(arena);
      assert.deepEqual(x.executors.map(({ name }) => name).sort(), ['ackermann', 'fib', 'is_even', 'is_odd']);
      assert.equal(x.func('is_even', i32(1))(11), 0);
    });

    it('a rarely executed part goes with its function', () => {
      const text = `void exit(int); int puts(const char*);
        __attribute__((cold, noinline)) static void give_up(int a) { puts("no"); exit(a); }
        int f(int a) { if (__builtin_expect(a == 77, 0)) { give_up(a); give_up(a + 1); } return a + 1; }`;
      const x = loadObject(compileText(text, sections)).install(arena);
      assert.equal(x.func('f', i32(1))(1), 2);
      assert.ok(x.executors.some(({ name }) => name === 'f'));
    });

    it('shared data belongs to its first user, and others follow it', () => {
      const text = `static int numbers[4] = {1, 2, 3, 4};
        int get(int i) { return numbers[i & 3]; }
        int set(int i, int value) { numbers[i & 3] = value; return 0; }`;
      const x = loadObject(compileText(text, sections)).install(arena, { movable: true });
      assert.equal(x.executors.length, 2);
      assert.deepEqual(
        x.executors.map(({ sizes }) => sizes.state),
        [16, 0],
      );
      x.func('set', i32(2))(2, 33);
      assert.equal(x.func('get', i32(1))(2), 33);
      assert.equal(x.func('get', i32(1))(1), 2);
    });

    it('two functions with jump tables in one section of constants are one', () => {
      const cases = (n: number) => [0, 1, 2, 3, 4, 5, 6].map((i) => `case ${i}: return ${n * i} * b ^ ${i};`).join(' ');
      const text = `int f(int a, int b) { switch (a) { ${cases(3)} } return b; }
        int g(int a, int b) { switch (a) { ${cases(7)} } return b * 2; }`;
      const x = loadObject(compileText(text, sections)).install(arena);
      assert.equal(x.func('f', i32(2))(4, 10), (12 * 10) ^ 4);
      assert.equal(x.func('g', i32(2))(9, 10), 20);
    });

    it('data alone, for others to refer to', () => {
      const x = loadObject(compileText('const int table[3] = {5, 6, 7}; int count = 9;', pic)).install(arena);
      assert.equal(x.executors.length, 1);
      const user = compileText('extern int table[], count; int sum(void) { return table[1] + ++count; }', pic);
      const y = loadObject(user, { resolve: (name) => x.target(name) }).install(arena, { movable: true });
      assert.equal(y.func('sum', i32(0))(), 16);
      assert.equal(y.func('sum', i32(0))(), 17);
    });

    it('an empty object is no executor', () => {
      const o = loadObject(compileText('', pic));
      assert.deepEqual(o.symbols, []);
      const x = o.install(arena);
      assert.deepEqual(x.executors, []);
      x.free();
    });

    it('common variables, as -fcommon makes them', () => {
      const text = 'int a; long b[3]; int f(int v) { b[1] += v; return a++ + b[1]; }';
      const o = loadObject(compileText(text, [...pic, '-fcommon']));
      assert.deepEqual(
        o.symbols.map(({ name, kind, bytes }) => [name, kind, bytes]),
        [
          ['f', 'function', o.symbols[0]?.bytes],
          ['b', 'state', 24],
          ['a', 'state', 4],
        ].sort((p, q) => order(o.symbols, p[0]) - order(o.symbols, q[0])),
      );
      const f = o.install(arena).func('f', i32(1));
      assert.equal(f(5), 5);
      assert.equal(f(5), 11);
    });
    const order = (symbols: readonly { name: string }[], name: unknown) => symbols.findIndex((s) => s.name === name);

    it('each install has state of its own, and keeps alignments', () => {
      const text = `static int count; int next(void) { return ++count; }
        static __attribute__((aligned(64))) long block[8]; void* where(void) { return block; }`;
      const o = loadObject(compileText(text, pic));
      const [x, y] = [o.install(arena), o.install(arena)];
      const next = (z: InstalledObject) => z.func('next', i32(0))();
      assert.deepEqual([next(x), next(x), next(y), next(x)], [1, 2, 1, 3]);
      const where = x.func('where', { args: [], returns: 'pointer' })();
      assert.equal(where % 64n, 0n);
      assert.equal(arena.find(where)?.section, 'state');
    });

    it('its symbols', () => {
      const { symbols } = loadObject(compile('libc.c', pic), { resolve: () => ({ address: 1n }) });
      const kindOf = (name: string) => symbols.find((symbol) => symbol.name === name)?.kind;
      assert.equal(kindOf('sort_and_take'), 'function');
      assert.equal(kindOf('strlen'), 'undefined');
      assert.equal(kindOf('ascending'), undefined, 'a static function');
      assert.equal(symbols.find(({ name }) => name === 'nobody_has_this')?.weak, true);
    });
  });

  describe('what they need', () => {
    const text = `#include <math.h>
      extern int hidden(int); __attribute__((weak)) extern int maybe(int);
      int f(int a) { return hidden(a) + (maybe ? maybe(a) : 1000); } int absolute(int a) { extern int abs(int); return (abs)(a); }`;
    const object = () => compileText(text, [...pic, '-fno-builtin']);

    it('the host is asked first, then the process', () => {
      const asked: string[] = [];
      const seven = arena.callback({ args: ['i32'], returns: 'i32' }, () => 7);
      const o = loadObject(object(), {
        resolve: (name) => {
          asked.push(name);
          return name === 'hidden' || name === 'maybe' ? seven : undefined;
        },
      });
      assert.deepEqual(asked.sort(), ['abs', 'hidden', 'maybe']);
      const x = o.install(arena);
      assert.equal(x.func('f', i32(1))(1), 14);
      assert.equal(x.func('absolute', i32(1))(-5), 5);
    });

    it('a weak symbol that nobody has is 0', () => {
      const seven = arena.callback({ args: ['i32'], returns: 'i32' }, () => 7);
      const x = loadObject(object(), { resolve: (name) => (name === 'hidden' ? seven : undefined) }).install(arena);
      assert.equal(x.func('f', i32(1))(1), 1007);
    });

    it('of a weak definition there can be one instance', () => {
      const text = (name: string) => `struct S { static S &get() { static S s; return s; } int v = 5; };
        inline int shared = 1; extern "C" int ${name}() { S::get().v++; return S::get().v * 100 + ++shared; }`;
      for (const compiler of compilers) {
        for (const flags of [['-O0'], ['-O2'], ['-O2', '-fPIE'], ['-O1', '-fvisibility=hidden']]) {
          const compiled = (name: string) =>
            compileText(text(name), ['-std=c++17', '-fPIC', ...flags], compiler, '.cc');
          const a = loadObject(compiled('a')).install(arena);
          const asked = new Map<string, object>();
          const b = loadObject(compiled('b'), {
            resolve: (name, symbol) => {
              asked.set(name, symbol);
              return symbol.defined ? a.target(name) : undefined;
            },
          });
          const x = b.install(arena);
          assert.deepEqual(asked.get('shared'), { weak: true, defined: true });
          assert.deepEqual([a.func('a', i32(0))(), x.func('b', i32(0))(), a.func('a', i32(0))()], [602, 703, 804]);
          // Without an answer it has its own, and it still says that it defines the symbol.
          const y = loadObject(compiled('b')).install(arena);
          assert.equal(y.func('b', i32(0))(), 602);
          assert.ok(b.symbols.some(({ name, kind, weak }) => name === 'shared' && kind === 'state' && weak));
          assert.equal(b.symbols.filter(({ name }) => name === 'shared').length, 1);
          for (const installed of [y, x, a]) installed.free();
        }
      }
    });

    it('the ends of a section whose name is a C identifier', () => {
      const text = `#define IN __attribute__((section("commands"), used))
        static const int a IN = 3; static const int b IN = 4; static const int c IN = 35;
        extern const int __start_commands[], __stop_commands[]; extern int __start_nothing[] __attribute__((weak));
        int sum(void) { int s = 0; for (const int* p = __start_commands; p < __stop_commands; p++) s += *p; return s; }
        int nothing(void) { return __start_nothing != 0; }`;
      for (const compiler of compilers) {
        for (const flags of [pic, sections, ['-O0', '-fPIE'], ['-O2', '-fPIC', '-fvisibility=hidden']]) {
          const x = loadObject(compileText(text, [...flags, '-fdata-sections'], compiler)).install(arena);
          assert.equal(x.func('sum', i32(0))(), 42);
          assert.equal(x.func('nothing', i32(0))(), 0);
          arena.collect();
          assert.equal(x.func('sum', i32(0))(), 42);
          x.free();
        }
      }
    });

    it('any other is an error that names it', () => {
      assert.throws(() => loadObject(object()), arenaError('ERR_ARENA_SYMBOL', /'hidden'/));
      assert.throws(() => loadObject(object(), { resolve: () => 5 as never }), {
        name: 'TypeError',
        message: /resolve\('(abs|hidden|maybe)'\)/,
      });
      const stop = new Error('stop');
      const resolve = () => {
        throw stop;
      };
      assert.throws(() => loadObject(object(), { resolve }), stop);
    });

    it('another object, an executor and an address', () => {
      const a = loadObject(compile('pair_a.c', pic)).install(arena, { movable: false });
      for (const flags of [pic, sections, ['-O0', '-fPIE'], ['-O2', '-fno-pic', '-mcmodel=large']]) {
        const b = loadObject(compile('pair_b.c', flags), { resolve: (name) => a.target(name) }).install(arena);
        assert.equal(b.func('triple_square', i32(1))(4), 48);
        b.func('count', i32(0))();
        b.free();
      }
      const five = arena.install({ code: Uint8Array.of(0xb8, 5, 0, 0, 0, 0xc3) });
      const strlen = { address: symbolAddress('strlen') };
      const c = compileText('int five(void); long strlen(char*); long f(char* s) { return five() + strlen(s); }', pic);
      const x = loadObject(c, { resolve: (name) => (name === 'five' ? five : strlen) }).install(arena);
      assert.equal(x.func('f', { args: ['pointer'], returns: 'i64' })(Buffer.from('abc\0')), 8n);
      assert.throws(() => five.free(), { code: 'ERR_ARENA_REFERENCED' });
    });

    it('an address of what can move is taken only with a promise', () => {
      const a = loadObject(compile('pair_a.c', pic)).install(arena, { movable: true });
      const b = loadObject(compile('pair_b.c', pic), { resolve: (name) => a.target(name) });
      assert.throws(() => b.install(arena), arenaError('ERR_ARENA_MOVABLE', /'(squares|counter)'/));
      assert.equal(arena.executors().length, a.executors.length);
      assert.equal(b.install(arena, { movable: true }).func('triple_square', i32(1))(3), 27);
      using other = new Arena();
      assert.throws(() => b.install(other), arenaError('ERR_ARENA_FOREIGN_EXECUTOR'));
      assert.deepEqual(other.executors(), []);
    });
  });

  describe('what moves', () => {
    const movabilityOf = (text: string, flags: string[] = ['-O2', '-fPIE']) =>
      compilers.map((compiler) => {
        const { movable, reasons } = loadObject(compileText(text, flags, compiler), {
          resolve: () => ({ address: 1n }),
        });
        assert.equal(movable, reasons.length === 0);
        return reasons.join('; ');
      });
    const all = (reasons: string[], words: RegExp) => {
      for (const reason of reasons) assert.match(reason, words);
    };

    it('calls, loads, stores and branches are no reason', () => {
      all(movabilityOf('static double k = 2.5; double f(double x) { k += x; return k * 1.75; }'), /^$/);
      all(
        movabilityOf('int g(int); int f(int a) { return a ? g(f(a - 1)) : 3; } int g(int a) { return a + f(0); }'),
        /^$/,
      );
      all(movabilityOf('int puts(const char*); int f(char* s) { return puts(s); }', pic), /^$/);
      all(movabilityOf('extern int away; int* f(void) { return &away; }', pic), /^$/);
    });

    it('the address of a function', () => {
      all(movabilityOf('static int g(int a) { return a; } void* f(void) { return g; }'), /takes the address of .*text/);
      all(movabilityOf('int g(int a) { return a; } void* f(void) { return g; }', pic), /takes the address of 'g'/);
      all(movabilityOf('int g(int a) { return a; } int (*p)(int) = g;'), /a variable holds the address of 'g'/);
      all(movabilityOf('int g(int a) { return a; } int (*const p)(int) = g;'), /a constant holds the address of 'g'/);
      all(
        movabilityOf('int g(int a); int f(int a) { return g(a) + 1; } int g(int a) { return a ? f(a - 1) : 0; }', [
          '-O0',
          '-fno-pic',
          '-mcmodel=large',
        ]),
        /takes the address of '?[fg]/,
      );
    });

    it('the address of data and of a variable', () => {
      all(movabilityOf('int f(int i) { return "abc"[i]; }'), /takes the address of \.?L?\S*/);
      all(movabilityOf('static int v[4]; int* f(void) { v[1]++; return v; }'), /takes the address of/);
      all(movabilityOf('static int v; int* p = &v; int f(void) { return v++; }'), /a variable holds the address of/);
      all(movabilityOf('int v; int f(void) { return v++; }', pic), /takes the address of 'v'/);
    });

    it('a stack that is suspended', () => {
      const text = `#include <ucontext.h>
        static ucontext_t here, there; static char stack[16384]; static int n;
        static void body(void) { for (;;) { n++; swapcontext(&there, &here); } }
        int step(void) {
          if (n == 0) { getcontext(&there); there.uc_stack.ss_sp = stack; there.uc_stack.ss_size = sizeof stack;
                        makecontext(&there, body, 0); }
          swapcontext(&here, &there); return n; }`;
      const o = loadObject(compileText(text, ['-O2', '-fPIE']));
      assert.match(o.reasons.at(-1) as string, /'\w+context' can suspend a stack/);
      const others = arena.install(Array.from({ length: 400 }, () => ({ code: new Uint8Array(1500).fill(0xcc) })));
      const x = o.install(arena);
      const step = x.func('step', i32(0));
      assert.equal(step(), 1);
      arena.free(others);
      arena.collect();
      for (let n = 2; n < 10; n++) assert.equal(step(), n);
    });

    it('belongs to the executor whose address is taken', () => {
      const text =
        'int one(int a) { return a + 1; } void* two(void) { return one; } int three(int a) { return one(a); }';
      const x = loadObject(compileText(text, sections)).install(arena);
      const movable = Object.fromEntries(x.executors.map(({ name, movable }) => [name, movable]));
      assert.deepEqual(movable, { one: false, two: true, three: true });
    });

    it('the word of the host overrides it, but no variable holds the address of what moves', () => {
      const o = loadObject(compile('recursion.c', pic));
      assert.ok(o.movable);
      assert.ok(o.install(arena, { movable: false }).executors.every(({ movable }) => !movable));
      const p = loadObject(
        compileText('const int c = 5; const int* p = &c; int f(void) { return *p; }', ['-O2', '-fPIE']),
      );
      assert.equal(p.install(arena).func('f', i32(0))(), 5);
      assert.throws(() => p.install(arena, { movable: true }), arenaError('ERR_ARENA_RELOC_SITE'));
      assert.throws(() => o.install(arena, { movable: 1 as never }), TypeError);
    });
  });

  describe('what is refused', () => {
    const unsupported = (text: string, words: RegExp, flags = pic) =>
      assert.throws(
        () => loadObject(compileText(text, flags), { resolve: () => ({ address: 1n }) }),
        arenaError('ERR_ARENA_OBJECT_UNSUPPORTED', words),
      );

    it('thread-local variables', () => {
      unsupported('_Thread_local int v = 3; int f(void) { return v; }', /thread-local/);
      unsupported('extern _Thread_local int v; int f(void) { return v; }', /thread-local/);
    });

    it('constructors and destructors that nobody asked for', () => {
      for (const what of ['constructor', 'destructor']) {
        const o = loadObject(compileText(`static int v; __attribute__((${what})) void f(void) { v = 1; }`, pic));
        assert.throws(
          () => o.install(arena),
          arenaError('ERR_ARENA_OBJECT_UNSUPPORTED', /constructors or destructors/),
        );
        assert.deepEqual(arena.executors(), []);
      }
      const stencils = compileText('int v; __attribute__((constructor)) void f(void) { v = 1; }', ['-O2', '-fno-pic']);
      assert.throws(() => StencilSet.fromObject(stencils), arenaError('ERR_ARENA_OBJECT_UNSUPPORTED', /constructors/));
    });

    it('the code around main of other linkers', () => {
      unsupported('__asm__(".section .init,\\"ax\\"\\n nop\\n"); int f(void) { return 1; }', /\.init.*constructors/);
      unsupported(
        'static void f(void) {} __attribute__((section(".preinit_array"), used)) static void (*p)(void) = f;',
        /\.preinit_array.*constructors/,
      );
    });

    it('intermediate code', () => {
      const text = 'int f(int i) { return i + 1; }';
      unsupported(text, /__gnu_lto_slim/, ['-O2', '-flto', '-fno-fat-lto-objects']);
      const fat = loadObject(compileText(text, ['-O2', '-flto', '-ffat-lto-objects'])).install(arena);
      assert.equal(fat.func('f', i32(1))(2), 3);
      if (!compilers.includes('clang')) return;
      assert.throws(
        () => loadObject(compileText(text, ['-O2', '-flto'], 'clang')),
        arenaError('ERR_ARENA_OBJECT', /bitcode/),
      );
    });

    it('IFUNC in stencils', () => {
      const text = 'static void* r(void) { return 0; } int f(int) __attribute__((ifunc("r")));';
      const stencils = compileText(text, ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections']);
      assert.throws(() => StencilSet.fromObject(stencils), arenaError('ERR_ARENA_OBJECT_UNSUPPORTED', /IFUNC/));
    });

    it('reloc kinds that an arena does not keep', () => {
      const text = 'extern char away; asm(".data\\n.byte away"); int f(int i) { return i; }';
      assert.throws(() => loadObject(compileText(text, pic)), arenaError('ERR_ARENA_RELOC_KIND', /R_X86_64_8 \(14\)/));
    });

    it('absolute 32-bit fields, when they are installed: all or none', () => {
      const o = loadObject(compile('switch.c', ['-O2', '-fno-pic', '-ffunction-sections']));
      assert.throws(() => o.install(arena), arenaError('ERR_ARENA_RELOC_RANGE', /R_X86_64_32/));
      assert.deepEqual(arena.executors(), []);
    });

    it('names that are not there, and calls of what is no function', () => {
      const x = loadObject(compile('pair_a.c', pic)).install(arena);
      assert.throws(() => x.func('quadruple', i32(1)), arenaError('ERR_ARENA_SYMBOL', /'quadruple'.*triple/));
      assert.throws(() => x.func('squares', i32(1)), arenaError('ERR_ARENA_SYMBOL', /is in data/));
      assert.throws(() => x.target('constructor'), arenaError('ERR_ARENA_SYMBOL'));
      x.free();
      assert.throws(() => x.free(), arenaError('ERR_ARENA_STALE_EXECUTOR'));
      x[Symbol.dispose]();
    });

    it('what is no object', () => {
      for (const bytes of ['', 'ELF', '!<arch>\n', '\x7fELF'.padEnd(64, '\0')]) {
        assert.throws(() => loadObject(Buffer.from(bytes, 'latin1')), arenaError('ERR_ARENA_OBJECT'));
      }
      for (const value of [undefined, null, 'bytes', new Uint16Array(4), new ArrayBuffer(8)]) {
        assert.throws(() => loadObject(value as never), TypeError);
      }
      const linked = compile('hash.c', pic);
      linked[16] = 3;
      assert.throws(() => loadObject(linked), arenaError('ERR_ARENA_OBJECT', /type is 3/));
      linked[16] = 1;
      linked[18] = 183;
      assert.throws(() => loadObject(linked), arenaError('ERR_ARENA_OBJECT', /machine 183/));
    });
  });

  describe('malformed ones', () => {
    const corpus = () =>
      ['hash.c', 'search.c', 'switch.c', 'state.c', 'libc.c'].flatMap((fixture) => [
        compile(fixture, pic),
        compile(fixture, [...sections, '-fdata-sections']),
      ]);
    /** Loads and installs; anything but success and an ArenaError fails the test. Never runs it. */
    const attempt = (bytes: Uint8Array): boolean => {
      try {
        loadObject(bytes, { resolve: () => ({ address: 4096n }) })
          .install(arena)
          .free();
        return true;
      } catch (error) {
        if (!(error instanceof ArenaError)) throw error;
        return false;
      }
    };

    it('cut off anywhere', () => {
      for (const object of corpus()) {
        for (let end = 0; end < object.length; end += 16) {
          assert.throws(() => loadObject(object.slice(0, end)), ArenaError, `cut off at ${end}`);
        }
      }
    }).timeout(60_000);

    it('with bytes changed at random', () => {
      const seed = Number(process.env.JIT_ARENA_SEED ?? 20240607);
      let random = seed;
      const next = (below: number) => {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        return Math.floor((random / 2 ** 32) * below);
      };
      const interesting = [0, 1, 2, 7, 8, 0x7f, 0x80, 0xff];
      let loaded = 0;
      let refused = 0;
      for (const object of corpus()) {
        for (let i = 0; i < 300; i++) {
          const bytes = object.slice();
          for (let changes = 1 + next(4); changes > 0; changes--) {
            // Headers and tables stand at the end of an object, and are where it hurts.
            const at = next(2) === 0 ? next(bytes.length) : bytes.length - 1 - next(Math.min(bytes.length, 64 * 24));
            bytes[at] = next(2) === 0 ? next(256) : (interesting[next(interesting.length)] as number);
          }
          if (attempt(bytes)) loaded++;
          else refused++;
        }
      }
      assert.ok(loaded > 0 && refused > 0, `seed ${seed}: ${loaded} loaded, ${refused} refused`);
      assert.deepEqual(arena.executors(), [], `seed ${seed}`);
    }).timeout(60_000);
  });
});
