// Where a run is to go: through links from trace to trace, and at the end out.
import { MAX_STOPS, NO_EXIT } from '../program/context';
import type { Random } from '../program/random';
import type { Exit } from './exit';
import type { Resident } from './resident';

/** Of the traces that are linked to others, how many go on to one of these; of the other ends, how many are an exit. */
const GO_ON = 0.7;
const THROUGH_AN_EXIT = 0.5;

export interface Route {
  /** The traces that the run goes through; at least one. */
  stops: Resident[];
  /** The exit at the end, which is not linked; none when the run is to be done. */
  exit: Exit | undefined;
  /** What each trace is told in the context. */
  choices: number[];
}

/** A route at random along the links as they are, never into a resident of `avoid`. */
export function planRoute(start: Resident, random: Random, avoid?: ReadonlySet<Resident>): Route {
  const route: Route = { stops: [start], exit: undefined, choices: [] };
  for (let at = start; ; ) {
    const onward = at.exits.filter(({ target }) => target && !avoid?.has(target));
    if (onward.length === 0 || route.stops.length === MAX_STOPS || !random.chance(GO_ON)) break;
    const exit = random.pick(onward);
    at = exit.target!;
    route.choices.push(exit.number);
    route.stops.push(at);
  }
  const ways = route.stops.at(-1)!.exits.filter(({ target }) => !target);
  if (ways.length > 0 && random.chance(THROUGH_AN_EXIT)) route.exit = random.pick(ways);
  route.choices.push(route.exit?.number ?? NO_EXIT);
  return route;
}
