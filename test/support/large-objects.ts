// Objects that are large in one way each, and what it costs to load them. Run as a script in a process of its own, with
// a kind's name as its argument, and `stencils` where stencils are to be made of it.
import { readFileSync, writeFileSync } from 'node:fs';
import { Arena, ArenaError, loadObject, StencilSet } from 'jit-arena';
import { type ElfSection, elfHeader, makeElf, strings } from './elf.js';

const times = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));
const namesOf = (count: number, length: number) => strings(times(count, (i) => `n${i}_`.padEnd(length, 'x')));
const text = (bytes: number, name = '.text'): ElfSection => ({ name, bytes: new Uint8Array(bytes).fill(0xc3) });
const zeros = (name: string, kind: 'data' | 'state', bytes: number, align = 1): ElfSection => ({
  name,
  kind,
  align,
  bytes: new Uint8Array(bytes),
});
const one = strings(['f']);
const first = { name: 1, section: 0 };
const [absolute64, relative32, got] = [1, 2, 9];

function sharedConstants(count: number, holes: number): Uint8Array {
  const { at, bytes } = strings([...times(count, (i) => `n${i}`), ...times(holes, (i) => `HOLE${i}`)]);
  const table = { name: 1, section: count, binding: 'local' as const };
  const symbols = [table, ...at.map((name, section) => (section < count ? { name, section } : { name }))];
  const use = [{ offset: 1, kind: relative32, symbol: 0, addend: -4 }];
  const relocs = times(count, (i) => ({ offset: 8 * i, kind: absolute64, symbol: 1 + count + (i % holes) }));
  const functions = times(count, (i) => ({ ...text(8, `.text.f${i}`), relocs: use }));
  return makeElf([...functions, { ...zeros('.rodata', 'data', 8 * count), relocs }], symbols, bytes);
}

export const kinds = {
  symbols() {
    const { at, bytes } = namesOf(80_000, 48);
    return makeElf(
      [text(at.length)],
      at.map((name, value) => ({ name, section: 0, value })),
      bytes,
    );
  },
  undefinedSymbols() {
    const { at, bytes } = namesOf(50_000, 48);
    const relocs = at.map((_, symbol) => ({ offset: 8 * symbol, kind: absolute64, symbol }));
    const sections = [text(8), { ...zeros('.data', 'state', 8 * at.length), relocs }];
    return makeElf(
      sections,
      at.map((name) => ({ name, binding: 'weak' })),
      bytes,
    );
  },
  branches() {
    const relocs = times(200_000, (i) => ({ offset: 5 * i + 1, kind: relative32, symbol: 0, addend: -4 }));
    return makeElf([{ ...text(5 * relocs.length), relocs }], [first], one.bytes);
  },
  pointers() {
    const relocs = times(200_000, (i) => ({ offset: 8 * i, kind: absolute64, symbol: 0 }));
    return makeElf([text(8), { ...zeros('.data', 'state', 8 * relocs.length), relocs }], [first], one.bytes);
  },
  slots() {
    const { at, bytes } = namesOf(80_000, 8);
    const relocs = at.map((_, symbol) => ({ offset: 5 * symbol + 1, kind: got, symbol, addend: -4 }));
    const symbols = at.map((name) => ({ name, section: 0 }));
    return makeElf([{ ...text(5 * at.length), relocs }], symbols, bytes);
  },
  sections() {
    return makeElf(
      times(40_000, (i) => text(16, `.text.f${i}`)),
      [first],
      one.bytes,
    );
  },
  units() {
    const { at, bytes } = namesOf(40_000, 8);
    const symbols = at.map((name, section) => ({ name, section }));
    return makeElf(
      times(at.length, (i) => text(16, `.text.f${i}`)),
      symbols,
      bytes,
    );
  },
  jumpTables() {
    const { at, bytes } = namesOf(20_000, 8);
    const tables = at.map((_, symbol) => ({
      ...zeros('.rodata', 'data', 4),
      relocs: [{ offset: 0, kind: relative32, symbol }],
    }));
    const symbols = at.map((name, section) => ({ name, section }));
    return makeElf([...times(at.length, (i) => text(8, `.text.f${i}`)), ...tables], symbols, bytes);
  },
  // Each function calls the first.
  callsOfOne() {
    const { at, bytes } = namesOf(20_000, 8);
    const relocs = [{ offset: 1, kind: relative32, symbol: 0, addend: -4 }];
    const symbols = at.map((name, section) => ({ name, section }));
    return makeElf(
      times(at.length, (i) => ({ ...text(8, `.text.f${i}`), relocs })),
      symbols,
      bytes,
    );
  },
  // Each function is a stencil that ends with `movabs $CONTINUE, rax; jmp *rax`.
  endingJumps() {
    const count = 30_000;
    const { at, bytes } = strings([...times(count, (i) => `n${i}`), 'CONTINUE']);
    const relocs = [{ offset: 2, kind: absolute64, symbol: count }];
    const code = Uint8Array.of(0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0);
    const symbols = at.map((name, section) => (section < count ? { name, section } : { name }));
    return makeElf(
      times(count, (i) => ({ name: `.text.f${i}`, bytes: code, relocs })),
      symbols,
      bytes,
    );
  },
  // Each function uses constants that have many relocs, of one hole or of a hole each.
  sharedConstants: () => sharedConstants(20_000, 1),
  sharedHoles: () => sharedConstants(3000, 3000),
  constants() {
    return makeElf([text(8), zeros('.rodata', 'data', 6_000_000)], [first], one.bytes);
  },
  escapes() {
    const { at, bytes } = namesOf(50_000, 60);
    const relocs = at.map((_, symbol) => ({ offset: 8 * symbol, kind: absolute64, symbol }));
    const symbols = at.map((name) => ({ name, section: 0 }));
    return makeElf([text(8), { ...zeros('.data', 'state', 8 * at.length), relocs }], symbols, bytes);
  },
  // Each of few symbols escapes in each of few sections.
  escapesOfEach() {
    const { at, bytes } = namesOf(400, 80);
    const relocs = at.map((_, symbol) => ({ offset: 8 * symbol, kind: absolute64, symbol }));
    const holders = times(400, (i) => ({ ...zeros(`.data.${i}`.padEnd(80, 'x'), 'state', 8 * at.length), relocs }));
    const symbols = at.map((name) => ({ name, section: 0 }));
    return makeElf([text(8), ...holders], symbols, bytes);
  },
  // No reloc says so: lea of its own section, of a place that has a symbol.
  ownAddresses() {
    const { at, bytes } = namesOf(60_000, 8);
    const code = Buffer.alloc(7 * at.length);
    at.forEach((_, i) => {
      code.set([0x48, 0x8d, 0x05], 7 * i);
      code.writeInt32LE(-7, 7 * i + 3);
    });
    const symbols = at.map((name, i) => ({ name, section: 0, value: 7 * i }));
    return makeElf([{ name: '.text', bytes: code }], symbols, bytes);
  },
  // Parts of the names of functions that switch stacks, none of them whole.
  oneLocalName() {
    const { bytes } = strings(['cmsgfFCa'.repeat(500)]);
    return makeElf(
      [text(8)],
      times(200_000, () => ({ name: 1, section: 0, binding: 'local' as const })),
      bytes,
    );
  },
  sectionNames() {
    return makeElf(
      times(30_000, () => text(4, `.text.${'x'.repeat(4000)}`)),
      [],
      one.bytes,
    );
  },
  // Undefined names that could be those of ends of sections, where no section is loaded.
  endsOfSections() {
    const { at, bytes } = strings(times(60_000, (i) => `__start_n${i}`));
    const notes = times(40_000, () => zeros('.note', 'data', 1));
    return makeElf(
      notes,
      at.map((name) => ({ name, binding: 'weak' as const })),
      bytes,
    );
  },
  overlappingNames() {
    const { bytes } = strings(['c'.repeat(4096)]);
    const symbols = times(200_000, (i) => ({ name: 1 + (i % 4096), section: 0 }));
    return makeElf([text(8)], symbols, bytes);
  },
  // As many of them as are let in.
  overlappingExports() {
    const { at, bytes } = strings(['c'.repeat(4096)]);
    const symbols = times(4000, (i) => ({ name: (at[0] as number) + i, section: 0 }));
    return makeElf([text(2_000_000)], symbols, bytes);
  },
  alignments() {
    return makeElf(
      times(1000, () => zeros('.data', 'state', 1, 65_536)),
      [],
      one.bytes,
    );
  },
  // Memory that is all zero and that nobody touches.
  tooMuch() {
    const bytes = new Uint8Array(400_000_000);
    const { bytes: names } = strings(['.rodata', '.shstrtab']);
    bytes.set(elfHeader(128, 3));
    bytes.set(names, 64);
    const headers = Buffer.alloc(192);
    const put = (at: number, words: number[]) => {
      words.forEach((word, i) => {
        headers.writeUInt32LE(word, at + 4 * i);
      });
    };
    put(64, [1, 1, 2, 0, 0, 0, 512, 0, bytes.length - 512, 0, 0, 0, 1]);
    put(128, [9, 3, 0, 0, 0, 0, 64, 0, names.length, 0, 0, 0, 1]);
    bytes.set(headers, 128);
    return bytes;
  },
} satisfies Record<string, () => Uint8Array>;

