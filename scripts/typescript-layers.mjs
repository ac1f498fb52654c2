// The layer rule of ts/ and stress/: the package knows nothing of the stress run; the stress run uses what the package
// exports, under its name, as any host does; its rooms import downwards; no values are imported in a circle.
import { posix } from 'node:path';
import { circlesIn } from './circles.mjs';

/** The rooms of stress/, top to bottom: each may import from those below it. The files in no room are above all. */
const ROOMS = ['', 'report', 'threads', 'replay', 'program', 'recording'];

const houseOf = (file) => file.split('/')[0];
const roomOf = (file) => (file.split('/').length > 2 ? file.split('/')[1] : '');

/** What a file imports: { from, value }, where `value` is false for what is gone when types are. */
function importsOf(text) {
  const statement = /^(?:import|export)\s+(?:([^;'"]*?)\s+from\s+)?'([^']+)'/gm;
  return [...text.matchAll(statement)].map(([, clause, from]) => ({ from, value: isValue(clause) }));
}

function isValue(clause = '') {
  if (/^type\s/.test(clause)) return false;
  const names = clause.match(/^\{([\s\S]*)\}$/)?.[1].split(',') ?? [clause];
  return names.some((name) => name.trim() !== '' && !/^\s*type\s/.test(name)) || clause === '';
}

/** Why `file` may not import `from`, which is `target` if it is one of the files; or undefined. */
function objection(file, from, target) {
  if (houseOf(file) === 'stress') {
    if (!from.startsWith('.'))
      return from === 'jit-arena' || from.startsWith('node:') ? undefined : 'stress needs no other package';
    if (target === undefined) return 'there is no such file';
    if (houseOf(target) !== 'stress') return 'stress uses what the package exports';
    if (ROOMS.indexOf(roomOf(target)) < ROOMS.indexOf(roomOf(file)))
      return `${roomOf(file)} is below ${roomOf(target) || 'the command'}`;
  } else if (from.startsWith('.')) {
    if (target === undefined) return 'there is no such file';
    if (houseOf(target) !== houseOf(file)) return `${houseOf(file)} may not import ${houseOf(target)}`;
  } else if (from === 'jit-arena') return 'the package does not use itself by its name';
}

/** All problems of a source tree: a Map from path relative to the root to the file's text. */
export function checkTypeScript(files) {
  const problems = [];
  const values = new Map();
  for (const [file, text] of files) {
    if (houseOf(file) === 'stress' && !ROOMS.includes(roomOf(file))) problems.push(`${file}: is in no room`);
    const needed = [];
    for (const { from, value } of importsOf(text)) {
      const path = posix.join(posix.dirname(file), from);
      const target = from.startsWith('.') && files.has(`${path}.ts`) ? `${path}.ts` : undefined;
      const why = objection(file, from, target);
      if (why) problems.push(`${file}: imports ${from}: ${why}`);
      if (target && value) needed.push(target);
    }
    values.set(file, needed);
  }
  return [...problems, ...circlesIn(values).map((circle) => `circle: ${circle}`)];
}

/** A tree without a problem, and changes to it with what must be found. */
export const plantedTypeScript = {
  tree: {
    'ts/index.ts': "export { Arena } from './arena';\n",
    'ts/arena.ts': "import type { Pin } from './pin';\nimport { join } from 'node:path';\n",
    'ts/pin.ts': "import { Arena } from './arena';\n",
    'stress/command.ts': "import {\n  table,\n} from './report/table';\n",
    'stress/report/table.ts': "import { Arena } from 'jit-arena';\nimport { Replay } from '../replay/replay';\n",
    'stress/replay/replay.ts': "import { parse } from '../recording/recording';\n",
    'stress/recording/recording.ts': '',
  },
  changes: [
    [{}, undefined],
    [{ 'ts/pin.ts': "import { Replay } from '../stress/replay/replay';\n" }, 'ts may not import stress'],
    [{ 'ts/pin.ts': "import { Arena } from 'jit-arena';\n" }, 'does not use itself'],
    [{ 'ts/pin.ts': "import { gone } from './gone';\n" }, 'no such file'],
    [{ 'stress/command.ts': "import { Arena } from '../ts/index';\n" }, 'uses what the package exports'],
    [{ 'stress/command.ts': "import { Bar } from 'progress';\n" }, 'no other package'],
    [{ 'stress/replay/replay.ts': "import type { Row } from '../report/table';\n" }, 'replay is below report'],
    [{ 'stress/replay/replay.ts': "export * from '../command';\n" }, 'replay is below the command'],
    [{ 'stress/misc/util.ts': '' }, 'in no room'],
    [{ 'ts/arena.ts': "import { type Arena, Pin } from './pin';\n" }, 'circle: ts/arena.ts → ts/pin.ts'],
    [{ 'ts/arena.ts': "import './pin';\n" }, 'circle'],
    [{ 'ts/arena.ts': "export * from './pin';\n" }, 'circle'],
    [{ 'ts/arena.ts': "import { type Arena, type Pin } from './pin';\n" }, undefined],
  ],
};
