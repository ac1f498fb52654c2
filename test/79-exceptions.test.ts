// C++ exceptions of objects: through their frames and those of libraries and of other objects, before, while and after
// others move.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Arena, type Executor, loadObject, StencilSet } from 'jit-arena';
import { canCompile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

const i32 = { args: ['i32'], returns: 'i32' } as const;
const flags = [
  ['-O0', '-fPIC'],
  ['-O2', '-fPIC', '-ffunction-sections', '-fdata-sections'],
  ['-O2', '-fPIC', '-fvisibility=hidden'],
  ['-O1', '-fPIC', '-mcmodel=large'],
];

const thrower = `extern "C" int away(int n) { if (n == 1) throw 20; if (n == 2) throw "text"; return n; }`;

const text = `#include <cstdlib>
  #include <stdexcept>
  #include <vector>
  extern "C" void note(int); extern "C" int away(int);
  #define OUT extern "C" __attribute__((visibility("default"))) int
  inline namespace own {
  struct Noted { int n; explicit Noted(int n) : n(n) {} ~Noted() noexcept(false) { note(n); } };
  struct Error { int value; virtual ~Error() {} };
  struct Worse : Error {};
  __attribute__((noinline)) void fail(int n) { Noted inner(3); if (n != 0) throw n; }
  int compare(const void *, const void *) { Noted inside(4); throw 9; }
  }
  OUT caught(int n) { try { fail(n); return 0; } catch (int value) { return value + 1; } }
  OUT cleaned(int n) { try { Noted first(1); Noted second(2); fail(n); return 0; } catch (int value) { note(5); return value; } }
  OUT rethrown(int n) {
    try { try { Worse worse; worse.value = n; throw worse; } catch (Error &error) { error.value++; throw; } }
    catch (Worse &worse) { return worse.value * 10; } }
  OUT other(int n) { try { return away(n); } catch (const char *) { return 7; } catch (int value) { return value * 2; } }
  OUT any(int n) { try { return away(n) + 100; } catch (...) { return -1; } }
  OUT through_library(int n) {
    int numbers[3] = {3, 2, 1};
    try { std::qsort(numbers, 3, sizeof numbers[0], compare); } catch (int value) { return value + n; }
    return 0; }
  OUT of_library(int n) {
    std::vector<int> numbers(3);
    try { return numbers.at(n); } catch (const std::out_of_range &error) { return 42; } }
  OUT strict(int n) noexcept { fail(n); return n; }`;

/** `note` frees most of what `fill` has put between others and collects: all that can move does, open frames as well. */
function churn(arena: Arena, seen: (n: number) => void = () => {}) {
  const fillers: Executor[] = [];
  const fill = () => {
    fillers.push(
      ...arena.install(Array.from({ length: 400 }, (_, i) => ({ code: new Uint8Array(1000 + i).fill(0xcc) }))),
    );
  };
  const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => {
    seen(n);
    const all = fillers.splice(0);
    fillers.push(...all.filter((_, i) => i % 40 === 0));
    arena.free(all.filter((_, i) => i % 40 !== 0));
    arena.collect();
  });
  fill();
  return { fill, note };
}

