// npm run layers: every #include in native/, and every import in ts/ and stress/, follows the layers of ARCHITECTURE.md,
// no files need each other in a circle, what is true of one CPU stands in native/arch, and no file or function is too
// long. Planted violations are looked for first, so that a checker gone blind cannot pass.
import { readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { circlesIn } from './circles.mjs';
import { checkCpuFacts, plantedCpuFacts } from './cpu-facts.mjs';
import { checkDrawing, plantedDrawing } from './drawing.mjs';
import { checkSizes, plantedSizes } from './sizes.mjs';
import { filesIn, root } from './tools.mjs';
import { checkTypeScript, plantedTypeScript } from './typescript-layers.mjs';

/** Each layer, and the layers that it may include besides itself. */
const LAYERS = {
  base: [],
  arch: ['base'],
  os: ['base', 'arch'],
  core: ['base', 'os', 'arch'],
  object: ['base', 'os', 'arch', 'core'],
  capi: ['base', 'os', 'arch', 'core', 'object'],
  node: ['base', 'os', 'arch', 'core', 'object'],
};

/**
 * The parts of core, top to bottom: each may include those below it. First those of the drawing, with what has been split
 * off from them; then the small ones that they are made of. A part may have several files: core/relocator_moves.cc belongs
 * to relocator.
 */
const CORE = [
  ...[
    'arena',
    'internal_code',
    'staged',
    'results',
    'collector',
    'planner',
    'linker',
    'relocator',
    'reloc_check',
    'exits',
    'references',
    'far_slots',
    'placement',
    'problem',
    'retire',
    'frame_tables',
    'events',
    'executor_table',
    'reclaimer',
    'thunks',
    'code_space',
    'backing',
    'slab',
  ],
  ...['hole_bins', 'span_table', 'spec', 'chains', 'chunked_array', 'checksum', 'deadline', 'lock'],
];

const layerOf = (file) => file.split('/')[0];

function corePart(file) {
  const stem = posix.basename(file).replace(/\.\w+$/, '');
  return CORE.findIndex((part) => stem === part || stem.startsWith(`${part}_`));
}

/** Why `from` may not include `to` (both relative to native/), or undefined. */
function objection(from, to) {
  const [lower, upper] = [layerOf(to), layerOf(from)];
  if (lower !== upper) return LAYERS[upper].includes(lower) ? undefined : `${upper} may not include ${lower}`;
  if (upper === 'core' && corePart(to) < corePart(from)) {
    return `${CORE[corePart(from)]} is below ${CORE[corePart(to)]}`;
  }
}

/** All problems of a source tree: a Map from path relative to native/ to the file's text. */
function checkNative(files) {
  const problems = [];
  const includes = new Map();
  for (const [file, text] of files) {
    if (!(layerOf(file) in LAYERS)) problems.push(`${file}: is in no layer`);
    else if (layerOf(file) === 'core' && corePart(file) < 0)
      problems.push(`${file}: is no part of core that is known here`);
    const targets = [];
    for (const [, name] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)) {
      const target = [name, posix.join(posix.dirname(file), name)].find((path) => files.has(path));
      if (target) targets.push(target);
      else problems.push(`${file}: includes "${name}", which is not in native/`);
    }
    includes.set(file, targets);
  }
  if (problems.length > 0) return problems; // the rest needs every file to have its place

  for (const [file, targets] of includes) {
    for (const target of targets) {
      const why = objection(file, target);
      if (why) problems.push(`${file}: includes ${target}: ${why}`);
    }
  }
  return [...problems, ...circlesIn(includes).map((circle) => `circle: ${circle}`)];
}

const plantedNative = {
  tree: { 'base/bits.h': '', 'core/slab.h': '#include "base/bits.h"', 'core/arena.h': '#include "core/slab.h"' },
  changes: [
    [{}, undefined],
    [{ 'base/bits.h': '#include "core/slab.h"' }, 'base may not include core'],
    [{ 'arch/x.cc': '#include "os/y.h"', 'os/y.h': '' }, 'arch may not include os'],
    [{ 'node/a.cc': '# include "../capi/b.h"', 'capi/b.h': '' }, 'node may not include capi'],
    [{ 'core/slab_bits.cc': '#include "core/arena.h"' }, 'slab is below arena'],
    [{ 'core/slab_a.h': '#include "slab_b.h"', 'core/slab_b.h': '#include "slab_a.h"' }, 'circle'],
    [{ 'core/util.h': '' }, 'no part of core'],
    [{ 'misc/util.h': '' }, 'in no layer'],
    [{ 'core/slab.cc': '#include "core/gone.h"' }, 'not in native/'],
  ],
};

function selfTest(check, { tree, changes }) {
  for (const [change, expected] of changes) {
    const problems = check(new Map(Object.entries({ ...tree, ...change })));
    const found =
      expected === undefined ? problems.length === 0 : problems.some((problem) => problem.includes(expected));
    if (!found) throw new Error(`self test: expected ${expected ?? 'no problem'}, got ${JSON.stringify(problems)}`);
  }
  return changes.length;
}

function read(paths, base = '') {
  return new Map(paths.map((path) => [posix.relative(base, path), readFileSync(join(root, path), 'utf8')]));
}

const cases =
  selfTest(checkNative, plantedNative) +
  selfTest(checkTypeScript, plantedTypeScript) +
  selfTest(checkDrawing, plantedDrawing) +
  selfTest(checkCpuFacts, plantedCpuFacts) +
  selfTest(checkSizes, plantedSizes);
// unity.cc stands for the build, not for a layer.
const native = read(
  filesIn('native', /\.(cc|h)$/).filter((path) => path !== 'native/unity.cc'),
  'native',
);
const typescript = read(['ts', 'stress'].flatMap((house) => filesIn(house, /\.ts$/)));
const code = read([...filesIn('native', /\.(cc|h)$/), ...filesIn('ts', /\.ts$/)]);
const problems = [
  ...checkNative(native).map((problem) => `native/${problem}`),
  ...checkTypeScript(typescript),
  ...checkCpuFacts(code),
  ...checkSizes(code),
  ...checkSizes(read(filesIn('stress', /\.ts$/))),
  ...checkDrawing(
    read(['ARCHITECTURE.md', ...[...native.keys()].map((file) => `native/${file}`), ...typescript.keys()]),
  ),
];
for (const problem of problems) console.error(problem);
console.log(`layers: ${native.size + typescript.size} files, ${problems.length} problems (self test: ${cases} trees)`);
process.exitCode = problems.length === 0 ? 0 : 1;
