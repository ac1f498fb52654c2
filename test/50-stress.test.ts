// The code that the stress run is made of: what the recordings ask for is there, all of it is executed, and nothing in it
// can be wrong without the result being wrong.
import assert from 'node:assert/strict';
import { join, resolve } from 'node:path';
import { Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind } from 'iced-x86';
import type { Arena, Executor, RelocTarget } from 'jit-arena';
import { Context, NO_EXIT } from '../dist/stress/program/context';
import { generate } from '../dist/stress/program/generate';
import { withHelpers } from '../dist/stress/program/helpers';
import type { Draft } from '../dist/stress/program/make-steps';
import { constantSteps } from '../dist/stress/program/make-steps';
import type { Model } from '../dist/stress/program/model';
import type { ConstantStep } from '../dist/stress/program/outside-steps';
import type { Program } from '../dist/stress/program/program';
import { Random } from '../dist/stress/program/random';
import { outsideWorld, type World } from '../dist/stress/program/world';
import { readWorkload, type Shape } from '../dist/stress/recording/workload';
import { stressArena } from '../dist/stress/replay/exit';

const folder = resolve(__dirname, '../bench/workloads');
const recordings = [
  'py314-bench_mix',
  'py314-bm_go',
  'py314-bm_deltablue',
  'py314-bm_richards',
  'py314-tests_mix',
  'py314near-bm_go',
];

function shapesOf(name: string): Shape[] {
  const { events } = readWorkload(join(folder, `${name}.jsonl.gz`));
  return events.flatMap((event) => (event.kind === 'create' ? [event.shape] : []));
}

