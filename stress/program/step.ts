// Code is made of steps. Each step is known from two sides: the machine code that it encodes, and what that does
// to the hash. Nothing else connects the two, so agreement of machine and model means that the relocs were applied.
import type { Reloc, RelocKind, RelocTarget, Section } from 'jit-arena';
import type { ModelBuilder } from './model';
import { X64 } from './x64';

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
