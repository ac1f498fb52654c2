// An executor that lives in the arena, with what is known of it.
import type { Executor } from '../index';
import type { Model } from './model';
import type { Random } from './random';

/** Inputs whose results are kept: checking everything after every collect must not wait for the model each time. */
const KEPT_INPUTS = 4;

export class Resident {
  private readonly inputs: bigint[] = [];
  private readonly results: bigint[] = [];
  private turn = 0;

  constructor(
    /** As in the recording. */
    readonly id: number,
    readonly executor: Executor,
    readonly bytes: number,
    readonly call: (input: bigint) => bigint,
    private readonly model: Model,
  ) {}

  /** An input with its result: a new one as long as few are kept, then these in turn. */
  nextKept(random: Random): { input: bigint; expected: bigint } {
    if (this.inputs.length < KEPT_INPUTS && this.turn === this.inputs.length) {
      this.inputs.push(random.u64());
      this.results.push(this.model.run(this.inputs.at(-1)!));
    }
    const i = this.turn;
    this.turn = (this.turn + 1) % KEPT_INPUTS;
    return { input: this.inputs[i]!, expected: this.results[i]! };
  }

  fresh(random: Random): { input: bigint; expected: bigint } {
    const input = random.u64();
    return { input, expected: this.model.run(input) };
  }
}
