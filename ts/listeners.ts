// What an arena tells of its executors (`arena.on`).
import { type NativeArena, orRaise, raise } from './native';
import { elementsOf } from './primordials';

/** What can happen to executors: they are moved, evicted because they are cold, or end in whatever way. */
export type ArenaEvent = 'move' | 'evict' | 'free';
/** Is told of the ids of executors to which it has happened since the last time, in the order in which it did. */
export type ArenaListener = (ids: Float64Array) => void;

/** By the numbers that native code has for them, in the order in which one executor can meet with them. */
const events = ['move', 'evict', 'free'] as const;

/** The listeners of one Arena object. */
export class Listeners {
  readonly #native: NativeArena;
  readonly #of: Record<ArenaEvent, readonly ArenaListener[]> = { move: [], evict: [], free: [] };

  /** Bits of the events that have listeners. */
  #kinds = 0;

  constructor(native: NativeArena) {
    this.#native = native;
  }

  add(event: ArenaEvent, listener: ArenaListener): void {
    this.#change(event, [...this.#listenersOf(event, listener), listener]);
  }

  remove(event: ArenaEvent, listener: ArenaListener): void {
    const listeners = this.#listenersOf(event, listener);
    const at = listeners.lastIndexOf(listener);
    if (at >= 0) this.#change(event, [...listeners.slice(0, at), ...listeners.slice(at + 1)]);
  }

  /** Calls the listeners of what native code has noted. The first error is thrown when all have been called. */
  tell(): void {
    let thrown: { error: unknown } | undefined;
    for (let kind = 0; kind < events.length; kind++) {
      // Listeners that one of these adds are not told of what was before.
      const listeners = this.#of[events[kind] as ArenaEvent];
      if (listeners.length === 0) continue;
      const ids = orRaise(this.#native.noted(kind)) as Float64Array | undefined;
      if (ids === undefined || elementsOf(ids) === 0) continue;
      for (const listener of listeners) {
        try {
          listener(ids);
        } catch (error) {
          thrown ??= { error };
        }
      }
    }
    if (thrown !== undefined) throw thrown.error;
  }

  #listenersOf(event: ArenaEvent, listener: ArenaListener): readonly ArenaListener[] {
    if (!events.includes(event))
      throw new TypeError(`the event is ${String(event)}, and not 'move', 'evict' or 'free'`);
    if (typeof listener !== 'function') throw new TypeError('the listener is not a function');
    return this.#of[event];
  }

  #change(event: ArenaEvent, listeners: readonly ArenaListener[]): void {
    // What was noted for those who listen now is theirs.
    this.tell();
    let kinds = 0;
    for (let kind = 0; kind < events.length; kind++) {
      const each = events[kind] as ArenaEvent;
      if ((each === event ? listeners : this.#of[each]).length !== 0) kinds |= 1 << kind;
    }
    if (kinds !== this.#kinds && this.#native.listen(kinds, () => this.tell()) !== 0) raise();
    this.#kinds = kinds;
    this.#of[event] = listeners;
    // Nor is what was noted for nobody told to who listens later.
    if (listeners.length === 0) this.#native.noted(events.indexOf(event));
  }
}
