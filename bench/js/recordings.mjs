// The recorded workloads (bench/workloads/README.md), and the parts of the stress run that replay them.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { load, root } from './measure.mjs';

const { prefix, readWorkload } = load('../../dist/stress/recording/workload.js');

const folder = join(root, 'bench/workloads');
const SMOKE_EVENTS = 120;

/** All recordings; in a smoke run the beginning of one. */
export function readRecordings({ smoke }) {
  const files = readdirSync(folder).filter((file) => file.endsWith('.jsonl.gz'));
  const chosen = smoke ? files.filter((file) => file.includes('py314-bench_mix')) : files;
  return chosen.map((file) => {
    const workload = readWorkload(join(folder, file));
    return { name: file.replace('.jsonl.gz', ''), workload: smoke ? prefix(workload, SMOKE_EVENTS) : workload };
  });
}

export const sumOf = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
