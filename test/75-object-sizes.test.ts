// loadObject: what objects cost that are large, or that somebody made so that they cost much. Time and memory go with
// the object's bytes, whatever it has many of; where they could not, there is an error.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { type Cost, type Costs, kinds } from './support/large-objects.js';
import { skip } from './support/skip.js';

type Kind = keyof typeof kinds;

const script = join(__dirname, 'support/large-objects.js');
/** What V8 takes for its own ends within a step. */
const slack = 12_000_000;
const maxMillis = 5000;

function costsOf(kind: Kind, ...what: 'stencils'[]): Costs {
  const child = spawnSync(process.execPath, ['--expose-gc', script, kind, ...what], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(child.status, 0, `the child ended with ${child.signal ?? child.status}: ${child.stderr}`);
  return JSON.parse(child.stdout) as Costs;
}

function check(step: string, cost: Cost | undefined, bytes: number, times: number): void {
  assert.ok(cost !== undefined, `${step} was not reached`);
  assert.equal(cost.error, undefined);
  const { memory, millis } = cost;
  assert.ok(memory <= times * bytes + slack, `${step}: ${memory} bytes of memory for an object of ${bytes}`);
  assert.ok(millis <= maxMillis, `${step}: ${millis} ms for an object of ${bytes} bytes`);
}

const withinTenTimes: Kind[] = [
  'symbols',
  'undefinedSymbols',
  'branches',
  'pointers',
  'slots',
  'sections',
  'units',
  'jumpTables',
  'callsOfOne',
  'constants',
  'escapes',
  'ownAddresses',
  'oneLocalName',
  'sectionNames',
  'endsOfSections',
  'overlappingExports',
];
// What takes an address of what is told with names that they all share, up to 80 bytes of each.
const within64Times: Kind[] = ['escapesOfEach'];
/** As stencils, which share what they use. */
const stencilsWithinTenTimes: Kind[] = ['branches', 'units', 'callsOfOne', 'endingJumps', 'sharedConstants'];

const refused: [kind: Kind, words: RegExp][] = [
  [
    'overlappingNames',
    /^ERR_ARENA_OBJECT: the names of the global symbols up to \d+ add up to \d+ bytes, more than 4 times the object's \d+: they share bytes$/,
  ],
  [
    'alignments',
    /^ERR_ARENA_OBJECT: the alignments of the sections up to section \d+ '\.data' add up to more than \d+ bytes/,
  ],
  ['tooMuch', /^ERR_ARENA_OBJECT: loading the object would need about 1144 MiB of memory, and may need 1024: it has/],
];

describe('sizes of objects', () => {
  before(function () {
    if (process.platform !== 'linux') skip(this, 'reads /proc');
  });

  for (const [kinds, times] of [
    [withinTenTimes, 10],
    [within64Times, 64],
  ] as const) {
    for (const kind of kinds) {
      it(`${kind}: loads, installs and looks within ${times} times its bytes`, () => {
        const { bytes, load, install, look } = costsOf(kind);
        check('load', load, bytes, times);
        check('install', install, bytes, times);
        check('look', look, bytes, times);
      });
    }
  }

  for (const [kind, words] of refused) {
    it(`${kind}: refuses it before it costs anything`, () => {
      const { bytes, load } = costsOf(kind);
      assert.match(load.error ?? '', words);
      check('load', { ...load, error: undefined }, Math.min(bytes, 10_000_000), 10);
    });
  }

  for (const kind of stencilsWithinTenTimes) {
    it(`${kind}: becomes stencils within 10 times its bytes`, () => {
      const { bytes, load } = costsOf(kind, 'stencils');
      check('stencils', load, bytes, 10);
    });
  }

  it('refuses stencils that share more than a set may come to', () => {
    const { load } = costsOf('sharedHoles', 'stencils');
    const words =
      'the stencils have more than 4194304 holes and parts, what they share counted for each: split the set';
    assert.equal(load.error, `ERR_ARENA_STENCIL: ${words}`);
    assert.ok(load.millis <= maxMillis, `${load.millis} ms`);
  });

  it('has a bound for each kind', () => {
    const stencils: Kind[] = [...stencilsWithinTenTimes, 'sharedHoles'];
    const bounded = [...new Set([...withinTenTimes, ...within64Times, ...stencils, ...refused.map(([kind]) => kind)])];
    assert.deepEqual(bounded.sort(), Object.keys(kinds).sort());
  });
});
