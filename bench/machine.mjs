// The machine that a run was made on, and whether anything else was using it.
import { readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { load, root } from './js/measure.mjs';

const CLOCK_TICKS = 100; // per second: USER_HZ, the same on every Linux
/** Of one processor. */
const MOST_OF_OTHERS = 0.05;
const MOST_STOLEN = 0.01;

const readWords = (file) => readFileSync(file, 'utf8').trim().split(/\s+/);

export function describeMachine() {
  const processors = cpus();
  return {
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryBytes: totalmem(),
    kernel: `${process.platform} ${release()}`,
    node: process.version,
    koffi: versionOf('koffi'),
    date: new Date().toISOString(),
  };
}

function versionOf(name) {
  try {
    return load(`${name}/package.json`).version;
  } catch {
    return koffiWithoutExports(name);
  }
}

// A package whose exports hide its package.json.
function koffiWithoutExports(name) {
  try {
    return JSON.parse(readFileSync(`${root}/node_modules/${name}/package.json`, 'utf8')).version;
  } catch {
    return 'not installed';
  }
}

/** Seconds of processor time so far: of everybody, taken away by a hypervisor, and of this process with its children. */
function processorTime() {
  const [, user, nice, system, , , irq, softirq, steal] = readWords('/proc/stat').map(Number);
  // Behind the name, which may hold spaces: utime, stime, cutime and cstime are fields 14 to 17.
  const own = readFileSync('/proc/self/stat', 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
    .slice(11, 15)
    .map(Number);
  return {
    at: performance.now() / 1000,
    busy: (user + nice + system + irq + softirq) / CLOCK_TICKS,
    stolen: steal / CLOCK_TICKS,
    own: own.reduce((sum, ticks) => sum + ticks, 0) / CLOCK_TICKS,
  };
}

/** Watches what others do. Children count as own once they have ended. */
export class LoadWatch {
  #reasons = [];
  #last = processorTime();

  get reasons() {
    return this.#reasons;
  }

  /** Looks at the time since the last look; `during` names it. */
  look(during) {
    const now = processorTime();
    const last = this.#last;
    this.#last = now;
    const seconds = now.at - last.at;
    if (seconds < 0.2) return; // too short for a clock of 10 ms
    const others = (now.busy - last.busy - (now.own - last.own)) / seconds;
    const stolen = (now.stolen - last.stolen) / seconds;
    const percent = (share) => `${Math.round(share * 100)} % of a processor`;
    if (others > MOST_OF_OTHERS) this.#reasons.push(`${during}: others used ${percent(others)}`);
    if (stolen > MOST_STOLEN) this.#reasons.push(`${during}: the hypervisor took ${percent(stolen)}`);
  }

  /** A second in which this process does nothing. */
  async lookAtIdle(when) {
    this.#last = processorTime();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    this.look(when);
  }
}

export const loadAverage = () => readWords('/proc/loadavg').slice(0, 3).map(Number);
