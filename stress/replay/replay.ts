// Replays a recording in an arena: the recorded executors as generated traces, linked and freed in the recorded order,
// compacted as it goes, run and checked all the time.
//
// CPython takes an invalidated executor out of use at once and gives its memory back later, when nobody can be inside;
// in a jit-arena both are one call. It is made when the recording frees the executor, so that live bytes are those of the
// recording. Until then the replay runs it still, as somebody who is inside. In detail:
//
// - A cold collection of the recording is `collect({ evictCold: true })`. Everything has run since the one before, so it
//   must evict nothing.
// - Executors that were invalidated as cold are evicted: all others run, these do not, and two passes later exactly these
//   must be gone.
// - Executors that were invalidated because a dependency changed, or all of them at once, end with `invalidate`; the
//   others are freed.
// - A recording misses links that did not last. For these, some exits that become hot are linked to any trace.
// - Links end, in the recording, when the executor is invalidated that they come from. Half of them are unlinked then, the
//   other half stay until an end of them dies, and the arena must unlink them.
import type { Arena } from 'jit-arena';
import { generate } from '../program/generate';
import { withHelpers } from '../program/helpers';
import { Random } from '../program/random';
import { outsideWorld, type World } from '../program/world';
import type { Shape, Workload, WorkloadEvent } from '../recording/workload';
import { Checker } from './checker';
import { type Exit, exitTag } from './exit';
import { Population } from './population';
import { Resident } from './resident';
import { Timeline } from './timeline';

