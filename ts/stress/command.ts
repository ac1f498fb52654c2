// `jit-arena stress`: arguments in, exit status out.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { ArenaOptions } from '../index';
import { stressArena } from './exit';
import { makeProgress } from './progress';
import { Replay } from './replay';
import { report } from './report';
import { type Summary, summarize } from './summary';
import { table } from './table';
import { readWorkload, type Workload } from './workload';

export const STRESS_HELP = `jit-arena stress: replays a recorded JIT workload as real machine code in an arena, and checks it

  --workload FILE   a recording, or the name of one that comes along (default: py314-bench_mix)
  --seed N          what the generated code contains (default: 1)
  --seconds S       replay again and again, each time with other contents, for this long (default: once)
  --threads 1       threads that execute; only 1 is built yet
  --writer NAME     auto, alias, procmem or flip (default: auto)
  --layout NAME     together or apart: data beside its code or in pages of its own (default: together)
  --report FILE     write a report in HTML
  --json FILE       write the figures as JSON

The exit status is 0 when everything was right, 1 when anything was wrong, 2 for bad arguments, 130 when interrupted.
`;

const OK = 0;
const WRONG = 1;
const BAD_ARGUMENTS = 2;
const INTERRUPTED = 130;

interface StressOptions {
  workload: string;
  seed: number;
  seconds: number;
  arena: ArenaOptions;
  report: string | undefined;
  json: string | undefined;
}

class BadArgument extends Error {}

/** @param spoil for tests: the number of the check that is to fail */
export async function stress(args: string[], { spoil }: { spoil?: number } = {}): Promise<number> {
  let options: StressOptions;
  let workload: Workload;
  try {
    const parsed = optionsFrom(args);
    if (parsed === 'help') {
      process.stdout.write(STRESS_HELP);
      return OK;
    }
    options = parsed;
    if (process.arch !== 'x64') throw new Error(`it makes x86-64 code, and this is ${process.arch}`);
    workload = readWorkload(options.workload);
  } catch (error) {
    process.stderr.write(`jit-arena stress: ${(error as Error).message}\n`);
    return BAD_ARGUMENTS;
  }
  return run(options, workload, spoil);
}

async function run(options: StressOptions, workload: Workload, spoil: number | undefined): Promise<number> {
  const arena = stressArena({ ...options.arena, name: 'stress' });
  const progress = makeProgress(process.stdout);
  const replay = new Replay(arena, workload, {
    seed: options.seed,
    seconds: options.seconds,
    spoil,
    progress: (...state) => progress.update(...state),
  });
  let interrupted = false;
  const interrupt = () => {
    interrupted = true;
    replay.stop();
  };
  process.once('SIGINT', interrupt);
  process.stdout.write(
    `replaying ${workload.name}: ${workload.created} executors, contents from seed ${options.seed}\n`,
  );
  await replay.run();
  process.off('SIGINT', interrupt);
  progress.stop();

  const summary = summarize(replay, workload.name, options.seed, interrupted);
  process.stdout.write(`${table(summary)}\n`);
  writeFiles(options, summary, replay);
  arena.dispose();
  if (summary.failures > 0) return WRONG;
  return interrupted ? INTERRUPTED : OK;
}

function writeFiles(options: StressOptions, summary: Summary, replay: Replay): void {
  if (options.json) {
    writeFileSync(options.json, `${JSON.stringify(summary, null, 2)}\n`);
    process.stdout.write(`figures: ${options.json}\n`);
  }
  if (options.report) {
    writeFileSync(options.report, report(summary, replay.timeline));
    process.stdout.write(`report: ${options.report}\n`);
  }
}

function optionsFrom(args: string[]): StressOptions | 'help' {
  const { values } = parseArgs({
    args,
    options: {
      help: { type: 'boolean', short: 'h' },
      workload: { type: 'string', default: 'py314-bench_mix' },
      seed: { type: 'string', default: '1' },
      seconds: { type: 'string', default: '0' },
      threads: { type: 'string', default: '1' },
      writer: { type: 'string', default: 'auto' },
      layout: { type: 'string', default: 'together' },
      report: { type: 'string' },
      json: { type: 'string' },
    },
  });
  if (values.help) return 'help';
  if (values.threads !== '1') throw new BadArgument(`--threads ${values.threads}: only 1 is built yet`);
  return {
    workload: findWorkload(values.workload),
    seed: wholeNumber('--seed', values.seed),
    seconds: wholeNumber('--seconds', values.seconds),
    arena: {
      writer: oneOf('--writer', values.writer, ['auto', 'alias', 'procmem', 'flip'] as const),
      layout: oneOf('--layout', values.layout, ['together', 'apart'] as const),
    },
    report: values.report,
    json: values.json,
  };
}

/** A file, or the name of a recording in the package or the checkout. */
function findWorkload(nameOrPath: string): string {
  const file = `${nameOrPath}.jsonl.gz`;
  const places = [nameOrPath, join(__dirname, 'workloads', file), join(__dirname, '../../bench/workloads', file)];
  const path = places.find(existsSync);
  if (!path) throw new BadArgument(`--workload ${nameOrPath}: no such file and no such recording`);
  return path;
}

function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new BadArgument(`${option} ${text}: not a whole number from 0 up`);
  }
  return value;
}

function oneOf<const T extends readonly string[]>(option: string, text: string, choices: T): T[number] {
  if (!choices.includes(text)) throw new BadArgument(`${option} ${text}: not one of ${choices.join(', ')}`);
  return text;
}
