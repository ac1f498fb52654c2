// A system that refuses memory or permission: clear errors, and what is there already works on.
import { runChild } from './support/child.js';

describe('a system that refuses', () => {
  // Each child limits itself, by system calls through an arena that it makes before. V8 gets along without executable
  // memory of its own with --jitless.
  const prelude = `
    const assert = require('node:assert');
    const { Arena, ArenaError, probe, symbolAddress } = require('jit-arena');
    const { constant, identity: itself, jump, toI32 } = require('./dist-test/support/x64.js');
    const tools = new Arena();
    const libc = (name, args) => tools.install(jump({ address: symbolAddress(name) })).func({ args, returns: 'i32' });
    const prctl = libc('prctl', ['i32', 'u64', 'pointer', 'u64', 'u64']);
    const setrlimit = libc('setrlimit', ['i32', 'pointer']);
    function refusal(options) {
      try { new Arena(options).dispose() } catch (error) { assert(error instanceof ArenaError); return error }
      assert.fail('the arena was made');
    }`;
  const jitless = { nodeArgs: ['--jitless'] };

  it('executable memory (seccomp) makes it ERR_ARENA_NO_EXEC, with what can be the reason', () => {
    runChild(
      `${prelude}
      // mmap (9), mprotect (10) and pkey_mprotect (329) with PROT_EXEC are EACCES.
      const program = Uint8Array.of(
        ...[0x20, 0, 0, 0, 0, 0, 0, 0], // load the number of the system call
        ...[0x15, 0, 3, 0, 9, 0, 0, 0], // if it is mmap, skip 3
        ...[0x15, 0, 2, 0, 10, 0, 0, 0], // mprotect
        ...[0x15, 0, 1, 0, 73, 1, 0, 0], // pkey_mprotect
        ...[0x06, 0, 0, 0, 0, 0, 0xff, 0x7f], // allow
        ...[0x20, 0, 0, 0, 32, 0, 0, 0], // load the third argument
        ...[0x45, 0, 0, 1, 4, 0, 0, 0], // without PROT_EXEC, skip 1
        ...[0x06, 0, 0, 0, 13, 0, 5, 0], // EACCES
        ...[0x06, 0, 0, 0, 0, 0, 0xff, 0x7f]); // allow
      const identity = tools.install({ code: itself }).func({ args: ['pointer'], returns: 'pointer' });
      const filter = BigUint64Array.of(9n, identity(program));
      assert.strictEqual(prctl(38, 1n, null, 0n, 0n), 0); // PR_SET_NO_NEW_PRIVS
      assert.strictEqual(prctl(22, 2n, filter, 0n, 0n), 0); // PR_SET_SECCOMP
      const { code, message } = refusal();
      assert.strictEqual(code, 'ERR_ARENA_NO_EXEC');
      for (const word of ['alias', 'procmem', 'flip', 'seccomp', 'EACCES']) assert(message.includes(word), message);
      for (const writer of ['alias', 'procmem', 'flip']) assert.strictEqual(refusal({ writer }).code, 'ERR_ARENA_WRITER_UNAVAILABLE');
      assert(probe().every(({ available, reason }) => !available && reason.length > 20));
      // What is mapped already works on, and says so when it needs more.
      assert.strictEqual(libc('abs', ['i32'])(-3), 3);
      const before = tools.stats();
      assert.throws(() => tools.install({ code: 1 << 20 }), { code: 'ERR_ARENA_NO_EXEC' });
      assert.deepStrictEqual(tools.stats(), before);
      assert(tools.verify().ok);`,
      jitless,
    );
  });

  it('writable memory to become executable (MDWE) leaves the writers that do without', () => {
    runChild(
      `${prelude}
      if (prctl(65, 1n, null, 0n, 0n) !== 0) process.exit(0); // PR_SET_MDWE, Linux 6.3
      const { code, message } = refusal({ writer: 'flip' });
      assert.strictEqual(code, 'ERR_ARENA_WRITER_UNAVAILABLE');
      assert.match(message, /MemoryDenyWriteExecute= \\(on\\)/);
      const arena = new Arena();
      assert.notStrictEqual(arena.writer, 'flip');
      const f = arena.install({ code: constant(42) }).func(toI32);
      assert.strictEqual(f(), 42);`,
      jitless,
    );
  });

  it('address space (ulimit -v) makes the arena smaller, or it is ERR_ARENA_NO_MEMORY', () => {
    runChild(
      `${prelude}
      const used = () => 4096n * BigInt(require('node:fs').readFileSync('/proc/self/statm', 'latin1').split(' ')[0]);
      const allow = (bytes) => assert.strictEqual(setrlimit(9, BigUint64Array.of(used() + bytes, ~0n)), 0); // RLIMIT_AS
      const large = { code: 200 << 10 };
      function fill(arena) { for (;;) arena.install(large) }
      function checkRefused(action, code, words) {
        assert.throws(action, (error) => error instanceof ArenaError && error.code === code && words.test(error.message));
      }
      // Everything once without a limit, so that V8 needs no more memory of its own later; a collection of its own
      // maps the other half of its young generation.
      allow(1n << 30n);
      gc({ type: 'minor' });
      checkRefused(() => new Arena({ maxBytes: 0 }), 'ERR_ARENA_SIZE', /maxBytes/);
      const full = new Arena({ maxBytes: 4 << 20 });
      checkRefused(() => fill(full), 'ERR_ARENA_FULL', /maxBytes/);

      allow(100n << 20n);
      const smaller = new Arena({ maxBytes: 2 ** 31 });
      const { reservedBytes } = smaller.stats();
      assert(reservedBytes >= 1 << 20 && reservedBytes < 100 << 20, String(reservedBytes));
      const f = smaller.install({ code: constant(42) }).func(toI32);
      assert.strictEqual(f(), 42);

      gc({ type: 'minor' });
      allow(900n << 10n);
      checkRefused(() => new Arena({ maxBytes: 2 ** 31 }), 'ERR_ARENA_NO_MEMORY', /ulimit -v/);
      // A slab of the writer 'alias' needs room for its second view.
      checkRefused(() => fill(smaller), 'ERR_ARENA_NO_MEMORY', /ulimit -v/);
      const before = smaller.stats();
      checkRefused(() => fill(smaller), 'ERR_ARENA_NO_MEMORY', /ulimit -v/);
      assert.deepStrictEqual(smaller.stats(), before);
      allow(1n << 30n);
      assert(smaller.verify().ok);
      assert.strictEqual(f(), 42);
      smaller.install(large);`,
      { nodeArgs: ['--expose-gc', '--min-semi-space-size=16', '--single-threaded-gc'] },
    );
  });
});
