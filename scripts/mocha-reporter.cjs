// Mocha's own "spec" output on the terminal and, for CI, the results in test-results/mocha.json.
const { mkdirSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { Runner, reporters } = require('mocha');

const folder = join(__dirname, '..', 'test-results');
const { EVENT_RUN_END, EVENT_TEST_FAIL, EVENT_TEST_PASS, EVENT_TEST_PENDING } = Runner.constants;

module.exports = class SpecAndJson extends reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    const results = { passed: 0, failed: [], skipped: [] };
    runner.on(EVENT_TEST_PASS, () => results.passed++);
    runner.on(EVENT_TEST_FAIL, (test) => results.failed.push(test.fullTitle()));
    runner.on(EVENT_TEST_PENDING, (test) => results.skipped.push(test.fullTitle()));
    runner.on(EVENT_RUN_END, () => {
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, 'mocha.json'), JSON.stringify(results, null, 2));
    });
  }
};
