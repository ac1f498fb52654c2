// Tokens, by which threads of one process find each other's arenas.
import { randomUUID } from 'node:crypto';
import { ArenaError } from './errors';

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

/** The tokens of Arena objects. */
const tokens = new WeakMap<object, ShareToken>();

export function setToken(arena: object, token: ShareToken): void {
  tokens.set(arena, token);
}

/** Whether two Arena objects are the same arena: as many may be as came from `Arena.from`. */
export const isSameArena = (a: object, b: object): boolean =>
  a === b || (tokens.has(a) && tokens.get(a) === tokens.get(b));
