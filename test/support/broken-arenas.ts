// Arenas with a bug each, to show that the model test would see it.
import { closeSync, openSync, writeSync } from 'node:fs';
import {
  Arena,
  type CollectOptions,
  type CollectResult,
  type Executor,
  type ExecutorSpec,
  type FoundAddress,
  type Stats,
  type Verification,
} from 'jit-arena';

export interface BrokenArena {
  bug: string;
  make: () => Arena;
  /** What the model says of it. */
  detectedAs: RegExp;
  /** Only results of calls are compared: what is asked of the arena is not. */
  onlyCalls?: boolean;
}

/** Writes to memory that is not writable, as a debugger does. */
function poke(address: bigint, bytes: Uint8Array): void {
  const memory = openSync('/proc/self/mem', 'r+');
  writeSync(memory, bytes, 0, bytes.length, Number(address));
  closeSync(memory);
}

export class FieldsKeepOldAddresses extends Arena {
  constructor() {
    super({ writer: 'procmem' });
  }
  override collect(options?: CollectOptions): CollectResult {
    const frozen = this.executors().filter(({ state }) => state === 'frozen');
    const before = frozen.map((executor) => ({ executor, address: executor.address, code: executor.read('code') }));
    const result = super.collect(options);
    for (const { executor, address, code } of before) {
      if (executor.address !== address) poke(executor.address, code);
    }
    return result;
  }
  override verify(): Verification {
    return { ok: true, problems: [] };
  }
}

class CollectClearsState extends Arena {
  override collect(options?: CollectOptions): CollectResult {
    for (const executor of this.executors()) executor.write('state', 0, new Uint8Array(executor.sizes.state));
    return super.collect(options);
  }
}

class FindSaysMovedIsRetired extends Arena {
  private moved = false;
  override collect(options?: CollectOptions): CollectResult {
    const result = super.collect(options);
    this.moved ||= result.moved > 0;
    return result;
  }
  override find(address: bigint): FoundAddress | undefined {
    const found = super.find(address);
    return found && { ...found, retired: found.retired || this.moved };
  }
}

class FreedIdsStayGood extends Arena {
  private readonly known = new Map<number, Executor>();
  override executor(id: number): Executor {
    const executor = this.known.get(id) ?? super.executor(id);
    this.known.set(id, executor);
    return executor;
  }
}

class FreeForgetsToCount extends Arena {
  private readonly counted = { liveBytes: 0 };
  override stats(): Stats {
    const stats = super.stats();
    this.counted.liveBytes = Math.max(stats.liveBytes, this.counted.liveBytes);
    return { ...stats, ...this.counted };
  }
}

class FreezesOneByOne extends Arena {
  override freeze(executors: Parameters<Arena['freeze']>[0]): void {
    if (typeof executors !== 'object' || !(Symbol.iterator in executors)) super.freeze(executors);
    else for (const executor of executors) super.freeze([executor]);
  }
}

class ChangesAConstant extends Arena {
  override install(spec: ExecutorSpec): Executor;
  override install(specs: readonly ExecutorSpec[]): Executor[];
  override install(spec: ExecutorSpec | readonly ExecutorSpec[]): Executor | Executor[] {
    return isList(spec) ? super.install(spec.map(changed)) : super.install(changed(spec));
  }
}

/** As Array.isArray, which does not tell a readonly array from other things. */
const isList = (spec: ExecutorSpec | readonly ExecutorSpec[]): spec is readonly ExecutorSpec[] => Array.isArray(spec);

function changed(spec: ExecutorSpec): ExecutorSpec {
  if (!(spec.data instanceof Uint8Array)) return spec;
  return { ...spec, data: spec.data.map((byte, i) => (i === 3 ? byte ^ 0x40 : byte)) };
}

export const brokenArenas: readonly BrokenArena[] = [
  {
    bug: 'leaves moved code with the old addresses',
    make: () => new FieldsKeepOldAddresses(),
    detectedAs: /^(m\d+, (code|data): at byte|the (veneer|slot|alignment|state) of|find\(\) in)/,
  },
  {
    bug: 'clears state when it collects',
    make: () => new CollectClearsState(),
    detectedAs: /^m\d+, (staged )?state: at byte/,
  },
  { bug: 'finds only old copies', make: () => new FindSaysMovedIsRetired(), detectedAs: /^find\(\) in code of m\d+/ },
  { bug: 'returns freed executors', make: () => new FreedIdsStayGood(), detectedAs: /m\d+ has been freed$/ },
  { bug: 'counts what was freed', make: () => new FreeForgetsToCount(), detectedAs: /^stats\(\)\.liveBytes/ },
  {
    bug: 'freezes half of a list',
    make: () => new FreezesOneByOne(),
    detectedAs: /changed the figures|is frozen already|is still writable: freeze it before/,
  },
  {
    bug: 'changes a constant',
    make: () => new ChangesAConstant(),
    detectedAs: /^(the result of m\d+|a callback's argument)/,
    onlyCalls: true,
  },
];
