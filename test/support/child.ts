// A script in a Node of its own, for what changes or ends a process.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';

const root = resolve(__dirname, '../..');

interface ChildOptions {
  nodeArgs?: string[];
  /** The script is an ES module. */
  esm?: boolean;
  /** Exit status. */
  status?: number;
}

/** Runs the script, which finds 'jit-arena' as these tests do, and returns what it printed. */
export function runChild(script: string, { nodeArgs = [], esm = false, status = 0 }: ChildOptions = {}): string {
  const args = [...nodeArgs, `--input-type=${esm ? 'module' : 'commonjs'}`, '-e', script];
  const child = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', timeout: 60_000 });
  const ending = child.signal ?? child.status;
  assert.equal(ending, status, `the child ended with ${ending}: ${child.error ?? ''}\n${child.stdout}${child.stderr}`);
  return child.stdout;
}
