// The code that the stress run is made of: what the recordings ask for is there, all of it is executed, and nothing in it
// can be wrong without the result being wrong.
import assert from 'node:assert/strict';
import { join, resolve } from 'node:path';
import { Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind } from 'iced-x86';
import { Arena } from 'jit-arena';
import { generate } from '../dist/stress/generate';
import { withHelpers } from '../dist/stress/helpers';
import type { Encoded, Program } from '../dist/stress/program';
import { Random } from '../dist/stress/random';
import { readWorkload, type Shape } from '../dist/stress/workload';
import { outsideWorld, type World } from '../dist/stress/world';

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
  const callable = (encoded: Encoded) => {
    const executor = arena.install(encoded);
    return { executor, call: executor.func({ args: ['u64'], returns: 'u64' }) };
  };

  before(() => {
    arena = new Arena();
    world = withHelpers(outsideWorld(), arena, 1);
  });
  after(() => arena.dispose());

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
      const programs = function* (): Generator<[Program, Shape]> {
        for (const [i, shape] of shapes.entries()) yield [generate(shape, new Random(7, i), world), shape];
      };

      it('gives each executor its exact sizes and its holes', () => {
        for (const [program, { code, data, holes }] of programs()) {
          const encoded = program.encode();
          assert.deepEqual([encoded.code.length, encoded.data.length], [code, data]);
          const own = (section: string, kinds: RegExp) =>
            encoded.relocs.filter(
              ({ kind, target }) =>
                typeof target === 'object' && 'own' in target && target.own === section && kinds.test(kind),
            ).length;
          const absolute = /_64$/;
          const relative = /_(PC|PLT)32$/;
          assert.equal(own('code', relative), holes.ownBranches);
          assert.equal(own('data', relative), holes.ownLoads);
          assert.equal(own('code', absolute) + own('data', absolute), holes.ownAddresses);
          const inData = encoded.relocs.filter(({ section }) => section === 'data');
          assert.equal(inData.length, holes.symbolsInData);
          const { symbolsInData, ...counts } = holes;
          assert.equal(
            encoded.relocs.length,
            Object.values(counts).reduce((sum, count) => sum + count),
          );
        }
      });

      it('executes every reloc site, and at least half of the code, in each call', () => {
        for (const [program, { code }] of programs()) {
          const executed = executedBytes(program);
          assert.ok(sum(executed) >= code / 2, `${sum(executed)} of ${code}`);
          for (const { section, offset } of program.encode().relocs) {
            if (section === 'code') assert.ok(executed[offset], `the site at ${offset} is not executed`);
          }
        }
      });

      it('returns what its model says', () => {
        const random = new Random(3);
        for (const [program] of programs()) {
          const { executor, call } = callable(program.encode());
          const model = program.model();
          for (const input of [0n, 2n ** 64n - 1n, random.u64()]) assert.equal(call(input), model.run(input));
          executor.free();
        }
      });

      it('returns something else when any one of its relocs is changed', () => {
        const byHoles = [...shapes].sort((a, b) => total(a) - total(b));
        for (const share of [0, 0.2, 0.4, 0.6, 0.8]) {
          const shape = byHoles[Math.floor(share * byHoles.length)]!;
          const program = generate(shape, new Random(11, shape.code), world);
          const model = program.model();
          const { relocs } = program.encode();
          for (const site of relocs.keys()) {
            const { executor, call } = callable(program.encode(site));
            for (const input of [5n, 2n ** 63n]) {
              assert.notEqual(call(input), model.run(input), `reloc ${site} of an executor of ${shape.code} bytes`);
            }
            executor.free();
          }
        }
      });
    });
  }

  it('is executed as an independent disassembler reads it', () => {
    const shapes = shapesOf('py314-bm_richards');
    for (const [i, shape] of shapes.entries()) {
      const program = generate(shape, new Random(7, i), world);
      const { executor } = callable(program.encode());
      const visited = follow(
        executor.read('code'),
        arena.pinned(() => executor.address),
      );
      assert.deepEqual(visited, executedBytes(program));
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

function sum(values: Iterable<number>): number {
  let result = 0;
  for (const value of values) result += value;
  return result;
}

/** 1 for each byte of code that a call executes, as the generator knows it. */
function executedBytes(program: Program): Uint8Array {
  const executed = new Uint8Array(program.shape.code);
  for (const { offset, size } of program.executed()) executed.fill(1, offset, offset + size);
  return executed;
}

/** The same, by following a call through the machine code and its branches, all of which are taken. */
function follow(code: Uint8Array, address: bigint): Uint8Array {
  const executed = new Uint8Array(code.length);
  let scratch = 0n; // rcx, for indirect jumps
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
    at = now.nextIP;
    switch (now.flowControl) {
      case FlowControl.UnconditionalBranch:
      case FlowControl.ConditionalBranch:
        at = now.nearBranchTarget;
        break;
      case FlowControl.IndirectBranch:
        at = scratch;
        break;
      case FlowControl.Call:
        if (!inside(now.nearBranchTarget)) break;
        callers.push(at);
        at = now.nearBranchTarget;
        break;
      case FlowControl.Return: {
        const caller = callers.pop();
        if (caller === undefined) return executed;
        at = caller;
      }
    }
  }
}

function decode(bytes: Uint8Array, address: bigint): Instruction {
  const decoder = new Decoder(64, bytes, DecoderOptions.None);
  decoder.ip = address;
  const instruction = decoder.decode();
  decoder.free();
  return instruction;
}