describe('exceptions', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C++ compiler on x86-64 Linux');
  });

  for (const compiler of compilers) {
    for (const each of flags) {
      it(`find their handlers: ${compiler} ${each.join(' ')}`, () => {
        const arena = new Arena();
        let log: number[] = [];
        const { fill, note } = churn(arena, (n) => log.push(n));
        const away = loadObject(compileText(thrower, each, compiler, '.cc')).install(arena);
        const object = loadObject(compileText(text, ['-std=c++17', ...each], compiler, '.cc'), {
          resolve: (name) => (name === 'note' ? note : name === 'away' ? away.target('away') : undefined),
        });
        const [x, gone] = [object.install(arena, { movable: true }), object.install(arena, { movable: true })];
        const own = new Set(x.executors.map(({ id }) => id));
        let moved = 0;
        arena.on('move', (ids) => {
          for (const id of ids) if (own.has(id)) moved++;
        });
        const ask = (name: string, n: number) => {
          log = [];
          return [x.func(name, i32)(n), ...log];
        };
        for (let round = 0; round < 3; round++) {
          assert.deepEqual(ask('caught', 4), [5, 3]);
          assert.deepEqual(ask('caught', 0), [0, 3]);
          assert.deepEqual(ask('cleaned', 6), [6, 3, 2, 1, 5]);
          assert.deepEqual(ask('rethrown', 7), [80]);
          assert.deepEqual(
            [0, 1, 2].map((n) => x.func('other', i32)(n)),
            [0, 40, 7],
          );
          assert.deepEqual(
            [0, 1, 2].map((n) => x.func('any', i32)(n)),
            [100, -1, -1],
          );
          assert.deepEqual(ask('through_library', 1), [10, 4]);
          assert.deepEqual(
            [2, 3].map((n) => x.func('of_library', i32)(n)),
            [0, 42],
          );
          assert.deepEqual(ask('strict', 0), [0, 3]);
          // The same addresses are somebody else's then, and the unwinder knows.
          if (round === 0) gone.free();
          if (round === 1) arena.free(object.install(arena).executors);
          fill();
        }
        assert.ok(moved >= 3, `the object moved ${moved} times`);
        const { ok, problems, broken } = arena.verify();
        assert.ok(ok, broken ?? String(problems[0]?.what));
        x.free();
        // What is still there when the arena ends is taken back with it.
        object.install(arena);
        arena.dispose();
        using another = new Arena();
        const y = loadObject(compileText(`${thrower}\n${text}`, ['-std=c++17', ...each], compiler, '.cc'), {
          resolve: (name) =>
            name === 'note' ? another.callback({ args: ['i32'], returns: 'void' }, () => {}) : undefined,
        }).install(another);
        assert.equal(y.func('other', i32)(1), 40);
      });
    }
  }

  // Code in C knows nothing of exceptions: it may still stand between the one that throws and the one that catches.
  for (const compiler of compilers) {
    for (const each of flags.slice(0, 3)) {
      it(`pass frames of C that move meanwhile: ${compiler} ${each.join(' ')}`, () => {
        using arena = new Arena();
        const { fill, note } = churn(arena);
        const c = `int away(int); void note(int);
          static __attribute__((noinline)) int inner(volatile int *n) { note(*n); return away(*n) + *n; }
          int middle(int n) { volatile int room[40]; room[7] = n; return inner(room + 7) + room[7]; }`;
        const catcher = `extern "C" int middle(int);
          extern "C" int f(int n) { try { return middle(n); } catch (int value) { return -value; } catch (const char *) { return -1; } }`;
        const away = loadObject(compileText(thrower, each, compiler, '.cc')).install(arena);
        const middle = loadObject(compileText(c, each, compiler), {
          resolve: (name) => (name === 'note' ? note : name === 'away' ? away.target(name) : undefined),
        });
        assert.ok(middle.movable);
        const installed = middle.install(arena);
        const f = loadObject(compileText(catcher, each, compiler, '.cc'), {
          resolve: (name) => (name === 'middle' ? installed.target(name) : undefined),
        })
          .install(arena)
          .func('f', i32);
        const before = installed.executors.map(({ address }) => address);
        for (let round = 0; round < 3; round++) {
          assert.deepEqual(
            [0, 1, 2, 3].map((n) => f(n)),
            [0, -20, -1, 9],
          );
          fill();
        }
        assert.notDeepEqual(
          installed.executors.map(({ address }) => address),
          before,
        );
        const { ok, broken } = arena.verify();
        assert.ok(ok, broken);
      });
    }
  }

  // From gcc 13 on the unwinder takes a microsecond for each of them.
  it('cost an install of many functions little', function () {
    this.timeout(60_000);
    const functions = Array.from(
      { length: 2500 },
      (_, i) => `int g${i}(int); int f${i}(int n) { return g${i}(n) + ${i}; } int g${i}(int n) { return n * ${i}; }`,
    ).join('\n');
    const install = (flag: string) => {
      const object = loadObject(compileText(functions, ['-O0', '-fPIC', '-ffunction-sections', flag]));
      const times = Array.from({ length: 7 }, () => {
        using arena = new Arena();
        const begin = process.hrtime.bigint();
        object.install(arena);
        return Number(process.hrtime.bigint() - begin);
      });
      return Math.min(...times);
    };
    const [without, withTables] = ['-fno-asynchronous-unwind-tables', '-fasynchronous-unwind-tables'].map(install) as [
      number,
      number,
    ];
    assert.ok(withTables < 4 * without, `${withTables} ns with tables, ${without} without`);
  });

  it('of the types of a library move unless addresses are taken', () => {
    const types = `#include <new>
      extern "C" int f(int n) {
        try { if (n > 1) throw std::bad_alloc(); if (n) throw n; return 0; }
        catch (int value) { return value + 1; } catch (const std::exception &) { return -1; } }`;
    for (const compiler of compilers) {
      const object = loadObject(compileText(types, ['-O2', '-fPIC'], compiler, '.cc'));
      assert.deepEqual(object.reasons, []);
      assert.ok(object.movable);
      using arena = new Arena();
      const f = object.install(arena).func('f', i32);
      assert.deepEqual([f(0), f(1), f(2)], [0, 2, -1]);
    }
  });

  it('that nothing catches are errors of the call', () => {
    const uncaught = `#include <stdexcept>
      extern "C" void note(int);
      namespace { struct Own { int n; explicit Own(int n) : n(n) {} ~Own() { note(n); } }; }
      extern "C" int f(int n) {
        Own own(9);
        if (n == 1) throw std::runtime_error("no more of it"); if (n == 2) throw n; if (n == 3) throw Own(4); return n; }`;
    for (const compiler of compilers) {
      using arena = new Arena();
      const log: number[] = [];
      const note = arena.callback({ args: ['i32'], returns: 'void' }, (n) => log.push(n));
      const f = loadObject(compileText(uncaught, ['-O2', '-fPIC'], compiler, '.cc'), {
        resolve: (name) => (name === 'note' ? note : undefined),
      })
        .install(arena)
        .func('f', i32);
      const expected = [/threw std::runtime_error: no more of it/, /threw int,/, /threw .*Own/];
      expected.forEach((message, i) => {
        assert.throws(() => f(i + 1), { name: 'ArenaError', code: 'ERR_ARENA_EXCEPTION', message });
      });
      assert.deepEqual(log, [9, 9, 9, 4]);
      assert.equal(f(0), 0);
      // Through JavaScript that machine code has called, they are what that JavaScript throws.
      const outer = arena.callback({ args: ['i32'], returns: 'i32' }, (n) => f(n));
      const through = loadObject(
        compileText(
          'extern "C" int outer(int); extern "C" int g(int n) { return outer(n) + 1; }',
          ['-fPIC'],
          compiler,
          '.cc',
        ),
        { resolve: () => outer },
      )
        .install(arena)
        .func('g', i32);
      assert.throws(() => through(2), { code: 'ERR_ARENA_EXCEPTION' });
      assert.deepEqual(log.splice(0), [9, 9, 9, 4, 9, 9]);
      assert.equal(through(0), 1);
      // Nobody is left inside.
      arena.dispose();
    }
  });

  it('of constructors and destructors are errors, and nothing is left', () => {
    const text = `struct Thrower { explicit Thrower(bool now) { if (now) throw 5; } ~Thrower() noexcept(false) { throw 6; } };
      extern "C" int get(); static Thrower thrower(get() != 0); extern "C" int f(int n) { return n; }`;
    using arena = new Arena();
    let now = 1;
    const get = arena.callback({ args: [], returns: 'i32' }, () => now);
    const object = loadObject(compileText(text, ['-O2', '-fPIC'], compilers[0], '.cc'), {
      resolve: (name) => (name === 'get' ? get : undefined),
    });
    assert.throws(() => object.install(arena, { constructors: 'run' }), { code: 'ERR_ARENA_EXCEPTION' });
    assert.equal(arena.stats().executors, 0);
    now = 0;
    const x = object.install(arena, { constructors: 'run' });
    assert.throws(() => x.free(), { code: 'ERR_ARENA_EXCEPTION' });
    assert.equal(arena.stats().executors, 0);
  });

  it('that may not be thrown end the process', () => {
    const folder = mkdtempSync(join(tmpdir(), 'jit-arena-'));
    const file = join(folder, 'strict.o');
    const strict = 'extern "C" int strict(int n) noexcept { if (n) throw n; return 5; }';
    writeFileSync(file, compileText(strict, ['-O2', '-fPIC'], compilers[0], '.cc'));
    const script = `const { Arena, loadObject } = require(${JSON.stringify(resolve(__dirname, '..'))});
      const x = loadObject(require('fs').readFileSync(process.argv[1])).install(new Arena());
      const strict = x.func('strict', { args: ['i32'], returns: 'i32' });
      console.log(strict(0)); strict(1);`;
    const { stdout, stderr, signal } = spawnSync(process.execPath, ['-e', script, file], { encoding: 'utf8' });
    rmSync(folder, { recursive: true });
    assert.equal(stdout, '5\n');
    assert.match(stderr, /terminate called after throwing an instance of 'int'/);
    assert.equal(signal, 'SIGABRT');
  });

  it('are none of stencils', () => {
    const object = compileText('void f(); void g() { try { f(); } catch (...) {} }', ['-O2'], compilers[0], '.cc');
    assert.throws(() => StencilSet.fromObject(object), { code: 'ERR_ARENA_OBJECT_UNSUPPORTED', message: /handled/ });
  });
});
