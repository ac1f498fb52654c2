// Shared executors that the replayed ones call directly, as traces of a JIT call its common routines. They are plain
// C functions, generated as traces are, and later ones call earlier ones. They move like any other executor; then every
// call to them is rewritten.
import type { Arena } from 'jit-arena';
import type { Shape } from '../recording/workload';
import { generate } from './generate';
import { Random } from './random';
import type { Helper, World } from './world';

const HELPERS = 6;

/** The given world with helpers in this arena. They must be freed after all that calls them. */
export function withHelpers(world: World, arena: Arena, seed: number): World {
  const helpers: Helper[] = [];
  for (let i = 0; i < HELPERS; i++) {
    const shape = shapeOf(i);
    const program = generate(shape, new Random(seed, -1, i), { ...world, helpers }, 'function');
    const executor = arena.install({ ...program.encode(), name: `helper ${i}` });
    const call = executor.func({ args: ['u64'], returns: 'u64' });
    helpers.push({ executor, model: program.model(), shape, call });
  }
  return { ...world, helpers };
}

function shapeOf(index: number): Shape {
  return {
    code: 180 + 40 * index,
    data: 48 + 8 * index,
    exits: 0,
    holes: {
      ownBranches: 2 + (index % 3),
      ownLoads: 3,
      gotLoads: 0,
      ownAddresses: 1,
      heapPointers: 0,
      pointers: 1,
      smallNumbers: 0,
      symbols: 3,
      symbolsInData: 2,
    },
  };
}
