// The rule of CPUs: what is true of one stands in its folder of native/arch. Looks for names of relocs and macros, inline
// assembly, and opcodes that trap, return, call or jump, in the code of native/ and ts/; comments may name them.

const FACT =
  /R_X86_64_|R_AARCH64_|\b(PLT32|PC32|GOTPCREL|ADR_PREL\w*)\b|x86_64|aarch64|_M_X64|_M_ARM64|\basm\b|__builtin_ia32|\b0x(c3|cc|e8|e9|eb)\b/i;

/** Where such facts belong: the CPU's folder, the two lists of reloc kinds that hosts see, the list of sources. */
const PLACES = ['native/arch/', 'native/capi/jit_arena.h', 'native/unity.cc', 'ts/relocs.ts'];

/** All problems of a source tree: a Map from path relative to the root to the file's text. */
export function checkCpuFacts(files) {
  const problems = [];
  for (const [file, text] of files) {
    if (PLACES.some((place) => file.startsWith(place))) continue;
    text.split('\n').forEach((line, at) => {
      const fact = /^\s*(\/?\*|\/\/)/.test(line) ? null : line.replace(/\/\/.*/, '').match(FACT);
      if (fact) problems.push(`${file}:${at + 1}: ${fact[0]} is of one CPU, and belongs into native/arch`);
    });
  }
  return problems;
}

export const plantedCpuFacts = {
  tree: {
    'native/arch/x86_64/stubs.cc': 'const uint8_t kPoisonByte = 0xCC;\nasm volatile("");',
    'native/core/linker.cc': 'x = 0xccc;  // not 0xcc',
    'ts/arena.ts': '/**\n * `R_X86_64_PC32`, as x86_64 has it\n */',
    'ts/relocs.ts': 'R_X86_64_PC32: 2,',
  },
  changes: [
    [{}, undefined],
    [{ 'native/core/linker.cc': '"use R_X86_64_64"' }, 'linker.cc:1: R_X86_64_ is of one CPU'],
    [{ 'native/core/slab.cc': '\nstd::memset(to, 0xCC, bytes);' }, 'slab.cc:2: 0xCC'],
    [{ 'native/os/memory.cc': '#if defined(__aarch64__)' }, 'memory.cc:1: aarch64'],
    [{ 'native/object/units.cc': 'if (name == "PLT32")' }, 'PLT32 is of one CPU'],
    [{ 'ts/arena.ts': 'if (opcode === 0xe9) {' }, 'arena.ts:1: 0xe9'],
  ],
};
