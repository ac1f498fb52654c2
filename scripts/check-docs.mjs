// Whether the pages and the comments name what there is: files, members of classes, tests, npm commands, and the
// links between pages. What has been renamed or deleted lives on in words, and sends a reader nowhere.
//
//   npm run check-docs
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { filesIn, root } from './tools.mjs';

const FOLDERS = ['native', 'ts', 'stress', 'test', 'scripts', 'bench', 'examples', 'docs'];
const pages = readdirSync(root).filter((name) => name.endsWith('.md'));
const files = [...pages, ...FOLDERS.flatMap((folder) => filesIn(folder))];
const read = (file) => readFileSync(file, 'utf8');
const isCode = (file) => /\.(h|cc|c|ts|mjs|cjs)$/.test(file);
const isPage = (file) => file.endsWith('.md');

/** Without comments; strings stay, since they may hold `//`. */
const codeOf = (text) =>
  text.replace(/"(?:[^"\\\n]|\\.)*"|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, (part) => (part[0] === '"' ? part : ''));
/** The comments alone, on the lines where they stand. */
const commentsOf = (text) =>
  text.replace(
    /"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|(\/\*[\s\S]*?\*\/|\/\/[^\n]*)|[^"'/\n]+|[^\n]/g,
    (_, comment) => comment ?? '',
  );

/** Files, members and tests that are found in `codes` (file → text without comments). */
function index(paths, codes) {
  const members = new Map();
  const tests = new Set();
  for (const [file, code] of codes) {
    const words = new Set(code.match(/\w+/g) ?? []);
    for (const [, name] of code.matchAll(
      /\b(?:class|struct|enum|namespace)\s+(?:alignas\([^)]*\)\s*|\[\[\w+\]\]\s*)?(?:class\s+)?(\w+)/g,
    )) {
      const known = members.get(name) ?? new Set();
      for (const word of words) known.add(word);
      members.set(name, known);
    }
    if (file.startsWith('test/')) for (const [, name] of code.matchAll(/\bTEST\((\w+)\)/g)) tests.add(name);
  }
  return { paths: new Set(paths), members, tests };
}

/** Where a path may begin: the repository's top, or what its readers take for the top. */
const ROOTS = [
  '',
  'native/',
  'native/core/',
  'native/os/',
  'native/arch/',
  'native/arch/x86_64/',
  'native/object/',
  'native/node/',
  'native/capi/',
  'native/base/',
  'ts/',
  'test/',
  'test/native/',
  'docs/',
  'scripts/',
  'stress/',
  'bench/',
  'examples/',
];

// Owners of members that are none of ours: node-addon-api's.
const FOREIGN = /^(Napi|Error)$/;

/** What `text` (a page, or the comments of a file) names and `known` does not have. */
function problemsOf(file, text, known, scripts) {
  const found = [];
  const lines = text.split('\n');
  const say = (i, what) => found.push(`${file}:${i + 1}: ${what}`);
  lines.forEach((line, i) => {
    for (const [, path] of line.matchAll(
      /(?<![\w./@:$*{<-])((?:[a-z][\w-]*\/)*[\w-]+\.(?:h|cc|ts|mjs|md))(?![\w/*(-])/g,
    )) {
      const here = posix.join(posix.dirname(file), path);
      const isThere = [...known.paths].some(
        (one) => one === here || one.endsWith(`/${path}`) || ROOTS.some((root) => one === root + path),
      );
      if (!isThere) say(i, `there is no ${path}`);
    }
    for (const [, owner, member] of line.matchAll(/(?<![\w:])([A-Z]\w+)::(\w+)/g)) {
      if (FOREIGN.test(owner)) continue;
      if (!known.members.get(owner)?.has(member)) say(i, `there is no ${owner}::${member}`);
    }
    for (const [, name] of line.matchAll(/`([a-z]+(?:_[a-z0-9]+){4,})`/g))
      if (!known.tests.has(name) && !known.words.has(name)) say(i, `there is no test ${name}`);
    for (const [, name] of line.matchAll(/npm run (?:-s )?([a-z][\w-]*)/g))
      if (!scripts.has(name)) say(i, `there is no npm run ${name}`);
    if (!isPage(file)) return;
    for (const [, target] of line.matchAll(/\]\((?!\w+:)([^)\s]+)\)/g)) {
      const [path, anchor] = target.split('#');
      const page = path === '' ? file : posix.join(posix.dirname(file), path);
      if (!existsSync(page)) say(i, `the link leads to no file: ${target}`);
      else if (anchor !== undefined && isPage(page) && !anchorsOf(read(page)).has(anchor))
        say(i, `the page has no heading for ${target}`);
    }
  });
  return found;
}

/** As GitHub makes them of headings. */
const anchorsOf = (page) =>
  new Set(
    [...page.matchAll(/^#+ +(.*)$/gm)].map(([, heading]) =>
      heading
        .toLowerCase()
        .replace(/[^\w\- ]/g, '')
        .trim()
        .replace(/ /g, '-'),
    ),
  );

const codes = files
  .filter((file) => isCode(file) && file !== 'scripts/check-docs.mjs')
  .map((file) => [file, codeOf(read(file))]);
const known = index(files, codes);
known.words = new Set(codes.flatMap(([, code]) => code.match(/\w+/g) ?? []));
const scripts = new Set(Object.keys(JSON.parse(read('package.json')).scripts));

// Each kind of mistake, found in a page of its own.
const mistakes = {
  'see native/core/no_such.h': 'no_such.h',
  '`Arena::NoSuchMember` does': 'NoSuchMember',
  '`a_test_that_nobody_has_written` in': 'a_test_that_nobody',
  'npm run no-such-command': 'no-such-command',
  '[a page](docs/no-such.md)': 'no-such.md',
  '[a heading](ARCHITECTURE.md#no-such-heading)': 'no-such-heading',
};
for (const [text, what] of Object.entries(mistakes)) {
  const said = problemsOf('self-test.md', text, known, scripts);
  if (!said.some((one) => one.includes(what))) throw new Error(`the self test does not find: ${text}`);
}

const problems = files.flatMap((file) => {
  if (isPage(file)) return problemsOf(file, read(file), known, scripts);
  if (isCode(file)) return problemsOf(file, commentsOf(read(file)), known, scripts);
  return [];
});
for (const problem of problems) console.error(problem);
console.log(
  `check-docs: ${files.length} files, ${problems.length} problems (self test: ${Object.keys(mistakes).length} mistakes)`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
