// The programs in examples/ and every ```js block of README.md and docs/ run, and print what their comments say: each
// `// → text` is a line of the output, in the same order.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { skip } from './support/skip.js';

const root = resolve(__dirname, '..');

/** The lines that a program promises to print. */
const promised = (source: string) => [...source.matchAll(/\/\/ → (.*)$/gm)].map(([, line]) => line as string);

/** Runs a program as CommonJS in the repository's root, where require('jit-arena') finds this package. */
function run(source: string): string[] {
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['-'], {
    cwd: root,
    input: source,
    encoding: 'utf8',
  });
  assert.equal(status, 0, `${signal ?? ''}\n${stdout}${stderr}`);
  return stdout.trimEnd().split('\n');
}

/** Every promised line is there, in order; others may stand between. */
function checkOutput(source: string): void {
  const lines = promised(source);
  assert.notEqual(lines.length, 0, 'the program promises at least one line');
  const printed = run(source);
  let at = 0;
  for (const line of lines) {
    const found = printed.indexOf(line, at);
    assert.notEqual(found, -1, `'${line}' is missing in\n${printed.join('\n')}`);
    at = found + 1;
  }
}

describe('examples', () => {
  before(function () {
    if (process.platform !== 'linux' || process.arch !== 'x64') skip(this, 'the examples are x86-64 code for Linux');
  });

  for (const file of readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.js'))) {
    it(`examples/${file} prints what it says`, () => checkOutput(readFileSync(join(root, 'examples', file), 'utf8')));
  }

  for (const file of ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))]) {
    if (!file.endsWith('.md')) continue;
    const text = readFileSync(join(root, file), 'utf8');
    for (const match of text.matchAll(/^```js\n([\s\S]*?)^```/gm)) {
      const line = text.slice(0, match.index).split('\n').length;
      it(`${file}, line ${line}, prints what it says`, () => checkOutput(match[1] as string));
    }
  }

  it('notices a line that is not printed, and one out of order', () => {
    assert.throws(() => checkOutput('console.log(1); // → 2'), /missing/);
    assert.throws(() => checkOutput('console.log(1); console.log(2);\n// → 2\n// → 1'), /missing/);
  });
});
