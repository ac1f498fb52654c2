// Looks at memory and runs code by address, past the arena that is being tested: with machine code of another arena.
import { Arena, machine, type SlabMap, symbolAddress } from 'jit-arena';
import { jump } from './x64.js';

const tools = new Arena({ name: 'peek' });

const jumpTo = (symbol: string) => tools.install(jump({ address: symbolAddress(symbol) }));

const copy = jumpTo('memcpy').func({ args: ['pointer', 'pointer', 'u64'], returns: 'pointer' });

/** The 8 bytes at an address: mov rax, [rdi]; ret. */
export const peek = tools
  .install({ code: Uint8Array.of(0x48, 0x8b, 0x07, 0xc3) })
  .func({ args: ['pointer'], returns: 'u64' });

export function peekBytes(address: bigint, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  if (length !== 0) copy(bytes, address, BigInt(length));
  return bytes;
}

/** Calls what lies at an address with one number: jmp rsi. */
export const callAt = tools
  .install({ code: Uint8Array.of(0xff, 0xe6) })
  .func({ args: ['u64', 'pointer'], returns: 'u64' });

// A far slot: executable first, with the slot that holds its target behind it. A branch goes to the start, a load
// reads the slot.
const veneer = Uint8Array.of(0xff, 0x25, 2, 0, 0, 0, 0x0f, 0x0b);
const slotOffset = BigInt(veneer.length);

/** The code that an arena has of its own: what is there is no executor's, and stays where it is. */
export class OwnCode {
  private readonly slabs: SlabMap[];

  constructor(private readonly arena: Arena) {
    this.slabs = arena.slabs().filter(({ kind }) => kind === 'fixed-code');
  }

  has(address: bigint): boolean {
    const slab = this.slabs.find((slab) => address >= slab.address && address < slab.address + BigInt(slab.bytes));
    // Memory that is not backed may not be mapped either.
    const page = slab && Number(address - slab.address) / machine.pageBytes;
    return page !== undefined && slab!.backed[Math.floor(page)] === true && this.arena.find(address) === undefined;
  }

  /** Where a branch to the address of a far slot goes on; undefined when there is none. */
  throughVeneer(address: bigint): bigint | undefined {
    if (!this.has(address)) return undefined;
    const bytes = peekBytes(address, veneer.length);
    return veneer.every((byte, i) => bytes[i] === byte) ? peek(address + slotOffset) : undefined;
  }

  /** What a load from the address of a far slot's GOT slot reads; undefined when there is none. */
  throughSlot(address: bigint): bigint | undefined {
    return this.throughVeneer(address - slotOffset);
  }
}

const exitRecordBytes = 16n;

/**
 * What traces without state have in their state slabs: the valid byte, the warm byte, and from the next multiple of 16
 * on the exit records, which say whose they are (u64 entry, u32 executor index, u16 exit number, …).
 */
export class TraceState {
  private readonly slabs: SlabMap[];
  /** Ids by index. */
  private readonly ids: Map<number, number>;

  constructor(arena: Arena) {
    this.slabs = arena.slabs().filter(({ kind }) => kind === 'state');
    this.ids = new Map(arena.executors().map(({ id }) => [id % 2 ** 32, id]));
  }

  name(address: bigint): string | undefined {
    const offset = address % exitRecordBytes;
    const start = address - offset;
    const record = this.recordAt(start);
    if (record) return offset === 0n ? `executor ${record.id}'s exit ${record.exit}` : undefined;
    const behind = this.recordAt(start + exitRecordBytes);
    if (behind?.exit !== 0 || offset > 1n) return undefined;
    return `executor ${behind.id}'s ${offset === 0n ? 'valid' : 'warm'} byte`;
  }

  private recordAt(address: bigint): { id: number; exit: number } | undefined {
    const slab = this.slabs.find((slab) => address >= slab.address && address < slab.address + BigInt(slab.bytes));
    if (!slab?.backed[Math.floor(Number(address - slab.address) / machine.pageBytes)]) return undefined;
    // The valid byte is 1, and entries are multiples of 16 here. What is behind the flags may be left from a record.
    if (peek(address) % 16n !== 0n) return undefined;
    const words = peek(address + 8n);
    const id = this.ids.get(Number(words & 0xffff_ffffn));
    return id === undefined ? undefined : { id, exit: Number((words >> 32n) & 0xffffn) };
  }
}

const doneStubs = new WeakMap<Arena, bigint>();

/** Where an arena's done stub is: it stays there. */
export function doneStubOf(arena: Arena): bigint {
  let stub = doneStubs.get(arena);
  if (stub === undefined) {
    const probe = arena.install({
      code: Uint8Array.of(0xcc),
      data: 8,
      relocs: [{ section: 'data', offset: 0, kind: 'R_X86_64_64', target: 'done' }],
    });
    stub = new DataView(probe.read('data').buffer).getBigUint64(0, true);
    probe.free();
    doneStubs.set(arena, stub);
  }
  return stub;
}
