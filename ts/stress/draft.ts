// What the parts of the generator share while a function is being made.
import type { Random } from './random';
import type { Words } from './words';
import type { Shape } from './workload';
import type { World } from './world';
import type { Mix } from './x64';

export interface Draft {
  shape: Shape;
  random: Random;
  world: World;
  words: Words;
}

export function anyMix(random: Random): Mix {
  return random.chance(0.5) ? 'add' : 'xor';
}

/** A negative number for which every function of the world has another result. */
export function anyArgument({ random, world }: Draft): number {
  for (;;) {
    const argument = random.int32() | 0x80000000;
    const results = new Set(world.functions.map((callee) => callee.result(argument)));
    if (results.size === world.functions.length) return argument;
  }
}
