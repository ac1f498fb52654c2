// T14 and T15: installing and freeing executors from JavaScript, each with code, a constant and two relocs.
import {
  Arena,
  expect,
  loadKoffi,
  makeLoop,
  relocKindNumbers,
  symbolAddress,
  TargetKind,
  takeTurns,
} from './measure.mjs';

const CONSTANT = -42;
const CODE_BYTES = 64;
const BATCH = 1000;

/** int f(void) { return abs(constant); } */
const code = new Uint8Array(CODE_BYTES).fill(0xcc);
code.set([
  ...[0x8b, 0x3d, 0, 0, 0, 0], // mov edi, [rip + constant]
  ...[0xe9, 0, 0, 0, 0], //       jmp abs
]);
const data = new Uint8Array(Int32Array.of(CONSTANT).buffer);
const abs = symbolAddress('abs');
const signature = { args: [], returns: 'i32' };

/** One at a time, beside what one does with an FFI package and the C library: a page from mmap for each. */
export function* measureInstalls({ smoke, runs }) {
  const arena = new Arena();
  const spec = {
    code,
    data,
    relocs: [
      { offset: 2, kind: 'R_X86_64_PC32', target: { own: 'data' }, addend: -4 },
      { offset: 7, kind: 'R_X86_64_PLT32', target: { address: abs }, addend: -4 },
    ],
  };
  const executor = arena.install(spec);
  expect(executor.func(signature)(), 42, 'the installed function');
  arena.free(executor);
  const once = () => {
    arena.free(arena.install(spec));
    return 1;
  };
  const variants = { arena: makeLoop({ once }, 'once()') };
  const { koffi, process, missing } = loadKoffi();
  if (koffi) variants.koffi = makeLoop({ once: installWithKoffi(koffi, process) }, 'once()');
  const operations = smoke ? 100 : 50_000;
  const nanos = takeTurns(variants, { runs, operations, check: (total, n) => expect(total, n, 'installs') });
  for (const [variant, values] of Object.entries(nanos)) yield { figure: 'T14', variant, size: 1, unit: 'ns', values };
  if (missing) yield { figure: 'T14', variant: 'koffi', size: 1, missing };
  expect(arena.stats().executors, 0, 'executors that are left');
  arena.dispose();
}

/** The same code; abs is out of a branch's reach, so that the jump takes the address from a register. */
function installWithKoffi(koffi, library) {
  const mmap = library.func('void *mmap(void *at, size_t bytes, int access, int flags, int fd, long offset)');
  const mprotect = library.func('int mprotect(void *at, size_t bytes, int access)');
  const munmap = library.func('int munmap(void *at, size_t bytes)');
  const memcpy = library.func('void *memcpy(void *to, const uint8_t *from, size_t bytes)');
  const [READ, WRITE, EXECUTE, PRIVATE, ANONYMOUS] = [1, 2, 4, 2, 0x20];
  const bytes = new Uint8Array(CODE_BYTES + 4).fill(0xcc);
  bytes.set([
    ...[0x8b, 0x3d, 0, 0, 0, 0], //                   mov edi, [rip + constant]
    ...[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0], //       mov rax, abs
    ...[0xff, 0xe0], //                               jmp rax
  ]);
  bytes.set(data, CODE_BYTES);
  const view = new DataView(bytes.buffer);
  const install = () => {
    const at = mmap(null, 4096, READ | WRITE, PRIVATE | ANONYMOUS, -1, 0);
    view.setInt32(2, CODE_BYTES - 6, true);
    view.setBigUint64(8, abs, true);
    memcpy(at, bytes, bytes.length);
    if (mprotect(at, 4096, READ | EXECUTE) !== 0) throw new Error('mprotect failed');
    return at;
  };
  const at = install();
  expect(koffi.decode(at, koffi.proto('int()'))(), 42, 'the function that koffi installed');
  munmap(at, 4096);
  return () => {
    if (munmap(install(), 4096) !== 0) throw new Error('munmap failed');
    return 1;
  };
}

/** By the thousand; the native half is bench/native/batches.cc. */
export function* measureBatches({ smoke, runs }) {
  const arena = new Arena();
  const each = Array.from({ length: BATCH }, (_, n) => n);
  const twice = each.flatMap((n) => [n, n]);
  const batch = {
    code: new Uint8Array(BATCH * CODE_BYTES),
    codeOffsets: Float64Array.from({ length: BATCH + 1 }, (_, n) => n * CODE_BYTES),
    data: new Uint8Array(BATCH * 4),
    dataOffsets: Float64Array.from({ length: BATCH + 1 }, (_, n) => n * 4),
    relocs: {
      executor: Uint32Array.from(twice),
      offset: Uint32Array.from(twice, (_, i) => (i % 2 === 0 ? 2 : 7)),
      kind: Uint8Array.from(twice, (_, i) =>
        i % 2 === 0 ? relocKindNumbers.R_X86_64_PC32 : relocKindNumbers.R_X86_64_PLT32,
      ),
      targetKind: Uint8Array.from(twice, (_, i) => (i % 2 === 0 ? TargetKind.ownData : TargetKind.address)),
      address: BigUint64Array.from(twice, (_, i) => (i % 2 === 0 ? 0n : abs)),
      addend: Int32Array.from(twice, () => -4),
    },
  };
  for (const n of each) {
    batch.code.set(code, n * CODE_BYTES);
    batch.data.set(data, n * 4);
  }
  const ids = arena.installBatch(batch);
  expect(arena.executor(ids[BATCH - 1]).func(signature)(), 42, 'the installed function');
  arena.free(ids);
  const loop = (operations) => {
    for (let i = 0; i < operations; i += BATCH) arena.free(arena.installBatch(batch));
  };
  const { arena: values } = takeTurns({ arena: loop }, { runs, operations: smoke ? BATCH : 50 * BATCH });
  yield { figure: 'T15', variant: 'arena', size: BATCH, unit: 'ns', values };
  expect(arena.stats().executors, 0, 'executors that are left');
  arena.dispose();
}