/** Of one step. Memory is the peak above what there was before. */
export interface Cost {
  millis: number;
  memory: number;
  error?: string;
}
export interface Costs {
  bytes: number;
  load: Cost;
  /** Absent where loading fails. */
  install?: Cost;
  look?: Cost;
}

const statusOf = (field: string): number => {
  const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
  return 1024 * Number(kilobytes);
};

function measured<T>(step: () => T): [Cost, T | undefined] {
  (globalThis as { gc?: () => void }).gc?.();
  // The peak is what there is now.
  writeFileSync('/proc/self/clear_refs', '5');
  const before = statusOf('VmRSS');
  const start = performance.now();
  let result: T | undefined;
  let error: string | undefined;
  try {
    result = step();
  } catch (thrown) {
    if (!(thrown instanceof ArenaError)) throw thrown;
    error = `${thrown.code}: ${thrown.message}`;
  }
  const millis = performance.now() - start;
  return [{ millis, memory: statusOf('VmHWM') - before, ...(error !== undefined && { error }) }, result];
}

function costsOf(kind: keyof typeof kinds): Costs {
  const bytes = kinds[kind]();
  const [load, object] = measured(() => loadObject(bytes));
  if (object === undefined) return { bytes: bytes.length, load };
  const arena = new Arena();
  const [install] = measured(() => object.install(arena).free());
  const [look] = measured(() => object.symbols.length + object.reasons.length);
  return { bytes: bytes.length, load, install, look };
}

/** Of making stencils of it. */
function stencilCostsOf(kind: keyof typeof kinds): Costs {
  const bytes = kinds[kind]();
  const [load] = measured(() => StencilSet.fromObject(bytes));
  return { bytes: bytes.length, load };
}

if (require.main === module) {
  const [, , kind, what] = process.argv as [string, string, keyof typeof kinds, string | undefined];
  console.log(JSON.stringify(what === 'stencils' ? stencilCostsOf(kind) : costsOf(kind)));
}
