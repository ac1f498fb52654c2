// How an arena is made.
import { checkCount, maxSize } from './checks';
import { addon, type NativeArena, orRaise, type WriterName } from './native';
import { makeToken } from './sharing';

/** How an arena is made. */
export interface ArenaOptions {
  /**
   * Bytes of address space to reserve: the most that the arena can ever hold, up to `machine.maxArenaBytes`. Memory is
   * taken only as it is used. 64 MiB unless given; where the system refuses so much (`ulimit -v`, containers), less.
   */
  maxBytes?: number;
  /** How bytes reach code (docs/writers.md). `auto`, the default, takes the first that `probe()` finds working. */
  writer?: 'auto' | WriterName;
  /**
   * `together`, the default: data lies behind its code, so that a move keeps their distance. `apart`: in read-only,
   * non-executable slabs of its own.
   */
  layout?: 'together' | 'apart';
  /**
   * Retired bytes at which `collect` stops moving and `freeze` throws ERR_ARENA_RETIRED_LIMIT; a quarter of maxBytes
   * unless given.
   */
  maxRetiredBytes?: number;
  /** How often a cold exit is taken before it is hot, 1 to 4096; 1024 unless given. */
  exitThreshold?: number;
  /** The factor by which that grows each time the exit has been hot, 1 or more; 2 unless given. */
  exitGrowth?: number;
  /** The longest chain of links without progress (`chainDepth`) that `link` and `replace` allow; no limit unless given. */
  maxChainDepth?: number;
  /**
   * What a child that native code forks finds of the arena (docs/fork.md): `drop`, the default, nothing (ERR_ARENA_FORKED);
   * `copy`, an arena of its own. Node itself only makes processes that begin anew.
   */
  fork?: 'drop' | 'copy';
  /**
   * Slabs of a huge page's size (2 MiB), and a `collect` without `maxPauseMicros` puts huge pages behind those that are
   * full, where the system can (Linux 6.1), some 5 ms each: `stats().hugePageBytes`. For many megabytes of code that is
   * executed all over the place (docs/bench.md, T7); an arena of a few traces only takes more memory. Off unless true.
   */
  hugePages?: boolean;
  /** Keep every reloc, so that `verify` can name a wrong field; for debugging. */
  fullRecords?: boolean;
  name?: string;
}

/** The functions of a new arena. ERR_ARENA_NO_EXEC, _NO_MEMORY, _WRITER_UNAVAILABLE, _SIZE. */
export function createArena(options: ArenaOptions): NativeArena {
  const { defaults } = addon;
  const { maxBytes = defaults.maxBytes, maxRetiredBytes = defaults.maxRetiredBytes } = options;
  const { writer = 'auto', layout = 'together', name = '' } = options;
  const writerNumber = writer === 'alias' ? 0 : writer === 'procmem' ? 1 : writer === 'flip' ? 2 : -1;
  if (writer !== 'auto' && writerNumber < 0) {
    throw new TypeError(`the writer is ${String(writer)}, and not 'auto', 'alias', 'procmem' or 'flip'`);
  }
  if (layout !== 'together' && layout !== 'apart') {
    throw new TypeError(`the layout is ${String(layout)}, and not 'together' or 'apart'`);
  }
  const { exitThreshold = defaults.exitThreshold, exitGrowth = defaults.exitGrowth } = options;
  const { maxChainDepth = defaults.maxChainDepth, fork = 'drop' } = options;
  if (fork !== 'drop' && fork !== 'copy') {
    throw new TypeError(`fork is ${String(fork)}, and not 'drop' or 'copy'`);
  }
  if (typeof exitGrowth !== 'number') throw new TypeError('exitGrowth is not a number');
  checkCount(maxBytes, addon.machine.maxArenaBytes, 'ERR_ARENA_SIZE', 'maxBytes');
  checkCount(maxRetiredBytes, addon.machine.maxArenaBytes, 'ERR_ARENA_SIZE', 'maxRetiredBytes');
  return orRaise(
    addon.createArena({
      maxBytes,
      writer: writerNumber,
      apart: layout === 'apart',
      maxRetiredBytes,
      exitThreshold: checkCount(exitThreshold, 4096, 'ERR_ARENA_SIZE', 'exitThreshold'),
      exitGrowth,
      maxChainDepth: checkCount(maxChainDepth, maxSize, 'ERR_ARENA_SIZE', 'maxChainDepth'),
      forkCopy: fork === 'copy',
      hugePages: options.hugePages === true,
      fullRecords: options.fullRecords === true,
      name: String(name),
      token: makeToken(),
    }),
  );
}
