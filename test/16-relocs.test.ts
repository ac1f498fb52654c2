// Every reloc kind with every target that it can have, in code that runs: the result tells what the reloc referred to,
// when it is frozen and after everything around it has moved (docs/relocs.md has the expressions).
import assert from 'node:assert/strict';
import {
  Arena,
  type Executor,
  type ExecutorSpec,
  type RelocKind,
  type RelocTarget,
  relocKindNumbers,
  symbolAddress,
} from 'jit-arena';
import { Code } from './support/assembler.js';
import { callAndAdd, constant, i32ToI32, jump, loadThrough, rel32, scatter, toI32, toU64 } from './support/x64.js';

const isOdd = (n: number) => n % 2;

for (const layout of ['together', 'apart'] as const) {
  describe(`relocs, with layout ${layout}`, () => {
    let arena: Arena;
    beforeEach(() => {
      arena = new Arena({ layout, fullRecords: true });
    });
    afterEach(() => arena.dispose());

    /** Runs `check` as frozen, and again after each of three collects that moved the executors. */
    function checkThroughMoves(executors: readonly Executor[], check: () => void): void {
      check();
      for (let round = 0; round < 3; round++) {
        const before = executors.map(({ address }) => address);
        // What the last collect packed is scattered again by freeing what it is packed with.
        const neighbours = scatter(arena, Array<ExecutorSpec>(4).fill({ code: constant(0) }));
        const { moved } = arena.collect();
        arena.free(neighbours);
        if (round === 0) {
          assert.ok(moved > executors.length, `${moved} moved`);
          assert.ok(executors.every(({ address }, i) => address !== before[i] || !executors[i]?.movable));
        }
        check();
        const { ok, problems, broken } = arena.verify();
        assert.ok(ok, broken ?? problems.map(({ what }) => what).join());
      }
    }

    const install = (spec: ExecutorSpec): Executor => scatter(arena, [spec])[0]!;

    describe('PC32 reaches', () => {
      // lea rax, [rip + x]; ret
      const lea = Uint8Array.of(0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3);
      const pc32 = (target: RelocTarget, addend = 0) => [
        { offset: 3, kind: 'R_X86_64_PC32', target, addend: addend - 4 } as const,
      ];

      it('own code', () => {
        const executor = install({ code: lea, relocs: pc32({ own: 'code', offset: 7 }) });
        const f = executor.func(toU64);
        checkThroughMoves([executor], () => assert.equal(f(), executor.address + 7n));
      });

      it('own data', () => {
        const code = new Code().load32('rax', { own: 'data', offset: 8 }, { addend: -4 }).ret();
        const executor = install(code.spec({ data: Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0) }));
        const f = executor.func(toI32);
        checkThroughMoves([executor], () => assert.equal(f(), 2));
      });

      it('own state, which machine code changes', () => {
        const code = new Code().move32('rax', 1).put(0xf0, 0x0f, 0xc1, 0x05).refer({ own: 'state' }).ret(); // lock xadd
        const executor = install(code.spec({ state: 4 }));
        const f = executor.func(toI32);
        let n = 0;
        checkThroughMoves([executor], () => assert.equal(f(), n++));
      });

      it('another executor', () => {
        const target = install({ code: constant(1) });
        const executor = install({ code: lea, relocs: pc32(target, 3) });
        const f = executor.func(toU64);
        checkThroughMoves([executor, target], () => assert.equal(f(), target.address + 3n));
      });

      it('itself, named as an executor', () => {
        const executor = arena.allocate({ code: lea });
        executor.addRelocs(pc32(executor));
        arena.freeze(executor);
        const f = executor.func(toU64);
        assert.equal(f(), executor.address);
        scatter(arena, [{ code: 1 }]);
        arena.collect();
        assert.equal(f(), executor.address);
      });

      it('a callback', () => {
        const callback = arena.callback(toI32, () => 1);
        const executor = install({ code: lea, relocs: pc32(callback) });
        const f = executor.func(toU64);
        checkThroughMoves([executor], () => assert.equal(f(), callback.address));
      });
    });

    describe('PLT32 calls', () => {
      it('own code', () => {
        const code = new Code().call({ own: 'code', offset: 9 }).add32('rax', 1).ret();
        const executor = install(code.move32('rax', 5).ret().spec());
        const f = executor.func(toI32);
        checkThroughMoves([executor], () => assert.equal(f(), 6));
      });

      it('another executor, and a place in its middle', () => {
        const target = install({ code: Uint8Array.of(...constant(1), ...constant(2)) });
        const first = install(callAndAdd(target, 10));
        const second = install({ ...callAndAdd(target, 20), relocs: [rel32(2, target, 6)] });
        const [f, g] = [first, second].map((executor) => executor.func(toI32)) as [() => number, () => number];
        checkThroughMoves([first, second, target], () => assert.deepEqual([f(), g()], [11, 22]));
      });

      it('a callback', () => {
        const executor = install(
          callAndAdd(
            arena.callback(i32ToI32, (x) => 2 * x),
            1,
          ),
        );
        const f = executor.func(i32ToI32);
        checkThroughMoves([executor], () => assert.equal(f(21), 43));
      });

      it('a callback of another arena, far away', () => {
        using other = new Arena();
        const executor = install(
          callAndAdd(
            other.callback(i32ToI32, (x) => 2 * x),
            1,
          ),
        );
        const f = executor.func(i32ToI32);
        checkThroughMoves([executor], () => assert.equal(f(21), 43));
      });

      it('libc', () => {
        const executor = install(callAndAdd({ address: symbolAddress('abs') }, 2));
        const f = executor.func(i32ToI32);
        checkThroughMoves([executor], () => assert.equal(f(-40), 42));
      });

      it('a far function, through one veneer for all that use it', () => {
        // Of the node program itself, which is loaded far from where libraries and arenas are.
        const target = { address: symbolAddress('uv_version') };
        const [major, minor, patch] = process.versions.uv.split('.').map(Number);
        const version = major! * 65536 + minor! * 256 + patch!;
        const executors = [1, 2, 3].map((n) => install(callAndAdd(target, n)));
        assert.ok(executors.every(({ address }) => address - target.address > 1n << 32n));
        const functions = executors.map((executor) => executor.func(toI32));
        checkThroughMoves(executors, () => {
          assert.deepEqual(
            functions.map((f) => f()),
            [version + 1, version + 2, version + 3],
          );
        });
        assert.equal(arena.stats().farSlots, 1);
        arena.free(executors);
        assert.equal(arena.stats().farSlots, 0);
      });
    });

    for (const kind of ['R_X86_64_GOTPCREL', 'R_X86_64_GOTPCRELX', 'R_X86_64_REX_GOTPCRELX'] as const) {
      describe(`${kind} reads the address from a slot`, () => {
        const loads: [string, () => RelocTarget & { address?: bigint; id?: number }][] = [
          ['a far function', () => ({ address: symbolAddress('uv_version') })],
          ['address 0', () => ({ address: 0n })],
          ['the highest address', () => ({ address: 2n ** 64n - 1n })],
          ['another executor', () => install({ code: constant(3) })],
          ['a callback', () => arena.callback(toI32, () => 3)],
        ];
        for (const [name, makeTarget] of loads) {
          it(`of ${name}`, () => {
            const target = makeTarget();
            const executor = install(loadThrough({ kind, target, addend: -4 }));
            const f = executor.func(toU64);
            checkThroughMoves([executor], () => assert.equal(f(), target.address));
          });
        }

        it('of its own code', () => {
          const executor = install(loadThrough({ kind, target: { own: 'code', offset: 7 }, addend: -4 }));
          const f = executor.func(toU64);
          checkThroughMoves([executor], () => assert.equal(f(), executor.address + 7n));
        });

        it('and calls it', () => {
          const code = new Code().push('rbp').callThrough({ address: symbolAddress('abs') }, kind);
          const executor = install(code.pop('rbp').ret().spec());
          const f = executor.func(i32ToI32);
          checkThroughMoves([executor], () => assert.equal(f(-7), 7));
        });
      });
    }

    describe('64 in code and in data holds', () => {
      const targets: [string, (own: Executor) => bigint, RelocTarget | undefined][] = [
        ['its own code', (own) => own.address, { own: 'code' }],
        ['a far address', () => 2n ** 64n - 2n, { address: 2n ** 64n - 2n }],
      ];
      for (const [name, expected, target] of targets) {
        it(`the address of ${name}`, () => {
          const inData = { section: 'data', offset: 8, kind: 'R_X86_64_64', target: target!, addend: -1n } as const;
          const executor = install(
            new Code()
              .moveAddress('rax', target!, 1)
              .ret()
              .spec({ data: 24, relocs: [inData] }),
          );
          const f = executor.func(toU64);
          checkThroughMoves([executor], () => {
            assert.equal(f(), BigInt.asUintN(64, expected(executor) + 1n));
            const data = new BigUint64Array(executor.read('data').buffer);
            assert.deepEqual([...data], [0n, BigInt.asUintN(64, expected(executor) - 1n), 0n]);
          });
        });
      }

      it('the addresses of data, state, another executor and a callback', () => {
        const other = install({ code: constant(1) });
        const callback = arena.callback(toI32, () => 1);
        const targets = [{ own: 'data', offset: 32 }, { own: 'state', offset: 2 }, other, callback] as const;
        const relocs = targets.map(
          (target, i) => ({ section: 'data', offset: 8 * i, kind: 'R_X86_64_64', target }) as const,
        );
        const code = new Code().loadAddress('rax', { own: 'data', offset: 32 }).ret();
        const entries = [0, code.size];
        code.loadAddress('rax', { own: 'state', offset: 2 }).ret();
        const executor = install(code.spec({ entries, data: 32, state: 8, relocs }));
        const [dataEnd, inState] = [0, 1].map((entry) => executor.func(toU64, { entry })) as [
          () => bigint,
          () => bigint,
        ];
        checkThroughMoves([executor, other], () => {
          const data = new BigUint64Array(executor.read('data').buffer);
          assert.deepEqual([...data], [dataEnd(), inState(), other.address, callback.address]);
        });
      });
    });

    it('64 in state holds the address of state, of a callback, and of what does not move', () => {
      const callback = arena.callback(toI32, () => 1);
      const fixed = arena.install({ code: constant(1), movable: false });
      const far = symbolAddress('strlen');
      const targets = [{ own: 'state', offset: 8 }, callback, fixed, { address: far }] as const;
      const relocs = targets.map(
        (target, i) => ({ section: 'state', offset: 8 * i, kind: 'R_X86_64_64', target }) as const,
      );
      const code = new Code().loadAddress('rax', { own: 'state', offset: 8 }).ret();
      const executor = install(code.spec({ state: 32, relocs }));
      const f = executor.func(toU64);
      checkThroughMoves([executor], () => {
        const state = new BigUint64Array(executor.read('state').buffer);
        assert.deepEqual([...state], [f(), callback.address, fixed.address, far]);
      });
    });

    it('PC64 holds distances of any length', () => {
      const other = install({ code: constant(1) });
      const far = { address: symbolAddress('strlen') };
      for (const [target, address] of [
        [other, () => other.address],
        [far, () => far.address],
      ] as const) {
        const code = new Code().put(0x48, 0x8d, 0x0d).put32(2); // lea rcx, [rip + 2]: the site's address
        code.put(0x48, 0xb8).refer(target, { kind: 'R_X86_64_PC64', addend: 5 }); // mov rax, imm64
        const executor = install(code.put(0x48, 0x01, 0xc8).ret().spec()); // add rax, rcx
        const f = executor.func(toU64);
        checkThroughMoves([executor], () => assert.equal(f(), address() + 5n));
      }
    });

    it('32 and 32S hold low constants, zero- and sign-extended', () => {
      const zeroExtended = [0xb8]; // mov eax, imm32
      const signExtended = [0x48, 0xc7, 0xc0]; // mov rax, simm32
      const cases = [
        [zeroExtended, 'R_X86_64_32', 0n],
        [zeroExtended, 'R_X86_64_32', 2n ** 32n - 1n],
        [signExtended, 'R_X86_64_32S', 2n ** 31n - 1n],
        [signExtended, 'R_X86_64_32S', 2n ** 64n - 2n ** 31n],
      ] as const;
      for (const [opcode, kind, address] of cases) {
        const code = new Code().put(...opcode).refer({ address }, { kind });
        const executor = install(code.ret().spec());
        const f = executor.func(toU64);
        checkThroughMoves([executor], () => assert.equal(f(), address));
      }
    });

    it('two executors that call each other are frozen, moved and freed together', () => {
      // test edi, edi; jne 1f; mov eax, result; ret; 1: dec edi; jmp other
      const step = (result: number) =>
        Uint8Array.of(0x85, 0xff, 0x75, 0x06, ...constant(result), 0xff, 0xcf, 0xe9, 0, 0, 0, 0);
      const even = arena.allocate({ code: step(0) });
      const odd = arena.allocate({ code: step(1) });
      even.addRelocs([rel32(13, odd)]);
      odd.addRelocs([rel32(13, even)]);
      assert.throws(() => arena.freeze(even), { code: 'ERR_ARENA_RELOC_TARGET', executor: even.id });
      arena.freeze([even, odd]);
      const f = even.func(i32ToI32);
      const neighbours = scatter(arena, Array<ExecutorSpec>(10).fill({ code: constant(0) }));
      checkThroughMoves([], () => {
        for (const n of [0, 1, 2, 1001]) assert.equal(f(n), isOdd(n));
      });
      for (const one of [even, odd]) {
        assert.throws(() => arena.free(one), { code: 'ERR_ARENA_REFERENCED', executor: one.id });
      }
      arena.free([odd, even]);
      arena.free(neighbours);
      assert.deepEqual(arena.executors(), []);
    });

    it('a chain of targets is freed from its end, or all at once', () => {
      const a = install({ code: constant(1) });
      const b = install(jump(a));
      const c = install(jump(b));
      assert.throws(() => arena.free([a, b]), { code: 'ERR_ARENA_REFERENCED', executor: b.id, index: 1 });
      assert.equal(c.func(toI32)(), 1);
      c.free();
      arena.free([a, b]);
      assert.deepEqual(arena.executors(), []);
    });

    it('a target that is allocated, frozen and freed again and again gets back its references', () => {
      const target = install({ code: constant(4) });
      for (let i = 0; i < 200; i++) {
        const executor = arena.install(jump(target));
        assert.equal(executor.func(toI32)(), 4);
        executor.free();
      }
      target.free();
      assert.ok(arena.verify().ok);
    });

    it('an executor with thousands of relocs, given in any order, is right', () => {
      // Each adds its own number.
      const count = 3000;
      const code = new Code().move32('rax', 0);
      const data = Int32Array.from({ length: count }, (_, i) => i);
      for (let i = 0; i < count; i++) code.addFrom32('rax', { own: 'data', offset: 4 * ((7 * i) % count) });
      code.ret().relocs.reverse();
      const executor = install(code.spec({ data: new Uint8Array(data.buffer) }));
      const f = executor.func(toI32);
      checkThroughMoves([executor], () => assert.equal(f(), (count * (count - 1)) / 2));
    });

    it('a site is overwritten, whatever it held', () => {
      const spec = callAndAdd({ address: symbolAddress('abs') }, 1);
      const code = Uint8Array.from(spec.code as Uint8Array);
      code.fill(0xff, 2, 6);
      const f = install({ ...spec, code }).func(i32ToI32);
      assert.equal(f(-3), 4);
    });
  });
}

describe('reloc kinds', () => {
  it('have the names and numbers of the psABI', () => {
    const numbers: Record<Extract<RelocKind, `R_X86_64_${string}`>, number> = {
      R_X86_64_64: 1,
      R_X86_64_PC32: 2,
      R_X86_64_PLT32: 4,
      R_X86_64_GOTPCREL: 9,
      R_X86_64_32: 10,
      R_X86_64_32S: 11,
      R_X86_64_PC64: 24,
      R_X86_64_GOTPCRELX: 41,
      R_X86_64_REX_GOTPCRELX: 42,
    };
    assert.deepEqual({ ...relocKindNumbers }, numbers);
  });
});
