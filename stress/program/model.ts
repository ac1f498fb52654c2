// The other half of every generated function: what it must return, worked out without looking at its bytes.
//
// A model is the list of what the function does to its hash, in the order in which it is executed. It is written down
// from the same steps that are encoded (step.ts), with the values that relocs must produce already filled in.

const ADD = 0;
const XOR = 1;
const MUL = 2;
const ROTATE = 3;
const CALL = 4;

/** Every operation is a bijection of the 64-bit hash, so that one wrong operand gives another result for every input. */
export class Model {
  constructor(
    private readonly operations: Uint8Array,
    private readonly operands: BigUint64Array,
    private readonly callees: readonly Model[],
  ) {}

  run(input: bigint): bigint {
    let hash = BigInt.asUintN(64, input);
    const { operations, operands } = this;
    for (let i = 0; i < operations.length; i++) {
      const operand = operands[i]!;
      switch (operations[i]) {
        case ADD:
          hash = BigInt.asUintN(64, hash + operand);
          break;
        case XOR:
          hash ^= operand;
          break;
        case MUL:
          hash = BigInt.asUintN(64, hash * operand);
          break;
        case ROTATE:
          hash = BigInt.asUintN(64, hash << operand) | (hash >> (64n - operand));
          break;
        case CALL:
          hash = this.callees[Number(operand)]!.run(hash);
      }
    }
    return hash;
  }
}

/** Operands may be negative: they are taken modulo 2⁶⁴, as the machine sign-extends them. */
export class ModelBuilder {
  private readonly operations: number[] = [];
  private readonly operands: bigint[] = [];
  private readonly callees: Model[] = [];

  add(value: bigint): void {
    this.push(ADD, value);
  }

  xor(value: bigint): void {
    this.push(XOR, value);
  }

  multiply(value: bigint): void {
    this.push(MUL, value);
  }

  rotate(bits: number): void {
    this.push(ROTATE, BigInt(bits));
  }

  /** hash = callee(hash) */
  call(callee: Model): void {
    if (!this.callees.includes(callee)) this.callees.push(callee);
    this.push(CALL, BigInt(this.callees.indexOf(callee)));
  }

  build(): Model {
    return new Model(Uint8Array.from(this.operations), BigUint64Array.from(this.operands), this.callees);
  }

  private push(operation: number, operand: bigint): void {
    this.operations.push(operation);
    this.operands.push(BigInt.asUintN(64, operand));
  }
}
