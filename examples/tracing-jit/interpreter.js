// The interpreter: what programs mean. The JIT has to give the same answers, and uses this very function while a program
// is cold and while it records a trace.
const { Op, REGISTERS, WORDS } = require('./bytecode.js');

const plain = {
  /** A loop comes round: where to go on. The JIT puts its own function here. */
  onLoop: (pc) => pc + WORDS,
  setGlobal: (memory, global, value) => {
    memory[REGISTERS + global] = value;
  },
};

/** Runs from `pc` to the halt, or for one instruction. Returns where it stopped. */
function interpret(code, memory, { pc = 0, once = false, onLoop = plain.onLoop, setGlobal = plain.setGlobal } = {}) {
  do {
    const a = code[pc + 1];
    const b = code[pc + 2];
    const c = code[pc + 3];
    switch (code[pc]) {
      case Op.halt:
        return pc;
      case Op.loop:
        pc = onLoop(pc);
        continue;
      case Op.constant:
        memory[a] = b;
        break;
      case Op.add:
        memory[a] = memory[b] + memory[c];
        break;
      case Op.subtract:
        memory[a] = memory[b] - memory[c];
        break;
      case Op.multiply:
        memory[a] = Math.imul(memory[b], memory[c]);
        break;
      case Op.xor:
        memory[a] = memory[b] ^ memory[c];
        break;
      case Op.addConstant:
        memory[a] = memory[b] + c;
        break;
      case Op.jump:
        pc = a;
        continue;
      case Op.jumpIfLess:
        pc = memory[a] < memory[b] ? c : pc + WORDS;
        continue;
      case Op.getGlobal:
        memory[a] = memory[REGISTERS + b];
        break;
      case Op.setGlobal:
        setGlobal(memory, a, memory[b]);
        break;
      default:
        throw new Error(`no operation ${code[pc]} at ${pc}`);
    }
    pc += WORDS;
  } while (!once);
  return pc;
}

module.exports = { interpret };
