// Own code: blocks that lie in a random order in memory and are executed in another, joined by relocated branches.
//
// Most blocks form a chain from the entry to the way out. Leaves are off the chain: a step in a chain block calls them.
// A branch with a wrong target leaves out part of the work, and the order of the work matters, so the hash comes out wrong.
import type { RelocKind } from 'jit-arena';
import type { ModelBuilder } from './model';
import type { Emitter, Step } from './step';
import type { WaysOut } from './trace-frame';
import { ALWAYS_TAKEN, type AlwaysTaken, SIZE } from './x64';

export class Block {
  readonly steps: Step[] = [];
  /** Known once the blocks are laid out. */
  offset = -1;

  constructor(public end: End) {}

  get size(): number {
    return this.steps.reduce((sum, step) => sum + step.size, this.end.size);
  }

  encode(out: Emitter): void {
    if (out.code.at !== this.offset) throw new Error(`block of ${this.offset} is encoded at ${out.code.at}`);
    for (const step of this.steps) step.encode(out);
    this.end.encode(out);
  }

  explain(model: ModelBuilder): void {
    for (const step of this.steps) step.explain(model);
  }
}

/** How a block ends. Ends change nothing in the hash; a jump says which block comes next. */
export type End = Jump | Leave | WaysOut | Return;

export type JumpForm = 'jmp' | AlwaysTaken | 'indirect';

export class Jump {
  readonly size: number;

  constructor(
    readonly to: Block,
    readonly form: JumpForm,
    readonly kind: RelocKind,
  ) {
    if (form === 'jmp') this.size = SIZE.jump;
    else if (form === 'indirect') this.size = SIZE.loadConstant + SIZE.jumpIndirect;
    else this.size = ALWAYS_TAKEN[form].length + 4;
  }

  encode(out: Emitter): void {
    const target = { own: 'code', offset: this.to.offset } as const;
    const wrong = () => ({ own: 'code', offset: this.pastTarget() }) as const;
    if (this.form === 'indirect') {
      out.codeSite(out.code.loadConstant(), 'R_X86_64_64', target, wrong);
      out.code.jumpToScratch();
    } else {
      const field = this.form === 'jmp' ? out.code.jump() : out.code.jumpAlways(this.form);
      out.codeSite(field, this.kind, target, wrong);
    }
  }

  /** Never backwards in the chain: that would be a loop without an end. */
  private pastTarget(): number {
    const { end } = this.to;
    return end instanceof Jump ? end.to.offset : this.to.offset + this.to.size - end.size;
  }
}

/** The end of a plain function's chain. */
export class Leave {
  readonly size = SIZE.leave;

  encode(out: Emitter): void {
    out.code.leave();
  }
}

/** The end of a leaf. */
export class Return {
  readonly size = SIZE.return;

  encode(out: Emitter): void {
    out.code.return();
  }
}

/** The first step of a plain function. */
export class EnterStep implements Step {
  readonly size = SIZE.enter;

  encode(out: Emitter): void {
    out.code.enter();
  }

  explain(): void {}
}

/** Calls a leaf; the wrong target is the leaf's bare return. */
export class LeafStep implements Step {
  readonly size = SIZE.call;
  readonly calls = true;

  constructor(
    readonly leaf: Block,
    readonly kind: RelocKind,
  ) {}

  encode(out: Emitter): void {
    const { leaf } = this;
    const target = { own: 'code', offset: leaf.offset } as const;
    out.codeSite(out.code.call(), this.kind, target, () => ({
      own: 'code',
      offset: leaf.offset + leaf.size - leaf.end.size,
    }));
  }

  explain(model: ModelBuilder): void {
    this.leaf.explain(model);
  }
}
