// The rule of the drawing: the first one in ARCHITECTURE.md has every folder of sources, and no other.
import { posix } from 'node:path';

const PAGE = 'ARCHITECTURE.md';

/** All problems of a source tree: a Map from path relative to the root, the page's among them, to the file's text. */
export function checkDrawing(files) {
  const drawing = files.get(PAGE)?.match(/^```\n([\s\S]*?)^```/m)?.[1] ?? '';
  const drawn = new Set(drawing.match(/\b(native|stress|ts)(\/\w+)*(?=\/(\s|$))/gm));
  const folders = new Set([...files.keys()].filter((file) => file !== PAGE).map((file) => posix.dirname(file)));
  return [
    ...[...folders].filter((folder) => !drawn.has(folder)).map((folder) => `${PAGE}: does not draw ${folder}/`),
    ...[...drawn]
      .filter((folder) => !folders.has(folder))
      .map((folder) => `${PAGE}: draws ${folder}/, which is not there`),
  ];
}

/** A tree without a problem, and changes to it with what must be found. */
export const plantedDrawing = {
  tree: {
    [PAGE]: '# How\n```\n ts/  native/base/  units\n native/arch/x86_64/\n```\n```\nnative/other/\n```\n',
    'ts/index.ts': '',
    'native/base/bits.h': '',
    'native/arch/x86_64/stubs.cc': '',
  },
  changes: [
    [{}, undefined],
    [{ 'native/os/memory.h': '' }, 'does not draw native/os/'],
    [{ [PAGE]: '```\nts/ native/base/ native/arch/x86_64/ native/gone/\n```\n' }, 'draws native/gone/'],
    [{ [PAGE]: '' }, 'does not draw ts/'],
  ],
};
