// Calls executors and compares what they return with what their models say.
import type { Arena } from '../index';
import type { Random } from './random';
import type { Resident } from './resident';

/** A program that goes on with this many wrong results would only crash later. */
const TOO_MANY_FAILURES = 100;

export class Checker {
  callsChecked = 0;
  verifications = 0;
  failures = 0;
  /** The first failures, in words. */
  readonly reports: string[] = [];
  private corrupt = false;

  /** @param spoil the number of the one check whose expectation is made wrong, so that a test sees a failure reported */
  constructor(
    private readonly random: Random,
    private readonly spoil = -1,
  ) {}

  get hopeless(): boolean {
    return this.corrupt || this.failures >= TOO_MANY_FAILURES;
  }

  fail(what: string): void {
    this.failures++;
    if (this.reports.length < 20) this.reports.push(what);
  }

  /** One call with an input used before: quick. */
  check(resident: Resident): void {
    this.compare(resident, resident.nextKept(this.random));
  }

  /** One call with an input never used before: the model runs too. */
  checkFresh(resident: Resident): void {
    this.compare(resident, resident.fresh(this.random));
  }

  /** What must hold after every collect. */
  checkAll(residents: Iterable<Resident>, arena: Arena): void {
    this.verify(arena);
    for (const resident of residents) this.check(resident);
  }

  /** Once it has found something, nothing is called any more: a crash would hide what it says. */
  verify(arena: Arena): void {
    if (this.corrupt) return;
    this.verifications++;
    const { ok, problems, broken } = arena.verify();
    if (ok) return;
    this.corrupt = true;
    this.fail(`verify() found ${problems.length} problems: ${inWords(problems[0] ?? broken)}`);
  }

  private compare(resident: Resident, { input, expected }: { input: bigint; expected: bigint }): void {
    if (this.corrupt) return;
    const wanted = this.callsChecked++ === this.spoil ? expected ^ 1n : expected;
    const found = resident.call(input);
    if (found === wanted) return;
    this.fail(
      `executor ${resident.id} of the recording returned ${hex(found)} for ${hex(input)}, expected ${hex(wanted)}`,
    );
  }
}

const hex = (value: bigint) => `0x${value.toString(16)}`;

const inWords = (problem: unknown) =>
  JSON.stringify(problem, (_, value) => (typeof value === 'bigint' ? hex(value) : value));
