// What machine code refers to, as a disassembler reads it that knows nothing of relocs: the target of every branch, every
// memory operand with a fixed address, and every immediate that may be an address.
import { Decoder, DecoderOptions, Instruction, OpKind, Register } from 'iced-x86';

export interface Operand {
  /** Where its bytes are, from the start of the code. */
  offset: number;
  /** From there to the end of the instruction. */
  tail: number;
  use: 'branch' | 'memory' | 'immediate';
  address: bigint;
}

const branches: readonly OpKind[] = [OpKind.NearBranch16, OpKind.NearBranch32, OpKind.NearBranch64];
const wideImmediates: readonly OpKind[] = [OpKind.Immediate64, OpKind.Immediate32, OpKind.Immediate32to64];

/** @throws Error where the code holds anything but instructions */
export function operandsOf(code: Uint8Array, address: bigint): Operand[] {
  const operands: Operand[] = [];
  const decoder = new Decoder(64, code, DecoderOptions.None);
  decoder.ip = address;
  const instruction = new Instruction();
  while (decoder.canDecode) {
    const start = decoder.position;
    decoder.decodeOut(instruction);
    if (instruction.isInvalid) throw new Error(`no instruction at code + ${start}`);
    for (let i = 0; i < instruction.opCount; i++) {
      const found = operandOf(instruction, i);
      if (found === undefined) continue;
      const fields = decoder.getConstantOffsets(instruction);
      const field = found.use === 'memory' ? fields.displacementOffset : fields.immediateOffset;
      operands.push({ ...found, offset: start + field, tail: instruction.length - field });
      fields.free();
    }
  }
  instruction.free();
  decoder.free();
  return operands;
}

function operandOf(instruction: Instruction, i: number): Pick<Operand, 'use' | 'address'> | undefined {
  const kind = instruction.opKind(i);
  if (branches.includes(kind)) return { use: 'branch', address: instruction.nearBranchTarget };
  if (wideImmediates.includes(kind)) return { use: 'immediate', address: instruction.immediate(i) };
  if (kind !== OpKind.Memory) return undefined;
  if (instruction.isIpRelMemoryOperand) return { use: 'memory', address: instruction.ipRelMemoryAddress };
  const fixed = instruction.memoryBase === Register.None && instruction.memoryIndex === Register.None;
  return fixed ? { use: 'memory', address: instruction.memoryDisplacement } : undefined;
}
