// Instructions without relocs, which bring code to its recorded size.

import type { ModelBuilder } from './model';
import type { Random } from './random';
import type { Emitter, Step } from './step';
import { type Fill, SIZE } from './x64';

export function fill(bytes: number, random: Random): Step[] {
  const steps: Step[] = [];
  let left = bytes;
  while (left > 2 * SIZE.fillWide) {
    const step = random.chance(0.3) ? shortFill(random) : wideFill(random);
    steps.push(step);
    left -= step.size;
  }
  for (; left >= SIZE.fillShort; left -= SIZE.fillShort) steps.push(shortFill(random));
  if (left > 0) steps.push(new PadStep(left as 1 | 2 | 3));
  return steps;
}

export function shortFill(random: Random): FillStep {
  const kind = random.pick(['add', 'xor', 'rotate'] as const);
  return new FillStep(kind, 1 + random.below(kind === 'rotate' ? 63 : 127), false);
}

function wideFill(random: Random): FillStep {
  return new FillStep(random.pick(['add', 'xor', 'mul'] as const), random.int32() | 1, true);
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
