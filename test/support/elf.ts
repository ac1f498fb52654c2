// Relocatable objects written here, for what no compiler makes: so many symbols, sections or relocs, and names that
// share bytes.

export interface ElfSection {
  name: string;
  bytes: Uint8Array;
  kind?: 'code' | 'data' | 'state';
  align?: number;
  relocs?: readonly ElfReloc[];
}
export interface ElfReloc {
  offset: number;
  kind: number;
  /** Position in `symbols`. */
  symbol: number;
  addend?: number;
}
export interface ElfSymbol {
  /** Offset in `strings`. */
  name: number;
  /** Position in `sections`; undefined symbols have none. */
  section?: number;
  value?: number;
  binding?: 'local' | 'global' | 'weak';
}
interface Table {
  name: string;
  bytes: Uint8Array;
  type: number;
  flags?: number;
  align?: number;
  link?: number;
  info?: number;
  entry?: number;
}

const flags = { code: 6, data: 2, state: 3 };
const bindings = { local: 0, global: 1, weak: 2 };

/** A string table, and where each name begins. */
export function strings(names: readonly string[]): { at: number[]; bytes: Uint8Array } {
  let end = 1;
  const at = names.map((name) => {
    end += name.length + 1;
    return end - name.length - 1;
  });
  return { at, bytes: Buffer.from(`\0${names.map((name) => `${name}\0`).join('')}`, 'latin1') };
}

/** An object with relocs of the RELA kind. */
export function makeElf(sections: readonly ElfSection[], symbols: readonly ElfSymbol[], names: Uint8Array): Uint8Array {
  const withRelocs = sections.flatMap((section, i) => (section.relocs === undefined ? [] : [{ section, i }]));
  const symbolTable = 1 + sections.length + withRelocs.length;
  const tables: Table[] = [
    ...sections.map(({ name, bytes, kind = 'code', align }) => ({ name, bytes, type: 1, flags: flags[kind], align })),
    ...withRelocs.map(({ section, i }) => ({
      name: '.rela',
      bytes: relocBytes(section.relocs ?? []),
      type: 4,
      link: symbolTable,
      info: i + 1,
      entry: 24,
    })),
    { name: '.symtab', bytes: symbolBytes(symbols), type: 2, link: symbolTable + 1, info: 1, entry: 24 },
    { name: '.strtab', bytes: names, type: 3 },
  ];
  return layOut(tables);
}

function relocBytes(relocs: readonly ElfReloc[]): Uint8Array {
  const bytes = Buffer.alloc(24 * relocs.length);
  relocs.forEach(({ offset, kind, symbol, addend = 0 }, i) => {
    bytes.writeUInt32LE(offset, 24 * i);
    bytes.writeUInt32LE(kind, 24 * i + 8);
    bytes.writeUInt32LE(symbol + 1, 24 * i + 12);
    bytes.writeBigInt64LE(BigInt(addend), 24 * i + 16);
  });
  return bytes;
}

function symbolBytes(symbols: readonly ElfSymbol[]): Uint8Array {
  const bytes = Buffer.alloc(24 * (symbols.length + 1));
  symbols.forEach(({ name, section, value = 0, binding = 'global' }, i) => {
    const at = 24 * (i + 1);
    bytes.writeUInt32LE(name, at);
    bytes.writeUInt8(bindings[binding] << 4, at + 4);
    bytes.writeUInt16LE(section === undefined ? 0 : section + 1, at + 6);
    bytes.writeUInt32LE(value, at + 8);
  });
  return bytes;
}

function layOut(tables: Table[]): Uint8Array {
  const nameOf = new Map<string, number>();
  let sectionNames = '\0';
  for (const name of [...tables.map((table) => table.name), '.shstrtab']) {
    if (nameOf.has(name)) continue;
    nameOf.set(name, sectionNames.length);
    sectionNames += `${name}\0`;
  }
  tables.push({ name: '.shstrtab', bytes: Buffer.from(sectionNames, 'latin1'), type: 3 });
  const headers = Buffer.alloc(64 * (tables.length + 1));
  let end = 64;
  tables.forEach((table, i) => {
    const at = 64 * (i + 1);
    headers.writeUInt32LE(nameOf.get(table.name) ?? 0, at);
    headers.writeUInt32LE(table.type, at + 4);
    headers.writeUInt32LE(table.flags ?? 0, at + 8);
    headers.writeUInt32LE(end, at + 24);
    headers.writeUInt32LE(table.bytes.length, at + 32);
    headers.writeUInt32LE(table.link ?? 0, at + 40);
    headers.writeUInt32LE(table.info ?? 0, at + 44);
    headers.writeUInt32LE(table.align ?? 1, at + 48);
    headers.writeUInt32LE(table.entry ?? 0, at + 56);
    end += table.bytes.length;
  });
  const header = elfHeader(end, tables.length + 1);
  return new Uint8Array(Buffer.concat([header, ...tables.map(({ bytes }) => bytes), headers]));
}

/** The first 64 bytes, for section headers at `table` whose last one has the sections' names. */
export function elfHeader(table: number, count: number): Buffer {
  const header = Buffer.alloc(64);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(1, 16);
  header.writeUInt16LE(62, 18);
  header.writeUInt32LE(1, 20);
  header.writeUInt32LE(table, 40);
  header.writeUInt16LE(64, 52);
  header.writeUInt16LE(64, 58);
  header.writeUInt16LE(count, 60);
  header.writeUInt16LE(count - 1, 62);
  return header;
}
