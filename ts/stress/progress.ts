// What is shown while a replay runs: a bar on a terminal, a line now and then elsewhere.
import { SingleBar } from 'cli-progress';
import { bytes, count } from './format';
import type { Replay } from './replay';

export interface Progress {
  update(replay: Replay, done: number, total: number): void;
  stop(): void;
}

const MILLISECONDS_PER_LINE = 2000;

export function makeProgress(output: NodeJS.WriteStream): Progress {
  return output.isTTY ? new Bar(output) : new Lines(output);
}

class Bar implements Progress {
  private readonly bar: SingleBar;
  private round = 0;

  constructor(output: NodeJS.WriteStream) {
    this.bar = new SingleBar({
      stream: output,
      format: '{bar} {percentage} %  {status}',
      barCompleteChar: '█',
      barIncompleteChar: '░',
      barsize: 24,
      clearOnComplete: true,
      // A signal must reach the replay, which ends with a table.
      gracefulExit: false,
    });
  }

  update(replay: Replay, done: number, total: number): void {
    if (this.round !== replay.round) this.bar.start(total, done, { status: '' });
    this.round = replay.round;
    this.bar.update(done, { status: status(replay) });
  }

  stop(): void {
    this.bar.stop();
  }
}

class Lines implements Progress {
  private last = Date.now();

  constructor(private readonly output: NodeJS.WriteStream) {}

  update(replay: Replay, done: number, total: number): void {
    if (Date.now() - this.last < MILLISECONDS_PER_LINE) return;
    this.last = Date.now();
    this.output.write(`${Math.floor((100 * done) / total)} %  ${status(replay)}\n`);
  }

  stop(): void {}
}

function status({ checker, round, timeline }: Replay): string {
  const { committed, live } = timeline.latest;
  return [
    `round ${round}`,
    `${bytes(live)} live in ${bytes(committed)}`,
    `${count(timeline.moved)} moved`,
    `${count(checker.callsChecked)} calls`,
    `${count(checker.failures)} failures`,
  ].join(', ');
}
