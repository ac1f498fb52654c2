// Records a trace: the instructions that one pass really executes, with branches the way they went.
const { Op, WORDS } = require('./bytecode.js');
const { interpret } = require('./interpreter.js');

const MAX_STEPS = 100;

/**
 * Executes from `start` on and takes notes: `steps` are places in the code; `next` is where the pass went after the
 * last one. A pass ends at the next loop header, so that inner loops get traces of their own, at the halt, or when it
 * becomes too long.
 */
function record(code, memory, start, setGlobal) {
  const steps = [];
  let pc = start;
  do {
    steps.push(pc);
    pc = interpret(code, memory, { pc, once: true, setGlobal });
  } while (code[pc] !== Op.halt && code[pc] !== Op.loop && steps.length < MAX_STEPS);
  // Not at the halt, where every step leads back to where it started.
  return { start, steps, next: pc, closed: pc === start && code[pc] === Op.loop };
}

/** Where a branch of the trace would have gone the other way: there the guard leaves to. */
function otherWay(code, pc, went) {
  const target = code[pc + 3];
  return went === target ? pc + WORDS : target;
}

module.exports = { otherWay, record };
