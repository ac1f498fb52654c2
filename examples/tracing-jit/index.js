// A small tracing JIT on random programs, beside its own interpreter. x86-64 Linux with a C compiler.
// Run: node examples/tracing-jit [seed]
const { Assembler, GLOBALS, makeMemory, Op, REGISTERS } = require('./bytecode.js');
const { compileStencils } = require('./compiler.js');
const { interpret } = require('./interpreter.js');
const { TracingJit } = require('./jit.js');
const { makeRandom, randomArguments, randomProgram } = require('./random-programs.js');

const seed = Number(process.argv[2] ?? 1);
if (!Number.isSafeInteger(seed)) throw new TypeError(`the seed is a whole number, and not ${process.argv[2]}`);
const random = makeRandom(seed);
const stencils = compileStencils();

/** What the JIT's answers are compared with: the same programs in the same order, with globals of their own. */
class Interpreter {
  memory = makeMemory();
  run(code, args) {
    this.memory.fill(0, 0, REGISTERS);
    this.memory.set(args);
    interpret(code, this.memory);
    return this.memory[0];
  }
}

function milliseconds(work) {
  const start = process.hrtime.bigint();
  work();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

// ---- Right answers: 60 programs, of which 20 at a time are in use, so that the traces of others become cold.
const jit = new TracingJit(stencils);
const reference = new Interpreter();
const programs = Array.from({ length: 60 }, () => jit.load(randomProgram(random)));
let wrong = 0;
const total = { jit: 0, interpreter: 0 };
for (let round = 0; round < 2000; round++) {
  const phase = Math.floor(round / 200) * 7;
  const program = programs[(phase + random(20)) % programs.length];
  const args = randomArguments(random);
  let answer;
  let expected;
  total.jit += milliseconds(() => (answer = jit.run(program, args)));
  total.interpreter += milliseconds(() => (expected = reference.run(program.code, args)));
  if (answer !== expected) wrong++;
}
if (jit.memory.slice(-GLOBALS).join() !== reference.memory.slice(-GLOBALS).join()) wrong++;

const { counts } = jit;
const { liveBytes, committedBytes, executors } = jit.arena.stats();
console.log(`seed ${seed}: ${programs.length} random programs, ${counts.runs} runs, ${wrong} wrong answers

  traces compiled   ${counts.loopTraces} of hot loops, ${counts.sideTraces} of hot exits
  machine code ran  ${counts.machineRuns} times, and left through an exit ${counts.exits} times
  links made        ${counts.links}; ${counts.crossings} runs left from another trace than they had entered
  invalidated       ${counts.invalidated} traces, because a global had changed; ${counts.endedWhileRunning} of them while they ran
  evicted           ${counts.evicted} cold traces in ${counts.collects} collects
  moved             ${counts.moved} traces
  at the end        ${executors} traces of ${liveBytes} bytes in ${committedBytes} committed bytes
  time              interpreter ${total.interpreter.toFixed(0)} ms; JIT ${total.jit.toFixed(0)} ms, with recording, compiling and collecting
`);
const { ok, problems, broken } = jit.arena.verify();
if (wrong > 0 || !ok) {
  console.error(broken ?? problems);
  process.exitCode = 1;
}
jit.dispose();

// ---- Speed: a program that only loops. The median leaves out the first runs, in which both warm up; the short programs
// above are over before compiling them pays.
function countingProgram(times) {
  const [sum, i, product, zero] = [0, 1, 2, 3];
  return new Assembler()
    .emit(Op.constant, i, times)
    .label('again')
    .emit(Op.loop)
    .emit(Op.multiply, product, i, i)
    .emit(Op.xor, sum, sum, product)
    .emit(Op.addConstant, sum, sum, 7)
    .emit(Op.jumpIfLess, sum, zero, 'negative')
    .emit(Op.subtract, sum, sum, i)
    .label('negative')
    .emit(Op.addConstant, i, i, -1)
    .emit(Op.jumpIfLess, zero, i, 'again')
    .finish();
}

const times = 200_000;
const fast = new TracingJit(stencils);
const slow = new Interpreter();
const program = fast.load(countingProgram(times));
const interpreted = [];
const compiled = [];
for (let i = 0; i < 11; i++) {
  interpreted.push(milliseconds(() => slow.run(program.code, [])));
  compiled.push(milliseconds(() => fast.run(program, [])));
}
if (slow.memory[0] !== fast.memory[0]) throw new Error('the answers differ');
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const [before, after] = [median(interpreted), median(compiled)];
console.log(`speed: a loop of ${times} rounds, the median of ${compiled.length} runs
  interpreter       ${before.toFixed(2)} ms
  machine code      ${after.toFixed(2)} ms, ${(before / after).toFixed(1)} times as fast`);
fast.dispose();
