// Machine code calls JavaScript: values both ways, exceptions, and the arena changing under code that is on the stack.
import assert from 'node:assert/strict';
import { Arena, type Callback, type Executor, probe, symbolAddress, type ValueType } from 'jit-arena';
import { Code } from './support/assembler.js';
import { runChild } from './support/child.js';
import { fillWithTraps } from './support/trace-code.js';
import { callAndAdd, constant, i32ToI32, identity as itself, jump, scatter, toI32 } from './support/x64.js';

describe('callbacks', () => {
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena();
  });
  afterEach(() => arena.dispose());

  /** A function that jumps to the callback, so that its arguments are the callback's. */
  const through = (callback: Callback) => arena.install(jump(callback));

  it('take and return every type at its boundaries', () => {
    const boundaries: [ValueType, (number | bigint)[]][] = [
      ['i32', [0, -1, 2 ** 31 - 1, -(2 ** 31)]],
      ['u32', [0, 2 ** 32 - 1]],
      ['i64', [0n, -1n, 2n ** 63n - 1n, -(2n ** 63n)]],
      ['u64', [0n, 2n ** 64n - 1n]],
      ['pointer', [0n, 2n ** 64n - 1n]],
      ['f64', [0, -0, 1.5, 5e-324, -Infinity, NaN]],
      ['f32', [0, -0, 1.5, 2 ** -149, -Infinity, NaN]],
    ];
    for (const [type, values] of boundaries) {
      const seen: unknown[] = [];
      const signature = { args: [type], returns: type } as { args: ['i32']; returns: 'i32' };
      const callback = arena.callback(signature, (value) => {
        seen.push(value);
        return value;
      });
      const f = through(callback).func(signature) as (value: unknown) => unknown;
      assert.deepEqual(
        values.map((value) => f(value)),
        values,
        type,
      );
      assert.deepEqual(seen, values, type);
    }
  });

  it('take 6 integer and 8 floating arguments in any order', () => {
    const args = [
      'f64',
      'u64',
      'f32',
      'i64',
      'f64',
      'u32',
      'f64',
      'pointer',
      'f64',
      'i32',
      'f64',
      'u64',
      'f64',
      'f64',
    ] as const;
    const values = [0.5, 1n, 1.5, -2n, 2.5, 3, 3.5, 4n, 4.5, -5, 5.5, 6n, 6.5, 7.5] as const;
    let seen: unknown[] = [];
    const callback = arena.callback({ args, returns: 'void' }, (...given) => {
      seen = given;
    });
    through(callback).func({ args, returns: 'void' })(...values);
    assert.deepEqual(seen, values);
  });

  it('are called from the middle of machine code, which goes on with the result', () => {
    const callback = arena.callback(i32ToI32, (x) => 2 * x);
    const f = arena.install(callAndAdd(callback, 1)).func(i32ToI32);
    assert.equal(f(21), 43);
  });

  it('return a view, an executor or null as a pointer', () => {
    const toPointer = { args: [], returns: 'pointer' } as const;
    const executor = arena.install({ code: constant(1) });
    const bytes = new Uint8Array(8);
    const identity = arena.install({ code: itself }).func({ args: ['pointer'], returns: 'pointer' });
    for (const value of [executor, bytes, null, 5n]) {
      const f = through(arena.callback(toPointer, () => value)).func(toPointer);
      assert.equal(f(), identity(value));
    }
  });

  it('have an address that other libraries can call', () => {
    const numbers = Int32Array.of(5, -3, 9, 0, 2);
    const compare = arena.callback({ args: ['pointer', 'pointer'], returns: 'i32' }, (a, b) => {
      const [x, y] = [a, b].map((address) => numbers[Number(address - first) / 4]!);
      return x! - y!;
    });
    const qsort = arena.install(jump({ address: symbolAddress('qsort') }));
    let first = 0n;
    const identity = arena.callback({ args: ['pointer'], returns: 'void' }, (address) => {
      first = address;
    });
    through(identity).func({ args: ['pointer'], returns: 'void' })(numbers);
    qsort.func({ args: ['pointer', 'u64', 'u64', 'pointer'], returns: 'void' })(numbers, 5n, 4n, compare);
    assert.deepEqual([...numbers], [-3, 0, 2, 5, 9]);
  });

  it('leave machine code its way of computing with floats, and have that of JavaScript', () => {
    let inside: (() => void)[] = [];
    const seen: number[] = [];
    const callback = arena.callback({ args: [], returns: 'void' }, () => {
      // Denormal: 0 where they are flushed, as the machine code does.
      seen.push(5e-324 * seen.length);
      inside.shift()?.();
    });
    // push rbx; mov rbx, rdi; sub rsp, 16; stmxcsr [rsp]; ldmxcsr [rbx]; call; stmxcsr [rbx + 4]; ldmxcsr [rsp]; …
    const code = new Code().push('rbx').move('rbx', 'rdi');
    code.put(0x48, 0x83, 0xec, 0x10, 0x0f, 0xae, 0x1c, 0x24, 0x0f, 0xae, 0x13).call({ address: callback.address });
    code.put(0x0f, 0xae, 0x5b, 0x04, 0x0f, 0xae, 0x14, 0x24, 0x48, 0x83, 0xc4, 0x10).pop('rbx').ret();
    const f = arena.install(code.spec()).func({ args: ['pointer'], returns: 'void' });
    const nothing = arena.install(new Code().ret().spec()).func({ args: [], returns: 'void' });
    const flushing = 0x1f80 | 0x8000 | 0x40;
    const control = Uint32Array.of(flushing, 0);
    for (inside of [[], [() => nothing()], [() => f(Uint32Array.of(0x1f80, 0))]]) {
      control[1] = 0;
      f(control);
      assert.equal(control[1] & ~0x3f, flushing);
    }
    assert.deepEqual(
      seen,
      [0, 1, 2, 3].map((n) => 5e-324 * n),
    );
  });

  it('nest: each level has its own arguments and result', () => {
    let f: (x: number) => number;
    const callback = arena.callback(i32ToI32, (x) => {
      if (x === 0) return 0;
      const below = f(x - 1);
      return below + x;
    });
    f = arena.install(callAndAdd(callback, 1)).func(i32ToI32);
    assert.equal(f(200), (200 * 201) / 2 + 201);
  });

  it('are checked when they are made', () => {
    assert.throws(() => arena.callback({ args: ['void' as 'i32'], returns: 'i32' }, () => 1), {
      code: 'ERR_ARENA_SIGNATURE',
    });
    assert.throws(() => arena.callback(toI32, 5 as never), TypeError);
    assert.throws(() => arena.callback(null as never, () => 1), TypeError);
  });

  it('that are disposed of return 0, and dispose is silent when repeated', () => {
    let calls = 0;
    const callback = arena.callback(toI32, () => ++calls);
    const f = arena.install(callAndAdd(callback, 5)).func(toI32);
    assert.equal(f(), 6);
    callback.dispose();
    callback.dispose();
    callback[Symbol.dispose]();
    assert.equal(f(), 5);
    assert.equal(calls, 1);
  });

  it('can be disposed of while they run', () => {
    const callback: Callback = arena.callback(toI32, () => {
      callback.dispose();
      return 7;
    });
    const f = arena.install(callAndAdd(callback, 1)).func(toI32);
    assert.deepEqual([f(), f()], [8, 1]);
  });

  it('on another thread return 0, and the call that returns next throws ERR_ARENA_WRONG_THREAD', () => {
    let calls = 0;
    const callback = arena.callback({ args: ['pointer'], returns: 'pointer' }, () => BigInt(++calls));
    const create = arena.install(jump({ address: symbolAddress('pthread_create') })).func({
      args: ['pointer', 'pointer', 'pointer', 'pointer'],
      returns: 'i32',
    });
    const join = arena.install(jump({ address: symbolAddress('pthread_join') })).func({
      args: ['u64', 'pointer'],
      returns: 'i32',
    });
    const thread = new BigUint64Array(1);
    const result = BigUint64Array.of(99n);
    assert.throws(
      () => {
        assert.equal(create(thread, null, callback, null), 0);
        join(thread[0]!, result);
      },
      { name: 'ArenaError', code: 'ERR_ARENA_WRONG_THREAD' },
    );
    // Which of the two threw depends on the threads; the second is over now, or is joined here.
    if (result[0] === 99n) assert.equal(join(thread[0]!, result), 0);
    assert.equal(result[0], 0n);
    assert.equal(calls, 0);
    assert.equal(arena.install({ code: constant(1) }).func(toI32)(), 1, 'it is thrown once');
  });
});

