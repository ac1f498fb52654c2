// What the model test does to an arena: each action picks what it works on at random, predicts what must happen, does it,
// and tells the model. An action that finds nothing to work on does nothing.
import assert from 'node:assert/strict';
import type { Section } from 'jit-arena';
import { Random } from '../../dist/stress/program/random';
import { type Model, type ModelExecutor, publicReloc } from './model.js';
import { misuses } from './model-misuses.js';
import { store } from './model-program.js';
import { batchOf, listOf, sections, specOf, withRelocs } from './model-specs.js';

/** Executors at a time: enough for many pages, few enough to check them all after every step. */
const maxExecutors = 100;
const maxNesting = 2;

interface Step {
  model: Model;
  random: Random;
  /** Actions around this one. */
  nesting: number;
}

const actions = {
  install({ model, random }) {
    const [planned] = model.plan(random, 1, { mates: false, withState: true });
    model.add(planned!, model.arena.install(withRelocs(planned!, random)));
    model.froze([planned!]);
  },

  installList({ model, random }) {
    const planned = model.plan(random, 1 + random.below(8), { mates: false, withState: true });
    const handles = model.arena.install(planned.map((executor) => withRelocs(executor, random)));
    for (const [i, executor] of planned.entries()) model.add(executor, handles[i]!);
    model.froze(planned);
  },

  installBatch({ model, random }) {
    // Batches may name each other, but nothing that is still writable.
    if (model.inLife('writable').length > 0) return;
    const planned = model.plan(random, 1 + random.below(25), { mates: true, withState: false });
    const ids = model.arena.installBatch(batchOf(planned));
    for (const [i, executor] of planned.entries()) model.add(executor, model.arena.executor(ids[i]!));
    model.froze(planned);
  },

  allocate({ model, random }) {
    const planned = model.plan(random, 1 + random.below(3), { mates: true, withState: true });
    for (const executor of planned) {
      const spec = specOf(executor, random);
      if (random.chance(0.3)) {
        const { code, data, state } = executor.bytes;
        for (const section of sections) addPieces(executor, section, random);
        executor.bytes = { code: zeros(code), data: zeros(data), state: zeros(state) };
        Object.assign(spec, { code: code.length, data: data.length, state: state.length });
      }
      // Relocs may name the executor itself, and those after it, so they are added when all are there.
      executor.missingRelocs = executor.relocs;
      executor.relocs = [];
      model.add(executor, model.arena.allocate(spec));
    }
  },

  write({ model, random }) {
    const writable = model.inLife('writable');
    if (writable.length === 0) return;
    const executor = random.pick(writable);
    const { missingBytes, handle, bytes } = executor;
    const count = random.chance(0.7) ? missingBytes.length : random.below(missingBytes.length + 1);
    for (const piece of missingBytes.splice(0, count)) {
      handle.write(piece.section, piece.offset, piece.bytes);
      bytes[piece.section].set(piece.bytes, piece.offset);
    }
    for (const section of ['data', 'state'] as const) writeWord(executor, section, random);
  },

  writeState({ model, random }) {
    const frozen = model.inLife('frozen').filter(({ program }) => program.plainWords.state.length > 0);
    if (frozen.length > 0) writeWord(random.pick(frozen), 'state', random);
  },

  addRelocs({ model, random }) {
    const writable = model.inLife('writable').filter(({ missingRelocs }) => missingRelocs.length > 0);
    if (writable.length === 0) return;
    const executor = random.pick(writable);
    const { missingRelocs, handle } = executor;
    if (missingRelocs.some(({ target }) => 'executor' in target && target.executor.life === 'freed')) return;
    const count = random.chance(0.8) ? missingRelocs.length : random.below(missingRelocs.length);
    // From the front: those in code come before those in data and state, whose places they tell.
    missingRelocs.sort((a, b) => a.section.localeCompare(b.section));
    const added = missingRelocs.splice(0, count);
    handle.addRelocs(random.shuffle(added.map(publicReloc)));
    executor.relocs.push(...added);
  },

  freeze({ model, random }) {
    const writable = random.shuffle(model.inLife('writable'));
    if (writable.length === 0) return;
    const batch = random.chance(0.5) ? writable : writable.slice(0, 1 + random.below(writable.length));
    const mayFreeze = batch.every((executor) =>
      [...executor.targets()].every((target) => target.life === 'frozen' || batch.includes(target)),
    );
    if (mayFreeze) {
      model.arena.freeze(listOf(batch, random));
      model.froze(batch);
    } else {
      model.refuses('ERR_ARENA_RELOC_TARGET', () => model.arena.freeze(listOf(batch, random)));
      // Given up, or such heaps would grow.
      if (random.chance(0.3)) freeAll(model, batch, random);
    }
  },

  call({ model, random }) {
    const { callable } = model;
    for (let i = Math.min(4, callable.length); i > 0; i--) {
      const executor = random.pick(callable);
      if (executor.secondEntry && random.chance(0.3)) model.callSecondEntry(executor, random.u64());
      else model.call(executor, random.u64());
    }
  },

  callAndActInside(step) {
    const { model, random } = step;
    const callable = model.callable.filter((executor) => executor.callsBack());
    if (callable.length === 0) return;
    const executor = random.pick(callable);
    if (random.chance(0.8)) {
      model.call(executor, random.u64(), () => actInside(step));
      return;
    }
    const error = new Error('thrown by the callback');
    const throwing = () => {
      actInside(step);
      throw error;
    };
    assert.throws(
      () => model.call(executor, random.u64(), throwing),
      (thrown) => {
        if (thrown !== error) throw thrown;
        return true;
      },
    );
  },

  pinned(step) {
    step.model.pinned(() => actInside(step));
  },

  free({ model, random }) {
    const { all } = model;
    if (all.length > 0) freeAll(model, [random.pick(all)], random);
  },

  /** Leaves holes everywhere. */
  freeMany({ model, random }) {
    const share = random.pick([0.3, 0.5, 0.9]);
    // Seldom those that others refer to, because the others go with them.
    const chosen = model.all.filter((e) => random.chance(model.sourcesOf(e).length > 0 ? 0.05 : share));
    if (chosen.length === 0) return;
    if (random.chance(0.5)) freeAll(model, chosen, random);
    else for (const executor of chosen) if (executor.life !== 'freed') freeAll(model, [executor], random);
  },

  collect({ model }) {
    collectAll(model);
  },

  collectInSlices({ model, random }) {
    const maxPauseMicros = 1 + random.below(30);
    for (let slices = 0; slices < 20 && !model.arena.collect({ maxPauseMicros }).done; slices++);
  },

  reclaim({ model }) {
    const { moves } = model.arena.stats();
    const { moved, retiredBytes } = model.arena.collect({ compact: false });
    assert.equal(moved, 0);
    if (model.pins === 0) assert.equal(retiredBytes, 0, 'bytes stay retired though nobody is pinned');
    assert.equal(model.arena.stats().moves, moves);
  },

  misuse({ model, random }) {
    random.pick(misuses)(model, random);
  },
} satisfies Record<string, (step: Step) => void>;

