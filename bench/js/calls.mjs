// T12 and T13: what it costs to call machine code from JavaScript. koffi calls the very same bytes at the same address.
import { Arena, expect, loadKoffi, makeLoop, takeTurns } from './measure.mjs';

const sum = Uint8Array.of(0x8d, 0x04, 0x37, 0xc3); // lea eax, [rdi + rsi]; ret
const zero = Uint8Array.of(0x31, 0xc0, 0xc3); // xor eax, eax; ret

function* report(figure, nanos, missing) {
  for (const [variant, values] of Object.entries(nanos)) yield { figure, variant, size: 1, unit: 'ns', values };
  if (missing) yield { figure, variant: 'koffi', size: 1, missing };
}

/** f(2, 3). */
export function* measureCalls({ smoke, runs }) {
  const arena = new Arena();
  const executor = arena.install({ code: sum, movable: false });
  const { koffi, missing } = loadKoffi();
  const variants = {
    arena: makeLoop({ f: executor.func({ args: ['i32', 'i32'], returns: 'i32' }) }, 'f(2, 3)'),
  };
  if (koffi) {
    const f = koffi.decode(executor.address, koffi.proto('int(int, int)'));
    variants.koffi = makeLoop({ f }, 'f(2, 3)');
  }
  const operations = smoke ? 1000 : 2_000_000;
  const check = (total, n) => expect(total, 5 * n, 'f(2, 3)');
  yield* report('T12', takeTurns(variants, { runs, operations, check }), missing);
  arena.dispose();
}

/** run(e), beside a function without arguments. */
export function* measureRuns({ smoke, runs }) {
  const arena = new Arena();
  const executor = arena.install({
    code: Uint8Array.of(0xe9, 0, 0, 0, 0), // jmp the done stub
    relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: 'done', addend: -4 }],
  });
  const run = arena.runner(new BigInt64Array(4));
  const { koffi, missing } = loadKoffi();
  const variants = { arena: makeLoop({ run, executor }, 'run(executor) + 1') };
  if (koffi) {
    const plain = arena.install({ code: zero, movable: false });
    const f = koffi.decode(plain.address, koffi.proto('int()'));
    variants.koffi = makeLoop({ f }, 'f() + 1');
  }
  const operations = smoke ? 1000 : 2_000_000;
  const check = (total, n) => expect(total, n, 'run(e)');
  yield* report('T13', takeTurns(variants, { runs, operations, check }), missing);
  arena.dispose();
}
