// npm test, after the build: C++ tests (ctest), type tests (tsc), everything else (mocha). Each runs even when an earlier
// one failed. The results are left in test-results/. Arguments go to mocha: npm test -- --grep freeze
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { recordCheck, resultsFolder } from './results.mjs';
import { compileTypeScript, jobs, npmBin, run } from './tools.mjs';

rmSync(resultsFolder, { recursive: true, force: true });
mkdirSync(resultsFolder, { recursive: true });

function step(title, action) {
  console.log(`\n== ${title}`);
  const passed = action();
  if (!passed) process.exitCode = 1;
  return passed;
}

step('C++ tests', () => {
  const junit = join(resultsFolder, 'ctest.xml');
  return (
    run('cmake', ['--build', 'build', '--parallel', jobs]) &&
    run('ctest', ['--test-dir', 'build', '--output-on-failure', '--no-tests=error', '--output-junit', junit])
  );
});
const types = step('type tests', () => run(npmBin('tsc'), ['-p', 'test/types']));
recordCheck('types', types);
step(
  'mocha',
  () => compileTypeScript('test/tsconfig.json', 'dist-test') && run(npmBin('mocha'), process.argv.slice(2)),
);
