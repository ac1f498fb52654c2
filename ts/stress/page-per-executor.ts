// What the usual way would take, by arithmetic: whole pages for each executor, as CPython's JIT maps them.

export class PagePerExecutor {
  bytes = 0;

  constructor(readonly pageBytes: number) {}

  add(executorBytes: number): void {
    this.bytes += this.rounded(executorBytes);
  }

  remove(executorBytes: number): void {
    this.bytes -= this.rounded(executorBytes);
  }

  private rounded(bytes: number): number {
    return Math.ceil(bytes / this.pageBytes) * this.pageBytes;
  }
}
