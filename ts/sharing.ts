// Tokens, by which threads of one process find each other's arenas.
import { randomUUID } from 'node:crypto';
import { ArenaError } from './errors';
import { weakMapGet, weakMapSet } from './primordials';

/**
 * Names an arena in every thread of the process; made by `arena.share()`, for `Arena.from`. A string, so it goes through
 * postMessage and workerData. It does not keep the arena.
 */
export type ShareToken = `jit-arena:${number}:${string}`;

/** With the process's number, so that a token that has left the process is known; and one that nobody can guess. */
export const makeToken = (): ShareToken => `jit-arena:${process.pid}:${randomUUID()}`;

const pattern = /^jit-arena:(\d+):[0-9a-f-]{36}$/;

/** TypeError for what is no token; ERR_ARENA_FORKED for one of another process. */
export function checkToken(token: unknown): ShareToken {
  const processId = typeof token === 'string' ? pattern.exec(token)?.[1] : undefined;
  if (processId === undefined) throw new TypeError('the token is not one that arena.share() has returned');
  if (processId === String(process.pid)) return token as ShareToken;
  const message = `the token is of process ${processId}, and this is process ${process.pid}: threads share an arena, processes do not`;
  throw new ArenaError('ERR_ARENA_FORKED', message);
}

/** The tokens of Arena objects: as many may have one as came from `Arena.from`. */
const tokens = new WeakMap<object, ShareToken>();

export function setToken(arena: object, token: ShareToken): void {
  weakMapSet(tokens, arena, token);
}

/** Undefined for what is no Arena. */
export const tokenOf = (arena: unknown): ShareToken | undefined =>
  typeof arena === 'object' && arena !== null ? weakMapGet(tokens, arena) : undefined;
