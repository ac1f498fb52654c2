// The toy machine: sixteen 32-bit registers, eight globals that all programs share, and bytecode of four words each.

/** Operations; a, b and c are the words behind them. */
const Op = {
  halt: 0, //       the last instruction of every program, and only that
  loop: 1, //       does nothing: marks the place that a loop comes back to
  constant: 2, //   r[a] = b
  add: 3, //        r[a] = r[b] + r[c]
  subtract: 4, //   r[a] = r[b] - r[c]
  multiply: 5, //   r[a] = r[b] * r[c]
  xor: 6, //        r[a] = r[b] ^ r[c]
  addConstant: 7, //r[a] = r[b] + c
  jump: 8, //       go to a
  jumpIfLess: 9, // if r[a] < r[b] go to c
  getGlobal: 10, // r[a] = globals[b]
  setGlobal: 11, // globals[a] = r[b]
};

const WORDS = 4;
const REGISTERS = 16;
const GLOBALS = 8;

/** Registers and globals lie in one Int32Array, so that machine code needs a single pointer: global g is word 16 + g. */
const makeMemory = () => new Int32Array(REGISTERS + GLOBALS);

/** Writes bytecode, with labels that may be used before they are placed. */
class Assembler {
  #words = [];
  #labels = new Map();

  emit(op, a = 0, b = 0, c = 0) {
    this.#words.push(op, a, b, c);
    return this;
  }

  label(name) {
    this.#labels.set(name, this.#words.length);
    return this;
  }

  /** The program; operands that are strings become the places of their labels. */
  finish() {
    this.emit(Op.halt);
    return Int32Array.from(this.#words, (word) => (typeof word === 'string' ? this.#labels.get(word) : word));
  }
}

module.exports = { Assembler, GLOBALS, makeMemory, Op, REGISTERS, WORDS };
