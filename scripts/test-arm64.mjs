// npm run test:arm64: the C++ tests, built for arm64 Linux by Debian's cross compiler and run under qemu-user. As root it
// installs what it needs by apt. What does not run there is listed with its reason (test/native/arm64/skips.txt); an
// emulator shows neither a late store nor a time.
//
//   npm run test:arm64                    everything
//   npm run test:arm64 -- run_test        arguments go to ctest -R
import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { jobs, mustRun, root, run } from './tools.mjs';

const BUILD = 'build-arm64';
const BACKPORTS = '/etc/apt/sources.list.d/jit-arena-backports.list';
/** Older versions execute stale code where a writer has a second view, whatever is flushed. */
const QEMU_AT_LEAST = 10;

const output = (program, args) => spawnSync(program, args, { encoding: 'utf8' }).stdout ?? '';
const qemuVersion = () => Number(output('qemu-aarch64-static', ['--version']).match(/version (\d+)/)?.[1] ?? 0);
const hasCompiler = () => output('aarch64-linux-gnu-g++', ['--version']) !== '';

function install() {
  if (process.getuid() !== 0 || !existsSync('/usr/bin/apt-get')) {
    console.error(`This needs aarch64-linux-gnu-g++ and qemu-aarch64-static from version ${QEMU_AT_LEAST} on.`);
    process.exit(1);
  }
  const { VERSION_CODENAME: codename } = Object.fromEntries(
    readFileSync('/etc/os-release', 'utf8')
      .split('\n')
      .map((line) => line.split('=')),
  );
  const apt = (...args) => mustRun('env', ['DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-y', ...args]);
  const isKnown = output('apt-cache', ['policy']).includes(`${codename}-backports`);
  if (!isKnown) {
    // They lie beside the release itself.
    const targets = output('apt-get', ['indextargets', '--format', '$(REPO_URI) $(RELEASE)']).split('\n');
    const [uri] = targets.map((target) => target.split(' ')).find(([, release]) => release === codename) ?? [];
    if (uri === undefined) {
      console.error(`No source of ${codename} is known to apt, so that its backports cannot be found.`);
      process.exit(1);
    }
    appendFileSync(BACKPORTS, `deb ${uri} ${codename}-backports main\n`);
  }
  apt('update');
  if (!hasCompiler()) apt('install', '--no-install-recommends', 'g++-aarch64-linux-gnu');
  if (qemuVersion() < QEMU_AT_LEAST)
    apt('install', '--no-install-recommends', '-t', `${codename}-backports`, 'qemu-user-static');
}

if (!hasCompiler() || qemuVersion() < QEMU_AT_LEAST) install();
const toolchain = `-DCMAKE_TOOLCHAIN_FILE=${join(root, 'scripts', 'gcc-linux-arm64.cmake')}`;
mustRun('cmake', ['-S', '.', '-B', BUILD, toolchain, '-DJA_ADDON=OFF', '-DJA_WERROR=ON']);
mustRun('cmake', ['--build', BUILD, '--parallel', jobs]);
const chosen = process.argv.slice(2).flatMap((name) => ['-R', name]);
const passed = run('ctest', ['--test-dir', BUILD, '--parallel', jobs, '--output-on-failure', ...chosen]);
console.log('\nNot run on arm64:');
const skips = readFileSync(join(root, 'test', 'native', 'arm64', 'skips.txt'), 'utf8').split('\n');
for (const skip of skips.filter((line) => line && !line.startsWith('#'))) console.log(`  ${skip}`);
console.log('  JavaScript tests: not yet run on arm64');
process.exit(passed ? 0 : 1);
