// Small programs (test/fixtures/programs) as every compiler of this machine makes them, in the configurations that an
// author would try: each gives in an arena, before and after moves, what it gives as a shared library.
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { Arena, ArenaError, type Callback, type Executor, type InstalledObject, loadObject } from 'jit-arena';
import { canCompile, compileLibrary, compileTogether, everyCompiler } from './support/compile.js';
import { skip } from './support/skip.js';

const programs = readdirSync(resolve(__dirname, '..', 'test', 'fixtures', 'programs')).sort();

/** Variables of these hold addresses, so that nobody can promise that they may move. */
const holdsAddresses = new Set(['ifuncs.c', 'kept_pointers.c', 'static_objects.cc']);

/** These name variables of the C++ library: types of exceptions, and what their tables begin with. */
const usesLibraryData = new Set(['exceptions.cc', 'static_objects.cc']);

interface Configuration {
  readonly flags: readonly string[];
  /** Programs that need an address cannot be installed: absolute fields of 32 bits reach no arena. */
  readonly absolute?: true;
}

const levels = ['-O0', '-O2', '-O3'];
const configurations: readonly Configuration[] = [
  ...levels.map((level) => ({ flags: [level, '-fPIC'] })),
  ...levels.map((level) => ({ flags: [level, '-fPIC', '-mcmodel=large'] })),
  { flags: ['-O0', '-fPIE', '-mcmodel=large', '-ffunction-sections', '-fdata-sections'] },
  { flags: ['-O2', '-fPIE', '-fvisibility=hidden'] },
  { flags: ['-O2', '-fPIC', '-ffunction-sections', '-fdata-sections'] },
  { flags: ['-O2', '-fno-pic', '-mcmodel=large'] },
  { flags: ['-O2', '-fPIC', '-mcmodel=medium'] },
  { flags: ['-O0', '-fPIE', '-mcmodel=medium'] },
  { flags: ['-O2', '-fno-pic'], absolute: true },
];

const rounds = 4;
const callsOfRound = 5;
const ret = Uint8Array.of(0xc3);

/** What stands between the programs, so that there are holes once most of it is freed. */
class Fillers {
  #executors: Executor[] = [];
  constructor(readonly arena: Arena) {}

