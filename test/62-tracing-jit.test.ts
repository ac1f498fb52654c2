// The tracing JIT of examples/tracing-jit gives the answers of its interpreter, while traces are linked, invalidated,
// evicted and moved; and the same programs find out a JIT that is broken.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Arena, StencilSet } from 'jit-arena';
import { canCompile, compilers, compileText } from './support/compile.js';
import { skip } from './support/skip.js';

type Code = Int32Array;
type Random = (below: number) => number;
interface Trace {
  pc: number;
}
interface Jit {
  readonly arena: Arena;
  readonly memory: Int32Array;
  readonly counts: Record<string, number>;
  load(code: Code): { readonly code: Code };
  run(program: { readonly code: Code }, args: readonly number[]): number;
  assumptionFailed(traces: readonly Trace[]): void;
  collect(): void;
  dispose(): void;
}

const folder = resolve(__dirname, '..', 'examples', 'tracing-jit');
const load = (file: string) => require(join(folder, file));
const { Assembler, makeMemory, Op, REGISTERS } = load('bytecode.js');
const { compileStencils } = load('compiler.js') as { compileStencils: (compiler: string) => StencilSet };
const { interpret } = load('interpreter.js') as { interpret: (code: Code, memory: Int32Array) => void };
const { TracingJit } = load('jit.js') as {
  TracingJit: new (stencils: StencilSet, options?: { collectEvery?: number }) => Jit;
};
const { makeRandom, randomArguments, randomProgram } = load('random-programs.js') as {
  makeRandom: (seed: number) => Random;
  randomArguments: (random: Random) => number[];
  randomProgram: (random: Random) => Code;
};

/** Runs random programs in the JIT and in the interpreter; throws at the first answer that differs. */
function compare(jit: Jit, seed: number, { programs: count = 40, runs = 700 } = {}): void {
  const random = makeRandom(seed);
  const programs = Array.from({ length: count }, () => jit.load(randomProgram(random)));
  const memory = makeMemory() as Int32Array;
  for (let i = 0; i < runs; i++) {
    // Fifteen programs at a time, so that the traces of the others become cold.
    const program = programs[(Math.floor(i / 100) * 5 + random(15)) % count] as { code: Code };
    const args = randomArguments(random);
    memory.fill(0, 0, REGISTERS);
    memory.set(args);
    interpret(program.code, memory);
    const answer = jit.run(program, args);
    assert.equal(answer, memory[0], `seed ${seed}, run ${i}: the answer is wrong`);
    assert.deepEqual(jit.memory, memory, `seed ${seed}, run ${i}: a register or a global is wrong`);
  }
}

