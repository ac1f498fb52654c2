// Looks at memory and runs code by address, past the arena that is being tested: with machine code of another arena.
import { Arena, machine, type SlabMap, symbolAddress } from 'jit-arena';

const tools = new Arena({ name: 'peek' });

/** jmp symbol */
const jumpTo = (symbol: string) =>
  tools.install({
    code: Uint8Array.of(0xe9, 0, 0, 0, 0),
    relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: { address: symbolAddress(symbol) }, addend: -4 }],
  });

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

// An external link: executable first, with the slot that holds its target behind it. A branch goes to the start, a load
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

  /** Where a branch to the address of an external link goes on; undefined when there is none. */
  throughVeneer(address: bigint): bigint | undefined {
    if (!this.has(address)) return undefined;
    const bytes = peekBytes(address, veneer.length);
    return veneer.every((byte, i) => bytes[i] === byte) ? peek(address + slotOffset) : undefined;
  }

  /** What a load from the address of an external link's slot reads; undefined when there is none. */
  throughSlot(address: bigint): bigint | undefined {
    return this.throughVeneer(address - slotOffset);
  }
}
