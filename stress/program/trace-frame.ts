// The first and the last instructions of a trace (docs/traces.md has the rules): what makes it one, around the work.
//
// A trace starts with its valid and its warm byte. At its end it looks up in the context (context.ts) which exit to take,
// and goes through that exit's record, or to the done stub.
import type { Block } from './blocks';
import type { Emitter, Step } from './step';
import { SIZE } from './x64';

/** The first step: tests the valid byte, sets the warm byte, and takes the hash from the context. */
export class EnterTraceStep implements Step {
  readonly size = SIZE.testValid + SIZE.jumpIfEqual + SIZE.setWarm + SIZE.beginTrace;

  constructor(
    /** The block with the ways out. */
    private readonly last: Block,
    private readonly ways: WaysOut,
  ) {}

  encode(out: Emitter): void {
    const { code } = out;
    const test = code.testValid();
    // The 0 that the byte is compared with, as if it were the byte: the trace takes itself for invalid.
    out.codeSite(test, 'R_X86_64_PC32', { own: 'valid' }, () => ({ own: 'code', offset: test + 4 }), 1);
    code.jumpIfEqual(this.last.offset + this.last.size - this.ways.size + this.ways.doneOffset);
    // A trace that has no warm byte to set is not evicted when it is cold.
    out.codeSite(code.setWarm(), 'R_X86_64_PC32', { own: 'warm' }, () => ({ own: 'valid' }), 1);
    code.beginTrace();
  }

  explain(): void {}
}

const EXIT_BYTES = SIZE.skipUnlessChosen + SIZE.leaveThroughRecord;

/** The end of a trace's chain: each exit with a sequence of its own, and behind them the jump to the done stub. */
export class WaysOut {
  readonly size: number;

  constructor(readonly exits: number) {
    this.size = SIZE.endTrace + exits * EXIT_BYTES + SIZE.jump;
  }

  /** Of the jump to the done stub, from the start of the ways out. An invalid trace goes there at once. */
  get doneOffset(): number {
    return this.size - SIZE.jump;
  }

  encode(out: Emitter): void {
    const { code } = out;
    const { exits } = this;
    out.exits = exits;
    code.endTrace();
    for (let exit = 0; exit < exits; exit++) {
      code.skipUnlessChosen();
      out.codeSite(code.leaveThroughRecord(), 'R_X86_64_PC32', { exit }, () => {
        out.exits = exits + 1;
        return { exit: exits };
      });
    }
    const lastExit = code.at - SIZE.leaveThroughRecord;
    out.codeSite(code.jump(), 'R_X86_64_PLT32', 'done', () => ({ own: 'code', offset: lastExit }));
  }

  /** What of it is executed by a run that takes `exit`, or none: from and to, in bytes from its start. */
  *executed(exit: number | undefined): Generator<[from: number, to: number]> {
    yield [0, SIZE.endTrace];
    for (let i = 0; i < this.exits; i++) {
      const from = SIZE.endTrace + i * EXIT_BYTES;
      yield [from, from + SIZE.skipUnlessChosen];
      if (i === exit) {
        yield [from, from + EXIT_BYTES];
        return;
      }
    }
    yield [this.doneOffset, this.size];
  }
}
