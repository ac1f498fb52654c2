// What goes into an arena and comes out of it, as types: compiled and not run.
import { Arena, ArenaError, type Executor, type RelocKind, type ShareToken } from 'jit-arena';

declare const arena: Arena;
declare const executor: Executor;
const code = new Uint8Array(1);

// install gives back what it was given: one, or a list.
const one: Executor = arena.install({ code });
const many: Executor[] = arena.install([{ code }, { code: 5, data: code, state: 8, name: 'n' }]);
// @ts-expect-error a list is not one
const wrong: Executor = arena.install([{ code }]);
// @ts-expect-error code is needed
arena.install({ data: code });
// @ts-expect-error a plain array is no Uint8Array
arena.install({ code: [1, 2, 3] });
// @ts-expect-error there is no such property
arena.install({ code, movabel: false });

const executors: readonly Executor[] = many;
arena.freeze(executors);
arena.freeze([executor, executor.id]);
arena.free(Float64Array.of(executor.id));
// @ts-expect-error an id alone is no list
arena.free(executor.id);

// Every target, and every kind by name.
const callback = arena.callback({ args: [], returns: 'void' }, () => {});
const kind: RelocKind = 'R_X86_64_PC32';
executor.addRelocs([
  { offset: 0, kind, target: executor },
  { offset: 4, kind: 'R_X86_64_64', target: { own: 'data', offset: 8 }, addend: 1n },
  { section: 'data', offset: 0, kind: 'R_X86_64_PLT32', target: { address: 5n }, addend: -4 },
  { offset: 8, kind, target: callback },
]);
// @ts-expect-error there is no such kind
executor.addRelocs([{ offset: 0, kind: 'R_X86_64_PC16', target: executor }]);
// @ts-expect-error an address is a bigint
executor.addRelocs([{ offset: 0, kind, target: { address: 5 } }]);
// @ts-expect-error there is no such section
executor.addRelocs([{ offset: 0, kind, target: { own: 'text' } }]);
// @ts-expect-error a reloc has a target
executor.addRelocs([{ offset: 0, kind }]);

// @ts-expect-error there is no such writer
new Arena({ writer: 'rwx' });
// @ts-expect-error the address is not for writing
executor.address = 5n;
// @ts-expect-error nor is the id
executor.id = 5;

const state: 'writable' | 'frozen' | 'retired' = executor.state;
const pinned: bigint = arena.pinned(() => executor.address);
const found = arena.find(5n);
// @ts-expect-error there may be nothing at the address
found.executor;

{
  using scoped = new Arena();
  using inside = scoped.install({ code });
  inside.read('code');
}

const error = new ArenaError('ERR_ARENA_FULL', 'full');
const place: [number | undefined, string | undefined, number | undefined] = [error.executor, error.kind, error.index];

// A token is what share returns, and no other string.
const token: ShareToken = arena.share();
const shared: Arena = Arena.from(token);
const id: number = shared.executor(executor.id).id;
// @ts-expect-error a string is no token
Arena.from('token');
// @ts-expect-error an arena is no token
Arena.from(arena);
// @ts-expect-error nor is nothing
Arena.from();
// @ts-expect-error a token comes from share
const made: ShareToken = 'token';

export { id, made, one, pinned, place, state, wrong };
