// What an arena must refuse, with the right code, and without changing anything.
import { Arena, type Executor, machine } from 'jit-arena';
import type { Random } from '../../dist/stress/program/random';
import type { Model } from './model.js';
import { withRelocs } from './model-specs.js';

let elsewhere: { arena: Arena; executor: Executor } | undefined;
/** An executor of another arena. */
function foreign(): Executor {
  if (elsewhere === undefined) {
    const arena = new Arena({ name: 'elsewhere' });
    elsewhere = { arena, executor: arena.install({ code: Uint8Array.of(0xc3) }) };
  }
  return elsewhere.executor;
}

export const misuses: readonly ((model: Model, random: Random) => void)[] = [
  // A freed executor.
  (model, random) => {
    if (model.stale.length === 0) return;
    const { arena } = model;
    const stale = random.pick(model.stale);
    const { handle } = stale;
    const { all } = model;
    const some = all.length > 0 ? [random.pick(all).handle] : [];
    for (const operation of [
      () => arena.free(handle),
      () => arena.free([...some, handle]),
      () => handle.free(),
      () => arena.freeze(handle),
      () => arena.freeze(Float64Array.of(stale.id)),
      () => handle.write('code', 0, new Uint8Array(1)),
      () => handle.addRelocs([]),
      () => handle.func({ args: [], returns: 'void' }),
      () => handle.address,
    ]) {
      const first = some.length > 0 && operation.toString().includes('some') ? undefined : stale;
      model.refuses('ERR_ARENA_STALE_EXECUTOR', operation, first);
    }
    if (stale.call) model.refuses('ERR_ARENA_STALE_EXECUTOR', () => stale.call!(0n), stale);
    const target = { code: 8, relocs: [{ offset: 0, kind: 'R_X86_64_64', target: handle }] } as const;
    model.refuses('ERR_ARENA_RELOC_TARGET', () => arena.install(target));
  },

  // A frozen executor is changed.
  (model, random) => {
    const frozen = model.inLife('frozen');
    if (frozen.length === 0) return;
    const executor = random.pick(frozen);
    const { handle } = executor;
    const refused = (operation: () => unknown) => model.refuses('ERR_ARENA_NOT_WRITABLE', operation, executor);
    refused(() => model.arena.freeze(handle));
    refused(() => model.arena.freeze([...model.inLife('writable').map(({ id }) => id), handle]));
    refused(() => handle.write('code', 0, Uint8Array.of(0xcc)));
    refused(() => handle.write('data', 0, new Uint8Array(0)));
    refused(() => handle.addRelocs([{ offset: 0, kind: 'R_X86_64_64', target: { address: 1n } }]));
  },

  // A writable executor is used as if it were frozen.
  (model, random) => {
    const writable = model.inLife('writable');
    if (writable.length === 0) return;
    const executor = random.pick(writable);
    const { handle } = executor;
    model.refuses('ERR_ARENA_NOT_FROZEN', () => handle.func({ args: [], returns: 'void' }), executor);
    model.refuses('ERR_ARENA_NOT_FROZEN', () => handle.address, executor);
    const target = { code: 5, relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: handle, addend: -4 }] } as const;
    model.refuses('ERR_ARENA_RELOC_TARGET', () => model.arena.install(target));
    model.refuses('ERR_ARENA_RELOC_TARGET', () => model.arena.install([{ code: 100 }, target]));
    const size = handle.sizes.code;
    model.refuses('ERR_ARENA_BOUNDS', () => handle.write('code', size, new Uint8Array(1)), executor);
    const reloc = { kind: 'R_X86_64_64', target: { address: 1n } } as const;
    model.refuses('ERR_ARENA_RELOC_BOUNDS', () => handle.addRelocs([{ ...reloc, offset: size - 7 }]), executor);
    const twice = [
      { ...reloc, section: 'code', offset: 0 },
      { ...reloc, section: 'code', offset: 7 },
    ] as const;
    model.refuses('ERR_ARENA_RELOC_OVERLAP', () => handle.addRelocs(twice), executor);
  },

  // A target is freed without its sources.
  (model, random) => {
    const referenced = model.inLife('frozen').filter((target) => model.sourcesOf(target).length > 0);
    if (referenced.length === 0) return;
    const target = random.pick(referenced);
    const bystanders = model.all.filter((executor) => executor !== target && model.sourcesOf(executor).length === 0);
    const sources = model.sourcesOf(target);
    const left = random.pick(sources);
    const list = [...bystanders.filter((executor) => !sources.includes(executor)), target];
    list.push(...sources.filter((source) => source !== left && model.sourcesOf(source).length === 0));
    model.refuses('ERR_ARENA_REFERENCED', () => model.arena.free(target.handle), target);
    model.refuses('ERR_ARENA_REFERENCED', () => model.arena.free(list.map(({ handle }) => handle)), target);
  },

  // Something is named twice, or belongs elsewhere, or never was.
  (model, random) => {
    const { arena, all } = model;
    const other = foreign();
    const reloc = { offset: 0, kind: 'R_X86_64_64', target: other } as const;
    model.refuses('ERR_ARENA_FOREIGN_EXECUTOR', () => arena.free(other));
    model.refuses('ERR_ARENA_FOREIGN_EXECUTOR', () => arena.install({ code: 8, relocs: [reloc] }));
    model.refuses('ERR_ARENA_STALE_EXECUTOR', () => arena.executor(2 ** 40 + 5));
    model.refuses('ERR_ARENA_STALE_EXECUTOR', () => arena.free(Float64Array.of(Number.NaN)));
    if (all.length === 0) return;
    const executor = random.pick(all);
    const { handle, life, id } = executor;
    model.refuses('ERR_ARENA_DUPLICATE_EXECUTOR', () => arena.free([handle, id]), executor);
    if (life === 'writable') {
      model.refuses('ERR_ARENA_DUPLICATE_EXECUTOR', () => arena.freeze([handle, handle]), executor);
    }
    model.refuses('ERR_ARENA_FOREIGN_EXECUTOR', () => arena.freeze([...all.map(({ handle }) => handle), other]));
  },

  // Relocs that do not fit, in an executor that would be fine, beside others that are.
  (model, random) => {
    const { arena } = model;
    const fine = model.plan(random, 2, { mates: false, withState: true }).map((planned) => withRelocs(planned, random));
    const bad = (offset: number, kind: 'R_X86_64_PC32' | 'R_X86_64_32' | 'R_X86_64_32S', address: bigint) => ({
      code: 64,
      relocs: [{ offset, kind, target: { address } }],
    });
    for (const spec of [
      bad(0, 'R_X86_64_PC32', 0x1000n),
      bad(0, 'R_X86_64_32', 2n ** 32n),
      bad(0, 'R_X86_64_32S', 2n ** 31n),
    ]) {
      model.refuses('ERR_ARENA_RELOC_RANGE', () => arena.install(spec));
      model.refuses('ERR_ARENA_RELOC_RANGE', () => arena.install([...fine, spec]));
    }
    // It fits where it is, and would not where the two ends can be moved to.
    const addend = (random.chance(0.5) ? 1 : -1) * (2 ** 31 - 1 - random.below(arena.stats().reservedBytes / 4));
    const far = { offset: 0, kind: 'R_X86_64_PC32', target: { own: 'state' }, addend } as const;
    const tooFar = { code: 8, state: 8, relocs: [far] } as const;
    model.refuses('ERR_ARENA_RELOC_RANGE', () => arena.install(tooFar));
    model.refuses('ERR_ARENA_RELOC_RANGE', () => arena.install([...fine, tooFar]));
    const state = { code: 8, state: 8, relocs: [{ section: 'state', offset: 0, kind: 'R_X86_64_64' }] } as const;
    const movingTarget = { ...state, relocs: [{ ...state.relocs[0], target: { own: 'code' } }] } as const;
    model.refuses('ERR_ARENA_RELOC_SITE', () => arena.install(movingTarget));
    const frozen = model.inLife('frozen');
    if (frozen.length === 0) return;
    const { address } = random.pick(frozen).handle;
    const byAddress = { code: 8, relocs: [{ offset: 0, kind: 'R_X86_64_64', target: { address } }] } as const;
    model.refuses('ERR_ARENA_RELOC_TARGET', () => arena.install(byAddress));
  },

  // Too large, too crooked, at the wrong time.
  (model) => {
    const { arena } = model;
    const { reservedBytes, slabs } = arena.stats();
    // One slab of what is reserved is the arena's own.
    const room = reservedBytes - machine.slabBytes;
    if (slabs > 1) model.refuses('ERR_ARENA_FULL', () => arena.install({ code: room - 1000 }));
    model.refuses('ERR_ARENA_SIZE', () => arena.install({ code: room + 1 }));
    model.refuses('ERR_ARENA_SIZE', () => arena.allocate({ code: 0 }));
    model.refuses('ERR_ARENA_ALIGNMENT', () => arena.allocate({ code: 1, align: 24 }));
    if (model.pins > 0) model.refuses('ERR_ARENA_BUSY', () => arena.dispose());
  },
];
