// One generated executor as a logical description: its data words and its blocks, with the places of both known.
import type { Reloc } from 'jit-arena';
import type { Shape } from '../recording/workload';
import { type Block, Jump, LeafStep } from './blocks';
import { type Model, ModelBuilder } from './model';
import { Emitter } from './step';
import { WaysOut } from './trace-frame';
import type { Words } from './words';
import type { World } from './world';

/** What an arena needs to install the executor. */
export interface Encoded {
  code: Uint8Array;
  data: Uint8Array;
  relocs: Reloc[];
  exits: number;
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
    return { code: out.code.bytes, data, relocs: out.relocs, exits: out.exits };
  }

  model(): Model {
    const model = new ModelBuilder();
    for (const block of this.chain()) block.explain(model);
    return model.build();
  }

  /** 1 for each byte of code that a run executes which takes `exit`, or none. */
  executed(exit?: number): Uint8Array {
    const executed = new Uint8Array(this.shape.code);
    const mark = ({ offset, size }: Block) => executed.fill(1, offset, offset + size);
    for (const block of this.chain()) {
      mark(block);
      for (const step of block.steps) if (step instanceof LeafStep) mark(step.leaf);
      if (!(block.end instanceof WaysOut)) continue;
      // Of its ways out a run takes one.
      const start = block.offset + block.size - block.end.size;
      executed.fill(0, start, start + block.end.size);
      for (const [from, to] of block.end.executed(exit)) executed.fill(1, start + from, start + to);
    }
    return executed;
  }

  /** The blocks that a run goes through. Blocks have no way in or out but their start and end. */
  private *chain(): Generator<Block> {
    let block = this.blocks[0];
    while (block) {
      yield block;
      block = block.end instanceof Jump ? block.end.to : undefined;
    }
  }
}
