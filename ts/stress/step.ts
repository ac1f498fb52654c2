// Code is made of steps. Each step is known from two sides: the machine code that it encodes, and what that does
// to the hash. Nothing else connects the two, so agreement of machine and model means that the relocs were applied.
import type { Reloc, RelocKind, RelocTarget, Section } from '../index';
import type { ModelBuilder } from './model';
import { type Fill, SIZE, X64 } from './x64';

export interface Step {
  /** Bytes of machine code. */
  readonly size: number;
  /** It calls, for which the stack must be aligned: only so in blocks that are not themselves called. */
  readonly calls?: boolean;
  encode(out: Emitter): void;
  explain(model: ModelBuilder): void;
}

/** Takes the code and the relocs of one executor. */
export class Emitter {
  readonly code: X64;
  readonly relocs: Reloc[] = [];
  /** How many exit records the code needs; none in a plain function. */
  exits = 0;

  /** `wrongSite` is the number of a reloc that gets its wrong target: tests show with it that every reloc matters. */
  constructor(
    codeSize: number,
    private readonly wrongSite = -1,
  ) {
    this.code = new X64(codeSize);
  }

  /**
   * `wrong` is another valid target: with it the code does something else, but no harm. `behind` is how many bytes
   * of the instruction follow the field.
   */
  site(
    section: Section,
    offset: number,
    kind: RelocKind,
    target: RelocTarget,
    wrong: () => RelocTarget,
    behind = 0,
  ): void {
    const chosen = this.relocs.length === this.wrongSite ? wrong() : target;
    // The processor counts from the end of the instruction; a 64-bit field is not counted from.
    const addend = kind === 'R_X86_64_64' || kind === 'R_X86_64_PC64' ? 0 : -4 - behind;
    this.relocs.push({ section, offset, kind, target: chosen, addend });
  }

  codeSite(offset: number, kind: RelocKind, target: RelocTarget, wrong: () => RelocTarget, behind?: number): void {
    this.site('code', offset, kind, target, wrong, behind);
  }
}

/** Changes the hash by a constant in the instruction. */
export class FillStep implements Step {
  readonly size: number;

  constructor(
    readonly kind: Fill,
    readonly immediate: number,
    readonly wide: boolean,
  ) {
    this.size = wide ? SIZE.fillWide : SIZE.fillShort;
  }

  encode(out: Emitter): void {
    out.code.fill(this.kind, this.immediate, this.wide);
  }

  explain(model: ModelBuilder): void {
    if (this.kind === 'rotate') model.rotate(this.immediate);
    else if (this.kind === 'mul') model.multiply(BigInt(this.immediate));
    else model[this.kind](BigInt(this.immediate));
  }
}

/** Brings code to exactly the recorded size where no other step is short enough. */
export class PadStep implements Step {
  constructor(readonly size: 1 | 2 | 3) {}

  encode(out: Emitter): void {
    out.code.nop(this.size);
  }

  explain(): void {}
}