export type ActionName = keyof typeof actions;

const weights: Record<ActionName, number> = {
  install: 4,
  installList: 5,
  installBatch: 5,
  allocate: 5,
  write: 3,
  writeState: 2,
  addRelocs: 7,
  freeze: 6,
  call: 8,
  callAndActInside: 6,
  pinned: 3,
  free: 3,
  freeMany: 4,
  collect: 6,
  collectInSlices: 3,
  reclaim: 1,
  misuse: 8,
};

/** Each name as often as its weight. */
export const actionNames = Object.entries(weights).flatMap(([name, weight]) =>
  new Array<ActionName>(weight).fill(name as ActionName),
);

export function act(model: Model, name: ActionName, seed: number): void {
  actInOrder({ model, random: new Random(seed), nesting: 0 }, name);
}

function actInOrder(step: Step, name: ActionName): void {
  const grows = /^(install|allocate)/.test(name);
  if (grows && step.model.executors.size >= maxExecutors) return;
  actions[name](step);
  step.model.check();
}

/** A few actions while machine code is on the stack, or under a pin. */
function actInside({ model, random, nesting }: Step): void {
  if (nesting === maxNesting) return;
  for (let i = 1 + random.below(4); i > 0; i--) {
    actInOrder({ model, random, nesting: nesting + 1 }, random.pick(actionNames));
  }
}

function collectAll(model: Model): void {
  const { arena } = model;
  const before = arena.stats();
  const { done, moved, relocsRewritten, retiredBytes } = arena.collect();
  assert.ok(done, 'a collect without a limit ends early');
  if (model.pins === 0) assert.equal(retiredBytes, 0, 'bytes stay retired though nobody is pinned');
  const after = arena.stats();
  assert.equal(after.moves - before.moves, moved);
  assert.equal(after.relocsRewritten - before.relocsRewritten, relocsRewritten);
}

/** Frees these and everything that refers to them, and so on; in one of the ways to say so. */
function freeAll(model: Model, chosen: readonly ModelExecutor[], random: Random): void {
  const batch = new Set(chosen);
  for (const executor of batch) for (const source of model.sourcesOf(executor)) batch.add(source);
  const list = random.shuffle([...batch]);
  const way = list.length === 1 ? random.below(3) : 0;
  if (way === 0) model.arena.free(listOf(list, random));
  else if (way === 1) list[0]!.handle.free();
  else list[0]!.handle[Symbol.dispose]();
  model.freed(list);
}

const zeros = ({ length }: Uint8Array) => new Uint8Array(length);

/** Cuts what is to be written into pieces. */
function addPieces({ bytes, missingBytes }: ModelExecutor, section: Section, random: Random): void {
  const whole = bytes[section];
  for (let offset = 0; offset < whole.length; ) {
    const piece = whole.slice(offset, offset + 1 + random.below(whole.length));
    missingBytes.push({ section, offset, bytes: piece });
    offset += piece.length;
  }
  random.shuffle(missingBytes);
}

function writeWord({ program, bytes, handle }: ModelExecutor, section: 'data' | 'state', random: Random): void {
  const offsets = program.plainWords[section];
  if (offsets.length === 0) return;
  const offset = random.pick(offsets);
  const word = new Uint8Array(8);
  store(word, 0, random.u64());
  handle.write(section, offset, word);
  bytes[section].set(word, offset);
}
