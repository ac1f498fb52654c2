// Instructions without relocs, which bring code to its recorded size.
import type { Random } from './random';
import { FillStep, PadStep, type Step } from './step';
import { SIZE } from './x64';

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
