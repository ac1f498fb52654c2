// A recording notes a link late: mostly when it ends, with nothing in between. The JIT made it when it compiled the
// trace at its other end, or not much later.
import type { WorkloadEvent } from './workload';

type Link = Extract<WorkloadEvent, { kind: 'link' }>;

/** The same events, with each link as early as it can be: when both its ends are there and the exit is not linked. */
export function linkEarly(events: readonly WorkloadEvent[]): WorkloadEvent[] {
  const created = new Map<number, number>();
  const unlinked = new Map<string, number>();
  const linksAfter: Link[][] = events.map(() => []);
  for (const [position, event] of events.entries()) {
    if (event.kind === 'create') created.set(event.id, position);
    if (event.kind === 'unlink') unlinked.set(`${event.from}/${event.exit}`, position);
    if (event.kind !== 'link') continue;
    const { from, exit, to } = event;
    const earliest = Math.max(created.get(from)!, created.get(to)!, unlinked.get(`${from}/${exit}`) ?? 0);
    linksAfter[earliest]!.push(event);
  }
  return events.flatMap((event, position) => (event.kind === 'link' ? [] : [event, ...linksAfter[position]!]));
}
