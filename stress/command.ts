// `jit-arena stress`: arguments in, exit status out.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { Arena, ArenaOptions } from 'jit-arena';
import { findWorkload, readWorkload, type Workload } from './recording/workload';
import { stressArena } from './replay/exit';
import { Replay } from './replay/replay';
import { bytes, count, plural } from './report/format';
import { makeProgress, type Progress } from './report/progress';
import { report } from './report/report';
import { type Summary, summarize } from './report/summary';
import { table } from './report/table';
import { MOST_THREADS, Threads } from './threads/threads';

export const STRESS_HELP = `jit-arena stress: replays a recorded JIT workload as real machine code in an arena, and checks it

  --workload FILE   a recording, or the name of one that comes along (default: py314-bench_mix)
  --seed N          what the generated code contains (default: 1)
  --seconds S       replay again and again, each time with other contents, for this long (default: once)
  --threads N       then let N threads execute traces while the main thread moves them; they get half of --seconds, or
                    5 seconds (default: 0, the replay only)
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
  /** That execute, beside the main thread. */
  threads: number;
  arena: ArenaOptions;
  report: string | undefined;
  json: string | undefined;
}

class BadArgument extends Error {}

/** For tests: the number of the replay's check, and of the first thread's planned run, that is to fail. */
interface Spoils {
  spoil?: number;
  spoilThread?: number;
}

export async function stress(args: string[], spoils: Spoils = {}): Promise<number> {
  let options: StressOptions;
  let workload: Workload;
  let arena: Arena;
  try {
    const parsed = optionsFrom(args);
    if (parsed === 'help') {
      process.stdout.write(STRESS_HELP);
      return OK;
    }
    options = parsed;
    if (process.arch !== 'x64') throw new Error(`it makes x86-64 code, and this is ${process.arch}`);
    workload = readWorkload(options.workload);
    arena = stressArena({ ...options.arena, name: 'stress' });
    if (options.threads > 0) arena.share();
  } catch (error) {
    process.stderr.write(`jit-arena stress: ${(error as Error).message}\n`);
    return BAD_ARGUMENTS;
  }
  return run(options, workload, arena, spoils);
}

async function run(options: StressOptions, workload: Workload, arena: Arena, spoils: Spoils): Promise<number> {
  // The threads get half of the time.
  const seconds = options.threads > 0 ? options.seconds / 2 : options.seconds;
  const progress = makeProgress(process.stdout);
  const replay = new Replay(arena, workload, {
    seed: options.seed,
    seconds,
    spoil: spoils.spoil,
    progress: (...state) => showReplay(progress, ...state),
  });
  let threads: Threads | undefined;
  let interrupted = false;
  const interrupt = () => {
    interrupted = true;
    replay.stop();
    threads?.stop();
  };
  process.once('SIGINT', interrupt);
  process.stdout.write(
    `replaying ${workload.name}: ${workload.created} executors, contents from seed ${options.seed}\n`,
  );
  await replay.run();
  // A wrong replay is not run beside threads: a crash would hide what it says.
  if (options.threads > 0 && !interrupted && replay.checker.failures === 0) {
    threads = new Threads(arena, workload, {
      count: options.threads,
      seed: options.seed,
      seconds: seconds || undefined,
      spoil: spoils.spoilThread,
      progress: (...state) => showThreads(progress, ...state),
    });
    await threads.run();
  }
  process.off('SIGINT', interrupt);
  progress.stop();

  const summary = summarize(replay, threads, workload.name, options.seed, interrupted);
  process.stdout.write(`${table(summary)}\n`);
  writeFiles(options, summary, replay);
  arena.dispose();
  if (summary.failures > 0) return WRONG;
  return interrupted ? INTERRUPTED : OK;
}

function showReplay(progress: Progress, { checker, round, timeline }: Replay, done: number, total: number): void {
  const { committed, live } = timeline.latest;
  const status = [
    `${bytes(live)} live in ${bytes(committed)}`,
    `${count(timeline.moved)} moved`,
    `${count(checker.callsChecked)} calls`,
    plural(checker.failures, 'failure'),
  ];
  progress.update(`round ${round}`, done, total, status.join(', '));
}

function showThreads(progress: Progress, threads: Threads, done: number, total: number): void {
  const { count: executing, moved } = threads.figures;
  const status = `${count(moved)} moved, ${plural(threads.failures, 'failure')}`;
  progress.update(`${plural(executing, 'thread')} executing`, done, total, status);
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
      threads: { type: 'string', default: '0' },
      writer: { type: 'string', default: 'auto' },
      layout: { type: 'string', default: 'together' },
      report: { type: 'string' },
      json: { type: 'string' },
    },
  });
  if (values.help) return 'help';
  const threads = wholeNumber('--threads', values.threads);
  if (threads > MOST_THREADS) throw new BadArgument(`--threads ${threads}: at most ${MOST_THREADS}`);
  return {
    workload: workloadOf(values.workload),
    seed: wholeNumber('--seed', values.seed),
    seconds: wholeNumber('--seconds', values.seconds),
    threads,
    arena: {
      writer: oneOf('--writer', values.writer, ['auto', 'alias', 'procmem', 'flip'] as const),
      layout: oneOf('--layout', values.layout, ['together', 'apart'] as const),
    },
    report: values.report,
    json: values.json,
  };
}

function workloadOf(nameOrPath: string): string {
  const path = findWorkload(nameOrPath);
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
