// Replays a recording in an arena: the recorded executors as generated functions, freed in the recorded order, compacted
// as it goes, called and checked all the time.
import type { Arena } from '../index';
import { Checker } from './checker';
import { generate } from './generate';
import { withHelpers } from './helpers';
import { Random } from './random';
import { Resident } from './resident';
import { Timeline } from './timeline';
import type { Shape, Workload, WorkloadEvent } from './workload';
import { outsideWorld, type World } from './world';

/** Checked calls of random live executors at every event: with kept inputs, and with new ones. */
const CALLS_PER_EVENT = 12;
const FRESH_CALLS_PER_EVENT = 4;
/** The plan is looked at after this many frees. */
const FREES_PER_PLAN = 24;
/** The event loop gets its turn this often, for signals and for the display. */
const YIELD_MILLISECONDS = 50;

export interface ReplayOptions {
  seed: number;
  /** Over and over until then; 0: once. */
  seconds?: number;
  /** Called now and then; `done` of `total` steps of this round. */
  progress?: (replay: Replay, done: number, total: number) => void;
  /** For tests: the number of the check to make fail. */
  spoil?: number;
}

export class Replay {
  readonly timeline: Timeline;
  readonly checker: Checker;
  round = 0;
  created = 0;
  freed = 0;
  private readonly live = new Map<number, Resident>();
  /** The same residents, for picking at random. */
  private readonly residents: Resident[] = [];
  private readonly random: Random;
  private readonly world: World;
  private readonly start = Date.now();
  private lastYield = Date.now();
  private stopped = false;
  private freesUntilPlan = FREES_PER_PLAN;

  constructor(
    private readonly arena: Arena,
    private readonly workload: Workload,
    private readonly options: ReplayOptions,
  ) {
    this.random = new Random(options.seed, -2);
    this.checker = new Checker(this.random, options.spoil);
    this.timeline = new Timeline(arena);
    this.world = withHelpers(outsideWorld(), arena, options.seed);
    for (const { bytes } of this.world.helpers) this.timeline.created(bytes);
  }

  get elapsedSeconds(): number {
    return (Date.now() - this.start) / 1000;
  }

  /** Ends the run soon, with what was reached. */
  stop(): void {
    this.stopped = true;
  }

  /** Never rejects: an unexpected error is a failure like any other, and the last. */
  async run(): Promise<void> {
    try {
      do await this.playOnce();
      while (!this.over() && this.elapsedSeconds < (this.options.seconds ?? 0));
      this.leaveNothing();
    } catch (error) {
      this.checker.fail(`at step ${this.timeline.step} of the replay: ${(error as Error).stack}`);
    }
  }

  private async playOnce(): Promise<void> {
    this.round++;
    let done = 0;
    for (const event of this.workload.events) {
      this.play(event);
      if (event.kind !== 'collect') done++;
      if (await this.pauseFor(done)) return;
    }
    this.collectAtProfit();
    this.timeline.recordingEnd ??= this.timeline.latest;
    // As a process does at its end; in another order than that of creation, so that it leaves holes.
    for (const resident of this.random.shuffle([...this.residents])) {
      this.free(resident);
      if (await this.pauseFor(++done)) return;
    }
  }

  private play(event: WorkloadEvent): void {
    if (event.kind === 'create') this.create(event.id, event.shape);
    else if (event.kind === 'free') this.free(this.live.get(event.id)!);
    else this.collect();
    for (let i = 0; i < CALLS_PER_EVENT && this.residents.length > 0; i++) {
      const resident = this.random.pick(this.residents);
      if (i < FRESH_CALLS_PER_EVENT) this.checker.checkFresh(resident);
      else this.checker.check(resident);
    }
  }

  private create(id: number, shape: Shape): void {
    const { arena, options, round, world } = this;
    const program = generate(shape, new Random(options.seed, round, id), world);
    const executor = arena.install(program.encode());
    const call = executor.func({ args: ['u64'], returns: 'u64' });
    const resident = new Resident(id, executor, shape.code + shape.data, call, program.model());
    this.live.set(id, resident);
    this.residents.push(resident);
    this.created++;
    this.timeline.created(resident.bytes);
    this.checker.check(resident);
  }

  private free(resident: Resident): void {
    this.checker.check(resident);
    this.arena.free(resident.executor);
    this.live.delete(resident.id);
    const last = this.residents.pop()!;
    if (last !== resident) this.residents[this.residents.indexOf(resident)] = last;
    this.freed++;
    this.timeline.freed(resident.bytes);
    if (--this.freesUntilPlan === 0) this.collectAtProfit();
  }

  private collectAtProfit(): void {
    this.freesUntilPlan = FREES_PER_PLAN;
    if (this.arena.planCompaction().profitable) this.collect();
  }

  private collect(): void {
    this.timeline.collect();
    this.checker.checkAll(this.residents, this.arena);
    this.checkLiveBytes();
  }

  /** The end: frees everything, and the helpers last, because everything calls them. */
  private leaveNothing(): void {
    this.checker.checkAll(this.residents, this.arena);
    for (const resident of [...this.residents]) {
      this.arena.free(resident.executor);
      this.timeline.freed(resident.bytes);
      this.freed++;
    }
    this.live.clear();
    this.residents.length = 0;
    const { helpers } = this.world;
    this.arena.free(helpers.map(({ executor }) => executor));
    for (const { bytes } of helpers) this.timeline.freed(bytes);
    this.checkLiveBytes();
    this.checker.verify(this.arena);
  }

  private checkLiveBytes(): void {
    const { liveBytes } = this.arena.stats();
    const { live } = this.timeline;
    if (liveBytes !== live) this.checker.fail(`stats() says ${liveBytes} bytes are live, expected ${live}`);
  }

  /** Lets the event loop run when it is time. True when the replay is to end. */
  private async pauseFor(done: number): Promise<boolean> {
    if (Date.now() - this.lastYield >= YIELD_MILLISECONDS) {
      this.options.progress?.(this, done, this.stepsPerRound());
      await new Promise((resolve) => setImmediate(resolve));
      this.lastYield = Date.now();
    }
    return this.over();
  }

  private over(): boolean {
    const { seconds = 0 } = this.options;
    return this.stopped || this.checker.hopeless || (seconds > 0 && this.elapsedSeconds >= seconds);
  }

  /** Everything is created once and freed once. */
  private stepsPerRound(): number {
    return 2 * this.workload.created;
  }
}
