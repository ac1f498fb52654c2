/** A list for a plot: keeps every item at first; when there are too many, every second, and so on. */
export class Thinned<T> {
  items: T[] = [];
  private every = 1;
  private seen = 0;

  constructor(private readonly limit: number) {}

  push(item: T): void {
    if (this.seen++ % this.every !== 0) return;
    this.items.push(item);
    if (this.items.length < this.limit) return;
    this.items = this.items.filter((_, i) => i % 2 === 0);
    this.every *= 2;
  }
}
