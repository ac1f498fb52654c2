// Pins that a host holds for as long as it likes.
import { type NativeArena, raise } from './native';

/** What `arena.pin()` gives: ends when it is released, and not when it is collected as garbage. */
export class Pin {
  readonly #native: NativeArena;
  readonly #number: number;
  #released = false;

  constructor(native: NativeArena, number: number) {
    this.#native = native;
    this.#number = number;
  }

  /** What only this pin kept may be used again from now on. Silent when repeated. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    if (this.#native.unpin(this.#number) !== 0) raise();
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
