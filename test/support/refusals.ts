// An arena with an executor in every state, and the assertion that it refuses something without being changed.
import assert from 'node:assert/strict';
import { Arena, ArenaError, type ErrorDetails, type Executor } from 'jit-arena';
import { constant } from './x64.js';

export interface World {
  arena: Arena;
  /** A frozen executor with 8 bytes each of code, data and state. */
  frozen: Executor;
  /** A writable one. */
  draft: Executor;
  /** Another writable one. */
  other: Executor;
  /** One that has been freed. */
  stale: Executor;
  /** A frozen one of another arena. */
  foreign: Executor;
}

/** Eight bytes of code that return 1. */
export const eight = () => Uint8Array.of(...constant(1), 0xcc, 0xcc);

export function makeWorld(): World {
  const arena = new Arena({ maxBytes: 4 << 20 });
  const spec = (name: string) => ({ code: eight(), data: eight(), state: eight(), name });
  const stale = arena.install(spec('stale'));
  stale.free();
  // Every zone has its slab, so that what is refused needs no new one.
  arena.install({ ...spec('immovable'), movable: false });
  const frozen = arena.install(spec('frozen'));
  const [draft, other] = [arena.allocate(spec('draft')), arena.allocate(spec('other'))];
  return { arena, frozen, draft, other, stale, foreign: new Arena({ maxBytes: 4 << 20 }).install(spec('foreign')) };
}

export function endWorld({ arena, foreign }: World): void {
  arena.dispose();
  foreign.arena.dispose();
}

/** All that can be asked of an arena; but not how large its tables have grown. */
export const everything = (arena: Arena) => ({
  stats: { ...arena.stats(), metadataBytes: 0 },
  slabs: arena.slabs(),
  verify: arena.verify(),
  executors: arena.executors().map((executor) => {
    const { id, state, name, sizes, movable } = executor;
    const bytes = (['code', 'data', 'state'] as const).map((section) => executor.read(section));
    return { id, state, name, sizes, movable, bytes, address: state === 'frozen' && executor.address };
  }),
});

/** The action throws an ArenaError with the code and exactly these details, its message names them, and nothing changes. */
export function assertRefused(
  arena: Arena,
  action: () => unknown,
  code: string,
  details: ErrorDetails,
  message?: RegExp,
): void {
  const before = everything(arena);
  let error: unknown;
  try {
    action();
  } catch (thrown) {
    error = thrown;
  }
  assert.deepEqual(everything(arena), before, 'nothing has changed');
  assert.ok(error instanceof ArenaError, `${error}`);
  assert.ok(error instanceof Error);
  assert.equal(error.name, 'ArenaError');
  assert.equal(error.code, code, error.message);
  const { executor, section, offset, kind, index } = error;
  const found = Object.entries({ executor, section, offset, kind, index }).filter(([, value]) => value !== undefined);
  assert.deepEqual(Object.fromEntries(found), details, error.message);
  for (const value of Object.values(details)) {
    assert.ok(error.message.includes(`${value}`), `'${error.message}' does not say ${value}`);
  }
  if (message) assert.match(error.message, message);
}
