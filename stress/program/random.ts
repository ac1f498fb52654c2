// Repeatable randomness: the same seed gives the same executors, the same calls and the same order of frees everywhere.

/** The sfc32 generator: small, fast, and good enough that no bit pattern in its output matters here. */
export class Random {
  private a: number;
  private b: number;
  private c: number;
  private counter = 1;

  /** Different lists of seeds give unrelated streams, so (seed, round, executor) needs no arithmetic by the caller. */
  constructor(...seeds: number[]) {
    let hash = 0x9e3779b9;
    for (const seed of seeds) {
      hash = Math.imul(hash ^ seed, 0x85ebca6b);
      hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35) ^ Math.floor(seed / 2 ** 32);
      hash ^= hash >>> 16;
    }
    this.a = hash | 0;
    this.b = ~hash | 0;
    this.c = Math.imul(hash, 0x27d4eb2f) | 0;
    for (let i = 0; i < 12; i++) this.int32();
  }

  int32(): number {
    const result = (this.a + this.b + this.counter++) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + result) | 0;
    return result;
  }

  u64(): bigint {
    return (BigInt(this.int32() >>> 0) << 32n) | BigInt(this.int32() >>> 0);
  }

  /** A whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor(((this.int32() >>> 0) / 2 ** 32) * limit);
  }

  chance(probability: number): boolean {
    return (this.int32() >>> 0) / 2 ** 32 < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j]!, items[i]!];
    }
    return items;
  }
}
