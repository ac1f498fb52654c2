// Makes the blocks of an executor and the branches between them.
import { Block, type End, Jump, LeafStep, Return } from './blocks';
import type { Random } from './random';
import type { Step } from './step';
import { ALWAYS_TAKEN, type AlwaysTaken } from './x64';

const LEAF_SHARE = 0.1;
const CONDITIONAL_SHARE = 0.25;
const CONDITIONS = Object.keys(ALWAYS_TAKEN) as AlwaysTaken[];

export interface Skeleton {
  /** In the order of execution. */
  chain: Block[];
  leaves: Block[];
  /** The calls of the leaves, each to be put somewhere in the chain. */
  leafCalls: Step[];
}

/** `end` ends the chain. Every relative branch is the end of a chain block or the call of a leaf; indirect jumps end further chain blocks. */
export function makeBlocks(end: End, relativeBranches: number, indirectJumps: number, random: Random): Skeleton {
  const leaves: Block[] = [];
  for (let i = 0; i < Math.floor(relativeBranches * LEAF_SHARE); i++) leaves.push(new Block(new Return()));
  const leafCalls = leaves.map((leaf) => new LeafStep(leaf, branchKind(random)));

  const jumps = relativeBranches - leaves.length + indirectJumps;
  const indirect = random.shuffle(Array.from({ length: jumps }, (_, i) => i < indirectJumps));
  let next = new Block(end);
  const chain = [next];
  for (const isIndirect of indirect) {
    const conditional = random.chance(CONDITIONAL_SHARE);
    const form = isIndirect ? 'indirect' : conditional ? random.pick(CONDITIONS) : 'jmp';
    next = new Block(new Jump(next, form, branchKind(random)));
    chain.push(next);
  }
  return { chain: chain.reverse(), leaves, leafCalls };
}

/** Compilers write both for a branch to a known place. */
function branchKind(random: Random): 'R_X86_64_PC32' | 'R_X86_64_PLT32' {
  return random.chance(0.5) ? 'R_X86_64_PC32' : 'R_X86_64_PLT32';
}