/** Checked runs of random live executors with each one created or ended: with kept inputs, and with new ones. */
const CALLS_PER_STEP = 12;
const FRESH_CALLS_PER_STEP = 3;
/** The plan is looked at after this many frees. */
const FREES_PER_PLAN = 24;
/** And as soon as this part of what is live has been freed since. */
const FREED_SHARE_PER_PLAN = 1 / 128;
/** At the end of a recording, what is left ends in groups of this size. */
const GROUP_AT_END = 50;
const UNLINKED_BY_REPLAY = 0.5;
const LINKED_WHEN_HOT = 0.1;
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
  readonly population: Population;
  round = 0;
  created = 0;
  /** Ended in one way or another: `invalidated` and `evictedCold` of them, and the others freed. */
  freed = 0;
  invalidated = 0;
  evictedCold = 0;
  /** Exit records made. */
  exits = 0;
  linksOfHotExits = 0;
  private readonly random: Random;
  private readonly world: World;
  private readonly start = Date.now();
  private lastYield = Date.now();
  private stopped = false;
  private freesUntilPlan = FREES_PER_PLAN;
  /** In bytes. */
  private freedSincePlan = 0;

  /** @param arena made by `stressArena` */
  constructor(
    private readonly arena: Arena,
    private readonly workload: Workload,
    private readonly options: ReplayOptions,
  ) {
    this.random = new Random(options.seed, -2);
    this.checker = new Checker(arena, this.random, (exit) => this.linkHot(exit), options.spoil);
    this.population = new Population(arena, this.random);
    this.timeline = new Timeline(arena);
    this.world = withHelpers(outsideWorld(), arena, options.seed);
    for (const { shape } of this.world.helpers) this.timeline.created(shape);
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
    const { population, random, timeline } = this;
    const firstStep = timeline.step;
    for (const event of this.workload.events) {
      this.play(event);
      if (await this.pauseFor(timeline.step - firstStep)) return;
    }
    this.collectAtProfit();
    timeline.recordingEnd ??= timeline.latest;
    // As a process does at its end; in another order than that of creation, so that it leaves holes.
    const left = random.shuffle([...population.residents]);
    while (left.length > 0) {
      this.end(left.splice(0, GROUP_AT_END));
      if (await this.pauseFor(timeline.step - firstStep)) return;
    }
  }

  private play(event: WorkloadEvent): void {
    const { population, random } = this;
    switch (event.kind) {
      case 'create':
        this.create(event.id, event.shape);
        break;
      case 'link':
        population.link(population.get(event.from), event.exit, population.get(event.to));
        this.checker.check(population.get(event.from));
        break;
      case 'unlink':
        if (random.chance(UNLINKED_BY_REPLAY)) population.unlink(population.get(event.from), event.exit);
        this.checker.check(population.get(event.from));
        break;
      case 'invalidate':
        population.get(event.id).reason = event.reason;
        break;
      case 'free':
        this.end(event.ids.map((id) => population.get(id)));
        break;
      case 'collect':
        this.collect({ evictCold: true });
    }
  }

  /** Random runs, as of the program whose code it is. */
  private runProgram(): void {
    const { checker, population } = this;
    for (let i = 0; i < CALLS_PER_STEP && population.residents.length > 0; i++) {
      if (i < FRESH_CALLS_PER_STEP) checker.checkFresh(population.pick());
      else checker.check(population.pick());
    }
  }

  private linkHot({ from, number }: Exit): void {
    const { population, random } = this;
    if (!random.chance(LINKED_WHEN_HOT)) return;
    population.link(from, number, population.pick());
    this.linksOfHotExits++;
  }

  private create(id: number, shape: Shape): void {
    const { arena, options, round, world } = this;
    const program = generate(shape, new Random(options.seed, round, id), world);
    const exitTags = Array.from({ length: shape.exits }, (_, exit) => exitTag(id, exit));
    const executor = arena.install({ ...program.encode(), exitTags });
    const resident = new Resident(id, executor, shape, program.model());
    this.population.add(resident);
    this.created++;
    this.exits += shape.exits;
    this.timeline.created(shape);
    this.checker.check(resident);
    this.runProgram();
  }

  /** The end of executors, as the reason says for which each was invalidated. */
  private end(residents: readonly Resident[]): void {
    const cold = new Set<Resident>();
    for (const resident of residents) {
      this.checker.check(resident);
      if (resident.reason === 'cold') cold.add(resident);
      else this.endOne(resident);
    }
    if (cold.size > 0) this.evict(cold);
  }

  private endOne(resident: Resident): void {
    const { arena } = this;
    if (resident.reason === 'dependency' || resident.reason === 'all') {
      arena.invalidate(resident.executor);
      this.invalidated++;
    } else {
      arena.free(resident.executor);
    }
    const { live } = this.timeline;
    this.timeline.freed(resident.shape);
    this.freedSincePlan += live - this.timeline.live;
    this.forget([resident]);
    // Often enough that what is freed between two collects stays a small part of what is live.
    const much = this.freedSincePlan > this.timeline.live * FREED_SHARE_PER_PLAN;
    if (--this.freesUntilPlan === 0 || much) this.collectAtProfit();
  }

  /** Makes these the cold ones, and lets two passes over the warm bytes find them. */
  private evict(cold: ReadonlySet<Resident>): void {
    const { checker, population, timeline } = this;
    this.collect({ evictCold: true }, cold);
    const { evictedIds } = timeline.collect(
      { evictCold: true },
      [...cold].map(({ shape }) => shape),
    );
    const wanted = new Set([...cold].map(({ executor }) => executor.id));
    const wrong = evictedIds.filter((id) => !wanted.delete(id));
    if (wrong.length > 0) checker.fail(`collect() evicted ${wrong.length} executors that are not cold`);
    if (wanted.size > 0) checker.fail(`collect() evicted all but ${wanted.size} of ${cold.size} cold executors`);
    this.evictedCold += evictedIds.length;
    this.forget([...cold]);
    checker.checkAll(population.residents);
    this.checkLiveBytes();
  }

  /** After their end in the arena. */
  private forget(dead: readonly Resident[]): void {
    for (const source of this.population.remove(dead)) this.checker.checkLinks(source);
    this.freed += dead.length;
    for (let i = 0; i < dead.length; i++) this.runProgram();
  }

  private collectAtProfit(): void {
    this.freesUntilPlan = FREES_PER_PLAN;
    this.freedSincePlan = 0;
    if (this.arena.planCompaction().profitable) this.collect({});
  }

  /** Collects where nothing may be evicted, and runs all executors but those of `avoid`. */
  private collect(options: { evictCold?: boolean }, avoid?: ReadonlySet<Resident>): void {
    const { checker, population, timeline } = this;
    const { evicted } = timeline.collect(options);
    if (evicted > 0) checker.fail(`collect() evicted ${evicted} executors, of which none is cold`);
    checker.checkAll(population.residents, avoid);
    for (const helper of this.world.helpers) checker.checkHelper(helper);
    this.checkLiveBytes();
  }

  /** The end: frees everything, and the helpers last, because everything calls them. */
  private leaveNothing(): void {
    const { arena, checker, population, timeline } = this;
    checker.checkAll(population.residents);
    for (const { executor, shape } of population.residents) {
      arena.free(executor);
      timeline.freed(shape);
      this.freed++;
    }
    population.remove([...population.residents]);
    const { helpers } = this.world;
    arena.free(helpers.map(({ executor }) => executor));
    for (const { shape } of helpers) timeline.freed(shape);
    this.checkLiveBytes();
    checker.verify();
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
