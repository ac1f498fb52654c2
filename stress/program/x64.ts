// An encoder for the x86-64 instructions that stress code is made of, and no others.
//
// The hash that an executor computes lives in rbx, which called functions preserve; rcx and rdx are scratch. Fields that
// a reloc fills in are written as garbage, so that code whose relocs are not applied, or only OR-ed in, fails.

export type Mix = 'add' | 'xor';
export type Fill = Mix | 'mul' | 'rotate';

const GARBAGE = 0xa5;

/** Bytes each instruction takes, so that code can be laid out before it is encoded. */
export const SIZE = {
  enter: 4,
  leave: 5,
  testValid: 7,
  jumpIfEqual: 6,
  setWarm: 7,
  beginTrace: 4,
  endTrace: 14,
  skipUnlessChosen: 4,
  leaveThroughRecord: 10,
  return: 1,
  jump: 5,
  call: 5,
  jumpIndirect: 2,
  callIndirect: 2,
  callThroughSlot: 6,
  fillWide: 7,
  fillShort: 4,
  mixWord: 7,
  mixPointed: 3,
  mixPointedAt: 7,
  mixRegister: 3,
  moveRegister: 3,
  moveArgument: 7,
  normaliseResult: 2,
  loadConstant: 10,
  loadWord: 7,
  loadAddress: 7,
};

/** Conditional jumps that are always taken, as bytes: something that sets the flag, then the opcode of the jump. */
export const ALWAYS_TAKEN = {
  'stc; jb': [0xf9, 0x0f, 0x82],
  'clc; jae': [0xf8, 0x0f, 0x83],
  'cmp esp, esp; je': [0x39, 0xe4, 0x0f, 0x84],
  'test esp, esp; jne': [0x85, 0xe4, 0x0f, 0x85],
} as const;
export type AlwaysTaken = keyof typeof ALWAYS_TAKEN;

