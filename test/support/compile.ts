// The C files of test/fixtures, compiled by the compilers of this machine.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';

const fixtures = resolve(__dirname, '..', '..', 'test', 'fixtures');

/** Compilers `cc` and `clang`, those that are installed. */
export const compilers: readonly string[] = ['cc', 'clang'].filter(
  (compiler) => spawnSync(compiler, ['--version']).status === 0,
);

/** Every gcc and clang that can be found, also those with a version in their names; each one once. */
export function everyCompiler(): readonly string[] {
  const names = (process.env.PATH ?? '').split(':').flatMap((path) => {
    try {
      return readdirSync(path).filter((name) => /^(cc|gcc|clang)(-\d+)?$/.test(name));
    } catch {
      return [];
    }
  });
  const found = new Map<string, string>();
  for (const name of new Set(names.sort((a, b) => a.length - b.length || a.localeCompare(b)))) {
    const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (status !== 0) continue;
    // `cc (Debian 12.2.0) 12.2.0` is `gcc-12 (Debian 12.2.0) 12.2.0`.
    const version = (stdout.split('\n')[0] as string).replace(/^\S+ \(/, '(');
    if (!found.has(version)) found.set(version, name);
  }
  return [...found.values()];
}

export const canCompile = compilers.length > 0 && process.platform === 'linux' && process.arch === 'x64';

const folder = mkdtempSync(join(tmpdir(), 'jit-arena-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
process.on('SIGTERM', () => process.exit()); // so does mocha end its workers
const made = new Map<string, Uint8Array>();

/** The object that `compiler -c flags` makes of a fixture. */
export function compile(fixture: string, flags: readonly string[], compiler = compilers[0] as string): Uint8Array {
  return compileFile(join(fixtures, fixture), flags, compiler);
}

/** The objects of several fixtures, from one run of the compiler, which takes less time than one each. */
export function compileTogether(names: readonly string[], flags: readonly string[], compiler: string): Uint8Array[] {
  const out = mkdtempSync(join(folder, 'together-'));
  const files = names.map((name) => join(fixtures, name));
  const { status, stderr } = spawnSync(compiler, ['-c', ...flags, ...files], { cwd: out, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${compiler} ${flags.join(' ')}: ${stderr}`);
  return names.map((name) => new Uint8Array(readFileSync(join(out, basename(name).replace(/\.cc?$/, '.o')))));
}

/** The object of C text, or that of another language of the compiler's: `.cc` for C++. */
export function compileText(
  text: string,
  flags: readonly string[],
  compiler = compilers[0] as string,
  suffix: '.c' | '.cc' = '.c',
): Uint8Array {
  const file = join(folder, `text${made.size}${suffix}`);
  writeFileSync(file, text);
  return compileFile(file, flags, compiler);
}

/** The path of the shared library that the first compiler makes of a fixture; of an addon when it ends so. */
export function compileLibrary(fixture: string, ending: 'so' | 'node' = 'so'): string {
  const out = join(folder, `${basename(fixture)}.${ending}`);
  if (existsSync(out)) return out;
  const { include_dir: headers } = require('node-api-headers') as { include_dir: string };
  const args = ['-O1', '-shared', '-fPIC', '-pthread', `-I${headers}`, '-o', out, join(fixtures, fixture)];
  const { status, stderr } = spawnSync(compilers[0] as string, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${fixture}: ${stderr}`);
  return out;
}

function compileFile(file: string, flags: readonly string[], compiler: string): Uint8Array {
  const key = [compiler, ...flags, file].join(' ');
  let object = made.get(key);
  if (object === undefined) {
    const out = join(folder, `${made.size}.o`);
    const { status, stderr } = spawnSync(compiler, ['-c', ...flags, '-o', out, file], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${key}: ${stderr}`);
    object = new Uint8Array(readFileSync(out));
    made.set(key, object);
  }
  return object.slice();
}
