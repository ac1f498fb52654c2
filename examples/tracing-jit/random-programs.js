// Random programs that always end: nested loops that count down, branches, arithmetic, and globals that change rarely.
const { Assembler, GLOBALS, Op } = require('./bytecode.js');

/** The same numbers from the same seed: random(n) is below n. */
function makeRandom(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

// Registers 0 to 7 hold values, 8 is scratch, 9 stays 0, and 10 on are the counters of loops.
const [SCRATCH, ZERO, COUNTERS] = [8, 9, 10];
const MAX_DEPTH = 3;

function randomProgram(random) {
  const out = new Assembler();
  const value = () => random(8);
  const labels = (() => {
    let last = 0;
    return () => `label ${++last}`;
  })();

  const operate = () => out.emit([Op.add, Op.subtract, Op.multiply, Op.xor][random(4)], value(), value(), value());
  const tweak = () => out.emit(Op.addConstant, value(), value(), random(2001) - 1000);
  const get = () => out.emit(Op.getGlobal, value(), random(GLOBALS));

  /** Values look random after a few operations, so that neither way of the branch is rare. */
  const branch = (depth) => {
    const [otherwise, end] = [labels(), labels()];
    out.emit(Op.jumpIfLess, value(), value(), otherwise);
    block(depth, 2);
    out.emit(Op.jump, end).label(otherwise);
    block(depth, 2);
    out.label(end);
  };

  /** In an inner loop a global that changes when the outer loop comes round; else one that changes once in 128 times. */
  const set = (depth) => {
    if (depth > 1) {
      out.emit(Op.setGlobal, random(GLOBALS), COUNTERS);
      return;
    }
    const over = labels();
    out.emit(Op.constant, SCRATCH, 2 ** 31 - 2 ** 25);
    out.emit(Op.jumpIfLess, value(), SCRATCH, over);
    out.emit(Op.constant, SCRATCH, random(4)).emit(Op.setGlobal, random(GLOBALS), SCRATCH).label(over);
  };

  const loop = (depth) => {
    const again = labels();
    const counter = COUNTERS + depth;
    out
      .emit(Op.constant, counter, 3 + random(depth === 0 ? 40 : 8))
      .label(again)
      .emit(Op.loop);
    block(depth + 1, 4);
    out.emit(Op.addConstant, counter, counter, -1).emit(Op.jumpIfLess, ZERO, counter, again);
  };

  function block(depth, length) {
    for (let left = 1 + random(length); left > 0; left--) {
      const kind = random(12);
      if (kind < 4) operate();
      else if (kind < 6) tweak();
      else if (kind < 8) get();
      else if (kind < 9) set(depth);
      else if (kind < 11) branch(depth);
      else if (depth < MAX_DEPTH) loop(depth);
    }
  }

  loop(0);
  block(0, 2);
  loop(0);
  // Everything that was computed counts: r0 = 31 r0 + r, for each register. An odd factor loses nothing.
  out.emit(Op.constant, SCRATCH, 31);
  for (let register = 1; register < 8; register++) {
    out.emit(Op.multiply, 0, 0, SCRATCH).emit(Op.add, 0, 0, register);
  }
  return out.finish();
}

const randomArguments = (random) => Array.from({ length: 8 }, () => random(2 ** 32) | 0);

module.exports = { makeRandom, randomArguments, randomProgram };
