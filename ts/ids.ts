// The ids of what callers name: executors, alone or in a list, and ids themselves.
import { checkMemory } from './checks';
import { ArenaError, type ErrorDetails } from './errors';
import type { Executor } from './executor';
import { idOf, isExecutor, isOf } from './identity';
import type { NativeArena } from './native';
import { Doubles, elementsOf, isArray, isFloat64Array, isSafeInteger } from './primordials';

/** An executor, or several: by themselves or by their ids. */
export type Executors = Executor | readonly (Executor | number)[] | Float64Array;

/** The id of an executor of this arena: TypeError for what is no Executor, ERR_ARENA_FOREIGN_EXECUTOR. */
export function idIn(native: NativeArena, executor: unknown, index?: number): number {
  const where = index === undefined ? '' : `item ${index} of the list: `;
  if (!isExecutor(executor)) throw new TypeError(`${where}expected an Executor`);
  const id = idOf(executor);
  if (isOf(executor, native)) return id;
  throw new ArenaError('ERR_ARENA_FOREIGN_EXECUTOR', `${where}executor ${id} belongs to another arena`, {
    executor: id,
    ...(index !== undefined && { index }),
  });
}

export function idsIn(native: NativeArena, executors: Executors): Float64Array {
  if (isExecutor(executors)) {
    const id = new Doubles(1);
    id[0] = idIn(native, executors);
    return id;
  }
  if (isFloat64Array(executors)) {
    checkMemory(executors, 'the list of ids');
    const count = elementsOf(executors);
    for (let i = 0; i < count; i++) checkItem(executors[i], i);
    return executors;
  }
  if (!isArray(executors)) throw new TypeError('expected an Executor, an array of them, or a Float64Array of ids');
  // Once: a Proxy may say something else the next time.
  const count: number = executors.length;
  const ids = new Doubles(count);
  for (let i = 0; i < count; i++) {
    const item: unknown = executors[i];
    if (typeof item === 'number') checkItem(item, i);
    else if (!isExecutor(item)) throw new TypeError(`item ${i} of the list is neither an Executor nor an id`);
    ids[i] = typeof item === 'number' ? item : idIn(native, item, i);
  }
  return ids;
}

const isId = (id: number) => isSafeInteger(id) && id >= 0;

/** The same for an id in a list, without a message where none is needed. */
function checkItem(id: number | undefined, index: number): void {
  if (!isId(id as number)) checkId(id, `item ${index} of the list`, index);
}

/** That a value can be an id; ERR_ARENA_STALE_EXECUTOR for a number that no executor ever had. */
export function checkId(id: unknown, what: string, index?: number): void {
  if (typeof id !== 'number') throw new TypeError(`${what} is not a number`);
  if (isId(id)) return;
  const details: ErrorDetails = index === undefined ? { executor: id } : { executor: id, index };
  throw new ArenaError('ERR_ARENA_STALE_EXECUTOR', `${what}, ${id}, is not the id of an executor`, details);
}
