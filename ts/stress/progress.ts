// What is shown while a stress run runs: a bar on a terminal, a line now and then elsewhere.
import { SingleBar } from 'cli-progress';

export interface Progress {
  /** @param part of the run, in words; `done` of its `total` steps are behind it */
  update(part: string, done: number, total: number, status: string): void;
  stop(): void;
}

const MILLISECONDS_PER_LINE = 2000;

export function makeProgress(output: NodeJS.WriteStream): Progress {
  return output.isTTY ? new Bar(output) : new Lines(output);
}

class Bar implements Progress {
  private readonly bar: SingleBar;
  private part = '';

  constructor(output: NodeJS.WriteStream) {
    this.bar = new SingleBar({
      stream: output,
      format: '{bar} {percentage} %  {status}',
      barCompleteChar: '█',
      barIncompleteChar: '░',
      barsize: 24,
      clearOnComplete: true,
      // A signal must reach the run, which ends with a table.
      gracefulExit: false,
    });
  }

  update(part: string, done: number, total: number, status: string): void {
    if (this.part !== part) this.bar.start(total, done, { status: '' });
    this.part = part;
    this.bar.update(done, { status: `${part}, ${status}` });
  }

  stop(): void {
    this.bar.stop();
  }
}

class Lines implements Progress {
  private last = Date.now();

  constructor(private readonly output: NodeJS.WriteStream) {}

  update(part: string, done: number, total: number, status: string): void {
    if (Date.now() - this.last < MILLISECONDS_PER_LINE) return;
    this.last = Date.now();
    this.output.write(`${Math.floor((100 * done) / total)} %  ${part}, ${status}\n`);
  }

  stop(): void {}
}