describe('stress code', () => {
  let arena: Arena;
  let world: World;
  let context: Context;
  /** What a run comes to: the hash, how many traces it went through, and the exit that it took. */
  const run = (executor: Executor, input: bigint, ...choices: number[]) => {
    const token = context.run(executor, input, choices);
    return { hash: context.hash, stops: context.stops, exit: token === 0 ? NO_EXIT : arena.exitOf(token).exit };
  };
  const expected = (model: Model, input: bigint, exit: number) => ({ hash: model.run(input), stops: 1, exit });

  before(() => {
    arena = stressArena();
    context = new Context(arena);
    world = withHelpers(outsideWorld(), arena, 1);
  });
  after(() => arena.dispose());

  it('holds no number that could be an address in the arena, which would be refused once in many runs', () => {
    const random = new Random(7);
    const holes = { ...shapesOf('py314-bm_go')[0]!.holes, heapPointers: 2000, pointers: 2000, smallNumbers: 0 };
    const steps = constantSteps({ shape: { holes }, random } as Draft);
    assert.equal(steps.length, 4000);
    for (const step of steps) assert.ok((step as ConstantStep).value < 2n ** 46n + 512n);
  });

  it('comes from recordings of what a JIT did', () => {
    const { created, events, freed, name } = readWorkload(join(folder, 'py314-bench_mix.jsonl.gz'));
    const collects = events.filter(({ kind }) => kind === 'collect');
    assert.deepEqual({ created, freed, name }, { created: 1867, freed: 867, name: 'py314-bench_mix' });
    assert.equal(collects.length, 279);
    assert.throws(() => readWorkload(join(folder, 'README.md')), /README.md, line 1: /);
  });

  for (const recording of recordings) {
    describe(recording, () => {
      const shapes = shapesOf(recording);
      let programs: [Program, Shape][] = [];
      before(() => {
        programs = shapes.map((shape, i) => [generate(shape, new Random(7, i), world), shape]);
      });
      after(() => {
        programs = [];
      });

      it('gives each executor its exact sizes and its holes', () => {
        for (const [program, { code, data, exits, holes }] of programs) {
          const encoded = program.encode();
          assert.equal(encoded.exits, exits);
          assert.deepEqual([encoded.code.length, encoded.data.length], [code, data]);
          const own = (section: string, kinds: RegExp) =>
            encoded.relocs.filter(({ kind, target }) => ownOf(target) === section && kinds.test(kind)).length;
          const absolute = /_64$/;
          const relative = /_(PC|PLT)32$/;
          assert.equal(own('code', relative), holes.ownBranches);
          assert.equal(own('data', relative), holes.ownLoads);
          assert.equal(own('code', absolute) + own('data', absolute), holes.ownAddresses);
          const inData = encoded.relocs.filter(({ section }) => section === 'data');
          assert.equal(inData.length, holes.symbolsInData);
          const { symbolsInData, ...counts } = holes;
          // And each exit's, and those of the valid byte, the warm byte and the done stub.
          assert.equal(encoded.relocs.length, sum(Object.values(counts)) + exits + 3);
        }
      });

      it('executes all but the other ways out in each run, which is most of the code', () => {
        for (const [i, [program, { code, exits }]] of programs.entries()) {
          const sites = program.encode().relocs.filter(({ section }) => section === 'code');
          const executedByAny = new Uint8Array(code);
          // There are 14 exits in a program on average, and nothing but the ways out depends on which is taken.
          const allExits = i % 10 === 0;
          for (const exit of allExits ? [NO_EXIT, ...Array(exits).keys()] : [NO_EXIT, exits - 1]) {
            const executed = program.executed(exit);
            assert.ok(sum(executed) >= 0.8 * code, `${sum(executed)} of ${code}`);
            for (const { offset, target } of sites) {
              if (!isWayOut(target)) assert.ok(executed[offset], `the site at ${offset} is not executed`);
            }
            for (let at = 0; at < code; at++) executedByAny[at]! |= executed[at]!;
          }
          if (allExits) assert.equal(sum(executedByAny), code, 'some code is never executed');
        }
      });

      it('ends with what its model says, through each of its exits', () => {
        const random = new Random(3);
        for (const [program, { exits }] of programs) {
          const executor = arena.install(program.encode());
          const model = program.model();
          for (const input of [0n, 2n ** 64n - 1n, random.u64()]) {
            assert.deepEqual(run(executor, input, NO_EXIT), expected(model, input, NO_EXIT));
          }
          const { hash } = expected(model, 5n, NO_EXIT);
          for (let exit = 0; exit < exits; exit++) {
            assert.deepEqual(run(executor, 5n, exit), { hash, stops: 1, exit });
          }
          executor.free();
        }
      });

      it('ends otherwise when any one of its relocs is changed', () => {
        const byHoles = [...shapes].sort((a, b) => total(a) - total(b));
        for (const share of [0, 0.2, 0.4, 0.6, 0.8]) {
          const shape = byHoles[Math.floor(share * byHoles.length)]!;
          const program = generate(shape, new Random(11, shape.code), world);
          const model = program.model();
          const { relocs } = program.encode();
          for (const site of relocs.keys()) {
            const executor = arena.install(program.encode(site));
            const what = `reloc ${site} of an executor of ${shape.code} bytes`;
            const { target } = relocs[site]!;
            if (ownOf(target) === 'warm') {
              // Who says nothing of warmth is kept, however long it has not run.
              assert.ok(!isEvictedUnlessRun(executor), what);
              assert.ok(isEvictedUnlessRun(arena.install(program.encode())), what);
              continue;
            }
            const exit = exitOf(target) ?? NO_EXIT;
            for (const input of [5n, 2n ** 63n]) {
              assert.notDeepEqual(run(executor, input, exit), expected(model, input, exit), what);
            }
            executor.free();
          }
        }
      });
    });
  }

  /** Whether it is cold when nobody runs it. It is gone afterwards. */
  function isEvictedUnlessRun(executor: Executor): boolean {
    arena.collect({ evictCold: true });
    const evicted = arena.collect({ evictCold: true }).evictedIds.includes(executor.id);
    if (!evicted) executor.free();
    return evicted;
  }

  /** Whether running it is enough to keep it from being evicted. It is gone afterwards. */
  function staysWarm(executor: Executor): boolean {
    arena.collect({ evictCold: true });
    run(executor, 1n, NO_EXIT);
    const evicted = arena.collect({ evictCold: true }).evictedIds.includes(executor.id);
    if (!evicted) executor.free();
    return !evicted;
  }

  it('stays warm as long as it runs, and leaves at once when it finds itself invalid', () => {
    const [shape] = shapesOf('py314-bm_richards');
    const program = generate(shape!, new Random(1), world);
    assert.ok(staysWarm(arena.install(program.encode())));
    const validSite = program.encode().relocs.findIndex(({ target }) => ownOf(target) === 'valid');
    const invalid = arena.install(program.encode(validSite));
    assert.deepEqual(run(invalid, 7n, 0), { hash: 7n, stops: 0, exit: NO_EXIT });
    invalid.free();
  });

  it('goes on in the target of a link with the hash so far', () => {
    const shapes = shapesOf('py314-bm_richards').slice(0, 2);
    const programs = shapes.map((shape, i) => generate(shape, new Random(5, i), world));
    const [a, b] = arena.install(programs.map((program) => program.encode()));
    const [modelOfA, modelOfB] = programs.map((program) => program.model());
    arena.link(a!, 0, b!);
    arena.link(b!, 0, a!);
    const hash = modelOfA!.run(modelOfB!.run(modelOfA!.run(9n)));
    assert.deepEqual(run(a!, 9n, 0, 0, NO_EXIT), { hash, stops: 3, exit: NO_EXIT });
    arena.free([a!, b!]);
  });

  it('is executed as an independent disassembler reads it', () => {
    const shapes = shapesOf('py314-bm_richards');
    for (const [i, shape] of shapes.entries()) {
      const program = generate(shape, new Random(7, i), world);
      const executor = arena.install(program.encode());
      const address = arena.pinned(() => executor.address);
      for (const exit of [NO_EXIT, 0, shape.exits - 1]) {
        assert.deepEqual(follow(executor.read('code'), address, exit), program.executed(exit));
      }
      executor.free();
    }
  });

  it('depends on the seed and on nothing else', () => {
    const [shape] = shapesOf('py314-bm_richards');
    const bytes = (...seeds: number[]) => generate(shape!, new Random(...seeds), world).encode();
    assert.deepEqual(bytes(1, 2), bytes(1, 2));
    assert.notDeepEqual(bytes(1, 2).code, bytes(1, 3).code);
    assert.notDeepEqual(bytes(1, 2).data, bytes(2, 2).data);
  });

  it('is refused where the recorded holes do not fit', () => {
    const [shape] = shapesOf('py314-bm_richards');
    const random = () => new Random(1);
    assert.throws(() => generate({ ...shape!, code: 100 }, random(), world), /bytes are needed/);
    assert.throws(() => generate({ ...shape!, data: 16 }, random(), world), /no room for/);
  });
});

