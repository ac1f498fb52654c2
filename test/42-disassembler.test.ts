// An independent oracle for moves: a disassembler reads every executor before and after each collect, and every branch,
// every memory operand, every immediate with a reloc and every address in data must mean what the host asked for.
import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { Arena, probe } from 'jit-arena';
import { generate } from '../dist/stress/program/generate';
import { withHelpers } from '../dist/stress/program/helpers';
import { Random } from '../dist/stress/program/random';
import { outsideWorld } from '../dist/stress/program/world';
import { readWorkload, type Shape } from '../dist/stress/recording/workload';
import { FieldsKeepOldAddresses } from './support/broken-arenas.js';
import { Model, publicReloc } from './support/model.js';
import { withRelocs } from './support/model-specs.js';
import { peekBytes } from './support/peek.js';
import {
  type Copy,
  changedBytes,
  copyOf,
  Namer,
  rewrittenFields,
  type Subject,
  wrongReferences,
} from './support/references.js';
import { skip } from './support/skip.js';

const recording = resolve(__dirname, '../bench/workloads/py314-bench_mix.jsonl.gz');
const rounds = 3;
const recordedPerRound = 100;
const modelledPerRound = 60;

/** Fills an arena with executors of both generators, and frees most of them again and again. */
class Population {
  readonly live = new Set<Subject>();
  private readonly model: Model;
  private readonly world;

  constructor(
    readonly arena: Arena,
    private readonly shapes: Iterator<Shape>,
    private readonly random: Random,
  ) {
    this.model = new Model(arena, { farthestAddend: 0 }); // a place that is far off is nothing that could be named
    this.world = withHelpers(outsideWorld(), arena, 1);
  }

  grow(): void {
    const { arena, live, model, random, world } = this;
    for (let i = 0; i < recordedPerRound; i++) {
      const shape: Shape = this.shapes.next().value;
      const encoded = generate(shape, random, world).encode();
      live.add({ handle: arena.install(encoded), relocs: encoded.relocs, instructionBytes: shape.code });
      if (i >= modelledPerRound) continue;
      const [planned] = model.plan(random, 1, { mates: false, withState: true });
      model.add(planned!, arena.install(withRelocs(planned!, random)));
      model.froze([planned!]);
      const { handle, relocs, program } = planned!;
      live.add({ handle, relocs: relocs.map(publicReloc), instructionBytes: program.instructionBytes });
    }
  }

  /** All that nothing refers to, but for a few. */
  shrink(): void {
    const { arena, live, model, random } = this;
    for (const subject of live) {
      const modelled = model.executors.get(subject.handle.id);
      if (random.chance(0.35) || (modelled && model.sourcesOf(modelled).length > 0)) continue;
      arena.free(subject.handle);
      live.delete(subject);
      if (modelled) model.freed([modelled]);
    }
  }
}

/** Every live executor as it is now. */
function look(arena: Arena, subjects: Iterable<Subject>): Map<Subject, Copy> {
  const namer = new Namer(arena);
  const copies = new Map<Subject, Copy>();
  for (const subject of subjects) {
    const { handle } = subject;
    const image = { address: handle.address, code: handle.read('code'), data: handle.read('data') };
    copies.set(subject, copyOf(subject, namer, image));
  }
  return copies;
}

