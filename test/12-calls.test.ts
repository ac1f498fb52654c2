// Values on their way into machine code and back, and what a function of an executor lives through.
import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Arena, type Executor, type Signature, symbolAddress, type ValueType } from 'jit-arena';
import { Code } from './support/assembler.js';
import { copiesInAllMemory, detach, growable, resizable, wasmMemory } from './support/memory.js';
import { constant, identity, jump, scatter, sum, toI32, toU64 } from './support/x64.js';

const i32Pair = { args: ['i32', 'i32'], returns: 'i32' } as const;
/** ret: the first floating argument. */
const floatIdentity = Uint8Array.of(0xc3);

describe('calls', () => {
  let arena: Arena;
  before(() => {
    arena = new Arena();
  });
  after(() => arena.dispose());

  const call = (code: Uint8Array, args: readonly ValueType[], returns: ValueType, ...values: unknown[]): unknown => {
    const f = arena.install({ code }).func({ args, returns } as Signature) as (...values: unknown[]) => unknown;
    return f(...values);
  };

  describe('pass every type at its boundaries', () => {
    const boundaries: [ValueType, unknown[]][] = [
      ['i32', [0, -0, 1, -1, 2 ** 31 - 1, -(2 ** 31)]],
      ['u32', [0, 1, 2 ** 31, 2 ** 32 - 1]],
      ['i64', [0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n)]],
      ['u64', [0n, 1n, 2n ** 63n, 2n ** 64n - 1n]],
      ['pointer', [0n, 1n, 2n ** 64n - 1n]],
      ['f64', [0, -0, 1.5, 5e-324, Number.MAX_VALUE, Infinity, -Infinity, NaN]],
      ['f32', [0, -0, 1.5, 2 ** -149, Math.fround(3.4028234663852886e38), Infinity, -Infinity, NaN]],
    ];
    for (const [type, values] of boundaries) {
      it(`${type}, there and back`, () => {
        const code = type.startsWith('f') ? floatIdentity : identity;
        const results = values.map((value) => call(code, [type], type, value));
        // Integers have no -0.
        assert.deepEqual(results, type === 'i32' ? values.map((value) => (value as number) + 0 || 0) : values);
      });
    }

    // The same registers read as another type, so that a value cannot be right only because both ends err alike.
    const conversions: [string, Uint8Array, ValueType, unknown, ValueType, unknown][] = [
      ['movsxd rax, edi', Uint8Array.of(0x48, 0x63, 0xc7, 0xc3), 'i32', -5, 'i64', -5n],
      ['mov eax, edi', Uint8Array.of(0x89, 0xf8, 0xc3), 'i32', -1, 'u64', 2n ** 32n - 1n],
      ['mov rax, rdi: a u32 is zero-extended', identity, 'u32', 2 ** 32 - 1, 'u64', 2n ** 32n - 1n],
      ['mov rax, rdi', identity, 'i64', -1n, 'u64', 2n ** 64n - 1n],
      ['mov rax, rdi', identity, 'u64', 2n ** 64n - 2n, 'i32', -2],
      ['mov rax, rdi', identity, 'pointer', 2n ** 32n + 7n, 'u32', 7],
      ['movq rax, xmm0', Uint8Array.of(0x66, 0x48, 0x0f, 0x7e, 0xc0, 0xc3), 'f64', -2, 'u64', 0xc000000000000000n],
      ['movd eax, xmm0', Uint8Array.of(0x66, 0x0f, 0x7e, 0xc0, 0xc3), 'f32', -2, 'u32', 0xc0000000],
      ['movq xmm0, rdi', Uint8Array.of(0x66, 0x48, 0x0f, 0x6e, 0xc7, 0xc3), 'u64', 0x3ff8000000000000n, 'f64', 1.5],
      ['movd xmm0, edi', Uint8Array.of(0x66, 0x0f, 0x6e, 0xc7, 0xc3), 'u32', 0x3fc00000, 'f32', 1.5],
      ['cvtss2sd xmm0, xmm0', Uint8Array.of(0xf3, 0x0f, 0x5a, 0xc0, 0xc3), 'f32', 0.1, 'f64', Math.fround(0.1)],
      ['cvtsd2ss xmm0, xmm0', Uint8Array.of(0xf2, 0x0f, 0x5a, 0xc0, 0xc3), 'f64', 0.1, 'f32', Math.fround(0.1)],
    ];
    for (const [assembly, code, from, value, to, expected] of conversions) {
      it(`${from} → ${assembly} → ${to}`, () => assert.equal(call(code, [from], to, value), expected));
    }

    it('void is undefined, whatever rax holds', () => {
      assert.equal(call(constant(7), [], 'void'), undefined);
    });
  });

  it('6 integer and 8 floating arguments arrive in their registers, in any order', () => {
    // Each register is stored to its own 8 bytes of state.
    const code = new Code();
    const integers = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'] as const;
    for (const [i, register] of integers.entries()) code.store({ own: 'state', offset: 8 * i }, register);
    for (let i = 0; i < 8; i++) {
      const target = { own: 'state', offset: 8 * (integers.length + i) } as const;
      code.put(0xf2, 0x0f, 0x11, 5 + 8 * i).refer(target); // movsd [rip + x], xmm0 …
    }
    const executor = arena.install(code.ret().spec({ state: 8 * (integers.length + 8) }));
    const f = executor.func({
      args: ['f64', 'u64', 'f64', 'i64', 'f64', 'u32', 'f64', 'pointer', 'f64', 'u64', 'f64', 'u64', 'f64', 'f64'],
      returns: 'void',
    });
    f(0.5, 1n, 1.5, -2n, 2.5, 3, 3.5, 4n, 4.5, 5n, 5.5, 6n, 6.5, 7.5);
    const state = executor.read('state').buffer;
    assert.deepEqual([...new BigInt64Array(state, 0, 6)], [1n, -2n, 3n, 4n, 5n, 6n]);
    assert.deepEqual([...new Float64Array(state, 48, 8)], [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5]);
  });

  it('more arguments than registers are refused when the function is made', () => {
    const executor = arena.install({ code: sum });
    const make = (integers: number, floats: number) => () =>
      executor.func({
        args: [...Array(integers).fill('i32'), ...Array(floats).fill('f32')],
        returns: 'void',
      } as Signature);
    make(6, 8)();
    assert.throws(make(7, 0), { code: 'ERR_ARENA_SIGNATURE', message: /7 integer and 0 floating/ });
    assert.throws(make(0, 9), { code: 'ERR_ARENA_SIGNATURE', message: /0 integer and 9 floating/ });
  });

  it('a signature is checked, and copied', () => {
    const executor = arena.install({ code: sum });
    const make = (signature: unknown) => () => executor.func(signature as Signature);
    for (const bad of [undefined, null, 5, {}, { args: 'i32', returns: 'i32' }]) assert.throws(make(bad), TypeError);
    const refused = { code: 'ERR_ARENA_SIGNATURE' };
    assert.throws(make({ args: ['int'], returns: 'i32' }), {
      ...refused,
      index: 0,
      message: /argument 0 is of type int/,
    });
    assert.throws(make({ args: ['i32', 'void'], returns: 'i32' }), { ...refused, index: 1 });
    // biome-ignore lint/suspicious/noSparseArray: the hole is the point
    assert.throws(make({ args: [, 'i32'], returns: 'i32' }), { ...refused, index: 0 });
    assert.throws(make({ args: [], returns: 'int' }), refused);
    assert.throws(make({ args: [] }), refused);
    const args: ('i32' | 'u64')[] = ['i32', 'i32'];
    const f = executor.func({ args, returns: 'i32' }) as (a: number, b: number) => number;
    args[0] = 'u64';
    args.push('u64');
    assert.equal(f(1, 2), 3);
  });

  describe('a wrong call is a TypeError that says which argument', () => {
    it('for the number of arguments, at every arity', () => {
      const executor = arena.install({ code: constant(1) });
      for (let arity = 0; arity <= 6; arity++) {
        const args = Array<'i32'>(arity).fill('i32');
        const f = executor.func({ args, returns: 'i32' }) as (...args: number[]) => number;
        const values = Array<number>(arity).fill(1);
        assert.equal(f.length, arity);
        assert.equal(f(...values), 1);
        assert.throws(() => f(...values, 1), { name: 'TypeError', message: /takes \d arguments?, not \d/ });
        if (arity > 0) assert.throws(() => f(...values.slice(1)), TypeError);
      }
    });

    const wrong: Record<string, unknown[]> = {
      i32: [1.5, NaN, Infinity, 2 ** 31, -(2 ** 31) - 1, 1n, '1', true, null, undefined, {}, Symbol('s')],
      u32: [1.5, NaN, -1, 2 ** 32, 1n, '1', true, null, undefined, {}, Symbol('s')],
      i64: [1, 2n ** 63n, -(2n ** 63n) - 1n, '1', null, undefined, {}],
      u64: [1, -1n, 2n ** 64n, '1', null, undefined, {}],
      f32: [1n, '1', true, null, undefined, {}],
      f64: [1n, '1', true, null, undefined, {}],
      pointer: [
        1,
        -1n,
        2n ** 64n,
        '1',
        true,
        undefined,
        {},
        { address: 1 },
        { address: -1n },
        new ArrayBuffer(8),
        () => 1,
      ],
    };
    for (const [type, values] of Object.entries(wrong)) {
      it(`for a value that is no ${type}`, () => {
        // In the last place, behind others that are right.
        const args = ['i32', 'f64', 'i32', type] as ValueType[];
        const message = new RegExp(`argument 3 is .*; ${type} takes`);
        for (const value of values) {
          const f = () => call(constant(1), args, 'i32', 1, 1, 1, value);
          assert.throws(f, { name: 'TypeError', message }, inspect(value));
        }
      });
    }

    it('and valueOf is never asked', () => {
      const never = { valueOf: () => assert.fail('asked') };
      for (const type of ['i32', 'u32', 'f64', 'i64'] as const) {
        assert.throws(() => call(constant(1), [type], 'i32', never), { name: 'TypeError', message: /argument 0/ });
      }
    });
  });

  describe('a pointer', () => {
    const addressOf = (value: unknown) => call(identity, ['pointer'], 'pointer', value) as bigint;

    it('is null, or a bigint', () => {
      assert.equal(addressOf(null), 0n);
      assert.equal(addressOf(0x1234n), 0x1234n);
    });

    it('is the first byte of a view of any kind', () => {
      const buffer = new ArrayBuffer(64);
      const whole = addressOf(new Uint8Array(buffer));
      assert.notEqual(whole, 0n);
      assert.equal(addressOf(new Uint8Array(buffer, 5)), whole + 5n);
      assert.equal(addressOf(new Float64Array(buffer, 16)), whole + 16n);
      assert.equal(addressOf(new BigInt64Array(buffer, 8)), whole + 8n);
      assert.equal(addressOf(new DataView(buffer, 3)), whole + 3n);
      assert.equal(addressOf(Buffer.from(buffer, 7)), whole + 7n);
    });

    it('is memory that machine code reads and writes', () => {
      const strlen = arena.install(jump({ address: symbolAddress('strlen') }));
      assert.equal(strlen.func({ args: ['pointer'], returns: 'u64' })(Buffer.from('hello\0')), 5n);
      const memset = arena.install(jump({ address: symbolAddress('memset') }));
      const fill = memset.func({ args: ['pointer', 'i32', 'u64'], returns: 'pointer' });
      for (const bytes of copiesInAllMemory(new Uint8Array(8))) {
        fill(new DataView(bytes.buffer, bytes.byteOffset + 2, 4), 0xab, 4n);
        assert.deepEqual([...bytes], [0, 0, 0xab, 0xab, 0xab, 0xab, 0, 0]);
      }
    });

    it("is an executor's code, or a callback's", () => {
      const executor = arena.install({ code: constant(9) });
      assert.equal(addressOf(executor), executor.address);
      const callback = arena.callback(toI32, () => 11);
      assert.equal(addressOf(callback), callback.address);
      const jumpTo = Uint8Array.of(0xff, 0xe7); // jmp rdi
      assert.equal(call(jumpTo, ['pointer'], 'i32', executor), 9);
      assert.equal(call(jumpTo, ['pointer'], 'i32', callback), 11);
    });

    it('is not an executor that has no address', () => {
      const writable = arena.allocate({ code: 1 });
      assert.throws(() => addressOf(writable), { code: 'ERR_ARENA_NOT_FROZEN', executor: writable.id });
      writable.free();
      assert.throws(() => addressOf(writable), { code: 'ERR_ARENA_STALE_EXECUTOR', executor: writable.id });
    });

    it('is not a view whose memory is gone or may go', () => {
      const memory = wasmMemory();
      const grown = new Uint8Array(memory.buffer);
      memory.grow(1);
      for (const view of [detach(new Uint8Array(8)), detach(new DataView(new ArrayBuffer(8))), grown]) {
        assert.throws(() => addressOf(view), { code: 'ERR_ARENA_DETACHED', message: /argument 0 is detached/ });
      }
      for (const buffer of [resizable(), growable()]) {
        const refused = { code: 'ERR_ARENA_RESIZABLE', message: /argument 0/ };
        assert.throws(() => addressOf(new Uint8Array(buffer)), refused);
        assert.throws(() => addressOf(new DataView(buffer)), refused);
      }
      assert.notEqual(addressOf(new Uint8Array(8)), 0n);
    });

    it('may be read from a getter that calls other functions, without harm to the arguments before and after it', () => {
      // mov rax, rdi; shl rax, 16; add rax, rsi; shl rax, 16; add rax, rdx; ret
      const code = Uint8Array.of(
        ...[0x48, 0x89, 0xf8, 0x48, 0xc1, 0xe0, 0x10, 0x48, 0x01, 0xf0],
        ...[0x48, 0xc1, 0xe0, 0x10, 0x48, 0x01, 0xd0, 0xc3],
      );
      const pack = arena.install({ code }).func({ args: ['pointer', 'pointer', 'pointer'], returns: 'u64' });
      const add = arena.install({ code: sum }).func(i32Pair);
      const calls = (address: bigint) => ({
        get address() {
          assert.equal(add(100, 200), 300);
          return address;
        },
      });
      const nested = {
        get address() {
          return pack(calls(0n), calls(0n), calls(3n));
        },
      };
      assert.equal(pack(calls(1n), calls(2n), nested), 0x1_0002_0003n);
      assert.equal(pack(nested, calls(2n), 3n), 0x3_0002_0003n);
      const view = new (class extends Uint8Array {
        override get buffer() {
          add(100, 200);
          return super.buffer as ArrayBuffer;
        }
      })(1);
      assert.equal(pack(1n, 2n, view) - addressOf(view), 0x1_0002_0000n);
    });

    it('may come from a getter that throws, and later calls are right', () => {
      const add = arena.install({ code: sum }).func({ args: ['pointer', 'i32'], returns: 'i32' });
      const failing = {
        get address(): bigint {
          throw new Error('no address today');
        },
      };
      assert.throws(() => add(failing, 1), /no address today/);
      assert.equal(add(5n, 6), 11);
    });
  });

  it('a function runs libc code that calls back: qsort', () => {
    const numbers = Int32Array.of(5, -3, 9, 0, 2);
    // mov eax, [rdi]; sub eax, [rsi]; ret
    const compare = arena.install({ code: Uint8Array.of(0x8b, 0x07, 0x2b, 0x06, 0xc3) });
    const qsort = arena.install(jump({ address: symbolAddress('qsort') }));
    qsort.func({ args: ['pointer', 'u64', 'u64', 'pointer'], returns: 'void' })(numbers, 5n, 4n, compare);
    assert.deepEqual([...numbers], [-3, 0, 2, 5, 9]);
  });

  it('functions recurse through JavaScript with their own arguments and results', () => {
    const signature = { args: ['i32'], returns: 'i32' } as const;
    let down: (n: number) => number;
    const callback = arena.callback(signature, (n) => (n === 0 ? 0 : n + down(n - 1)));
    down = arena.install(jump(callback)).func(signature);
    assert.equal(down(100), 5050);
  });
});