describe('the tracing JIT of the examples', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  let jit: Jit | undefined;
  const make = (Class = TracingJit, stencils = compileStencils(compilers[0] as string), collectEvery = 20): Jit => {
    jit = new Class(stencils, { collectEvery });
    return jit;
  };
  afterEach(() => {
    const { ok, problems, broken } = jit?.arena.verify() ?? { ok: true, problems: [] };
    jit?.dispose();
    jit = undefined;
    assert.ok(ok, broken ?? String(problems[0]?.what));
  });

  const seeds = [1, 2, 3, 1 + Math.floor(Math.random() * 2 ** 31)];
  for (const compiler of compilers) {
    it(`answers as its interpreter does, with stencils of ${compiler}`, () => {
      const stencils = compileStencils(compiler);
      const sums: Record<string, number> = {};
      for (const seed of seeds) {
        jit?.dispose();
        const running = make(TracingJit, stencils);
        try {
          compare(running, seed);
        } catch (error) {
          console.log(`      seed ${seed}`);
          throw error;
        }
        for (const [name, count] of Object.entries(running.counts)) sums[name] = (sums[name] ?? 0) + count;
      }
      // Everything that the example is about has happened, and more than once.
      assert.equal(sums.runs, 700 * seeds.length);
      for (const [name, count] of Object.entries(sums)) assert.ok(count > 1, `${name}: ${count}`);
    });
  }

  it('is right when it collects after every run', () => {
    const restless = make(TracingJit, undefined, 1);
    compare(restless, 5, { runs: 200 });
    assert.ok((restless.counts.evicted as number) > 0);
  });

  it('runs a long loop in machine code, to the halt behind it', () => {
    const code = new Assembler()
      .emit(Op.constant, 1, 10_000)
      .label('again')
      .emit(Op.loop)
      .emit(Op.add, 0, 0, 1)
      .emit(Op.addConstant, 1, 1, -1)
      .emit(Op.jumpIfLess, 2, 1, 'again')
      .finish();
    const looping = make();
    const program = looping.load(code);
    for (let i = 0; i < 12; i++) assert.equal(looping.run(program, []), 50_005_000);
    const { loopTraces, sideTraces, machineRuns } = looping.counts;
    assert.deepEqual({ loopTraces, sideTraces, machineRuns }, { loopTraces: 1, sideTraces: 1, machineRuns: 12 });
  });

  // The inner loop adds up a global, and sets it to the outer loop's counter: its trace lives for one round of that.
  const selfDefeating: Code = new Assembler()
    .emit(Op.constant, 1, 30)
    .label('outer')
    .emit(Op.constant, 2, 20)
    .label('inner')
    .emit(Op.loop)
    .emit(Op.getGlobal, 3, 0)
    .emit(Op.add, 0, 0, 3)
    .emit(Op.setGlobal, 0, 1)
    .emit(Op.addConstant, 2, 2, -1)
    .emit(Op.jumpIfLess, 4, 2, 'inner')
    .emit(Op.addConstant, 1, 1, -1)
    .emit(Op.jumpIfLess, 4, 1, 'outer')
    .finish();
  const checkSelfDefeating = (jit: Jit) => {
    const memory = makeMemory() as Int32Array;
    interpret(selfDefeating, memory);
    assert.equal(jit.run(jit.load(selfDefeating), []), memory[0], 'the sum is wrong');
  };

  it('leaves a trace that has just invalidated itself', () => {
    const running = make();
    checkSelfDefeating(running);
    assert.ok((running.counts.endedWhileRunning as number) > 1);
  });

  describe('when it is broken, is found out', () => {
    it('without invalidation', () => {
      class Forgetful extends TracingJit {
        override assumptionFailed(): void {}
      }
      assert.throws(() => compareSeeds(Forgetful), /is wrong/);
    });

    it('when a trace goes on after it has been invalidated', () => {
      const text = readFileSync(join(folder, 'stencils.c'), 'utf8');
      // The valid byte is looked at, and the answer is ignored except when it is 7, which it never is.
      const broken = text.replace(/(SET_GLOBAL\(.*;\s+if \(.*VALID)\)/, '$1 != 7)');
      assert.notEqual(broken, text);
      const flags = ['-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections'];
      const stencils = StencilSet.fromObject(compileText(broken, flags));
      assert.throws(() => checkSelfDefeating(make(TracingJit, stencils)), /is wrong/);
    });

    it('when it keeps traces that were evicted', () => {
      class Clinging extends TracingJit {
        override collect(): void {
          this.arena.collect({ evictCold: true });
        }
      }
      assert.throws(() => compareSeeds(Clinging), { code: 'ERR_ARENA_STALE_EXECUTOR' });
    });

    function compareSeeds(Class: typeof TracingJit): void {
      for (let seed = 1; seed <= 5; seed++) {
        jit?.dispose();
        compare(make(Class), seed);
      }
    }
  });

  it('runs as a program, which says what it did', function () {
    this.timeout(60_000);
    const { status, stdout, stderr } = spawnSync(process.execPath, [folder, '3'], { encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /seed 3: .* 0 wrong answers/);
    assert.match(stdout, /times as fast/);
  });
});