describe('moved code, read by a disassembler', function () {
  this.timeout(60_000);
  const total = { collects: 0, moved: 0, references: 0, rewritten: 0, wrong: 0 };

  function compare(arena: Arena, befores: Map<Subject, Copy>, afters: Map<Subject, Copy>): string[] {
    const namer = new Namer(arena);
    const problems: string[] = [];
    for (const [subject, before] of befores) {
      const after = afters.get(subject)!;
      const wrong = wrongReferences(subject, before, after, namer);
      total.references += after.references.length;
      total.rewritten += rewrittenFields(subject, before, after);
      total.wrong += wrong.length;
      problems.push(...wrong, ...changedBytes(subject, before, after));
    }
    return problems;
  }

  for (const writer of ['alias', 'procmem', 'flip'] as const) {
    for (const layout of ['together', 'apart'] as const) {
      it(`refers to the same things: writer ${writer}, code and data ${layout}`, function () {
        const found = probe().find((candidate) => candidate.writer === writer);
        if (!found?.available) skip(this, `writer ${writer}: ${found?.reason}`);
        const arena = new Arena({ writer, layout });
        const population = new Population(arena, shapesOf(recording), new Random(writer.length, layout.length));
        const { live } = population;
        let moved = 0;
        for (let round = 0; round < rounds; round++) {
          population.grow();
          population.shrink();
          const before = look(arena, live);
          assert.deepEqual(compare(arena, before, before), [], 'before the collect');
          arena.pinned(() => {
            moved += arena.collect().moved;
            const after = look(arena, live);
            assert.deepEqual(compare(arena, before, after), [], 'after the collect');
            const leftBehind = oldCopies(arena, before, after);
            assert.deepEqual(compare(arena, leftBehind, leftBehind), [], 'old copies, which may still be executed');
            assert.ok(leftBehind.size > 0, 'nothing has moved');
          });
          total.collects++;
        }
        assert.ok(moved > 100, `${moved} executors moved`);
        total.moved += moved;
        arena.dispose();
      });
    }
  }

  it('is right in every reference', () => {
    const { collects, moved, references, rewritten, wrong } = total;
    console.log(`      T18: ${moved} executors moved in ${collects} collects, ${rewritten} references rewritten`);
    console.log(`      T18: ${references} references checked, ${wrong} wrong`);
    assert.equal(wrong, 0);
    assert.ok(rewritten > 1000, `${rewritten} references were rewritten`);
  });

  it('would be reported if a collect left the old addresses in moved code', () => {
    const arena = new FieldsKeepOldAddresses();
    const population = new Population(arena, shapesOf(recording), new Random(3));
    population.grow();
    population.shrink();
    const before = look(arena, population.live);
    assert.ok(arena.collect().moved > 0);
    const namer = new Namer(arena);
    let reported = 0;
    for (const [subject, after] of look(arena, population.live)) {
      const wrong = wrongReferences(subject, before.get(subject)!, after, namer);
      // Old absolute addresses of own code and data name the old copy's memory, or nothing.
      const showsIt = subject.relocs.some(
        ({ section, kind, target }) =>
          section !== 'data' &&
          kind === 'R_X86_64_64' &&
          typeof target === 'object' &&
          'own' in target &&
          target.own !== 'state',
      );
      if (before.get(subject)!.address === after.address) assert.deepEqual(wrong, []);
      else if (showsIt) assert.ok(wrong.length > 0, `executor ${subject.handle.id}`);
      reported += wrong.length;
    }
    assert.ok(reported > 0);
    arena.dispose();
  });

  it('would be reported with any one reference wrong, or any other byte changed', () => {
    const arena = new Arena();
    const population = new Population(arena, shapesOf(recording), new Random(1));
    population.grow();
    const namer = new Namer(arena);
    const random = new Random(2);
    const right = look(arena, population.live);
    for (const [subject, copy] of right) {
      const relocs = subject.relocs.filter(({ section }) => section !== 'state');
      if (relocs.length === 0) continue;
      const { section = 'code', offset, kind } = random.pick(relocs);
      const at = `executor ${subject.handle.id}, ${section} + `;
      const other = random.below(copy.code.length);
      const inReloc = relocs.some(
        ({ section = 'code', offset }) => section === 'code' && other >= offset && other < offset + 8,
      );
      const spoilt = (section: 'code' | 'data', offset: number): Copy => {
        const image = { address: copy.address, code: copy.code.slice(), data: copy.data.slice() };
        image[section][offset]! ^= 1 << random.below(8);
        return { ...image, references: [] };
      };
      if (kind !== 'R_X86_64_PC64') {
        const wrong = copyOf(subject, namer, spoilt(section as 'code' | 'data', offset));
        const reports = wrongReferences(subject, copy, wrong, namer);
        assert.equal(reports.length, 1, reports.join('\n'));
        assert.ok(reports[0]!.startsWith(`${at}${offset}: `), reports[0]);
      }
      if (!inReloc) {
        const reports = changedBytes(subject, copy, spoilt('code', other));
        assert.deepEqual(reports, [`executor ${subject.handle.id}, code + ${other}: no reloc's byte has changed`]);
      }
    }
    assert.ok(right.size > recordedPerRound);
    arena.dispose();
  });
});

/** The copies that moved executors left behind, as they are now in memory. */
function oldCopies(arena: Arena, before: Map<Subject, Copy>, after: Map<Subject, Copy>): Map<Subject, Copy> {
  const namer = new Namer(arena);
  const copies = new Map<Subject, Copy>();
  for (const [subject, { address, data }] of before) {
    const { code, address: now } = after.get(subject)!;
    if (now === address) continue;
    const { id } = subject.handle;
    assert.deepEqual(arena.find(address), { executor: id, section: 'code', offset: 0, retired: true });
    copies.set(subject, copyOf(subject, namer, { address, code: peekBytes(address, code.length), data }));
  }
  return copies;
}

/** The executors of a recording, in their order. */
function* shapesOf(path: string): Generator<Shape, Shape> {
  for (;;) for (const event of readWorkload(path).events) if (event.kind === 'create') yield event.shape;
}