function total({ holes }: Shape): number {
  return sum(Object.values(holes));
}

function sum(values: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < values.length; i++) result += values[i]!;
  return result;
}

const ownOf = (target: RelocTarget) => (typeof target === 'object' && 'own' in target ? target.own : undefined);
const exitOf = (target: RelocTarget) => (typeof target === 'object' && 'exit' in target ? target.exit : undefined);
const isWayOut = (target: RelocTarget) => target === 'done' || exitOf(target) !== undefined;

/**
 * 1 for each byte of code that a run executes which takes this exit, by following it through the machine code. All
 * conditional branches are taken but that of the valid byte, and those that choose the way out.
 */
function follow(code: Uint8Array, address: bigint, exit: number): Uint8Array {
  const executed = new Uint8Array(code.length);
  let scratch = 0n; // rcx, for indirect jumps
  let choice = exit; // ecx, at the ways out
  let testsByte = false;
  let now = new Instruction();
  const callers: bigint[] = [];
  const inside = (target: bigint) => target >= address && target < address + BigInt(code.length);
  let at = address;
  for (;;) {
    const offset = Number(at - address);
    now.free();
    now = decode(code.subarray(offset), at);
    executed.fill(1, offset, offset + now.length);
    if (now.code === Code.Mov_r64_imm64 && now.op1Kind === OpKind.Immediate64) scratch = now.immediate64;
    if (now.code === Code.Dec_rm32) choice--;
    at = now.nextIP;
    switch (now.flowControl) {
      case FlowControl.ConditionalBranch:
        if (testsByte || (now.code === Code.Jns_rel8_64 && choice < 0)) break;
        at = now.nearBranchTarget;
        break;
      case FlowControl.UnconditionalBranch:
        if (!inside(now.nearBranchTarget)) return executed; // to the done stub
        at = now.nearBranchTarget;
        break;
      case FlowControl.IndirectBranch:
        if (now.op0Kind === OpKind.Memory) return executed; // through an exit record
        at = scratch;
        break;
      case FlowControl.Call:
        if (!inside(now.nearBranchTarget)) break;
        callers.push(at);
        at = now.nearBranchTarget;
        break;
      case FlowControl.Return:
        at = callers.pop()!;
    }
    testsByte = now.code === Code.Cmp_rm8_imm8;
  }
}

function decode(bytes: Uint8Array, address: bigint): Instruction {
  const decoder = new Decoder(64, bytes, DecoderOptions.None);
  decoder.ip = address;
  const instruction = decoder.decode();
  decoder.free();
  return instruction;
}
