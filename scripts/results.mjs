// The results that test runs leave in test-results/, and their sum.
//
//   mocha.json       written by scripts/mocha-reporter.cjs
//   ctest*.xml       written by ctest --output-junit
//   NAME.check       one check that passes or fails as a whole: "passed" or "failed"
//
// node scripts/results.mjs FILE…   lists the failures and ends with a line "N passed, N failed". It counts every result
// in the folder, and each FILE that is not there as one failure: a step that crashed must not look like one that passed.
// A skipped test counts as a failure, too, because where this runs everything can run.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { root } from './tools.mjs';

export const resultsFolder = join(root, 'test-results');

export function recordCheck(name, passed) {
  writeFileSync(join(resultsFolder, `${name}.check`), passed ? 'passed' : 'failed');
}

/** How many passed, and what failed, in one result file. */
function readResult(file) {
  const text = readFileSync(join(resultsFolder, file), 'utf8');
  if (file.endsWith('.check'))
    return text === 'passed' ? { passed: 1, failures: [] } : { passed: 0, failures: ['failed'] };
  if (file.endsWith('.json')) {
    const { passed, failed, skipped } = JSON.parse(text);
    return { passed, failures: [...failed, ...skipped.map((title) => `skipped: ${title}`)] };
  }
  // <testcase name="slab_test" classname="slab_test" time="0.01" status="run|fail|notrun|disabled">
  const cases = [...text.matchAll(/<testcase name="([^"]*)"[^>]* status="([^"]*)"/g)];
  const failures = cases.filter(([, , status]) => status !== 'run').map(([, test, status]) => `${test} (${status})`);
  return { passed: cases.length - failures.length, failures };
}

function summarize(expected) {
  const present = readdirSync(resultsFolder);
  let passed = 0;
  let failed = 0;
  for (const file of new Set([...expected, ...present])) {
    let result = { passed: 0, failures: ['left no result'] };
    if (present.includes(file)) {
      try {
        result = readResult(file);
      } catch (error) {
        result.failures = [`cannot be read: ${error.message}`];
      }
    }
    passed += result.passed;
    failed += result.failures.length;
    for (const failure of result.failures) console.log(`${basename(file)}: ${failure}`);
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0;
}

if (process.argv[1] === import.meta.filename) process.exitCode = summarize(process.argv.slice(2)) ? 0 : 1;
