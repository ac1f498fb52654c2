// One contract, three faces: the core (C++), the C API and TypeScript. What one of them has, the others have, or it stands
// here with the reason why not.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Arena } from 'jit-arena';

type Face = 'core' | 'c' | 'ts';
const faces = ['core', 'c', 'ts'] as const;

const source = (file: string) => readFileSync(file, 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, '');
const header = source('native/capi/jit_arena.h');
const core = ['arena', 'results', 'collector', 'planner', 'events', 'problem', 'spec', 'slab']
  .map((part) => source(`native/core/${part}.h`))
  .join('\n');
const status = source('native/base/status.h');

/** The names of a C or C++ structure's members, in camel case: what stands before `;`, `=`, `[` and `{`. */
function membersOf(text: string, opening: RegExp): string[] {
  const [open] = opening.exec(text) ?? assert.fail(`there is no ${opening}`);
  const from = text.indexOf(open) + open.length;
  const body = text.slice(from, text.indexOf('\n}', from));
  return [...body.matchAll(/^ {2}(?! )[^\n(;]*?\(?\*?(\w+)\)?(?:\[\w+\]|\([^;]*\))?(?:\s*=[^;]*|\{[^;]*)?;/gm)]
    .map(([, name]) => camel(name ?? ''))
    .filter((name) => name !== 'structSize');
}

const camel = (name: string) => name.toLowerCase().replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
const inC = (name: string) => membersOf(header, new RegExp(`typedef struct ${name} \\{`));
const inCore = (name: string) => membersOf(core, new RegExp(`struct ${name} \\{`));
/** Constants of the C header that begin with `prefix`, without it. */
const constants = (prefix: string) =>
  [...header.matchAll(new RegExp(`^ {2}${prefix}(\\w+) = `, 'gm'))].map(([, name]) => camel(name ?? ''));
/** Enumerators of the core, without their k. */
const enumerators = (text: string, name: string) =>
  [...(new RegExp(`enum class ${name} [^{]*\\{([^}]*)\\}`).exec(text)?.[1] ?? '').matchAll(/\bk([A-Z]\w*)/g)].map(
    ([, word]) => (word ?? '').replace(/^./, (letter) => letter.toLowerCase()),
  );

const typed = ['arena-options', 'errors', 'listeners', 'native', 'relocs', 'types']
  .map((module) => source(`ts/${module}.ts`))
  .join('\n');

/** What stands between the braces that `opening` ends with. */
function block(text: string, opening: RegExp): string {
  const [open] = opening.exec(text) ?? assert.fail(`there is no ${opening}`);
  const from = text.indexOf(open) + open.length;
  let depth = 1;
  let at = from;
  for (; depth > 0; at++) depth += { '{': 1, '}': -1 }[text[at] as string] ?? 0;
  return text.slice(from, at - 1);
}

/** The names of an interface's properties, or of one of its properties (`Stats.pauses`). */
function inTypeScript(path: string): string[] {
  const [name, property] = path.split('.');
  let body = block(typed, new RegExp(`(?:interface ${name}|const ${name} = freeze\\()[^{]*\\{`));
  if (property) body = block(body, new RegExp(`${property}: \\{`));
  while (/\{[^{}]*\}/.test(body)) body = body.replace(/\{[^{}]*\}/g, '');
  return [...body.matchAll(/(?:^|;|,)\s*(?:readonly )?(\w+)\??:/g)].map(([, member]) => member ?? '');
}

/** The strings of a union: of a type, or of an interface's property. */
function words(path: string): string[] {
  const [name, property] = path.split('.');
  const [, union] = property
    ? (new RegExp(`${property}: ([^;]*);`).exec(block(typed, new RegExp(`interface ${name} \\{`))) ?? [])
    : (new RegExp(`type ${name} = ([^;]*);`).exec(typed) ?? []);
  return [...(union ?? '').matchAll(/'([^']*)'/g)].map(([, word]) => camel((word ?? '').replace(/-/g, '_')));
}

interface Contract extends Record<Face, string[]> {
  /** Another name for the same in a face, and why. */
  renamed?: [face: Face, its: string, common: string, why: string][];
  /** What only some faces have, and why. */
  only?: [name: string, faces: Face[], why: string][];
}

const nanos = 'JavaScript counts microseconds, as performance.now does';
const sections = 'the core has arrays by section';

const contracts: Record<string, Contract> = {
  'the options of an arena': {
    core: inCore('ArenaOptions'),
    c: inC('ja_options'),
    ts: inTypeScript('ArenaOptions'),
    renamed: [['core', 'apart', 'layout', 'there are two']],
    only: [['withoutBarrier', ['core'], 'for tests: as on a kernel without membarrier SYNC_CORE']],
  },
  'the spec of an executor': {
    core: inCore('ExecutorSpec'),
    c: inC('ja_spec'),
    ts: inTypeScript('ExecutorSpec'),
    renamed: [['core', 'exitCount', 'exits', 'a count']],
    only: [
      ...['bytes', 'sizes', 'aligns'].map((name): [string, Face[], string] => [name, ['core'], sections]),
      ...['code', 'data', 'state'].map((name): [string, Face[], string] => [name, ['c', 'ts'], sections]),
      ...['align', 'dataAlign', 'stateAlign'].map((name): [string, Face[], string] => [
        name,
        ['ts'],
        'C has the alignment in ja_content',
      ]),
      ['keeps', ['core'], 'for the loader of objects: what an install has to call at its end'],
      ['frames', ['core'], 'for the loader of objects, which makes them of .eh_frame'],
      ['zeroTails', ['core'], 'for the loader of objects; hosts give a size instead of bytes'],
      ['relocCount', ['core', 'c'], 'a list has a length'],
      ['entryCount', ['core', 'c'], 'a list has a length'],
    ],
  },
  'a collect': {
    core: inCore('CollectOptions'),
    c: inC('ja_collect_options'),
    ts: inTypeScript('CollectOptions'),
    renamed: [
      ['ts', 'maxPauseMicros', 'maxPauseNanos', nanos],
      ['ts', 'order', 'followLinks', 'a word, for orders to come'],
    ],
    only: [
      ['evicted', ['c'], 'the others have a list in the result'],
      ['user', ['c'], 'for the callback'],
    ],
  },
  'what a collect says': {
    core: inCore('CollectResult'),
    c: inC('ja_collect_result'),
    ts: inTypeScript('CollectResult'),
    renamed: [['ts', 'pauseMicros', 'pauseNanos', nanos]],
    only: [['evictedIds', ['ts'], 'the core has a list, C a callback, and evicted counts']],
  },
  'a plan': { core: inCore('CompactionPlan'), c: inC('ja_plan_result'), ts: inTypeScript('CompactionPlan') },
  'the figures': {
    core: inCore('ArenaStats'),
    c: inC('ja_stats_result'),
    ts: inTypeScript('Stats'),
    only: [
      ['sizeClasses', ['core', 'ts'], 'C visits them: ja_size_classes'],
      ['pauseNanos', ['c'], 'pauses is a structure in the others'],
      ['maxPauseNanos', ['c'], 'pauses is a structure in the others'],
      ['writer', ['c'], 'a property of the Arena in the others'],
    ],
  },
  'the pauses': {
    core: inCore('PauseStats'),
    c: inC('ja_stats_result').filter((name) => /pause/i.test(name)),
    ts: inTypeScript('Stats.pauses'),
    renamed: [
      ['c', 'pauses', 'count', 'C has no structure for them'],
      ['c', 'pauseNanos', 'totalNanos', 'C has no structure for them'],
      ['c', 'maxPauseNanos', 'maxNanos', 'C has no structure for them'],
      ['ts', 'totalMicros', 'totalNanos', nanos],
      ['ts', 'maxMicros', 'maxNanos', nanos],
    ],
  },
  'a class of sizes': {
    core: inCore('SizeClass'),
    c: inC('ja_size_class'),
    ts: inTypeScript('Stats.sizeClasses'),
  },
  'a slab': {
    core: inCore('SlabMap'),
    c: inC('ja_slab'),
    ts: inTypeScript('SlabMap'),
    renamed: [['ts', 'kind', 'zone', 'its words are kinds of slabs']],
    only: [
      ['pages', ['c'], 'a list has a length'],
      ['backedPages', ['c', 'ts'], 'of backed'],
    ],
  },
  'an address that was found': { core: inCore('FoundAddress'), c: inC('ja_found'), ts: inTypeScript('FoundAddress') },
  'a problem': { core: inCore('Problem'), c: inC('ja_problem'), ts: inTypeScript('Verification.problems') },
  'an exit that was taken': { core: inCore('ExitTaken'), c: inC('ja_taken'), ts: inTypeScript('ExitTaken') },
  'an error': {
    core: membersOf(status, /struct Error \{/),
    c: inC('ja_error'),
    ts: [...inTypeScript('ErrorDetails'), 'code', 'message'],
    renamed: [['c', 'status', 'code', 'a number, with ja_status_name']],
  },
  'the codes of errors': {
    core: [...status.matchAll(/ROW\(k(\w+), "ERR_ARENA_\w+"/g)].map(([, name]) => (name ?? '').toLowerCase()),
    c: [...header.matchAll(/^ {2}JA_ERR_(\w+) = \d/gm)].map(([, name]) => (name ?? '').replace(/_/g, '').toLowerCase()),
    ts: [...readFileSync('docs/errors.md', 'utf8').matchAll(/^### ERR_ARENA_(\w+)/gm)].map(([, name]) =>
      (name ?? '').replace(/_/g, '').toLowerCase(),
    ),
  },
  'what a reloc refers to': {
    core: enumerators(core, 'TargetKind'),
    c: constants('JA_TARGET_'),
    ts: inTypeScript('TargetKind'),
  },
  writers: {
    core: enumerators(source('native/os/memory.h'), 'WriterKind'),
    c: constants('JA_WRITER_'),
    ts: words('WriterName'),
    only: [['auto', ['c'], 'an option, and no writer']],
  },
  'what listeners hear of': {
    core: enumerators(core, 'EventKind'),
    c: constants('JA_EVENT_'),
    ts: words('ArenaEvent'),
    renamed: [
      ['ts', 'move', 'moved', 'names of events are verbs there'],
      ['ts', 'evict', 'evicted', 'names of events are verbs there'],
      ['ts', 'free', 'retired', 'names of events are verbs there'],
    ],
    only: ['published', 'reclaimed', 'forkedChild'].map((name): [string, Face[], string] => [
      name,
      ['core', 'c'],
      'for those who keep addresses of code, and fork',
    ]),
  },
  'kinds of slabs': { core: enumerators(core, 'Zone'), c: constants('JA_ZONE_'), ts: words('SlabMap.kind') },
};

/** Throws unless each face has what the others have. */
function check({ renamed = [], only = [], ...own }: Contract) {
  const has = {} as Record<Face, string[]>;
  for (const face of faces) {
    assert(own[face].length > 1, `nothing was found in ${face}: ${own[face]}`);
    assert.equal(new Set(own[face]).size, own[face].length, `${face} has a name twice: ${own[face]}`);
    const renames = renamed.filter(([of]) => of === face);
    for (const [, its] of renames) assert(own[face].includes(its), `${face} has no ${its} any more: its entry can go`);
    has[face] = own[face].map((name) => renames.find(([, its]) => its === name)?.[2] ?? name);
  }
  const names = new Set(faces.flatMap((face) => has[face]));
  for (const [name] of only) assert(names.has(name), `nobody has ${name} any more: its entry can go`);
  for (const name of names) {
    const found = faces.filter((face) => has[face].includes(name));
    const allowed = only.find(([exception]) => exception === name)?.[1] ?? faces;
    assert.deepEqual(found, [...allowed], `${name} is in ${found} and should be in ${allowed}`);
  }
}

describe('one contract, three faces', () => {
  for (const [what, contract] of Object.entries(contracts)) {
    it(`has ${what} in each of them`, () => check(contract));
  }

  it('would notice what one face has forgotten', () => {
    for (const contract of Object.values(contracts)) {
      for (const face of faces) {
        const everywhere = contract[face].find((name) => faces.every((other) => contract[other].includes(name)));
        if (everywhere === undefined) continue;
        const without = contract[face].filter((name) => name !== everywhere);
        assert.throws(
          () => check({ ...contract, [face]: without }),
          new RegExp(`${everywhere} is in|nothing was found`),
        );
      }
    }
  });

  it('gives TypeScript what its types promise', () => {
    const arena = new Arena();
    const executor = arena.install({ code: Uint8Array.of(0xc3) });
    const found = arena.find(executor.address);
    const promised: [string, object | undefined][] = [
      ['Stats', arena.stats()],
      ['Stats.pauses', arena.stats().pauses],
      ['Stats.sizeClasses', arena.stats().sizeClasses[0]],
      ['CompactionPlan', arena.planCompaction()],
      ['CollectResult', arena.collect()],
      ['SlabMap', arena.slabs()[0]],
      ['FoundAddress', found],
    ];
    for (const [name, given] of promised) {
      assert.deepEqual(Object.keys(given ?? {}).sort(), inTypeScript(name).sort(), name);
    }
  });
});
