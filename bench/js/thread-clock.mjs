// The CPU time of the calling thread, in nanoseconds. Node 20 has that of the process only, and /proc only what it was at
// the last tick; so the C function is called, through an arena.
import { Arena, symbolAddress } from './measure.mjs';

const CLOCK_THREAD_CPUTIME_ID = 3;

/** A clock for the thread that makes it: for as long as that lasts, and not for others. */
export function threadClock() {
  const arena = new Arena({ maxBytes: 1 << 20, name: 'thread clock' });
  const clockGettime = arena
    .install({
      code: Uint8Array.of(0xe9, 0, 0, 0, 0), // jmp clock_gettime
      relocs: [{ offset: 1, kind: 'R_X86_64_PLT32', target: { address: symbolAddress('clock_gettime') }, addend: -4 }],
    })
    .func({ args: ['i32', 'pointer'], returns: 'i32' });
  const time = new BigInt64Array(2); // struct timespec
  return () => {
    if (clockGettime(CLOCK_THREAD_CPUTIME_ID, time) !== 0) throw new Error('clock_gettime failed');
    return Number(time[0]) * 1e9 + Number(time[1]);
  };
}
