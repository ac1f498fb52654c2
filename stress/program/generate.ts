// Makes an executor of exactly the recorded sizes, with relocs of the recorded kinds and counts and the recorded exits.
//
// The recorded holes ask for steps and blocks, fill steps bring the code to its size, and all steps are dealt out at
// random over the blocks. Each seed gives other contents.

import type { Shape } from '../recording/workload';
import { EnterStep, Leave } from './blocks';
import { fill, shortFill } from './fill';
import { makeBlocks, type Skeleton } from './make-blocks';
import { codeDistanceSteps, constantSteps, type Draft, shareOwnAddresses, symbolSteps, wordSteps } from './make-steps';
import { Program } from './program';
import type { Random } from './random';
import type { Step } from './step';
import { EnterTraceStep, WaysOut } from './trace-frame';
import { makeWords } from './words';
import type { World } from './world';

/** A trace leaves through exits (trace-frame.ts); a function is called and returns, as C functions do. */
export type Form = 'trace' | 'function';

/** @throws Error when the shape has no room for its holes, which is so for none that was recorded */
export function generate(shape: Shape, random: Random, world: World, form: Form = 'trace'): Program {
  const data = Uint8Array.from({ length: shape.data }, () => random.below(256));
  const words = makeWords(shape, data, random, world);
  const draft: Draft = { shape, random, world, words };
  const own = shareOwnAddresses(draft);
  const end = form === 'trace' ? new WaysOut(shape.exits) : new Leave();
  const skeleton = makeBlocks(end, shape.holes.ownBranches, own.jumps, random);
  const blocks = [...skeleton.chain, ...skeleton.leaves];
  const enter = end instanceof WaysOut ? new EnterTraceStep(skeleton.chain.at(-1)!, end) : new EnterStep();

  // Every block does something, so that leaving one out shows.
  for (const block of blocks) block.steps.push(shortFill(random));
  deal(skeleton.leafCalls, skeleton, random);
  deal(constantSteps(draft), skeleton, random);
  deal(symbolSteps(draft), skeleton, random);
  deal(wordSteps(draft, own), skeleton, random);
  deal(codeDistanceSteps(draft, own, blocks), skeleton, random);
  const needed = blocks.reduce((sum, block) => sum + block.size, enter.size);
  if (needed > shape.code) throw new Error(`${needed} bytes are needed for the holes, ${shape.code} are recorded`);
  deal(fill(shape.code - needed, random), skeleton, random);

  for (const block of blocks) random.shuffle(block.steps);
  const [entry, ...others] = blocks;
  entry!.steps.unshift(enter);
  return new Program(shape, [entry!, ...random.shuffle(others)], words, data, world);
}

function deal(steps: readonly Step[], { chain, leaves }: Skeleton, random: Random): void {
  for (const step of steps) {
    // Into a leaf as often as into any other block.
    const i = random.below(chain.length + (step.calls ? 0 : leaves.length));
    const block = i < chain.length ? chain[i]! : leaves[i - chain.length]!;
    block.steps.push(step);
  }
}
