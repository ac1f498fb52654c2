// npm run lint: biome on the TypeScript and JavaScript, clang-format on the C++. npm run format (--fix) mends instead.
import { spawnSync } from 'node:child_process';
import { filesIn, npmBin, run } from './tools.mjs';

const fix = process.argv.includes('--fix');
let passed = run(npmBin('biome'), fix ? ['check', '--write'] : ['check', '--error-on-warnings']);

const version = spawnSync('clang-format', ['--version'], { encoding: 'utf8' }).stdout?.trim();
if (version) {
  console.log(version);
  const sources = ['native', 'test/native', 'bench/native'].flatMap((folder) => filesIn(folder, /\.(cc|h)$/));
  passed = run('clang-format', [...(fix ? ['-i'] : ['--dry-run', '--Werror']), ...sources]) && passed;
} else {
  // In CI a check that cannot run has failed.
  console.log('clang-format is not installed: the format of the C++ sources is not looked at');
  passed &&= !process.env.CI;
}
process.exitCode = passed ? 0 : 1;
