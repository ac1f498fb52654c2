// Runs executors and compares where they end, and with what, with what must come of it.
import type { Arena } from 'jit-arena';
import { Context } from '../program/context';
import type { Random } from '../program/random';
import type { Helper } from '../program/world';
import { type Exit, tagInWords } from './exit';
import type { Resident } from './resident';
import { planRoute, type Route } from './route';

/** A program that goes on with this many wrong results would only crash later. */
const TOO_MANY_FAILURES = 100;

/** How a run ends. */
interface Outcome {
  hash: bigint;
  /** How many traces it has gone through. */
  stops: number;
  /** The tag of the exit that it has taken, if any. */
  exit: number | undefined;
  /** The exit became hot with it. */
  hot: boolean;
}

export class Checker {
  /** Runs, each of them checked. */
  callsChecked = 0;
  linksTaken = 0;
  runsThroughLinks = 0;
  exitsTaken = 0;
  hotExits = 0;
  verifications = 0;
  failures = 0;
  /** The first failures, in words. */
  readonly reports: string[] = [];
  private readonly context: Context;
  private corrupt = false;

  /**
   * @param onHot called after a run with an exit that has become hot
   * @param spoil the number of the one check whose expectation is made wrong, so that a test sees a failure reported
   */
  constructor(
    private readonly arena: Arena,
    private readonly random: Random,
    private readonly onHot: (exit: Exit) => void,
    private readonly spoil = -1,
  ) {
    this.context = new Context(arena);
  }

  get hopeless(): boolean {
    return this.corrupt || this.failures >= TOO_MANY_FAILURES;
  }

  fail(what: string): void {
    this.failures++;
    if (this.reports.length < 20) this.reports.push(what);
  }

  /** One run with an input used before: quick. It goes through links, but not into residents of `avoid`. */
  check(resident: Resident, avoid?: ReadonlySet<Resident>): void {
    this.compare(planRoute(resident, this.random, avoid), resident.nextKept(this.random), true);
  }

  /** One run with an input never used before: the models run too. */
  checkFresh(resident: Resident): void {
    this.compare(planRoute(resident, this.random), this.random.u64(), false);
  }

  /** One call from JavaScript. */
  checkHelper({ call, model }: Helper): void {
    if (this.corrupt) return;
    const input = this.random.u64();
    const wanted = model.run(input);
    this.callsChecked++;
    const found = call(input);
    if (found !== wanted) this.fail(`a helper returned ${hex(found)} for ${hex(input)}, expected ${hex(wanted)}`);
  }

  /** What must hold after every collect; runs all but `avoid`. */
  checkAll(residents: readonly Resident[], avoid?: ReadonlySet<Resident>): void {
    this.verify();
    for (const resident of residents) {
      if (avoid?.has(resident)) continue;
      this.checkLinks(resident);
      this.check(resident, avoid);
    }
  }

  /** That the arena knows the links as they are. */
  checkLinks({ id, executor, exits }: Resident): void {
    if (this.corrupt) return;
    for (const { number, target } of exits) {
      const found = this.arena.linkOf(executor, number)?.executor.id;
      if (found === target?.executor.id) continue;
      this.fail(`exit ${number} of executor ${id} of the recording is linked to ${found}, not ${target?.executor.id}`);
    }
  }

  /** Once it has found something, nothing is run any more: a crash would hide what it says. */
  verify(): void {
    if (this.corrupt) return;
    this.verifications++;
    const { ok, problems, broken } = this.arena.verify();
    if (ok) return;
    this.corrupt = true;
    this.fail(`verify() found ${problems.length} problems: ${inWords(problems[0] ?? broken)}`);
  }

  private compare(route: Route, input: bigint, keep: boolean): void {
    if (this.corrupt) return;
    const wanted = this.expected(route, input, keep);
    if (this.callsChecked++ === this.spoil) wanted.hash ^= 1n;
    const found = this.run(route, input);
    if (wanted.hot) this.onHot(route.exit!);
    if (isSame(found, wanted)) return;
    const ids = route.stops.map(({ id }) => id).join(' → ');
    this.fail(
      `executor ${ids} of the recording ended with ${describe(found)} for ${hex(input)}, expected ${describe(wanted)}`,
    );
  }

  private expected({ stops, exit }: Route, input: bigint, keep: boolean): Outcome {
    const hash = stops.reduce((hash, stop) => stop.resultOf(hash, keep), input);
    const hot = exit?.take() ?? false;
    if (exit) this.exitsTaken++;
    if (hot) this.hotExits++;
    if (stops.length > 1) this.runsThroughLinks++;
    this.linksTaken += stops.length - 1;
    return { hash, stops: stops.length, exit: exit?.tag, hot };
  }

  private run({ stops: [start], choices }: Route, input: bigint): Outcome {
    const { arena, context } = this;
    const token = context.run(start!.executor, input, choices);
    const { hash, stops } = context;
    return { hash, stops, exit: token === 0 ? undefined : arena.exitTag(token), hot: token < 0 };
  }
}

function isSame(a: Outcome, b: Outcome): boolean {
  return a.hash === b.hash && a.stops === b.stops && a.exit === b.exit && a.hot === b.hot;
}

function describe({ hash, stops, exit, hot }: Outcome): string {
  const details = [];
  if (stops !== 1) details.push(`after ${stops} traces`);
  if (exit !== undefined) details.push(`through exit ${tagInWords(exit)}${hot ? ', now hot' : ''}`);
  return [hex(hash), ...details].join(' ');
}

const hex = (value: bigint) => `0x${value.toString(16)}`;

const inWords = (problem: unknown) =>
  JSON.stringify(problem, (_, value) => (typeof value === 'bigint' ? hex(value) : value));
