// Who an executor is. Only the class sees what is private of its objects, so it defines the functions; and they stand
// here, for those on whom the class depends.
import type { Executor } from './executor';
import type { NativeArena } from './native';
import { tokenOf } from './sharing';

/** The functions of the arena that an Executor was made by; undefined for whatever else. */
export let nativeOf: (value: unknown) => NativeArena | undefined;
/** The id of an Executor, or of what names one as `{ id, arena }`. */
export let idOf: (executor: { readonly id: number }) => number;
/** The address of an Executor's code. ERR_ARENA_NOT_FROZEN, _STALE_EXECUTOR. */
export let addressOf: (executor: Executor) => bigint;

/** @internal */
export function defineIdentity(native: typeof nativeOf, id: typeof idOf, address: typeof addressOf): void {
  nativeOf = native;
  idOf = id;
  addressOf = address;
}

export const isExecutor = (value: unknown): value is Executor => nativeOf(value) !== undefined;

/** Whether an executor, or what names one as `{ id, arena }`, is of the arena with these functions. */
export function isOf(executor: { readonly arena: object }, native: NativeArena): boolean {
  const own = nativeOf(executor);
  return own === native || (own === undefined ? tokenOf(executor.arena) : own.token) === native.token;
}
