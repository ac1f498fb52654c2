// Machine code calls JavaScript, and JavaScript pulls the ground from under it: the callback moves the very code that
// called it and reuses everything around it, and the old copy still returns what it should.
// x86-64, System V calling convention. Run: node examples/callback.js
const { Arena } = require('jit-arena');

const arena = new Arena();

/** int f(int n) { return callback(n) + 1000; } */
function makeCaller(callback) {
  return arena.install({
    code: Uint8Array.of(
      0x53, //                          push rbx: calls need the stack at a multiple of 16
      ...[0xe8, 0, 0, 0, 0], //         call callback
      ...[0x05, 0xe8, 0x03, 0, 0], //   add eax, 1000
      0x5b, //                          pop rbx
      0xc3, //                          ret
    ),
    relocs: [{ offset: 2, kind: 'R_X86_64_PLT32', target: callback, addend: -4 }],
  });
}

// Fifty executors of a page each, so that there is something to compact.
const neighbours = Array.from({ length: 50 }, () => arena.install({ code: new Uint8Array(4096).fill(0xcc) }));

let caller;
const callback = arena.callback({ args: ['i32'], returns: 'i32' }, (n) => {
  const before = caller.address;
  arena.free(neighbours);
  const { moved } = arena.collect();
  console.log(`moved: ${moved}, its address changed: ${caller.address !== before}`); // → moved: 1, its address changed: true
  console.log(`old copies wait for the call to end: ${arena.stats().retiredBytes > 0}`); // → old copies wait for the call to end: true
  return n * 2;
});
caller = makeCaller(callback);

const f = caller.func({ args: ['i32'], returns: 'i32' });
console.log(f(21)); // → 1042

arena.collect();
console.log(`retired bytes after the call: ${arena.stats().retiredBytes}`); // → retired bytes after the call: 0

// What a callback throws does not unwind machine code: the callback returns 0, and the call throws.
const failing = arena.callback({ args: ['i32'], returns: 'i32' }, () => {
  throw new RangeError('not today');
});
const g = makeCaller(failing).func({ args: ['i32'], returns: 'i32' });
try {
  g(1);
} catch (error) {
  console.log(`${error.name}: ${error.message}`); // → RangeError: not today
}
arena.dispose();
