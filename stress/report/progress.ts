// What is shown while a stress run runs: a bar on a terminal, a line now and then elsewhere.

export interface Progress {
  /** @param part of the run, in words; `done` of its `total` steps are behind it */
  update(part: string, done: number, total: number, status: string): void;
  stop(): void;
}

/** What it needs of process.stdout. */
export type Output = Pick<NodeJS.WriteStream, 'isTTY' | 'columns' | 'write'>;

const MILLISECONDS_PER_LINE = 2000;
const BAR_CELLS = 24;
/** Of a terminal: to the start of the line, which is then empty. */
const CLEAR_LINE = '\r\x1b[K';

export function makeProgress(output: Output): Progress {
  return output.isTTY ? new Bar(output) : new Lines(output);
}

class Bar implements Progress {
  constructor(private readonly output: Output) {}

  update(part: string, done: number, total: number, status: string): void {
    const full = Math.floor((BAR_CELLS * done) / total);
    const bar = '█'.repeat(full) + '░'.repeat(BAR_CELLS - full);
    const line = `${bar} ${percent(done, total)}  ${part}, ${status}`;
    // A line that the terminal wraps could not be cleared.
    this.output.write(CLEAR_LINE + line.slice(0, (this.output.columns || 80) - 1));
  }

  stop(): void {
    this.output.write(CLEAR_LINE);
  }
}

class Lines implements Progress {
  private last = Date.now();

  constructor(private readonly output: Output) {}

  update(part: string, done: number, total: number, status: string): void {
    if (Date.now() - this.last < MILLISECONDS_PER_LINE) return;
    this.last = Date.now();
    this.output.write(`${percent(done, total)}  ${part}, ${status}\n`);
  }

  stop(): void {}
}

function percent(done: number, total: number): string {
  return `${Math.floor((100 * done) / total)} %`;
}