export class X64 {
  readonly bytes: Uint8Array;
  at = 0;
  private readonly view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
  }

  /** push rbx; mov rbx, rdi: the argument starts the hash, and the stack is aligned for calls. */
  enter(): void {
    this.put(0x53, 0x48, 0x89, 0xfb);
  }

  /** mov rax, rbx; pop rbx; ret */
  leave(): void {
    this.put(0x48, 0x89, 0xd8, 0x5b, 0xc3);
  }

  return(): void {
    this.put(0xc3);
  }

  /** push rdi; mov rbx, [rdi]: keeps the context's address, aligns the stack for calls, and takes the hash over. */
  beginTrace(): void {
    this.put(0x57, 0x48, 0x8b, 0x1f);
  }

  /**
   * The other end of a trace, with the stack as at its start: the hash goes back into the context, whose count of traces
   * grows by one, and ecx gets this trace's choice (context.ts).
   */
  endTrace(): void {
    this.put(0x5f); // pop rdi
    this.put(0x48, 0x89, 0x1f); // mov [rdi], rbx
    this.put(0x8b, 0x47, 0x08); // mov eax, [rdi + 8]
    this.put(0xff, 0x47, 0x08); // inc dword [rdi + 8]
    this.put(0x8b, 0x4c, 0x87, 0x10); // mov ecx, [rdi + 4 * rax + 16]
  }

  /** dec ecx; jns over the way out that follows: taken there when the choice was 0. */
  skipUnlessChosen(): void {
    this.put(0xff, 0xc9, 0x79, SIZE.leaveThroughRecord);
  }

  /** je to an offset in the code, without a reloc. */
  jumpIfEqual(offset: number): void {
    this.put(0x0f, 0x84);
    this.int32(offset - (this.at + 4));
  }

  /** A wide fill takes 7 bytes, a short one 4. Rotations are short, multiplications (by an odd number) wide. */
  fill(kind: Fill, immediate: number, wide: boolean): void {
    if (kind === 'rotate') this.put(0x48, 0xc1, 0xc3);
    else if (kind === 'mul') this.put(0x48, 0x69, 0xdb);
    else this.put(0x48, wide ? 0x81 : 0x83, kind === 'add' ? 0xc3 : 0xf3);
    if (wide) this.int32(immediate);
    else this.put(immediate & 0xff);
  }

  nop(size: 1 | 2 | 3): void {
    this.put(...[[0x90], [0x66, 0x90], [0x0f, 0x1f, 0x00]][size - 1]!);
  }

  /** add/xor rbx, rcx */
  mixScratch(mix: Mix): void {
    this.put(0x48, mix === 'add' ? 0x01 : 0x31, 0xcb);
  }

  /** add/xor rbx, rax */
  mixResult(mix: Mix): void {
    this.put(0x48, mix === 'add' ? 0x01 : 0x31, 0xc3);
  }

  /** add/xor rbx, [rcx] */
  mixPointed(mix: Mix): void {
    this.put(0x48, mix === 'add' ? 0x03 : 0x33, 0x19);
  }

  /** add/xor rbx, [rcx + offset] */
  mixPointedAt(mix: Mix, offset: number): void {
    this.put(0x48, mix === 'add' ? 0x03 : 0x33, 0x99);
    this.int32(offset);
  }

  /** mov rdi, argument (sign-extended) */
  moveArgument(argument: number): void {
    this.put(0x48, 0xc7, 0xc7);
    this.int32(argument);
  }

  /** mov rdi, rbx */
  moveHashToArgument(): void {
    this.put(0x48, 0x89, 0xdf);
  }

  /** mov rbx, rax */
  moveResultToHash(): void {
    this.put(0x48, 0x89, 0xc3);
  }

  /** mov eax, eax: a C `int` result says nothing about the upper half of rax. */
  normaliseResult(): void {
    this.put(0x89, 0xc0);
  }

  /** sub rcx, rdx */
  subtractAddress(): void {
    this.put(0x48, 0x29, 0xd1);
  }

  /** add rcx, rdx */
  addAddress(): void {
    this.put(0x48, 0x01, 0xd1);
  }

  /** lea rdx, [start of the code + offset], without a reloc: code keeps its distance to itself. */
  loadOwnCodeAddress(offset: number): void {
    this.put(0x48, 0x8d, 0x15);
    this.int32(offset - (this.at + 4));
  }

  jumpToScratch(): void {
    this.put(0xff, 0xe1);
  }

  /** call rax */
  callResult(): void {
    this.put(0xff, 0xd0);
  }

  // What follows has a field for a reloc, mostly at its end, and returns the field's offset.

  jump(): number {
    return this.field32(0xe9);
  }

  jumpAlways(how: AlwaysTaken): number {
    return this.field32(...ALWAYS_TAKEN[how]);
  }

  call(): number {
    return this.field32(0xe8);
  }

  /** call [rip + field] */
  callThroughSlot(): number {
    return this.field32(0xff, 0x15);
  }

  /** add/xor rbx, [rip + field] */
  mixWord(mix: Mix): number {
    return this.field32(0x48, mix === 'add' ? 0x03 : 0x33, 0x1d);
  }

  /** mov rcx, [rip + field] */
  loadWord(): number {
    return this.field32(0x48, 0x8b, 0x0d);
  }

  /** lea rdx, [rip + field] */
  loadAddress(): number {
    return this.field32(0x48, 0x8d, 0x15);
  }

  /** mov rcx, field */
  loadConstant(): number {
    return this.field64(0x48, 0xb9);
  }

  /** mov rax, field */
  loadCallee(): number {
    return this.field64(0x48, 0xb8);
  }

  /** lea r11, [rip + field]; jmp [r11] */
  leaveThroughRecord(): number {
    const field = this.field32(0x4c, 0x8d, 0x1d);
    this.put(0x41, 0xff, 0x23);
    return field;
  }

  /** cmp byte [rip + field], 0 */
  testValid(): number {
    const field = this.field32(0x80, 0x3d);
    this.put(0);
    return field;
  }

  /** mov byte [rip + field], 1 */
  setWarm(): number {
    const field = this.field32(0xc6, 0x05);
    this.put(1);
    return field;
  }

  private put(...bytes: number[]): void {
    for (const byte of bytes) this.bytes[this.at++] = byte;
  }

  private int32(value: number): void {
    this.view.setInt32(this.at, value, true);
    this.at += 4;
  }

  private field32(...opcode: number[]): number {
    this.put(...opcode, GARBAGE, GARBAGE, GARBAGE, GARBAGE);
    return this.at - 4;
  }

  private field64(...opcode: number[]): number {
    this.put(...opcode);
    this.bytes.fill(GARBAGE, this.at, this.at + 8);
    this.at += 8;
    return this.at - 8;
  }
}
