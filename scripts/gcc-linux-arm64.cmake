# A toolchain file: builds for arm64 Linux with Debian's g++-aarch64-linux-gnu, and runs tests under qemu-user. Its
# version 10 at least: older ones execute stale code where a writer has a second view, whatever is flushed.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
find_program(JA_QEMU NAMES qemu-aarch64-static qemu-aarch64)
set(CMAKE_CROSSCOMPILING_EMULATOR ${JA_QEMU} -L /usr/aarch64-linux-gnu)
