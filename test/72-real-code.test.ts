// C that system compilers made: loaded, run with known answers, moved again and again while it is used, and compared.
import assert from 'node:assert/strict';
import { Arena, type Executor, type InstalledObject, type LoadedObject, loadObject } from 'jit-arena';
import { canCompile, compile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

const i32 = (count: number) => ({ args: Array<'i32'>(count).fill('i32'), returns: 'i32' }) as const;
const textToI32 = { args: ['pointer'], returns: 'i32' } as const;
const text = (string: string) => Buffer.from(`${string}\0`);

/** Known answers of a fixture, as [what was asked, what came]; the same every time it is run on a fresh object. */
type Exercise = (x: InstalledObject) => [asked: unknown, expected: unknown, actual: unknown][];

const exercises: Record<string, Exercise> = {
  'hash.c': (x) => {
    const crc32 = x.func('crc32', { args: ['pointer', 'u64'], returns: 'u32' });
    const fnv1a = x.func('fnv1a', { args: ['pointer', 'u64'], returns: 'u32' });
    const bytes = Buffer.from('123456789');
    return [
      ['crc32', 0xcbf43926, crc32(bytes, 9n)],
      ['crc32 of nothing', 0, crc32(bytes, 0n)],
      ['fnv1a', 0xbb86b11c, fnv1a(bytes, 9n)],
    ];
  },
  'search.c': (x) => {
    const find = x.func('find_word', { args: ['pointer', 'i32'], returns: 'i32' });
    const digits = x.func('count_digits', textToI32);
    return [
      ['needle', 19, find(text('looking for a thin needle in a haystack'), 0)],
      ['quick brown fox', 4, find(text('the quick brown fox'), 4)],
      ['not there', -1, find(text('nothing of the sort'), 0)],
      ['digits', 6, digits(text('a1b22c333'))],
    ];
  },
  'recursion.c': (x) => [
    ['fib', 6765, x.func('fib', i32(1))(20)],
    ['is_even', 1, x.func('is_even', i32(1))(1000)],
    ['is_odd', 0, x.func('is_odd', i32(1))(1000)],
    ['ackermann', 125, x.func('ackermann', i32(2))(3, 4)],
  ],
  'float.c': (x) => {
    const horner = (v: number) => (((v * 0.5 - 1.25) * v + 3.0) * v - 7.75) * v + 2.0;
    let scaled = 3;
    for (let i = 0; i < 10; i++) scaled = Math.fround(Math.fround(scaled * 1.5) + 0.25);
    const f64 = { args: ['f64'], returns: 'f64' } as const;
    return [
      ['horner', horner(1.75), x.func('horner', f64)(1.75)],
      ['scale', scaled, x.func('scale', { args: ['f32', 'i32'], returns: 'f32' })(3, 10)],
      ['newton_sqrt', Math.sqrt(2).toFixed(12), x.func('newton_sqrt', f64)(2).toFixed(12)],
    ];
  },
  'switch.c': (x) => {
    const evaluate = x.func('evaluate', i32(3));
    const expected = [97 + 6, 97 - 6, 97 * 6, 16, 1, 97 & 6, 97 | 6, 97 ^ 6, 97 << 6, 97 >> 6, 200, -1011, -1012];
    return expected.map((answer, operation) => [`operation ${operation}`, answer, evaluate(operation, 97, 6)]);
  },
  'state.c': (x) => [
    // The answers of a fresh object; each further use goes on from there.
    ['next', 1, x.func('next', i32(0))()],
    ['next again', 2, x.func('next', i32(0))()],
    ['exchange', 41, x.func('exchange', i32(1))(7)],
    ['exchange again', 7, x.func('exchange', i32(1))(8)],
    ['add_to_total', 5, x.func('add_to_total', i32(1))(5)],
    ['remember', 1 + 2 + 3 + 10, x.func('remember', i32(1))(10)],
    ['greet', 'e'.charCodeAt(0), x.func('greet', i32(1))(1)],
  ],
  'libc.c': (x) => {
    const values = Int32Array.of(5, -3, 12, 0, 7);
    return [
      ['strlen', 5n, x.func('text_length', { args: ['pointer'], returns: 'u64' })(text('hello'))],
      ['qsort', 7, x.func('sort_and_take', { args: ['pointer', 'i32', 'i32'], returns: 'i32' })(values, 5, 3)],
      ['sorted', '-3,0,5,7,12', values.join()],
      ['a function of the host', 43, x.func('twice_plus_one', i32(1))(21)],
      ['a weak symbol that nobody has', -9, x.func('optional', i32(1))(9)],
      ['malloc, strcpy, strcmp', 1, x.func('copy_and_compare', textToI32)(text('the same'))],
    ];
  },
};

/** How each variable-free answer is asked for again, also while the object moves. */
const hasVariables = (fixture: string) => fixture === 'state.c';

const modes: readonly (readonly string[])[] = [
  ['-O0', '-fPIC'],
  ['-O2', '-fPIC'],
  ['-O2', '-fPIE', '-ffunction-sections'],
  ['-O2', '-fPIC', '-ffunction-sections', '-fdata-sections'],
  ['-O0', '-fno-pic', '-mcmodel=large'],
  ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections'],
  ['-O2', '-fPIC', '-mcmodel=large', '-ffunction-sections'],
];

function check(answers: ReturnType<Exercise>): void {
  for (const [asked, expected, actual] of answers) assert.deepEqual(actual, expected, String(asked));
}

const ret = Uint8Array.of(0xc3);

/** Executors of 1 to 8 KiB that begin with `ret`; all but every 40th is freed again by `dropMost`. */
function makeGarbage(arena: Arena, seed: number): Executor[] {
  return Array.from({ length: 60 }, (_, i) => {
    const code = new Uint8Array(1024 + ((seed * 7919 + i * 104729) % 7168)).fill(0xcc);
    code.set(ret);
    return arena.install({ code });
  });
}

const addressesOf = (x: InstalledObject) =>
  x.executors[0]?.arena.pinned(() => x.executors.map(({ address }) => address)) as bigint[];

/** Installs the object between garbage, and collects `rounds` times with new garbage, using it in between. */
function moveAbout(arena: Arena, install: () => InstalledObject, use: (x: InstalledObject) => void, rounds = 6) {
  const before = makeGarbage(arena, 1);
  const x = install();
  const start = addressesOf(x);
  let kept = [...before, ...makeGarbage(arena, 2)];
  use(x);
  const moved = x.executors.map(() => 0);
  let last = start;
  for (let round = 0; round < rounds; round++) {
    const dropped = kept.filter((_, i) => i % 40 !== 0);
    kept = kept.filter((_, i) => i % 40 === 0);
    arena.free(dropped);
    arena.collect();
    const now = addressesOf(x);
    now.forEach((address, i) => {
      if (address !== last[i]) moved[i] = (moved[i] as number) + 1;
    });
    last = now;
    use(x);
    const { ok, problems, broken } = arena.verify();
    assert.ok(ok, broken ?? JSON.stringify(problems, (_, v) => (typeof v === 'bigint' ? v.toString(16) : v)));
    kept.push(...makeGarbage(arena, round + 3));
    use(x);
  }
  arena.free(kept);
  return { x, moved };
}

describe('real code', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  const load = (fixture: string, flags: readonly string[], compiler: string, arena: Arena): LoadedObject => {
    const twice = arena.callback({ args: ['i32'], returns: 'i32' }, (value) => value * 2);
    return loadObject(compile(fixture, flags, compiler), {
      resolve: (name) => (name === 'host_twice' ? twice : undefined),
    });
  };

  for (const fixture of Object.keys(exercises)) {
    const exercise = exercises[fixture] as Exercise;
    for (const compiler of compilers) {
      for (const flags of modes) {
        it(`${fixture}: ${compiler} ${flags.join(' ')}`, () => {
          using arena = new Arena();
          const object = load(fixture, flags, compiler, arena);
          assert.equal(object.movable, object.reasons.length === 0);
          // Variables go on from where they were, so that such an object answers as a fresh one once only.
          let used = false;
          const use = (x: InstalledObject) => {
            if (!used || !hasVariables(fixture)) check(exercise(x));
            used = true;
          };
          const { x, moved } = moveAbout(arena, () => object.install(arena), use);
          x.executors.forEach((executor, i) => {
            assert.equal((moved[i] as number) > 0, executor.movable, `${executor.name} moved ${moved[i]} times`);
          });
          assert.equal(
            x.executors.every(({ movable }) => movable),
            object.movable,
          );
          x.free();
          assert.deepEqual(arena.executors(), []);
        });
      }
    }
  }

  for (const compiler of compilers) {
    for (const flags of modes) {
      it(`moves what the host promises is safe: ${compiler} ${flags.join(' ')}`, () => {
        using arena = new Arena();
        for (const fixture of Object.keys(exercises)) {
          if (hasVariables(fixture)) continue;
          const object = load(fixture, flags, compiler, arena);
          const { x, moved } = moveAbout(
            arena,
            () => object.install(arena, { movable: true }),
            (installed) => check((exercises[fixture] as Exercise)(installed)),
          );
          x.executors.forEach((executor, i) => {
            assert.ok(executor.movable && (moved[i] as number) > 0, `${fixture}: ${executor.name} did not move`);
          });
          x.free();
        }
      });
    }
  }

  for (const layout of ['together', 'apart'] as const) {
    it(`keeps variables while code moves, with data ${layout}`, () => {
      using arena = new Arena({ layout });
      const object = loadObject(compile('recursion.c', ['-O2', '-fPIC', '-ffunction-sections'], compilers[0]));
      const { x, moved } = moveAbout(
        arena,
        () => object.install(arena),
        (installed) => check((exercises['recursion.c'] as Exercise)(installed)),
      );
      assert.ok(moved.every((times) => times > 0));
      x.free();
    });
  }

  it('counts on while it moves', () => {
    using arena = new Arena();
    const source = compile('pair_a.c', ['-O2', '-fPIE']);
    const a = loadObject(source).install(arena, { movable: false });
    const b = loadObject(compile('pair_b.c', ['-O2', '-fPIC', '-ffunction-sections']), {
      resolve: (name) => a.target(name),
    });
    let expected = 100;
    const { x } = moveAbout(
      arena,
      () => b.install(arena),
      (installed) => {
        assert.equal(installed.func('triple_square', i32(1))(7), 147);
        assert.equal(installed.func('count', i32(0))(), ++expected);
      },
    );
    assert.throws(() => a.free(), { code: 'ERR_ARENA_REFERENCED' });
    x.free();
    a.free();
  });

  for (const compiler of compilers) {
    for (const level of ['-O0', '-O2']) {
      it(`calls what moves meanwhile, in the large code model: ${compiler} ${level}`, () => {
        using arena = new Arena();
        const flags = [level, '-fPIC', '-mcmodel=large'];
        const garbage = makeGarbage(arena, 1);
        const a = loadObject(
          compileText(
            'static int calls; int level = 5; int other(int n) { return n * 10 + ++calls; }',
            flags,
            compiler,
          ),
        ).install(arena, { movable: true });
        garbage.push(...makeGarbage(arena, 2));
        const text = `int other(int); int step(int); extern int level; static const int weights[] = {1, 100, 10000};
          int sum(int n) {
            int all = 0;
            for (int i = 0; i < 3; i++) { all += other(n) * weights[i]; step(i); all += level++; }
            return all; }`;
        let moved = 0;
        const step = arena.callback({ args: ['i32'], returns: 'i32' }, (n) => {
          arena.free(garbage.splice(0, 30));
          moved += arena.collect().moved;
          return n;
        });
        const b = loadObject(compileText(text, flags, compiler), {
          resolve: (name) => (name === 'step' ? step : a.target(name)),
        }).install(arena, { movable: true });
        const places = () => [...addressesOf(a), ...addressesOf(b)];
        const before = places();
        const sum = b.func('sum', i32(1));
        assert.equal(sum(2), 21 + 2200 + 230000 + 5 + 6 + 7);
        const after = places();
        assert.ok(moved > 0 && after.every((place, i) => place !== before[i]), `${before} and ${after}`);
        assert.equal(sum(3), 34 + 3500 + 360000 + 8 + 9 + 10);
        const { ok, problems, broken } = arena.verify();
        assert.ok(ok, broken ?? String(problems[0]?.what));
      });
    }
  }

  it('goes on in its old copy when it is moved from within', () => {
    using arena = new Arena();
    const garbage = makeGarbage(arena, 1);
    let collected = 0;
    const callback = arena.callback({ args: ['i32'], returns: 'i32' }, (value) => {
      arena.free(garbage.splice(0, 50));
      collected += arena.collect().moved;
      return value * 2;
    });
    const object = loadObject(compile('libc.c', ['-O0', '-fPIC']), {
      resolve: (name) => (name === 'host_twice' ? callback : undefined),
    });
    const x = object.install(arena, { movable: true });
    assert.equal(x.func('twice_plus_one', i32(1))(21), 43);
    assert.ok(collected > 0);
    garbage.splice(0);
    assert.equal(x.func('twice_plus_one', i32(1))(22), 45);
  });
});
