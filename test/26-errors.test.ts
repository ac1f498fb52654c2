// docs/errors.md explains every code that can be thrown, and no other.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ArenaError } from 'jit-arena';

const root = resolve(__dirname, '..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');

/** The codes in a text, in the order of the alphabet. */
const codesIn = (text: string, pattern: RegExp) =>
  [...new Set([...text.matchAll(pattern)].map(([, code]) => code))].sort();

describe('the codes of errors', () => {
  const table = codesIn(read('native/base/status.h'), /^ {2}ROW\(\w+, "(ERR_ARENA_\w+)"/gm);
  const documented = codesIn(read('docs/errors.md'), /^### (ERR_ARENA_\w+)$/gm);

  it("of native code's table each have a heading in docs/errors.md, and there is no other heading", () => {
    assert.ok(table.length > 25);
    assert.deepEqual(documented, table);
  });

  it('that TypeScript throws are in the table', () => {
    const files = readdirSync(join(root, 'ts'), { recursive: true, encoding: 'utf8' }).filter((file) =>
      file.endsWith('.ts'),
    );
    const thrown = codesIn(files.map((file) => read(join('ts', file))).join('\n'), /'(ERR_ARENA_\w+)'/g);
    assert.ok(thrown.length > 10);
    assert.deepEqual(
      thrown.filter((code) => !table.includes(code)),
      [],
    );
  });

  it('have an explanation each, and not one of two words', () => {
    for (const section of read('docs/errors.md').split('\n### ').slice(1)) {
      const [heading, ...text] = section.split('\n');
      assert.ok(text.join(' ').trim().length > 60, heading);
    }
  });
});

describe('ArenaError', () => {
  it('has only the details that it knows, and shows them', () => {
    const error = new ArenaError('ERR_ARENA_BOUNDS', 'too far', { executor: 5, offset: 0 });
    assert.ok(error instanceof Error);
    assert.deepEqual({ ...error }, { name: 'ArenaError', code: 'ERR_ARENA_BOUNDS', executor: 5, offset: 0 });
    assert.equal('section' in error, false);
    assert.equal(String(error), 'ArenaError: too far');
  });
});
