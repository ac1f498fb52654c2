// The executors that are alive in a replay, and the links between them.
import type { Arena } from 'jit-arena';
import type { Random } from '../program/random';
import type { Exit } from './exit';
import type { Resident } from './resident';

export class Population {
  /** In no order. */
  readonly residents: Resident[] = [];
  linksMade = 0;
  /** Links that were undone by the replay, and that the arena had to undo because an end died. */
  unlinked = 0;
  linksOfDead = 0;
  private readonly byId = new Map<number, Resident>();

  constructor(
    private readonly arena: Arena,
    private readonly random: Random,
  ) {}

  add(resident: Resident): void {
    this.byId.set(resident.id, resident);
    this.residents.push(resident);
  }

  get(id: number): Resident {
    return this.byId.get(id)!;
  }

  pick(): Resident {
    return this.random.pick(this.residents);
  }

  link(from: Resident, exit: number, to: Resident): void {
    this.arena.link(from.executor, exit, to.executor);
    from.exits[exit]!.link(to);
    this.linksMade++;
  }

  unlink(from: Resident, exit: number): void {
    this.arena.unlink(from.executor, exit);
    from.exits[exit]!.unlink();
    this.unlinked++;
  }

  /** After their end in the arena, which unlinks them. Returns who of those that live on was linked to them. */
  remove(dead: readonly Resident[]): Set<Resident> {
    const links = new Set<Exit>();
    for (const resident of dead) {
      this.byId.delete(resident.id);
      const last = this.residents.pop()!;
      if (last !== resident) this.residents[this.residents.indexOf(resident)] = last;
      for (const exit of resident.inbound) links.add(exit);
      for (const exit of resident.exits) if (exit.target) links.add(exit);
    }
    for (const exit of links) exit.unlink();
    this.linksOfDead += links.size;
    return new Set([...links].map(({ from }) => from).filter(({ id }) => this.byId.has(id)));
  }
}