describe('a function of an executor', () => {
  it('follows the executor through moves', () => {
    using arena = new Arena();
    const executors = scatter(
      arena,
      Array.from({ length: 20 }, (_, n) => ({ code: constant(n) })),
    );
    const functions = executors.map((executor) => executor.func(toI32));
    const before = executors.map(({ address }) => address);
    const { moved } = arena.collect();
    assert.ok(moved >= 19, `${moved} moved`);
    const still = executors.filter(({ address }, i) => address === before[i]);
    assert.equal(still.length, 20 - moved);
    assert.deepEqual(
      functions.map((f) => f()),
      functions.map((_, n) => n),
    );
  });

  it('throws once the executor is freed, also when its place is taken by another', () => {
    using arena = new Arena();
    const executor = arena.install({ code: constant(1) });
    const f = executor.func(toI32);
    const { address } = executor;
    executor.free();
    const next = arena.install({ code: constant(2) });
    assert.equal(next.address, address);
    assert.throws(f, { name: 'ArenaError', code: 'ERR_ARENA_STALE_EXECUTOR', executor: executor.id });
    assert.throws(f, /freed/);
    assert.equal(next.func(toI32)(), 2);
  });

  it('throws once the arena is disposed of', () => {
    const arena = new Arena();
    const f = arena.install({ code: constant(1) }).func(toI32);
    arena.dispose();
    assert.throws(f, { code: 'ERR_ARENA_DISPOSED' });
  });

  it('is not made for a writable executor, nor for one that is gone', () => {
    using arena = new Arena();
    const executor = arena.allocate({ code: constant(1) });
    const { id } = executor;
    assert.throws(() => executor.func(toI32), {
      code: 'ERR_ARENA_NOT_FROZEN',
      executor: id,
      message: new RegExp(`${id}`),
    });
    executor.free();
    assert.throws(() => executor.func(toI32), { code: 'ERR_ARENA_STALE_EXECUTOR', executor: id });
  });

  it('knows its executor', () => {
    using arena = new Arena();
    const executor: Executor = arena.install({ code: identity });
    assert.equal((executor.func(toU64) as unknown as { executor: Executor }).executor, executor);
  });
});
