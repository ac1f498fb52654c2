// Stencils and the trace builder: what is copied, what fills the holes, and what is left out.
import assert from 'node:assert/strict';
import {
  Arena,
  ArenaError,
  type Executor,
  type HoleFilling,
  StencilSet,
  TraceBuilder,
  type TraceOptions,
} from 'jit-arena';
import { canCompile, compile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

const flags = ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections', '-fdata-sections'];
const signature = { args: ['i64', 'i64'], returns: 'i64' } as const;
const stencilError = (words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof ArenaError, String(error));
  assert.equal(error.code, 'ERR_ARENA_STENCIL', error.message);
  assert.match(error.message, words);
  return true;
};
type Step = string | [stencil: string, holes: Record<string, HoleFilling>];

describe('stencils', () => {
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

  const sets = () =>
    compilers.flatMap((compiler) => {
      const set = StencilSet.fromObject(compile('stencils.c', flags, compiler));
      return [set, StencilSet.load(set.save())];
    });
  const one = () => StencilSet.fromObject(compile('stencils.c', flags));
  /** A trace of steps; a step `'x:'` is a label. */
  const build = (set: StencilSet, steps: readonly Step[]): TraceBuilder => {
    const builder = new TraceBuilder();
    for (const step of steps) {
      if (typeof step === 'string' && step.endsWith(':')) builder.label(step.slice(0, -1));
      else if (typeof step === 'string') builder.emit(set.get(step));
      else builder.emit(set.get(step[0]), step[1]);
    }
    return builder;
  };
  const run = (set: StencilSet, steps: readonly Step[], a: bigint, b: bigint, options: TraceOptions = {}): bigint =>
    build(set, steps).install(arena, options).func(signature)(a, b);

  describe('a set', () => {
    it('has a stencil for each global function, with its holes', () => {
      for (const set of sets()) {
        assert.deepEqual(set.get('add').holes, ['CONTINUE', 'VALUE']);
        assert.deepEqual(set.get('leave').holes, []);
        assert.deepEqual(set.get('add_tabled').holes, ['CONTINUE', 'VALUE']);
        assert.deepEqual(set.get('choose').holes, ['CONTINUE', 'TARGET']);
        assert.equal([...set].length, set.names.length);
        assert.ok(set.has('jump') && !set.has('CONTINUE') && !set.has('constructor'));
        assert.throws(() => set.get('subtract'), stencilError(/'subtract'.*add/));
      }
    });

    it('needs a section for each function', () => {
      const object = compile('stencils.c', ['-O2', '-fno-pic', '-mcmodel=large']);
      assert.throws(() => StencilSet.fromObject(object), stencilError(/-ffunction-sections/));
      assert.throws(() => StencilSet.fromObject(new Uint8Array(9)), { code: 'ERR_ARENA_OBJECT' });
      const large = compile('stencils.c', [...flags, '-fPIC', '-mcmodel=large']);
      assert.throws(() => StencilSet.fromObject(large), {
        code: 'ERR_ARENA_RELOC_KIND',
        message: /R_X86_64_GOT\w+ \(\d+\), which is not one that an arena keeps/,
      });
      assert.throws(() => StencilSet.fromObject('bytes' as never), TypeError);
    });

    it('is saved without zero tails, and loads as it was', () => {
      const set = one();
      const file = set.save();
      assert.ok(file.length < compile('stencils.c', flags).length / 3, `${file.length} bytes`);
      assert.deepEqual(StencilSet.load(file).save(), file);
      const constants = [...StencilSet.load(file)].flatMap(({ shared }) => shared);
      assert.ok(constants.some(({ size, bytes }) => size === 64 * 8 && bytes.length === 4 * 8 - 7));
      assert.ok(constants.some(({ size, bytes }) => size === 32 * 8 && bytes.length === 0));
    });

    it('refuses a damaged file', () => {
      const file = one().save();
      assert.throws(() => StencilSet.load(new Uint8Array()), stencilError(/no stencil file/));
      const later = file.slice();
      later[4] = 9;
      assert.throws(() => StencilSet.load(later), stencilError(/version 9/));
      for (let at = 5; at < file.length; at += 3) {
        const bytes = file.slice();
        bytes[at] = (bytes[at] as number) ^ 0x41;
        assert.throws(() => StencilSet.load(bytes), stencilError(/damaged/));
        assert.throws(() => StencilSet.load(file.slice(0, at)), stencilError(/damaged|no stencil file/));
      }
    });

    it('refuses a lying file whose checksum is right', () => {
      const file = one().save();
      let random = 12345;
      const next = (below: number) => {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0;
        return Math.floor((random / 2 ** 32) * below);
      };
      let accepted = 0;
      for (let i = 0; i < 3000; i++) {
        const bytes = file.slice();
        for (let changes = 1 + next(3); changes > 0; changes--) bytes[5 + next(file.length - 9)] = next(256);
        let sum = 0x811c9dc5;
        for (const byte of bytes.subarray(0, -4)) sum = Math.imul(sum ^ byte, 0x01000193);
        new DataView(bytes.buffer).setUint32(file.length - 4, sum >>> 0, true);
        try {
          const set = StencilSet.load(bytes);
          accepted++;
          for (const stencil of set) {
            const holes = stencil.holes
              .filter((name) => name !== 'CONTINUE')
              .map((name) => [name, { value: 1 }] as const);
            if (stencil.body.size > 1e6 || [...stencil.own, ...stencil.shared].some(({ size }) => size > 1e6)) continue;
            new TraceBuilder().emit(stencil, { ...Object.fromEntries(holes) });
          }
        } catch (error) {
          if (!(error instanceof ArenaError)) throw error;
        }
      }
      assert.ok(accepted > 0);
    });
  });

  describe('a trace', () => {
    it('runs its stencils one after the other', () => {
      for (const set of sets()) {
        const steps: Step[] = [
          ['add', { VALUE: { value: 5 } }],
          'swap',
          ['multiply', { VALUE: { value: -3n } }],
          'add_both',
          'leave',
        ];
        assert.equal(run(set, steps, 10n, 4n), 4n * -3n + 15n);
      }
    });

    it('jumps to labels before and behind', () => {
      for (const set of sets()) {
        const loop: Step[] = [
          ['load', { VALUE: { value: 0 } }],
          'top:',
          'add_both',
          'decrement',
          ['jump_if_positive', { TARGET: { label: 'top' } }],
          ['jump', { TARGET: { label: 'end' } }],
          ['load', { VALUE: { value: 999 } }],
          'end:',
          'leave',
        ];
        assert.equal(run(set, loop, 77n, 100n), 5050n);
      }
    });

    it('fills holes with addresses: executors, callbacks, its own state', () => {
      for (const set of sets()) {
        const twice = arena.callback({ args: ['i64'], returns: 'i64' }, (value) => 2n * value);
        const seven = arena.install({ code: Uint8Array.of(0xb8, 7, 0, 0, 0, 0xc3) });
        const steps: Step[] = [
          ['call', { CALLEE: twice }],
          ['store', { WHERE: { own: 'state', offset: 8 } }],
          ['call', { CALLEE: seven }],
          ['add', { VALUE: { value: 1 } }],
          'leave',
        ];
        // WHERE is the address of a pointer.
        const cell = new BigInt64Array(1);
        const e = build(set, steps).install(arena, { state: 16 });
        const pointer = arena.install({ code: Uint8Array.of(0xc3), state: 8 });
        pointer.free();
        const target = new BigUint64Array(1);
        e.write('state', 8, new Uint8Array(addressBytes(cell)));
        assert.equal(e.func(signature)(21n, 0n), 8n);
        assert.deepEqual([cell[0], target[0]], [42n, 0n]);
      }
    });
    const addressBytes = (view: BigInt64Array): ArrayBuffer => {
      const identity = arena.install({ code: Uint8Array.of(0x48, 0x89, 0xf8, 0xc3) });
      const address = identity.func({ args: ['pointer'], returns: 'u64' })(view);
      return BigUint64Array.of(address).buffer;
    };

    it('has constants, jump tables and variables', () => {
      for (const set of sets()) {
        assert.equal(run(set, ['scale', 'leave'], 10n, 0n), 25n);
        assert.equal(run(set, ['weigh', 'swap', 'add_both', 'leave'], 10n, 3n), 3n + 21n);
        assert.equal(run(set, ['add_nothing', 'leave'], 10n, 3n), 10n);
        const choose: Step[] = [
          ['choose', { TARGET: { label: 'out' } }],
          ['choose', { TARGET: { label: 'out' } }],
          'out:',
          'leave',
        ];
        assert.deepEqual(
          [0n, 1n, 2n, 3n, 4n, 5n, 6n].map((b) => run(set, choose, 100n, b)),
          [102n, 400n, 94n, 100n, 100n, 100n << 12n, 100n],
        );
        const tabled: Step[] = [1, 20, 300].map((value) => ['add_tabled', { VALUE: { value } }] as Step);
        assert.equal(run(set, [...tabled, 'leave'], 4000n, 0n), 4321n);
        const counter = build(set, ['count_up', 'count_up', 'leave']).install(arena).func(signature);
        assert.deepEqual([counter(0n, 0n), counter(0n, 0n)], [3n, 7n], 'one variable for both');
      }
    });

    it('has the jump tables of other stencils beside its own constants, without -fdata-sections', () => {
      const text = `extern void CONTINUE(long, long); long leave(long a) { return a; }
        static const long t[8] = {1, 2, 3, 4, 5, 6, 7, 8}; void pick(long a, long b) { CONTINUE(a + t[b & 7], b); }
        void choose(long a, long b) { switch (b) { case 0: a += 1; break; case 1: a *= 7; break; case 2: a -= 9; break;
          case 3: a ^= 5; break; case 4: CONTINUE(b, a); return; case 5: a = a * b + 3; break; case 6: CONTINUE(9, b); return; } CONTINUE(a, b); }`;
      for (const compiler of compilers) {
        const object = compileText(text, ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections'], compiler);
        const set = StencilSet.fromObject(object);
        assert.equal(run(set, ['pick', 'choose', 'pick', 'leave'], 10n, 1n), (10n + 2n) * 7n + 2n);
        assert.equal(run(set, ['pick', 'choose', 'leave'], 10n, 4n), 4n);
      }
    });

    it('moves', () => {
      for (const set of sets()) {
        const steps: Step[] = [
          ['choose', { TARGET: { label: 'out' } }],
          'weigh',
          ['add', { VALUE: { value: 1000 } }],
          'decrement',
          ['jump_if_positive', { TARGET: { label: 'back' } }],
          'out:',
          'leave',
          'back:',
          'scale',
          ['add_tabled', { VALUE: { value: 9 } }],
          'leave',
        ];
        const garbage = () =>
          Array.from({ length: 300 }, () => arena.install({ code: new Uint8Array(2048).fill(0xc3) }));
        const first = garbage();
        const e = build(set, steps).install(arena);
        const f = e.func(signature);
        const last = [...first, ...garbage()];
        const expected = [f(5n, 0n), f(5n, 1n), f(5n, 3n), f(5n, 4n)];
        const at = (executor: Executor) => arena.pinned(() => executor.address);
        const before = at(e);
        arena.free(last.filter((_, i) => i % 50 !== 0));
        assert.ok(arena.collect().moved > 0);
        assert.notEqual(at(e), before);
        assert.deepEqual([f(5n, 0n), f(5n, 1n), f(5n, 3n), f(5n, 4n)], expected);
      }
    });

    it('leaves out a jump to the next byte, and only that', () => {
      for (const set of sets()) {
        const { jumpBytes, codeBytes } = set.get('add');
        assert.equal(jumpBytes, 12);
        const adds: Step[] = [1, 2, 3].map((value) => ['add', { VALUE: { value } }] as Step);
        const builder = build(set, [...adds, 'leave']);
        const { code } = builder.build();
        assert.equal((code as Uint8Array).length, 3 * (codeBytes - jumpBytes) + set.get('leave').codeBytes);
        assert.equal(builder.statistics?.elidedBytes, 3 * jumpBytes);
        // CONTINUE given by hand is kept.
        const there = build(set, [['add', { VALUE: { value: 1 }, CONTINUE: { label: 'out' } }], 'out:', 'leave']);
        there.build();
        assert.equal(there.statistics?.elidedBytes, 0);
        assert.equal(there.install(arena).func(signature)(3n, 0n), 4n);
      }
    });

    it('keeps a jump that something else may go to', () => {
      // mov $1,%eax; jmp over the movabs to the jmp *%rax; movabs $CONTINUE,%rax; jmp *%rax
      const text = `__asm__(".section .text.s,\\"ax\\"\\n.globl s\\n.type s,@function\\ns: jne 1f\\n movabs $TARGET,%rax\\n jmp 2f\\n"
        "1: movabs $CONTINUE,%rax\\n 2: jmp *%rax\\n");`;
      const set = StencilSet.fromObject(compileText(text, flags));
      assert.equal(set.get('s').jumpBytes, 0);
    });

    it('does not copy zero bodies and zero tails', () => {
      for (const set of sets()) {
        const builder = build(set, ['weigh', 'add_nothing', 'weigh', 'leave']);
        const spec = builder.build();
        const { zeroBytes, dataBytes } = builder.statistics ?? { zeroBytes: -1, dataBytes: -1 };
        assert.ok(zeroBytes >= 60 * 8 + 32 * 8, `${zeroBytes} bytes`);
        assert.ok(dataBytes >= 96 * 8 && dataBytes < 96 * 8 + 64, `${dataBytes} bytes: constants are there once`);
        const e = arena.install(spec);
        assert.deepEqual(e.read('data').slice(0, 8), Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0));
        const nothing = build(set, ['add_nothing', 'leave']);
        assert.equal(typeof nothing.build().data, 'number');
        // Also on memory that was used before.
        const dirty = arena.install({ code: new Uint8Array(4096).fill(0xee) });
        dirty.free();
        arena.collect();
        assert.equal(nothing.install(arena).func(signature)(5n, 31n), 5n);
        assert.equal(run(set, ['weigh', 'leave'], 5n, 63n), 5n);
      }
    });

    it('has entries at labels', () => {
      const set = one();
      const steps: Step[] = [['load', { VALUE: { value: 1 } }], 'middle:', ['add', { VALUE: { value: 10 } }], 'leave'];
      const e = build(set, steps).install(arena, { entries: [0, 'middle'], name: 'two ways' });
      assert.equal(e.name, 'two ways');
      assert.equal(e.func(signature)(5n, 0n), 11n);
      assert.equal(e.func(signature, { entry: 1 })(5n, 0n), 15n);
    });

    it('numbers of 64 bits, and no more', () => {
      const set = one();
      const load = (value: number | bigint) => run(set, [['load', { VALUE: { value } }], 'leave'], 0n, 0n);
      assert.equal(load(2n ** 63n - 1n), 2n ** 63n - 1n);
      assert.equal(load(-(2n ** 63n)), -(2n ** 63n));
      assert.equal(load(2n ** 64n - 1n), -1n);
      assert.throws(() => load(2n ** 64n), { code: 'ERR_ARENA_RELOC_RANGE' });
      assert.throws(() => load(0.5), TypeError);
      assert.throws(() => load('7' as never), TypeError);
      const small = StencilSet.fromObject(
        compileText(
          'extern long V; void CONTINUE(long); void s(void) { CONTINUE((long)&V); } long leave(long a) { return a; }',
          ['-O2', '-fno-pic', '-ffunction-sections'],
        ),
      );
      const narrow = (value: number) => run(small, [['s', { V: { value } }], 'leave'], 0n, 0n);
      assert.equal(narrow(2 ** 31 - 1), 2n ** 31n - 1n);
      assert.throws(() => narrow(2 ** 33), { code: 'ERR_ARENA_RELOC_RANGE' });
      assert.throws(() => narrow(-1 - 2 ** 31), { code: 'ERR_ARENA_RELOC_RANGE' });
    });

    it('says what is missing or too much', () => {
      const set = one();
      const add = set.get('add');
      const value = { VALUE: { value: 1 } };
      assert.throws(() => new TraceBuilder().emit(add), stencilError(/'VALUE' of the stencil 'add' is empty/));
      assert.throws(
        () => new TraceBuilder().emit(add, { ...value, OTHER: { value: 1 } }),
        stencilError(/no hole 'OTHER'/),
      );
      assert.throws(() => new TraceBuilder().emit(add, { VALUE: 5 as never }), TypeError);
      assert.throws(() => new TraceBuilder().emit('add' as never), TypeError);
      assert.throws(() => new TraceBuilder().build(), stencilError(/nothing/));
      assert.throws(() => new TraceBuilder().emit(add, value).build(), stencilError(/nothing to continue with/));
      assert.throws(() => new TraceBuilder().label('a').label('a'), stencilError(/'a'/));
      const jump = (label: string) => build(set, [['jump', { TARGET: { label } }], 'end:']);
      assert.throws(() => jump('there').build(), stencilError(/no label 'there'/));
      assert.throws(() => jump('end').build(), stencilError(/no stencil follows the label 'end'/));
      assert.deepEqual(arena.executors(), []);
    });
  });
});