describe('what a callback throws', () => {
  let arena: Arena;
  beforeEach(() => {
    arena = new Arena();
  });
  afterEach(() => arena.dispose());

  /** Calls each target in turn with its own argument, keeps each result in 4 bytes of state, and returns 77. */
  function callAll(targets: Callback[]): Executor {
    const code = new Code().push('rbx').move32('rbx', 'rdi');
    for (const [i, target] of targets.entries()) {
      code
        .move32('rdi', 'rbx')
        .call(target)
        .store32({ own: 'state', offset: 4 * i }, 'rax');
    }
    code.move32('rax', 77).pop('rbx').ret();
    return arena.install(code.spec({ state: new Uint8Array(4 * targets.length).fill(0xff) }));
  }
  const resultsOf = (executor: Executor) => [...new Int32Array(executor.read('state').buffer)];

  it('does not unwind machine code: it returns 0, later callbacks 0 at once, and the call throws it', () => {
    let later = 0;
    const fine = arena.callback(i32ToI32, (x) => x + 1);
    const error = new Error('thrown in a callback');
    const throwing = arena.callback(i32ToI32, () => {
      throw error;
    });
    const never = arena.callback(i32ToI32, (x) => {
      later++;
      return x;
    });
    const executor = callAll([fine, throwing, never, throwing, fine]);
    const f = executor.func(i32ToI32);
    assert.throws(
      () => f(5),
      (thrown) => thrown === error,
    );
    assert.deepEqual(resultsOf(executor), [6, 0, 0, 0, 0]);
    assert.equal(later, 0);
  });

  it('is forgotten once it is thrown', () => {
    let fail = true;
    const callback = arena.callback(i32ToI32, (x) => {
      if (fail) throw new Error('once');
      return x;
    });
    const executor = callAll([callback, callback]);
    const f = executor.func(i32ToI32);
    assert.throws(() => f(5), /once/);
    fail = false;
    assert.equal(f(5), 77);
    assert.deepEqual(resultsOf(executor), [5, 5]);
  });

  it('can be anything, also undefined', () => {
    const callback = arena.callback(i32ToI32, () => {
      throw undefined;
    });
    const f = callAll([callback]).func(i32ToI32);
    let caught: unknown = 'nothing';
    try {
      f(1);
    } catch (error) {
      caught = error;
    }
    assert.equal(caught, undefined);
  });

  it('from an inner call can be caught in the outer callback, which goes on as if nothing had been', () => {
    const inner = callAll([
      arena.callback(i32ToI32, () => {
        throw new Error('inner');
      }),
    ]).func(i32ToI32);
    const outer = arena.callback(i32ToI32, (x) => {
      assert.throws(() => inner(x), /inner/);
      return x + 1;
    });
    const executor = callAll([outer, outer]);
    assert.equal(executor.func(i32ToI32)(1), 77);
    assert.deepEqual(resultsOf(executor), [2, 2]);
  });

  it('from an inner call goes on outwards through every level that does not catch it', () => {
    let f: (x: number) => number;
    const levels: number[] = [];
    const callback = arena.callback(i32ToI32, (x) => {
      levels.push(x);
      if (x === 0) throw new Error('at the bottom');
      f(x - 1);
      return assert.fail('the inner call has thrown');
    });
    const executor = callAll([callback]);
    f = executor.func(i32ToI32);
    assert.throws(() => f(5), /at the bottom/);
    assert.deepEqual(levels, [5, 4, 3, 2, 1, 0]);
  });

  it("leaves 0 as the result, also where an inner callback's result stood", () => {
    const number = arena.callback(i32ToI32, () => 42);
    const f = callAll([number]).func(i32ToI32);
    const outer = arena.callback(i32ToI32, (x) => {
      f(x);
      throw new Error('after an inner result');
    });
    const executor = callAll([outer]);
    assert.throws(() => executor.func(i32ToI32)(1), /after an inner result/);
    assert.deepEqual(resultsOf(executor), [0]);
  });

  it('is a TypeError when it returns a value of another type', () => {
    for (const wrong of ['5', 1.5, 5n, undefined, null]) {
      const executor = callAll([arena.callback(i32ToI32, () => wrong as number)]);
      assert.throws(() => executor.func(i32ToI32)(1), { name: 'TypeError', message: /the callback's result/ });
      assert.deepEqual(resultsOf(executor), [0]);
    }
  });

  it('is a RangeError when the stack is full, and callbacks work again afterwards', () => {
    let f: (x: number) => number;
    let depth = 0;
    const callback = arena.callback(i32ToI32, (x) => {
      depth++;
      return f(x);
    });
    const executor = callAll([callback]);
    f = executor.func(i32ToI32);
    // The stack can end at any of several places between JavaScript and machine code: begin at different depths.
    const from = (padding: number): number => (padding === 0 ? f(1) : from(padding - 1));
    for (let padding = 0; padding < 40; padding++) {
      depth = 0;
      assert.throws(() => from(padding), RangeError);
      assert.ok(depth > 10);
      const after = callAll([arena.callback(i32ToI32, (x) => x + 1)]);
      assert.equal(after.func(i32ToI32)(5), 77);
      assert.deepEqual(resultsOf(after), [6], `padding ${padding}`);
    }
  });

  it('is thrown by its own call or not at all, wherever the stack ends', () => {
    const script = `
      const assert = require('node:assert');
      const { Arena } = require('jit-arena');
      const arena = new Arena();
      const signature = { args: ['i32'], returns: 'i32' };
      const callback = arena.callback(signature, () => { throw new Error('from a callback') });
      const relocs = [{ offset: 1, kind: 'R_X86_64_PLT32', target: { address: callback.address }, addend: -4 }];
      const f = arena.install({ code: Uint8Array.of(0xe9, 0, 0, 0, 0), relocs }).func(signature);
      const seven = arena.install({ code: Uint8Array.of(0xb8, 7, 0, 0, 0, 0xc3) }).func({ args: [], returns: 'i32' });
      const deep = (n) => (n === 0 ? f(1) : deep(n - 1) + 0);
      const ending = (n) => { try { deep(n) } catch (error) { return error.message } };
      let least = 100;
      while (ending(least) === 'from a callback') least += 100;
      let full = 0;
      for (let n = least - 300; n < least; n++) {
        full += ending(n) !== 'from a callback';
        assert.strictEqual(seven(), 7, 'at depth ' + n);
      }
      assert.ok(full > 0);`;
    runChild(script, { nodeArgs: ['--no-opt'] });
  });

  it('leaves no pin: the arena can be disposed of', () => {
    const f = callAll([
      arena.callback(i32ToI32, () => {
        throw new Error('x');
      }),
    ]).func(i32ToI32);
    assert.throws(() => f(1), /x/);
    arena.dispose();
  });
});

// The callback changes everything under the machine code that called it, and that code is right nevertheless: it goes on
// in its old copy, whose bytes, data, state and targets stay until it has returned.
for (const { writer, available, reason } of probe()) {
  for (const layout of ['together', 'apart'] as const) {
    describe(`code on the stack, with the writer ${writer} and layout ${layout}`, () => {
      if (!available) {
        it(`cannot be tested: ${reason}`, () => assert.equal(process.platform, 'linux'));
        return;
      }

      const calling = (callback: Callback, helper: Executor) =>
        new Code()
          .push('rbx')
          .move32('rbx', 'rdi')
          .call(callback)
          .add32('rax', 'rbx')
          .addFrom32('rax', { own: 'data' })
          .addTo32({ own: 'state' }, 'rax')
          .load32('rdi', { own: 'state' })
          .call(helper)
          .pop('rbx')
          .ret();
      /** Installs it and its helper so that a collect moves both; f(x) is 3 * (callback(x) + x + 1000 + state). */
      function installPair(arena: Arena, fn: (x: number) => number): [Executor, Executor] {
        const callback = arena.callback(i32ToI32, fn);
        const timesThree = { code: Uint8Array.of(0x8d, 0x04, 0x7f, 0xc3) }; // lea eax, [rdi + 2 * rdi]; ret
        const [helper] = scatter(arena, [timesThree]) as [Executor];
        const [data, state] = [Uint8Array.of(0xe8, 0x03, 0, 0), Uint8Array.of(50, 0, 0, 0)];
        const spec = calling(callback, helper).spec({ data, state });
        const [caller] = scatter(arena, [spec]) as [Executor];
        return [caller, helper];
      }
      const expected = (x: number) => 3 * (2 * x + x + 1000 + 50);

      it('survives that the callback frees it, collects, and fills the arena', () => {
        using arena = new Arena({ writer, layout, maxBytes: 2 << 20 });
        let filled: number[] = [];
        const [caller, helper] = installPair(arena, (x) => {
          const { address } = caller;
          arena.free([caller, helper]);
          arena.collect();
          filled = fillWithTraps(arena);
          assert.equal(arena.find(address)?.executor, caller.id, 'the old copy waits');
          return 2 * x;
        });
        const f = caller.func(i32ToI32);
        assert.equal(f(7), expected(7));
        assert.ok(filled.length > 100);
        assert.throws(() => f(7), { code: 'ERR_ARENA_STALE_EXECUTOR' });
        // The call is over: its memory is free again, and is used.
        const more = fillWithTraps(arena);
        assert.ok(more.length > 0, 'the place of the caller is used again');
        const { ok, problems, broken } = arena.verify();
        assert.ok(ok, broken ?? JSON.stringify(problems, (_, value) => String(value)));
      });

      it('survives that the callback has it moved, and fills the arena', () => {
        using arena = new Arena({ writer, layout, maxBytes: 2 << 20 });
        let movedAway = false;
        const [caller, helper] = installPair(arena, (x) => {
          const before = [caller.address, helper.address];
          const { moved } = arena.collect();
          movedAway = moved >= 2 && caller.address !== before[0] && helper.address !== before[1];
          fillWithTraps(arena);
          return 2 * x;
        });
        const f = caller.func(i32ToI32);
        assert.equal(f(7), expected(7));
        assert.ok(movedAway, 'both have moved while they were on the stack');
        // The state did not move: the second call, in the new copy, finds what the old copy added to it.
        const state = 2 * 7 + 7 + 1000 + 50;
        assert.equal(f(8), 3 * (2 * 8 + 8 + 1000 + state));
        assert.ok(arena.verify().ok);
      });

      it('survives it at every level of a recursion', () => {
        using arena = new Arena({ writer, layout, maxBytes: 8 << 20, maxRetiredBytes: 8 << 20 });
        let f: (x: number) => number;
        const others: Executor[] = [];
        const [caller] = installPair(arena, (x) => {
          if (x > 0) f(x - 1);
          arena.free(others.splice(0).filter((_, i) => i % 3 !== 0));
          arena.collect();
          for (let i = 0; i < 300; i++) others.push(arena.install({ code: new Uint8Array(500).fill(0xcc), state: 16 }));
          return 2 * x;
        });
        f = caller.func(i32ToI32);
        // Each level adds to the one state when its callback has returned, from the innermost outwards.
        let state = 50;
        let result = 0;
        for (let x = 0; x <= 12; x++) {
          state += 3 * x + 1000;
          result = 3 * state;
        }
        assert.equal(f(12), result);
        assert.ok(arena.verify().ok);
      });

      it('cannot lose its arena: dispose is ERR_ARENA_BUSY and changes nothing', () => {
        using arena = new Arena({ writer, layout });
        const callback = arena.callback(toI32, () => {
          const before = arena.stats();
          assert.throws(() => arena.dispose(), { name: 'ArenaError', code: 'ERR_ARENA_BUSY' });
          assert.deepEqual(arena.stats(), before);
          return arena.install({ code: constant(6) }).func(toI32)();
        });
        assert.equal(arena.install(callAndAdd(callback, 1)).func(toI32)(), 7);
      });
    });
  }
}

describe('pinned', () => {
  it('keeps freed memory until it returns', () => {
    using arena = new Arena();
    const executor = arena.install({ code: constant(1), state: 16 });
    const result = arena.pinned(() => {
      executor.free();
      arena.collect();
      return arena.stats().retiredBytes;
    });
    assert.equal(result, 32);
    arena.collect();
    assert.equal(arena.stats().retiredBytes, 0);
  });

  it('nests, ends also when its function throws, and holds off dispose', () => {
    using arena = new Arena();
    assert.throws(
      () =>
        arena.pinned(() => {
          arena.pinned(() => {});
          assert.throws(() => arena.dispose(), { code: 'ERR_ARENA_BUSY' });
          throw new Error('inside');
        }),
      /inside/,
    );
    arena.dispose();
  });

  it('does not take an asynchronous function', () => {
    using arena = new Arena();
    assert.throws(() => arena.pinned(async () => 1), { name: 'TypeError', message: /synchronous/ });
    arena.dispose();
  });
});
