// Native hosts: `cmake --install` without Node, and what a C program finds then. Builds the example and the guide's
// programs outside the repository.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { skip } from './support/skip.js';

const root = resolve(__dirname, '..');

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${error ?? signal ?? status}\n${stdout}${stderr}`);
  return stdout;
}

const there = (command: string) => spawnSync(command, ['--version']).status === 0;
const strict = ['-Wall', '-Wextra', '-pedantic', '-Werror'];

describe('native hosts', function () {
  this.timeout(600_000);
  let folder: string;
  let prefix: string;

  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') skip(this, 'the example is x86-64 code for Linux');
    folder = mkdtempSync(join(tmpdir(), 'jit-arena-c-'));
    prefix = join(folder, 'prefix');
    const build = join(folder, 'build');
    run('cmake', [
      '-S',
      root,
      '-B',
      build,
      '-DJA_ADDON=OFF',
      '-DCMAKE_BUILD_TYPE=Debug',
      '-DCMAKE_INSTALL_LIBDIR=lib',
      '-DCMAKE_UNITY_BUILD=ON',
    ]);
    run('cmake', ['--build', build, '--target', 'jit_arena_c', '--parallel', '2']);
    run('cmake', ['--install', build, '--prefix', prefix]);
  });
  after(() => {
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  const header = () => readFileSync(join(prefix, 'include/jit_arena.h'), 'utf8');
  const declared = () =>
    [...header().matchAll(/^JA_API [^;]*?\b(ja_\w+)\(/gm)].map(([, name]) => name as string).sort();

  it('get a header, a shared and a static library, and files for find_package and pkg-config', () => {
    for (const file of [
      'include/jit_arena.h',
      'lib/libjit_arena.so',
      'lib/libjit_arena.a',
      'lib/cmake/jit_arena/jit_arena-config.cmake',
      'lib/cmake/jit_arena/jit_arena-config-version.cmake',
      'lib/pkgconfig/jit_arena.pc',
    ])
      assert.ok(existsSync(join(prefix, file)), file);
  });

  it('find in the shared library what the header declares and nothing else, under a name with its version', () => {
    const library = join(prefix, 'lib/libjit_arena.so');
    const exported = run('nm', ['-D', '--defined-only', library]).trimEnd().split('\n');
    const names = exported.map((line) => line.split(' ').at(-1) as string).sort();
    assert.deepEqual(names, declared());
    assert.match(run('readelf', ['-d', library]), /SONAME.*\[libjit_arena\.so\.0\]/);
    assert.doesNotMatch(run('readelf', ['-d', library]), /node/);
  });

  it('can include the header alone, in C11 and in C++, without a warning', () => {
    const source = join(folder, 'header.c');
    writeFileSync(source, '#include "jit_arena.h"\n#include "jit_arena.h"\n');
    const flags = [...strict, '-fsyntax-only', `-I${join(prefix, 'include')}`, source];
    for (const compiler of ['cc', 'clang'].filter(there)) run(compiler, ['-std=c11', ...flags]);
    for (const compiler of ['c++', 'clang++'].filter(there))
      for (const standard of ['c++11', 'c++20']) run(compiler, [`-std=${standard}`, '-x', 'c++', ...flags]);
  });

  it('can read of every function what it does and what it may return', () => {
    const text = header();
    for (const name of declared()) {
      const before = text.slice(0, text.search(new RegExp(`^JA_API [^;]*?\\b${name}\\(`, 'm')));
      // Its comment ends right above it, or above a neighbour's declaration that shares the comment.
      assert.match(before.trimEnd(), /(\*\/|;|#define JA_ENDLESS UINT32_MAX)$/, name);
    }
    const words = [...text.matchAll(/\bJA_ERR_[A-Z_]+[A-Z]/g)].map(([word]) => word as string);
    const known = new Set([...text.matchAll(/^ {2}(JA_ERR_\w+) = /gm)].map(([, word]) => word));
    assert.deepEqual(
      words.filter((word) => !known.has(word) && word !== 'JA_ERR_RELOC'),
      [],
      'errors that a comment names and that do not exist',
    );
  });

  for (const library of ['shared', 'static']) {
    it(`run examples/from-c with the ${library} library, in a project that has no C++`, () => {
      const build = join(folder, 'from-c');
      run('cmake', [
        ...['-S', join(root, 'examples/from-c'), '-B', build, `-DCMAKE_PREFIX_PATH=${prefix}`],
        `-DCMAKE_C_FLAGS=${strict.join(' ')}`,
      ]);
      run('cmake', ['--build', build, '--target', `with_${library}`]);
      assert.deepEqual(
        run(join(build, `with_${library}`), [])
          .trimEnd()
          .split('\n'),
        [
          'a chain of 100 traces: sum 10100, 100 calls of C, 99 hot exits linked',
          'two threads ran it, a third moved its traces again and again: every result right',
          'addresses that the move callback kept right: 100 of 100',
          'problems that the arena finds in itself: 0',
          'with trace 50 invalid the chain leaves trace 49 after 50 calls',
        ],
      );
    });
  }

  it('are refused a version that is not compatible', () => {
    const project = mkdtempSync(join(folder, 'version-'));
    const wants = (version: string) => {
      writeFileSync(
        join(project, 'CMakeLists.txt'),
        `cmake_minimum_required(VERSION 3.21)\nproject(x LANGUAGES C)\nfind_package(jit_arena ${version} REQUIRED)\n`,
      );
      const args = ['-S', project, '-B', join(project, version), `-DCMAKE_PREFIX_PATH=${prefix}`];
      return spawnSync('cmake', args, { encoding: 'utf8' }).status === 0;
    };
    assert.ok(wants('0.1'));
    assert.ok(!wants('0.2'));
    assert.ok(!wants('1.0'));
  });

  // Every program of the guide prints what its comments promise: `// → text`.
  const guide = readFileSync(join(root, 'docs/c-api.md'), 'utf8');
  for (const match of guide.matchAll(/^```c\n([\s\S]*?)^```/gm)) {
    const source = match[1] as string;
    if (!source.includes('int main')) continue;
    const line = guide.slice(0, match.index).split('\n').length;
    it(`can compile and run docs/c-api.md, line ${line}, with what the page says for linking by hand`, () => {
      const file = join(folder, `hand${line}.c`);
      writeFileSync(file, source);
      const library = join(prefix, 'lib/libjit_arena.a');
      const flags = /libjit_arena\.a (-[^`]*)`/.exec(guide)?.[1]?.split(' ') as string[];
      run('cc', ['-std=c11', `-I${join(prefix, 'include')}`, file, '-o', `${file}.out`, library, ...flags]);
      run(`${file}.out`, []);
    });
    for (const linking of [[], ['--static']]) {
      it(`can compile and run docs/c-api.md, line ${line}, with pkg-config ${linking}`, function () {
        if (!there('pkg-config')) skip(this, 'there is no pkg-config');
        const env = { PKG_CONFIG_PATH: join(prefix, 'lib/pkgconfig') };
        const flags = run('pkg-config', ['--cflags', '--libs', ...linking, 'jit_arena'], env)
          .trim()
          .split(/\s+/);
        if (linking.length !== 0) flags.splice(flags.indexOf('-ljit_arena'), 1, '-l:libjit_arena.a');
        const file = join(folder, `guide${line}.c`);
        writeFileSync(file, source);
        run('cc', ['-std=c11', ...strict, file, '-o', `${file}.out`, ...flags, '-pthread']);
        const printed = run(`${file}.out`, [], { LD_LIBRARY_PATH: join(prefix, 'lib') });
        const promised = [...source.matchAll(/\/\/ → (.*)$/gm)].map(([, text]) => text);
        assert.notEqual(promised.length, 0, 'the program promises at least one line');
        assert.deepEqual(printed.trimEnd().split('\n'), promised);
      });
    }
  }
});
