// The JIT: counts loops, records and compiles the hot ones, and lives with everything that happens to traces afterwards.
const { Arena } = require('jit-arena');
const { makeMemory, REGISTERS, WORDS } = require('./bytecode.js');
const { compileTrace } = require('./compiler.js');
const { interpret } = require('./interpreter.js');
const { record } = require('./recorder.js');

/** How often a loop comes round before it is hot. */
const HOT_LOOP = 8;
/** How often a global changes before nobody bets on it until the next `collect`. */
const MAX_CHANGES = 16;

/** A program that has been loaded: its bytecode, and what the JIT knows of it. */
class Program {
  /** Trace by the place in the code where it begins. */
  traces = new Map();
  /** How often each loop has come round. */
  loops = new Map();
  constructor(code) {
    this.code = code;
  }
}

class TracingJit {
  /** What happened. */
  counts = {
    runs: 0,
    loopTraces: 0,
    sideTraces: 0,
    machineRuns: 0,
    exits: 0,
    links: 0,
    crossings: 0, //         runs that left from another trace than they had entered
    invalidated: 0,
    endedWhileRunning: 0, // runs that left from a trace which had been invalidated meanwhile
    evicted: 0,
    moved: 0,
    collects: 0,
  };
  memory = makeMemory();
  /** Executor id to trace. Traces that have ended stay until the next `collect`: one may still be on its way out. */
  #traces = new Map();
  /** For each global the traces that rely on its value, and how often it has changed since the last `collect`. */
  #bets = Array.from({ length: this.memory.length - REGISTERS }, () => ({ traces: new Set(), changes: 0 }));
  #stencils;
  #collectEvery;

  /** After every so many runs cold traces are evicted and the others moved together. */
  constructor(stencils, { collectEvery = 50 } = {}) {
    this.#stencils = stencils;
    this.#collectEvery = collectEvery;
    // An exit that is taken four times is worth a trace of its own.
    this.arena = new Arena({ exitThreshold: 4, name: 'tracing-jit' });
    this.runTrace = this.arena.runner(this.memory);
    // Machine code calls this for setGlobal. The trace that called it may be one of those that it invalidates: its bytes
    // stay until it has left.
    this.setGlobalCallback = this.arena.callback({ args: ['i32', 'i32'], returns: 'void' }, (global, value) =>
      this.setGlobal(this.memory, global, value),
    );
    this.setGlobal = this.setGlobal.bind(this);
  }

  load(code) {
    return new Program(code);
  }

  /** Runs a program with these values in its first registers, 0 in the others. Returns the first register. */
  run(program, args) {
    const { code } = program;
    this.memory.fill(0, 0, REGISTERS);
    this.memory.set(args);
    interpret(code, this.memory, { onLoop: (pc) => this.#onLoop(program, pc), setGlobal: this.setGlobal });
    const result = this.memory[0];
    if (++this.counts.runs % this.#collectEvery === 0) this.collect();
    return result;
  }

  /** The interpreter has come to a loop header. Returns where it goes on. */
  #onLoop(program, pc) {
    const trace = program.traces.get(pc);
    if (trace !== undefined) return this.#enter(trace);
    const count = (program.loops.get(pc) ?? 0) + 1;
    program.loops.set(pc, count);
    if (count < HOT_LOOP) return pc + WORDS;
    program.loops.delete(pc);
    return this.#compile(program, pc, 'loopTraces').next;
  }

  /** Runs machine code until it leaves: from this trace, or from one that links have led to. */
  #enter(trace) {
    const exitCode = this.runTrace(trace.executor);
    this.counts.machineRuns++;
    const { code } = trace.program;
    // Done: the program is at its halt, which is its last instruction.
    if (exitCode === 0) return code.length - WORDS;
    // By id, and not with arena.exitTag: the trace may have been invalidated while it ran, and its id is stale then.
    const { executor, exit, hot } = this.arena.exitOf(exitCode);
    const left = this.#traces.get(executor);
    this.counts.exits++;
    if (left !== trace) this.counts.crossings++;
    if (!left.alive) this.counts.endedWhileRunning++;
    const pc = left.exitTags[exit];
    return hot ? this.#hotExit(left, exit, pc) : pc;
  }

  /** From now on the exit jumps straight to the trace of what follows. Returns where the interpreter goes on. */
  #hotExit(left, exit, pc) {
    const { program } = left;
    let next = pc;
    let target = program.traces.get(pc);
    if (target === undefined) {
      ({ trace: target, next } = this.#compile(program, pc, 'sideTraces'));
    }
    // Recording executes the program, which may have ended either of the two.
    if (left.alive && target.alive) {
      this.arena.link(left.executor, exit, target.executor);
      this.counts.links++;
    }
    return next;
  }

  /** Records one pass from `pc` on and makes a trace of it. */
  #compile(program, pc, kind) {
    const { code } = program;
    const recording = record(code, this.memory, pc, this.setGlobal);
    const trace = { program, pc, alive: true, executor: undefined, exitTags: [], bets: new Set() };
    // What recording saw does not matter: the value now is what has to stay.
    const bet = (global) => {
      if (this.#bets[global].changes >= MAX_CHANGES) return undefined;
      trace.bets.add(global);
      return this.memory[REGISTERS + global];
    };
    const spec = compileTrace(this.#stencils, code, recording, { bet, setGlobal: this.setGlobalCallback });
    trace.exitTags = spec.exitTags;
    trace.executor = this.arena.install(spec);
    for (const global of trace.bets) this.#bets[global].traces.add(trace);
    this.#traces.set(trace.executor.id, trace);
    program.traces.set(pc, trace);
    this.counts[kind]++;
    return { trace, next: recording.next };
  }

  /** The program changes a global, in the interpreter or in a trace. */
  setGlobal(memory, global, value) {
    const word = REGISTERS + global;
    if (memory[word] === value) return;
    memory[word] = value;
    this.#bets[global].changes++;
    this.assumptionFailed([...this.#bets[global].traces]);
  }

  /** Ends traces that have bet on what is no longer true. */
  assumptionFailed(traces) {
    for (const trace of traces) {
      this.#forget(trace);
      this.arena.invalidate(trace.executor);
      this.counts.invalidated++;
    }
  }

  /** Evicts traces that have not run since the last time, and moves the others together. */
  collect() {
    const { evictedIds, moved } = this.arena.collect({ evictCold: true });
    for (const id of evictedIds) this.#forget(this.#traces.get(id));
    for (const [id, trace] of this.#traces) if (!trace.alive) this.#traces.delete(id);
    for (const bets of this.#bets) bets.changes = 0;
    this.counts.evicted += evictedIds.length;
    this.counts.moved += moved;
    this.counts.collects++;
  }

  /** The trace has ended, or is about to: nothing of ours leads to it any more. Links were the arena's to undo. */
  #forget(trace) {
    trace.alive = false;
    trace.program.traces.delete(trace.pc);
    for (const global of trace.bets) this.#bets[global].traces.delete(trace);
  }

  dispose() {
    this.arena.dispose();
  }
}

module.exports = { TracingJit };
