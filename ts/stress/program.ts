// One generated function as a logical description: its data words and its blocks, with the places of both known.
import type { Reloc } from '../index';
import { type Block, Jump, LeafStep } from './blocks';
import { type Model, ModelBuilder } from './model';
import { Emitter } from './step';
import type { Words } from './words';
import type { Shape } from './workload';
import type { World } from './world';

/** What an arena needs to install the function. */
export interface Encoded {
  code: Uint8Array;
  data: Uint8Array;
  relocs: Reloc[];
}

export class Program {
  constructor(
    readonly shape: Shape,
    /** In the order in which they lie in memory. The first is the entry. */
    readonly blocks: readonly Block[],
    readonly words: Words,
    private readonly plainData: Uint8Array,
    private readonly world: World,
  ) {
    let offset = 0;
    for (const block of blocks) {
      block.offset = offset;
      offset += block.size;
    }
    if (offset !== shape.code) throw new Error(`the blocks take ${offset} bytes, not ${shape.code}`);
  }

  /** @param wrongSite the number of the one reloc that is to get a wrong target; for tests */
  encode(wrongSite?: number): Encoded {
    const out = new Emitter(this.shape.code, wrongSite);
    for (const block of this.blocks) block.encode(out);
    const data = this.plainData.slice();
    this.words.encode(out, this.world, data);
    return { code: out.code.bytes, data, relocs: out.relocs };
  }

  model(): Model {
    const model = new ModelBuilder();
    for (const block of this.chain()) block.explain(model);
    return model.build();
  }

  /** The blocks that a call executes. Blocks have no way in or out but their start and end. */
  executed(): Set<Block> {
    const executed = new Set<Block>();
    for (const block of this.chain()) {
      executed.add(block);
      for (const step of block.steps) if (step instanceof LeafStep) executed.add(step.leaf);
    }
    return executed;
  }

  private *chain(): Generator<Block> {
    let block = this.blocks[0];
    while (block) {
      yield block;
      block = block.end instanceof Jump ? block.end.to : undefined;
    }
  }
}
