import { parentPort, workerData } from 'node:worker_threads'; import { Arena } from 'jit-arena';
        const arena = Arena.from(workerData.token);
        parentPort.postMessage(arena.executor(workerData.id).func({ args: [], returns: 'i32' })());