// Machine code in an arena, from bytes to a call: an executor, its relocs, and the end of its life.
// x86-64, System V calling convention. Run: node examples/first.js
const { Arena, symbolAddress } = require('jit-arena');

const arena = new Arena();

// int add(int a, int b): no address in it, so no reloc.
const add = arena.install({
  name: 'add',
  code: Uint8Array.of(
    ...[0x8d, 0x04, 0x37], // lea eax, [rdi + rsi]
    0xc3, //                  ret
  ),
});
const sum = add.func({ args: ['i32', 'i32'], returns: 'i32' });
console.log(sum(2, 3)); // → 5

// size_t scaled(const char* text) { return strlen(text) * factor; } in steps, as a JIT emits code.
// Four bytes each are left for the two addresses; a reloc says what goes there.
const scaled = arena.allocate({ name: 'scaled', code: 16, data: new Uint8Array(BigUint64Array.of(10n).buffer) });
scaled.write(
  'code',
  0,
  Uint8Array.of(
    0x53, //                                    push rbx: calls need the stack at a multiple of 16
    ...[0xe8, 0, 0, 0, 0], //                   call strlen
    ...[0x48, 0x0f, 0xaf, 0x05, 0, 0, 0, 0], // imul rax, [rip + factor]
    0x5b, //                                    pop rbx
    0xc3, //                                    ret
  ),
);
scaled.addRelocs([
  // A relative field counts from the end of its instruction, the reloc from its own start: hence -4.
  { offset: 2, kind: 'R_X86_64_PLT32', target: { address: symbolAddress('strlen') }, addend: -4 },
  { offset: 10, kind: 'R_X86_64_PC32', target: { own: 'data' }, addend: -4 },
]);

// What is wrong is refused, with the place, and changes nothing.
try {
  scaled.write('code', 15, Uint8Array.of(0x90, 0xc3));
} catch (error) {
  console.log(error.code, error.section, error.offset); // → ERR_ARENA_BOUNDS code 15
}

console.log(scaled.state); // → writable
arena.freeze(scaled);
console.log(scaled.state); // → frozen
const scaledLength = scaled.func({ args: ['pointer'], returns: 'u64' });
console.log(scaledLength(Buffer.from('machine\0'))); // → 70n

// Freed is freed: the id is stale from now on, whoever holds it.
arena.free([add, scaled]);
try {
  sum(2, 3);
} catch (error) {
  console.log(error.code); // → ERR_ARENA_STALE_EXECUTOR
}
console.log(arena.stats().executors, arena.verify().ok); // → 0 true
arena.dispose();
