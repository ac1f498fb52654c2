// The C files of test/fixtures, compiled by the compilers of this machine.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const fixtures = resolve(__dirname, '..', '..', 'test', 'fixtures');

/** gcc or cc, and clang where it is installed. */
export const compilers: readonly string[] = ['cc', 'clang'].filter(
  (compiler) => spawnSync(compiler, ['--version']).status === 0,
);

export const canCompile = compilers.length > 0 && process.platform === 'linux' && process.arch === 'x64';

const folder = mkdtempSync(join(tmpdir(), 'jit-arena-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const made = new Map<string, Uint8Array>();

/** The object that `compiler -c flags` makes of a fixture. */
export function compile(fixture: string, flags: readonly string[], compiler = compilers[0] as string): Uint8Array {
  return compileFile(join(fixtures, fixture), flags, compiler);
}

/** The same for C text, or that of another language of the compiler's: `.cc` for C++. */
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
  const out = join(folder, `${fixture}.${ending}`);
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
