// The same tests with each writer, and what must hold of an arena after each.
import assert from 'node:assert/strict';
import { type Arena, probe } from 'jit-arena';
import { skip } from './skip.js';

export type Writer = ReturnType<typeof probe>[number]['writer'];

export function withEachWriter(title: string, tests: (writer: Writer) => void): void {
  for (const { writer, available, reason } of probe()) {
    describe(`${title}, with the writer ${writer}`, () => {
      if (available) tests(writer);
      else {
        it('cannot be tested', function () {
          skip(this, reason ?? '');
        });
      }
    });
  }
}

export function assertSound(arena: Arena): void {
  const { ok, problems, broken } = arena.verify();
  assert.ok(ok, broken ?? JSON.stringify(problems, (_, value) => (typeof value === 'bigint' ? String(value) : value)));
}
