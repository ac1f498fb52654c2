// npm test, after the build: C++ tests (ctest), type tests (tsc), everything else (mocha), as many at a time as there are
// cores. Each of the three runs even when an earlier one failed. The results are left in test-results/.
//
//   npm test                               the fast tier, under two minutes: all but the long files of mocha's
//   npm cit, npm test -- --all, and in CI  everything
//   npm test -- --grep freeze              arguments go to mocha, which then runs the long files too
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { recordCheck, resultsFolder } from './results.mjs';
import { compileTypeScript, jobs, npmBin, run } from './tools.mjs';

/** Numbers of test files that take more than about six seconds each, and whose subjects have shorter tests as well. */
const LONG = ['4?', '5?', '7[56]', '84', '86', '88', '89', '9?'];

const mochaArguments = process.argv.slice(2).filter((argument) => argument !== '--all');
const isFast =
  process.argv.length === 2 && process.env.CI === undefined && process.env.npm_command !== 'install-ci-test';

rmSync(resultsFolder, { recursive: true, force: true });
mkdirSync(resultsFolder, { recursive: true });

function step(title, action) {
  console.log(`\n== ${title}`);
  const passed = action();
  if (!passed) process.exitCode = 1;
  return passed;
}

step('C++ tests', () => {
  const options = ['--output-on-failure', '--no-tests=error', '--output-junit', join(resultsFolder, 'ctest.xml')];
  return (
    run('cmake', ['--build', 'build', '--parallel', jobs]) &&
    run('ctest', ['--test-dir', 'build', '--parallel', jobs, ...options])
  );
});
const types = step('type tests', () => run(npmBin('tsc'), ['-p', 'test/types']));
recordCheck('types', types);
step(isFast ? 'mocha, the fast tier' : 'mocha', () => {
  const left = isFast ? LONG.flatMap((number) => ['--ignore', `dist-test/${number}-*.test.js`]) : [];
  // A worker takes the next file when it is done with one, in the order of .mocharc.json: the longest come first.
  const options = ['--parallel', '--jobs', jobs, ...left, ...mochaArguments];
  return compileTypeScript('test/tsconfig.json', 'dist-test') && run(npmBin('mocha'), options);
});
