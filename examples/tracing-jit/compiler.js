// From a recording to an executor: a stencil for each step, and the ways out at the end, where they are out of the way.
const { spawnSync } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const { StencilSet, TraceBuilder } = require('jit-arena');
const { Op, REGISTERS, WORDS } = require('./bytecode.js');
const { otherWay } = require('./recorder.js');

/** Stencils must not be position independent, and each needs a section of its own: docs/stencils.md. */
const FLAGS = ['-c', '-O2', '-fno-pic', '-mcmodel=large', '-ffunction-sections', '-fno-asynchronous-unwind-tables'];

/** Compiles stencils.c. A real JIT would do this when it is built, and ship what `StencilSet.save` gives. */
function compileStencils(compiler = 'cc') {
  const folder = mkdtempSync(join(tmpdir(), 'tracing-jit-'));
  try {
    const object = join(folder, 'stencils.o');
    const { error, status, stderr } = spawnSync(
      compiler,
      [...FLAGS, '-fcf-protection=none', '-o', object, join(__dirname, 'stencils.c')],
      { encoding: 'utf8' },
    );
    if (error) throw error;
    if (status !== 0) throw new Error(stderr);
    return StencilSet.fromObject(readFileSync(object));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const arithmetic = { [Op.add]: 'add', [Op.subtract]: 'subtract', [Op.multiply]: 'multiply', [Op.xor]: 'xor_' };

/**
 * Puts a trace together. `bet(global)` tells what a global is now if the trace may rely on it to stay so, and undefined
 * if not. Returns the executor's spec; its exit tags are the places where the interpreter goes on.
 */
function compileTrace(stencils, code, recording, { bet, setGlobal }) {
  const builder = new TraceBuilder();
  const emit = (name, holes) => builder.emit(stencils.get(name), holes);
  const exitTags = [];
  /** A hole's filling: the way out to `pc`. */
  const exitTo = (pc) => {
    exitTags.push(pc);
    return { label: `exit ${exitTags.length - 1}` };
  };

  emit('start', { VALID: { own: 'valid' }, WARM: { own: 'warm' }, EXIT: exitTo(recording.start) });
  builder.label('again');
  recording.steps.forEach((pc, i) => {
    const [a, b, c] = code.subarray(pc + 1, pc + WORDS);
    const [A, B, C] = [a, b, c].map((value) => ({ value }));
    const op = code[pc];
    if (op in arithmetic) emit(arithmetic[op], { A, B, C });
    else if (op === Op.constant) emit('constant', { A, VALUE: B });
    else if (op === Op.addConstant) emit('add_constant', { A, B, VALUE: C });
    else if (op === Op.jumpIfLess) {
      const went = recording.steps[i + 1] ?? recording.next;
      const guard = went === c ? 'guard_less' : 'guard_not_less';
      emit(guard, { A, B, EXIT: exitTo(otherWay(code, pc, went)) });
    } else if (op === Op.getGlobal) {
      const value = bet(b);
      if (value === undefined) emit('move', { A, B: { value: REGISTERS + b } });
      else emit('constant', { A, VALUE: { value } });
    } else if (op === Op.setGlobal) {
      emit('set_global', { A, B, SET_GLOBAL: setGlobal, VALID: { own: 'valid' }, EXIT: exitTo(pc + WORDS) });
    }
    // Nothing is left of a jump and of a loop header: the trace is what comes after them.
  });
  if (recording.closed) emit('go', { TARGET: { label: 'again' } });
  else if (code[recording.next] === Op.halt) emit('go', { TARGET: 'done' });
  else emit('go', { TARGET: exitTo(recording.next) });
  exitTags.forEach((_, exit) => {
    builder.label(`exit ${exit}`);
    emit('leave', { RECORD: { exit } });
  });
  return builder.build({ exits: exitTags.length, exitTags, name: `trace of ${recording.start}` });
}

module.exports = { compileStencils, compileTrace };