  add(count: number): void {
    const specs = Array.from({ length: count }, (_, i) => {
      const code = new Uint8Array(1024 + ((this.#executors.length * 7919 + i * 104729) % 7168)).fill(0xcc);
      code.set(ret);
      return { code };
    });
    this.#executors.push(...this.arena.install(specs));
  }

  /** Frees all but every `every`th. */
  thin(every = 40): void {
    this.arena.free(this.#executors.filter((_, i) => i % every !== 0));
    this.#executors = this.#executors.filter((_, i) => i % every === 0);
  }
}

/** A program in the arena, with state of its own. */
class Program {
  readonly moves: number[];
  #addresses: readonly bigint[];

  constructor(
    readonly name: string,
    readonly promised: boolean,
    readonly arena: Arena,
    readonly x: InstalledObject,
  ) {
    this.#addresses = this.#find();
    this.moves = this.#addresses.map(() => 0);
  }

  #find(): readonly bigint[] {
    return this.arena.pinned(() => this.x.executors.map(({ address }) => address as bigint));
  }

  /** Counts the executors that are somewhere else than when it was last asked. */
  look(): void {
    const now = this.#find();
    now.forEach((address, i) => {
      if (address !== this.#addresses[i]) this.moves[i] = (this.moves[i] as number) + 1;
    });
    this.#addresses = now;
  }

  check(expected: readonly bigint[], first: number, end: number): void {
    const run = this.x.func('run', { args: ['i64'], returns: 'i64' });
    for (let n = first; n < end; n++) {
      const what = `${this.name}${this.promised ? ', promised to be movable' : ''}: run(${n})`;
      assert.equal(run(BigInt(n)), expected[n], what);
    }
  }
}

describe('compilers', () => {
  before(function () {
    if (!canCompile) skip(this, 'needs a C compiler on x86-64 Linux');
  });

  /** What each program gives for 0, 1, 2 … as a library. */
  const natives = new Map<string, readonly bigint[]>();
  before(function () {
    this.timeout(60_000);
    type Library = { func(prototype: string): (n: number) => number | bigint };
    const koffi = require('koffi') as { load(path: string): Library };
    for (const name of programs) {
      const run = koffi.load(compileLibrary(`programs/${name}`)).func('int64_t run(int64_t n)');
      const results = Array.from({ length: rounds * callsOfRound }, (_, n) => BigInt(run(n)));
      assert.ok(new Set(results).size > callsOfRound, `${name} gives too few different results`);
      natives.set(name, results);
    }
  });

  let ran = 0;
  let moves = 0;
  let refused = 0;
  let tooFar = 0;
  const found = canCompile ? everyCompiler() : [];
  after(() => {
    console.log(
      `      ${found.join(', ')}: ${ran} ran right, moved ${moves} times; ${refused} were refused, ${tooFar} too far`,
    );
  });

  /** All programs, each as it is and, where that is safe, promised to be movable. */
  function installAll(fillers: Fillers, compiler: string, { flags, absolute }: Configuration, step: Callback) {
    const { arena } = fillers;
    const installed: Program[] = [];
    const objects = compileTogether(
      programs.map((name) => `programs/${name}`),
      flags,
      compiler,
    );
    let refusedHere = 0;
    programs.forEach((name, i) => {
      const resolve = (symbol: string) => (symbol === 'host_step' ? step : undefined);
      const object = loadObject(objects[i] as Uint8Array, { resolve });
      for (const promised of holdsAddresses.has(name) ? [false] : [false, true]) {
        fillers.add(20);
        try {
          const x = object.install(arena, { constructors: 'run', ...(promised && { movable: true }) });
          installed.push(new Program(name, promised, arena, x));
        } catch (error) {
          if (!(error instanceof ArenaError)) throw error;
          assert.equal(error.code, 'ERR_ARENA_RELOC_RANGE', error.message);
          // Code for an executable takes data of libraries for near, as a linker would make it. It is where it is.
          if (flags.includes('-fPIE') && usesLibraryData.has(name) && error.kind === 'R_X86_64_PC32') {
            tooFar++;
            continue;
          }
          if (absolute === undefined) throw error;
          assert.match(error.message, /R_X86_64_32S?\b/);
          refusedHere++;
        }
      }
    });
    assert.equal(refusedHere > 0, absolute === true, `${refusedHere} were refused`);
    refused += refusedHere;
    return installed;
  }

  for (const compiler of found) {
    for (const configuration of configurations) {
      it(`${compiler} ${configuration.flags.join(' ')}`, function () {
        this.timeout(60_000);
        using arena = new Arena({ maxBytes: 64 << 20 });
        const fillers = new Fillers(arena);
        fillers.add(60);
        let installed: readonly Program[] = [];
        const collect = () => {
          fillers.thin();
          arena.collect();
          for (const program of installed) program.look();
          fillers.add(30);
        };
        // weak.c calls it in the middle of its work.
        let movedInside = 0;
        const step = arena.callback({ args: ['i64'], returns: 'i64' }, (n) => {
          const inside = installed.filter(({ name, promised }) => name === 'weak.c' && promised);
          const count = () => inside.reduce((sum, program) => sum + Math.max(...program.moves), 0);
          const before = count();
          collect();
          movedInside += count() - before;
          return n;
        });
        installed = installAll(fillers, compiler, configuration, step);

        for (let round = 0; round < rounds; round++) {
          if (round !== 0) collect();
          const first = round * callsOfRound;
          for (const program of installed)
            program.check(natives.get(program.name) as readonly bigint[], first, first + callsOfRound);
          const { ok, problems, broken } = arena.verify();
          assert.ok(ok, broken ?? String(problems[0]?.what));
        }
        for (const { name, x, moves: counts } of installed) {
          x.executors.forEach(({ movable, name: part }, i) => {
            assert.equal((counts[i] as number) > 0, movable, `${name}: ${part} moved ${counts[i]} times`);
          });
          moves += counts.reduce((sum, count) => sum + count, 0);
          x.free();
        }
        if (configuration.absolute === undefined) assert.ok(movedInside > 0);
        ran += installed.length;
        fillers.thin(Number.POSITIVE_INFINITY);
      });
    }
  }

  it('all of them ran', () => {
    assert.ok(programs.length >= 12);
    assert.ok(ran > found.length * (configurations.length - 1) * programs.length, `${ran} ran`);
    assert.ok(moves > ran, `${moves} moves`);
  });
});
