// The rule of sizes: a file is one idea and below 450 lines, a function below 80. A file's lines are all of them. A
// function's are those from its opening brace to its closing one, comments included, and functions inside it count with
// it. Braces are counted in the text without comments and strings; no compiler is asked.

const MOST_IN_FILE = 450;
const MOST_IN_FUNCTION = 80;
/** The C header is a manual as well. */
const MAY_BE_LONGER = ['native/capi/jit_arena.h'];

/** What holds functions and is none. */
const HOLDER =
  /^(export |default |abstract |declare |template ?<.*> ?)*(class|struct|union|enum|namespace|interface|extern)\b/;

/** The same lines without comments and what stands in strings. */
const codeOf = (text) =>
  text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`|'(?:[^'\\\n]|\\.){1,200}'/g, (part) =>
    part.replace(/[^\n]/g, ''),
  );

/** The outermost functions of a file: [name, line of the opening brace, number of lines]. */
function functionsIn(text) {
  const found = [];
  const open = [];
  let line = 1;
  let head = '';
  for (const sign of codeOf(text)) {
    if (sign === '\n') line++;
    if (sign === '{') {
      const words = head
        .replace(/^\s*#.*$/gm, '')
        .replace(/\s+/g, ' ')
        .trim();
      const isFunction = /\)|=>/.test(words) && !HOLDER.test(words);
      open.push({
        line,
        name:
          isFunction && !open.some(({ name }) => name)
            ? (words.match(/([\w:~#]+) ?(?:<[^(]*> ?)?\(/)?.[1] ?? words)
            : '',
      });
    }
    if (sign === '}') {
      const { name, line: from } = open.pop() ?? {};
      if (name) found.push([name, from, line - from + 1]);
    }
    head = '{};'.includes(sign) ? '' : head + sign;
  }
  return found;
}

/** All problems of a source tree: a Map from path relative to the root to the file's text. */
export function checkSizes(files) {
  const problems = [];
  for (const [file, text] of files) {
    const lines = text.split('\n').length - 1;
    if (lines >= MOST_IN_FILE && !MAY_BE_LONGER.includes(file)) {
      problems.push(`${file}: has ${lines} lines, and a file is below ${MOST_IN_FILE}`);
    }
    for (const [name, line, count] of functionsIn(text)) {
      if (count >= MOST_IN_FUNCTION)
        problems.push(`${file}:${line}: ${name} has ${count} lines, and a function is below ${MOST_IN_FUNCTION}`);
    }
  }
  return problems;
}

const lines = (count) => '\n'.repeat(count);

/** A tree without a problem, and changes to it with what must be found. */
export const plantedSizes = {
  tree: {
    'native/capi/jit_arena.h': lines(900),
    'native/core/arena.cc': `namespace a {\nclass B {\n${lines(100)}\n};\nvoid B::C(int x) {${lines(78)}}\n}\n`,
    'ts/arena.ts': `export const a = {\n${lines(100)}};\n`,
  },
  changes: [
    [{}, undefined],
    [{ 'native/core/slab.h': lines(450) }, 'slab.h: has 450 lines'],
    [{ 'native/core/slab.h': lines(449) }, undefined],
    [
      { 'native/core/slab.cc': `namespace a {\nint B::Long(int x,\n  int y) const {${lines(79)}}\n}` },
      'slab.cc:3: B::Long has 80',
    ],
    [{ 'native/core/slab.cc': `void Long() {\n// }\nPut("}");\nif (x) {\n}${lines(90)}}` }, 'slab.cc:1: Long has'],
    [{ 'ts/arena.ts': `export class Arena {\n  long(a: number): void {${lines(90)}}\n}` }, 'arena.ts:2: long has'],
    [{ 'ts/arena.ts': `const long = (a: number) => {${lines(90)}};` }, 'arena.ts:1: const long'],
  ],
};
