// An executor that lives in the arena, with what is known of it.
import type { Executor } from 'jit-arena';
import type { Model } from '../program/model';
import type { Random } from '../program/random';
import type { EndReason, Shape } from '../recording/workload';
import { Exit } from './exit';

/** Inputs whose results are kept: checking everything after every collect must not wait for the model each time. */
const KEPT_INPUTS = 4;
/** Most results that are kept. Those for hashes that come in through links are among them. */
const KEPT_RESULTS = 64;

export class Resident {
  readonly exits: readonly Exit[];
  /** Exits that are linked to it. */
  readonly inbound = new Set<Exit>();
  /** Why the recording says that it ends, once it has said so. */
  reason: EndReason | undefined;
  private readonly inputs: bigint[] = [];
  private readonly results = new Map<bigint, bigint>();
  private turn = 0;

  constructor(
    /** As in the recording. */
    readonly id: number,
    readonly executor: Executor,
    readonly shape: Shape,
    private readonly model: Model,
  ) {
    this.exits = Array.from({ length: shape.exits }, (_, number) => new Exit(this, number));
  }

  /** A new input as long as few are kept, then these in turn. */
  nextKept(random: Random): bigint {
    if (this.inputs.length < KEPT_INPUTS && this.turn === this.inputs.length) this.inputs.push(random.u64());
    const input = this.inputs[this.turn]!;
    this.turn = (this.turn + 1) % KEPT_INPUTS;
    return input;
  }

  /** What it makes of a hash; `keep` when it will be asked again. */
  resultOf(input: bigint, keep: boolean): bigint {
    const known = this.results.get(input);
    if (known !== undefined) return known;
    const result = this.model.run(input);
    if (keep) {
      if (this.results.size === KEPT_RESULTS) this.results.clear();
      this.results.set(input, result);
    }
    return result;
  }
}
