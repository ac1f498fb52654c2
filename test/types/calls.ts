// Signatures as types: compiled and not run. A line under @ts-expect-error must not compile.
import type { Arena, CallbackFunction, Executor, MachineFunction } from 'jit-arena';

/** Compiles only when the two types are the same. */
function same<A, B>(
  ..._: (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? [] : ['different']
): void {}

declare const arena: Arena;
declare const executor: Executor;

// Arguments and results follow from the literal, without `as const`.
const add = executor.func({ args: ['i32', 'i32'], returns: 'i32' });
same<typeof add, (...args: [number, number]) => number>();
const result: number = add(2, 3);

// @ts-expect-error one argument too few
add(1);
// @ts-expect-error one argument too many
add(1, 2, 3);
// @ts-expect-error a string is no i32
add('1', 2);
// @ts-expect-error a bigint is no i32
add(1n, 2);
// @ts-expect-error nor is null
add(null, 2);
// @ts-expect-error the result is a number
const text: string = add(1, 2);

// Every type, as an argument and as a result.
const all = executor.func({ args: ['i32', 'u32', 'i64', 'u64', 'f32', 'f64'], returns: 'void' });
same<Parameters<typeof all>, [number, number, bigint, bigint, number, number]>();
same<ReturnType<typeof all>, undefined>();
const toI64 = executor.func({ args: [], returns: 'i64' });
same<typeof toI64, () => bigint>();
const toPointer = executor.func({ args: [], returns: 'pointer' });
same<typeof toPointer, () => bigint>();
const toF64 = executor.func({ args: [], returns: 'f64' });
same<typeof toF64, () => number>();

// @ts-expect-error an i64 takes a bigint
all(1, 2, 3, 4n, 5, 6);
// @ts-expect-error an f64 takes a number
all(1, 2, 3n, 4n, 5, 6n);

// A pointer takes what has an address.
const peek = executor.func({ args: ['pointer'], returns: 'u32' });
peek(0n);
peek(null);
peek(new Uint8Array(1));
peek(new DataView(new ArrayBuffer(1)));
peek(Buffer.alloc(1));
peek(executor);
peek(arena.callback({ args: [], returns: 'void' }, () => {}));
// @ts-expect-error a number is no address
peek(5);
// @ts-expect-error an ArrayBuffer is no view
peek(new ArrayBuffer(8));
// @ts-expect-error undefined is not null
peek(undefined);

// @ts-expect-error there is no such type
executor.func({ args: ['int'], returns: 'i32' });
// @ts-expect-error void is for results only
executor.func({ args: ['void'], returns: 'i32' });
// @ts-expect-error a result has a type, if only void
executor.func({ args: [] });
// @ts-expect-error the entry is a number
executor.func({ args: [], returns: 'void' }, { entry: '1' });

// A signature may be kept, and named.
const binary = { args: ['f64', 'f64'], returns: 'f64' } as const;
const hypot: MachineFunction<typeof binary> = executor.func(binary);
hypot(3, 4);
// @ts-expect-error as above
hypot(3);

// The callback's function gets its types from the signature, both ways.
arena.callback({ args: ['i32', 'i64', 'pointer'], returns: 'u64' }, (a, b, c) => {
  same<typeof a, number>();
  same<typeof b, bigint>();
  same<typeof c, bigint>();
  return b + c + BigInt(a);
});
arena.callback({ args: ['i32', 'i32'], returns: 'i32' }, () => 5); // it need not take all
arena.callback({ args: [], returns: 'pointer' }, () => null);
arena.callback({ args: [], returns: 'pointer' }, () => executor);
arena.callback({ args: [], returns: 'void' }, () => 'what it returns does not matter');
const compare: CallbackFunction<{ args: ['pointer', 'pointer']; returns: 'i32' }> = (a, b) => (a < b ? -1 : 1);

// @ts-expect-error the result is an i32
arena.callback({ args: [], returns: 'i32' }, () => 'five');
// @ts-expect-error an i64 is a bigint
arena.callback({ args: [], returns: 'i64' }, () => 5);
// @ts-expect-error a promise is no i32
arena.callback({ args: [], returns: 'i32' }, async () => 5);
// @ts-expect-error the machine passes one argument
arena.callback({ args: ['i32'], returns: 'i32' }, (a: number, b: number) => a + b);
// @ts-expect-error the argument is a number
arena.callback({ args: ['i32'], returns: 'void' }, (a: string) => a);

export { compare, result, text };
