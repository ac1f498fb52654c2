// What dies at random leaves holes in every page; what is left is moved together. Draws both.
// x86-64, System V calling convention. Run: node examples/compaction.js
const { Arena } = require('jit-arena');

const COUNT = 20_000;

// The same "random" numbers in each run.
let seed = 1;
function random(below) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * below);
}

// Executor n returns n: mov eax, n; ret. The rest of its bytes is never executed.
const codeOffsets = new Float64Array(COUNT + 1);
for (let n = 0; n < COUNT; n++) codeOffsets[n + 1] = codeOffsets[n] + 16 + random(800);
const code = new Uint8Array(codeOffsets[COUNT]).fill(0xcc);
const view = new DataView(code.buffer);
for (let n = 0; n < COUNT; n++) {
  view.setUint8(codeOffsets[n], 0xb8);
  view.setUint32(codeOffsets[n] + 1, n, true);
  view.setUint8(codeOffsets[n] + 5, 0xc3);
}

const arena = new Arena();
const ids = arena.installBatch({ code, codeOffsets });
draw('all alive');

// Nine of ten die.
const survivors = new Map();
const dead = ids.filter((id, n) => {
  const dies = random(10) !== 0;
  if (!dies) survivors.set(n, arena.executor(id).func({ args: [], returns: 'u32' }));
  return dies;
});
arena.free(dead);
draw('nine of ten freed');

const { moved, pagesFreed, pauseMicros } = arena.collect();
console.log(`collect moved ${moved} executors and freed ${pagesFreed} pages in ${Math.round(pauseMicros)} µs\n`);
draw('collected');

// The functions were bound before the move and follow it.
let right = 0;
for (const [n, f] of survivors) if (f() === n) right++;
console.log(`wrong answers: ${survivors.size - right}`); // → wrong answers: 0
console.log(`verify: ${arena.verify().ok}`); // → verify: true
arena.dispose();

/** A row per slab, a character per page: ' ' has no memory behind it, '.' is nearly empty, '@' is full. */
function draw(title) {
  const { liveBytes, committedBytes } = arena.stats();
  console.log(`${title}: ${(committedBytes / liveBytes).toFixed(2)} bytes committed per live byte`);
  const slabs = arena.slabs().filter(({ kind }) => kind === 'code');
  for (const { liveBytesPerPage, backed } of slabs.slice(0, 6)) {
    const pages = liveBytesPerPage.map((live, i) => (backed[i] ? '.:-=+*#%@'[Math.floor((live / 4096) * 8)] : ' '));
    console.log(`  |${pages.join('')}|`);
  }
  console.log(slabs.length > 6 ? `  and ${slabs.length - 6} slabs more\n` : '');
}
