// What the scripts share: the repository's root, running a program in it, listing and compiling its files.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
export const jobs = String(availableParallelism());

/** The path of a program that an npm package brings. */
export const npmBin = (name) => join(root, 'node_modules', '.bin', name);

/** Runs a program in the root with its output passed on; true when it succeeded. */
export function run(program, args) {
  const { status, signal, error } = spawnSync(program, args, { cwd: root, stdio: 'inherit' });
  if (error) console.error(`${program}: ${error.message}`);
  if (signal) console.error(`${program}: ended by ${signal}`);
  return status === 0;
}

/** As `run`, but a failure ends this process. */
export function mustRun(program, args) {
  if (!run(program, args)) process.exit(1);
}

/** The files in a folder of the root whose names match, as sorted paths from the root. */
export function filesIn(folder, pattern = /./) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort();
}

/**
 * Compiles a TypeScript project, or several in turn, into `outDir` and deletes what is left there from sources that are
 * gone, except `keep` (paths from the root): the package holds all of dist, and mocha runs all of dist-test.
 */
export function compileTypeScript(projects, outDir, keep = []) {
  const emitted = new Set(keep);
  for (const project of [projects].flat()) {
    const tsc = spawnSync(npmBin('tsc'), ['-p', project, '--listEmittedFiles'], { cwd: root, encoding: 'utf8' });
    for (const line of tsc.stdout.split('\n')) {
      const file = line.match(/^TSFILE: *(.*)/)?.[1];
      if (file) emitted.add(relative(root, resolve(root, file)));
      else if (line) console.log(line);
    }
    process.stderr.write(tsc.stderr);
    if (tsc.status !== 0) return false;
  }
  for (const file of filesIn(outDir)) if (!emitted.has(file)) rmSync(join(root, file));
  return true;
}
